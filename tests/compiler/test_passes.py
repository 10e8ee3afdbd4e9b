"""Each pass on a graph that shows what it does: text before, text after, in golden files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dualmode as dm
from drawing import graphs
from dualmode_compiler import passes
from dualmode_compiler.graph import CONST, Graph
from dualmode_compiler.interpret import Interpreter
from dualmode_compiler.passes.fold import LARGEST, fold
from dualmode_compiler.passes.simplify import simplify
from dualmode_compiler.spec import Spec, float32
from dualmode_compiler.text import show
from dualmode_compiler.verify import verify
from golden import check_golden
from graphs import same, trace, values
from ops import ADD, SHOW, SmallOp

Cases = dict[str, tuple[Callable[..., Any], list[str]]]

SIMPLIFY: Cases = {
    "x * 1 + 0": (lambda x: (x * 1.0 + 0.0) / 1.0, ["float32[3]"]),
    "x - 0 and 0 - x": (lambda x: [x - 0.0, 0.0 - x], ["float32[3]"]),
    "a scalar that broadcasts is kept": (
        lambda x, s: s * dm.ones((3,)),
        ["float32[3]", "float32[]"],
    ),
    "double negative": (lambda x: dm.negative(dm.negative(x)), ["int32[3]"]),
    "transposes meet": (lambda x: dm.transpose(dm.transpose(x)), ["float32[3,4]"]),
    "reshapes meet": (lambda x: dm.reshape(dm.reshape(x, (12,)), (3, 4)), ["float32[3,4]"]),
    "transposes join products": (
        lambda x, w: dm.transpose(x) @ dm.transpose(w),
        ["float32[4,3]", "float32[5,4]"],
    ),
    "casts": (
        lambda x: dm.cast(dm.cast(dm.cast(x, "float64"), "float32"), "float32"),
        ["float16[3]"],
    ),
    "a cast that loses is kept": (
        lambda x: dm.cast(dm.cast(x, "int32"), "float32"),
        ["float32[3]"],
    ),
    "whole slices": (lambda x: x[:, :][...], ["float32[3,4]"]),
    "powers": (lambda x: x**2 + x**1, ["float32[3]"]),
    "where of one value": (lambda c, x: dm.where(c, x, x), ["bool[3]", "float32[3]"]),
    "idempotent": (lambda x: dm.maximum(x, x), ["float32[3]"]),
}

FOLD: Cases = {
    "2 + 3": (lambda x: x * (dm.asarray(2.0) + dm.asarray(3.0)), ["float32[3]"]),
    "up to 256 elements": (
        lambda x: [dm.full((16,), 2.0) * 3.0, dm.broadcast_to(dm.asarray(2.0), (257,)) * 3.0, x],
        ["float32[3]"],
    ),
    "integers and bools": (
        lambda x: dm.where(dm.asarray(3) > dm.asarray(2), x, 0.0 * x),
        ["float32[3]"],
    ),
    "nothing is divided by zero at compile time": (
        lambda x: x + dm.asarray(1) // dm.asarray(0),
        ["int32[3]"],
    ),
}


def _golden(cases: Cases, step: Callable[[Graph], Graph]) -> str:
    parts: list[str] = []
    for title, (fn, specs) in cases.items():
        graph = trace(fn, *specs)
        new = step(graph)
        verify(new)
        parts.append(f"# {title}\n{show(graph)}-->\n{show(new)}")
        arrays = [values(n.spec, k) for k, n in enumerate(graph.params)]
        _agree(graph, new, arrays)
    return "\n".join(parts)


def _agree(before: Graph, after: Graph, arrays: list[Any]) -> None:
    for a, b in zip(Interpreter(before).run(arrays), Interpreter(after).run(arrays), strict=True):
        for x, y in zip(a, b, strict=True):
            same(x, y)


def test_simplify():
    check_golden("simplify", _golden(SIMPLIFY, simplify))


def test_fold():
    check_golden("fold", _golden(FOLD, fold))


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_passes_keep_graphs_valid_and_results_the_same(data: st.DataObject):
    graph = graphs(data.draw, data.draw(st.integers(1, 25)))
    verify(graph)
    new = passes.run(graph, verify)
    _agree(graph, new, [values(n.spec, k) for k, n in enumerate(graph.params)])


def test_the_check_runs_after_every_pass():
    seen: list[Graph] = []
    passes.run(trace(lambda x: x + 0.0, "float32[3]"), seen.append)
    assert len(seen) == len(passes.PIPELINE)


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_only_a_neutral_zero_is_dropped(value: float):
    """x + 0.0 is 0.0 where x is -0.0, so only x + -0.0 --> x; for x - y it is the other way."""
    x = np.array([-0.0, 0.0, 1.0], np.float32)
    for fn in (lambda x: x + value, lambda x: x - value, lambda x: value + x):
        graph = trace(fn, x)
        new = passes.run(graph, verify)
        a, b = (Interpreter(g).run([x])[0][0] for g in (graph, new))
        np.testing.assert_array_equal(np.signbit(a), np.signbit(b))


def test_effects_are_not_folded():
    graph = Graph()
    one = graph.const(np.ones(2, np.float32))
    graph.add(SHOW, [one])
    graph.outputs = [graph.add(ADD, [one, one])]
    new = fold(graph)
    assert [n.op for n in new.effects] == [SHOW]
    assert new.outputs[0].op is CONST


def test_a_large_result_is_not_stored():
    for n, folded in ((LARGEST, True), (LARGEST + 1, False)):
        graph = Graph()
        ones = graph.const(np.ones(n, np.float32))
        graph.outputs = [graph.add(ADD, [ones, ones])]
        assert (fold(graph).outputs[0].op is CONST) is folded


def test_a_kernel_that_gives_another_dtype_is_not_trusted():
    wrong = SmallOp("wrong", kernel=lambda x: x.astype(np.float64))
    graph = Graph()
    graph.outputs = [graph.add(wrong, [graph.const(np.ones(2, np.float32))])]
    assert fold(graph).outputs[0].op is wrong


def test_a_folded_constant_keeps_its_weakness():
    graph = Graph()
    two = graph.add(SmallOp("twice", kernel=lambda x: x + x), [graph.const(np.float32(1))],
                    spec=Spec((), float32, weak=True))  # fmt: skip
    graph.outputs = [two]
    (out,) = fold(graph).outputs
    assert out.op is CONST and out.spec.weak
