"""The functions of `functions` in dualmode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dualmode as dm


def chain(x: Any, y: Any) -> Any:
    return dm.relu(x * y + 0.5) * x - y


def cross_entropy(logits: Any, labels: Any) -> Any:
    loss = dm.losses.SparseCategoricalCrossentropy(from_logits=True)
    return dm.value_and_grad(lambda x: loss(labels, x))(logits)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "chain": chain,
    "axpy": lambda x: 2.5 * x + 1.0,
    "softmax": dm.softmax,
    "layer_norm": dm.layer_norm,
    "cross_entropy": cross_entropy,
    **{op: getattr(dm, op) for op in ("exp", "log", "tanh", "sigmoid", "erf", "sin", "cos", "pow")},
    "matmul": dm.matmul,
    "sum": dm.sum,
    "max": dm.max,
    "argmax": dm.argmax,
    "transpose": lambda x, axes: dm.permute_dims(x, axes),
    "concat": lambda x, y, axis: dm.concat([x, y], axis=axis),
    "gather": lambda x, index: dm.take(x, index, axis=0),
    "scatter_add": lambda x, index, y: x.at[index].add(y),
    "cumsum": lambda x, axis: dm.cumulative_sum(x, axis=axis),
}
