"""What reductions of every kind share: neutral values, and lanes combined into one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..spec import DType, bool_
from .instructions import apply, literal, register_type
from .values import Writer


def identity(kind: str, dtype: DType) -> bool | int | float:
    """The value that changes nothing when combined by `kind`."""
    if kind in ("add", "or"):
        return False if dtype is bool_ else 0
    if kind in ("mul", "and"):
        return True if dtype is bool_ else 1
    low = kind in ("maximum", "argmax")
    if dtype.is_floating:
        return float("-inf") if low else float("inf")
    if dtype is bool_:
        return not low
    bits = 8 * dtype.itemsize
    if dtype.kind == "u":
        return 0 if low else (1 << bits) - 1
    return -(1 << (bits - 1)) if low else (1 << (bits - 1)) - 1


def combine(w: Writer, kind: str, a: str, b: str, dtype: DType, lanes: int) -> str:
    return apply(w, kind, [a, b], [dtype, dtype], dtype, lanes)


def beyond(w: Writer, kind: str, a: str, b: str, dtype: DType, lanes: int) -> str:
    """The larger or the smaller one, in one instruction: `b` where `a` is NaN."""
    order, values = "ogt" if kind == "maximum" else "olt", register_type(dtype, lanes)
    better = w.emit(f"fcmp {order} {values} {a}, {b}")
    mask = register_type(bool_, lanes)
    return w.emit(f"select {mask} {better}, {values} {a}, {values} {b}")


Combine = Callable[[Writer, str, str, str, DType, int], str]


def pairwise(
    w: Writer, kind: str, parts: list[str], dtype: DType, lanes: int, two: Combine = combine
) -> str:
    """All of `parts`, neighbours first. `two` combines two of them."""
    while len(parts) > 1:
        parts = [
            two(w, kind, *parts[k : k + 2], dtype, lanes) if k + 1 < len(parts) else parts[k]
            for k in range(0, len(parts), 2)
        ]
    return parts[0]


def across(
    w: Writer, kind: str, name: str, dtype: DType, lanes: int, two: Combine = combine
) -> str:
    """The lanes of a vector combined by halves."""
    while lanes > 1:
        whole, half = register_type(dtype, lanes), lanes // 2
        parts = [
            w.emit(
                f"shufflevector {whole} {name}, {whole} poison, <{half} x i32> "
                f"<{', '.join(f'i32 {k}' for k in range(first, first + half))}>"
            )
            if half > 1
            else w.emit(f"extractelement {whole} {name}, i64 {first}")
            for first in (0, half)
        ]
        name, lanes = two(w, kind, parts[0], parts[1], dtype, half), half
    return name


def widen(w: Writer, name: str, fill: Any, dtype: DType, lanes: int, to: int) -> str:
    """A vector of `to` lanes: those of `name`, then the value `fill`."""
    if lanes == to:
        return name
    kind = register_type(dtype, lanes)
    if lanes == 1:
        rest = literal(fill, dtype, to)
        return w.emit(f"insertelement {register_type(dtype, to)} {rest}, {kind} {name}, i64 0")
    rest = literal(fill, dtype, lanes)
    order = ", ".join(f"i32 {min(k, lanes)}" for k in range(to))
    return w.emit(f"shufflevector {kind} {name}, {kind} {rest}, <{to} x i32> <{order}>")
