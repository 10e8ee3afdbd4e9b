"""Random numbers: `dm.random.normal(shape)`, `dm.random.set_seed(0)`, `dm.random.Generator(0)`.

Numbers come from Philox4x32-10, a function of a key and a counter (see `ops.random`). A `Generator`
keeps both in a variable, so that functions that draw from it are compiled like any other code, and
both modes draw the same numbers.
"""

from __future__ import annotations

import math
import os
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import spec as specs
from dualmode_compiler.spec import DType

from .errors import DTypeError, ShapeError
from .op import convert, eagerly
from .ops import conversion, creation, indexing, logic
from .ops import elementwise as ew
from .ops import random as ops
from .ops.shape import to_shape
from .variable import Variable

if TYPE_CHECKING:
    from .tensor import Tensor

_KEYS = 1 << 64


class Generator:
    """A stream of random numbers.

    Args:
        seed: an integer that names the stream; without one, the operating system gives it.

    Attributes:
        state: the variable uint64[2] that holds the key and the counter of the next draw. Save and
            restore it with a model to continue the stream.
    """

    def __init__(self, seed: int | None = None) -> None:
        with eagerly():  # no part of a function that happens to be traced now
            self.state = Variable(_first_state(seed), trainable=False, name="generator")

    def reset(self, seed: int) -> None:
        """Start the stream that `seed` names."""
        self.state.assign(_first_state(seed))

    def _draw(self, shape: Any, bits: DType) -> Tensor:
        """The state for a draw of `shape` of this type of bits; the variable moves on behind it."""
        state = self.state.read_value()
        count = ops.blocks(math.prod(shape), bits)
        # [0, count] as a range: the key stays
        step = creation.ARANGE(start=0, step=count, size=2, dtype=specs.uint64)
        self.state.assign(ew.add(state, step))
        return state

    def _unit(self, shape: tuple[int, ...], dtype: DType) -> Tensor:
        """Uniform numbers in [0, 1)."""
        return ops.uniform(self._draw(shape, ops.bits_type(dtype)), shape, dtype)

    def uniform(
        self, shape: Any = (), low: Any = 0.0, high: Any = 1.0, dtype: Any = specs.float32
    ) -> Tensor:
        """Numbers uniform in [low, high): `low` plus a multiple of 2**-24 (2**-53 for float64,
        2**-11 for float16, 2**-8 for bfloat16) of the width, rounded."""
        dtype = _floating(dtype)
        low, high = convert(low, dtype), convert(high, dtype)
        u = self._unit(to_shape(shape), dtype)
        return ew.add(ew.multiply(u, ew.subtract(high, low)), low)

    def normal(
        self, shape: Any = (), mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = specs.float32
    ) -> Tensor:
        """Normal (Gaussian) numbers, by the transform of Box and Muller (1958)."""
        shape, dtype = to_shape(shape), _floating(dtype)
        z = ops.normal(self._draw((2, *shape), ops.bits_type(dtype)), shape, dtype)
        return ew.add(ew.multiply(z, convert(stddev, dtype)), convert(mean, dtype))

    def bernoulli(self, shape: Any = (), p: Any = 0.5, dtype: Any = specs.bool_) -> Tensor:
        """True (or 1) with probability `p`, else False (or 0)."""
        return conversion.cast(logic.less(self._unit(to_shape(shape), specs.float32), p), dtype)

    def integers(
        self, shape: Any = (), low: int = 0, high: int = 2, dtype: Any = specs.int32
    ) -> Tensor:
        """Integers uniform in low .. high - 1; the probabilities are equal to within 2**-53 times
        their number.

        Raises:
            ValueError: the range is empty, or does not fit into `dtype` or into 53 bits.
        """
        dtype = specs.dtype(dtype)
        if not dtype.is_integer:
            raise DTypeError(f"integers: {dtype} is not an integer type")
        if not (isinstance(low, int | np.integer) and isinstance(high, int | np.integer)):
            raise DTypeError(
                f"integers: low and high are integers, got {low!r} and {high!r}; "
                "the arguments are (shape, low, high)"
            )
        limits = np.iinfo(dtype.numpy)
        if not limits.min <= low < high <= limits.max + 1 or high - low > 1 << 53:
            raise ValueError(f"integers: no range for {dtype}: low={low}, high={high}")
        scaled = ew.multiply(self._unit(to_shape(shape), specs.float64), float(high - low))
        offset = conversion.cast(conversion.cast(scaled, specs.int64), dtype)
        return ew.add(offset, convert(low, dtype))

    def permutation(self, n: int) -> Tensor:
        """The numbers 0 .. n - 1 in random order, int64."""
        return ops.permutation(self._draw((n,), specs.uint64), n)

    def shuffle(self, x: Any, axis: int = 0) -> Tensor:
        """`x` with its parts along `axis` in random order."""
        x = convert(x)
        if not x.ndim:
            raise ShapeError(f"shuffle: needs at least one axis, got {x.spec}")
        return indexing.take(x, self.permutation(x.shape[axis]), axis)

    def __repr__(self) -> str:
        return f"Generator(state={self.state})"


def _first_state(seed: int | None) -> np.ndarray[Any, Any]:
    key = int.from_bytes(os.urandom(8), "little") if seed is None else int(seed) % _KEYS
    return np.array([key, 0], np.uint64)


def _floating(dtype: Any) -> DType:
    dtype = specs.dtype(dtype)
    if not dtype.is_floating:
        raise DTypeError(f"random: {dtype} is not a floating type; use integers or bernoulli")
    return dtype


# --- the default generator ----------------------------------------------------------------------


@cache
def default_generator() -> Generator:
    """The generator behind the functions of this module; its seed is the system's unless set."""
    return Generator()


@cache
def _key_generator() -> Generator:
    return Generator()


def fresh_key() -> np.ndarray[Any, Any]:
    """uint64[2], another one on each call, in a sequence that `set_seed` starts anew: a key for
    NumPy's generators, which make the first values of weights and the orders of datasets.

    The sequence is apart from the default generator because weights are created while a function is
    traced, before the function's own draws take place.
    """
    with eagerly():
        return _key_generator()._draw((1,), specs.uint64).numpy()


def set_seed(seed: int) -> None:
    """Start the default generator anew, and the sequence of keys: the same seed gives the same
    numbers, first weights and orders of datasets."""
    default_generator().reset(seed)
    _key_generator().reset(seed)


def uniform(shape: Any = (), low: Any = 0.0, high: Any = 1.0, dtype: Any = specs.float32) -> Tensor:
    """`Generator.uniform` of the default generator."""
    return default_generator().uniform(shape, low, high, dtype)


def normal(
    shape: Any = (), mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = specs.float32
) -> Tensor:
    """`Generator.normal` of the default generator."""
    return default_generator().normal(shape, mean, stddev, dtype)


def bernoulli(shape: Any = (), p: Any = 0.5, dtype: Any = specs.bool_) -> Tensor:
    """`Generator.bernoulli` of the default generator."""
    return default_generator().bernoulli(shape, p, dtype)


def randint(shape: Any = (), low: int = 0, high: int = 2, dtype: Any = specs.int32) -> Tensor:
    """`Generator.integers` of the default generator."""
    return default_generator().integers(shape, low, high, dtype)


def permutation(n: int) -> Tensor:
    """`Generator.permutation` of the default generator."""
    return default_generator().permutation(n)


def shuffle(x: Any, axis: int = 0) -> Tensor:
    """`Generator.shuffle` of the default generator."""
    return default_generator().shuffle(x, axis)
