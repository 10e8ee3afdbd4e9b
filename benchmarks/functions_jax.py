"""The functions of `functions` in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def chain(x: Any, y: Any) -> Any:
    return jax.nn.relu(x * y + 0.5) * x - y


def layer_norm(x: Any, scale: Any, offset: Any) -> Any:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    centred = x - mean
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + 1e-5) * scale + offset


def cross_entropy(logits: Any, labels: Any) -> Any:
    def loss(x: Any) -> Any:
        scores = jax.nn.log_softmax(x)
        return -jnp.mean(jnp.take_along_axis(scores, labels[:, None], axis=1))

    return jax.value_and_grad(loss)(logits)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "chain": chain,
    "axpy": lambda x: 2.5 * x + 1.0,
    "softmax": jax.nn.softmax,
    "layer_norm": layer_norm,
    "cross_entropy": cross_entropy,
    **{op: getattr(jnp, op) for op in ("exp", "log", "tanh", "sin", "cos")},
    "sigmoid": jax.nn.sigmoid,
    "erf": jax.lax.erf,
    "pow": jnp.power,
    "matmul": jnp.matmul,
    "sum": jnp.sum,
    "max": jnp.max,
    "argmax": jnp.argmax,
    "transpose": jnp.transpose,
    "concat": lambda x, y, axis: jnp.concatenate([x, y], axis=axis),
    "gather": lambda x, index: x[index],
    "scatter_add": lambda x, index, y: x.at[index].add(y),
    "cumsum": jnp.cumsum,
}
