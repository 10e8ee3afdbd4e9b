"""`Layer`: what has weights and is called on a tensor."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from .. import autograph, op
from ..tracer import current_tracer, init_scope
from ..trackable import Trackable, variables_of
from ..variable import Variable
from . import initializers

_used_names: dict[str, int] = {}


class Layer(Trackable):
    """Base of all layers. A subclass defines `__call__(self, x, training=False)` and, if it has
    weights whose shape depends on the input, `build(self, input_shape)`, which runs once, before
    the first call.

    ```python
    class Scale(nn.Layer):
        def build(self, input_shape):
            self.factor = self.add_weight("factor", (input_shape[-1],), "ones")

        def __call__(self, x, training=False):
            return x * self.factor
    ```

    Attributes:
        trainable: False freezes the layer and all that it holds: `trainable_variables` is empty.
        built: whether `build` has run.
    """

    trainable: bool = True
    built: bool = False
    _name: str | None = None
    _output_shape: tuple[int, ...] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__call__" in vars(cls):
            cls.__call__ = _building_first(vars(cls)["__call__"])  # type: ignore[method-assign]

    def __call__(self, x: Any, training: bool = False) -> Any:
        raise TypeError(f"{type(self).__name__} defines no __call__(self, x, training=False)")

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Create the weights that depend on the shape of the input. By default: none."""

    def __repr__(self) -> str:
        name = f" {self._name}" if self._name else ""  # not `name`, which counts its first use
        return f"<{type(self).__name__}{name}{'' if self.built else ', not built yet'}>"

    @property
    def name(self) -> str:
        """A name unique in this process: `dense`, `dense_1`, ..., by order of first use."""
        if self._name is None:
            kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()
            number = _used_names.get(kind, 0)
            _used_names[kind] = number + 1
            self._name = f"{kind}_{number}" if number else kind
        return self._name

    def add_weight(
        self,
        name: str,
        shape: tuple[int, ...],
        initializer: str | initializers.Initializer = "glorot_uniform",
        trainable: bool = True,
        dtype: Any = "float32",
    ) -> Variable:
        """A new variable, kept as attribute `name`, with a first value by `initializer`."""
        with init_scope():
            value = op.convert(initializers.get(initializer)(shape))
            variable = Variable(value, trainable=trainable, name=f"{self.name}/{name}", dtype=dtype)
        setattr(self, name, variable)
        return variable

    @property
    def variables(self) -> list[Variable]:
        """All variables of this layer and the layers it holds, in order of definition."""
        return variables_of(self)

    weights = variables

    @property
    def trainable_variables(self) -> list[Variable]:
        """The variables to train: those marked trainable, outside of frozen layers."""
        return variables_of(self, trainable=True)

    trainable_weights = trainable_variables

    @property
    def non_trainable_variables(self) -> list[Variable]:
        """The variables that `trainable_variables` leaves out."""
        trained = {id(v) for v in self.trainable_variables}
        return [v for v in self.variables if id(v) not in trained]

    def count_params(self) -> int:
        """The number of elements in all variables."""
        return sum(v.size for v in self.variables)

    def _first_call(self, x: Any) -> None:
        if self._pending is not None:  # lists may have grown since the values were restored
            pending, path = self._pending
            pending.settle(self, path)
        self.build(tuple(getattr(x, "shape", ())))
        self.built = True


def _building_first(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call` with the first one preceded by `build`; its output shape is kept for `summary`."""

    @functools.wraps(call)
    def built_call(self: Layer, x: Any, *args: Any, **kwargs: Any) -> Any:
        run = call if current_tracer() is None else autograph.called(call)
        if self.built:
            return run(self, x, *args, **kwargs)
        if not hasattr(x, "shape") and not isinstance(x, (tuple, dict)):
            x = op.convert(x)
        self._first_call(x)
        y = run(self, x, *args, **kwargs)
        self._output_shape = getattr(y, "shape", None)
        return y

    return built_call
