"""The op table: one row for each op says how to call it, on what inputs, and what it must give.

Rows drive the tests: eager results against a NumPy oracle, gradients against finite differences,
and both modes against each other. They are in `op_table_*.py`; a new file is found by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from dualmode.op import Agreement, Op
from dualmode_compiler.spec import DTYPES

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Attrs = dict[str, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]
Inputs = Callable[[Draw, str], tuple[list[Array], Attrs]]

HALVES = ("float16", "bfloat16")
FLOATS = (*HALVES, "float32", "float64")
INTEGERS = tuple(f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64))
COMPLEX = ("complex64", "complex128")
REAL = (*FLOATS, *INTEGERS)
NUMERIC = (*REAL, *COMPLEX)
ALL = ("bool", *NUMERIC)

SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 3e38, 100.0, -100.0)
SIZES = (0, 1, 2, 3, 5, 17)


@dataclass(frozen=True, repr=False)
class Row:
    """How to test one op.

    Attributes:
        op: the record.
        call: the public function, `call(*tensors, **attrs) -> Tensor`.
        oracle: `oracle(*arrays, **attrs)`: what NumPy gives, in a type of its own choice. Half
            types arrive as float32, and float32 as float64 unless `wide` is False.
        arity: number of inputs.
        dtypes: element types to try.
        domain: range of the values that are drawn.
        special: also draw NaN, infinities, signed zeros, denormals.
        shapes: draws the shapes of the inputs.
        attrs: draws the attributes, given the shapes.
        inputs: draws everything in another way: `(draw, dtype) -> (arrays, attrs)`.
        smooth: range of the values at which gradients are tested.
        smooth_inputs: as `inputs`, at points where the op is differentiable twice.
        gradients: positions of the inputs with gradients.
        wide: whether the oracle may compute float32 in float64.
        ulp: how many units in the last place eager results may be off the oracle; the op's own
            tolerance unless given.
        magnitude: of the magnitudes of the inputs of a reduction, a bound on the sum of its terms;
            the oracle itself unless given.
    """

    op: Op
    call: Callable[..., Any]
    oracle: Callable[..., Any]
    arity: int = 1
    dtypes: tuple[str, ...] = FLOATS
    domain: tuple[float, float] = (-4.0, 4.0)
    special: bool = True
    shapes: Callable[[Draw, int], list[Shape]] | None = None
    attrs: Callable[[Draw, list[Shape]], Attrs] = lambda draw, shapes: {}
    inputs: Inputs | None = None
    smooth_inputs: Inputs | None = None
    smooth: tuple[float, float] = (-2.0, 2.0)
    gradients: tuple[int, ...] = ()
    wide: bool = True
    ulp: float | None = None
    magnitude: Callable[..., Any] | None = None

    def __repr__(self) -> str:
        return self.op.name

    @property
    def tolerance(self) -> Agreement:
        """How far eager results may be off the oracle."""
        own = self.op.tolerance
        return own if self.ulp is None else replace(own, ulp=self.ulp)

    def examples(self, draw: Draw, dtype: str = "") -> tuple[list[Array], Attrs]:
        """Inputs of any allowed dtype, with special values, and attributes."""
        if not dtype:
            dtype = draw(st.sampled_from(self.dtypes))
        if self.inputs is not None:
            return self.inputs(draw, dtype)
        shapes = (self.shapes or broadcast_shapes)(draw, self.arity)
        arrays = [values(draw, s, dtype, self.domain, self.special) for s in shapes]
        return arrays, self.attrs(draw, shapes)

    def smooth_examples(self, draw: Draw) -> tuple[list[Array], Attrs]:
        """float64 inputs at which the op is differentiable twice: no two values are equal, and
        all keep a distance from the integers, where kinks are."""
        inputs = self.smooth_inputs or self.inputs
        if inputs is not None:
            return inputs(draw, "float64")
        shapes = (self.shapes or broadcast_shapes)(draw, self.arity)
        seed = draw(st.integers(0, 2**32 - 1))
        rng = np.random.default_rng(seed)
        arrays = [_grid(rng, s, self.smooth, (k + 1) / 5) for k, s in enumerate(shapes)]
        return arrays, self.attrs(draw, shapes)

    def expected(self, arrays: list[Array], attrs: Attrs) -> Array:
        """What the oracle gives, in its own dtype."""
        with np.errstate(all="ignore"):
            return np.asarray(self.oracle(*(self._widened(x) for x in arrays), **attrs))

    def bound(self, arrays: list[Array], attrs: Attrs) -> tuple[float, Array]:
        """For `assert_agree`: how many terms make an element of the result, and how large they are
        together."""
        sizes = [np.abs(self._widened(x)) for x in arrays]
        with np.errstate(all="ignore"):
            total = np.asarray((self.magnitude or self.oracle)(*sizes, **attrs))
        return arrays[0].size / max(total.size, 1), np.abs(total)

    def _widened(self, x: Array) -> Array:
        if x.dtype.name in HALVES:
            return x.astype(np.float32)
        return x.astype(np.float64) if self.wide and x.dtype == np.float32 else x


# --- shapes -------------------------------------------------------------------------------------


def any_shape(draw: Draw, min_rank: int = 0, max_rank: int = 3) -> Shape:
    rank = draw(st.integers(min_rank, max_rank))
    return tuple(draw(st.sampled_from(SIZES)) for _ in range(rank))


def broadcast_shapes(draw: Draw, arity: int) -> list[Shape]:
    """Shapes that broadcast to a common one, of which each misses some leading axes or has ones."""
    full = any_shape(draw)
    if arity == 1:
        return [full]
    shapes = []
    for _ in range(arity):
        tail = full[draw(st.integers(0, len(full))) :] if draw(st.booleans()) else full
        shapes.append(tuple(1 if draw(st.integers(0, 3)) == 0 else n for n in tail))
    return shapes


def reduction_shape(draw: Draw, arity: int, empty: bool = True) -> list[Shape]:
    shape = any_shape(draw, max_rank=4)
    return [shape if empty else tuple(max(n, 1) for n in shape)]


def axis_attrs(draw: Draw, shapes: list[Shape], single: bool = False) -> Attrs:
    """`axis` as None, an int or a tuple, and `keepdims`."""
    rank = len(shapes[0])
    axis: Any = None
    if rank and draw(st.integers(0, 3)):
        signed = st.integers(-rank, rank - 1)
        if single or draw(st.booleans()):
            axis = draw(signed)
        else:
            axis = tuple(draw(st.lists(signed, unique_by=lambda a: a % rank, max_size=rank)))
    return {"axis": axis, "keepdims": draw(st.booleans())}


# --- values -------------------------------------------------------------------------------------


def values(
    draw: Draw, shape: Shape, dtype: str, domain: tuple[float, float], special: bool
) -> Array:
    """An array of `dtype` with values in `domain`, some of them replaced by special ones."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = DTYPES[dtype].kind
    numpy = DTYPES[dtype].numpy
    if kind == "b":
        return rng.random(shape) < 0.5
    if kind in "iu":
        info = np.iinfo(numpy)
        low, high = domain if not special else (-100.0, 100.0)
        x = rng.integers(max(info.min, int(low)), min(info.max, int(high)) + 1, shape).astype(numpy)
        extreme = np.array([info.min, info.max, 0, 1], numpy)
        return _sprinkle(rng, x, extreme) if special and draw(st.booleans()) else x
    x = rng.uniform(*domain, shape)
    if kind == "c":
        x = x + 1j * rng.uniform(*domain, shape)
        return x.astype(numpy)
    if special and draw(st.booleans()):
        x = _sprinkle(rng, np.asarray(x), np.array(SPECIAL))
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(numpy)


def _sprinkle(rng: np.random.Generator, x: Array, special: Array) -> Array:
    x = np.asarray(x)
    return np.where(rng.random(x.shape) < 0.3, rng.choice(special, x.shape), x)


def _grid(rng: np.random.Generator, shape: Shape, span: tuple[float, float], at: float) -> Array:
    """Distinct points of the span, `at` of the way between the points of a regular grid."""
    n = int(np.prod(shape))
    steps = 10 * max(n, 7)
    points = rng.permutation(steps)[:n] + at
    low, high = span
    return (low + (high - low) * points / steps).reshape(shape)


# --- agreement ----------------------------------------------------------------------------------


def assert_agree(
    actual: Array, expected: Array, tolerance: Agreement, terms: float = 0, scale: Any = 0.0
) -> None:
    """Fail unless `actual` has the shape and dtype of `expected` and is as close as agreed.

    Args:
        actual, expected: what two ways of computing gave.
        tolerance: the agreement of the op.
        terms: number of terms of a reduction.
        scale: bound on the sum of their magnitudes, one number or one for each element.
    """
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    assert actual.dtype == expected.dtype, (actual.dtype, expected.dtype)
    if actual.dtype.kind in "biu":
        np.testing.assert_array_equal(actual, expected)
        return
    narrow = actual.dtype
    eps = epsilon(narrow)
    wide = np.complex128 if narrow.kind == "c" else np.float64
    a, b = np.asarray(actual, wide), np.asarray(expected, wide)
    with np.errstate(all="ignore"):
        size = np.maximum(np.abs(a), np.abs(b))
        # NumPy's complex products round differently for different layouts in memory
        ulp = tolerance.ulp + 4 * (narrow.kind == "c")
        bound = ulp * np.maximum(size * eps, tiny(narrow))
        bound = bound + tolerance.per_term * terms * eps * np.asarray(scale)
        if narrow.name == "bfloat16":
            bound = bound + tolerance.underflow * terms
        same = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= bound)
    if not same.all():
        at = tuple(int(k[0]) for k in np.nonzero(~np.atleast_1d(same)))
        a, b = np.atleast_1d(a), np.atleast_1d(b)
        raise AssertionError(f"{a[at]!r} and {b[at]!r} differ at {at} ({narrow})")


def epsilon(dtype: np.dtype[Any]) -> float:
    """The distance from 1 to the next number."""
    bits = {"float16": 10, "bfloat16": 7, "float32": 23, "complex64": 23}
    return 2.0 ** -bits.get(dtype.name, 52)


def tiny(dtype: np.dtype[Any]) -> float:
    """The distance between denormal numbers."""
    least = {"float16": -24, "bfloat16": -133, "float32": -149, "complex64": -149}
    return 2.0 ** least.get(dtype.name, -1074)


@cache
def rows() -> dict[str, Row]:
    """All rows by the names of their ops."""
    modules = sorted(path.stem for path in Path(__file__).parent.glob("op_table_*.py"))
    return {row.op.name: row for name in modules for row in import_module(name).ROWS}
