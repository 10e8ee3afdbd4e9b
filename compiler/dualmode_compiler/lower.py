"""Graph to kernels. Fusion is substitution.

Every node is lowered to one expression of its output index, reading its inputs by `Load`. Nodes are
then gathered into clusters (`clusters`), each of which becomes one kernel (`kernels`).

Nodes of the same leading sizes share their index axes, so "reads the same element" is a pointer
compare.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from . import expr
from .clusters import Clusters
from .contraction import computes_operands, is_contraction, linear
from .copies import forwarded
from .cost import operations
from .expr import Axis, Buffer, Const, Expr, Fold, Load, Reduce
from .graph import CONST, ITEM, LOOP, PARAM, Graph, Node, results, topological
from .index import ravel
from .kernels import Kernels
from .loops import Control, HostCall, Step, loads
from .lowered import Lowered, at
from .sink import sink
from .spec import Spec, bool_, int64
from .sums import joined
from .walks import walk

# A value of at most this cost is computed again by each reader rather than stored, if that reads
# no more memory: at most one operand may be large, others being smaller by the factor SMALL.
CHEAP = 3
PROLOGUE = 8  # additions that a contraction may spend on an element of what it alone needs
SMALL = 8
_FLAG = Spec((), bool_)


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
        self.uses = Counter(n for node in self.nodes for n in node.inputs)
        self.contractions: dict[Node, list[Lowered]] = {}  # with what they compute of their inputs
        for node in self.nodes:
            self._lower(node)
        self._read_what_is_stored()

    def _demanded(self) -> set[Node]:
        """Nodes that need a buffer whoever reads them."""
        g = self.graph
        return {*g.outputs, *(n for _, n in g.updates), *g.effects}

    def _read_what_is_stored(self) -> None:
        """Contractions read operands that they might compute, but that are stored for others."""
        left = True
        while left:
            left = [c for c, own in self.contractions.items() if not all(s.virtual for s in own)]
            for node in left:
                self._demand_operands(self.lowered[node])

    def index_of(self, spec: Spec) -> tuple[tuple[Expr, ...], tuple[Axis, ...]]:
        index: list[Expr] = []
        used: list[Axis] = []
        for n in spec.shape:
            if n == 1:
                index.append(expr.const(0, int64))
                continue
            used.append(self.axis(len(used), n))
            index.append(used[-1])
        return tuple(index), tuple(used)

    def axis(self, position: int, extent: int) -> Axis:
        key = (position, extent)
        if key not in self.axes:
            self.axes[key] = Axis(extent)
        return self.axes[key]

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
            if node.op.effect:
                readers = [_Reader(self, n) for n in node.inputs]
                self._guard(node, node.op.lower((), _FLAG, *readers, **dict(node.attrs)))
            else:
                item.value = self._value(node, index)
        if item.value is None:  # the host reads whole arrays
            self.stored.add(node)
            self.stored.update(node.inputs)
            return
        if is_contraction(item.value, axes):
            self._demand_operands(item)
        fused = self.optimization > 1
        item.virtual = fused and node not in self.stored and self._cheap(item.value)

    def _value(self, node: Node, index: Sequence[Expr]) -> Expr | None:
        """The element of `node` at `index`, by its own rule."""
        assert node.op.lower is not None
        readers = [_Reader(self, n) for n in node.inputs]
        return node.op.lower(index, node.spec, *readers, **dict(node.attrs))

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
        """A contraction reads arrays, or operands that it computes as it reads them. What else
        would only be recomputed in it is stored, and what only it needs is not, where that pays."""
        sources = [self.lowered[n] for n in dict.fromkeys(item.node.inputs)]
        computed = [s for s in sources if s.virtual and not _is_array(s.value)]
        for s in computed:
            s.virtual = not self._follows_product(s)
        chosen = [s for s in computed if s.virtual]
        chosen += [s for s in sources if not s.virtual and self._is_prologue(s)]
        for stored in _choices([s.node for s in chosen]):
            for s in chosen:
                s.virtual = s.node not in stored
            item.value = self._value(item.node, item.index)
            assert item.value is not None
            if self.optimization > 1 and computes_operands(item.value, item.axes):
                break
        self.stored.update(s.node for s in computed if not s.virtual)
        self.contractions[item.node] = [s for s in sources if s.virtual]

    def _is_prologue(self, source: Lowered) -> bool:
        """True for what one contraction may compute that nobody else needs: little arithmetic, of
        arrays that are there anyway."""
        value, node = source.value, source.node
        if value is None or node in self.stored or self.uses[node] != 1 or node.op is CONST:
            return False
        if any(isinstance(e, Reduce | Fold) for e in walk([value])):
            return False
        return operations([value]) <= PROLOGUE and not self._follows_product(source)

    def _follows_product(self, source: Lowered) -> bool:
        """True if `source` follows from a product that nobody else reads: so it is best computed
        there, and the product is not stored."""
        assert source.value is not None
        buffers = (x.buffer for x in loads(source.value))
        nodes = (self.producer[b].node for b in buffers if b not in self.constants)
        return any(n in self.contractions and self.uses[n] == 1 for n in nodes)

    def _cheap(self, value: Expr) -> bool:
        if isinstance(value, Load | Const):
            return True
        if any(isinstance(e, Reduce | Fold) for e in walk([value])):
            return False
        size = _extents(value.axes)
        big = [x for x in loads(value) if x.axes and _extents(x.axes) * SMALL > size]
        if any(self._is_narrower(value, x) for x in big):
            return False
        return len(big) <= 1 and operations([value]) <= CHEAP

    def _is_narrower(self, value: Expr, x: Load) -> bool:
        """True if to store `value` is to store fewer bytes, as nobody else needs what it reads."""
        if x.buffer in self.constants or value.dtype.itemsize >= x.dtype.itemsize:
            return False
        source = self.producer[x.buffer].node
        computed = source.op is not PARAM and source.op is not ITEM and source not in self.stored
        return computed and self.uses[source] == 1


def _choices(nodes: Sequence[Node]) -> Iterator[tuple[Node, ...]]:
    """Some of `nodes`: none of them first, all of them last."""
    for count in range(len(nodes) + 1):
        yield from combinations(nodes, count)


def _is_array(value: Expr | None) -> bool:
    """True for what lies in memory, with a stride along each axis."""
    if isinstance(value, Load):
        return linear(ravel(value.index, value.buffer.spec.shape)) is not None
    return isinstance(value, Const)


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


def lower(graph: Graph, optimization: int = 2) -> tuple[list[Step], Lowering]:
    """The steps that compute `graph`, in an order that respects data and effects."""
    lowering = Lowering(graph, optimization)
    clusters = Clusters(lowering)
    for node in lowering.nodes:
        item = lowering.lowered[node]
        if node.op is not PARAM and (not item.virtual or node in lowering.stored):
            clusters.place(item)
    kept = {lowering.lowered[n].buffer for n in lowering.stored}
    kept |= {guard.buffer for guard in lowering.guards.values()}
    if optimization > 1:
        sink(lowering, clusters.list, kept)
    needed = kept | {x.buffer for c in clusters.list for v in c.values.values() for x in loads(v)}
    kernels, steps = Kernels(needed), list[Step]()
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
            steps += kernels.of(cluster)
    if optimization > 1:
        steps = joined(steps)
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
