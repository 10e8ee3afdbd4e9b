"""Rows for the ops that move, make, select and multiply arrays, draw bits, or have effects."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

import dualmode as dm
from dualmode.ops import (
    creation,
    effects,
    indexing,
    joining,
    linalg,
    random,
    shape,
    slicing,
)
from op_table import ALL, REAL, Array, Attrs, Draw, Row, Shape, any_shape, values

_WIDTH = st.integers(0, 2)


def _array(draw: Draw, dtype: str, sizes: Shape) -> Array:
    return values(draw, sizes, dtype, (-4.0, 4.0), special=False)


# --- shape --------------------------------------------------------------------------------------


def _reshape_attrs(draw: Draw, shapes: list[Shape]) -> Attrs:
    (sizes,) = shapes
    return {"shape": draw(st.sampled_from([sizes, sizes[::-1], (1, *sizes), (-1,)]))}


def _permutation_attrs(draw: Draw, shapes: list[Shape]) -> Attrs:
    return {"axes": tuple(draw(st.permutations(range(len(shapes[0])))))}


def _broadcast_attrs(draw: Draw, shapes: list[Shape]) -> Attrs:
    (sizes,) = shapes
    wide = tuple(draw(st.sampled_from([0, 3])) if n == 1 else n for n in sizes)
    return {"shape": draw(st.sampled_from([wide, (2, *wide)]))}


def _slice_attrs(draw: Draw, shapes: list[Shape]) -> Attrs:
    key = []
    for n in shapes[0]:
        ends = st.none() | st.integers(-n - 1, n + 1)
        step = draw(st.sampled_from([None, 1, 2, 3, -1, -2]))
        key.append(slice(draw(ends), draw(ends), step))
    return {"key": tuple(key)}


def _pad_attrs(draw: Draw, shapes: list[Shape]) -> Attrs:
    rank = len(shapes[0])
    low, high, interior = (tuple(draw(_WIDTH) for _ in range(rank)) for _ in range(3))
    return {"low": low, "high": high, "interior": interior, "value": draw(st.sampled_from([0, 1]))}


def _pad_oracle(x: Array, low: Shape, high: Shape, interior: Shape, value: int) -> Array:
    for axis, (a, b, gap) in enumerate(zip(low, high, interior, strict=True)):
        n = x.shape[axis]
        if gap and n:
            x = np.insert(x, np.repeat(np.arange(1, n), gap), value, axis)
        widths = [(a, b) if k == axis else (0, 0) for k in range(x.ndim)]
        x = np.pad(x, widths, constant_values=value)
    return x


def _concat_inputs(draw: Draw, dtype: str) -> tuple[list[Array], Attrs]:
    sizes = any_shape(draw, min_rank=1)
    axis = draw(st.integers(-len(sizes), len(sizes) - 1))
    arrays = []
    for _ in range(draw(st.integers(1, 3))):
        part = list(sizes)
        part[axis] = draw(st.integers(0, 3))
        arrays.append(_array(draw, dtype, tuple(part)))
    return arrays, {"axis": axis}


# --- indices ------------------------------------------------------------------------------------


def _indices(draw: Draw, size: int) -> Array:
    sizes = draw(st.sampled_from([(), (3,), (0,), (2, 2)])) if size else (0,)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from([np.int32, np.int64]))
    return rng.integers(-size, size, sizes).astype(kind) if size else np.zeros(sizes, kind)


def _take_inputs(draw: Draw, dtype: str) -> tuple[list[Array], Attrs]:
    x = _array(draw, dtype, any_shape(draw, min_rank=1))
    axis = draw(st.integers(0, x.ndim - 1))
    return [x, _indices(draw, x.shape[axis])], {"axis": axis}


def _scatter_inputs(draw: Draw, dtype: str) -> tuple[list[Array], Attrs]:
    (x, indices), attrs = _take_inputs(draw, dtype)
    axis = attrs["axis"]
    sizes = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return [x, indices, _array(draw, dtype, sizes)], attrs


def _scatter_oracle(x: Array, indices: Array, updates: Array, axis: int, add: bool) -> Array:
    out = np.moveaxis(x.copy(), axis, 0)
    new = np.moveaxis(updates, range(axis, axis + indices.ndim), range(indices.ndim))
    for at in np.ndindex(*indices.shape):
        k = indices[at]
        out[k] = out[k] + new[at] if add else new[at]
    return np.moveaxis(out, 0, axis)


# --- linalg -------------------------------------------------------------------------------------


def _matmul_inputs(draw: Draw, dtype: str) -> tuple[list[Array], Attrs]:
    m, k, n = (draw(st.sampled_from([0, 1, 2, 3, 17])) for _ in range(3))
    batches = st.sampled_from([((), ()), ((2,), (2,)), ((2,), (1,)), ((3, 1), (2,)), ((0,), ())])
    left, right = draw(batches)
    ta, tb = draw(st.booleans()), draw(st.booleans())
    a = _array(draw, dtype, (*left, k, m) if ta else (*left, m, k))
    b = _array(draw, dtype, (*right, n, k) if tb else (*right, k, n))
    return [a, b], {"transpose_a": ta, "transpose_b": tb}


def _matmul_oracle(a: Array, b: Array, transpose_a: bool, transpose_b: bool) -> Array:
    a = np.swapaxes(a, -1, -2) if transpose_a else a
    b = np.swapaxes(b, -1, -2) if transpose_b else b
    return np.einsum("...mk,...kn->...mn", a, b)


def _matmul_magnitude(a: Array, b: Array, transpose_a: bool, transpose_b: bool) -> Array:
    # `Row.bound` counts a.size / y.size terms; an element has as many as a row of `a`
    y = _matmul_oracle(a, b, transpose_a, transpose_b)
    terms = a.shape[-2 if transpose_a else -1]
    return y * (terms * y.size / max(a.size, 1))


# --- creation, random ---------------------------------------------------------------------------


def _arange_inputs(draw: Draw, dtype: str) -> tuple[list[Array], Attrs]:
    start, stop = draw(st.integers(0, 20)), draw(st.integers(0, 20))
    step = draw(st.sampled_from([1, 2, 7]))
    return [], {"start": start, "stop": stop, "step": step, "dtype": dtype}


def _state_inputs(draw: Draw, dtype: str) -> tuple[list[Array], Attrs]:
    words = draw(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2))
    sizes = draw(st.sampled_from([(), (0,), (1,), (7,), (8,), (3, 5)]))
    return [np.array(words, np.uint64)], {"shape": sizes, "dtype": dtype}


def philox_block(counter: int, key: int) -> list[int]:
    """The four words of one block, in plain Python integers."""
    mask = 2**32 - 1
    c = [(counter >> 32 * k) & mask for k in range(4)]
    k0, k1 = key & mask, key >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & mask, (p0 >> 32) ^ c[3] ^ k1, p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c


def _bits_oracle(state: Array, shape: Shape, dtype: str) -> Array:
    width = np.dtype(dtype).itemsize // 4
    size = int(np.prod(shape))
    n = -(-size * width // 4)
    key, first = (int(v) for v in state)
    blocks = [philox_block((first + k) % 2**64, key) for k in range(n)]
    if width == 2:
        blocks = [[a | b << 32, c | d << 32] for a, b, c, d in blocks]
    words = [block[k] for k in range(4 // width) for block in blocks]
    return np.array(words[:size], dtype).reshape(shape)


def _permutation_oracle(state: Array, size: int) -> Array:
    return np.argsort(_bits_oracle(state, (size,), "uint64"), kind="stable")


def _permutation_inputs(draw: Draw, dtype: str) -> tuple[list[Array], Attrs]:
    (state,), _ = _state_inputs(draw, dtype)
    return [state], {"size": draw(st.integers(0, 9))}


# --- effects ------------------------------------------------------------------------------------


def _token(*xs: Any, **attrs: Any) -> Array:
    return np.empty(0, np.uint8)


def _true_inputs(draw: Draw, dtype: str) -> tuple[list[Array], Attrs]:
    return [np.ones(any_shape(draw), bool)], {}


def _index_inputs(draw: Draw, dtype: str) -> tuple[list[Array], Attrs]:
    size = draw(st.integers(0, 3))
    return [_indices(draw, size)], {"size": size, "name": "take"}


def _print(x: Any) -> Any:
    return effects.PRINT(x, texts=("x = ", str, "\n"))


_MOVES: dict[str, Any] = {"dtypes": ALL, "gradients": (0,), "wide": False}

ROWS = [
    Row(shape.RESHAPE, dm.reshape, np.reshape, attrs=_reshape_attrs, **_MOVES),
    Row(shape.PERMUTE_DIMS, dm.permute_dims, np.transpose, attrs=_permutation_attrs, **_MOVES),
    Row(shape.BROADCAST_TO, dm.broadcast_to, np.broadcast_to, attrs=_broadcast_attrs, **_MOVES),
    Row(
        slicing.SLICE,
        lambda x, key: x[key],
        lambda x, key: x[key],
        attrs=_slice_attrs,
        **_MOVES,
    ),
    Row(
        slicing.PAD,
        lambda x, **attrs: slicing.PAD(x, **attrs),
        _pad_oracle,
        attrs=_pad_attrs,
        **_MOVES,
    ),
    Row(
        joining.CONCAT,
        lambda *xs, axis: dm.concat(xs, axis),
        lambda *xs, axis: np.concatenate(xs, axis),
        dtypes=ALL,
        gradients=(0,),
        inputs=_concat_inputs,
        wide=False,
    ),
    Row(
        indexing.TAKE,
        dm.take,
        lambda x, indices, axis: np.take(x, indices, axis),
        arity=2,
        dtypes=ALL,
        gradients=(0,),
        inputs=_take_inputs,
        wide=False,
    ),
    Row(
        indexing.SCATTER_ADD,
        indexing.SCATTER_ADD,
        lambda *xs, axis: _scatter_oracle(*xs, axis=axis, add=True),
        arity=3,
        dtypes=("int32", "float32", "float64"),
        gradients=(0, 2),
        inputs=_scatter_inputs,
        wide=False,
    ),
    Row(
        indexing.SCATTER_SET,
        indexing.SCATTER_SET,
        lambda *xs, axis: _scatter_oracle(*xs, axis=axis, add=False),
        arity=3,
        dtypes=ALL,
        gradients=(0, 2),
        inputs=_scatter_inputs,
        wide=False,
    ),
    Row(
        linalg.MATMUL,
        dm.matmul,
        _matmul_oracle,
        arity=2,
        dtypes=REAL,
        gradients=(0, 1),
        inputs=_matmul_inputs,
        magnitude=_matmul_magnitude,
    ),
    Row(
        creation.ARANGE,
        dm.arange,
        lambda start, stop, step, dtype: np.arange(start, stop, step).astype(dtype),
        arity=0,
        dtypes=("int8", "int32", "uint64", "float32", "float64"),
        inputs=_arange_inputs,
    ),
    Row(
        random.RANDOM_BITS,
        random.random_bits,
        _bits_oracle,
        dtypes=("uint32", "uint64"),
        inputs=_state_inputs,
    ),
    Row(
        random.PERMUTATION,
        random.permutation,
        _permutation_oracle,
        dtypes=("uint64",),
        inputs=_permutation_inputs,
    ),
    Row(effects.PRINT, _print, _token, dtypes=ALL),
    Row(
        effects.ASSERT,
        lambda holds: effects.ASSERT(holds, message="holds"),
        _token,
        dtypes=("bool",),
        inputs=_true_inputs,
    ),
    Row(
        effects.CHECK_INDICES,
        effects.CHECK_INDICES,
        _token,
        dtypes=("int32",),
        inputs=_index_inputs,
    ),
]
