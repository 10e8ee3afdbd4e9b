"""Which lane of a vector has an index: `i == x[r]` for neighbouring `i` holds in one lane at most.

A one in a mask register, shifted to that lane, takes the place of vectors of 64-bit indices. Along
an axis of many vectors, few have such a lane: what is chosen by it is computed in a branch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..expr import Affine, Apply, Axis, Const, Expr
from ..records import dataclass
from ..spec import int64
from ..walks import walk
from .rare import straight
from .values import register_type

if TYPE_CHECKING:
    from .levels import Block
    from .nest import Nest

SELDOM = 8  # vectors along an axis from which a branch is mostly foreseen: it is taken for one


def compared(nest: Nest, x: Expr) -> tuple[Expr, Expr] | None:
    """(value, index) where `x` says whether `value`, the same in all lanes, is `index`, which is
    one more in each lane than in the one before."""
    if not isinstance(x, Apply) or x.fn not in ("eq", "ne") or x.args[0].dtype is not int64:
        return None
    scope = nest.scope_of(x)
    if scope.lanes not in (8, 16, 32, 64) or not nest.host.has_masks:
        return None
    for value, index in (x.args, x.args[::-1]):
        runs = isinstance(index, Axis | Affine) and nest.stride(index, scope.vector) == 1
        if runs and scope.vector not in value.axes:
            return value, index
    return None


def needed(value: Expr, index: Expr) -> tuple[Expr, ...]:
    """What must have been computed before."""
    atoms = (a for a, _ in index.terms) if isinstance(index, Affine) else ()
    return (value, *(a for a in atoms if not isinstance(a, Axis)))


def mask(nest: Nest, fn: str, value: str, first: str, lanes: int) -> str:
    """The lanes where `value` is `first`, `first + 1`, ...; where it is not, for `fn` "ne"."""
    w = nest.w
    lane = w.emit(f"sub i64 {value}, {first}")
    inside = w.emit(f"icmp ult i64 {lane}, {lanes}")
    bit = w.emit(f"shl i64 1, {w.emit(f'and i64 {lane}, 63')}")
    bit = w.emit(f"select i1 {inside}, i64 {bit}, i64 0")
    if fn == "ne":
        bit = w.emit(f"xor i64 {bit}, -1")
    return _bits(nest, bit, lanes)


def _bits(nest: Nest, bits: str, lanes: int) -> str:
    """The first `lanes` bits of an i64 as a mask."""
    short = bits if lanes == 64 else nest.w.emit(f"trunc i64 {bits} to i{lanes}")
    return nest.w.emit(f"bitcast i{lanes} {short} to <{lanes} x i1>")


@dataclass(frozen=True, slots=True)
class Choice:
    """`there` in the lane where `value` is `index`, `usual` in all others.

    Attributes:
        given: what `there` is computed from, but for constants.
    """

    value: Expr
    index: Expr
    there: Expr
    usual: Expr
    given: tuple[Expr, ...]

    def needs(self) -> tuple[Expr, ...]:
        """What must have been computed before."""
        return (self.usual, *needed(self.value, self.index), *self.given)


def choice(nest: Nest, x: Apply) -> Choice | None:
    """`x` as a value that one lane of few vectors has, if it is one."""
    if x.fn != "select":
        return None
    condition, there, usual = x.args
    one = compared(nest, condition)
    scope = nest.scope_of(x)
    if one is None or scope.vector is None or nest.scope_of(condition) is not scope:
        return None
    extent = nest.extent(scope.vector)
    if not extent.isdigit() or int(extent) < SELDOM * scope.lanes:
        return None
    if isinstance(condition, Apply) and condition.fn == "ne":
        there, usual = usual, there
    return Choice(*one, there, usual, _given(nest, there, usual))


def _given(nest: Nest, there: Expr, usual: Expr) -> tuple[Expr, ...]:
    """What the branch finds in registers: what `usual` is made of, and all that is not plain
    arithmetic on vectors."""
    known, found, stack = set(walk([usual])), dict[Expr, None](), [there]
    while stack:
        e = stack.pop()
        if isinstance(e, Const):
            continue
        plain = isinstance(e, Apply) and nest.is_plain(e) and compared(nest, e) is None
        if plain and e not in known and nest.scope_of(e) is nest.scope_of(there):
            assert isinstance(e, Apply)
            stack.extend(e.args)
        else:
            found[e] = None
    return tuple(found)


def branch(nest: Nest, block: Block, x: Choice, value: str, first: str, lanes: int) -> str:
    """`x` at the end of `block`, which then ends in another basic block."""
    names = {e: nest.vector(e, lanes) for e in (x.usual, *x.given)}
    w, usual, kind = nest.w, names[x.usual], register_type(x.usual.dtype, lanes)
    w.lines = block.lines
    lane = w.emit(f"sub i64 {value}, {first}")
    inside = w.emit(f"icmp ult i64 {lane}, {lanes}")
    then, done = nest.label("one"), nest.label("usual")
    w.line(f"  br i1 {inside}, label %{then}, label %{done}")
    w.line(f"{then}:")
    other = straight(w, x.there, names, lanes)
    here = _bits(nest, w.emit(f"shl i64 1, {lane}"), lanes)
    mixed = w.emit(f"select <{lanes} x i1> {here}, {kind} {other}, {kind} {usual}")
    w.line(f"  br label %{done}")
    w.line(f"{done}:")
    out = w.emit(f"phi {kind} [ {usual}, %{block.label} ], [ {mixed}, %{then} ]")
    block.label = done
    return out
