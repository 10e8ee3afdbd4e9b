"""Every op of the op table between guard pages, and with margins between the buffers of the arena.

As a program, `guarded_ops.py level examples sizes names...`, `sizes` being "small", "tail" or
"both": it prints the name of each op before it runs that, so that the last one is what killed the
process.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import op_table
from dualmode_compiler import driver, plan
from dualmode_compiler.graph import Graph
from dualmode_compiler.interpret import Interpreter
from dualmode_compiler.loops import Control
from graphs import Array, trace
from guarded import OTHER, POISON, between_guards

SMALL, TAIL = (1, 2, 3), (16, 17, 19, 33)  # "tail" sizes leave part of a vector
SIZES = {"small": [SMALL], "tail": [TAIL], "both": [SMALL, TAIL]}
MARGIN = 128  # bytes between two buffers of the arena
SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def margins() -> Iterator[None]:
    """Inside the block, buffers in the arena of what is compiled are apart, and used once."""
    with pytest.MonkeyPatch.context() as patch:
        size = plan.aligned
        patch.setattr(plan, "aligned", lambda b: size(b) + MARGIN)
        patch.setattr(plan, "_release", lambda free, block: None)
        patch.setattr(plan, "_reuse", lambda *args: None)
        yield


def _used(made: plan.Plan, first: int = 0) -> list[tuple[int, int]]:
    """Where in the arena values are: (start, stop) in bytes."""
    found: list[tuple[int, int]] = []
    for step in made.steps:
        scratch = step.scratch if isinstance(step, Control) else None
        if isinstance(step, Control) and scratch is not None:
            for inner in step.plans:
                found += _used(inner, first + made.places[scratch].at)
        for b in step.writes():
            place = made.places[b]
            if place.kind == "arena" and b is not scratch:
                found.append((first + place.at, first + place.at + b.spec.nbytes))
    return found


def check_margins(executable: driver.Executable, arrays: list[Array]) -> None:
    """Run an executable that was compiled with `margins`; nothing is written between buffers."""
    code = executable.native()
    graph = executable.traced
    arena = np.full(code.arena + 64, POISON, np.uint8)
    start = -arena.ctypes.data % 64
    params = [np.array(a) for a in arrays]
    outputs = [np.empty(n.spec.shape, n.spec.dtype.numpy) for n in graph.outputs]
    table = np.zeros(code.size, np.uintp)
    for slots, buffers in ((code.slots.params, params), (code.slots.outputs, outputs)):
        for slot, array in zip(slots, buffers, strict=True):
            table[slot] = array.ctypes.data
    table[code.slots.arena] = arena.ctypes.data + start
    table[code.slots.callback :] = code.fixed()
    run = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(code.address)
    assert run(table.ctypes.data) == 0
    untouched = np.ones(arena.size, bool)
    for a, b in _used(code.plan):
        untouched[start + a : start + b] = False
    assert (arena[untouched] == POISON).all(), "a write between buffers of the arena"


def check(graph: Graph, arrays: list[Array], level: int) -> list[Array]:
    """All runs between guards, which have to agree to the last bit; gives their results."""
    executable = driver.compile(graph, optimization=level)
    found: list[list[Array]] = []
    for at_end, shifted, poison in (
        (True, False, POISON),
        (False, False, OTHER),
        (False, True, POISON),
        (True, False, OTHER),
    ):
        found.append(between_guards(executable, graph, arrays, at_end, shifted, poison))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert a.tobytes() == b.tobytes(), "results depend on where buffers lie"
    with margins():
        apart = driver.compile(graph, optimization=level)
        if apart.arena:
            check_margins(apart, arrays)
    return found[0]


def check_row(row: op_table.Row, draw: op_table.Draw, level: int) -> None:
    arrays, attrs = row.examples(draw)
    graph = trace(lambda *xs: row.call(*xs, **attrs), *arrays)
    (actual,) = check(graph, arrays, level)
    (expected,), _ = Interpreter(graph).run(arrays)
    terms, scale = row.bound(arrays, attrs) if row.op.tolerance.per_term else (0, 0.0)
    op_table.assert_agree(actual, expected, row.op.tolerance, terms, scale)


def main(level: int, examples: int, which: str, names: list[str]) -> None:
    for name in names:
        each = _test(op_table.rows()[name], level, examples)
        for sizes in SIZES[which]:
            print(f"{name} {sizes}", flush=True)
            op_table.SIZES = sizes
            each()


def _test(row: op_table.Row, level: int, examples: int) -> Callable[[], None]:
    @settings(SETTINGS, max_examples=examples)
    @given(data=st.data())
    def each(data: Any) -> None:
        check_row(row, data.draw, level)

    return each


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
