"""Graphs with branches, calls and loops: made by hand with few words, or drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np

from dualmode_compiler.graph import CALL, COND, LOOP, TOKEN, Graph, Node
from dualmode_compiler.spec import Spec, bool_, float32, int32
from ops import ADD, NEGATIVE, OPS, SmallOp

SCALAR, PAIR, INT = Spec((), float32), Spec((2,), float32), Spec((), int32)
noted: list[tuple[Any, ...]] = []  # what effects have seen


def _note(x: Any, tag: int) -> Any:
    noted.append((tag, np.asarray(x).tolist()))
    return np.empty(0, np.uint8)


NOTE = SmallOp("note", lambda x, **_: TOKEN, _note, effect=True)
LESS = SmallOp("less", lambda x, y: Spec(x.shape, bool_), np.less)
NUMBER = SmallOp("number", lambda x: INT, lambda x: np.int32(x.sum() % 4 - 1))
SUM = SmallOp("sum", lambda x: Spec(x.shape[1:], x.dtype), lambda x: x.sum(0, dtype=x.dtype))
CONTROL_OPS: dict[str, Any] = OPS | {op.name: op for op in (NOTE, LESS, NUMBER, SUM)}


def graph(specs: Sequence[Spec], fn: Callable[..., Any]) -> Graph:
    """The graph whose outputs `fn(graph, *parameters)` gives."""
    g = Graph()
    out = fn(g, *(g.param(s) for s in specs))
    g.outputs = list(out) if isinstance(out, list | tuple) else [out]
    return g


def branch(g: Graph, index: Node, branches: Sequence[Graph], *operands: Node) -> list[Node]:
    return g.items(g.add(COND, [index, *operands], {"branches": tuple(branches)}, spec=TOKEN))


def call(g: Graph, body: Graph, *operands: Node, inline: bool = True) -> list[Node]:
    attrs = {"body": body, "derivative": None, "inline": inline}
    return g.items(g.add(CALL, operands, attrs, spec=TOKEN))


def loop(
    g: Graph,
    body: Graph,
    carried: Sequence[Node] = (),
    scanned: Sequence[Node] = (),
    fixed: Sequence[Node] = (),
    **attrs: Any,
) -> list[Node]:
    attrs = {"cond": None, "length": None, "reverse": False, **attrs}
    attrs |= {"body": body, "carried": len(carried), "scanned": len(scanned)}
    return g.items(g.add(LOOP, [*carried, *scanned, *fixed], attrs, spec=TOKEN))


# --- drawn ----------------------------------------------------------------------------------------


def control_graphs(rng: Random, specs: Sequence[Spec], steps: int, depth: int = 2) -> Graph:
    """A graph with parameters of these specs, and with up to `depth` graphs in one another."""
    g = Graph()
    pool = [g.param(s) for s in specs]
    pool += [g.const(np.float32(1)), g.const(np.int32(0)), g.const(np.zeros(2, np.float32))]
    makers = [_binary, _binary, _unary, _unary, _effect]
    makers += [_branch, _call, _loop, _loop, _loop] if depth else []
    for _ in range(steps):
        rng.choice(makers)(rng, g, pool, depth)
    g.outputs = [_pick(rng, _values(pool)) for _ in range(rng.randint(0, 3))]
    return g


def _values(pool: Sequence[Node]) -> list[Node]:
    return [n for n in pool if not n.spec.is_stack]


def _pick(rng: Random, pool: Sequence[Node]) -> Node:
    """One of `pool`, late ones rather than early ones."""
    return pool[-1 - min(rng.randint(0, len(pool) - 1), rng.randint(0, len(pool) - 1))]


def _some(rng: Random, pool: Sequence[Node], most: int) -> list[Node]:
    return [_pick(rng, pool) for _ in range(rng.randint(0, most))] if pool else []


def _binary(rng: Random, g: Graph, pool: list[Node], depth: int) -> None:
    x = _pick(rng, _values(pool))
    pool.append(g.add(ADD, [x, _pick(rng, [n for n in pool if n.spec is x.spec])]))


def _unary(rng: Random, g: Graph, pool: list[Node], depth: int) -> None:
    x = _pick(rng, _values(pool))
    ops = [NEGATIVE, NUMBER, SUM] if x.spec.ndim else [NEGATIVE, NUMBER]
    pool.append(g.add(rng.choice(ops), [x]))


def _effect(rng: Random, g: Graph, pool: list[Node], depth: int) -> None:
    g.add(NOTE, [_pick(rng, _values(pool))], {"tag": rng.randint(0, 99)})


def _inner(rng: Random, specs: Sequence[Spec], depth: int) -> Graph:
    return control_graphs(rng, specs, rng.randint(0, 4), depth - 1)


def _results(rng: Random, g: Graph, specs: Sequence[Spec]) -> list[Node]:
    """Nodes of `g` with these specs."""
    pool = [*g.params, *(n for n in g.nodes() if not n.graphs and n not in g.params)]
    zeros = [g.const(np.zeros(s.shape, s.dtype.numpy)) for s in specs]
    fitting = [[*(n for n in pool if n.spec is z.spec), z] for z in zeros]
    return [_pick(rng, f) for f in fitting]


def _branch(rng: Random, g: Graph, pool: list[Node], depth: int) -> None:
    operands = _some(rng, _values(pool), 3)
    specs = [n.spec for n in operands]
    first = _inner(rng, specs, depth)
    branches = [first]
    for _ in range(rng.randint(0, 2)):
        other = _inner(rng, specs, depth)
        other.outputs = _results(rng, other, [n.spec for n in first.outputs])
        branches.append(other)
    index = _pick(rng, [n for n in pool if n.spec is INT])
    pool += branch(g, index, branches, *operands)


def _call(rng: Random, g: Graph, pool: list[Node], depth: int) -> None:
    operands = _some(rng, _values(pool), 3)
    body = _inner(rng, [n.spec for n in operands], depth)
    pool += call(g, body, *operands, inline=rng.random() < 0.5)


def _loop(rng: Random, g: Graph, pool: list[Node], depth: int) -> None:
    carried, fixed = _some(rng, _values(pool), 3), _some(rng, _values(pool), 2)
    stacks = [n for n in pool if n.spec.is_stack]
    attrs: dict[str, Any] = {"length": rng.randint(0, 3)}
    scanned: list[Node] = []
    if stacks and rng.random() < 0.5:
        attrs, scanned = {}, [_pick(rng, stacks)]
    elif rng.random() < 0.5:
        fitting = [n for n in _values(pool) if n.spec.shape[:1] == (attrs["length"],)]
        scanned = _some(rng, fitting, 2)
    entries = [s.spec.with_shape(s.spec.shape[1:]) for s in scanned]
    specs = [*(n.spec for n in carried), *entries, *(n.spec for n in fixed)]
    body = _inner(rng, specs, depth)
    stacked = [n for n in body.outputs if n.spec.ndim < 2]
    body.outputs = [*_results(rng, body, [n.spec for n in carried]), *stacked]
    if not scanned and rng.random() < 0.5:
        attrs["cond"] = _condition(rng, [*carried, *fixed], depth)
    elif rng.random() < 0.5:
        attrs["reverse"] = True
    for longer in [body, *_longer(rng, body)]:
        pool += loop(g, longer, carried, scanned, fixed, **attrs)


def _condition(rng: Random, takes: Sequence[Node], depth: int) -> Graph:
    cond = _inner(rng, [n.spec for n in takes], depth)
    scalars = [*(n for n in cond.params if n.spec is INT), cond.const(np.int32(1))]
    cond.outputs = [cond.add(LESS, [_pick(rng, scalars), cond.const(np.int32(3))])]
    return cond


def _longer(rng: Random, body: Graph) -> list[Graph]:
    """Bodies that stack more: of `body`, of one another, or two of the same."""
    if any(n.effect and n.graphs for n in body.nodes()):
        return []  # until they are merged, its effects would run again for each of them
    nodes = [n for n in body.nodes() if not n.graphs and not n.effect and n.spec.ndim < 2]
    found: list[Graph] = []
    for _ in range(rng.choice([0, 0, 1, 2]) if nodes else 0):
        base = rng.choice([body, *found])
        more = _some(rng, [n for n in nodes if not n.spec.is_stack], 2)
        found.append(Graph(body.params, [*base.outputs, *more], base=base))
    return found
