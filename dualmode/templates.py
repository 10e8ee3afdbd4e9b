"""Parts of graphs in which numbers depend on sizes, to be filled in for some sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any

import numpy as np

from dualmode_compiler.graph import CONST, Graph, Literal, Node, Structural
from dualmode_compiler.records import dataclass
from dualmode_compiler.spec import Spec

from . import errors
from .errors import Site
from .fit import Form, Sizes, Unfit
from .sizes import OPERATIONS, Event


@dataclass
class At:
    """Templates filled in for `sizes`, each once."""

    sizes: Sizes
    graphs: dict[int, tuple[Graph, dict[Node, Node]]] = field(default_factory=dict)
    numbers: dict[Form | Outcome, Any] = field(default_factory=dict)

    def fill(self, x: Any) -> Any:
        """`x` with what depends on sizes filled in."""
        if isinstance(x, Form | Outcome):
            if x not in self.numbers:
                self.numbers[x] = x.at(self.sizes) if isinstance(x, Form) else x.compute(self)
            return self.numbers[x]
        if isinstance(x, Followed):
            return x.only([self.fill(way) for way in x.ways])
        if isinstance(x, Parts):
            return tuple(map(self.fill, x.parts))
        if isinstance(x, Constant):
            return Literal(np.full(x.shape, self.fill(x.form), x.dtype))
        return x.build(self)[0] if isinstance(x, GraphTemplate) else x


@dataclass(frozen=True, slots=True)
class Parts:
    """A tuple, some part of which depends on sizes."""

    parts: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant of one element that depends on sizes."""

    form: Form | Followed
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(eq=False)
class Outcome:
    """What the code asked of sizes; `always` is what it was told, where that was the same in all
    traces: what the code did then may rest on it."""

    operation: str
    operands: Any
    always: Any
    site: Site | None

    def compute(self, at: At) -> Any:
        """What it is told at other sizes.

        Raises:
            Unfit: it would go another way.
        """
        try:
            found = OPERATIONS[self.operation](*at.fill(self.operands))
        except (ArithmeticError, ValueError):
            found = None
        if found is None or (self.always is not None and found != self.always):
            raise Unfit(f"Python code asks for it at {errors.describe_site(self.site)}")
        return found

    def event(self, at: At) -> Event:
        return Event(self.operation, at.fill(self.operands), at.fill(self), self.site)


@dataclass(frozen=True, eq=False, slots=True)
class Followed:
    """A number that the code computes from sizes, in one of these `ways` or more."""

    ways: tuple[Form | Outcome, ...]
    kind: type
    dtype: np.dtype[Any] | None  # what it is rounded to

    def only(self, values: Sequence[Any]) -> Any:
        """The one value of all ways, which gave the same in all traces.

        Raises:
            Unfit: here they do not.
        """
        if self.dtype is not None:
            values = [np.asarray(v, self.dtype).item() for v in values]
        if any(v != values[0] for v in values) or self.kind(values[0]) != values[0]:
            raise Unfit("what is computed in two ways would no longer be equal")
        return self.kind(values[0])


@dataclass(eq=False)
class GraphTemplate:
    """`graph`, whose `attrs`, and those `shapes` that no op infers, depend on sizes."""

    graph: Graph
    order: list[Node]
    base: GraphTemplate | None
    shapes: dict[Node, Any]
    attrs: dict[Node, Any]

    def build(self, at: At) -> tuple[Graph, dict[Node, Node]]:
        """The graph, and the images of nodes."""
        found = at.graphs.get(id(self))
        if found is None:
            found = at.graphs[id(self)] = self._build(at)
        return found

    def _build(self, at: At) -> tuple[Graph, dict[Node, Node]]:
        graph, new, image = self.graph, Graph(), {}
        if self.base is not None:  # shares its nodes
            base, known = self.base.build(at)
            image = dict(known)
            new = Graph(params=list(base.params), base=base, _interned=dict(base._interned))
        else:
            image = {n: new.param(self._spec(n, at)) for n in graph.params}
        for node in self.order:
            if node not in image:
                image[node] = self._node(node, new, image, at)
        new.outputs = [image[n] for n in graph.outputs]
        new.updates = [(k, image[n]) for k, n in graph.updates]
        return new, image

    def _node(self, node: Node, new: Graph, image: dict[Node, Node], at: At) -> Node:
        attrs = at.fill(self.attrs[node]) if node in self.attrs else node.attrs
        if node.op is CONST:
            return new.const(dict(attrs)["value"])
        inputs = [image[n] for n in node.inputs]
        if isinstance(node.op, Structural):
            return new.add(node.op, inputs, attrs, node.site, self._spec(node, at))
        spec = node.op.infer(*(n.spec for n in inputs), **dict(attrs))
        if node.spec.weak:
            spec = Spec(spec.shape, node.spec.dtype, weak=True)
        return new.add(node.op, inputs, attrs, node.site, spec)

    def _spec(self, node: Node, at: At) -> Spec:
        if node not in self.shapes:
            return node.spec
        return Spec(at.fill(self.shapes[node]), node.spec.dtype, node.spec.weak)
