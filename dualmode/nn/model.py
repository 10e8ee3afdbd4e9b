"""`Model` and `Sequential`: layers put together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from .. import autograph
from ..table import text_table
from ..tracer import current_tracer
from ..trackable import named_variables, walk
from .layer import Layer


class Model(Layer):
    """A layer made of layers: assign them as attributes and define `__call__`.

    Weights are created at the first call, also when that happens inside a `@dm.function`.

    ```python
    class Net(dm.nn.Model):
        def __init__(self):
            self.hidden = dm.nn.Dense(32, activation="relu")
            self.out = dm.nn.Dense(1)

        def __call__(self, x, training=False):
            return self.out(self.hidden(x))
    ```
    """

    @property
    def layers(self) -> list[Layer]:
        """The layers that the model holds itself, in order of definition."""
        return _direct_layers(self)

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print each layer with the shape of its result and its number of parameters.

        A layer that was never called has no shape and no parameters yet.
        """
        rows = [
            (f"{path} ({type(found).__name__})", _shape_text(found), f"{found.count_params():,}")
            for path, found in walk(self)
            if isinstance(found, Layer) and found is not self and not _direct_layers(found)
        ]
        own = sum(v.size for name, v in named_variables(self).items() if "/" not in name)
        if own:
            rows.append((f"({type(self).__name__} itself)", _shape_text(self), f"{own:,}"))
        trained, total = sum(v.size for v in self.trainable_variables), self.count_params()
        print_fn(f'Model "{self.name}"')
        for line in text_table(("Layer (type)", "Output shape", "Params"), rows):
            print_fn(line)
        print_fn(f"Total params: {total:,} (trainable {trained:,}, frozen {total - trained:,})")


class Sequential(Model):
    """Layers called one after the other; plain functions of one tensor may stand between them.

    Args:
        layers: layers or functions, in order.
        name: what messages call it.

    Raises:
        TypeError: one of them cannot be called.
    """

    def __init__(self, layers: Iterable[Any] = (), name: str | None = None) -> None:
        self._layers: list[Any] = []
        self._takes_training: list[bool] = []
        self._name = name
        for layer in layers:
            self.add(layer)

    def add(self, layer: Any) -> None:
        """Append a layer or a function."""
        if not callable(layer):
            raise TypeError(
                f"Sequential: expected a layer or a function, got {type(layer).__name__}: {layer!r}"
            )
        self._layers = [*self._layers, layer]
        self._takes_training.append(isinstance(layer, Layer) and _takes_training(layer))

    @property
    def layers(self) -> list[Layer]:
        return [layer for layer in self._layers if isinstance(layer, Layer)]

    def __call__(self, x: Any, training: bool = False) -> Any:
        for layer, takes_training in zip(self._layers, self._takes_training, strict=True):
            run = layer if current_tracer() is None else autograph.called(layer)
            x = run(x, training=training) if takes_training else run(x)
        return x


def _takes_training(layer: Layer) -> bool:
    parameters = inspect.signature(layer.__call__).parameters
    return "training" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _direct_layers(x: Any) -> list[Layer]:
    """The layers held by `x`, also in its lists and dicts, but not those inside of them."""
    found = walk(x, descend=lambda y: y is x or not isinstance(y, Layer))
    return [layer for _, layer in found if isinstance(layer, Layer) and layer is not x]


def _shape_text(layer: Layer) -> str:
    shape = layer._output_shape
    if shape is None:
        return "not called yet"
    return f"({', '.join(['None', *map(str, shape[1:])])})" if shape else "()"
