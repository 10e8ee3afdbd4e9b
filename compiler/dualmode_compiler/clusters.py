"""Which nodes become one kernel.

Nodes are gathered into clusters one after the other: inside a cluster the load of a member is
replaced by the member's own expression. That is always correct, whatever the index; the rules in
`Clusters.refusal` only decide where it pays, and that clusters can still be put in order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any

from . import folds, regroup
from .contraction import is_contraction, linear
from .cost import DEPTH, cost, repeated_cost
from .expr import Axis, Buffer, Expr, Load
from .graph import ITEM
from .index import ravel
from .loops import loads
from .lowered import Lowered, at
from .records import dataclass
from .walks import substitute

if TYPE_CHECKING:
    from .lower import Lowering

RECOMPUTE = 48  # evaluations a fused reader may repeat, in additions per element
SERIAL = 1 << 14  # elements up to which a kernel may lose its outer, parallel loop


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
    fold: bool = False
    apart: str = ""
    members: list[Lowered] = field(default_factory=list)
    values: dict[Buffer, Expr] = field(default_factory=dict)
    reads: set[Buffer] = field(default_factory=set)

    @property
    def size(self) -> int:
        return math.prod(a.extent for a in self.axes)


class Clusters:
    """The clusters of one graph, to which nodes are added in order."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering = lowering
        self.list: list[Cluster] = []
        self.inverses: dict[Any, dict[Axis, Expr] | None] = {}
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
        fold = folds.has_fold(value)
        alone = fold or is_contraction(value, item.axes)
        if not alone and self.lowering.optimization > 1:
            self._put_ahead(item, value, reads)
            cluster, moved, apart = self._find(item, value, reads)
            if moved is not None:
                item.index, item.axes, item.own = moved.index, moved.axes, moved.own
                item.places, item.value = moved.places, moved.value
                assert item.value is not None
                value = item.value
        if cluster is None:
            cluster = self._new(item, contraction=alone)
            cluster.fold, cluster.closed = fold, folds.is_update(value)
            cluster.apart = apart
        cluster.axes = max(cluster.axes, item.axes, key=len)
        cluster.values[item.buffer] = self._inline(cluster, value)
        cluster.reads |= reads
        return cluster

    def _new(self, item: Lowered, contraction: bool = False, host: bool = False) -> Cluster:
        cluster = Cluster(len(self.list), item.axes, contraction, host)
        self.list.append(cluster)
        return cluster

    def _find(
        self, item: Lowered, value: Expr, reads: set[Buffer]
    ) -> tuple[Cluster | None, Lowered | None, str]:
        """The latest cluster that may take `item`: one that it reads from, or a sibling; and what
        becomes of `item` if it has to walk along other axes for that.

        If there is none, why the latest of them does not.
        """
        after = max((self.home[b].order for b in reads if b in self.home), default=-1)
        apart = ""
        for cluster in reversed(self.list[max(after, 0) :]):
            if cluster.order != after and reads.isdisjoint(cluster.reads):
                continue
            refusal = self.refusal(cluster, item, value)
            if not refusal:
                return cluster, None, ""
            for moved in self._moved(cluster, item, value):
                if moved.value is not None and not self.refusal(cluster, moved, moved.value):
                    return cluster, moved, ""
            apart = apart or f"{cluster.members[-1].node.op.name}: {refusal}"
        return None, None, apart

    def _put_ahead(self, item: Lowered, value: Expr, reads: set[Buffer]) -> None:
        """Where `item` could follow a product that it reads, bring clusters before that which
        happen to come later, such as a random mask's, if they give it fewer bytes to read."""
        homes = {self.home[b] for b in reads if b in self.home}
        products = [c for c in homes if c.contraction and not self.refusal(c, item, value)]
        if not products:
            return
        product = max(products, key=lambda c: c.order)
        later = {c for c in homes if c.order > product.order}
        sizes = [
            sum(b.spec.nbytes for b in reads if self.home.get(b) in part)
            for part in ({product}, later)
        ]
        moving = self._needed(later, product) if later and sizes[1] < sizes[0] else None
        if moving is None:
            return
        start, end = self.list[: product.order], self.list[product.order :]
        end = [c for c in end if c not in moving]
        self.list = [*start, *sorted(moving, key=lambda c: c.order), *end]
        for k, cluster in enumerate(self.list):
            cluster.order = k

    def _needed(self, clusters: set[Cluster], before: Cluster) -> set[Cluster] | None:
        """`clusters`, and what they need that comes after `before`; None if they need that itself,
        or the host, whose calls keep their order."""
        found, left = set[Cluster](), [*clusters]
        while left:
            cluster = left.pop()
            if cluster.order < before.order or cluster in found:
                continue
            if cluster is before or cluster.host:
                return None
            found.add(cluster)
            left += [self.home[b] for b in cluster.reads if b in self.home]
        return found

    def _inverse(
        self, places: Mapping[Axis, Expr], axes: tuple[Axis, ...]
    ) -> dict[Axis, Expr] | None:
        """`regroup.inverse`, a new dict each time; layers of a model are alike."""
        key = (*places.items(), axes)
        if key not in self.inverses:
            self.inverses[key] = regroup.inverse(places, axes)
        found = self.inverses[key]
        return None if found is None else {**found}

    def _moved(self, cluster: Cluster, item: Lowered, value: Expr) -> Iterator[Lowered]:
        """`item` along the axes of `cluster`, where it reads the elements of a member in other
        groups or another order."""
        if cluster.host or cluster.fold:
            return
        tried: list[dict[Axis, Expr]] = []
        for load in loads(value):
            if load.buffer not in cluster.values:
                continue
            read, places = self.lowering.producer[load.buffer].at(load.index), dict[Axis, Expr]()
            for axis in cluster.axes:
                if axis not in read or not read[axis].axes <= set(item.axes):
                    break
                places[axis] = read[axis]
            found = self._inverse(places, item.axes)
            if not found or found in tried or set(item.axes[: len(found)]) != found.keys():
                continue
            tried.append({**found})
            if cluster.contraction and len(found) < len(item.axes):
                continue
            for old in item.axes[len(found) :]:
                new = self.lowering.axis(len(places), old.extent)
                found[old], places[new] = new, old
            moved = item.along(places, found)
            if _in_vectors(moved):
                yield moved

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
        places = source.at(load.index)
        if all(a is i for a, i in places.items()):
            return ""
        if cluster.contraction:
            return "it needs other elements of a contraction than the finished ones"
        outer = (set(item.axes[:k]) for k in range(len(item.axes)))
        if any(load.axes == axes for axes in outer):  # evaluated once, in an outer loop
            return ""
        fixed = frozenset(a for a, i in places.items() if a is i)
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
                index = [substitute(i, mapping) for i in load.index]
                mapping[load] = at(producer[load.buffer], inner, index)
        return substitute(value, mapping) if mapping else value


def _in_vectors(item: Lowered) -> bool:
    """True if neighbours along the last axis of `item` are stored side by side, and no index that
    it reads at takes that axis apart."""
    last = item.axes[-1]
    offset = linear(ravel(item.index, item.buffer.spec.shape))
    if offset is None or offset[0].get(last) != 1 or item.value is None:
        return False
    divided = (x for x in loads(item.value) if regroup.divides(x.index, last))
    offsets = (ravel(x.index, x.buffer.spec.shape) for x in divided)
    return not any(regroup.divides((at,), last) for at in offsets)


def _size(item: Lowered) -> int:
    return math.prod(a.extent for a in item.axes)
