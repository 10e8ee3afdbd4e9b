"""The verifier: every invariant, broken once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dualmode_compiler.graph import PARAM, Graph, Node
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
