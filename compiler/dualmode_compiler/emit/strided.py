"""Vectors of elements a small constant distance apart: whole loads and shuffles, not gathers."""

from __future__ import annotations

from ..spec import DType
from .instructions import memory_type
from .values import Writer

FARTHEST = 4  # elements between neighbours at the most


def strided(w: Writer, first: str, stride: int, dtype: DType, lanes: int) -> str:
    """The elements at `first`, `first + stride`, ...; nothing outside of these is read.

    Args:
        first: the address of lane 0.
        stride: in elements; not 0 or 1, at most `FARTHEST` from 0.
    """
    reach, back = abs(stride) * (lanes - 1), stride < 0
    lowest = -reach if back else 0
    # where loads start, counted from the lowest element; the last one ends with the highest
    starts = [k * lanes for k in range(reach // lanes)] + [reach + 1 - lanes]
    kind, element = memory_type(dtype, lanes), memory_type(dtype, 1)
    parts: list[str] = []
    for start in starts:
        place = w.emit(f"getelementptr {element}, ptr {first}, i64 {lowest + start}")
        parts.append(w.emit(f"load {kind}, ptr {place}, align {dtype.itemsize}"))
    wanted = [reach - abs(stride) * k if back else stride * k for k in range(lanes)]
    owner = [max(p for p, start in enumerate(starts) if start <= at) for at in wanted]
    line = parts[0]
    for p in range(max(len(parts) - 1, 1)):
        other = min(p + 1, len(parts) - 1)
        order = []
        for k, at in enumerate(wanted):
            if p == 0 and owner[k] == 0:
                order.append(at)
            elif owner[k] == other:
                order.append(lanes + at - starts[other])
            else:
                order.append(k)  # known already, or filled in later
        text = ", ".join(f"i32 {n}" for n in order)
        line = w.emit(
            f"shufflevector {kind} {line}, {kind} {parts[other]}, <{lanes} x i32> <{text}>"
        )
    return line
