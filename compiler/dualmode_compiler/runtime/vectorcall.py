"""A type of Python objects whose calls may go straight to generated code.

CPython calls an object through a function pointer in the instance, if its type says where that is
(vectorcall, PEP 590). `Routable` has room for the pointer. Its subclasses define `__call__` in
Python. `entry_native.connect` gives an instance the pointer to generated code, which takes the
calls that it can, and leaves the others to `__call__`.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_uint, c_ulong, c_void_p
from functools import cache
from typing import TYPE_CHECKING, Any

from .layout import Object, slot_offset, standard

_BASE_TYPE = 1 << 10  # Py_TPFLAGS_BASETYPE
_HAVE_VECTORCALL = 1 << 11  # Py_TPFLAGS_HAVE_VECTORCALL
_MEMBERS, _SSIZE_T, _READ_ONLY = 72, 19, 1  # Py_tp_members, Py_T_PYSSIZET, Py_READONLY


class Instance(Structure):
    """An instance of a subclass of `Routable`.

    Attributes:
        vectorcall: the generated function, or null.
        home: what that needs to know of the class: an `entry_records.Home`.
        route: the subclass's slot `_route`, for what is particular to the instance.
    """

    vectorcall: int
    home: int
    _fields_ = [
        ("object", Object),
        ("vectorcall", c_void_p),
        ("home", c_void_p),
        ("route", c_void_p),
    ]


_VECTORCALL, _ROUTE = 16, 32  # offsets of the fields


class _Type(Structure):
    """PyTypeObject, up to its flags."""

    basicsize: int
    vectorcall_offset: int
    flags: int
    _fields_ = [
        ("object", Object),
        ("_size", c_int64),
        ("_name", c_char_p),
        ("basicsize", c_int64),
        ("_itemsize", c_int64),
        ("_dealloc", c_void_p),
        ("vectorcall_offset", c_int64),
        ("_others", c_void_p * 13),
        ("flags", c_ulong),
    ]


class _Member(Structure):
    """PyMemberDef."""

    _fields_ = [
        ("name", c_char_p),
        ("kind", c_int),
        ("offset", c_int64),
        ("flags", c_int),
        ("doc", c_char_p),
    ]


class _TypeSlot(Structure):
    """PyType_Slot."""

    _fields_ = [("slot", c_int), ("value", c_void_p)]


class _Spec(Structure):
    """PyType_Spec."""

    _fields_ = [
        ("name", c_char_p),
        ("basicsize", c_int),
        ("itemsize", c_int),
        ("flags", c_uint),
        ("slots", POINTER(_TypeSlot)),
    ]


_members = (_Member * 2)((b"__vectorcalloffset__", _SSIZE_T, _VECTORCALL, _READ_ONLY, None))
_slots = (_TypeSlot * 2)((_MEMBERS, ctypes.addressof(_members)))
_spec = _Spec(f"{__name__}.Routable".encode(), _ROUTE, 0, _BASE_TYPE, _slots)  # all kept for good

if TYPE_CHECKING or not standard():

    class Routable:
        """Base of classes whose calls may go to generated code."""

        __slots__ = ()
else:
    Routable = ctypes.PYFUNCTYPE(ctypes.py_object, POINTER(_Spec))(
        ("PyType_FromSpec", ctypes.pythonapi)
    )(_spec)


@cache
def prepare(owner: type[Any]) -> bool:
    """Let CPython look for the pointer in instances of `owner`, a subclass of `Routable`.

    Returns:
        False where this interpreter has types of another layout; nothing is changed then.
    """
    if not standard():
        return False
    seen = _Type.from_address(id(owner))
    if (
        seen.basicsize != owner.__basicsize__
        or seen.flags != owner.__flags__
        or seen.vectorcall_offset != _VECTORCALL
        or slot_offset(owner, "_route") != _ROUTE
    ):
        return False
    seen.flags |= _HAVE_VECTORCALL  # CPython does not inherit it where `__call__` is Python code
    return bool(owner.__flags__ & _HAVE_VECTORCALL)
