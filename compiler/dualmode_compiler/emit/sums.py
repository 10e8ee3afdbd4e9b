"""Sums over the rows of a matrix, as LLVM IR text."""

from __future__ import annotations

from functools import cache

from ..runtime.jit import Host
from .simd import Element, attributes
from .writer import LoopWriter

ROWS = 4  # that are added at once


def summing_name(e: Element) -> str:
    return f"dm_sum_rows_{e.suffix}"


@cache
def summing(e: Element, host: Host) -> str:
    """IR of `void f(B, bs, columns, k, S, add)`: S[j] (+)= sum over i < k of B[i*bs + j], added one
    after the other from i = 0 on; strides in elements, k >= 1."""
    w = LoopWriter()
    whole = w.emit(f"and i64 %columns, {-e.lanes}")
    starts = w.emit("icmp eq i64 %add, 0")
    with w.when(starts), w.loop(0, "%columns") as j:  # -0 + x is x, also where x is -0
        w.do(f"store {e.type} -0.0, ptr {w.at('%S', e.type, j)}, align {e.size}")
    groups = w.op("udiv", "%k", ROWS)
    with w.when(w.emit(f"icmp ne i64 {groups}, 0")), w.loop(0, groups) as group:
        _rows(w, e, w.op("mul", group, ROWS), ROWS, whole)
    done = w.op("mul", groups, ROWS)
    with w.when(w.emit(f"icmp ult i64 {done}, %k")), w.loop(done, "%k") as i:
        _rows(w, e, i, 1, whole)
    w.do("ret void")
    head = (
        f"define internal void @{summing_name(e)}(ptr %B, i64 %bs, i64 %columns, i64 %k, ptr %S, "
        f"i64 %add) {attributes(host)} {{"
    )
    return f"{head}\nentry:\n{w.text()}\n}}\n"


def _rows(w: LoopWriter, e: Element, first: str, count: int, whole: str) -> None:
    """Add some rows, by vectors up to the column `whole`."""
    lines = [w.at("%B", e.type, w.op("mul", first, "%bs"))]
    for _ in range(count - 1):
        lines.append(w.at(lines[-1], e.type, "%bs"))

    def add(kind: str, j: str) -> None:
        place = w.at("%S", e.type, j)
        total = w.emit(f"load {kind}, ptr {place}, align {e.size}")
        for line in lines:
            x = w.emit(f"load {kind}, ptr {w.at(line, e.type, j)}, align {e.size}")
            total = w.emit(f"fadd {kind} {total}, {x}")
        w.do(f"store {kind} {total}, ptr {place}, align {e.size}")

    with w.when(w.emit(f"icmp ne i64 {whole}, 0")), w.loop(0, whole, e.lanes) as j:
        add(e.vector, j)
    with w.when(w.emit(f"icmp ult i64 {whole}, %columns")), w.loop(whole, "%columns") as j:
        add(e.type, j)
