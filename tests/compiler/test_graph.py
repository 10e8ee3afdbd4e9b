"""Graphs: interning, order, deep and shared ones."""

from __future__ import annotations

import itertools
import random
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from control_drawing import INT, LESS, NOTE, PAIR, SCALAR, branch, call, graph, loop, noted
from dualmode_compiler.graph import (
    CONST,
    PARAM,
    Graph,
    Literal,
    Node,
    freeze,
    map_graphs,
    results,
    topological,
)
from dualmode_compiler.interpret import Interpreter
from dualmode_compiler.spec import Spec, float32, float64
from ops import ADD, NEGATIVE, SHOW, TAGGED, SmallOp

F3 = Spec((3,), float32)


def test_equal_nodes_are_one():
    g = Graph()
    x, y = g.param(F3), g.param(F3)
    assert g.add(ADD, [x, y]) is g.add(ADD, [x, y])
    assert g.add(ADD, [x, y]) is not g.add(ADD, [y, x])
    assert g.add(TAGGED, [x], {"a": 1}) is not g.add(TAGGED, [x], {"a": 2})
    assert g.add(TAGGED, [x], {"a": 1, "b": 2}) is g.add(TAGGED, [x], {"b": 2, "a": 1})
    assert x is not y


def test_the_site_is_no_part_of_a_node():
    g = Graph()
    x = g.param(F3)
    first = g.add(NEGATIVE, [x], site=("a.py", 1))
    assert g.add(NEGATIVE, [x], site=("b.py", 2)) is first and first.site == ("a.py", 1)


def test_a_weak_node_is_another():
    g = Graph()
    x = g.param(Spec((), float32))
    strong = g.add(NEGATIVE, [x], spec=Spec((), float32))
    assert g.add(NEGATIVE, [x], spec=Spec((), float32, weak=True)) is not strong


def test_effects_are_never_merged():
    g = Graph()
    x = g.param(F3)
    a, b = g.add(SHOW, [x]), g.add(SHOW, [x])
    assert a is not b and g.effects == [a, b]
    assert g.nodes() == [x, a, b]


def test_constants_compare_by_content():
    g = Graph()
    zero = np.zeros(3, np.float32)
    assert g.const(zero) is g.const(np.zeros(3, np.float32))
    assert g.const(zero) is not g.const(-zero), "0.0 and -0.0 are two constants"
    assert g.const(zero) is not g.const(np.zeros(3, np.int32)), "of the same bytes"
    assert g.const(zero) is not g.const(np.zeros((3, 1), np.float32))
    nan = np.full(2, np.nan, np.float32)
    assert g.const(nan) is g.const(nan.copy())
    turned = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert g.const(turned.T) is g.const(np.ascontiguousarray(turned.T))


def test_literals_differ_in_shape_and_type():
    zero = Literal(np.zeros(3, np.float32))
    assert zero == Literal(np.zeros(3, np.float32))
    for other in (np.zeros((3, 1), np.float32), np.zeros(3, np.int32), np.zeros(2, np.float32)):
        assert zero != Literal(other)
    assert zero != 0


def test_attributes_are_frozen():
    g = Graph()
    x = g.param(F3)
    node = g.add(TAGGED, [x], {"shape": [1, [2, 3]], "at": np.arange(2), "n": np.float32(0.5)})
    assert node.attr("shape") == (1, (2, 3))
    assert isinstance(node.attr("at"), Literal)
    assert type(node.attr("n")) is float
    assert [k for k, _ in node.attrs] == ["at", "n", "shape"]
    hash(node.attrs)
    assert freeze((np.int64(3), "a", None)) == (3, "a", None)


def test_inputs_come_before_users():
    rng = random.Random(0)
    for _ in range(50):
        g = Graph()
        pool = [g.param(F3) for _ in range(3)]
        for _ in range(40):
            pool.append(g.add(ADD, [rng.choice(pool), rng.choice(pool)]))
        g.outputs = rng.sample(pool, 3)
        seen: set[Node] = set()
        for node in g.nodes():
            assert seen.issuperset(node.inputs) and node not in seen
            seen.add(node)
        reached = set(g.outputs)
        for node in sorted(pool, key=lambda n: -n.uid):
            if node in reached:
                reached.update(node.inputs)
        assert seen == reached


def test_a_chain_as_deep_as_memory_allows():
    g = Graph()
    x = g.param(F3)
    y = x
    for _ in range(100_000):
        y = g.add(NEGATIVE, [y])
    g.outputs = [y]
    assert len(g.nodes()) == 100_001


def test_a_node_with_many_inputs():
    g = Graph()
    x = g.param(F3)
    inputs = [g.add(TAGGED, [x], {"k": k}) for k in range(5000)]
    assert len(list(topological([g.add(TAGGED, inputs)]))) == 5002


def test_sharing_is_walked_once():
    g = Graph()
    x = g.param(F3)
    for _ in range(200):
        x = g.add(ADD, [x, x])
    assert len(list(topological([x]))) == 201


def test_a_spec_that_does_not_fit_is_refused():
    g = Graph()
    with pytest.raises(TypeError, match=r"add: float32\[3\] and float64\[3\]"):
        g.add(ADD, [g.param(F3), g.param(Spec((3,), float64))])


def test_structural_nodes_are_not_computed():
    with pytest.raises(TypeError, match="param nodes are not computed"):
        PARAM.kernel()
    with pytest.raises(TypeError, match="const nodes carry their own spec"):
        CONST.infer()
    with pytest.raises(TypeError, match="has no value"):
        np.asarray(Graph().param(F3))


def test_the_interpreter_drops_a_value_after_its_last_reader():
    made: list[Any] = []
    alive: list[int] = []

    def kernel(x: Any) -> Any:
        alive.append(sum(r() is not None for r in made))
        out = x + 1
        made.append(weakref.ref(out))
        return out

    g = Graph()
    y = g.param(F3)
    for _ in range(5):
        y = g.add(SmallOp("next", kernel=kernel), [y])
    g.outputs = [y]
    Interpreter(g).run([np.zeros(3, np.float32)])
    assert alive == [0, 1, 1, 1, 1]


def test_the_interpreter_keeps_results():
    g = Graph()
    x = g.param(F3)
    a = g.add(NEGATIVE, [x])
    b = g.add(ADD, [a, x])
    g.outputs, g.updates = [a, b, x], [(0, b)]
    array = np.arange(3, dtype=np.float32)
    outputs, states = Interpreter(g).run([array])
    np.testing.assert_array_equal(outputs, [-array, 0 * array, array])
    np.testing.assert_array_equal(states, [0 * array])


def test_the_interpreter_wants_one_array_for_each_parameter():
    g = Graph()
    g.param(F3)
    with pytest.raises(ValueError, match="zip"):
        Interpreter(g).run([])


def test_serial_numbers_follow_creation():
    g = Graph()
    nodes = [g.param(F3) for _ in range(5)]
    assert all(a.uid < b.uid for a, b in itertools.pairwise(nodes))


# --- nodes that own graphs ------------------------------------------------------------------------


def _double() -> Graph:
    return graph([SCALAR], lambda h, x: h.add(ADD, [x, x]))


def _noisy() -> Graph:
    return graph([SCALAR], lambda h, x: [h.add(NOTE, [x], {"tag": 1}), x][1])


def test_equal_owners_of_one_graph_are_one():
    body = _double()
    g = graph([SCALAR], lambda g, x: [*call(g, body, x), *call(g, body, x), *call(g, _double(), x)])
    first, second, third = g.outputs
    assert first is second and third is not first


def test_an_owner_of_effects_is_an_effect():
    g = Graph()
    x = g.param(SCALAR)
    quiet, noisy = call(g, _double(), x), call(g, _noisy(), x)
    again = call(g, _noisy(), x)
    around = call(g, graph([SCALAR], lambda h, y: call(h, _noisy(), y)), x)
    assert not quiet[0].inputs[0].effect
    assert g.effects == [n[0].inputs[0] for n in (noisy, again, around)]


def test_the_graphs_of_a_node_in_the_order_of_its_attributes():
    g, a, b = Graph(), _double(), _noisy()
    x, n = g.param(SCALAR), g.param(INT)
    assert branch(g, n, [a, b, a], x)[0].inputs[0].graphs == (a, b, a)
    cond = graph([SCALAR], lambda h, y: h.add(LESS, [y, y]))
    node = loop(g, a, [x], cond=cond)[0].inputs[0]
    assert node.graphs == (a, cond)
    changed = dict(map_graphs(node.attrs, lambda g: b))
    assert changed["body"] is b and changed["cond"] is b and changed["carried"] == 1


@pytest.mark.parametrize(
    ("attrs", "size"),
    [({"length": 5}, 5), ({"length": 5, "cond": "less"}, -1), ({"cond": "less"}, -1)],
)
def test_specs_of_results(attrs: dict[str, Any], size: int):
    g = Graph()
    x = g.param(SCALAR)
    if "cond" in attrs:
        attrs = attrs | {"cond": graph([SCALAR], lambda h, y: h.add(LESS, [y, y]))}
    body = graph([SCALAR], lambda h, y: [y, h.const(np.zeros((2, 3), np.float64))])
    found = results(loop(g, body, [x], **attrs)[0].inputs[0])
    assert found == [SCALAR, Spec((size, 2, 3), float64)]
    assert found[1].is_stack is (size < 0)


def _ran(specs: list[Spec], fn: Callable[..., Any], *values: Any) -> list[Any]:
    arrays = [np.asarray(v, s.dtype.numpy) for v, s in zip(values, specs, strict=True)]
    return [a.tolist() for a in Interpreter(graph(specs, fn)).run(arrays)[0]]


@pytest.mark.parametrize(("n", "expected"), [(0, 6.0), (1, -3.0), (2, 3.0), (3, 3.0), (-1, 3.0)])
def test_a_branch(n: int, expected: float):
    """The last one stands for all numbers out of range."""
    branches = [
        _double(),
        graph([SCALAR], lambda h, x: h.add(NEGATIVE, [x])),
        graph([SCALAR], lambda h, x: x),
    ]
    assert _ran([INT, SCALAR], lambda g, n, x: branch(g, n, branches, x), n, 3) == [expected]


def test_a_call():
    assert _ran([SCALAR], lambda g, x: call(g, _double(), x, inline=False), 3) == [6.0]


def _sums(h: Graph, total: Node, x: Node, step: Node) -> list[Node]:
    total = h.add(ADD, [total, h.add(ADD, [x, step])])
    return [total, total]


@pytest.mark.parametrize(("reverse", "stacked"), [(False, [11.0, 23.0]), (True, [23.0, 12.0])])
def test_a_scan(reverse: bool, stacked: list[float]):
    """In reverse, entries are taken, and stacked ones placed, from the last to the first."""
    body = graph([SCALAR] * 3, _sums)
    attrs = {"length": 2, "reverse": reverse}
    found = _ran(
        [SCALAR, PAIR, SCALAR],
        lambda g, total, xs, step: loop(g, body, [total], [xs], [step], **attrs),
        *(0, [1, 2], 10),
    )
    assert found == [23.0, stacked]


@pytest.mark.parametrize(("length", "count"), [(None, 4), (2, 2), (0, 0)])
def test_a_loop_with_a_condition(length: int | None, count: int):
    """`length` limits it; a loop over what it has stacked runs as often."""

    def fn(g: Graph, n: Node, limit: Node, x: Node) -> list[Node]:
        body = graph([INT, INT], lambda h, k, m: [h.add(ADD, [k, h.const(np.int32(1))]), k])
        cond = graph([INT, INT], lambda h, k, m: h.add(LESS, [k, m]))
        end, stack = loop(g, body, [n], fixed=[limit], cond=cond, length=length)
        again = graph([SCALAR, INT], lambda h, a, k: h.add(ADD, [a, h.const(np.float32(1))]))
        return [end, *loop(g, again, [x], [stack])]

    assert _ran([INT, INT, SCALAR], fn, 0, 4, 0) == [count, float(count)]


def test_effects_in_loops_run_each_time():
    noted.clear()
    body = graph([SCALAR], lambda h, x: [h.add(NOTE, [x], {"tag": 1}), h.add(ADD, [x, x])][1])
    _ran([SCALAR], lambda g, x: loop(g, body, [x], length=3), 1)
    assert noted == [(1, 1.0), (1, 2.0), (1, 4.0)]
