"""Layers, as in Keras: `Dense`, `Dropout`, `Flatten`, `Activation`."""

from __future__ import annotations

import math
from typing import Any

import dualmode as dm

from ..errors import ShapeError
from ..variable import Variable
from . import activations, initializers
from .layer import Layer


class Dense(Layer):
    """`activation(x @ kernel + bias)`: [..., in] to [..., units].

    Args:
        units: the size of the last axis of the result.
        activation: a name (`nn.activations`), a function, or None for none.
        use_bias: whether a bias is added.
        kernel_initializer: a name (`nn.initializers`) or a function of a shape.
        bias_initializer: the same for the bias.
        dtype: of the weights, and so of the computation: floating inputs are cast to it.
        name: what messages call it.

    Raises:
        ValueError: `units` is not positive, or a name is unknown.

    Attributes:
        kernel: [in, units], created on the first call.
        bias: [units], or None without one.
    """

    kernel: Variable
    bias: Variable | None = None

    def __init__(
        self,
        units: int,
        activation: str | activations.Activation | None = None,
        use_bias: bool = True,
        kernel_initializer: str | initializers.Initializer = "glorot_uniform",
        bias_initializer: str | initializers.Initializer = "zeros",
        dtype: str = "float32",
        name: str | None = None,
    ) -> None:
        if not isinstance(units, int) or isinstance(units, bool) or units < 1:
            raise ValueError(f"Dense: units must be a positive integer, got {units!r}")
        self.units = units
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.dtype = dm.dtype(dtype)
        self._name = name

    def build(self, input_shape: tuple[int, ...]) -> None:
        if not input_shape:
            raise ShapeError(f"{self.name}: the input has no axes; it must be [..., features]")
        self.add_weight(
            "kernel", (input_shape[-1], self.units), self.kernel_initializer, dtype=self.dtype
        )
        if self.use_bias:
            self.add_weight("bias", (self.units,), self.bias_initializer, dtype=self.dtype)

    def __call__(self, x: Any, training: bool = False) -> Any:
        x = dm.astype(x, self.dtype)
        if not x.shape or x.shape[-1] != self.kernel.shape[0]:
            raise ShapeError(
                f"{self.name}: the last axis of the input must be {self.kernel.shape[0]}, the size "
                f"it was built for; the input is {x.spec}"
            )
        y = x @ self.kernel
        return self.activation(y if self.bias is None else y + self.bias)


class Dropout(Layer):
    """Sets a random part of the elements to 0 while training, and scales the rest so that the
    expected value stays the same (Srivastava et al. 2014, in its inverted form).

    Args:
        rate: the probability that an element is dropped, in [0, 1].
        name: what messages call it.

    Raises:
        ValueError: `rate` is no probability.
    """

    def __init__(self, rate: float, name: str | None = None) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"Dropout: rate must be in [0, 1], got {rate!r}")
        self.rate = float(rate)
        self._name = name

    def __call__(self, x: Any, training: bool = False) -> Any:
        x = dm.asarray(x)
        if not training or self.rate == 0:
            return x
        if self.rate == 1:
            return dm.zeros_like(x)
        keep = dm.random.uniform(x.shape) >= self.rate
        return dm.where(keep, x * (1 / (1 - self.rate)), 0.0)


class Flatten(Layer):
    """[batch, ...] to [batch, features]."""

    def __call__(self, x: Any, training: bool = False) -> Any:
        return dm.reshape(x, (x.shape[0], math.prod(x.shape[1:])))


class Activation(Layer):
    """An activation as a layer: a name (`nn.activations`) or a function."""

    def __init__(self, activation: str | activations.Activation, name: str | None = None) -> None:
        self.activation = activations.get(activation)
        self._name = name

    def __call__(self, x: Any, training: bool = False) -> Any:
        return self.activation(x)
