"""Who takes part: a library in one of its modes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from .workloads import Dispatch, Gemm, Kind, Loop, Nested, Recurrent, Training, Workload

PEERS = ("numpy", "torch", "torch-compile", "jax", "tensorflow")
DEFAULT_PEERS = ("numpy", "torch", "jax", "tensorflow")


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
    runs: tuple[type[Workload], ...] = (Training, Gemm, Dispatch)

    def takes(self, workload: Workload) -> bool:
        return self.kind in workload.kinds and isinstance(workload, self.runs)


_ALL = (Training, Gemm, Dispatch, Nested, Loop, Recurrent)
OUR_EAGER = Contestant("dualmode eager", "", "dualmode", "ours", "eager", "eager", _ALL)
OUR_COMPILED = Contestant("dualmode compiled", "", "dualmode", "ours", "compiled", "compiled", _ALL)
CONTESTANTS = (
    OUR_EAGER,
    OUR_COMPILED,
    Contestant("numpy", "numpy", "numpy", "peers_numpy", "eager", "eager", (Gemm, Dispatch)),
    Contestant("torch eager", "torch", "torch", "peers_torch", "eager", "eager"),
    Contestant("torch.compile", "torch-compile", "torch", "peers_torch", "compile", "compiled"),
    Contestant("jax.jit", "jax", "jax", "peers_jax", "jit", "compiled", _ALL),
    Contestant("tf eager", "tensorflow", "tensorflow", "peers_tensorflow", "eager", "eager"),
    Contestant("tf.function", "tensorflow", "tensorflow", "peers_tensorflow", "graph", "compiled"),
    Contestant("tf XLA", "tensorflow", "tensorflow", "peers_tensorflow", "xla", "compiled"),
)


def installed(peers: Iterable[str]) -> list[str]:
    """Those of `peers` whose package can be imported."""
    packages = {c.peer: c.package for c in CONTESTANTS}
    return [peer for peer in peers if importlib.util.find_spec(packages[peer]) is not None]


def selected(peers: Iterable[str]) -> list[Contestant]:
    """Both modes of dualmode and all modes of these peers."""
    names = {"", *peers}
    return [c for c in CONTESTANTS if c.peer in names]
