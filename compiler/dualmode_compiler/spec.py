"""Element types and array types: what every node, buffer and tensor is made of.

`DType` and `Spec` are interned: two equal ones are the same object, so a type check is one pointer
compare, here and in the native entry point.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from operator import index
from typing import Any

import numpy as np


class DType:
    """An element type. There is exactly one object per type; compare with `is` or `==`.

    Attributes:
        name: the array API's name, e.g. "float32".
        kind: "b" (bool), "i" (signed), "u" (unsigned), "f" (floating), "c" (complex).
        itemsize: size of one element in memory, in bytes.
        numpy: the NumPy dtype with the same memory layout.
        is_inexact: floating or complex: the types that carry gradients.
    """

    __slots__ = ("_numpy", "is_inexact", "itemsize", "kind", "name")

    def __init__(self, name: str, kind: str, itemsize: int) -> None:
        self.name = name
        self.kind = kind
        self.itemsize = itemsize
        self.is_inexact = kind in "fc"
        self._numpy: np.dtype[Any] | None = None if name == "bfloat16" else np.dtype(name)

    @property
    def numpy(self) -> np.dtype[Any]:
        if self._numpy is None:
            import ml_dtypes  # only bfloat16 needs it: imported on first use

            self._numpy = np.dtype(ml_dtypes.bfloat16)
        return self._numpy

    @property
    def is_floating(self) -> bool:
        return self.kind == "f"

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    @property
    def is_complex(self) -> bool:
        return self.kind == "c"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The same as `numpy`; what has it is a dtype to NumPy, as in `np.zeros(3, t.dtype)`."""
        return self.numpy

    def __eq__(self, other: object) -> bool:
        """Also true for the name and for NumPy's dtype: `t.dtype == "float32"`."""
        if self is other or other is None or isinstance(other, DType):
            return self is other
        try:
            return dtype(other) is self
        except TypeError:
            return False

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return (dtype, (self.name,))


bool_ = DType("bool", "b", 1)
int8, int16, int32, int64 = (DType(f"int{8 * n}", "i", n) for n in (1, 2, 4, 8))
uint8, uint16, uint32, uint64 = (DType(f"uint{8 * n}", "u", n) for n in (1, 2, 4, 8))
float16, bfloat16 = DType("float16", "f", 2), DType("bfloat16", "f", 2)
float32, float64 = DType("float32", "f", 4), DType("float64", "f", 8)
complex64, complex128 = DType("complex64", "c", 8), DType("complex128", "c", 16)

DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        bool_,
        *(int8, int16, int32, int64),
        *(uint8, uint16, uint32, uint64),
        *(float16, bfloat16, float32, float64),
        *(complex64, complex128),
    )
}
_PYTHON = {bool: bool_, int: int32, float: float32, complex: complex64}
_BY_NUMPY: dict[np.dtype[Any], DType] = {d.numpy: d for d in DTYPES.values() if d is not bfloat16}


def dtype(x: Any) -> DType:
    """The DType that `x` stands for: a DType, a name, a Python type, or anything NumPy accepts;
    None stands for float32, the default.

    Raises:
        TypeError: `x` names no supported element type.
    """
    if isinstance(x, DType):
        return x
    if isinstance(x, str) and x in DTYPES:
        return DTYPES[x]
    if isinstance(x, type) and x in _PYTHON:
        return _PYTHON[x]
    if x is None:
        return float32
    try:
        return from_numpy(np.dtype(x))
    except (TypeError, ValueError):
        names = ", ".join(DTYPES)
        raise TypeError(f"{x!r} is not an element type; the supported ones are {names}") from None


def from_numpy(x: np.dtype[Any]) -> DType:
    """The DType with the same meaning as NumPy's `x` (any byte order)."""
    found = _BY_NUMPY.get(x)
    if found is None:
        found = DTYPES.get(x.name) or DTYPES.get(x.newbyteorder("=").name)
        if found is None:
            raise TypeError(f"NumPy dtype {x} has no counterpart among {', '.join(DTYPES)}")
        _BY_NUMPY[x] = found
    return found


def default(x: DType) -> DType:
    """The type that a Python number of the kind of `x` gets where nothing else says: 32 bits."""
    return {"b": bool_, "f": float32, "c": complex64}.get(x.kind, int32)


@cache
def promote(a: DType, b: DType) -> DType:
    """The type of a result of mixing `a` and `b` (array API 2024.12, "Type promotion rules").

    Where the standard leaves a pair open: bool takes the other's type, an integer with a floating
    type takes the floating one's, float16 with bfloat16 gives float32, uint64 with a signed integer
    gives float64 as in NumPy.
    """
    if a is b:
        return a
    order = "biufc"
    if order.index(a.kind) > order.index(b.kind):
        a, b = b, a
    if a.kind == "b" or (a.kind in "iu" and b.kind in "fc"):
        return b
    if a.kind == "f" and b.kind == "c":
        return complex128 if float64 in (a, complex_part(b)) else complex64
    if {a, b} == {float16, bfloat16}:
        return float32
    if a.kind == b.kind:
        return a if a.itemsize > b.itemsize else b
    size = max(a.itemsize, 2 * b.itemsize)  # a signed, b unsigned
    return float64 if size > 8 else DTYPES[f"int{8 * size}"]


def complex_part(x: DType) -> DType:
    """The floating type of the real part of complex type `x`."""
    return float32 if x is complex64 else float64


class Spec:
    """The type of an array: shape and element type. Interned; prints as `float32[3,4]`.

    Attributes:
        shape: sizes, outermost axis first.
        dtype: the element type.
        weak: True for a traced Python number, which takes the other operand's type when mixed.
    """

    __slots__ = ("dtype", "shape", "weak")
    _table: dict[tuple[Any, ...], Spec] = {}  # noqa: RUF012

    shape: tuple[int, ...]
    dtype: DType
    weak: bool

    def __new__(cls, shape: Iterable[int], dtype: DType, weak: bool = False) -> Spec:
        shape = tuple(map(index, shape))
        key = (shape, dtype, weak)
        found = cls._table.get(key)
        if found is None:
            found = object.__new__(cls)
            found.shape, found.dtype, found.weak = shape, dtype, weak
            found = cls._table.setdefault(key, found)
        return found

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def is_stack(self) -> bool:
        """True where the first size is -1: as many entries as a loop has had iterations."""
        return bool(self.shape) and self.shape[0] < 0

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for s in self.shape:
            n *= s
        return n

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        """Row-major strides in elements (not bytes)."""
        out, step = [], 1
        for s in reversed(self.shape):
            out.append(step)
            step *= s
        return tuple(reversed(out))

    def with_dtype(self, dtype: DType) -> Spec:
        return Spec(self.shape, dtype)

    def with_shape(self, shape: Iterable[int]) -> Spec:
        return Spec(shape, self.dtype)

    def __repr__(self) -> str:
        weak = "~" if self.weak else ""
        return f"{weak}{self.dtype.name}[{','.join(map(str, self.shape))}]"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Spec, (self.shape, self.dtype, self.weak))


def spec_of(array: np.ndarray[Any, Any]) -> Spec:
    return Spec(array.shape, from_numpy(array.dtype))
