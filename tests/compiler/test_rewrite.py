"""Rewriting by the rules that ops own: to a fixed point, logged, and guarded."""

from __future__ import annotations

import numpy as np
import pytest

from control_drawing import call, graph
from dualmode_compiler.graph import Graph, Node
from dualmode_compiler.rewrite import LIMIT, apply_rules, rebuild
from dualmode_compiler.spec import Spec, float32, float64
from dualmode_compiler.text import show
from dualmode_compiler.verify import verify
from ops import ADD, MULTIPLY, NEGATIVE, SHOW, SmallOp

F2 = Spec((2,), float32)


def _zero(g: Graph) -> Node:
    return g.const(np.zeros(2, np.float32))


def test_rules_run_to_a_fixed_point():
    """-(-(x + 0)) + 0 --> x"""
    g = Graph()
    x = g.param(F2)
    y = g.add(ADD, [x, _zero(g)])
    g.outputs = [g.add(ADD, [g.add(NEGATIVE, [g.add(NEGATIVE, [y])]), _zero(g)])]
    new = rebuild(g, apply_rules)
    verify(new)
    assert new.outputs == [x]
    assert len(new.log) == 3


def test_a_rule_that_makes_another_op_hands_on_to_its_rules():
    def to_sum(node: Node, graph: Graph) -> Node:
        return graph.add(ADD, [node.inputs[0], _zero(graph)])

    g = Graph()
    x = g.param(F2)
    g.outputs = [g.add(SmallOp("same", simplify=(to_sum,)), [x])]
    assert rebuild(g, apply_rules).outputs == [x]


def test_a_rewrite_is_logged_with_the_name_of_its_rule():
    g = Graph()
    x = g.param(F2)
    y = g.outputs = [g.add(ADD, [x, _zero(g)])]
    new = rebuild(g, apply_rules)
    assert y and new.log[0].startswith("add_zero: %")
    assert f"--> {x}" in new.log[0]


def test_rules_that_run_in_a_circle_are_stopped():
    first = SmallOp("first", simplify=(lambda node, graph: graph.add(second, node.inputs),))
    second = SmallOp("second", simplify=(lambda node, graph: graph.add(first, node.inputs),))
    g = Graph()
    g.outputs = [g.add(first, [g.param(F2)])]
    with pytest.raises(RuntimeError, match=r"rules of (first|second) do not end: \['<lambda>"):
        rebuild(g, apply_rules)
    assert LIMIT < 1000


def test_a_rule_must_keep_the_spec():
    def widen(node: Node, graph: Graph) -> Node:
        return graph.const(np.zeros(2, np.float64))

    g = Graph()
    g.outputs = [g.add(SmallOp("bad", simplify=(widen,)), [g.param(F2)])]
    with pytest.raises(RuntimeError, match=r"widen changed float32\[2\] to float64\[2\]"):
        rebuild(g, apply_rules)


def test_parameters_states_and_outputs_keep_their_places():
    g = Graph()
    a, b, unused = g.param(F2), g.param(Spec((), float64)), g.param(F2)
    y = g.add(NEGATIVE, [a])
    g.outputs, g.updates = [y, a, y, b], [(0, y), (2, a)]
    new = rebuild(g, apply_rules)
    verify(new)
    assert new.params == [a, b, unused]
    assert [n.op.name for n in new.outputs] == ["negative", "param", "negative", "param"]
    assert new.outputs[0] is new.outputs[2] is new.updates[0][1]
    assert [k for k, _ in new.updates] == [0, 2]


def test_dead_nodes_are_left_behind_but_effects_are_not():
    g = Graph()
    x = g.param(F2)
    dead = g.add(MULTIPLY, [x, x])
    shown = g.add(SHOW, [g.add(NEGATIVE, [x])])
    g.outputs = [x]
    new = rebuild(g, apply_rules)
    verify(new)
    assert "multiply" not in show(new) and "show!" in show(new)
    assert dead not in new.nodes() and len(new.effects) == 1 and new.effects[0] is not shown


def test_effects_keep_their_order():
    """A walk from the outputs meets the last one first; a younger node must not come earlier."""
    g = Graph()
    x = g.param(F2)
    made = [g.add(SHOW, [x], {"tag": tag}) for tag in "abc"]
    g.outputs = [made[2]]
    new = rebuild(g, apply_rules)
    verify(new)
    assert [n.attr("tag") for n in new.effects] == ["a", "b", "c"]


def test_an_effect_that_is_replaced_is_none_any_more():
    def quiet(node: Node, graph: Graph) -> Node:
        return node.inputs[0] if node.op is SHOW and node.attr("tag") == "b" else node

    g = Graph()
    x = g.param(F2)
    for tag in "abc":
        g.add(SHOW, [x], {"tag": tag})
    new = rebuild(g, quiet)
    verify(new)
    assert [n.attr("tag") for n in new.effects] == ["a", "c"]


def test_owned_graphs_are_rebuilt():
    """One that is owned twice stays one; a node whose graphs lose their effects is no effect."""

    def quiet(node: Node, graph: Graph) -> Node:
        return node.inputs[0] if node.op is SHOW else apply_rules(node, graph)

    def noisy(h: Graph, x: Node) -> Node:
        h.add(SHOW, [x])
        return h.add(NEGATIVE, [h.add(NEGATIVE, [x])])

    body = graph([F2], noisy)
    g = graph([F2], lambda g, x: [*call(g, body, x), *call(g, body, g.add(ADD, [x, x]))])
    new = rebuild(g, quiet)
    verify(new)
    first, second = (n.inputs[0].attr("body") for n in new.outputs)
    assert first is second and first.outputs == first.params
    assert len(g.effects) == 2 and not new.effects
    assert any(line.startswith("double_negative") for line in new.log)


def test_sites_and_equal_nodes_survive():
    g = Graph()
    x = g.param(F2)
    y = g.add(NEGATIVE, [x], site=("user.py", 7))
    z = g.add(ADD, [y, _zero(g)])
    g.outputs = [g.add(ADD, [y, z])]
    new = rebuild(g, apply_rules)
    (total,) = new.outputs
    assert total.inputs[0] is total.inputs[1]
    assert total.inputs[0].site == ("user.py", 7)


def test_a_chain_of_ten_thousand_nodes():
    g = Graph()
    y = g.param(F2)
    for _ in range(10_000):
        y = g.add(ADD, [y, y])
    g.outputs = [y]
    assert len(rebuild(g, apply_rules).nodes()) == 10_001
