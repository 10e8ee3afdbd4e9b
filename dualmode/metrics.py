"""Metrics, by Keras's names. Their state is in Variables, so they work in both modes.

```python
accuracy = dm.metrics.SparseCategoricalAccuracy()
for x, y in dataset:
    accuracy.update_state(y, model(x))
print(float(accuracy.result()))
accuracy.reset_state()
```
"""

from __future__ import annotations

import math
from typing import Any

import dualmode as dm

from . import losses
from .trackable import Trackable
from .variable import Variable


class Mean(Trackable):
    """The weighted mean of all values since the last reset; 0 before the first.

    Sums and counts are kept in float64, so that a count never stops growing; the result is float32.

    Attributes:
        total, count: float64 scalars, the sum of weighted values and the sum of weights.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name or type(self).__name__
        self.total = Variable(0.0, trainable=False, name=f"{self.name}/total", dtype="float64")
        self.count = Variable(0.0, trainable=False, name=f"{self.name}/count", dtype="float64")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """Count `values`, of any shape; `sample_weight` broadcasts to it from the left."""
        values = dm.astype(dm.asarray(values), dm.float64)
        if sample_weight is None:
            self.count.assign_add(float(math.prod(values.shape)))
        else:
            weight = losses.weights_for(values, sample_weight, self.name)
            values = values * weight
            self.count.assign_add(dm.sum(weight * dm.ones_like(values)))
        self.total.assign_add(dm.sum(values))

    def result(self) -> Any:
        """The mean so far, a float32 scalar."""
        count = self.count.read_value()
        mean = self.total / dm.where(count == 0, 1.0, count)
        return dm.astype(mean, dm.float32)

    def reset_state(self) -> None:
        """Forget all values."""
        self.total.assign(0.0)
        self.count.assign(0.0)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`update_state`, then `result`."""
        self.update_state(*args, **kwargs)
        return self.result()

    @property
    def variables(self) -> list[Variable]:
        """The state."""
        return [self.total, self.count]


class SparseCategoricalAccuracy(Mean):
    """How often the highest prediction is that of the true class: labels [...], [..., classes]."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:  # type: ignore[override]
        """Count one batch.

        Raises:
            ShapeError: `y_true.shape` is not `y_pred.shape[:-1]`.
            DTypeError: the labels are not integers.
        """
        y_true, y_pred = dm.asarray(y_true), dm.asarray(y_pred)
        losses.check_labels(self.name, y_true, y_pred)
        hits = dm.argmax(y_pred, axis=-1) == dm.astype(y_true, dm.int64)
        super().update_state(hits, sample_weight)


class MeanSquaredError(Mean):
    """The mean of (y_pred - y_true)^2 over all batches."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:  # type: ignore[override]
        """Count one batch.

        Raises:
            ShapeError: the shapes differ.
        """
        super().update_state(losses.mean_squared_error(y_true, y_pred), sample_weight)


class MeanAbsoluteError(Mean):
    """The mean of |y_pred - y_true| over all batches."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:  # type: ignore[override]
        """Count one batch.

        Raises:
            ShapeError: the shapes differ.
        """
        super().update_state(losses.mean_absolute_error(y_true, y_pred), sample_weight)
