"""Losses, by Keras's names: functions that give one value per sample, and classes that average.

`y_true` is cast to the dtype of `y_pred`. Shapes must be equal: `[n]` against `[n,1]` is an error,
not a broadcast to `[n,n]`. The mean over a batch of 0 samples is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import dualmode as dm

from .errors import DTypeError, ShapeError
from .ops.crossentropy import sparse_softmax_cross_entropy

Reduction = Literal["sum_over_batch_size", "sum", "none"] | None
_EPSILON = 1e-7  # keeps probabilities away from 0 and 1, as Keras's backend epsilon does


def mean_squared_error(y_true: Any, y_pred: Any) -> Any:
    """The mean of (y_pred - y_true)^2 over the last axis: [..., n] to [...].

    Raises:
        ShapeError: the shapes differ.
    """
    y_true, y_pred = _alike("mean_squared_error", y_true, y_pred)
    return _last_mean(dm.square(y_pred - y_true))


def mean_absolute_error(y_true: Any, y_pred: Any) -> Any:
    """The mean of |y_pred - y_true| over the last axis: [..., n] to [...].

    Raises:
        ShapeError: the shapes differ.
    """
    y_true, y_pred = _alike("mean_absolute_error", y_true, y_pred)
    return _last_mean(dm.abs(y_pred - y_true))


def binary_crossentropy(y_true: Any, y_pred: Any, from_logits: bool = False) -> Any:
    """-(y log p + (1 - y) log(1 - p)), its mean over the last axis: [..., n] to [...].

    Args:
        y_true: in [0, 1], of the shape of `y_pred`.
        y_pred: probabilities, or logits (any real numbers) if `from_logits`.
        from_logits: computes softplus(x) - x y, which neither overflows nor loses precision.

    Raises:
        ShapeError: the shapes differ.
    """
    y_true, y_pred = _alike("binary_crossentropy", y_true, y_pred)
    if from_logits:
        return _last_mean(dm.softplus(y_pred) - y_pred * y_true)
    p = dm.clip(y_pred, _EPSILON, 1 - _EPSILON)
    return _last_mean(-(y_true * dm.log(p) + (1 - y_true) * dm.log(1 - p)))


def categorical_crossentropy(y_true: Any, y_pred: Any, from_logits: bool = False) -> Any:
    """-sum(y log p) over the last axis, the classes: [..., classes] to [...].

    Args:
        y_true: a distribution over the classes, for one class a one-hot row.
        y_pred: probabilities (scaled to sum to 1), or logits if `from_logits`.
        from_logits: whether `y_pred` holds logits.

    Raises:
        ShapeError: the shapes differ.
    """
    y_true, y_pred = _alike("categorical_crossentropy", y_true, y_pred)
    return -dm.sum(y_true * _log_probabilities(y_pred, from_logits), axis=-1)


def sparse_categorical_crossentropy(y_true: Any, y_pred: Any, from_logits: bool = False) -> Any:
    """-log of the probability of the true class: labels [...] and [..., classes] to [...].

    A label outside of 0 .. classes - 1 gives NaN for its sample, in the loss and in all gradients.

    Args:
        y_true: integer labels.
        y_pred: probabilities (scaled to sum to 1), or logits if `from_logits`.
        from_logits: whether `y_pred` holds logits.

    Raises:
        ShapeError: `y_true.shape` is not `y_pred.shape[:-1]`.
        DTypeError: the labels are not integers.
    """
    if not (from_logits and type(y_true) is type(y_pred) is dm.Tensor):
        y_true, y_pred = dm.asarray(y_true), _floating(dm.asarray(y_pred))
    logits = y_pred if from_logits else _log_probabilities(y_pred, from_logits)
    try:
        return sparse_softmax_cross_entropy(logits, y_true)
    except (ShapeError, DTypeError) as found:
        error = found
    check_labels("sparse_categorical_crossentropy", y_true, y_pred)  # which says more
    raise error


class Loss:
    """A loss per sample, reduced to one number: the base of the losses below.

    Args:
        fn: `(y_true, y_pred) -> values`, which are reduced.
        reduction: "sum_over_batch_size" (their mean), "sum", or "none" (None): as they are.
        name: for messages.

    Raises:
        ValueError: `reduction` is none of these.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = None,
    ) -> None:
        if reduction not in ("sum_over_batch_size", "sum", "none", None):
            raise ValueError(
                f"reduction {reduction!r} is not 'sum_over_batch_size', 'sum' or 'none'"
            )
        self.fn = fn
        self.reduction = reduction
        self.name = name or type(self).__name__

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss; `sample_weight` multiplies the values, its shape a prefix of theirs."""
        values = self.fn(y_true, y_pred)
        if sample_weight is not None:
            values = values * weights_for(values, sample_weight, self.name)
        if self.reduction in ("none", None):
            return values
        average = self.reduction == "sum_over_batch_size" and math.prod(values.shape)
        return dm.mean(values) if average else dm.sum(values)


class MeanSquaredError(Loss):
    """The mean of (y_pred - y_true)^2."""

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = None
    ) -> None:
        super().__init__(mean_squared_error, reduction, name)


class MeanAbsoluteError(Loss):
    """The mean of |y_pred - y_true|."""

    def __init__(
        self, reduction: Reduction = "sum_over_batch_size", name: str | None = None
    ) -> None:
        super().__init__(mean_absolute_error, reduction, name)


class _FromLogits(Loss):
    """A loss of probabilities or, `from_logits`, of logits."""

    _values: Callable[..., Any]

    def __init__(
        self,
        from_logits: bool = False,
        reduction: Reduction = "sum_over_batch_size",
        name: str | None = None,
    ) -> None:
        values = type(self)._values
        super().__init__(lambda t, p: values(t, p, from_logits=from_logits), reduction, name)
        self.from_logits = from_logits


class BinaryCrossentropy(_FromLogits):
    """The mean of `binary_crossentropy`."""

    _values = staticmethod(binary_crossentropy)


class CategoricalCrossentropy(_FromLogits):
    """The mean of `categorical_crossentropy`."""

    _values = staticmethod(categorical_crossentropy)


class SparseCategoricalCrossentropy(_FromLogits):
    """The mean of `sparse_categorical_crossentropy`."""

    _values = staticmethod(sparse_categorical_crossentropy)


def check_labels(what: str, y_true: Any, y_pred: Any) -> None:
    """Raise unless `y_true` are integer labels [...] for predictions `y_pred` [..., classes]."""
    if y_pred.ndim == 0 or y_true.shape != y_pred.shape[:-1]:
        hint = ""
        if y_true.shape == (*y_pred.shape[:-1], 1):
            hint = "; remove the last axis of y_true: dm.squeeze(y_true, axis=-1)"
        elif y_true.shape == y_pred.shape:
            hint = "; for one-hot labels use categorical_crossentropy"
        raise ShapeError(
            f"{what}: y_true must be [...] where y_pred is [..., classes]: y_true is "
            f"{y_true.spec}, y_pred is {y_pred.spec}{hint}"
        )
    if not y_true.dtype.is_integer:
        raise DTypeError(
            f"{what}: labels must be integers, y_true is {y_true.spec}; use y_true.astype('int32')"
        )


def _alike(what: str, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Both as tensors of the floating dtype of `y_pred` and of one shape."""
    y_true, y_pred = dm.asarray(y_true), _floating(dm.asarray(y_pred))
    if y_true.shape != y_pred.shape:
        hint = ""
        if (*y_true.shape, 1) == y_pred.shape:
            hint = "; give y_true a last axis (y_true[:, None]) or squeeze y_pred"
        elif y_true.shape == (*y_pred.shape, 1):
            hint = "; give y_pred a last axis (y_pred[:, None]) or squeeze y_true"
        raise ShapeError(
            f"{what}: y_true and y_pred differ in shape: {y_true.spec} vs {y_pred.spec}{hint}"
        )
    return dm.astype(y_true, y_pred.dtype), y_pred


def _floating(x: Any) -> Any:
    return x if x.dtype.is_inexact else dm.astype(x, dm.float32)


def _last_mean(values: Any) -> Any:
    """The mean over the last axis; 0 where that is empty; a scalar stays."""
    if values.ndim == 0:
        return values
    return dm.mean(values, axis=-1) if values.shape[-1] else dm.sum(values, axis=-1)


def _log_probabilities(y_pred: Any, from_logits: bool) -> Any:
    if from_logits:
        return dm.log_softmax(y_pred, axis=-1)
    p = y_pred / dm.sum(y_pred, axis=-1, keepdims=True)
    return dm.log(dm.clip(p, _EPSILON, 1 - _EPSILON))


def weights_for(values: Any, sample_weight: Any, what: str) -> Any:
    """`sample_weight` in the dtype of `values`, with axes of size 1 appended, to broadcast."""
    weight = dm.astype(dm.asarray(sample_weight), values.dtype)
    if weight.shape != values.shape[: weight.ndim]:
        raise ShapeError(
            f"{what}: the shape of sample_weight {list(weight.shape)} does not begin that of the "
            f"values {list(values.shape)}"
        )
    return dm.reshape(weight, weight.shape + (1,) * (values.ndim - weight.ndim))
