"""Who takes part: a library in one of its modes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from .functions import Pure
from .workloads import (
    Adam,
    Dispatch,
    Gemm,
    Kind,
    Loop,
    Nested,
    Recurrent,
    Training,
    Transformer,
    Workload,
)

PEERS = ("numpy", "torch", "torch-compile", "jax", "tensorflow")
DEFAULT_PEERS = ("numpy", "torch", "jax", "tensorflow")
LARGE = 32e6  # bytes of a call from which on the bandwidth of memory is what limits it


@dataclass(frozen=True)
class Contestant:
    """Attributes:
    label: what tables call it.
    peer: its name for `--peers`; empty for dualmode.
    package: what to import.
    module: the module of this package that builds its steps.
    mode: which of the library's modes, as `module` names it.
    kind: whether it runs op by op or compiled.
    runs: the kinds of workloads it can run.
    """

    label: str
    peer: str
    package: str
    module: str
    mode: str
    kind: Kind
    runs: tuple[type[Workload], ...] = (Training, Gemm, Dispatch, Pure, Adam)

    def takes(self, workload: Workload) -> bool:
        able = isinstance(workload, self.runs) and self.peer not in workload.without
        if self.kind == "limit":
            return able and (self is FMA_PEAK or workload.moved >= LARGE)
        return able and self.kind in workload.kinds


_ALL = (Training, Transformer, Gemm, Dispatch, Pure, Adam, Nested, Loop, Recurrent)
_TF = (Training, Gemm, Dispatch)
OUR_EAGER = Contestant("dualmode eager", "", "dualmode", "ours", "eager", "eager", _ALL)
OUR_COMPILED = Contestant("dualmode compiled", "", "dualmode", "ours", "compiled", "compiled", _ALL)
FMA_PEAK = Contestant("FMA peak", "", "dualmode", "machine", "fma", "limit", (Gemm,))
COPY = Contestant("copy", "", "dualmode", "machine", "copy", "limit", (Pure, Adam))
CONTESTANTS = (
    OUR_EAGER,
    OUR_COMPILED,
    FMA_PEAK,
    COPY,
    Contestant("numpy", "numpy", "numpy", "peers_numpy", "eager", "eager", (Gemm, Dispatch, Pure)),
    Contestant("torch eager", "torch", "torch", "peers_torch", "eager", "eager"),
    Contestant(
        "torch.compile", "torch-compile", "torch", "peers_torch", "compile", "compiled", (Training,)
    ),
    Contestant("jax.jit", "jax", "jax", "peers_jax", "jit", "compiled", _ALL),
    Contestant("tf eager", "tensorflow", "tensorflow", "peers_tensorflow", "eager", "eager", _TF),
    Contestant(
        "tf.function", "tensorflow", "tensorflow", "peers_tensorflow", "graph", "compiled", _TF
    ),
    Contestant("tf XLA", "tensorflow", "tensorflow", "peers_tensorflow", "xla", "compiled", _TF),
)


def installed(peers: Iterable[str]) -> list[str]:
    """Those of `peers` whose package can be imported."""
    packages = {c.peer: c.package for c in CONTESTANTS}
    return [peer for peer in peers if importlib.util.find_spec(packages[peer]) is not None]


def selected(peers: Iterable[str]) -> list[Contestant]:
    """Both modes of dualmode, all modes of these peers, and the limits of the machine."""
    names = {"", *peers}
    return [c for c in CONTESTANTS if c.peer in names]
