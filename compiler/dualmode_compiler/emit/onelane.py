"""Which lane of a vector has an index: `i == x[r]` for neighbouring `i` holds in one lane at most.

A one in a mask register, shifted to that lane, takes the place of vectors of 64-bit indices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..expr import Affine, Apply, Axis, Expr
from ..spec import int64

if TYPE_CHECKING:
    from .nest import Nest


def compared(nest: Nest, x: Apply) -> tuple[Expr, Expr] | None:
    """(value, index) where `x` says whether `value`, the same in all lanes, is `index`, which is
    one more in each lane than in the one before."""
    if x.fn not in ("eq", "ne") or x.args[0].dtype is not int64:
        return None
    scope = nest.scope_of(x)
    if scope.lanes not in (8, 16, 32) or not nest.host.has_masks:
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
    bits = w.emit(f"trunc i64 {bit} to i{lanes}")
    return w.emit(f"bitcast i{lanes} {bits} to <{lanes} x i1>")
