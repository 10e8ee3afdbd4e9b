"""Arrays of the same values that lie in memory in every way: strided, reversed, misaligned, shared.

Hypothesis draws the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

Array = np.ndarray[Any, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]


def _fortran(x: Array) -> Array:
    return x.copy(order="F")


def _permuted(x: Array) -> Array:
    axes = (*range(1, x.ndim), *range(min(x.ndim, 1)))
    return x.transpose(axes).copy(order="C").transpose(tuple(np.argsort(axes)))


def _reversed(x: Array) -> Array:
    back = (slice(None, None, -1),) * x.ndim
    return x[(..., *back)].copy(order="C")[(..., *back)]


def _apart(x: Array) -> Array:
    """Every second element, and every third row: what lies between is not to be read."""
    steps = (3,) * max(x.ndim - 1, 0) + (2,) * min(x.ndim, 1)
    wide = np.full([n * s for n, s in zip(x.shape, steps, strict=True)], _junk(x), x.dtype)
    view = wide[(..., *(slice(None, None, s) for s in steps))]
    view[...] = x
    return view


def _after_one(x: Array) -> Array:
    """Contiguous, one element after where an allocation starts."""
    memory = np.full(x.size + 2, _junk(x), x.dtype)
    view = memory[1 : x.size + 1].reshape(x.shape)
    view[...] = x
    return view


def _misaligned(x: Array) -> Array:
    """Contiguous, at an odd address, which suits no dtype of more than one byte."""
    memory = np.full(x.nbytes + 1, 0xA5, np.uint8)
    view = np.ndarray(x.shape, x.dtype, memory.data, offset=1)
    view[...] = x
    return view


def _read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


def _junk(x: Array) -> Any:
    return np.frombuffer(b"\xa5" * x.itemsize, x.dtype)[0] if x.dtype.kind != "b" else True


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    f.__name__[1:]: f
    for f in (_fortran, _permuted, _reversed, _apart, _after_one, _misaligned, _read_only)
}


def laid_out(draw: Draw, x: Array) -> Array:
    """`x` in a drawn layout."""
    x = np.asarray(x)
    y = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](x)
    assert y.shape == x.shape and y.dtype == x.dtype and y.tobytes() == x.tobytes()
    return y
