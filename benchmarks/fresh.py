"""What only fresh processes show: the cost of imports and of first calls, and growing memory."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .catalogue import MLP24, MNIST_MLP, TINY, TRANSFORMER, WIDE_MLP
from .contestants import OUR_COMPILED, OUR_EAGER, Contestant
from .measure import Worker, progress
from .process import Peak
from .workloads import Workload

MEMORY_STEPS = 10_000
PEAK_STEPS = 10
PREDICTED = "dualmode predicted"
FIRST_CALLS: list[Workload] = [MNIST_MLP, TRANSFORMER]

ABOUT = {
    "import": "time to import each library after NumPy, in a fresh process",
    "first_call": "first call of a compiled training step in a fresh process; and with imports",
    "disk_cache": "the same with an empty cache on disk, and from the cache in the next process",
    "peak_memory": "peak of resident memory in training wide_mlp and 24 layers of 512, batch 128",
    "memory": f"growth of resident memory over {MEMORY_STEPS:,} steps of tiny",
}


@dataclass
class Measured:
    """One quantity of one contestant, measured once in each round.

    Attributes:
        unit: "s", "KiB", or what is counted.
    """

    workload: str
    quantity: str
    threads: int
    contestant: str
    unit: str
    rounds: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"value": self.value}


def imports(contestants: Sequence[Contestant], rounds: int) -> list[Measured]:
    """Seconds of `import library` after `import numpy`."""
    packages = dict.fromkeys(c.package for c in contestants if c.package != "numpy")
    found = {p: Measured("import", "import", 0, p, "s") for p in packages}
    for turn in range(rounds + 1):
        for package, measured in found.items():
            progress(f"import {package}")
            seconds = _import_time(package)
            if turn:  # the first one finds a cold disk and may write byte code
                measured.rounds.append(seconds)
    progress("")
    return list(found.values())


def _import_time(package: str) -> float:
    code = (
        "import numpy, time; start = time.perf_counter(); "
        f"import {package}; print(time.perf_counter() - start)"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return float(process.stdout.split()[-1])


def first_calls(
    contestants: Sequence[Contestant],
    threads: int,
    rounds: int,
    workloads: Sequence[Workload] = FIRST_CALLS,
) -> list[Measured]:
    """Seconds of the first call alone, and from the start of the process to its end. What is
    compiled is not in a cache on disk."""
    found: list[Measured] = []
    for workload in workloads:
        for c in [c for c in contestants if c.kind == "compiled" and c.takes(workload)] * rounds:
            progress(f"first_call {workload.name} {c.label}")
            with tempfile.TemporaryDirectory() as cache, _worker(c, threads, cache) as worker:
                answer = worker.build(workload)
            _add(found, "first_call", workload.name, threads, c.label, "s", answer["first"])
            name = f"{workload.name} with imports"
            _add(found, "first_call", name, threads, c.label, "s", answer["started"])
    progress("")
    return found


def disk_cache(threads: int, rounds: int) -> list[Measured]:
    """Seconds of the first call of a process that finds nothing in the cache on disk, and of the
    next process, which finds all."""
    found: list[Measured] = []
    label = OUR_COMPILED.label
    for workload in FIRST_CALLS * rounds:
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                progress(f"disk_cache {workload.name} {state}")
                with _worker(OUR_COMPILED, threads, cache) as worker:
                    answer = worker.build(workload)
                    modules = worker.modules("llvmlite")
                name = f"{workload.name}, {state}"
                _add(found, "disk_cache", name, threads, label, "s", answer["first"])
                name += ": modules of llvmlite"
                _add(found, "disk_cache", name, threads, label, "modules", modules)
    progress("")
    return found


# processes whose memory is measured: the ending of the quantity's name, and the setting `codegen`;
# the second finds in the cache on disk what the first has compiled
COLD = " cold"
_CODE = ((COLD, "auto"), ("", "auto"), (" cold, codegen here", "here"))


def peak_memory(contestants: Sequence[Contestant], threads: int, rounds: int) -> list[Measured]:
    """KiB of resident memory at the peak of some training steps, above what the imports take.

    Compiled code comes from the cache on disk; "cold" is the peak of the process that asked for it
    to be compiled. By default LLVM is in another process then, which soon ends: "with LLVM" adds
    all that this one has at its peak, though the two peaks do not come at the same time. "All
    processes" is what they hold together at the same moment, at most. Torch has its kernels in
    memory when it is imported, and that is not counted; so "all processes, LLVM loaded" leaves out
    what LLVM holds before it has compiled anything.
    "Again" is the peak of the same once more in the same process, above what is resident there once
    all has been let go: that is what `fn.memory()` predicts.
    """
    found: list[Measured] = []
    eager_or_ours = [c for c in contestants if c.kind == "eager" or c == OUR_COMPILED]
    for workload in (WIDE_MLP, MLP24):
        for c in [c for c in eager_or_ours if c.takes(workload)] * rounds:
            progress(f"peak_memory {workload.name} {c.label}")
            for ending, peak in _peaks(workload, c, threads).items():
                name = workload.name + ending
                _add(found, "peak_memory", name, threads, c.label, "KiB", peak.first / 1024)
                if ending == COLD:
                    size = peak.together / 1024
                    name = f"{workload.name}{ending}, all processes"
                    _add(found, "peak_memory", name, threads, c.label, "KiB", size)
                    name += ", LLVM loaded"
                    size -= _loaded(c, threads) / 1024
                    _add(found, "peak_memory", name, threads, c.label, "KiB", size)
                if peak.beside:
                    size = (peak.first + peak.beside) / 1024
                    name = f"{workload.name}{ending}, with LLVM"
                    _add(found, "peak_memory", name, threads, c.label, "KiB", size)
                if peak.predicted is not None and not ending:
                    name = f"{workload.name} again"
                    for label, size in ((c.label, peak.again), (PREDICTED, peak.predicted)):
                        _add(found, "peak_memory", name, threads, label, "KiB", size / 1024)
    progress("")
    return found


def _peaks(workload: Workload, c: Contestant, threads: int) -> dict[str, Peak]:
    """By the endings in `_CODE`; others have no such cache, so one process stands for all."""
    with tempfile.TemporaryDirectory() as cache:
        found: dict[str, Peak] = {}
        for ending, codegen in _CODE:
            if found and c.module != OUR_COMPILED.module:
                return dict.fromkeys((e for e, _ in _CODE), *found.values())
            with _worker(c, threads, os.path.join(cache, codegen), codegen) as worker:
                found[ending] = worker.peak(workload, PEAK_STEPS)
        return found


def _loaded(c: Contestant, threads: int) -> int:
    with _worker(c, threads) as worker:
        return worker.loaded()


def memory(threads: int, rounds: int, steps: int = MEMORY_STEPS) -> list[Measured]:
    """KiB by which our own processes grow."""
    found: list[Measured] = []
    for c in (OUR_EAGER, OUR_COMPILED) * rounds:
        progress(f"memory {c.label}")
        with _worker(c, threads) as worker:
            worker.build(TINY)
            growth = worker.growth(TINY.name, steps) / 1024
        _add(found, "memory", f"growth in {steps} steps", threads, c.label, "KiB", growth)
    progress("")
    return found


@contextlib.contextmanager
def _worker(
    contestant: Contestant, threads: int, cache: str = "", codegen: str = "auto"
) -> Iterator[Worker]:
    worker = Worker(contestant, threads, cache, codegen)
    try:
        yield worker
    finally:
        worker.close()


def _add(
    found: list[Measured],
    workload: str,
    quantity: str,
    threads: int,
    contestant: str,
    unit: str,
    value: float,
) -> None:
    for m in found:
        if (m.workload, m.quantity, m.contestant) == (workload, quantity, contestant):
            m.rounds.append(value)
            return
    found.append(Measured(workload, quantity, threads, contestant, unit, [value]))
