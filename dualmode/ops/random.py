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
from dualmode_compiler.index import ravel
from dualmode_compiler.spec import DType, Spec, uint32, uint64

from ..errors import DTypeError, ShapeError
from ..op import Op, convert
from . import conversion, logic
from . import elementwise as ew
from . import math as dmath
from .rules import no_gradient
from .shape import RESHAPE, less, to_shape
from .slicing import SLICE

if TYPE_CHECKING:
    from ..tensor import Tensor

# multipliers and key increments of Philox4x32, from the paper
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_CHUNK = 8192  # blocks that the NumPy kernel computes at a time, so that they stay in the cache
_PIECES = (64, 4096)  # blocks that native code draws at once


def philox(
    counter: np.ndarray[Any, Any], key: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Philox4x32-10 of many counters under one key; all words are 32 bits in a uint64.

    Args:
        counter: words 0 to 3 of each counter, [4,n].
        key: both words, [2].

    Returns:
        Words 0 and 2 of each result, and words 1 and 3, each [2,n].
    """
    multiplier, increment = (np.array(w, np.uint64)[:, None] for w in (_MULTIPLIERS, _INCREMENTS))
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    even, odd, key = counter[::2], counter[1::2], key[:, None]
    for _ in range(_ROUNDS):
        product = even * multiplier
        even = (product >> half)[::-1] ^ odd ^ key
        odd = (product & mask)[::-1]
        key = (key + increment) & mask
    return even, odd


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
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    key = np.array([state[0] & mask, state[0] >> half])
    n = blocks(math.prod(shape), dtype)
    out = np.empty((16 // dtype.itemsize, n), dtype.numpy)
    for at in range(0, n, _CHUNK):
        chunk = slice(at, min(at + _CHUNK, n))
        position = state[1:] + np.arange(chunk.start, chunk.stop, dtype=np.uint64)
        counter = np.zeros((4, len(position)), np.uint64)
        counter[0], counter[1] = position & mask, position >> half
        even, odd = philox(counter, key)
        if dtype is uint64:
            out[:, chunk] = even | (odd << half)
        else:
            out[::2, chunk], out[1::2, chunk] = even, odd
    return out.reshape(-1)[: math.prod(shape)].reshape(shape)


def _bits_in_pieces(
    compute: Callable[..., Any], state: np.ndarray[Any, Any], shape: tuple[int, ...], dtype: DType
) -> np.ndarray[Any, Any]:
    """The same from draws of one size, of as many blocks as fill a small or a large piece."""
    words, size = 16 // dtype.itemsize, math.prod(shape)
    n = blocks(size, dtype)
    piece = _PIECES[n > _PIECES[0]]
    out = np.empty((words, n), dtype.numpy)
    for at in range(0, n, piece):
        here = state + np.array([0, at], np.uint64)
        drawn = compute(here, shape=(words * piece,), dtype=dtype).reshape(words, piece)
        out[:, at : at + piece] = drawn[:, : n - at]
    return out.reshape(-1)[:size].reshape(shape)


def _philox_expr(counter: Sequence[Expr], key: Sequence[Expr]) -> tuple[Expr, Expr, Expr, Expr]:
    """`philox` of one counter, on uint32 expressions."""
    a, b, c, d = counter
    k0, k1 = key
    m0, m1 = (expr.const(m, uint32) for m in _MULTIPLIERS)
    w0, w1 = (expr.const(w, uint32) for w in _INCREMENTS)
    for _ in range(_ROUNDS):
        high0, high1 = expr.apply("mulhi", m0, a), expr.apply("mulhi", m1, c)
        even = (expr.apply("xor", high1, b), expr.apply("xor", high0, d))
        b, d = c * m1, a * m0
        a, c = (expr.apply("xor", x, k) for x, k in zip(even, (k0, k1), strict=True))
        k0, k1 = k0 + w0, k1 + w1
    return a, b, c, d


def _halves(x: Expr) -> tuple[Expr, Expr]:
    """The low and the high word of a uint64."""
    shifted = expr.apply("lshr", x, expr.const(32, uint64))
    return expr.cast(x, uint32), expr.cast(shifted, uint32)


def _joined(low: Expr, high: Expr) -> Expr:
    """The uint64 of two words."""
    low, high = expr.cast(low, uint64), expr.cast(high, uint64)
    return expr.apply("or", low, expr.apply("shl", high, expr.const(32, uint64)))


def _bits_lower(
    i: Sequence[Expr], out: Spec, state: Reader, *, shape: tuple[int, ...], dtype: DType
) -> Expr:
    """As in the kernel, the first words of all blocks come first, then their second ones, ..."""
    n, per_block = blocks(out.size, dtype), 16 // dtype.itemsize
    position = ravel(i, out.shape)
    before = [less(position, n * k) for k in range(1, per_block)]
    block: Expr = position - n * (per_block - 1)
    for k in reversed(range(per_block - 1)):
        block = expr.select(before[k], position - n * k, block)
    key, first = (state([expr.const(k, specs.int64)]) for k in (0, 1))
    zero = expr.const(0, uint32)
    counter = (*_halves(first + expr.cast(block, uint64)), zero, zero)
    words: Sequence[Expr] = _philox_expr(counter, _halves(key))
    if dtype is uint64:
        words = [_joined(*words[:2]), _joined(*words[2:])]
    word = words[-1]
    for k in reversed(range(per_block - 1)):
        word = expr.select(before[k], words[k], word)
    return word


# state: (key, first counter)
RANDOM_BITS = Op(
    "random_bits",
    infer=_bits_infer,
    kernel=_bits_kernel,
    vjp=no_gradient,
    lower=_bits_lower,
    pieces=_bits_in_pieces,
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
    return ew.multiply(conversion.cast(kept, dtype), 2.0**-precision)


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
    return conversion.cast(RESHAPE(z, shape=shape), dtype)


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
