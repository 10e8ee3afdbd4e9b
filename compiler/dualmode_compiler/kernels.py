"""Clusters to kernels: loops, and what they store. Equal clusters are looked at once."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from . import folds
from .alike import Forms, renamed
from .contraction import recognise
from .expr import Buffer
from .index import ravel
from .loops import Kernel, Store, collapse, flat
from .staging import normalise, stage

if TYPE_CHECKING:
    from .clusters import Cluster
    from .lowered import Lowered


class Kernels:
    """The kernels of one graph.

    Attributes:
        needed: buffers that are read outside of the cluster that computes them.
    """

    def __init__(self, needed: Collection[Buffer]) -> None:
        self.needed = needed
        self._forms = Forms()
        self._made: dict[Hashable, tuple[list[Buffer], list[Kernel]]] = {}

    def of(self, cluster: Cluster) -> list[Kernel]:
        """What computes `cluster`, in order; nothing if all of it is computed where it is read."""
        members = [item for item in cluster.members if item.buffer in self.needed]
        if not members:
            return []
        stores = [(m.buffer, m.index, m.axes, cluster.values[m.buffer]) for m in members]
        key, buffers = self._forms.of((cluster.axes, cluster.contraction, stores))
        if key not in self._made:
            kernel = _kernel(cluster, members)
            made = stage(kernel) if kernel.fold is None else folds.in_blocks(kernel)
            self._made[key] = buffers, made
        return _for(cluster, buffers, *self._made[key])


def _kernel(cluster: Cluster, members: Sequence[Lowered]) -> Kernel:
    stores: list[Store] = []
    for item in members:
        offset = ravel(item.index, item.buffer.spec.shape)
        value = flat(cluster.values[item.buffer])
        stores.append(Store(item.buffer, offset, value, len(item.axes)))
    axes = cluster.axes[: max((s.depth for s in stores), default=0)]
    nodes = [item.node for item in cluster.members]
    kernel = Kernel(f"k{cluster.order}", axes, stores, None, nodes, apart=cluster.apart)
    normalise(kernel)
    collapse(kernel)
    if cluster.contraction:
        recognise(kernel)
        kernel.fold = folds.recognise(kernel)
    return kernel


def _for(
    cluster: Cluster, buffers: list[Buffer], others: list[Buffer], made: list[Kernel]
) -> list[Kernel]:
    """The kernels of `cluster`, given those that were `made` of an equal one, with its buffers."""
    mapping = dict(zip(others, buffers, strict=True))
    for b in dict.fromkeys(b for k in made for b in k.writes()):
        if b not in mapping:  # what one of the kernels passes on to the next
            mapping[b] = Buffer(b.name, b.spec)
    nodes = [item.node for item in cluster.members]
    return [
        replace(
            renamed(k, mapping),
            nodes=[*nodes] if k.nodes else [],
            apart=cluster.apart if k.apart else "",
        )
        for k in made
    ]
