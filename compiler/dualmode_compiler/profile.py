"""How long each step of an executable takes, beside what the cost model predicts.

The program is compiled once more, with a look at the clock between its steps.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .emit.main import emit_main
from .explain import headline, predicted
from .loops import Step
from .machine import measure
from .records import dataclass
from .runtime import jit, pool, signals
from .runtime.arena import shared

if TYPE_CHECKING:
    from .driver import Executable

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Timed:
    """One step.

    Attributes:
        seconds: that it took, the median of all runs.
        predicted: seconds by the cost model; None where that says nothing of it.
    """

    step: Step
    seconds: float
    predicted: float | None

    def __str__(self) -> str:
        said = "" if self.predicted is None else f"{self.predicted * 1e6:10.2f}"
        return f"{self.seconds * 1e6:10.2f} {said:>10}  {headline(self.step)}"


def profile(executable: Executable, arrays: Sequence[Array], runs: int = 100) -> list[Timed]:
    """Time the steps of `executable` in `runs` runs, each of which goes on from the states that the
    one before has left.

    Args:
        arrays: one per parameter, of its shape and dtype; left as they are.
    """
    graph, native = executable.traced, executable.native()
    steps = native.plan.steps
    program = emit_main(native.plan, native.slots, executable.host, timed=True)
    promote = "run" if program.structured else ""
    code = jit.compile_texts(program.modules, executable.host, promote)
    imports = {**pool.symbols(), **(signals.symbols() if program.signals else {})}
    library = jit.load(code, ["run"], imports)
    run = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(library["run"])

    specs = [n.spec for n in graph.params]
    values = [np.array(a, s.dtype.numpy, order="C") for a, s in zip(arrays, specs, strict=True)]
    outputs = [np.empty(n.spec.shape, n.spec.dtype.numpy) for n in graph.outputs]
    times = np.zeros((runs, len(steps) + 1, 2), np.int64)
    table = np.zeros(native.slots.clock + 1, np.uintp)
    table[native.slots.params] = [a.ctypes.data for a in values]
    table[native.slots.outputs] = [a.ctypes.data for a in outputs]
    table[native.slots.callback : native.slots.clock] = native.fixed()
    with shared.borrow(native.arena) as table[native.slots.arena]:
        for k in range(runs):
            table[native.slots.clock] = times[k].ctypes.data
            if failure := run(table.ctypes.data):
                native.fail(failure)
    seconds = np.median(np.diff(times @ [1, 1e-9], axis=1), axis=0)
    machine = measure(pool.num_threads())
    return [
        Timed(step, float(s), predicted(step, machine))
        for step, s in zip(steps, seconds, strict=True)
    ]
