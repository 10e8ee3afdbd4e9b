"""Rows of the op table for reductions: `ops/reduction.py` and `ops/softmax.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from dualmode.ops import crossentropy, cumulative, normalization, reduction, softmax
from dualmode_compiler.spec import DTYPES
from op_table import ALL, COMPLEX, FLOATS, Array, Attrs, Draw, Row, Shape, axis_attrs, values
from op_table import reduction_shape as shape

some = partial(shape, empty=False)
single = partial(axis_attrs, single=True)


def _reduction(oracle: Callable[..., Any]) -> Callable[..., Any]:
    """An oracle that passes `axis` and `keepdims` on."""
    return lambda x, axis, keepdims: oracle(x, axis=axis, keepdims=keepdims)


def _position(oracle: Callable[..., Any]) -> Callable[..., Any]:
    def compute(x: Array, axis: int | None, keepdims: bool) -> Array:
        flat = oracle(x.ravel() if axis is None else x, axis=0 if axis is None else axis)
        if not keepdims:
            return np.asarray(flat)
        return np.reshape(flat, (1,) * x.ndim) if axis is None else np.expand_dims(flat, axis)

    return compute


def _ranked(draw: Draw, arity: int) -> list[Shape]:
    return [(*shape(draw, arity)[0], 3)]


def _one_axis(draw: Draw, shapes: list[Shape]) -> Attrs:
    rank = len(shapes[0])
    return {"axis": draw(st.integers(-rank, rank - 1)), "include_initial": draw(st.booleans())}


def _cumulative_sum(x: Array, axis: int, include_initial: bool) -> Array:
    start = 0 if include_initial else 1
    sums = [x.take(range(n), axis).sum(axis) for n in range(start, x.shape[axis] + 1)]
    return np.stack(sums, axis) if sums else np.zeros(x.shape)


def _softmax_axis(draw: Draw, shapes: list[Shape]) -> Attrs:
    return {"axis": axis_attrs(draw, shapes)["axis"]}


def _log_softmax(x: Array, axis: Any) -> Array:
    return x - _logsumexp(x, axis, keepdims=True)


def _logsumexp(x: Array, axis: Any, keepdims: bool) -> Array:
    axes = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
    for a in axes:  # pair by pair: an order and a formula of its own
        x = np.logaddexp.reduce(x, axis=a, keepdims=True)
    return x if keepdims else np.squeeze(x, axis=axes)


def _largest(x: Array, **attrs: Any) -> Array:
    return 1 + np.max(x, initial=0)  # the shift by the largest element rounds as coarsely as it


def _total(x: Array, **attrs: Any) -> Array:
    return np.sum(x)


def _labelled(draw: Draw, dtype: str, special: bool = True) -> tuple[list[Array], Attrs]:
    """Logits and labels, some of them outside of the classes if `special`."""
    *outer, classes = some(draw, 1)[0] or (3,)
    logits = values(draw, (*outer, classes), dtype, (-4, 4), special=False)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low, high = (-2, classes + 2) if special else (0, classes)
    kind = draw(st.sampled_from(["int8", "int32", "int64", "uint8"]))
    labels = rng.integers(max(low, 0 if kind == "uint8" else low), high, outer)
    return [logits, labels.astype(kind)], {}


_smooth_labelled = partial(_labelled, special=False)


def _weighted(drawn: tuple[list[Array], Attrs]) -> tuple[list[Array], Attrs]:
    """Logits, what weighs the losses, and labels."""
    (logits, labels), attrs = drawn
    g = np.linspace(-2, 3, labels.size).reshape(labels.shape).astype(logits.dtype)
    return [logits, g, labels], attrs


def _gradient(logits: Array, g: Array, labels: Array) -> Array:
    p = np.exp(_log_softmax(logits, -1))
    here = labels[..., None] == np.arange(logits.shape[-1])
    known = here.any(-1, keepdims=True)
    return np.where(known, (p - here) * g[..., None], np.nan)


def _loss(logits: Array, labels: Array) -> Array:
    here = labels[..., None] == np.arange(logits.shape[-1])
    picked = np.where(here, _log_softmax(logits, -1), 0).sum(-1)
    return np.where(here.any(-1), -picked, np.nan)


def _normalizable(draw: Draw, dtype: str) -> tuple[list[Array], Attrs]:
    """Rows of different numbers, so that their variance is well away from 0."""
    *outer, n = some(draw, 1)[0] or (3,)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.permuted(np.broadcast_to(np.linspace(-2, 2, n), (*outer, n)), axis=-1)
    vectors = [rng.uniform(-2, 2, n) for _ in range(2)]
    epsilon = draw(st.sampled_from([1e-5, 0.5]))
    return [a.astype(DTYPES[dtype].numpy) for a in (x, *vectors)], {"epsilon": epsilon}


def _normalized(x: Array, scale: Array, offset: Array, epsilon: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + offset


ROWS = [
    Row(reduction.SUM, reduction.sum, _reduction(np.sum), 1, ALL, special=False,
        shapes=shape, attrs=axis_attrs, gradients=(0,)),
    Row(reduction.MEAN, reduction.mean, _reduction(np.mean), 1, (*FLOATS, *COMPLEX),
        special=False, shapes=some, attrs=axis_attrs, gradients=(0,)),
    Row(reduction.PROD, reduction.prod, _reduction(np.prod), 1, ALL, (-2, 2), special=False,
        shapes=shape, attrs=axis_attrs, smooth=(0.5, 1.5), gradients=(0,)),
    Row(cumulative.CUMULATIVE_SUM, cumulative.cumulative_sum, _cumulative_sum, 1, ALL,
        special=False, shapes=_ranked, attrs=_one_axis, gradients=(0,), magnitude=_total),
    Row(reduction.MAX, reduction.max, _reduction(np.max), 1, ALL, shapes=some, attrs=axis_attrs,
        gradients=(0,)),
    Row(reduction.MIN, reduction.min, _reduction(np.min), 1, ALL, shapes=some, attrs=axis_attrs,
        gradients=(0,)),
    Row(reduction.ARGMAX, reduction.argmax, _position(np.argmax), 1, ALL, shapes=some,
        attrs=single),
    Row(reduction.ARGMIN, reduction.argmin, _position(np.argmin), 1, ALL, shapes=some,
        attrs=single),
    Row(reduction.ANY, reduction.any, _reduction(np.any), 1, ALL, shapes=shape, attrs=axis_attrs),
    Row(reduction.ALL, reduction.all, _reduction(np.all), 1, ALL, shapes=shape, attrs=axis_attrs),
    Row(softmax.SOFTMAX, softmax.softmax, lambda x, axis: np.exp(_log_softmax(x, axis)), 1, FLOATS,
        special=False, shapes=some, attrs=_softmax_axis, gradients=(0,), magnitude=_largest),
    Row(softmax.LOG_SOFTMAX, softmax.log_softmax, _log_softmax, 1, FLOATS, special=False,
        shapes=some, attrs=_softmax_axis, gradients=(0,), magnitude=_largest),
    Row(softmax.LOGSUMEXP, softmax.logsumexp, _logsumexp, 1, FLOATS, special=False,
        shapes=some, attrs=axis_attrs, gradients=(0,), magnitude=_largest),
    Row(crossentropy.SPARSE_SOFTMAX_CROSS_ENTROPY, crossentropy.sparse_softmax_cross_entropy,
        _loss, 2, FLOATS, inputs=_labelled, smooth_inputs=_smooth_labelled, gradients=(0,),
        magnitude=lambda x, labels: np.full(labels.shape, 10.0)),
    Row(crossentropy.SPARSE_SOFTMAX_CROSS_ENTROPY_GRADIENT,
        crossentropy.SPARSE_SOFTMAX_CROSS_ENTROPY_GRADIENT, _gradient, 3, FLOATS,
        inputs=lambda *a, **k: _weighted(_labelled(*a, **k)),
        smooth_inputs=lambda *a, **k: _weighted(_smooth_labelled(*a, **k)), gradients=(0, 1),
        magnitude=lambda x, g, labels: np.abs(g)[..., None] * np.ones(x.shape)),
    Row(normalization.LAYER_NORM, normalization.layer_norm, _normalized, 3, FLOATS,
        inputs=_normalizable, gradients=(0, 1, 2),
        magnitude=lambda x, s, b, **_: np.full(x.shape, 10.0)),
]  # fmt: skip
