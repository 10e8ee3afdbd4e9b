"""Graphs for sizes that were never traced, learned from traces at other sizes.

Traces of one function that differ in sizes alone are laid side by side. Where they make the same
operations, every number in which they differ is expressed by the sizes (`fit`); at other sizes the
graph is put together anew, without running the Python code. It counts only if what the code asked
of sizes (`sizes`) has the same outcome there, and if every operation infers just these shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dualmode_compiler.graph import PARAM, Graph, Literal, Node, Structural
from dualmode_compiler.spec import Spec
from dualmode_compiler.verify import InvalidGraph, verify

from . import errors
from .errors import Site
from .fit import Fitter, Form, Unfit
from .signature import Key
from .sizes import Event
from .templates import At, Constant, Followed, GraphTemplate, Outcome, Parts
from .trace import Result, Trace

_SPECIAL = (0, 1)  # sizes for which shapes follow other rules


class NotAlike(Exception):
    """Traces at different sizes differ in more than numbers; the message says where."""

    def __init__(self, why: str, site: Site | None = None) -> None:
        super().__init__(why if site is None else f"{why} at {errors.describe_site(site)}")


class _Numbers:
    """Expresses numbers by sizes: those that the code computes, as it does; others by `fit`.

    Args:
        fitter: of these sizes.
    """

    def __init__(self, fitter: Fitter) -> None:
        self._fitter = fitter
        # by value in the traces; and the same where they are rounded
        self._ways: dict[Any, dict[tuple[Any, ...], list[Form | Outcome]]] = {None: {}}

    def follow(self, values: Sequence[Any], way: Form | Outcome) -> None:
        """Note that these numbers, one a trace, come about so."""
        self._ways[None].setdefault(tuple(values), []).append(way)

    def template(self, values: tuple[Any, ...], dtype: np.dtype[Any] | None = None) -> Any:
        """What gives these numbers, one a trace; the number itself where all are equal.

        Raises:
            Unfit: nothing simple does.
        """
        if all(v == values[0] for v in values):
            return values[0]
        ways = self._rounded(dtype).get(values)
        if ways:
            return Followed(tuple(ways), type(values[0]), dtype)
        return self._fitter.fit(values, dtype)

    def _rounded(self, dtype: np.dtype[Any] | None) -> dict[Any, list[Form | Outcome]]:
        found = self._ways.get(dtype)
        if found is None:
            found = self._ways[dtype] = {}
            for values, ways in self._ways[None].items():
                rounded = tuple(np.asarray(v).astype(dtype).item() for v in values)
                found.setdefault(rounded, []).extend(ways)
        return found


class _Aligner:
    """Lays parts of traces side by side, and expresses by the sizes what differs."""

    def __init__(self, numbers: _Numbers) -> None:
        self._numbers = numbers
        self._graphs: dict[tuple[int, ...], GraphTemplate] = {}

    def value(self, values: Sequence[Any], site: Site | None = None) -> Any:
        """A template of `values`, one a trace; the value itself where all are the same.

        Raises:
            NotAlike: they differ in more than numbers.
        """
        first = values[0]
        kind = type(first)
        if any(type(v) is not kind for v in values):
            raise NotAlike("the types of static values depend on it", site)
        if isinstance(first, Graph):
            return self.graph(values)
        if isinstance(first, Literal):
            return self._literal(values, site)
        if kind is tuple:
            return self._tuple(values, site)
        if _same(values):
            return first
        if kind is int or kind is float:
            try:
                return self._numbers.template(tuple(values))
            except Unfit as error:
                raise NotAlike(str(error), site) from None
        raise NotAlike(f"{first!r} depends on it", site)

    def _tuple(self, values: Sequence[Any], site: Site | None) -> Any:
        first = values[0]
        if any(len(v) != len(first) for v in values):
            raise NotAlike("the number of values depends on it", site)
        parts = tuple(self.value(xs, site) for xs in zip(*values, strict=True))
        return first if all(p is x for p, x in zip(parts, first, strict=True)) else Parts(parts)

    def _literal(self, values: Sequence[Literal], site: Site | None) -> Any:
        first = values[0].array
        if all(v == values[0] for v in values):
            return values[0]
        alike = all(v.array.shape == first.shape and v.array.dtype == first.dtype for v in values)
        if not alike or first.size != 1 or first.dtype.kind not in "iuf":
            raise NotAlike("a constant depends on it", site)

        try:
            form = self._numbers.template(tuple(v.array.item() for v in values), first.dtype)
        except Unfit as error:
            raise NotAlike(f"a constant depends on it: {error}", site) from None
        return Constant(form, first.shape, first.dtype)

    def graph(self, graphs: Sequence[Graph]) -> GraphTemplate:
        key = tuple(map(id, graphs))
        if key not in self._graphs:
            self._graphs[key] = self._graph(graphs)
        return self._graphs[key]

    def _graph(self, graphs: Sequence[Graph]) -> GraphTemplate:
        bases = [g.base for g in graphs if g.base is not None]
        if bases and len(bases) < len(graphs):
            raise NotAlike("gradients of loops depend on it")
        base = self.graph(bases) if bases else None
        orders = [sorted(g.nodes(), key=lambda n: n.uid) for g in graphs]
        shapes, attrs = {}, {}
        places = [
            {n: k for k, n in enumerate([*g.params, *(n for n in order if n.op is not PARAM)])}
            for g, order in zip(graphs, orders, strict=True)
        ]
        if len({len(p) for p in places}) > 1 or len({len(g.params) for g in graphs}) > 1:
            raise NotAlike("the number of operations depends on it", _first_other(places))
        for nodes in zip(*places, strict=True):
            self._align(nodes, places, shapes, attrs)
        ends = [
            (
                tuple(p[n] for n in g.outputs),
                tuple((k, p[n]) for k, n in g.updates),
                tuple(p[n] for n in g.effects if n in p),
            )
            for g, p in zip(graphs, places, strict=True)
        ]
        if any(e != ends[0] for e in ends):
            raise NotAlike("the results depend on it")
        order = [n for n in places[0] if n.op is not PARAM]
        return GraphTemplate(graphs[0], order, base, shapes, attrs)

    def _align(
        self,
        nodes: Sequence[Node],
        places: Sequence[dict[Node, int]],
        shapes: dict[Node, Any],
        attrs: dict[Node, Any],
    ) -> None:
        first, site = nodes[0], nodes[0].site
        reads = [tuple(p[x] for x in n.inputs) for n, p in zip(nodes, places, strict=True)]
        kinds = {(n.op, n.spec.dtype, n.spec.weak, n.spec.ndim) for n in nodes}
        if len(kinds) > 1 or any(r != reads[0] for r in reads):
            raise NotAlike("other operations are made for other sizes", site)
        if isinstance(first.op, Structural):  # others infer theirs
            shape = self.value([n.spec.shape for n in nodes], site)
            if shape is not first.spec.shape:
                shapes[first] = shape
        if first.op is not PARAM:
            template = self.value([n.attrs for n in nodes], site)
            if template is not first.attrs:
                attrs[first] = template


def _same(values: Sequence[Any]) -> bool:
    first = values[0]
    try:
        return all(v is first or bool(v == first) or (v != v and first != first) for v in values)
    except (TypeError, ValueError):  # values that have no one truth
        return False


def _first_other(places: Sequence[dict[Node, int]]) -> Site | None:
    """The first line at which traces make different operations."""
    for nodes in zip(*places, strict=False):
        if len({n.op for n in nodes}) > 1:
            return nodes[0].site
    return None


class Learned:
    """How to make traces for new sizes.

    Args:
        traces: made by the same Python code for signatures that differ in sizes alone; the first
            one lends what they share.

    Raises:
        NotAlike: their Python code did different things.
    """

    def __init__(self, traces: Sequence[Trace]) -> None:
        self._first = traces[0]
        axes = varying([t.key for t in traces])
        rows = [tuple(_size(t.key, place) for place in axes) for t in traces]
        fitter = Fitter(rows)
        self._symbols = [axes[k] for k in fitter.symbols]
        numbers = _Numbers(fitter)
        for column in zip(*rows, strict=True):
            numbers.follow(column, fitter.fit(column))
        aligner = _Aligner(numbers)
        self._shapes = {
            k: aligner.value([t.key.spec(k).shape for t in traces])
            for k in dict.fromkeys(k for k, _ in axes)
        }
        self._outcomes = _outcomes(aligner, numbers, [t.events for t in traces])
        _check_surroundings(traces)
        self._graph = aligner.graph([t.graph for t in traces])
        self._leaves = aligner.value([tuple(t.result.leaves) for t in traces])

    def trace(self, key: Key) -> Trace:
        """What tracing for `key` would give.

        Raises:
            Unfit: it is not known to.
        """
        sizes = tuple(_size(key, place) for place in self._symbols)
        if any(_size(key, (k, a)) in _SPECIAL for k, a in self._symbols):
            raise Unfit("sizes 0 and 1 follow rules of their own")
        at = At(sizes)
        for k, shape in self._shapes.items():
            if at.fill(shape) != key.spec(k).shape:
                raise Unfit("sizes that have always been equal are not")
        events = [e.event(at) if isinstance(e, Outcome) else e for e in self._outcomes]
        try:
            graph, image = self._graph.build(at)
            verify(graph)
        except (InvalidGraph, TypeError, ValueError, OverflowError) as error:
            raise Unfit(str(error)) from None
        first = self._first
        result = Result(first.result.form, list(at.fill(self._leaves)))
        result.nodes = [image[n] for n in first.result.nodes]
        known = Key(key.form, key.leaves, first.key.values)
        return replace(first, key=known, graph=graph, result=result, events=events)


def varying(keys: Sequence[Key]) -> list[tuple[int, int]]:
    """(leaf, axis) of the sizes in which `keys`, otherwise equal, differ."""
    first = keys[0]
    return [
        (k, axis)
        for k, leaf in enumerate(first.leaves)
        if isinstance(leaf, Spec)
        for axis in range(leaf.ndim)
        if any(_size(key, (k, axis)) != leaf.shape[axis] for key in keys)
    ]


def _size(key: Key, place: tuple[int, int]) -> int:
    return key.spec(place[0]).shape[place[1]]


def _outcomes(
    aligner: _Aligner, numbers: _Numbers, logs: Sequence[Sequence[Event]]
) -> list[Event | Outcome]:
    """What the code asked, in order; an `Outcome` where it depends on sizes."""
    found: list[Event | Outcome] = []
    for events in zip(*logs, strict=False):
        first = events[0]
        if len({(e.operation, e.site) for e in events}) > 1:
            raise NotAlike("Python code goes another way", first.site)
        if all(e.operands == first.operands for e in events):
            found.append(first)
            continue
        if first.operation == "the value":
            raise NotAlike("Python code takes it for a plain number", first.site)
        operands = aligner.value([e.operands for e in events], first.site)
        same = all(e.outcome == first.outcome for e in events)
        if type(first.outcome) is bool and not same:
            raise NotAlike("Python code decides by it", first.site)
        asked = Outcome(first.operation, operands, first.outcome if same else None, first.site)
        if not same:
            numbers.follow([e.outcome for e in events], asked)
        found.append(asked)
    shortest, longest = min(logs, key=len), max(logs, key=len)
    if len(shortest) < len(longest):
        raise NotAlike("Python code goes another way", longest[len(shortest)].site)
    return found


def _check_surroundings(traces: Sequence[Trace]) -> None:
    """Raise `NotAlike` unless all traces read the same variables and constants."""
    first = traces[0]
    for t in traces:
        if t.captures or t.creates:
            raise NotAlike("the trace belongs to another one, or creates variables")
        if [(k, id(v)) for k, v in t.states] != [(k, id(v)) for k, v in first.states]:
            raise NotAlike("it uses other variables")
        if (t.traced, t.params, t.key.values) != (first.traced, first.params, first.key.values):
            raise NotAlike("the values of other arguments are needed")
        if t.result.form != first.result.form:
            raise NotAlike("the structure of the result depends on it")
        same = len(t.constants) == len(first.constants) and all(
            i == k and (a is b or (a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)))
            for (i, a), (k, b) in zip(t.constants, first.constants, strict=True)
        )
        if not same:
            raise NotAlike("an array that is computed while tracing depends on it")
