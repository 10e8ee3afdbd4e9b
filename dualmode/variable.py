"""Variable: a named place for a tensor that changes, as in TensorFlow 2."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from dualmode_compiler.runtime.layout import Layout
from dualmode_compiler.spec import DType, Spec
from dualmode_compiler.spec import dtype as as_dtype

from .errors import DTypeError, ShapeError, VariableError
from .op import convert, dtype_of, eagerly, state
from .tensor import Operators, Tensor

_KINDS = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}  # a value of a kind converts to those above


class Variable(Operators):
    """State of a model: used like a tensor, changed by `assign`. Shape and dtype stay as created.

    Args:
        initial_value: a tensor, array, number, nested list, or a function of no arguments that
            gives one. Arrays are copied; a tensor's memory, which nobody changes, is shared until
            one of the two has a new value.
        trainable: True lets tapes watch it when it is read; optimizers look here as well.
        name: for messages, summaries and checkpoints.
        dtype: the element type; that of the value unless given.

    Raises:
        VariableError: the initial value depends on an argument of a function being traced.
    """

    __slots__ = ("__weakref__", "_spec", "_tensor", "name", "trainable")

    _tensor: Tensor
    _spec: Spec
    name: str
    trainable: bool
    weak = False  # as of a tensor

    def __init__(
        self, initial_value: Any, trainable: bool = True, name: str | None = None, dtype: Any = None
    ) -> None:
        self.trainable = trainable
        self.name = name or "variable"
        if isinstance(initial_value, Operators):
            initial_value = state.mode.initial_value(initial_value._read())
        with eagerly():
            value = initial_value() if callable(initial_value) else initial_value
            tensor = convert(value, None if dtype is None else as_dtype(dtype))
        self._tensor = Tensor._wrap(_whole(tensor._value))
        self._spec = tensor.spec
        state.mode.variable_created(self)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._spec.shape

    @property
    def dtype(self) -> DType:
        return self._spec.dtype

    @property
    def spec(self) -> Spec:
        """Shape and dtype; prints as `float32[3,4]`."""
        return self._spec

    def read_value(self) -> Tensor:
        """The current value. It stays the same when the variable changes later."""
        tensor = state.mode.read(self)
        if state.tapes:
            # an object of its own, so that gradients tell this read from a tensor read elsewhere
            tensor = Tensor._wrap(tensor._value)
            for tape in state.tapes:
                tape.record_read(self, tensor)
        return tensor

    _read = read_value

    def assign(self, value: Any) -> Variable:
        """Replace the value. Returns the variable.

        Raises:
            ShapeError: `value` is not of the variable's shape.
            DTypeError: its dtype is of a wider kind, such as a float for an integer variable;
                otherwise it is converted to the variable's dtype.
        """
        state.mode.assign(self, self._fitting(value, "assign", numbers=False))
        return self

    def assign_add(self, delta: Any) -> Variable:
        """Add `delta`, of the variable's shape or a number. Returns the variable."""
        return self.assign(state.mode.read(self) + self._fitting(delta, "assign_add"))

    def assign_sub(self, delta: Any) -> Variable:
        """Subtract `delta`, of the variable's shape or a number. Returns the variable."""
        return self.assign(state.mode.read(self) - self._fitting(delta, "assign_sub"))

    def _fitting(self, value: Any, verb: str, numbers: bool = True) -> Tensor:
        """`value` as a tensor of this variable's own spec, or a scalar where `numbers` may do."""
        spec = self._spec
        if _KINDS[dtype_of(value).kind] > _KINDS[spec.dtype.kind]:
            raise DTypeError(
                f"{verb}: {self.name} is {spec} and the value {convert(value).spec}; "
                f"convert it with .astype({str(spec.dtype)!r})"
            )
        tensor = convert(value, spec.dtype)
        if tensor.shape != spec.shape and (tensor.shape or not numbers):
            raise ShapeError(
                f"{verb}: {self.name} is {spec} and the value {tensor.spec}; "
                "the shape of a variable stays as created"
            )
        return tensor

    def __iadd__(self, other: Any) -> NoReturn:
        self._no_operator("+=", "assign_add(x)")

    def __isub__(self, other: Any) -> NoReturn:
        self._no_operator("-=", "assign_sub(x)")

    def __imul__(self, other: Any) -> NoReturn:
        self._no_operator("*=", "assign(v * x)")

    def __itruediv__(self, other: Any) -> NoReturn:
        self._no_operator("/=", "assign(v / x)")

    def _no_operator(self, operator: str, method: str) -> NoReturn:
        """`v += x` would make a tensor of the name `v` and leave the variable as it was."""
        raise VariableError(
            f"variable {operator} x does not change {self.name}; use v.{method}, or write "
            f"y = v {operator[0]} x for a new tensor"
        )

    def __repr__(self) -> str:
        kind = "trainable" if self.trainable else "not trainable"
        start = f"<Variable {self.name} {self._spec} {kind}, "
        return start + np.array2string(self._tensor.numpy(), prefix=start) + ">"


def _whole(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """`x`, which nobody changes, in memory that is all its own; copied where it is a view."""
    return x if x.flags.owndata and x.flags.c_contiguous else np.array(x, order="C")


LAYOUT = Layout(tensor=Tensor, tensor_slot="_value", variable=Variable, variable_slot="_tensor")
