"""What only fresh processes show: the cost of imports and of first calls, and growing memory."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .contestants import OUR_COMPILED, OUR_EAGER, Contestant
from .measure import Worker, progress
from .workloads import MNIST_MLP, TINY

MEMORY_STEPS = 10_000

ABOUT = {
    "import": "time to import each library after NumPy, in a fresh process",
    "first_call": "first call of the compiled mnist_mlp step in a fresh process; and with imports",
    "memory": f"growth of resident memory over {MEMORY_STEPS:,} steps of tiny",
}


@dataclass
class Measured:
    """One quantity of one contestant, measured once in each round.

    Attributes:
        unit: "s" or "KiB".
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


def first_calls(contestants: Sequence[Contestant], threads: int, rounds: int) -> list[Measured]:
    """Seconds of the first call alone, and from the start of the process to its end."""
    found: list[Measured] = []
    compiled = [c for c in contestants if c.kind == "compiled" and c.takes(MNIST_MLP)]
    for c in compiled * rounds:
        progress(f"first_call {c.label}")
        worker = Worker(c, threads)
        try:
            answer = worker.build(MNIST_MLP)
        finally:
            worker.close()
        _add(found, "first_call", "first call", threads, c.label, "s", answer["first"])
        _add(found, "first_call", "with imports", threads, c.label, "s", answer["started"])
    progress("")
    return found


def memory(threads: int, rounds: int, steps: int = MEMORY_STEPS) -> list[Measured]:
    """KiB by which our own processes grow."""
    found: list[Measured] = []
    for c in (OUR_EAGER, OUR_COMPILED) * rounds:
        progress(f"memory {c.label}")
        worker = Worker(c, threads)
        try:
            worker.build(TINY)
            growth = worker.growth(TINY.name, steps) / 1024
        finally:
            worker.close()
        _add(found, "memory", f"growth in {steps} steps", threads, c.label, "KiB", growth)
    progress("")
    return found


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
