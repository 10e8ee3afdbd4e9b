"""The records that builtins of eager ops share with their generated code."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_int32, c_int64, c_void_p
from typing import Any

from .entry_records import Api

OPERANDS = 3  # at the most
AXES = 8  # at the most
DTYPES = 24  # NumPy's own, by type number
SPLAT = 64  # bytes of a repeated value


class Operand(Structure):
    """What an operand of a kernel must be.

    Attributes:
        type_num: of its dtype.
        size: bytes of an element.
        weak: how a Python number is stored, an entry of `WEAK`; 0 where none may stand here.
    """

    _fields_ = [("type_num", c_int32), ("size", c_int32), ("weak", c_int64)]


class Kernel(Structure):
    """A kernel for rows, see `generic.Generic`.

    Attributes:
        run: its address; null where there is none for these dtypes.
        descr, size: of the result's elements.
        grain: elements of a chunk.
    """

    _fields_ = [
        ("run", c_void_p),
        ("descr", c_void_p),
        ("size", c_int64),
        ("grain", c_int64),
        ("operands", Operand * OPERANDS),
    ]


class Operation(Structure):
    """An op, as its builtin knows it.

    Attributes:
        api: objects and functions of the interpreter.
        obstacles: a list that is not empty while operands are left to others.
        make: Python callable that makes the kernel for its arguments, and then computes.
        vectorcall: how to call it.
        count: of operands.
        kernels: by the type number of the last operand that is an array; null where not yet made.
    """

    keep: Any
    __hash__ = object.__hash__
    _fields_ = [
        ("api", POINTER(Api)),
        ("obstacles", c_void_p),
        ("make", c_void_p),
        ("vectorcall", c_void_p),
        ("count", c_int64),
        ("kernels", POINTER(POINTER(Kernel) * DTYPES)),
    ]


class Place(Structure):
    """Where an operand of a call lies.

    Attributes:
        array: the ndarray, or null for a number.
        base: its first element.
        size: bytes of an element.
        step: how far the next element is along the axis in hand, in bytes.
        mask: -1 where a row has values side by side, 0 where it has one.
        strides: by level.
        value: the number.
    """

    _fields_ = [
        ("array", c_void_p),
        ("base", c_void_p),
        ("size", c_int64),
        ("step", c_int64),
        ("mask", c_int64),
        ("strides", c_int64 * AXES),
        ("value", c_int64),
    ]


class Job(Structure):
    """A call, taken apart into rows.

    Levels are axes, from the innermost: axes that all operands walk as one are one, those of size 1
    are none. The first one is the row.

    Attributes:
        run: the kernel.
        result: the first element of the result.
        count: of operands.
        ndim, shape: of the result.
        total: elements of the result.
        levels, extents: of the loops.
        rows: how many.
        grain: elements of a chunk where there is one row, else rows of a chunk.
    """

    _fields_ = [
        ("run", c_void_p),
        ("result", c_void_p),
        ("size", c_int64),
        ("count", c_int64),
        ("ndim", c_int64),
        ("shape", c_int64 * AXES),
        ("total", c_int64),
        ("levels", c_int64),
        ("extents", c_int64 * AXES),
        ("rows", c_int64),
        ("grain", c_int64),
        ("overflow", c_int64),
        ("places", Place * OPERANDS),
    ]
