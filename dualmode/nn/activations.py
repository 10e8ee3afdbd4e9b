"""Activation functions by Keras's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dualmode as dm

Activation = Callable[[Any], Any]


def linear(x: Any) -> Any:
    """`x` itself."""
    return x


def relu(x: Any) -> Any:
    """max(x, 0)."""
    return dm.relu(x)


def leaky_relu(x: Any) -> Any:
    """x where it is positive, 0.2 x elsewhere (Maas et al. 2013; Keras's slope)."""
    return dm.where(x > 0, x, 0.2 * x)


def elu(x: Any) -> Any:
    """x where it is positive, exp(x) - 1 elsewhere (Clevert et al. 2016)."""
    return dm.where(x > 0, x, dm.expm1(dm.minimum(x, 0.0)))


def gelu(x: Any) -> Any:
    """x times the normal distribution function of x (Hendrycks and Gimpel 2016)."""
    return dm.gelu(x)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return dm.sigmoid(x)


def silu(x: Any) -> Any:
    """x sigmoid(x) (Elfwing et al. 2018)."""
    return x * dm.sigmoid(x)


def softplus(x: Any) -> Any:
    """log(1 + exp(x))."""
    return dm.softplus(x)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent."""
    return dm.tanh(x)


def exponential(x: Any) -> Any:
    """exp(x)."""
    return dm.exp(x)


def softmax(x: Any) -> Any:
    """exp(x) scaled to sum to 1 along the last axis."""
    return dm.softmax(x, axis=-1)


def log_softmax(x: Any) -> Any:
    """log(softmax(x)), without the loss of precision."""
    return dm.log_softmax(x, axis=-1)


NAMES: dict[str, Activation] = {
    f.__name__: f
    for f in (
        *(linear, relu, leaky_relu, elu, gelu, sigmoid, silu, softplus, tanh),
        *(exponential, softmax, log_softmax),
    )
}


def get(identifier: str | Activation | None) -> Activation:
    """The activation with this name, `identifier` itself if it is a function; None: `linear`.

    Raises:
        ValueError: no activation has this name.
    """
    if identifier is None:
        return linear
    if callable(identifier):
        return identifier
    if identifier not in NAMES:
        raise ValueError(f"activation {identifier!r} is not one of {', '.join(NAMES)}")
    return NAMES[identifier]
