"""What is the same but for the names of its buffers and axes: it is lowered and emitted once.

A network of twelve equal layers has every kernel of a layer twelve times, each with buffers of its
own. `Forms` gives them one key, and the buffers that stand for the numbers in it; `renamed` makes
of one of them another.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar

from . import expr
from .expr import LOAD, Affine, Apply, Axis, Buffer, Const, Expr, Fold, Load, Reduce
from .spec import DType, Spec
from .walks import rebuild, walk

T = TypeVar("T")
_APART = {"name", "nodes", "apart"}  # fields that say nothing of what is computed


class Forms:
    """Keys of one compilation: expressions in it get equal numbers where they are equal but for
    buffers and axes."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def of(self, x: Any) -> tuple[Hashable, list[Buffer]]:
        """The key of `x`, and its buffers in order: made of expressions, buffers, plain values, and
        tuples, lists and dataclasses of those.

        Keys are equal where the same code computes both, given the buffers of each; and where these
        are the same buffer in both, in all the same places.
        """
        form = _Form(self._numbers)
        return form.key(x), list(form.buffers)


class _Form:
    """One key under construction: buffers and axes have numbers in the order in which they come."""

    def __init__(self, numbers: dict[Hashable, int]) -> None:
        self._numbers = numbers
        self.buffers: dict[Buffer, int] = {}
        self._known: dict[Expr, int] = {}
        self._axes = 0

    def key(self, x: Any) -> Hashable:
        if isinstance(x, Expr):
            for e in walk([x]):
                if e not in self._known:
                    self._known[e] = self._number(e)
            return self._known[x]
        if isinstance(x, Buffer):
            return self._buffer(x)
        if isinstance(x, tuple | list):
            return tuple([self.key(part) for part in x])
        names = _fields(type(x))
        if names:
            return type(x), *[self.key(getattr(x, name)) for name in names]
        return x

    def _buffer(self, b: Buffer) -> Hashable:
        return self.buffers.setdefault(b, len(self.buffers)), b.spec

    def _number(self, e: Expr) -> int:
        made: Hashable
        known = self._known
        parts = [known[c] for c in e.operands]
        if isinstance(e, Apply):
            made = (e.fn, e.dtype, *parts)
        elif isinstance(e, Load):
            made = (Load, self._buffer(e.buffer), *parts)
        elif isinstance(e, Affine):
            made = (Affine, e.const, *parts, *[c for _, c in e.terms])
        elif isinstance(e, Const):
            made = e
        elif isinstance(e, Axis):
            self._axes += 1
            made = (Axis, self._axes, e.extent)
        else:
            assert isinstance(e, Reduce | Fold)
            # of an axis that the body does not have, only the size counts
            bound = [known.get(a, (a.extent,)) for a in e.bound]
            made = (type(e), e.kind, e.dtype, *bound, *parts)
        return self._numbers.setdefault(made, len(self._numbers))


@cache
def _fields(kind: type[Any]) -> tuple[str, ...]:
    """The fields of a dataclass that may hold buffers and expressions; none of a plain value."""
    if kind in (Spec, DType) or not is_dataclass(kind):
        return ()
    return tuple(f.name for f in fields(kind) if f.name not in _APART)


def renamed(x: T, buffers: Mapping[Buffer, Buffer]) -> T:
    """`x`, of the kinds that `Forms.of` takes, with other `buffers` in the place of some; tuples,
    lists and dataclasses are copies in any case."""
    return _Renaming(buffers).of(x)


class _Renaming:
    def __init__(self, buffers: Mapping[Buffer, Buffer]) -> None:
        self._buffers = buffers
        self._known: dict[Expr, Expr] = {}

    def of(self, x: Any) -> Any:
        if isinstance(x, Expr):
            return self._expr(x) if x.holds & LOAD else x
        if isinstance(x, Buffer):
            return self._buffers.get(x, x)
        if isinstance(x, tuple | list):
            return type(x)([self.of(part) for part in x])
        names = _fields(type(x))
        return replace(x, **{n: self.of(getattr(x, n)) for n in names}) if names else x

    def _expr(self, x: Expr) -> Expr:
        known = self._known
        for e in walk([x]):
            if e in known:
                continue
            parts = [known[c] for c in e.operands]
            if isinstance(e, Load):
                known[e] = expr.load(self._buffers.get(e.buffer, e.buffer), parts)
            else:
                known[e] = rebuild(e, parts)
        return known[x]
