"""The verifier: every invariant, broken once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from control_drawing import INT, LESS, NOTE, PAIR, SCALAR, branch, call, graph, loop
from dualmode_compiler.graph import ITEM, PARAM, TOKEN, Graph, Node
from dualmode_compiler.spec import Spec, float32, float64, int32
from dualmode_compiler.verify import InvalidGraph, verify
from ops import ADD, NEGATIVE, SHOW, TAGGED

F3 = Spec((3,), float32)


def _valid() -> tuple[Graph, Node, Node]:
    g = Graph()
    x, v = g.param(F3), g.param(F3)
    y = g.add(ADD, [x, v])
    g.add(SHOW, [y])
    g.add(SHOW, [x])
    g.outputs, g.updates = [y], [(1, y)]
    return g, x, y


def test_a_valid_graph():
    g, _, _ = _valid()
    verify(g)


def _node(op: Any, inputs: list[Node], spec: Spec = F3, attrs: Any = ()) -> Node:
    """A node that no graph made."""
    return Node(op, tuple(inputs), attrs, spec, None)


def _exchanged_parameters(g: Graph, x: Node, y: Node) -> None:
    g.params.reverse()


def _a_parameter_that_is_none(g: Graph, x: Node, y: Node) -> None:
    g.params[0] = y


def _a_foreign_parameter(g: Graph, x: Node, y: Node) -> None:
    g.outputs.append(_node(NEGATIVE, [Graph().param(F3)]))


def _a_wrong_shape(g: Graph, x: Node, y: Node) -> None:
    g.outputs = [_node(ADD, [x, x], Spec((4,), float32))]


def _a_wrong_dtype(g: Graph, x: Node, y: Node) -> None:
    g.outputs = [_node(ADD, [x, x], Spec((3,), float64))]


def _a_younger_input(g: Graph, x: Node, y: Node) -> None:
    user = _node(NEGATIVE, [])
    user.inputs = (_node(NEGATIVE, [x]),)
    g.outputs = [user]


def _unsorted_attributes(g: Graph, x: Node, y: Node) -> None:
    g.outputs = [_node(TAGGED, [x], attrs=(("b", 1), ("a", 2)))]


def _an_update_of_another_shape(g: Graph, x: Node, y: Node) -> None:
    g.updates = [(0, g.const(np.zeros(4, np.float32)))]


def _an_update_of_another_dtype(g: Graph, x: Node, y: Node) -> None:
    g.updates = [(0, g.const(np.zeros(3, np.int32)))]


def _two_updates_of_one_state(g: Graph, x: Node, y: Node) -> None:
    g.updates = [(1, y), (1, x)]


def _a_lost_effect(g: Graph, x: Node, y: Node) -> None:
    g.outputs = [g.effects.pop()]


def _effects_in_another_order(g: Graph, x: Node, y: Node) -> None:
    g.effects.reverse()


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (_exchanged_parameters, "parameter 0 is %"),
        (_a_parameter_that_is_none, "parameter 0 is %"),
        (_a_foreign_parameter, "is a parameter of another graph"),
        (_a_wrong_shape, r"float32\[4\]: the op infers float32\[3\]"),
        (_a_wrong_dtype, r"float64\[3\]: the op infers float32\[3\]"),
        (_a_younger_input, "reads a younger node"),
        (_unsorted_attributes, r"attributes are not sorted: \['b', 'a'\]"),
        (_an_update_of_another_shape, "is updated by"),
        (_an_update_of_another_dtype, "is updated by"),
        (_two_updates_of_one_state, "is updated twice"),
        (_a_lost_effect, "has an effect that would be lost"),
        (_effects_in_another_order, "effects are out of order"),
    ],
)
def test_a_broken_graph(breaks: Callable[[Graph, Node, Node], None], message: str):
    g, x, y = _valid()
    breaks(g, x, y)
    with pytest.raises(InvalidGraph, match=message):
        verify(g)


def test_attributes_must_be_hashable():
    g, x, _ = _valid()
    g.outputs = [_node(TAGGED, [x], attrs=(("a", [1]),))]
    with pytest.raises(TypeError, match="unhashable"):
        verify(g)


def test_weakness_is_no_part_of_what_an_op_infers():
    g = Graph()
    x = g.param(Spec((), int32))
    g.outputs = [g.add(NEGATIVE, [x], spec=Spec((), int32, weak=True))]
    verify(g)


def test_parameters_carry_their_index():
    assert Graph().param(F3).attr("index") == 0
    assert PARAM.name == "param"


# --- nodes that own graphs ------------------------------------------------------------------------

COUNT = graph([SCALAR], lambda h, x: h.add(ADD, [x, x]))
SOME = [INT, SCALAR, PAIR]


def _with_updates() -> Graph:
    g = graph([SCALAR], lambda h, x: h.add(ADD, [x, x]))
    g.updates = [(0, g.outputs[0])]
    return g


def _two(g: Graph, n: Node, x: Node, v: Node) -> list[Node]:
    return loop(g, graph([SCALAR], lambda h, a: [h.add(NEGATIVE, [a]), a]), [x], length=2)


def _always(*specs: Spec) -> Graph:
    return graph(specs, lambda h, *xs: h.add(LESS, [xs[0], xs[0]]))


def _stack(g: Graph, x: Node) -> Node:
    body = graph([SCALAR], lambda h, a: [h.add(NEGATIVE, [a]), a])
    return loop(g, body, [x], cond=_always(SCALAR))[1]


def _scan(g: Graph, x: Node, array: Node, entry: Spec, **attrs: Any) -> list[Node]:
    return loop(g, graph([SCALAR, entry], lambda h, a, e: a), [x], [array], **attrs)


def _a_result_too_few(g: Graph, n: Node, x: Node, v: Node) -> list[Node]:
    loop(g, graph([SCALAR], _noted), [x], length=2)
    return [x]


def _noted(h: Graph, x: Node) -> list[Node]:
    h.add(NOTE, [x], {"tag": 1})
    return []


def _another_owner(g: Graph, n: Node, x: Node, v: Node) -> list[Node]:
    noisy = graph([SCALAR], _noted)
    g.add(TAGGED, [x], {"a": noisy}, spec=TOKEN)
    return [x]


VALID: dict[str, Callable[[Graph, Node, Node, Node], list[Node]]] = {
    "a branch": lambda g, n, x, v: branch(g, n, [COUNT, COUNT], x),
    "a call": lambda g, n, x, v: call(g, COUNT, x),
    "a loop that stacks": _two,
    "a loop that scans a stack": lambda g, n, x, v: _scan(g, x, _stack(g, x), SCALAR),
    "a scan": lambda g, n, x, v: _scan(g, x, v, SCALAR, length=2, reverse=True),
}


@pytest.mark.parametrize("make", VALID.values(), ids=VALID)
def test_nodes_that_own_graphs(make: Callable[[Graph, Node, Node, Node], list[Node]]):
    g = graph(SOME, lambda g, n, x, v: make(g, n, x, v)[:1])
    verify(g)


BROKEN: dict[str, tuple[Callable[[Graph, Node, Node, Node], list[Node]], str]] = {
    "a number that is none": (
        lambda g, n, x, v: branch(g, x, [COUNT], x),
        r"numbers of branches are \[float32\[\]\], not \[int32\[\]\]",
    ),
    "an operand of another shape": (
        lambda g, n, x, v: branch(g, n, [COUNT], v),
        r"parameters of a branch are \[float32\[\]\], not \[float32\[2\]\]",
    ),
    "a missing operand": (lambda g, n, x, v: branch(g, n, [COUNT]), r"branch are .*, not \[\]"),
    "branches that differ": (
        lambda g, n, x, v: branch(g, n, [COUNT, graph([SCALAR], lambda h, a: [a, a])], x),
        r"results of a branch are \[float32\[\], float32\[\]\], not \[float32\[\]\]",
    ),
    "a call of another dtype": (lambda g, n, x, v: call(g, COUNT, n), "parameters are"),
    "a carried value that changes its dtype": (
        lambda g, n, x, v: loop(g, graph([SCALAR], lambda h, a: h.const(1)), [x], length=2),
        r"new values are \[int64\[\]\], not \[float32\[\]\]",
    ),
    "a fixed value too few": (
        lambda g, n, x, v: loop(g, graph([SCALAR] * 2, lambda h, a, b: a), [x], length=2),
        "parameters of the body are",
    ),
    "a result too few": (_a_result_too_few, "1 operands, 0 results"),
    "an array of another size": (
        lambda g, n, x, v: _scan(g, x, v, SCALAR, length=3),
        r"3 iterations over float32\[2\]",
    ),
    "a scalar that is scanned": (
        lambda g, n, x, v: _scan(g, x, x, SCALAR, length=2),
        r"2 iterations over float32\[\]",
    ),
    "no number of iterations": (
        lambda g, n, x, v: _scan(g, x, v, SCALAR),
        "nothing tells the number of iterations",
    ),
    "a stack in a loop of known length": (
        lambda g, n, x, v: _scan(g, x, _stack(g, x), SCALAR, length=2),
        r"2 iterations over float32\[-1\]",
    ),
    "a condition that is no bool": (
        lambda g, n, x, v: loop(g, COUNT, [x], cond=COUNT),
        r"results of the condition are \[float32\[\]\], not \[bool\[\]\]",
    ),
    "a condition that takes more": (
        lambda g, n, x, v: loop(g, COUNT, [x], cond=_always(SCALAR, SCALAR)),
        "parameters of the condition are",
    ),
    "a condition and a scan": (
        lambda g, n, x, v: _scan(g, x, v, SCALAR, length=None, cond=_always(SCALAR)),
        "cannot scan without end",
    ),
    "a condition, backwards": (
        lambda g, n, x, v: loop(g, COUNT, [x], cond=_always(SCALAR), reverse=True),
        "or go backwards",
    ),
    "a stack that is carried": (
        lambda g, n, x, v: loop(
            g, graph([Spec((-1,), float32)], lambda h, a: a), [_stack(g, x)], length=2
        ),
        "reads a stack that it does not scan",
    ),
    "a stack that is added": (
        lambda g, n, x, v: [g.add(NEGATIVE, [_stack(g, x)])],
        "reads a stack; only loops do",
    ),
    "a stack that leaves": (lambda g, n, x, v: [_stack(g, x)], "cannot leave or enter a graph"),
    "states in what is owned": (
        lambda g, n, x, v: call(g, _with_updates(), x),
        "graph 0 of %.*: it updates states",
    ),
    "an item of no owner": (
        lambda g, n, x, v: [g.add(ITEM, [x], {"index": 0}, spec=SCALAR)],
        "reads a node that owns no graphs",
    ),
    "an item that is none": (
        lambda g, n, x, v: [
            g.add(ITEM, [call(g, COUNT, x)[0].inputs[0]], {"index": 1}, spec=SCALAR)
        ],
        "result 1 of 1",
    ),
    "an item of another shape": (
        lambda g, n, x, v: [g.add(ITEM, [call(g, COUNT, x)[0].inputs[0]], {"index": 0}, spec=PAIR)],
        r"result 0 is float32\[\]",
    ),
    "an owner that is read": (
        lambda g, n, x, v: [g.add(TAGGED, call(g, COUNT, x)[0].inputs)],
        "only items do",
    ),
    "an owner that leaves": (
        lambda g, n, x, v: [call(g, COUNT, x)[0].inputs[0]],
        "cannot leave or enter a graph",
    ),
    "another op that owns": (_another_owner, "cannot own graphs"),
}


@pytest.mark.parametrize(("make", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_owners(make: Callable[[Graph, Node, Node, Node], list[Node]], message: str):
    g = graph(SOME, make)
    with pytest.raises(InvalidGraph, match=message):
        verify(g)


def test_what_is_owned_is_verified():
    """The message says where."""
    inner = graph([SCALAR], lambda h, x: [_node(ADD, [x, x], PAIR)])
    g = graph([SCALAR], lambda g, x: call(g, graph([SCALAR], lambda h, y: call(h, inner, y)), x))
    message = r"graph 0 of %.* call.*: graph 0 of %.* call.*: %.*: the op infers float32\[\]"
    with pytest.raises(InvalidGraph, match=message):
        verify(g)


def test_an_owner_of_effects_is_one():
    g = graph([SCALAR], lambda g, x: call(g, graph([SCALAR], _noted), x))
    verify(g)
    g.outputs, g.effects = [g.params[0]], []
    verify(g)
    body = graph([SCALAR], lambda h, x: [_noted(h, x), x][1])
    g = graph([SCALAR], lambda g, x: call(g, body, x))
    g.effects.clear()
    with pytest.raises(InvalidGraph, match="has an effect that would be lost"):
        verify(g)


def test_what_has_no_effect_is_none():
    g = graph([SCALAR], lambda g, x: call(g, COUNT, x))
    g.effects = [g.outputs[0].inputs[0]]
    with pytest.raises(InvalidGraph, match="is among the effects and has none"):
        verify(g)


def test_the_effects_of_a_base_may_be_needed():
    """A longer body leaves effects to the one that it extends, though it reads what has them."""
    noisy = graph([SCALAR], lambda h, x: [_noted(h, x), x][1])
    base = graph([SCALAR], lambda h, x: call(h, noisy, x))
    verify(Graph(base.params, [*base.outputs, *base.outputs], base=base))
    with pytest.raises(InvalidGraph, match="would be lost"):
        verify(Graph(base.params, [*base.outputs, *base.outputs]))
