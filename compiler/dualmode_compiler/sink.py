"""Values that one later kernel needs are computed there, where that moves fewer bytes.

A kernel that has an element of x at hand would compute f(x) at the least cost. But if x is in
memory anyway, for others, and the only reader of f(x) reads x as well, then to store f(x) and to
load it again is for nothing: the slope of an activation is best computed on the way back.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from .cost import BYTES, DEPTH, cost, operations
from .expr import Buffer, Expr, Fold, Load, Reduce
from .loops import loads
from .walks import substitute, walk

if TYPE_CHECKING:
    from .clusters import Cluster
    from .lower import Lowering
    from .lowered import Lowered

MOST = 16  # members of a cluster that move with one that is made of them


def sink(lowering: Lowering, clusters: list[Cluster], kept: Iterable[Buffer]) -> None:
    """Move members of `clusters` to the only cluster that reads them, where it pays.

    Args:
        kept: buffers that are stored in any case.
    """
    state = _Sink(lowering, clusters, {*kept})
    for cluster in clusters:
        if not cluster.host and not cluster.fold:
            for member in reversed(cluster.members):
                state.move(cluster, member)
    state.finish()


class _Sink:
    """Attributes:
    changing: states that may get their new values before the reader runs.
    loads: of each cluster, by buffer.
    readers: the clusters that load each buffer.
    depths: of each cluster, no less than how deeply its expressions are nested.
    moved: to each cluster, loads and what stands for them, which may have the later ones in it.
    """

    def __init__(self, lowering: Lowering, clusters: list[Cluster], kept: set[Buffer]) -> None:
        self.lowering, self.kept = lowering, kept
        changing = (lowering.graph.params[k] for k, _ in lowering.graph.updates)
        self.changing = {known.buffer for p in changing if (known := lowering.lowered.get(p))}
        self.loads: dict[Cluster, dict[Buffer, set[Load]]] = {}
        self.readers: dict[Buffer, set[Cluster]] = {}
        self.depths: dict[Cluster, int] = {}
        self.moved: dict[Cluster, list[tuple[Load, Expr]]] = {}
        for cluster in clusters:
            self.loads[cluster] = {}
            if not cluster.host:
                for value in cluster.values.values():
                    self._note(cluster, value)

    def _note(self, cluster: Cluster, value: Expr) -> None:
        """`cluster` computes `value`."""
        for x in loads(value):
            self.loads[cluster].setdefault(x.buffer, set()).add(x)
            self.readers.setdefault(x.buffer, set()).add(cluster)

    def _depth(self, values: Iterable[Expr]) -> int:
        return max(cost(v, self.lowering.costs)[1] for v in values)

    def move(self, cluster: Cluster, member: Lowered) -> None:
        """Move `member` to its reader, if that is one and it pays."""
        b, readers = member.buffer, self.readers.get(member.buffer, set())
        if b in self.kept or len(readers) != 1 or b not in cluster.values or not member.axes:
            return
        (reader,) = readers
        found = self.loads[reader][b]
        if len(found) != 1:
            return
        (load,) = found
        if not self._may(reader, member, load):
            return
        parts: dict[Buffer, Expr] = {}
        value = self._value(cluster, member, parts)
        known = self.loads[reader].keys()
        if value is None or not self._pays(cluster, known, member, value, parts):
            return
        if not self.changing.isdisjoint({x.buffer for x in loads(value)} - known):
            return
        there = substitute(value, {**member.at(load.index)})
        depth = self.depths.get(reader) or self._depth(reader.values.values())
        depth += self._depth([there])
        if depth > DEPTH:
            return
        self.depths[reader] = depth
        self.moved.setdefault(reader, []).append((load, there))
        member.value = value
        reader.values = {b: there, **reader.values}
        cluster.members.remove(member)
        reader.members.insert(0, member)
        del cluster.values[b], self.readers[b], self.loads[reader][b]
        self._note(reader, there)

    def finish(self) -> None:
        """Put what was moved in the place of its loads."""
        for reader, moved in self.moved.items():
            mapping: dict[Expr, Expr] = {}
            for load, there in reversed(moved):
                mapping[load] = substitute(there, mapping)
            reader.values = {k: substitute(v, mapping) for k, v in reader.values.items()}

    def _may(self, reader: Cluster, member: Lowered, load: Load) -> bool:
        """True if `reader` is a kernel that loads every element of `member` once."""
        if reader.host or reader.fold:
            return False
        size = math.prod(a.extent for a in member.axes)
        loops = reader.axes[: len(load.axes)]
        return load.axes == {*loops} and math.prod(a.extent for a in loops) == size

    def _value(self, cluster: Cluster, member: Lowered, parts: dict[Buffer, Expr]) -> Expr | None:
        """`member` by what stays in memory; None if there is no such expression. It, and other
        members of `cluster` that it is made of, are added to `parts`."""
        needed = self._needed(cluster, member)
        for m in cluster.members if needed else ():
            if m.buffer in needed and m.value is not None:
                inner = {x: parts[x.buffer] for x in loads(m.value) if x.buffer in parts}
                parts[m.buffer] = substitute(m.value, {**inner})
        return parts.get(member.buffer)

    def _needed(self, cluster: Cluster, member: Lowered) -> set[Buffer]:
        """The members of `cluster` that `member` is made of and that do not stay in memory, itself
        among them; none where these cannot be computed elsewhere, or are too many."""
        found, left = {member.buffer}, [member]
        while left:
            m = left.pop()
            if m.value is None or any(isinstance(e, Reduce | Fold) for e in walk([m.value])):
                return set()
            for x in loads(m.value):
                if x.buffer not in cluster.values or self._stays(x.buffer):
                    continue
                source = self.lowering.producer[x.buffer]
                if any(a is not i for a, i in source.at(x.index).items()):
                    return set()
                if x.buffer not in found:
                    found.add(x.buffer)
                    left.append(source)
            if len(found) > MOST:
                return set()
        return found

    def _stays(self, b: Buffer) -> bool:
        return b in self.kept or bool(self.readers.get(b))

    def _pays(
        self,
        cluster: Cluster,
        known: Collection[Buffer],
        member: Lowered,
        value: Expr,
        parts: dict[Buffer, Expr],
    ) -> bool:
        """True if more bytes are saved than what is worth to read, but for what is `known` there,
        and to compute instead."""
        others = {
            x.buffer
            for m in cluster.members
            if m.value is not None and m.buffer not in parts
            for x in loads(m.value)
        }
        again = operations(v for b, v in parts.items() if b in others)
        more = sum(x.buffer.spec.nbytes for x in loads(value) if x.buffer not in known)
        size = math.prod(a.extent for a in member.axes)
        return (2 * member.buffer.spec.nbytes - more) / BYTES > again * size
