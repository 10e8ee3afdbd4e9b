"""Vectors of elements that do not lie side by side: each lane is loaded by itself.

On Zen 4 the instruction that gathers takes a third longer from the first-level cache, twice as long
where the distance is constant, and as long from further away. What a mask leaves out may not be
read, so there `Nest` has the instruction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..expr import Apply, Expr, Load
from .instructions import memory_type

if TYPE_CHECKING:
    from .nest import Nest


def gather(nest: Nest, x: Load, level: int) -> str:
    """What `x` loads in an open level without a mask, as it is in memory."""
    scope, w, (index,) = nest.levels[level], nest.w, x.index
    lanes, element = scope.lanes, memory_type(x.dtype, 1)
    stride = nest.stride(index, scope.vector)
    if stride is None:
        first, numbers = nest.pointers[x.buffer], lanes_of(nest, index, level)
    else:
        first, numbers = nest.address(x.buffer, index), [str(k * stride) for k in range(lanes)]
    w.lines = scope.block.lines
    kind, out = memory_type(x.dtype, lanes), "poison"
    for k, number in enumerate(numbers):
        place = w.emit(f"getelementptr {element}, ptr {first}, i64 {number}")
        value = w.emit(f"load {element}, ptr {place}, align {x.dtype.itemsize}")
        out = w.emit(f"insertelement {kind} {out}, {element} {value}, i64 {k}")
    return out


def lanes_of(nest: Nest, index: Expr, level: int) -> list[str]:
    """The lanes of `index` as numbers of 64 bits."""
    scope, w = nest.levels[level], nest.w
    if isinstance(index, Apply) and index.fn == "cast":
        (narrow,) = index.args
        if narrow.dtype.is_integer and narrow.dtype.itemsize == 4:
            index = narrow  # two of them are taken out at a time
    vector, lanes = nest.vector(index, scope.lanes), scope.lanes
    w.lines = scope.block.lines
    if index.dtype.itemsize == 8:
        return [w.emit(f"extractelement <{lanes} x i64> {vector}, i64 {k}") for k in range(lanes)]
    pairs = w.emit(f"bitcast <{lanes} x i32> {vector} to <{lanes // 2} x i64>")
    signed = index.dtype.kind == "i"
    numbers: list[str] = []
    for k in range(lanes // 2):
        pair = w.emit(f"extractelement <{lanes // 2} x i64> {pairs}, i64 {k}")
        low = w.emit(f"trunc i64 {pair} to i32")
        numbers.append(w.emit(f"{'sext' if signed else 'zext'} i32 {low} to i64"))
        numbers.append(w.emit(f"{'ashr' if signed else 'lshr'} i64 {pair}, 32"))
    return numbers
