"""Graphs drawn by hypothesis: every dtype, sizes 0 and 1, every kind of op, several outputs.

A graph is drawn while it is traced, so a maker looks at the values made so far, takes some and adds
one; a maker that finds none that suit gives None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

import dualmode as dm
from dualmode import op
from dualmode.ops.slicing import PAD, SLICE
from dualmode.tensor import Tensor
from dualmode.tracer import Tracer
from dualmode_compiler.graph import Graph
from dualmode_compiler.spec import DTYPES, Spec

Draw = Callable[[st.SearchStrategy[Any]], Any]
Maker = Callable[[Draw, list[Tensor]], Tensor | None]
SIZES = (0, 1, 1, 2, 3, 4, 5, 7, 16, 17, 33)
SMALL = 600  # elements of the largest value
DTYPES_DRAWN = ("float32", "float32", "float32", "float64", "int64", "int32", *DTYPES)


def graphs(
    draw: Draw, steps: int, dtypes: tuple[str, ...] = DTYPES_DRAWN, sizes: Any = SIZES
) -> Graph:
    """A graph of up to three inputs, two states and `steps` steps."""
    tracer = Tracer()
    with op.mode(tracer):
        pool = [tracer.param(_spec(draw, dtypes, sizes)) for _ in range(draw(st.integers(1, 3)))]
        states = [tracer.param(_spec(draw, dtypes, sizes)) for _ in range(draw(st.integers(0, 2)))]
        first = len(pool)
        pool += states
        for _ in range(steps):
            made = draw(st.sampled_from(MAKERS))(draw, pool)
            if made is not None and made.size <= SMALL:
                pool.append(made)
        count = draw(st.integers(1, 4))
        outputs = [_pick(draw, pool[len(pool) // 2 :]) for _ in range(count)]
        graph = tracer.finish([tracer.node(x) for x in outputs])
        for k in range(len(states)):
            fitting = [x for x in pool if x.spec is states[k].spec]
            graph.updates.append((first + k, tracer.node(_pick(draw, fitting))))
    return graph


def _spec(draw: Draw, dtypes: tuple[str, ...], sizes: Any) -> Spec:
    shape = [draw(st.sampled_from(sizes)) for _ in range(draw(st.integers(0, 3)))]
    while math.prod(shape) > SMALL:
        shape.pop()
    return Spec(shape, DTYPES[draw(st.sampled_from(dtypes))])


def _pick(draw: Draw, pool: list[Tensor], keep: Callable[[Tensor], bool] | None = None) -> Any:
    """A value, late ones rather than early ones; None if none is kept."""
    if keep is not None:
        pool = [x for x in pool if keep(x)]
    if not pool:
        return None
    return pool[-1 - min(draw(st.integers(0, len(pool) - 1)), draw(st.integers(0, len(pool) - 1)))]


def _numeric(x: Tensor) -> bool:
    return x.dtype.kind != "b"


def _real(x: Tensor) -> bool:
    return x.dtype.kind in "iuf"


def _cyclic(x: Tensor) -> Tensor:
    """`x` in a range that keeps results exact and finite."""
    return dm.remainder(x, dm.cast(5, x.dtype)) if x.dtype.kind in "iuf" else x


def _unary(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    x = _pick(draw, pool, _numeric)
    if x is None:
        return None
    names = ["negative", "square", "positive", "abs"]
    if not x.dtype.is_complex:
        names += ["sign", "floor", "round", "relu"]
    if x.dtype.is_floating:
        names += ["isnan", "isfinite", "reciprocal"]
    y = getattr(dm, draw(st.sampled_from(names)))(x)
    return _cyclic(dm.floor(y) if x.dtype.is_complex and y.dtype.is_floating else y)


def _transcendental(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    """Rounded, so that an error in the last place does not show and later steps stay exact."""
    x = _pick(draw, pool, lambda x: x.dtype.is_floating)
    if x is None:
        return None
    name = draw(st.sampled_from(["sin", "tanh", "exp", "sigmoid", "softplus", "erf", "atan"]))
    y = getattr(dm, name)(dm.minimum(x, dm.cast(4, x.dtype)))
    return dm.floor(dm.add(dm.multiply(y, 8.0), 0.25))


def _binary(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    a = _pick(draw, pool)
    b = _pick(draw, pool, lambda b: b.dtype is a.dtype and _broadcast(a, b) is not None)
    if a.dtype.kind == "b":
        return getattr(dm, draw(st.sampled_from(["logical_and", "logical_or", "equal"])))(a, b)
    names = ["add", "subtract", "multiply", "equal", "not_equal"]
    if not a.dtype.is_complex:
        names += ["maximum", "minimum", "less", "greater_equal", "floor_divide", "remainder"]
    if a.dtype.is_integer:
        names += ["bitwise_and", "bitwise_xor", "bitwise_left_shift"]
    y = getattr(dm, draw(st.sampled_from(names)))(a, b)
    return _cyclic(y)


def _broadcast(a: Tensor, b: Tensor) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return None


def _where(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    c = _pick(draw, pool)
    a = _pick(draw, pool, lambda a: _broadcast(c, a) is not None)
    return dm.where(dm.not_equal(c, dm.cast(0, c.dtype)), a, dm.cast(1, a.dtype))


def _cast(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    x = _pick(draw, pool)
    to = draw(
        st.sampled_from([d for d in DTYPES.values() if d.is_complex or not x.dtype.is_complex])
    )
    return dm.cast(x, to)


def _axes(draw: Draw, x: Tensor, least: int = 0) -> tuple[int, ...]:
    axes = (
        st.lists(st.integers(0, x.ndim - 1), min_size=least, unique=True) if x.ndim else st.just([])
    )
    return tuple(draw(axes))


def _reduction(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    x = _pick(draw, pool)
    axes, keepdims = _axes(draw, x), draw(st.booleans())
    if x.dtype.kind == "b":
        return getattr(dm, draw(st.sampled_from(["any", "all"])))(x, axes, keepdims)
    names = ["sum", "any"]
    if not x.dtype.is_complex:
        names += ["all"] + (["max", "min"] if all(x.shape[k] for k in axes) else [])
    return getattr(dm, draw(st.sampled_from(names)))(x, axes, keepdims)


def _position(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    x = _pick(draw, pool, lambda x: _real(x) and x.size > 0)
    if x is None:
        return None
    axis = draw(st.sampled_from([None, *range(x.ndim)]))
    return getattr(dm, draw(st.sampled_from(["argmax", "argmin"])))(x, axis, draw(st.booleans()))


def _rows(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    x = _pick(draw, pool, lambda x: x.dtype.is_floating and x.ndim > 0)
    if x is None:
        return None
    y = dm.softmax(x, _axes(draw, x, 1))
    return dm.floor(dm.add(dm.multiply(y, 8.0), 0.3))


def _matmul(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    a = _pick(draw, pool, lambda a: _numeric(a) and a.ndim >= 2)
    if a is None:
        return None
    flip_a, flip_b = draw(st.booleans()), draw(st.booleans())
    inner = a.shape[-2 if flip_a else -1]

    def fits(b: Tensor) -> bool:
        if b.dtype is not a.dtype or b.ndim < 2 or b.shape[-1 if flip_b else -2] != inner:
            return False
        try:
            np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except ValueError:
            return False
        return True

    b = _pick(draw, pool, fits)
    return None if b is None else _cyclic(dm.matmul(a, b, flip_a, flip_b))


def _reshape(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    x = _pick(draw, pool)
    n = x.size
    splits = [(n,), (1, n), (n, 1, 1), x.shape[::-1]]
    splits += [(k, n // k) for k in (2, 3, 5) if n % k == 0]
    splits += [(n // k // 2, k, 2) for k in (2, 3, 5, 8) if n % (2 * k) == 0]
    return dm.reshape(x, draw(st.sampled_from([s for s in splits if math.prod(s) == n])))


def _permute(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    x = _pick(draw, pool, lambda x: x.ndim > 1)
    return None if x is None else dm.permute_dims(x, draw(st.permutations(range(x.ndim))))


def _expand(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    x = _pick(draw, pool)
    shape = [draw(st.sampled_from((1, 2, 3))), *x.shape]
    return dm.broadcast_to(x, shape)


def _slice(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    x = _pick(draw, pool, lambda x: x.ndim > 0)
    if x is None:
        return None
    start, stop, step = [], [], []
    for n in x.shape:
        a, b = sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n))))
        s = draw(st.sampled_from([1, 1, 2, 3, -1, -2])) if a < b else 1
        start.append(a if s > 0 else b - 1)
        stop.append(b if s > 0 else a - 1)
        step.append(s)
    return SLICE(x, start=tuple(start), stop=tuple(stop), step=tuple(step))


def _pad(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    x = _pick(draw, pool, lambda x: x.ndim > 0)
    if x is None:
        return None

    def widths(most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(0, most)) for _ in x.shape)

    return PAD(x, low=widths(2), high=widths(3), interior=widths(2), value=1)


def _concat(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    x = _pick(draw, pool, lambda x: x.ndim > 0)
    if x is None:
        return None
    axis = draw(st.integers(0, x.ndim - 1))

    def rest(y: Tensor) -> Any:
        return y.dtype, y.shape[:axis], y.shape[axis + 1 :], y.ndim

    same = [y for y in pool if y.ndim and rest(y) == rest(x)]
    return dm.concat([x, *(_pick(draw, same) for _ in range(draw(st.integers(1, 3))))], axis)


def _take(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    x = _pick(draw, pool, lambda x: x.ndim > 0 and min(x.shape) > 0)
    indices = _pick(draw, pool, lambda i: i.dtype.is_integer)
    if x is None or indices is None:
        return None
    axis = draw(st.integers(0, x.ndim - 1))
    n = x.shape[axis]
    small = dm.remainder(dm.cast(indices, "int64"), 2 * n)
    return dm.take(x, dm.subtract(dm.minimum(small, 2 * n - 1), n), axis)


def _scatter(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    x = _pick(draw, pool, lambda x: x.ndim > 0 and x.shape[0] > 0 and _numeric(x))
    if x is None:
        return None
    at = dm.remainder(dm.arange(4, dtype="int32"), x.shape[0])
    return x.at[at].add(dm.cast(1, x.dtype))


def _position_numbers(draw: Draw, pool: list[Tensor]) -> Tensor | None:
    x = _pick(draw, pool, lambda x: x.ndim > 0 and _real(x))
    if x is None:
        return None
    n = x.shape[-1]
    y = dm.remainder(dm.multiply(dm.arange(n, dtype="int64"), 5), 3)
    return dm.add(x, dm.cast(y, x.dtype))


MAKERS: list[Maker] = [
    *(_unary, _transcendental, _binary, _binary, _where, _cast, _reduction, _reduction, _position),
    *(_rows, _matmul, _reshape, _permute, _expand, _slice, _pad, _concat, _take, _scatter),
    _position_numbers,
]
