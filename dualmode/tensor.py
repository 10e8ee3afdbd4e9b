"""Tensor: an immutable array, eager (it holds a NumPy array) or traced (it holds a graph node)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeGuard

import numpy as np

from dualmode_compiler.spec import DType, Spec, from_numpy

from . import sizes
from .errors import locate
from .interop import Interop
from .op import convert, state
from .ops import conversion, elementwise, indexing, linalg, logic, reduction, shape

if TYPE_CHECKING:
    from types import EllipsisType

    Index = int | slice | EllipsisType | None | np.ndarray[Any, Any] | "Operators"

Axis = int | tuple[int, ...] | None
_new = object.__new__


class Operators(Interop):
    """What `Tensor` and `Variable` share: operators and methods.

    Arithmetic broadcasts and promotes by the array API standard; Python numbers take the tensor's
    dtype. NumPy arrays may stand on either side of an operator; the result is a `Tensor`.
    """

    __slots__ = ()

    shape: Any
    dtype: Any

    def _read(self) -> Tensor:
        """The tensor to compute with."""
        raise AssertionError("defined by Tensor and Variable")

    # --- arithmetic -----------------------------------------------------------------------------

    def __add__(self, other: Any) -> Tensor:
        return elementwise.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return elementwise.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return elementwise.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return elementwise.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return elementwise.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return elementwise.multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return elementwise.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return elementwise.divide(other, self)

    def __floordiv__(self, other: Any) -> Tensor:
        return elementwise.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return elementwise.floor_divide(other, self)

    def __mod__(self, other: Any) -> Tensor:
        return elementwise.remainder(self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return elementwise.remainder(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return elementwise.pow(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return elementwise.pow(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return linalg.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return linalg.matmul(other, self)

    def __neg__(self) -> Tensor:
        return elementwise.negative(self)

    def __pos__(self) -> Tensor:
        return self._read()

    def __abs__(self) -> Tensor:
        return elementwise.abs(self)

    def __invert__(self) -> Tensor:
        return logic.bitwise_invert(self)

    def __and__(self, other: Any) -> Tensor:
        return logic.bitwise_and(self, other)

    def __or__(self, other: Any) -> Tensor:
        return logic.bitwise_or(self, other)

    def __xor__(self, other: Any) -> Tensor:
        return logic.bitwise_xor(self, other)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __lshift__(self, other: Any) -> Tensor:
        return logic.bitwise_left_shift(self, other)

    def __rlshift__(self, other: Any) -> Tensor:
        return logic.bitwise_left_shift(other, self)

    def __rshift__(self, other: Any) -> Tensor:
        return logic.bitwise_right_shift(self, other)

    def __rrshift__(self, other: Any) -> Tensor:
        return logic.bitwise_right_shift(other, self)

    # --- comparisons: elementwise, so hashing is by identity ------------------------------------

    def __eq__(self, other: object) -> Any:
        return logic.equal(self, other) if _comparable(other) else NotImplemented

    def __ne__(self, other: object) -> Any:
        return logic.not_equal(self, other) if _comparable(other) else NotImplemented

    def __lt__(self, other: Any) -> Tensor:
        return logic.less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return logic.less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return logic.greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return logic.greater_equal(self, other)

    __hash__ = object.__hash__

    # --- as a sequence --------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Tensor:
        x = self._read()
        # a trace has to know it too, for tapes outside may follow what it captures
        recorded = not state.eager or (state.tapes and any(t.follows(x) for t in state.tapes))
        if not recorded and type(x._value) is np.ndarray and indexing.is_basic(key):
            try:  # NumPy's own view
                value = x._value[key]
            except (IndexError, TypeError, ValueError):
                pass  # getitem explains
            else:
                return Tensor._wrap(value if type(value) is np.ndarray else np.asarray(value))
        return indexing.getitem(x, key)

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        new = "x.at[index].set(value)"
        how = f"v.assign(v{new[1:]})" if type(self) is not Tensor else f"x = {new}"
        raise locate(TypeError(f"a {_kind(self)} has no item assignment; use {how}"))

    @property
    def at(self) -> indexing.At:
        """Updates of some elements: `t.at[key].set(v)` is `t` with `t[key]` replaced by `v`."""
        return indexing.At(self._read())

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"len() of a {_kind(self)} without axes, {_spec(self)}")
        return sizes.need_value(self.shape[0])

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise TypeError(f"iteration over a {_kind(self)} without axes, {_spec(self)}")
        x = self._read()
        return (indexing.getitem(x, i) for i in range(sizes.need_value(x.shape[0])))

    # --- as a value -----------------------------------------------------------------------------

    def __bool__(self) -> bool:
        return bool(_scalar(self, "bool()"))

    def __int__(self) -> int:
        return int(_scalar(self, "int()"))

    def __float__(self) -> float:
        return float(_scalar(self, "float()"))

    def __complex__(self) -> complex:
        return complex(_scalar(self, "complex()"))

    def __index__(self) -> int:
        if not self.dtype.is_integer:
            raise locate(
                TypeError(
                    f"an index or size is an integer, not {_spec(self)}; convert it by int(), "
                    "or .astype('int32')"
                )
            )
        return int(_scalar(self, "an index or size"))

    def numpy(self) -> np.ndarray[Any, Any]:
        """The value as a read-only array that shares its memory and never changes."""
        view = _concrete(self, "numpy()").view()
        view.flags.writeable = False
        return view

    def item(self) -> bool | int | float | complex:
        """The value of a tensor of one element as a Python number."""
        return _scalar(self, "item()").item()

    def tolist(self) -> Any:
        """The value as nested lists of Python numbers."""
        return _concrete(self, "tolist()").tolist()

    def __format__(self, form: str) -> str:
        x = self._read()
        if form and x.ndim == 0 and is_eager(x):
            return format(x.item(), form)
        return str(self)

    # --- properties -----------------------------------------------------------------------------

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for s in self.shape:
            n *= s
        return n

    @property
    def device(self) -> str:
        return "cpu"

    # --- methods --------------------------------------------------------------------------------

    @property
    def T(self) -> Tensor:
        """The transpose: all axes in reverse order."""
        return shape.transpose(self)

    @property
    def mT(self) -> Tensor:
        """The matrix transpose: the last two axes swapped."""
        return shape.matrix_transpose(self)

    def astype(self, dtype: Any) -> Tensor:
        return conversion.cast(self, dtype)

    def reshape(self, *sizes: Any) -> Tensor:
        """The same elements in another shape, `t.reshape(2, -1)` or `t.reshape((2, -1))`."""
        return shape.reshape(self, sizes[0] if len(sizes) == 1 else sizes)

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return reduction.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return reduction.mean(self, axis=axis, keepdims=keepdims)

    def prod(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return reduction.prod(self, axis=axis, keepdims=keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return reduction.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return reduction.min(self, axis=axis, keepdims=keepdims)

    def any(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return reduction.any(self, axis=axis, keepdims=keepdims)

    def all(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return reduction.all(self, axis=axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        return reduction.argmax(self, axis=axis, keepdims=keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        return reduction.argmin(self, axis=axis, keepdims=keepdims)


class Tensor(Operators):
    """An immutable array of one dtype: `Tensor(value, dtype=None)` is `dm.asarray(value, dtype)`.

    Inside a `@dm.function` it is traced: shape and dtype are known, the value is not; it prints as
    `TracedTensor(float32[3,4])`. Equality is elementwise, hashing by identity.

    Attributes:
        shape: sizes of the axes.
        dtype: the element type.
        weak: True for a traced Python number, which takes the other operand's dtype.
    """

    __slots__ = ("_value",)

    _value: Any

    def __new__(cls, value: Any, dtype: Any = None) -> Tensor:
        return convert(value, dtype)

    @staticmethod
    def _wrap(value: Any) -> Tensor:
        """A tensor around an array that nobody will write to, or around a graph node."""
        tensor = _new(Tensor)
        tensor._value = value
        return tensor

    @property
    def shape(self) -> tuple[int, ...]:
        value = self._value
        return value.shape if type(value) is np.ndarray else sizes.of(value.spec.shape)

    @property
    def ndim(self) -> int:
        value = self._value
        return value.ndim if type(value) is np.ndarray else len(value.spec.shape)

    @property
    def dtype(self) -> DType:
        value = self._value
        return from_numpy(value.dtype) if type(value) is np.ndarray else value.spec.dtype

    @property
    def weak(self) -> bool:
        value = self._value
        return type(value) is not np.ndarray and value.spec.weak

    @property
    def spec(self) -> Spec:
        """Shape and dtype; prints as `float32[3,4]`."""
        value = self._value
        if type(value) is np.ndarray:
            return Spec(value.shape, from_numpy(value.dtype))
        return value.spec

    def _read(self) -> Tensor:
        return self

    def __repr__(self) -> str:
        if not is_eager(self):
            return f"TracedTensor({self.spec})"
        start = f"Tensor({self.spec}, "
        return start + np.array2string(self._value, prefix=start) + ")"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (Tensor, (np.asarray(_concrete(self, "pickling")),))


def is_eager(x: Tensor) -> bool:
    """True where `x` has a value, False where it is traced."""
    return type(x._value) is np.ndarray


def _concrete(x: Operators, use: str) -> np.ndarray[Any, Any]:
    """The array of `x`. The mode says what to do about a traced one, usually raise."""
    tensor = x._read()
    value = tensor._value
    if type(value) is np.ndarray:
        return value
    return state.mode.value_needed(tensor, use)


def _scalar(x: Operators, use: str) -> Any:
    value = _concrete(x, use)
    if value.size != 1:
        raise locate(
            ValueError(
                f"{use} of {_spec(x)} is ambiguous: it has {value.size} elements, not one; "
                "reduce it first, with .any(), .all(), .sum() or an index"
            )
        )
    return value.reshape(())[()]


def _comparable(x: object) -> TypeGuard[Any]:
    """False for what no tensor equals, so that `t == None` is plain False."""
    return x is not None and not isinstance(x, str | bytes)


def _kind(x: Operators) -> str:
    return "variable" if type(x) is not Tensor else "tensor"


def _spec(x: Operators) -> Spec:
    return Spec(x.shape, x.dtype)
