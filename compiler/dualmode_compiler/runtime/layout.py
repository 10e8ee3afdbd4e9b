"""How objects lie in memory, as the native entry reads them, and the check that they do so here.

The structures below are CPython's and NumPy's public C structures up to the fields that are read
(CPython `Include/object.h`, `Include/descrobject.h`; NumPy `ndarraytypes.h`). `supported` compares
every field with what Python itself says of live objects; where anything differs, the entry goes
through ctypes instead.
"""

from __future__ import annotations

import ctypes
import struct
import sys
import sysconfig
import weakref
from ctypes import (
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_double,
    c_int32,
    c_int64,
    c_uint64,
    c_void_p,
)
from functools import cache
from typing import Any

import numpy as np

from ..records import dataclass

CONTIGUOUS = 0x001  # NPY_ARRAY_C_CONTIGUOUS, and so on
OWNS_DATA = 0x004
ALIGNED = 0x100
WRITEABLE = 0x400

MISS: object = type("Miss", (), {"__repr__": lambda _: "MISS", "__slots__": ()})()
"""What a call returns when its arguments are not what the executable was made for."""

_OBJECT_MEMBER = 16  # T_OBJECT_EX: what `__slots__` makes


@dataclass(frozen=True)
class Layout:
    """The engine's two classes, as far as an entry needs to know them.

    Attributes:
        tensor: a class with a slot that holds an ndarray.
        tensor_slot: the name of that slot.
        variable: a class with a slot that holds its current `tensor`.
        variable_slot: the name of that slot.
    """

    tensor: type
    tensor_slot: str
    variable: type
    variable_slot: str


class Object(Structure):
    """PyObject. The low half of the count holds it on every supported version."""

    refcount: int
    type: int
    _fields_ = [("refcount", c_int32), ("_high", c_int32), ("type", c_void_p)]


class Float(Structure):
    """PyFloatObject."""

    value: float
    _fields_ = [("object", Object), ("value", c_double)]


class Boxed(Structure):
    """The head of a ctypes instance: it points to the memory of the structure it stands for."""

    data: int
    _fields_ = [("object", Object), ("data", c_void_p)]


class Descr(Structure):
    """PyArray_Descr: NumPy's dtype."""

    byteorder: bytes
    type_num: int
    itemsize: int
    _fields_ = [
        ("object", Object),
        ("scalar", c_void_p),
        ("kind", c_char),
        ("type", c_char),
        ("byteorder", c_char),
        ("former_flags", c_char),
        ("type_num", c_int32),
        ("flags", c_uint64),
        ("itemsize", c_int64),
    ]


class Array(Structure):
    """PyArrayObject."""

    data: int
    ndim: int
    dims: Any
    base: int
    descr: int
    flags: int
    weakrefs: int
    handler: int
    _fields_ = [
        ("object", Object),
        ("data", c_void_p),
        ("ndim", c_int32),
        ("dims", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("base", c_void_p),
        ("descr", c_void_p),
        ("flags", c_int32),
        ("weakrefs", c_void_p),
        ("buffers", c_void_p),
        ("handler", c_void_p),
    ]


class List(Structure):
    """PyListObject."""

    size: int
    items: Any
    _fields_ = [("object", Object), ("size", c_int64), ("items", POINTER(c_void_p))]


class _Member(Structure):
    """PyMemberDef, for an attribute stored at `offset` of its object."""

    name: bytes
    kind: int
    offset: int
    _fields_ = [("name", c_char_p), ("kind", c_int32), ("offset", c_int64)]


class _MemberDescriptor(Structure):
    """PyMemberDescrObject."""

    member: Any
    _fields_ = [
        ("object", Object),
        ("type", c_void_p),
        ("name", c_void_p),
        ("qualname", c_void_p),
        ("member", POINTER(_Member)),
    ]


def slot_offset(owner: type, name: str) -> int:
    """Where instances of `owner` keep the slot `name`, in bytes from their start.

    Raises:
        TypeError: `name` is no slot of `owner`, or the interpreter describes slots differently.
    """
    descriptor = getattr(owner, name, None)
    if type(descriptor).__name__ != "member_descriptor":
        raise TypeError(f"{owner.__name__}.{name} is not a slot; declare it in __slots__")
    member = _MemberDescriptor.from_address(id(descriptor)).member
    if not member or member[0].kind != _OBJECT_MEMBER or member[0].name != name.encode():
        raise TypeError(f"{owner.__name__}.{name}: this interpreter describes slots differently")
    return member[0].offset


@cache
def standard() -> bool:
    """True where objects may be laid out as here: `supported` then looks at them."""
    return (
        sys.implementation.name == "cpython"
        and not sysconfig.get_config_var("Py_GIL_DISABLED")
        and sys.byteorder == "little"
        and struct.calcsize("P") == 8
        and hasattr(np, "_core")
    )


@cache
def supported(layout: Layout) -> bool:
    """True where native code may read and make this interpreter's objects."""
    if not standard():
        return False
    try:
        return _numbers_agree() and _arrays_agree() and _slots_agree(layout)
    except TypeError:
        return False


def _numbers_agree() -> bool:
    number = 1.5 * len(sys.version)
    box = c_int64(7)
    head = Object.from_address(id(number))
    return (
        Float.from_address(id(number)).value == number
        and head.type == id(float)
        and _count_agrees(number)
        and Boxed.from_address(id(box)).data == ctypes.addressof(box)
        and _lists_agree([number, box])
    )


def _lists_agree(x: list[Any]) -> bool:
    seen = List.from_address(id(x))
    return seen.size == len(x) and all(seen.items[k] == id(y) for k, y in enumerate(x))


def _count_agrees(x: object) -> bool:
    seen = Object.from_address(id(x))
    before = seen.refcount
    extra = [x] * 5
    return seen.refcount == before + len(extra)


def _arrays_agree() -> bool:
    readonly = np.ones((), np.float64)
    readonly.flags.writeable = False
    unaligned = np.zeros(9, np.uint8)[1:].view(np.float64)
    samples = [
        np.zeros((2, 3), np.float32),
        np.zeros((4, 5, 6), np.int8).T,
        np.zeros((3, 4), ">f8")[:, ::2],
        readonly,
        unaligned,
    ]
    return all(_array_agrees(a) for a in samples)


def _array_agrees(a: np.ndarray[Any, Any]) -> bool:
    seen = Array.from_address(id(a))
    descr = Descr.from_address(id(a.dtype))
    alone = not seen.weakrefs
    watched = weakref.ref(a)
    flags = (
        (CONTIGUOUS, a.flags.c_contiguous),
        (OWNS_DATA, a.flags.owndata),
        (ALIGNED, a.flags.aligned),
        (WRITEABLE, a.flags.writeable),
    )
    return (
        seen.data == a.ctypes.data
        and seen.ndim == a.ndim
        and tuple(seen.dims[k] for k in range(a.ndim)) == a.shape
        and seen.descr == id(a.dtype)
        and all(bool(seen.flags & bit) == on for bit, on in flags)
        and descr.type_num == a.dtype.num
        and descr.itemsize == a.dtype.itemsize
        and descr.byteorder.decode() == a.dtype.byteorder
        and (seen.base or None) == (None if a.base is None else id(a.base))
        and alone
        and seen.weakrefs == id(watched)
    )


def _slots_agree(layout: Layout) -> bool:
    in_tensor = slot_offset(layout.tensor, layout.tensor_slot)
    in_variable = slot_offset(layout.variable, layout.variable_slot)
    value = np.zeros(2, np.float32)
    tensor = wrap(layout, value)
    variable = object.__new__(layout.variable)
    object.__setattr__(variable, layout.variable_slot, tensor)
    return (
        c_void_p.from_address(id(tensor) + in_tensor).value == id(value)
        and c_void_p.from_address(id(variable) + in_variable).value == id(tensor)
        and Object.from_address(id(tensor)).type == id(layout.tensor)
        and _count_agrees(tensor)
        and _count_agrees(value)
    )


def wrap(layout: Layout, value: np.ndarray[Any, Any]) -> Any:
    """A fresh tensor around `value`, without running the class's own code."""
    tensor = object.__new__(layout.tensor)
    object.__setattr__(tensor, layout.tensor_slot, value)
    return tensor


def unseen(x: object) -> np.ndarray[Any, Any]:
    """A holder of `x` into which the garbage collector does not look.

    Finalizers of objects that it finds in one cycle run in any order. What is held in this way
    stays whole until they have all run, as machine code must: one of them may call it.
    """
    holder = np.empty(1, object)
    holder[0] = x
    return holder
