"""The share of one chunk in a loop."""

from __future__ import annotations

from .values import Writer


def share(w: Writer, extent: int, chunks: int, grain: int = 1) -> tuple[str, str, int]:
    """Cut 0 .. extent in at most `chunks` equal parts, multiples of `grain` but for the last.

    Returns:
        Where the part of the chunk `%chunk` starts and stops, and how many parts there are.
    """
    size = -(-extent // (chunks * grain)) * grain
    start = w.emit(f"mul nuw nsw i64 %chunk, {size}")
    end = w.emit(f"add nuw nsw i64 {start}, {size}")
    return start, minimum(w, end, extent), -(-extent // size)


def minimum(w: Writer, a: str, b: str | int) -> str:
    """The smaller of two numbers that are not negative."""
    less = w.emit(f"icmp ult i64 {a}, {b}")
    return w.emit(f"select i1 {less}, i64 {a}, i64 {b}")
