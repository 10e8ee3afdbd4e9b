"""A node as an expression of its index, and what that is at another index or along other axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from . import expr
from .expr import Axis, Buffer, Expr, Reduce
from .graph import Node
from .records import dataclass
from .walks import operands, rebuild, substitute, walk


@dataclass(slots=True)
class Lowered:
    """A node as an expression of its own index axes.

    Attributes:
        index: one expression per axis of the node; constants 0 where the size is 1.
        axes: the axes in `index`: all sizes but 1.
        value: the element at `index`, or None where only the host can compute it.
        buffer: where the node lives if it is stored.
        virtual: never stored unless demanded: an index map, a constant, or cheap.
        own: `index` before the node came to walk along the axes of another kernel (`regroup`).
        places: `axes` by those in `own`, if that has happened.
    """

    node: Node
    index: tuple[Expr, ...]
    axes: tuple[Axis, ...]
    value: Expr | None
    buffer: Buffer
    virtual: bool = False
    own: tuple[Expr, ...] = ()
    places: Mapping[Axis, Expr] | None = None

    def at(self, index: Sequence[Expr]) -> dict[Axis, Expr]:
        """What `axes` are for the element at `index`."""
        pairs = zip(self.own or self.index, index, strict=True)
        own = {a: i for a, i in pairs if isinstance(a, Axis)}
        if self.places is None:
            return own
        moved: dict[Expr, Expr] = {**own}
        return {a: substitute(x, moved) for a, x in self.places.items()}

    def along(self, places: Mapping[Axis, Expr], axes: Mapping[Axis, Expr]) -> Lowered:
        """The same along other axes: they by the node's own, and its own by them."""
        mapping: dict[Expr, Expr] = {**axes}
        index = tuple(substitute(i, mapping) for i in self.index)
        value = None if self.value is None else substitute(self.value, mapping)
        return Lowered(
            self.node, index, (*places,), value, self.buffer, self.virtual, self.index, places
        )


def at(item: Lowered, value: Expr, index: Sequence[Expr]) -> Expr:
    """`value`, given at the item's own axes, at another index.

    A reduction in the index may come to stand inside of the same one in the value: then the value
    gets bound axes of its own.
    """
    mapping: dict[Expr, Expr] = {a: i for a, i in item.at(index).items() if a is not i}
    taken = _bound_axes(mapping.values())
    if taken:
        value = _rebound(value, taken)
    return substitute(value, mapping) if mapping else value


def _bound_axes(roots: Iterable[Expr]) -> set[Axis]:
    return {a for e in walk(roots) if isinstance(e, Reduce) for a in e.bound}


def _rebound(x: Expr, taken: set[Axis]) -> Expr:
    """`x` with new axes for those that its reductions bind and that are `taken`."""
    memo: dict[Expr, Expr] = {}
    for e in walk([x]):
        if isinstance(e, Reduce):
            bound = [Axis(a.extent) if a in taken else a for a in e.bound]
            new: dict[Expr, Expr] = dict(zip(e.bound, bound, strict=True))
            memo[e] = expr.reduce(e.kind, bound, substitute(memo[e.body], new))
        else:
            args = [memo[c] for c in operands(e)]
            memo[e] = rebuild(e, args) if args else e
    return memo[x]
