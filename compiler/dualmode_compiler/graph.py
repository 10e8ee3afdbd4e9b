"""Graphs of interned nodes, and what the compiler asks of an operation."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import field
from typing import Any, Protocol

import numpy as np

from .expr import LowerRule
from .records import dataclass
from .spec import Spec, spec_of, uint8

TOKEN = Spec((0,), uint8)  # of nodes that have no value of their own


class OpDef(Protocol):
    """All that the compiler knows of an operation; `dualmode.op.Op` is one.

    Attributes:
        name: what the text form prints.
        infer: `(*specs, **attrs) -> Spec`; raises on shapes or dtypes that do not fit.
        kernel: `(*arrays, **attrs) -> array` in NumPy; called back when `lower` is missing.
        lower: `(index, out_spec, *readers, **attrs) -> Expr` (see `expr`), or None. That of an
            effect is a bool: whether the kernel has anything to do and must be called back.
        simplify: rewrite rules `(node, graph) -> Node | None` that this op owns.
        effect: True for prints and assertions: kept, never merged, run in order.
    """

    @property
    def name(self) -> str: ...
    @property
    def infer(self) -> Callable[..., Spec]: ...
    @property
    def kernel(self) -> Callable[..., Any]: ...
    @property
    def lower(self) -> LowerRule | None: ...
    @property
    def simplify(self) -> tuple[Rule, ...]: ...
    @property
    def effect(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Structural:
    """The ops that graphs themselves are made of; they have no kernel of their own."""

    name: str
    effect: bool = False
    lower: None = None
    simplify: tuple[Rule, ...] = ()

    def infer(self, *specs: Spec, **attrs: Any) -> Spec:
        raise TypeError(f"{self.name} nodes carry their own spec")

    def kernel(self, *args: Any, **attrs: Any) -> Any:
        raise TypeError(f"{self.name} nodes are not computed")


PARAM = Structural("param")  # attrs: index
CONST = Structural("const")  # attrs: value (`Literal`)
ITEM = Structural("item")  # attrs: index; one of the results of the node that it reads

# Nodes that own graphs. Their results are read by `ITEM`s; they have none of their own (`TOKEN`).
#
# COND, attrs: branches. Reads a number (int32) and operands, the parameters of every branch; the
# results are the outputs of that branch; the last one stands for all numbers out of range.
COND = Structural("cond")
# CALL, attrs: body, inline, derivative. The outputs of `body` for these operands. Where `inline` is
# false it is computed by itself: nothing is shared with the code around it. `derivative` is the
# engine's.
CALL = Structural("call")
# LOOP, attrs: body, cond, carried, scanned, length, reverse. Reads `carried` initial values, then
# `scanned` arrays, then values that stay fixed. `body` takes the carried values, one entry of each
# array (along its first axis), the fixed values, and gives the new carried values and one entry of
# each stacked result. `cond`, where it is not None, takes the carried and the fixed values; the
# loop goes on while it holds, at most `length` times unless that is None. Without it there are
# exactly `length` iterations; None: as many as the stacks among the scanned arrays have entries.
# `reverse` takes entries, and places stacked ones, from the last to the first. The results are the
# last carried values, then the stacked ones: [length, ...], or, where `length` iterations are not
# certain, stacks: shape [-1, ...], as many entries as there were iterations.
LOOP = Structural("loop")


class Literal:
    """A constant array that compares and hashes by content."""

    __slots__ = ("_key", "array")

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array
        self._key = (array.shape, array.dtype.str, array.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Literal({self.array.tolist()})"


Attrs = tuple[tuple[str, Any], ...]


class Node:
    """One application of an op. Interned by its graph: equal nodes are one node.

    Attributes:
        op: the operation.
        inputs: nodes it reads.
        attrs: static arguments, sorted by name, hashable.
        spec: shape and dtype of the value.
        site: the user's (file, line), for messages; no part of the node's identity.
        uid: creation order within the process: a node's inputs have smaller ones.
        graphs: the graphs that it owns, in the order of its attributes.
        effect: True for effects, and for owners of graphs that have some.
    """

    __slots__ = ("attrs", "effect", "graphs", "inputs", "op", "site", "spec", "uid")
    _serial = itertools.count()

    def __init__(
        self, op: OpDef, inputs: tuple[Node, ...], attrs: Attrs, spec: Spec, site: Site | None
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.attrs = attrs
        self.spec = spec
        self.site = site
        self.uid = next(Node._serial)
        self.graphs: tuple[Graph, ...] = owned(attrs) if spec is TOKEN else ()
        self.effect = op.effect or any(g.effects for g in self.graphs)

    def attr(self, name: str) -> Any:
        return dict(self.attrs)[name]

    def __array__(self, *_: Any) -> Any:
        # else NumPy would make an array of one object and compute with that
        raise TypeError("a node has no value")

    def __repr__(self) -> str:
        return f"%{self.uid} = {self.op.name}: {self.spec}"


Site = tuple[str, int]
Rule = Callable[[Node, "Graph"], Node | None]


class _Running(threading.local):
    """The user's line of the node whose kernel this thread runs for a graph, for messages."""

    site: Site | None = None


running = _Running()


def owned(attrs: Attrs) -> tuple[Graph, ...]:
    """The graphs among attributes."""
    values = (v if isinstance(v, tuple) else (v,) for _, v in attrs)
    return tuple(g for value in values for g in value if isinstance(g, Graph))


def map_graphs(attrs: Attrs, change: Callable[[Graph], Graph]) -> Attrs:
    """`attrs` with `change` of every graph among them."""

    def changed(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(changed, x))
        return change(x) if isinstance(x, Graph) else x

    return tuple((name, changed(x)) for name, x in attrs)


def results(node: Node) -> list[Spec]:
    """The specs of the results of a node that owns graphs."""
    last: Graph = node.attr("branches")[-1] if node.op is COND else node.attr("body")
    specs = [n.spec for n in last.outputs]
    if node.op is not LOOP:
        return specs
    carried, length = node.attr("carried"), node.attr("length")
    count = -1 if length is None or node.attr("cond") is not None else length
    return [
        s if k < carried else Spec((count, *s.shape), s.dtype, s.weak) for k, s in enumerate(specs)
    ]


def freeze(x: Any) -> Any:
    """An attribute in hashable form: lists become tuples, arrays `Literal`s, scalars numbers."""
    if isinstance(x, list | tuple):
        return tuple(freeze(v) for v in x)
    if isinstance(x, np.ndarray):
        return Literal(x)
    return x.item() if isinstance(x, np.generic) else x


@dataclass(eq=False)
class Graph:
    """A computation: parameters in, outputs and new values of state out.

    Attributes:
        params: parameter nodes, in order.
        outputs: result nodes.
        updates: (parameter index, node): that parameter is a state whose new value is the node's.
        effects: effect nodes in the order in which they must run.
        log: lines that passes leave behind: which rule fired where.
        base: a graph with the same parameters, whose outputs are the first of this one's: what the
            owners of both compute of the same inputs, they need only compute with this one.
    """

    params: list[Node] = field(default_factory=list)
    outputs: list[Node] = field(default_factory=list)
    updates: list[tuple[int, Node]] = field(default_factory=list)
    effects: list[Node] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    base: Graph | None = None
    _interned: dict[tuple[Any, ...], Node] = field(default_factory=dict, repr=False)
    _extended: dict[tuple[Node, ...], Graph] = field(default_factory=dict, repr=False)

    @property
    def root(self) -> Graph:
        """The graph that this one extends, at the last; itself where it extends none."""
        graph = self
        while graph.base is not None:
            graph = graph.base
        return graph

    def extended(self, more: Sequence[Node]) -> Graph:
        """This graph with further outputs, but without effects of its own; always the same one."""
        found = self._extended.get(tuple(more))
        if found is None:
            outputs = [*self.outputs, *more]
            found = Graph(self.params, outputs, base=self, _interned=self._interned)
            self._extended[tuple(more)] = found
        return found

    def param(self, spec: Spec) -> Node:
        node = Node(PARAM, (), (("index", len(self.params)),), spec, None)
        self.params.append(node)
        return node

    def set_params(self, params: Sequence[Node]) -> None:
        """Take these parameters, in this order; others must not be in use."""
        self.params = list(params)
        for k, node in enumerate(self.params):
            node.attrs = (("index", k),)

    def const(self, value: Any) -> Node:
        literal = value if isinstance(value, Literal) else Literal(np.asarray(value))
        return self._make(CONST, (), (("value", literal),), spec_of(literal.array), None)

    def add(
        self,
        op: OpDef,
        inputs: Sequence[Node],
        attrs: dict[str, Any] | Attrs = (),
        site: Site | None = None,
        spec: Spec | None = None,
    ) -> Node:
        """The node `op(*inputs, **attrs)`, existing or new. Its spec is inferred unless given."""
        inputs = tuple(inputs)
        if isinstance(attrs, dict):
            attrs = tuple(sorted((k, freeze(v)) for k, v in attrs.items()))
        if spec is None:
            spec = op.infer(*(n.spec for n in inputs), **dict(attrs))
        return self._make(op, inputs, attrs, spec, site)

    def _make(
        self, op: OpDef, inputs: tuple[Node, ...], attrs: Attrs, spec: Spec, site: Site | None
    ) -> Node:
        key = (op, inputs, attrs, spec)
        node = self._interned.get(key)
        if node is not None:
            return node
        node = Node(op, inputs, attrs, spec, site)
        if node.effect:
            self.effects.append(node)
        else:
            self._interned[key] = node
        return node

    def items(self, node: Node) -> list[Node]:
        """The results of `node`, which owns graphs."""
        return [
            self.add(ITEM, [node], {"index": k}, node.site, spec)
            for k, spec in enumerate(results(node))
        ]

    def roots(self) -> list[Node]:
        return [*self.outputs, *(n for _, n in self.updates), *self.effects]

    def nodes(self) -> list[Node]:
        """All nodes that the roots need, inputs before users."""
        return list(topological(self.roots()))


def topological(roots: Iterable[Node]) -> Iterator[Node]:
    """The nodes reachable from `roots`, inputs first; iterative, so depth does not matter."""
    seen: set[Node] = set()
    for root in roots:
        stack: list[tuple[Node, int]] = [(root, 0)]
        while stack:
            node, k = stack.pop()
            if k == 0 and node in seen:
                continue
            seen.add(node)
            while k < len(node.inputs) and node.inputs[k] in seen:
                k += 1
            if k < len(node.inputs):
                stack.append((node, k + 1))
                stack.append((node.inputs[k], 0))
            else:
                yield node
