"""Packing: copies of strips of an operand in the layout that micro-kernels read, as LLVM IR text.

A strip is one vector wide. Where fewer columns exist, the last one is repeated or zeros stand in,
so that packed strips are always whole; what comes of the extra columns is never stored.
"""

from __future__ import annotations

from functools import cache

from ..runtime.jit import Host
from .simd import Element, attributes
from .writer import LoopWriter


def packer_name(mode: str, e: Element) -> str:
    return f"dm_pack_{mode}_{e.suffix}"


@cache
def packer(mode: str, e: Element, host: Host) -> str:
    """IR of `void f(src, sk, sn, columns, k, dst, ds)`: a strip of `lanes` columns and k >= 1 rows,
    dst[i*ds + j] = src[i*sk + min(j, columns - 1)*sn], strides in elements.

    mode "rows": sn is 1, copied by vectors (missing columns are 0 where the host has masks).
    "columns": sk is 1 and k fills 16 bytes, transposed in registers. "strided": any strides,
    element by element.
    """
    w = LoopWriter()
    if mode == "rows" and host.vector_bytes >= 32:
        _copy(w, e, e.mask(w, w.minimum("%columns", e.lanes)))
        w.do("ret void")
    else:
        if mode == "rows":
            _copy_whole(w, e)
        _by_columns(w, e, mode == "columns")
        w.do("ret void")
    arguments = "ptr %src, i64 %sk, i64 %sn, i64 %columns, i64 %k, ptr %dst, i64 %ds"
    head = f"define internal void @{packer_name(mode, e)}({arguments}) {attributes(host)} {{"
    return f"{head}\nentry:\n{w.text()}\n}}\n"


def _copy(w: LoopWriter, e: Element, mask: str | None) -> None:
    with w.loop(0, "%k") as i:
        line = e.load(w, w.at("%src", e.type, w.op("mul", i, "%sk")), mask)
        e.store(w, line, w.at("%dst", e.type, w.op("mul", i, "%ds")))


def _copy_whole(w: LoopWriter, e: Element) -> None:
    """Copy and return if there are enough columns."""
    whole = w.emit(f"icmp uge i64 %columns, {e.lanes}")
    w.do(f"br i1 {whole}, label %copy, label %part")
    w.block("copy")
    _copy(w, e, None)
    w.do("ret void")
    w.block("part")


def _by_columns(w: LoopWriter, e: Element, transpose: bool) -> None:
    """Rows formed from a pointer to each column: one by one, or in groups by a transpose."""
    last = w.emit("sub i64 %columns, 1")
    columns = ["%src"]
    for j in range(1, e.lanes):
        columns.append(w.at("%src", e.type, w.op("mul", w.minimum(last, j), "%sn")))
    if transpose:
        _transpose(w, e, columns)
        return
    with w.loop(0, "%k") as i:
        _gather(w, e, columns, i)


def _gather(w: LoopWriter, e: Element, columns: list[str], i: str) -> None:
    """Row `i` of the strip, an element from each column."""
    offset = w.op("mul", i, "%sk")
    line = "poison"
    for j, column in enumerate(columns):
        x = w.emit(f"load {e.type}, ptr {w.at(column, e.type, offset)}, align {e.size}")
        line = w.emit(f"insertelement {e.vector} {line}, {e.type} {x}, i64 {j}")
    e.store(w, line, w.at("%dst", e.type, w.op("mul", i, "%ds")))


def _transpose(w: LoopWriter, e: Element, columns: list[str]) -> None:
    """Rows in groups; the last group may overlap the one before."""
    final = w.emit(f"sub i64 %k, {group(e)}")
    with w.loop(0, "%k", group(e)) as turn:
        i = w.minimum(turn, final)
        for row, line in enumerate(turned(w, e, columns, i)):
            at = w.op("mul", w.op("add", i, row), "%ds")
            e.store(w, line, w.at("%dst", e.type, at))


def group(e: Element) -> int:
    """Elements of a column that are read at once: 16 bytes."""
    return 16 // e.size


def turned(w: LoopWriter, e: Element, columns: list[str], i: str) -> list[str]:
    """A group of rows from row `i` of a strip, given pointers to its columns.

    Column j's part goes to 128-bit lane j // group, by loads alone; a transpose inside the lanes
    then puts every element in its place (half the shuffles of a transpose of whole vectors).
    """
    size = group(e)
    return _within_lanes(w, e, [_lanes(w, e, columns[j::size], i, size) for j in range(size)])


def _lanes(w: LoopWriter, e: Element, columns: list[str], i: str, group: int) -> str:
    """One vector of the 16 bytes at row `i` of each of `columns`."""
    parts = [
        w.emit(f"load <{group} x {e.type}>, ptr {w.at(c, e.type, i)}, align {e.size}")
        for c in columns
    ]
    width = group
    while len(parts) > 1:
        order = ", ".join(f"i32 {n}" for n in range(2 * width))
        kind = f"<{width} x {e.type}>"
        parts = [
            w.emit(f"shufflevector {kind} {a}, {kind} {b}, <{2 * width} x i32> <{order}>")
            for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
        width *= 2
    return parts[0]


def _within_lanes(w: LoopWriter, e: Element, lines: list[str]) -> list[str]:
    """Transpose the group x group matrix that `lines` hold in each 128-bit lane.

    Each round interleaves the lower and the upper halves of lines that are half the group apart.
    """
    group = len(lines)
    half = group // 2
    while half:
        lines = [
            _interleave(w, e, lines[a], lines[a + group // 2], upper, group)
            for a in range(group // 2)
            for upper in (False, True)
        ]
        half //= 2
    return lines


def _interleave(w: LoopWriter, e: Element, a: str, b: str, upper: bool, group: int) -> str:
    """Elements of `a` and `b` in turn, from the lower or upper half of every 128-bit lane."""
    order: list[int] = []
    for lane in range(0, e.lanes, group):
        for j in range(group // 2):
            here = lane + j + (group // 2 if upper else 0)
            order += [here, here + e.lanes]
    text = ", ".join(f"i32 {n}" for n in order)
    v = e.vector
    return w.emit(f"shufflevector {v} {a}, {v} {b}, <{e.lanes} x i32> <{text}>")
