"""The functions of `functions` in NumPy, where it has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def chain(x: Any, y: Any) -> Any:
    out = x * y
    out += np.float32(0.5)
    np.maximum(out, 0, out=out)
    out *= x
    out -= y
    return out


def axpy(x: Any) -> Any:
    out = x * np.float32(2.5)
    out += np.float32(1)
    return out


def softmax(x: Any) -> Any:
    out = x - x.max(axis=-1, keepdims=True)
    np.exp(out, out=out)
    out /= out.sum(axis=-1, keepdims=True)
    return out


def layer_norm(x: Any, scale: Any, offset: Any) -> Any:
    out = x - x.mean(axis=-1, keepdims=True)
    out /= np.sqrt(np.square(out).mean(axis=-1, keepdims=True) + np.float32(1e-5))
    out *= scale
    out += offset
    return out


def cross_entropy(logits: Any, labels: Any) -> Any:
    grad = softmax(logits)
    rows = np.arange(len(labels))
    loss = -np.log(grad[rows, labels]).mean()
    grad[rows, labels] -= 1
    grad /= len(labels)
    return loss, grad


def sigmoid(x: Any) -> Any:
    out = np.exp(-x)
    out += 1
    return np.reciprocal(out, out=out)


def scatter_add(x: Any, index: Any, y: Any) -> Any:
    out = x.copy()
    np.add.at(out, index, y)
    return out


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "chain": chain,
    "axpy": axpy,
    "softmax": softmax,
    "layer_norm": layer_norm,
    "cross_entropy": cross_entropy,
    "sigmoid": sigmoid,
    **{op: getattr(np, op) for op in ("exp", "log", "tanh", "sin", "cos")},
    "pow": np.power,
    "matmul": np.matmul,
    "sum": np.sum,
    "max": np.max,
    "argmax": np.argmax,
    "transpose": lambda x, axes: np.ascontiguousarray(x.transpose(axes)),
    "concat": lambda x, y, axis: np.concatenate([x, y], axis=axis),
    "gather": lambda x, index: np.take(x, index, axis=0),
    "scatter_add": scatter_add,
    "cumsum": np.cumsum,
}
