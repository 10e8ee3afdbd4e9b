"""Eager mode: every op is computed at once, by native code where it has some, else by NumPy."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from dualmode_compiler import spec as specs
from dualmode_compiler.runtime import aligned
from dualmode_compiler.runtime.layout import MISS
from dualmode_compiler.spec import DType, from_numpy

from . import errors, native, sizes
from .errors import DTypeError
from .op import Op, _State
from .ops import joining
from .ops.conversion import cast
from .tensor import Operators, Tensor

if TYPE_CHECKING:
    from .variable import Variable

_ndarray = np.ndarray
_new = object.__new__
_NUMBERS = {bool: specs.bool_, int: specs.int32, float: specs.float32, complex: specs.complex64}
# what NumPy makes of nested lists of Python numbers, and what it means here
_NARROW = {
    specs.int64: specs.int32,
    specs.float64: specs.float32,
    specs.complex128: specs.complex64,
}


class _Quiet(threading.local):
    """How this thread runs kernels: in a context in which NumPy's floating-point warnings are off.

    Entering a prepared context costs a tenth of `np.errstate`, and the user's own `np.seterr` is
    neither seen nor changed.
    """

    def __init__(self) -> None:
        context = contextvars.copy_context()
        context.run(np.seterr, all="ignore")
        self.run = context.run


def _user(kernel: Any, *arrays: Any, **attrs: Any) -> Any:
    """Run the kernel of an effect, such as a print, in the user's own context."""
    if not all(type(a) is _ndarray for a in arrays):
        raise TypeError("a tensor has no value")
    return kernel(*arrays, **attrs)


_quiet = _Quiet()


class Eager:
    """The mode that computes at once. It has no state: one object serves all threads."""

    def execute(self, op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any]) -> Tensor:
        try:
            out = native.attempt(op, args, attrs)
            if out is not MISS:
                return out
            run = _user if op.effect else _quiet.run
            # most ops have one or two inputs: spelled out, they cost half
            if len(args) == 2:
                x, y = args
                value = run(op.kernel, x._value, y._value, **attrs)
            elif len(args) == 1:
                value = run(op.kernel, args[0]._value, **attrs)
            else:
                value = run(op.kernel, *[x._value for x in args], **attrs)
            if type(value) is not _ndarray:
                value = np.asarray(value)
        except Exception as error:
            _explain(op, args, attrs, error)
        tensor = _new(Tensor)
        tensor._value = value
        return tensor

    def convert(self, x: Any, dtype: DType | None = None) -> Tensor:
        if type(x) is Tensor and (dtype is None or x.dtype is dtype):
            return x
        if type(x) in _NUMBERS:
            return Tensor._wrap(to_array(x, dtype))
        if isinstance(x, Operators):
            tensor = x._read()
            return tensor if dtype is None or tensor.dtype is dtype else cast(tensor, dtype)
        if isinstance(x, list | tuple) and holds_tensors(x):
            return stack(x, dtype)
        return Tensor._wrap(to_array(x, dtype))

    def weak(self, x: Any, dtype: DType) -> Tensor:
        return self.convert(x, dtype)

    def whole(self, rows: Sequence[Tensor]) -> Tensor | None:
        return None

    def read(self, variable: Variable) -> Tensor:
        return variable._tensor

    def assign(self, variable: Variable, value: Tensor) -> None:
        if type(value._value) is not _ndarray:
            raise errors.leaked_error(value._value, "assign")
        # an object of its own: a tape that follows `value` must not take it for the variable's
        variable._tensor = Tensor._wrap(value._value)

    def initial_value(self, x: Tensor) -> Tensor:
        if type(x._value) is not _ndarray:
            raise errors.leaked_error(x._value, "Variable")
        return x

    def variable_created(self, variable: Variable) -> None:
        pass

    def value_needed(self, x: Tensor, use: str) -> NoReturn:
        raise errors.leaked_error(x._value, use)


EAGER = Eager()
_State.mode = EAGER  # the default of every thread
Op.make_native = staticmethod(native.make)


def _explain(op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any], error: Exception) -> NoReturn:
    """Raise what `infer` says about the arguments, or else the kernel's own `error`."""
    for x in args:
        if type(x._value) is not _ndarray:
            raise errors.leaked_error(x._value, op.name) from None
    try:
        op.infer(*(x.spec for x in args), **attrs)
    except Exception as better:
        raise errors.locate(better) from None
    raise errors.locate(error)


def to_array(x: Any, dtype: DType | None = None) -> np.ndarray[Any, Any]:
    """A copy of plain data `x` as an array: what `dm.asarray` makes of anything without tensors.

    Python numbers, also nested in lists, become bool, int32, float32 or complex64 unless `dtype`
    says otherwise; arrays keep their dtype.

    Raises:
        DTypeError: `x` is no array of numbers, or a number does not fit the dtype.
        ShapeError: nested lists of unequal lengths.
    """
    number = _NUMBERS.get(type(x))
    if number is not None:
        try:
            return _quiet.run(np.array, x, (dtype or number).numpy)
        except OverflowError:
            raise _too_large(x, dtype or number) from None
    if type(x) in sizes.PYTHON:
        return to_array(sizes.plain(x), dtype)
    if isinstance(x, _ndarray | np.generic):
        return _quiet.run(aligned.copied, x, (dtype or _known(x.dtype, x)).numpy)
    try:
        value = np.asarray(x)
    except ValueError as error:
        nested = isinstance(x, list | tuple)
        why = "not rectangular; give all rows one length" if nested else f"no array: {error}"
        raise errors.ShapeError(f"asarray: {_brief(x)} is {why}") from None
    found = _known(value.dtype, x)
    if isinstance(x, list | tuple | range) and not _holds(x, (np.generic, _ndarray)):
        dtype = dtype or _NARROW.get(found, found)
        info = np.iinfo(dtype.numpy) if dtype.is_integer and value.size else None
        if info is not None and not (info.min <= value.min() and value.max() <= info.max):
            raise _too_large(x, dtype)
    return _quiet.run(aligned.copied, value, (dtype or found).numpy)


def _too_large(x: Any, dtype: DType) -> DTypeError:
    return DTypeError(f"asarray: {_brief(x)} does not fit {dtype}; give a wider dtype=")


def _known(dtype: np.dtype[Any], x: Any) -> DType:
    """The type of elements of `x`, which NumPy calls `dtype`."""
    try:
        return from_numpy(dtype)
    except TypeError:
        if isinstance(x, list | tuple | _ndarray | np.generic):
            what, wanted = f"an array of dtype {dtype}", f"one of {', '.join(specs.DTYPES)}"
        else:
            what, wanted = _brief(x), "a number, an array, or nested lists of numbers"
        message = f"asarray: {what} cannot be made a tensor; it has to be {wanted}"
        raise DTypeError(message) from None


def _brief(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 60 else text[:57] + "..."


def _holds(x: Any, types: type | tuple[type, ...]) -> bool:
    """True where an item of nested lists `x` is of one of `types`."""
    stack = [x]
    while stack:
        for item in stack.pop():
            if isinstance(item, list | tuple):
                stack.append(item)
            elif isinstance(item, types):
                return True
    return False


def holds_tensors(x: list[Any] | tuple[Any, ...]) -> bool:
    """True where nested lists contain a tensor or variable: they convert by `stack`."""
    return _holds(x, Operators)


def stack(x: list[Any] | tuple[Any, ...], dtype: DType | None = None) -> Tensor:
    """Nested lists that contain tensors as one tensor, through ops, so gradients pass."""
    out = joining.stack(list(x))
    return out if dtype is None else cast(out, dtype)
