"""First values of weights, by Keras's names.

They are computed at once even while a function is being traced, and from a stream of random numbers
of their own, which `dm.random.set_seed` starts anew: a model has the same first weights in both
modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..random import fresh_key

Array = np.ndarray[Any, Any]
Initializer = Callable[[tuple[int, ...]], Array]


def zeros(shape: tuple[int, ...]) -> Array:
    """All 0."""
    return np.zeros(shape)


def ones(shape: tuple[int, ...]) -> Array:
    """All 1."""
    return np.ones(shape)


def glorot_uniform(shape: tuple[int, ...]) -> Array:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    fan_in, fan_out = _fans(shape)
    return _uniform(shape, math.sqrt(6 / (fan_in + fan_out)))


def glorot_normal(shape: tuple[int, ...]) -> Array:
    """Normal, deviation sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    fan_in, fan_out = _fans(shape)
    return _generator().standard_normal(shape) * math.sqrt(2 / (fan_in + fan_out))


def he_uniform(shape: tuple[int, ...]) -> Array:
    """Uniform in +-sqrt(6 / fan_in) (He et al. 2015)."""
    return _uniform(shape, math.sqrt(6 / _fans(shape)[0]))


def he_normal(shape: tuple[int, ...]) -> Array:
    """Normal, deviation sqrt(2 / fan_in) (He et al. 2015)."""
    return _generator().standard_normal(shape) * math.sqrt(2 / _fans(shape)[0])


def random_uniform(shape: tuple[int, ...]) -> Array:
    """Uniform in +-0.05, Keras's default range."""
    return _uniform(shape, 0.05)


def random_normal(shape: tuple[int, ...]) -> Array:
    """Normal, deviation 0.05, Keras's default."""
    return _generator().standard_normal(shape) * 0.05


NAMES: dict[str, Initializer] = {
    f.__name__: f
    for f in (
        *(zeros, ones, glorot_uniform, glorot_normal),
        *(he_uniform, he_normal, random_uniform, random_normal),
    )
}


def get(identifier: str | Initializer) -> Initializer:
    """The initializer with this name, or `identifier` itself if it is a function of a shape.

    Raises:
        ValueError: no initializer has this name.
    """
    if callable(identifier):
        return identifier
    if identifier not in NAMES:
        raise ValueError(f"initializer {identifier!r} is not one of {', '.join(NAMES)}")
    return NAMES[identifier]


def _fans(shape: tuple[int, ...]) -> tuple[float, float]:
    """Inputs and outputs of one unit: a kernel is [*window, in, out]. At least 1 each."""
    if len(shape) < 2:
        size = float(max(1, math.prod(shape)))
        return size, size
    window = math.prod(shape[:-2])
    return max(1.0, window * shape[-2]), max(1.0, window * shape[-1])


def _generator() -> np.random.Generator:
    """A generator of its own for each weight; NumPy's makes 10^6 numbers in milliseconds."""
    return np.random.Generator(np.random.Philox(key=fresh_key()))


def _uniform(shape: tuple[int, ...], limit: float) -> Array:
    return _generator().uniform(-limit, limit, shape)
