"""Graph to kernels. Fusion is substitution.

Every node is lowered to one expression of its output index, reading its inputs by `Load`. Nodes are
then gathered into clusters, each of which becomes one kernel: inside a cluster the load of a member
is replaced by the member's own expression. That is always correct, whatever the index; the rules in
`_Clusters.refusal` only decide where it pays, and that clusters can still be put in order.

Nodes of the same leading sizes share their index axes, so "reads the same element" is a pointer
compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import expr, folds
from .contraction import is_contraction, recognise
from .copies import forwarded
from .cost import cost, operations, repeated_cost
from .expr import Axis, Buffer, Const, Expr, Fold, Load, Reduce, int64, walk
from .graph import CONST, ITEM, LOOP, PARAM, Graph, Node, results, topological
from .loops import (
    Control,
    HostCall,
    Kernel,
    Step,
    Store,
    collapse,
    flat,
    loads,
)
from .spec import Spec, bool_
from .staging import normalise, stage

# A value of at most this cost is computed again by each reader rather than stored, if that reads
# no more memory: at most one operand may be large, others being smaller by the factor SMALL.
CHEAP = 3
SMALL = 8
RECOMPUTE = 48  # evaluations a fused reader may repeat, in additions per element
SERIAL = 1 << 14  # elements up to which a kernel may lose its outer, parallel loop
_FLAG = Spec((), bool_)
DEPTH = 120  # nesting of expressions, kept clear of Python's recursion limit


@dataclass(slots=True)
class Lowered:
    """A node as an expression of its own index axes.

    Attributes:
        index: one expression per axis of the node; constants 0 where the size is 1.
        axes: the axes in `index`: all sizes but 1.
        value: the element at `index`, or None where only the host can compute it.
        buffer: where the node lives if it is stored.
        virtual: never stored unless demanded: an index map, a constant, or cheap.
    """

    node: Node
    index: tuple[Expr, ...]
    axes: tuple[Axis, ...]
    value: Expr | None
    buffer: Buffer
    virtual: bool = False


@dataclass(eq=False, slots=True)
class Cluster:
    """Nodes that become one kernel over `axes`; `values` are theirs, fused, by buffer.

    Attributes:
        apart: the kernel that the first node might have been fused with, and why it is not.
    """

    order: int
    axes: tuple[Axis, ...]
    contraction: bool = False
    host: bool = False
    closed: bool = False
    apart: str = ""
    members: list[Lowered] = field(default_factory=list)
    values: dict[Buffer, Expr] = field(default_factory=dict)
    reads: set[Buffer] = field(default_factory=set)

    @property
    def size(self) -> int:
        return math.prod(a.extent for a in self.axes)


class Lowering:
    """The state of lowering one graph."""

    def __init__(self, graph: Graph, optimization: int) -> None:
        self.graph = graph
        self.optimization = optimization  # below 2, every node but constants has its own kernel
        # effects first, in their order: so what clusters wait for can be no circle
        self.nodes = list(topological([*graph.effects, *graph.roots()]))
        self.axes: dict[tuple[int, int], Axis] = {}
        self.costs: dict[Expr, tuple[float, int]] = {}
        self.lowered: dict[Node, Lowered] = {}
        self.producer: dict[Buffer, Lowered] = {}
        self.constants: dict[Buffer, Node] = {}
        self.items: dict[Node, dict[int, Buffer]] = {}  # results of owners of graphs, by number
        self.guards: dict[Node, Lowered] = {}  # whether an effect has anything to do
        self.stored = self._demanded()
        for node in self.nodes:
            self._lower(node)

    def _demanded(self) -> set[Node]:
        """Nodes that need a buffer whoever reads them."""
        g = self.graph
        return {*g.outputs, *(n for _, n in g.updates), *g.effects}

    def index_of(self, spec: Spec) -> tuple[tuple[Expr, ...], tuple[Axis, ...]]:
        index: list[Expr] = []
        used: list[Axis] = []
        for n in spec.shape:
            if n == 1:
                index.append(expr.const(0, int64))
                continue
            key = (len(used), n)
            if key not in self.axes:
                self.axes[key] = Axis(n)
            used.append(self.axes[key])
            index.append(used[-1])
        return tuple(index), tuple(used)

    def _lower(self, node: Node) -> None:
        index, axes = ((), ()) if node.spec.is_stack else self.index_of(node.spec)
        buffer = Buffer(f"b{len(self.lowered)}", node.spec)
        item = Lowered(node, index, axes, None, buffer)
        self.lowered[node] = item
        self.producer[buffer] = item
        if node.op is PARAM:
            item.virtual = True
            item.value = expr.load(buffer, index)
            return
        if node.op is CONST:
            self._lower_const(item)
            return
        if node.op is ITEM:  # where its owner stores it
            self.items.setdefault(node.inputs[0], {})[node.attr("index")] = buffer
            return
        if node.op.lower is not None:
            readers = [_Reader(self, n) for n in node.inputs]
            if node.op.effect:
                self._guard(node, node.op.lower((), _FLAG, *readers, **dict(node.attrs)))
            else:
                item.value = node.op.lower(index, node.spec, *readers, **dict(node.attrs))
        if item.value is None:  # the host reads whole arrays
            self.stored.add(node)
            self.stored.update(node.inputs)
            return
        if is_contraction(item.value, axes):
            self._demand_operands(item)
        fused = self.optimization > 1
        item.virtual = fused and node not in self.stored and self._cheap(item.value)

    def _guard(self, node: Node, value: Expr | None) -> None:
        if value is not None:
            buffer = Buffer(f"g{len(self.guards)}", _FLAG)
            self.guards[node] = self.producer[buffer] = Lowered(node, (), (), value, buffer)

    def _lower_const(self, item: Lowered) -> None:
        array = item.node.attr("value").array
        item.virtual = True
        if not item.node.spec.dtype.is_complex and _uniform(array):
            item.value = expr.const(array.flat[0].item(), item.node.spec.dtype)
            return
        data = Buffer(f"c{len(self.constants)}", item.node.spec)
        self.constants[data] = item.node
        item.value = expr.load(data, item.index)

    def _demand_operands(self, item: Lowered) -> None:
        """A contraction reads plain arrays: what would only be recomputed in it is stored."""
        for n in item.node.inputs:
            source = self.lowered[n]
            if source.virtual and not isinstance(source.value, Load | Const):
                source.virtual = False
                self.stored.add(source.node)
        readers = [_Reader(self, n) for n in item.node.inputs]
        lower = item.node.op.lower
        assert lower is not None
        item.value = lower(item.index, item.node.spec, *readers, **dict(item.node.attrs))

    def _cheap(self, value: Expr) -> bool:
        if isinstance(value, Load | Const):
            return True
        if any(isinstance(e, Reduce | Fold) for e in walk([value])):
            return False
        size = _extents(value.axes)
        big = [x for x in loads(value) if x.axes and _extents(x.axes) * SMALL > size]
        return len(big) <= 1 and operations([value]) <= CHEAP


def _extents(axes: Iterable[Axis]) -> int:
    return math.prod(a.extent for a in axes)


def _uniform(array: np.ndarray[Any, Any]) -> bool:
    """Whether all elements have the same bits: 0.0 and -0.0 differ."""
    flat = np.ascontiguousarray(array).reshape(-1)
    raw = flat.view(np.dtype((np.void, array.itemsize)))
    return flat.size > 0 and bool((raw == raw[0]).all())


class _Reader:
    """What a lower rule reads an input with: virtual inputs give their value, others a load."""

    __slots__ = ("_lowering", "node", "spec")

    def __init__(self, lowering: Lowering, node: Node) -> None:
        self._lowering = lowering
        self.node = node
        self.spec = node.spec

    def __call__(self, index: Sequence[Expr]) -> Expr:
        index = tuple(
            expr.const(0, int64) if n == 1 else i
            for i, n in zip(index, self.spec.shape, strict=True)
        )
        item = self._lowering.lowered[self.node]
        if not item.virtual or item.value is None:
            return expr.load(item.buffer, index)
        return at(item, item.value, index)


def at(item: Lowered, value: Expr, index: Sequence[Expr]) -> Expr:
    """`value`, given at the item's own axes, at another index.

    A reduction in the index may come to stand inside of the same one in the value: then the value
    gets bound axes of its own.
    """
    mapping: dict[Expr, Expr] = {
        a: i for a, i in zip(item.index, index, strict=True) if isinstance(a, Axis) and a is not i
    }
    taken = _bound_axes(mapping.values())
    if taken:
        value = _rebound(value, taken)
    return expr.substitute(value, mapping) if mapping else value


def _bound_axes(roots: Iterable[Expr]) -> set[Axis]:
    return {a for e in walk(roots) if isinstance(e, Reduce) for a in e.bound}


def _rebound(x: Expr, taken: set[Axis]) -> Expr:
    """`x` with new axes for those that its reductions bind and that are `taken`."""
    memo: dict[Expr, Expr] = {}
    for e in walk([x]):
        if isinstance(e, Reduce):
            bound = [Axis(a.extent) if a in taken else a for a in e.bound]
            new: dict[Expr, Expr] = dict(zip(e.bound, bound, strict=True))
            memo[e] = expr.reduce(e.kind, bound, expr.substitute(memo[e.body], new))
        else:
            args = [memo[c] for c in expr.operands(e)]
            memo[e] = expr.rebuild(e, args) if args else e
    return memo[x]


class _Clusters:
    def __init__(self, lowering: Lowering) -> None:
        self.lowering = lowering
        self.list: list[Cluster] = []
        self.home: dict[Buffer, Cluster] = {}

    def place(self, item: Lowered) -> None:
        if item.node.op is ITEM:
            cluster = self.home[self.lowering.lowered[item.node.inputs[0]].buffer]
        elif item.value is None:
            if item.node in self.lowering.guards:
                self.place(self.lowering.guards[item.node])
            cluster = self._new(item, host=True)
        else:
            cluster = self._computed(item, item.value)
        cluster.members.append(item)
        self.home[item.buffer] = cluster

    def _computed(self, item: Lowered, value: Expr) -> Cluster:
        reads = {x.buffer for x in loads(value)}
        cluster, apart = None, ""
        alone = is_contraction(value, item.axes) or folds.has_fold(value)
        if not alone and self.lowering.optimization > 1:
            cluster, apart = self._find(item, value, reads)
        if cluster is None:
            cluster = self._new(item, contraction=alone)
            cluster.closed = folds.is_update(value)
            cluster.apart = apart
        cluster.axes = max(cluster.axes, item.axes, key=len)
        cluster.values[item.buffer] = self._inline(cluster, value)
        cluster.reads |= reads
        return cluster

    def _new(self, item: Lowered, contraction: bool = False, host: bool = False) -> Cluster:
        cluster = Cluster(len(self.list), item.axes, contraction, host)
        self.list.append(cluster)
        return cluster

    def _find(self, item: Lowered, value: Expr, reads: set[Buffer]) -> tuple[Cluster | None, str]:
        """The latest cluster that may take `item`: one that it reads from, or a sibling.

        If there is none, why the latest of them does not.
        """
        after = max((self.home[b].order for b in reads if b in self.home), default=-1)
        apart = ""
        for cluster in reversed(self.list[max(after, 0) :]):
            if cluster.order != after and reads.isdisjoint(cluster.reads):
                continue
            refusal = self.refusal(cluster, item, value)
            if not refusal:
                return cluster, ""
            apart = apart or f"{cluster.members[-1].node.op.name}: {refusal}"
        return None, apart

    def refusal(self, cluster: Cluster, item: Lowered, value: Expr) -> str:
        """Why `item` is not fused into `cluster`; empty if it pays to do so."""
        if cluster.host:
            return "it is no kernel"
        if cluster.closed:
            return "it writes at indices that it reads"
        if cluster.contraction and item.axes != cluster.axes:
            return "it is a contraction of other sizes"
        shared = min(len(cluster.axes), len(item.axes))
        if cluster.axes[:shared] != item.axes[:shared]:
            return "its loops have other sizes"
        if shared == 0 and (cluster.axes or item.axes) and max(cluster.size, _size(item)) > SERIAL:
            return "one thread would run both"
        if not cluster.axes and item.axes:
            return "a number is finished before a loop that reads it"
        return next((r for x in loads(value) if (r := self._refused(cluster, item, x))), "")

    def _refused(self, cluster: Cluster, item: Lowered, load: Load) -> str:
        """Why `load` cannot become the value of a member of `cluster`."""
        inner = cluster.values.get(load.buffer)
        if inner is None:
            return ""
        costs = self.lowering.costs
        source = self.lowering.producer[load.buffer]
        if cost(inner, costs)[1] > DEPTH:
            return "the expression would be nested too deeply"
        if load.index == source.index:
            return ""
        if cluster.contraction:
            return "it needs other elements of a contraction than the finished ones"
        outer = (set(item.axes[:k]) for k in range(len(item.axes)))
        if any(load.axes == axes for axes in outer):  # evaluated once, in an outer loop
            return ""
        pairs = zip(source.index, load.index, strict=True)
        fixed = frozenset(a for a, i in pairs if isinstance(a, Axis) and a is i)
        again = repeated_cost(inner, fixed, costs)
        if again > RECOMPUTE:
            return f"each element would cost {again:.0f} additions again"
        return ""

    def _inline(self, cluster: Cluster, value: Expr) -> Expr:
        producer = self.lowering.producer
        mapping: dict[Expr, Expr] = {}
        for load in loads(value):  # those in the index of another come before it
            inner = cluster.values.get(load.buffer)
            if inner is not None:
                index = [expr.substitute(i, mapping) for i in load.index]
                mapping[load] = at(producer[load.buffer], inner, index)
        return expr.substitute(value, mapping) if mapping else value


def _size(item: Lowered) -> int:
    return math.prod(a.extent for a in item.axes)


def lower(graph: Graph, optimization: int = 2) -> tuple[list[Step], Lowering]:
    """The steps that compute `graph`, in an order that respects data and effects."""
    lowering = Lowering(graph, optimization)
    clusters = _Clusters(lowering)
    for node in lowering.nodes:
        item = lowering.lowered[node]
        if node.op is not PARAM and (not item.virtual or node in lowering.stored):
            clusters.place(item)
    needed = _needed(lowering, clusters)
    steps: list[Step] = []
    for cluster in clusters.list:
        if cluster.host:
            node = cluster.members[0].node
            inputs = [lowering.lowered[n].buffer for n in node.inputs]
            if node.graphs:
                steps.append(_control(node, inputs, lowering.items.get(node, {})))
            else:
                guard = lowering.guards.get(node)
                flag = None if guard is None else guard.buffer
                steps.append(HostCall(node, inputs, cluster.members[0].buffer, flag))
        else:
            kernel = _kernel(cluster, needed)
            steps += stage(kernel) if kernel.fold is None else folds.in_blocks(kernel)
    kept = {lowering.lowered[n].buffer for n in lowering.stored}
    return forwarded(steps, kept), lowering


def _control(node: Node, inputs: list[Buffer], items: dict[int, Buffer]) -> Control:
    wanted = sorted(items)
    if node.op is not LOOP:
        graphs = [
            Graph(g.params, [g.outputs[k] for k in wanted], effects=g.effects) for g in node.graphs
        ]
        return Control(node, inputs, [items[k] for k in wanted], graphs)
    body, cond, carried = node.attr("body"), node.attr("cond"), node.attr("carried")
    stacked = [k for k in wanted if k >= carried]
    states = [(k, n) for k, n in enumerate(body.outputs[:carried])]
    entries = [body.outputs[k] for k in stacked]
    specs = results(node)
    outputs = [items.get(k) or Buffer(f"u{k}", specs[k]) for k in (*range(carried), *stacked)]
    graphs = [Graph(body.params, entries, states, body.effects)]
    return Control(node, inputs, outputs, graphs if cond is None else [*graphs, cond])


def _needed(lowering: Lowering, clusters: _Clusters) -> set[Buffer]:
    """Buffers that someone outside their own cluster reads."""
    needed = {lowering.lowered[n].buffer for n in lowering.stored}
    needed.update(guard.buffer for guard in lowering.guards.values())
    for cluster in clusters.list:
        for value in cluster.values.values():
            needed.update(x.buffer for x in loads(value))
    return needed


def _kernel(cluster: Cluster, needed: set[Buffer]) -> Kernel:
    stores: list[Store] = []
    nodes: list[Node] = []
    for item in cluster.members:
        nodes.append(item.node)
        if item.buffer in needed:
            offset = expr.ravel(item.index, item.buffer.spec.shape)
            value = flat(cluster.values[item.buffer])
            stores.append(Store(item.buffer, offset, value, len(item.axes)))
    axes = cluster.axes[: max((s.depth for s in stores), default=0)]
    kernel = Kernel(f"k{cluster.order}", axes, stores, None, nodes, apart=cluster.apart)
    normalise(kernel)
    collapse(kernel)
    if cluster.contraction:
        recognise(kernel)
        kernel.fold = folds.recognise(kernel)
    return kernel
