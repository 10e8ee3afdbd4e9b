"""Passes over nodes that own graphs: what each does, and that results and effects stay."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dualmode as dm
from control_drawing import (
    CONTROL_OPS,
    INT,
    LESS,
    NOTE,
    PAIR,
    SCALAR,
    SUM,
    branch,
    call,
    control_graphs,
    graph,
    loop,
    noted,
)
from dualmode.callable import compile_graph
from dualmode_compiler import expr, passes
from dualmode_compiler.graph import LOOP, Graph, Node
from dualmode_compiler.interpret import Interpreter
from dualmode_compiler.passes.fold import fold
from dualmode_compiler.passes.hoist import hoist
from dualmode_compiler.passes.inline import inline
from dualmode_compiler.passes.merge import merge
from dualmode_compiler.passes.prune import prune
from dualmode_compiler.passes.simplify import simplify
from dualmode_compiler.spec import int64
from dualmode_compiler.text import parse, show
from dualmode_compiler.verify import verify
from golden import check_golden
from graphs import same, values
from ops import ADD, MULTIPLY, NEGATIVE, SmallOp

Cases = dict[str, Graph]


def _run(graph: Graph) -> tuple[list[Any], list[Any]]:
    """Results, and what effects have seen."""
    noted.clear()
    arrays = [values(n.spec, k) for k, n in enumerate(graph.params)]
    outputs, states = Interpreter(graph).run(arrays)
    return [*outputs, *states], noted.copy()


def _agree(before: Graph, after: Graph) -> None:
    (a, seen), (b, seen_after) = _run(before), _run(after)
    for x, y in zip(a, b, strict=True):
        same(x, y)
    assert seen == seen_after


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_passes_keep_results_and_effects(rng: Random):
    g = control_graphs(rng, [SCALAR, PAIR, INT], rng.randint(1, 6))
    verify(g)
    steps: list[Graph] = []
    passes.run(g, steps.append)
    for step in steps:
        verify(step)
        _agree(g, step)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_text_round_trips(rng: Random):
    g = control_graphs(rng, [SCALAR, PAIR, INT], rng.randint(1, 6))
    text = show(g)
    again = parse(text, CONTROL_OPS)
    assert show(again) == text
    verify(again)
    _agree(g, again)


def _golden(cases: Cases, step: Callable[[Graph], Graph]) -> str:
    parts: list[str] = []
    for title, g in cases.items():
        verify(g)
        new = step(g)
        verify(new)
        parts.append(f"# {title}\n{show(g)}-->\n{show(new)}")
        _agree(g, new)
    return "\n".join(parts)


# --- merge ----------------------------------------------------------------------------------------


def _doubling(effect: bool = False) -> Graph:
    """x --> x + x"""

    def body(g: Graph, x: Node) -> Node:
        if effect:
            g.add(NOTE, [x], {"tag": 1})
        return g.add(ADD, [x, x])

    return graph([SCALAR], body)


def _extended(base: Graph, *more: Node) -> Graph:
    return Graph(base.params, [*base.outputs, *more], base=base)


def _chain(g: Graph, x: Node) -> list[Node]:
    """A loop, one that stacks the values before, and one that stacks more."""
    first = _doubling(effect=True)
    second = _extended(first, first.params[0])
    third = _extended(second, second.add(NEGATIVE, [second.params[0]]))
    (a,) = loop(g, first, [x], length=2)
    _, b = loop(g, second, [x], length=2)
    _, c, d = loop(g, third, [x], length=2)
    return [a, b, c, d]


def _siblings(g: Graph, x: Node) -> list[Node]:
    """Two bodies that extend the same one by the same and by different nodes."""
    base = _doubling()
    once = base.add(NEGATIVE, [base.params[0]])
    _, a = loop(g, _extended(base, base.params[0]), [x], length=2)
    _, b, c = loop(g, _extended(base, once, base.params[0]), [x], length=2)
    return [a, b, c]


def _different(g: Graph, x: Node) -> list[Node]:
    """Other inputs, other lengths, effects that come later: none of them can be merged."""
    base = _doubling()
    (a,) = loop(g, base, [x], length=2)
    (b,) = loop(g, base, [g.add(NEGATIVE, [x])], length=2)
    (c,) = loop(g, base, [x], length=3)
    noisy = _extended(base, base.params[0])
    noisy.effects = [noisy.add(NOTE, [base.params[0]], {"tag": 2})]
    _, d = loop(g, noisy, [x], length=2)
    return [a, b, c, d]


def _one_after_the_other(g: Graph, x: Node) -> list[Node]:
    """The second loops have equal inputs once the first ones are merged."""
    base = _doubling()
    longer = _extended(base, base.params[0])
    (a,) = loop(g, base, [x], length=2)
    b, saved = loop(g, longer, [x], length=2)
    (c,) = loop(g, base, [a], length=2)
    d, more = loop(g, longer, [b], length=2)
    return [c, d, saved, more]


MERGE: Cases = {
    "each extends the one before": graph([SCALAR], _chain),
    "both extend one": graph([SCALAR], _siblings),
    "loops that differ": graph([SCALAR], _different),
    "one after the other": graph([SCALAR], _one_after_the_other),
    "within a call": graph([SCALAR], lambda g, x: call(g, graph([SCALAR], _siblings), x)),
}


def test_merge():
    check_golden("merge", _golden(MERGE, merge))


def test_a_longer_body_that_needs_effects_of_its_base_runs_them_once():
    """The gradient of a loop around a loop that prints: what prints is a node of both bodies."""
    outer = graph([SCALAR], lambda g, x: loop(g, _doubling(effect=True), [x], length=2))
    g = Graph()
    x = g.param(SCALAR)
    (a,) = loop(g, outer, [x], length=2)
    _, saved = loop(g, _extended(outer, outer.outputs[0]), [x], length=2)
    g.outputs = [a, saved]
    verify(g)
    new = passes.run(g, verify)
    _, seen = _run(new)
    assert len(seen) == 4
    assert [n.op for n in new.effects] == [LOOP]
    noted.clear()
    with dm.config.override(backend="interpret"):
        compile_graph(g, "g").run([values(SCALAR)])
    assert noted == seen


# --- inline ---------------------------------------------------------------------------------------


def _sum_and_note(g: Graph, x: Node, y: Node) -> Node:
    g.add(NOTE, [x], {"tag": 3})
    return g.add(ADD, [x, y])


def _branches() -> list[Graph]:
    return [graph([SCALAR], lambda g, x, op=op: op(g, x)) for op in (_twice, _negated)]


def _twice(g: Graph, x: Node) -> Node:
    return g.add(ADD, [x, x])


def _negated(g: Graph, x: Node) -> Node:
    return g.add(NEGATIVE, [x])


def _stacks_nothing(g: Graph, x: Node) -> list[Node]:
    body = graph([SCALAR], lambda h, v: [h.add(NEGATIVE, [v]), v])
    return loop(g, body, [x], length=0)


def _never_true(g: Graph, x: Node) -> list[Node]:
    cond = graph([SCALAR], lambda h, v: h.add(LESS, [v, v]))
    return loop(g, _doubling(), [x], length=0, cond=cond)


def _noisy_call(g: Graph, x: Node) -> list[Node]:
    g.add(NOTE, [x], {"tag": 1})
    found = call(g, graph([SCALAR, SCALAR], _sum_and_note), x, x)
    g.add(NOTE, found, {"tag": 5})
    return found


def _apart(g: Graph, body: Graph, x: Node) -> list[Node]:
    return call(g, body, x, inline=False)


INLINE: Cases = {
    "a call, effects in order": graph([SCALAR], _noisy_call),
    "a call computed by itself": graph(
        [SCALAR], lambda g, x: call(g, _doubling(), x, inline=False)
    ),
    "a call in a call by itself": graph(
        [SCALAR],
        lambda g, x: call(
            g, graph([SCALAR], lambda h, y: call(h, _doubling(), y)), x, inline=False
        ),
    ),
    "a known branch": graph([SCALAR], lambda g, x: branch(g, g.const(np.int32(0)), _branches(), x)),
    "out of range": graph([SCALAR], lambda g, x: branch(g, g.const(np.int32(-2)), _branches(), x)),
    "no iteration": graph([SCALAR], _stacks_nothing),
    "no iteration, with a condition": graph([SCALAR], _never_true),
    "one iteration": graph([SCALAR], lambda g, x: loop(g, _doubling(), [x], length=1)),
}


def test_inline():
    check_golden("inline", _golden(INLINE, inline))


# --- prune ----------------------------------------------------------------------------------------


def _unread_results(g: Graph, c: Node, x: Node, y: Node) -> list[Node]:
    first = graph([SCALAR, SCALAR], lambda h, a, b: [_twice(h, a), h.add(ADD, [a, b])])
    second = graph([SCALAR, SCALAR], lambda h, a, b: [a, b])
    return branch(g, c, [first, second], x, y)[:1]


def _equal_in_all(g: Graph, c: Node, x: Node, y: Node) -> list[Node]:
    def three(h: Graph, a: Node, b: Node, fn: Any) -> list[Node]:
        z = fn(h, a)
        return [b, h.const(np.float32(3)), z, z]

    branches = [
        graph([SCALAR, SCALAR], lambda h, a, b, fn=fn: three(h, a, b, fn))
        for fn in (_twice, _negated)
    ]
    return branch(g, c, branches, x, y)


def _different_in_each(g: Graph, c: Node, x: Node, y: Node) -> list[Node]:
    first = graph([SCALAR, SCALAR], lambda h, a, b: [a, h.const(np.float32(3))])
    second = graph([SCALAR, SCALAR], lambda h, a, b: [b, h.const(np.float32(4))])
    return branch(g, c, [first, second], x, y)


def _equal_operands(g: Graph, c: Node, x: Node, y: Node) -> list[Node]:
    body = graph([SCALAR] * 4, lambda h, a, b, k, unread: h.add(ADD, [h.add(ADD, [a, b]), k]))
    return call(g, body, x, x, g.const(np.float32(2)), y, inline=False)


def _carried_for_itself(g: Graph, c: Node, x: Node, y: Node) -> list[Node]:
    """Carried: one that is read, one on which it depends, one that only feeds itself."""
    body = graph(
        [SCALAR] * 3,
        lambda h, a, b, d: [h.add(ADD, [a, b]), h.add(NEGATIVE, [b]), h.add(NEGATIVE, [d]), d],
    )
    return loop(g, body, [x, y, y], length=3)[:1]


def _never_changes(g: Graph, c: Node, x: Node, y: Node) -> list[Node]:
    body = graph([SCALAR] * 3, lambda h, a, b, k: [h.add(ADD, [a, b]), b])
    return loop(g, body, [x, y], fixed=[y], length=3)


def _condition_reads(g: Graph, c: Node, x: Node, y: Node) -> list[Node]:
    """Nobody reads the counter, but the condition; the limit is a constant."""
    specs = [INT, SCALAR, INT, SCALAR]
    body = graph(
        specs,
        lambda h, n, a, limit, b: [
            h.add(ADD, [n, h.const(np.int32(1))]),
            h.add(ADD, [a, b]),
        ],
    )
    cond = graph(specs, lambda h, n, a, limit, b: h.add(LESS, [n, limit]))
    carried = [g.const(np.int32(0)), x]
    return loop(g, body, carried, fixed=[g.const(np.int32(3)), y], cond=cond)[1:]


def _only_the_number_of_iterations(g: Graph, c: Node, x: Node, y: Node) -> list[Node]:
    """A stack that nobody reads still tells how many iterations there are."""
    specs = [INT]
    body = graph(specs, lambda h, n: [h.add(ADD, [n, h.const(np.int32(1))]), n])
    cond = graph(specs, lambda h, n: h.add(LESS, [n, h.const(np.int32(3))]))
    _, stack = loop(g, body, [c], cond=cond)
    again = graph([SCALAR, INT, INT], lambda h, a, entry, same: h.add(ADD, [a, a]))
    return loop(g, again, [x], [stack, stack], reverse=True)


def _scans_twice(g: Graph, c: Node, x: Node, y: Node) -> list[Node]:
    arrays = [g.const(np.arange(2, dtype=np.float32)), g.const(np.ones(2, np.float32))]
    body = graph([SCALAR] * 4, lambda h, v, a, b, unread: h.add(ADD, [v, h.add(ADD, [a, b])]))
    return loop(g, body, [x], [arrays[0], *arrays], length=2)


def _effects_need_it(g: Graph, c: Node, x: Node, y: Node) -> list[Node]:
    def body(h: Graph, a: Node, b: Node) -> list[Node]:
        h.add(NOTE, [a], {"tag": 7})
        return [h.add(ADD, [a, a]), h.add(NEGATIVE, [b])]

    loop(g, graph([SCALAR, SCALAR], body), [x, y], length=2)
    return [x]


def _nested(g: Graph, c: Node, x: Node, y: Node) -> list[Node]:
    inner = graph([INT, SCALAR, SCALAR, SCALAR], _unread_results_and_more)
    return call(g, inner, c, x, y, y, inline=False)


def _unread_results_and_more(g: Graph, c: Node, x: Node, y: Node, unread: Node) -> list[Node]:
    return _unread_results(g, c, x, y)


PRUNE: Cases = {
    title: graph([INT, SCALAR, SCALAR], fn)
    for title, fn in {
        "results that nobody reads": _unread_results,
        "results that are equal in all branches": _equal_in_all,
        "operands or constants that differ": _different_in_each,
        "operands": _equal_operands,
        "a carried value that only feeds itself": _carried_for_itself,
        "a carried value that never changes": _never_changes,
        "what the condition reads": _condition_reads,
        "the number of iterations": _only_the_number_of_iterations,
        "arrays scanned twice": _scans_twice,
        "what effects need": _effects_need_it,
        "in graphs that nodes own": _nested,
    }.items()
}


def test_prune():
    check_golden("prune", _golden(PRUNE, prune))


def test_nothing_is_left_of_what_nobody_reads():
    def unread(g: Graph, x: Node) -> Node:
        body = graph([SCALAR], lambda h, a: loop(h, _doubling(), [a], length=3))
        call(g, body, x, inline=False)
        return x

    assert len(prune(graph([SCALAR], unread)).nodes()) == 1


# --- hoist ----------------------------------------------------------------------------------------

EXP = SmallOp("exp", kernel=np.exp, lower=lambda i, out, x: expr.apply("exp", x(i)))
FIRST = SmallOp(
    "first",
    lambda x: SCALAR,
    lambda x: x[0],
    lambda i, out, x: x([expr.const(0, int64)]),
)
WIDE = SmallOp(
    "wide", lambda x: PAIR, lambda x: np.stack([x, x]), lambda i, out, x: x([])
)  # to two elements
COSTLY = SmallOp(
    "costly",
    kernel=lambda x: np.exp(np.exp(np.exp(np.exp(-np.abs(x))))),
    lower=lambda i, out, x: _exps(expr.apply("neg", expr.apply("abs", x(i))), 4),
)
HOST = SmallOp("host", kernel=np.abs)  # its kernel is called back


def _exps(x: expr.Expr, n: int) -> expr.Expr:
    return _exps(expr.apply("exp", x), n - 1) if n else x


def _around(fn: Callable[[Graph, Node], Node], **attrs: Any) -> Callable[[Graph, Node], list[Node]]:
    """A loop that adds `fn(fixed value)` to what it carries."""

    def made(g: Graph, x: Node) -> list[Node]:
        specs = [x.spec, x.spec]
        body = graph(specs, lambda h, a, k: h.add(ADD, [a, fn(h, k)]))
        return loop(g, body, [x], fixed=[x], **{"length": 2, **attrs})

    return made


def _exp(h: Graph, x: Node) -> Node:
    return h.add(EXP, [h.add(NEGATIVE, [x])])


def _in_the_condition(g: Graph, x: Node) -> list[Node]:
    cond = graph([SCALAR, SCALAR], lambda h, a, k: h.add(LESS, [a, _exp(h, k)]))
    return _around(_exp, cond=cond)(g, x)


def _different_in_the_condition(g: Graph, x: Node) -> list[Node]:
    def below(h: Graph, a: Node, k: Node) -> Node:
        return h.add(LESS, [a, h.add(EXP, [k])])

    return _around(_exp, cond=graph([SCALAR, SCALAR], below))(g, x)


def _of_carried(g: Graph, x: Node) -> list[Node]:
    return loop(g, graph([SCALAR], _exp), [x], length=2)


def _in_two_loops(g: Graph, x: Node) -> list[Node]:
    body = graph([SCALAR, SCALAR], lambda h, a, k: [h.add(ADD, [a, _around(_exp)(h, k)[0]])])
    return loop(g, body, [x], fixed=[x], length=2)


def _wide(h: Graph, x: Node) -> Node:
    return h.add(SUM, [h.add(EXP, [h.add(WIDE, [x])])])


def _hosted(h: Graph, x: Node) -> Node:
    return h.add(HOST, [x])


ALWAYS = graph([SCALAR, SCALAR], lambda h, a, k: h.add(LESS, [h.const(np.float32(0)), k]))

HOIST: Cases = {
    "what costs much": graph([SCALAR], _around(_exp)),
    "what the condition computes": graph([SCALAR], _in_the_condition),
    "other things in the condition": graph([SCALAR], _different_in_the_condition),
    "not what depends on what changes": graph([SCALAR], _of_carried),
    "not what is cheap": graph([SCALAR], _around(lambda h, x: h.add(NEGATIVE, [x]))),
    "not an index map, but what it reads": graph(
        [PAIR], lambda g, v: _around(lambda h, k: h.add(WIDE, [h.add(FIRST, [_exp(h, k)])]))(g, v)
    ),
    "not what is larger than what it is made of": graph([SCALAR], _around(_wide, cond=ALWAYS)),
    "but if it costs very much": graph(
        [SCALAR],
        _around(lambda h, x: h.add(SUM, [h.add(COSTLY, [h.add(WIDE, [x])])]), cond=ALWAYS),
    ),
    "out of two loops": graph([SCALAR], _in_two_loops),
    "what the host computes": graph([SCALAR], _around(_hosted)),
    "not what the host computes, if there may be no iteration": graph(
        [SCALAR], _around(_hosted, cond=ALWAYS)
    ),
    "nor if there is none": graph([SCALAR], _around(_hosted, length=0)),
    "no effects": graph(
        [SCALAR], _around(lambda h, x: [_exp(h, x), h.add(NOTE, [x], {"tag": 1})][0])
    ),
}


def test_hoist():
    check_golden("hoist", _golden(HOIST, lambda g: prune(hoist(g))))


# --- simplify and fold ----------------------------------------------------------------------------


def _times_one(h: Graph, a: Node) -> Node:
    return h.add(MULTIPLY, [a, h.add(NEGATIVE, [h.const(np.float32(-1))])])


def test_owned_graphs_are_simplified_and_folded():
    g = graph([SCALAR], lambda g, x: loop(g, graph([SCALAR], _times_one), [x], length=3))
    new = fold(simplify(g))
    verify(new)
    (item,) = new.outputs
    body = item.inputs[0].attr("body")
    assert body.outputs == body.params


def test_owners_of_graphs_are_not_folded():
    """Although all that they read is constant: they have no kernel."""
    g = graph([], lambda g: call(g, _doubling(), g.const(np.float32(1)), inline=False))
    new = fold(g)
    verify(new)
    _agree(g, new)


def test_graphs_without_owners_are_left_alone():
    g = graph([SCALAR], _twice)
    assert all(step(g) is g for step in (merge, inline, prune, hoist))


def test_a_body_shared_by_two_stays_shared():
    body = _doubling()

    def two(g: Graph, x: Node) -> list[Node]:
        return [
            *call(g, body, x, inline=False),
            *call(g, body, g.add(NEGATIVE, [x]), inline=False),
        ]

    for step in (merge, inline, simplify, fold, hoist):
        first, second = step(graph([SCALAR], two)).outputs
        assert first.inputs[0].attr("body") is second.inputs[0].attr("body"), step
