"""Random bits from a counter: the same numbers in both modes and for any number of threads.

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011): a bijection of a 128-bit counter under a 64-bit key. A draw names the key and
the first counter, so that every element is a function of its own position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler import spec as specs
from dualmode_compiler.expr import Expr, Reader
from dualmode_compiler.spec import DType, Spec, uint32, uint64

from ..errors import DTypeError, ShapeError
from ..op import Op, convert
from . import elementwise as ew
from . import logic
from . import math as dmath
from .rules import no_gradient
from .shape import RESHAPE, SLICE, less, to_shape

if TYPE_CHECKING:
    from ..tensor import Tensor

# multipliers and key increments of Philox4x32, from the paper
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_MASK = 0xFFFFFFFF

Words = tuple[Any, Any, Any, Any]
Product = Callable[[int, Any], tuple[Any, Any]]


def philox(counter: Words, key: tuple[Any, Any], product: Product, xor: Any, bump: Any) -> Words:
    """The four words that Philox4x32-10 gives for a counter and a key of 32-bit words.

    It is written once for arrays and for expressions: `product(m, x)` gives the high and the low
    word of m * x, `bump(k, w)` the sum k + w modulo 2**32.
    """
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = product(_M0, a)
        high1, low1 = product(_M1, c)
        a, b, c, d = xor(xor(high1, b), k0), low1, xor(xor(high0, d), k1), low0
        k0, k1 = bump(k0, _W0), bump(k1, _W1)
    return a, b, c, d


def _array_product(m: int, x: Any) -> tuple[Any, Any]:
    wide = x.astype(np.uint64) * np.uint64(m)
    return (wide >> np.uint64(32)).astype(np.uint32), wide.astype(np.uint32)


def philox_arrays(counter: Words, key: tuple[Any, Any]) -> Words:
    """`philox` on uint32 arrays."""
    return philox(
        counter, key, _array_product, np.bitwise_xor, lambda k, w: np.add(k, np.uint32(w))
    )


def blocks(size: int, dtype: DType = uint32) -> int:
    """How many counters a draw of `size` elements of `dtype` uses up."""
    return -(-size * dtype.itemsize // 16)


def _bits_infer(state: Spec, *, shape: tuple[int, ...], dtype: DType) -> Spec:
    if state.shape != (2,) or state.dtype is not uint64:
        raise ShapeError(f"random_bits: a generator's state is uint64[2], got {state}")
    if dtype not in (uint32, uint64):
        raise DTypeError(f"random_bits: bits are uint32 or uint64, not {dtype}")
    return Spec(shape, dtype)


def _bits_kernel(
    state: np.ndarray[Any, Any], shape: tuple[int, ...], dtype: DType
) -> np.ndarray[Any, Any]:
    size = math.prod(shape)
    key, first = int(state[0]), state[1]
    position = first + np.arange(blocks(size, dtype), dtype=np.uint64)
    zero = np.zeros(len(position), np.uint32)
    low, high = position.astype(np.uint32), (position >> np.uint64(32)).astype(np.uint32)
    words = philox_arrays((low, high, zero, zero), (np.uint32(key & _MASK), np.uint32(key >> 32)))
    if dtype is uint64:
        a, b, c, d = (w.astype(np.uint64) for w in words)
        words = (a | (b << np.uint64(32)), c | (d << np.uint64(32)))
    return np.concatenate(words)[:size].reshape(shape)


def _expr_product(m: int, x: Expr) -> tuple[Expr, Expr]:
    factor = expr.const(m, uint32)
    return expr.apply("mulhi", factor, x), x * factor


def _halves(x: Expr) -> tuple[Expr, Expr]:
    """The low and the high word of a uint64."""
    shifted = expr.apply("lshr", x, expr.const(32, uint64))
    return expr.cast(x, uint32), expr.cast(shifted, uint32)


def _bits_lower(
    i: Sequence[Expr], out: Spec, state: Reader, *, shape: tuple[int, ...], dtype: DType
) -> Expr:
    """The same word of the same block: the blocks' first words come first, then their second ..."""
    n, per_block = blocks(out.size, dtype), 16 // dtype.itemsize
    position = expr.ravel(i, out.shape)
    beyond = [less(position, n * k) for k in range(1, per_block)]
    block: Expr = position - n * (per_block - 1)
    for k in reversed(range(per_block - 1)):
        block = expr.select(beyond[k], position - n * k, block)
    key, first = (state([expr.const(k, specs.int64)]) for k in (0, 1))
    zero = expr.const(0, uint32)
    words: Sequence[Expr] = philox(
        (*_halves(first + expr.cast(block, uint64)), zero, zero),
        _halves(key),
        _expr_product,
        lambda a, b: expr.apply("xor", a, b),
        lambda k, w: k + expr.const(w, uint32),
    )
    if dtype is uint64:
        a, b, c, d = (expr.cast(w, uint64) for w in words)
        shift = expr.const(32, uint64)
        words = [
            expr.apply("or", low, expr.apply("shl", high, shift)) for low, high in ((a, b), (c, d))
        ]
    word = words[-1]
    for k in reversed(range(per_block - 1)):
        word = expr.select(beyond[k], words[k], word)
    return word


# state: (key, first counter)
RANDOM_BITS = Op(
    "random_bits",
    infer=_bits_infer,
    kernel=_bits_kernel,
    vjp=no_gradient,
    lower=_bits_lower,
)


def random_bits(state: Any, shape: Any, dtype: Any = uint32) -> Tensor:
    """Independent uniform bits.

    Args:
        state: uint64[2], the key and the first counter; the draw uses up `blocks(size, dtype)`.
        shape: of the result.
        dtype: uint32 or uint64.
    """
    return RANDOM_BITS(convert(state), shape=to_shape(shape), dtype=specs.dtype(dtype))


def bits_type(dtype: DType) -> DType:
    """The type of the random bits that one floating number of `dtype` is made from."""
    return uint64 if dtype.itemsize == 8 else uint32


def uniform(state: Any, shape: Any, dtype: DType) -> Tensor:
    """Numbers k / 2**p with k uniform in 0 .. 2**p - 1, p the precision of floating `dtype`.

    They lie in [0, 1): 24 bits for float32, 53 for float64, 11 for float16, 8 for bfloat16.
    """
    if not dtype.is_floating:
        raise DTypeError(f"random: {dtype} is not a floating type")
    precision = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}[dtype.name]
    source = bits_type(dtype)
    bits = random_bits(state, shape, source)
    kept = logic.bitwise_right_shift(bits, 8 * source.itemsize - precision)
    return ew.multiply(logic.cast(kept, dtype), 2.0**-precision)


def normal(state: Any, shape: Any, dtype: DType) -> Tensor:
    """Standard normal numbers by the transform of Box and Muller (1958).

    Each takes two uniform numbers; half types are computed in float32.
    """
    shape = to_shape(shape)
    work = dtype if dtype.itemsize >= 4 else specs.float32
    size = math.prod(shape)
    pairs = uniform(state, (2, size), work)
    u, v = (SLICE(pairs, start=(k, 0), stop=(k + 1, size), step=(1, 1)) for k in (0, 1))
    radius = dmath.sqrt(ew.multiply(dmath.log(ew.subtract(1, u)), -2))
    z = ew.multiply(radius, dmath.cos(ew.multiply(v, 2 * math.pi)))
    return logic.cast(RESHAPE(z, shape=shape), dtype)


# --- permutations -------------------------------------------------------------------------------


def _permutation_infer(state: Spec, *, size: int) -> Spec:
    return _bits_infer(state, shape=(size,), dtype=uint64).with_dtype(specs.int64)


def _permutation_kernel(state: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    return np.argsort(_bits_kernel(state, (size,), uint64), kind="stable").astype(np.int64)


# the order that sorts random uint64 words
PERMUTATION = Op(
    "random_permutation",
    infer=_permutation_infer,
    kernel=_permutation_kernel,
    vjp=no_gradient,
)


def permutation(state: Any, size: int) -> Tensor:
    """The numbers 0 .. size - 1 in random order, int64."""
    return PERMUTATION(convert(state), size=size)
