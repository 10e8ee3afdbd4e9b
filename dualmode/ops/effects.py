"""Ops that are executed for what they do: print, check, raise. They run in program order.

Their result is an empty tensor that nobody reads. They have no lower rule: compiled code calls the
NumPy kernel back.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from dualmode_compiler.spec import Spec, uint8

from ..errors import AssertionFailed, OutOfRangeError
from ..op import Op, convert

_TOKEN = Spec((0,), uint8)


def _effect_infer(*xs: Spec, **attrs: Any) -> Spec:
    return _TOKEN


def _done() -> np.ndarray[Any, Any]:
    return np.empty(0, np.uint8)


# --- print --------------------------------------------------------------------------------------


def _print_kernel(
    *arrays: Any,
    texts: tuple[str | None, ...],
    sep: str,
    end: str,
    summarize: int | None,
    file: str,
) -> np.ndarray[Any, Any]:
    values = iter(arrays)
    words = [_show(next(values), summarize) if t is None else t for t in texts]
    print(*words, sep=sep, end=end, file=getattr(sys, file), flush=True)
    return _done()


def _show(value: np.ndarray[Any, Any], summarize: int | None) -> str:
    if summarize is None:
        return str(value)
    if summarize < 0:
        return np.array2string(value, threshold=sys.maxsize)
    return np.array2string(value, threshold=0, edgeitems=summarize)


# `texts` holds the words to print, None where the next tensor goes
PRINT = Op("print", infer=_effect_infer, kernel=_print_kernel, effect=True)


def print_(
    *args: Any,
    sep: str = " ",
    end: str = "\n",
    summarize: int | None = None,
    file: str = "stdout",
) -> None:
    """Print values each time the code runs, in a `@dm.function` as well.

    Args:
        args: tensors, variables and arrays print their values; anything else as `str` gives it when
            the function is traced.
        sep, end: as in Python's print.
        summarize: how many elements to show at each end of every axis; -1 shows all; by default
            NumPy's print options decide.
        file: "stdout" or "stderr".

    Raises:
        ValueError: `file` is another.
    """
    if file not in ("stdout", "stderr"):
        raise ValueError(f"print: file is 'stdout' or 'stderr', not {file!r}")
    dynamic = [hasattr(x, "shape") for x in args]
    texts = tuple(None if d else str(x) for x, d in zip(args, dynamic, strict=True))
    tensors = [convert(x) for x, d in zip(args, dynamic, strict=True) if d]
    PRINT(*tensors, texts=texts, sep=sep, end=end, summarize=summarize, file=file)


# --- assertions ---------------------------------------------------------------------------------


def _assert_kernel(
    holds: np.ndarray[Any, Any], *data: np.ndarray[Any, Any], message: str
) -> np.ndarray[Any, Any]:
    if holds.all():
        return _done()
    at = tuple(int(k) for k in np.argwhere(~holds)[0])
    count = f", {holds.size - np.count_nonzero(holds)} of {holds.size} elements" if at else ""
    values = [_at(x, holds.shape, at) for x in data]
    found = f": {' and '.join(values)}" if values else ""
    where = f" at {list(at)}" if at else ""
    raise AssertionFailed(f"{message}{found}{where}{count}")


def _at(x: np.ndarray[Any, Any], shape: tuple[int, ...], at: tuple[int, ...]) -> str:
    return str(np.broadcast_to(x, shape)[at])


# raises unless all of a bool tensor holds; `message` and the first offending data say why
ASSERT = Op("assert", infer=_effect_infer, kernel=_assert_kernel, effect=True)


def check_indices(indices: np.ndarray[Any, Any], *, size: int, name: str) -> None:
    """Raise OutOfRangeError unless all `indices` lie in -size .. size - 1."""
    if indices.size:
        low, high = int(indices.min()), int(indices.max())
        if low < -size or high >= size:
            bad = low if low < -size else high
            raise OutOfRangeError(f"{name}: index {bad} is out of range for an axis of size {size}")


def _check_indices_kernel(
    indices: np.ndarray[Any, Any], size: int, name: str
) -> np.ndarray[Any, Any]:
    check_indices(indices, size=size, name=name)
    return _done()


CHECK_INDICES = Op("check_indices", infer=_effect_infer, kernel=_check_indices_kernel, effect=True)
