"""Every op, and drawn graphs, at each optimisation level: the same bits for 1, 2 and 5 threads.

Work is cut into the smallest chunks, so that small arrays are shared among threads as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dualmode as dm
from drawing import graphs
from dualmode_compiler import driver, passes
from dualmode_compiler.graph import Graph
from dualmode_compiler.interpret import Interpreter
from dualmode_compiler.runtime import pool
from dualmode_compiler.verify import verify
from graphs import Array, same, trace, values
from levels import LEVELS, THREADS, cut_finely
from op_table import Row, assert_agree, rows

ROWS = rows()
COMPUTED = sorted(name for name, row in ROWS.items() if not row.op.effect)
ANY = {"suppress_health_check": list(HealthCheck), "deadline": None, "derandomize": True}


def _run(graph: Graph, arrays: Sequence[Array], level: int) -> list[Array]:
    """Outputs and new states, which do not depend on threads; inputs stay as they are."""
    with cut_finely():
        executable = driver.compile(graph, optimization=level)
        executable.native()
    before = [a.tobytes() for a in arrays]
    found: dict[int, list[Array]] = {}
    for n in THREADS:
        pool.set_threads(n)
        outputs, states = executable.run(arrays)
        found[n] = [*outputs, *states]
    for n, results in found.items():
        for k, (a, b) in enumerate(zip(results, found[1], strict=True)):
            assert a.tobytes() == b.tobytes(), f"result {k} with {n} threads"
    assert [a.tobytes() for a in arrays] == before, "an input was written to"
    return found[1]


def _check_row(row: Row, arrays: list[Array], attrs: dict[str, object], level: int) -> None:
    graph = trace(lambda *xs: row.call(*xs, **attrs), *arrays)
    (actual,) = _run(graph, arrays, level)
    (expected,), _ = Interpreter(graph).run(arrays)
    terms, scale = row.bound(arrays, attrs) if row.op.tolerance.per_term else (0, 0.0)
    assert_agree(actual, expected, row.op.tolerance, terms, scale)


@pytest.mark.parametrize("name", COMPUTED)
@settings(max_examples=5, **ANY)
@given(data=st.data())
def test_ops(name: str, data: st.DataObject):
    level = data.draw(st.sampled_from(LEVELS))
    _check_row(ROWS[name], *ROWS[name].examples(data.draw), level)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", COMPUTED)
@settings(max_examples=40, **ANY)
@given(data=st.data())
def test_ops_at_length(name: str, level: int, data: st.DataObject):
    _check_row(ROWS[name], *ROWS[name].examples(data.draw), level)


def _check_drawn(graph: Graph, level: int) -> None:
    arrays = [values(n.spec, k) for k, n in enumerate(graph.params)]
    outputs, states = Interpreter(graph).run(arrays)
    for k, (a, b) in enumerate(zip(_run(graph, arrays, level), [*outputs, *states], strict=True)):
        same(a, b, what=f"result {k}")


@settings(max_examples=80, **ANY)
@given(data=st.data())
def test_drawn_graphs(data: st.DataObject):
    level = data.draw(st.sampled_from(LEVELS))
    _check_drawn(graphs(data.draw, data.draw(st.integers(1, 12))), level)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=1500, **ANY)
@given(data=st.data())
def test_many_drawn_graphs(level: int, data: st.DataObject):
    _check_drawn(graphs(data.draw, data.draw(st.integers(1, 24))), level)


# --- what random graphs seldom have ---------------------------------------------------------------


def test_passes_run_by_level():
    def f(x: Any) -> Any:
        return x * 1.0 + dm.sqrt(dm.asarray(2.0))

    def left(level: int) -> set[str]:
        graph = passes.run(trace(f, "float32[4]"), verify, level)
        return {n.op.name for n in graph.nodes()} & {"multiply", "sqrt"}

    assert left(0) == {"multiply", "sqrt"}  # simplified, and folded to a constant
    assert left(1) == left(2) == set()


@pytest.mark.parametrize("level", LEVELS)
def test_a_reduction_in_the_index_of_the_same_reduction(level: int):
    def f(x: Any) -> list[Any]:
        z = dm.sum(x, 0)
        again = dm.argmax(z, 0)
        return [dm.take(z, again, 0), dm.take(z * 2.0, dm.remainder(again + 1, 7), 0)]

    _check_drawn(trace(f, "float32[5,7]"), level)


@pytest.mark.parametrize("level", LEVELS)
def test_carried_values_that_depend_on_each_other_in_a_row(level: int):
    def f(a: Any, b: Any, c: Any, d: Any) -> Any:
        def body(k: Any, v: Any) -> Any:
            a, b, c, d = v
            return a + b, b + c, c + d, d * 2.0

        return dm.fori_loop(0, 4, body, (a, b, c, d))[0]

    _check_drawn(trace(f, *["float32[3]"] * 4), level)


@pytest.mark.parametrize("level", LEVELS)
def test_reductions_of_every_length(level: int):
    """What a mask leaves out of the last vector changes nothing."""

    def f(*xs: Any) -> list[Any]:
        out: list[Any] = []
        for x in xs:
            low = -1.0 - dm.abs(x)
            out += [
                dm.sum(x + 1.0, 1),
                dm.prod(dm.sign(low), 1),
                dm.max(low, 1),
                dm.argmin(-low, 1),
            ]
        return out

    _check_drawn(trace(f, *(f"float32[2,{n}]" for n in range(1, 36))), level)
