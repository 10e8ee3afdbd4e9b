"""The records that builtins of eager ops share with their generated code."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_int32, c_int64, c_void_p
from typing import Any

from .entry_records import Api

OPERANDS = 3  # at the most
AXES = 8  # at the most
DTYPES = 24  # NumPy's own, by type number
SPLAT = 64  # bytes of a repeated value


class Given(Structure):
    """The beginning of the record of any call: what its builtin was given.

    Attributes:
        arguments: where they are.
        number: how many.
    """

    _fields_ = [("arguments", c_void_p), ("number", c_int64)]


class Operand(Structure):
    """What an operand of a kernel must be.

    Attributes:
        type_num: of its dtype.
        size: bytes of an element.
        mode: how a Python number is stored, an entry of `WEAK`, or 0 where none may stand here; of
            an op along an axis, one of `ROLES`.
    """

    _fields_ = [("type_num", c_int32), ("size", c_int32), ("mode", c_int64)]


class Kernel(Structure):
    """A kernel, see `generic.Generic`.

    Attributes:
        run: its address; null where there is none for these dtypes.
        descr, size: of the result's elements.
        grain: elements of a chunk.
        splits: whether long rows may be computed in parts.
    """

    _fields_ = [
        ("run", c_void_p),
        ("descr", c_void_p),
        ("size", c_int64),
        ("grain", c_int64),
        ("splits", c_int64),
        ("operands", Operand * OPERANDS),
    ]


class Builtin(Structure):
    """The beginning of the record of any op: what every builtin knows.

    Attributes:
        api: objects and functions of the interpreter.
        obstacles: a list that is not empty while operands are left to others.
        make: Python callable that makes the kernel for its arguments, and then computes.
        vectorcall: how to call it.
    """

    keep: Any
    __hash__ = object.__hash__
    _fields_ = [
        ("api", POINTER(Api)),
        ("obstacles", c_void_p),
        ("make", c_void_p),
        ("vectorcall", c_void_p),
    ]


class Operation(Builtin):
    """An elementwise op.

    Attributes:
        count: of operands.
        kernels: by the type number of the last operand that is an array; null where not yet made.
        recording: a list that is not empty while somebody has to hear that a variable is read.
    """

    _fields_ = [
        ("count", c_int64),
        ("kernels", POINTER(POINTER(Kernel) * DTYPES)),
        ("recording", c_void_p),
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


class Job(Given):
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


# --- ops along an axis ----------------------------------------------------------------------------

ROLES = {"row": 0, "one": 1, "shared": 2}
"""What an operand of an op along an axis has for each row of the first one: a row, one element, or
the one row that it has for all."""


class Along(Builtin):
    """An op along an axis.

    Attributes:
        count: of arguments.
        kinds: a bit for each type number that the first operand may have.
        whole: whether the result has the first operand's shape.
        tuple, true, false: objects of the interpreter.
        items: where the items of a tuple begin.
        kernels: by the type number of the first operand, and then by that of the last or by whether
            there are columns.
    """

    _fields_ = [
        ("count", c_int64),
        ("kinds", c_int64),
        ("whole", c_int64),
        ("tuple", c_void_p),
        ("items", c_int64),
        ("true", c_void_p),
        ("false", c_void_p),
        ("kernels", POINTER(POINTER(Kernel) * (DTYPES * DTYPES))),
    ]


class Sweep(Given):
    """A call of an op along an axis.

    Attributes:
        run: the kernel.
        pointers, steps, sizes: what it gets; `sizes` are n and m.
        outer: how many slices of n x m elements there are.
        piece: rows or slices of a chunk; where there is one slice of columns, columns of a chunk.
        ndim, shape: of the result.
        axes: a bit for each axis that is reduced.
        overflow: where the interpreter reports that an int is too large.
    """

    _fields_ = [
        ("run", c_void_p),
        ("pointers", c_int64 * (OPERANDS + 1)),
        ("steps", c_int64 * (OPERANDS + 1)),
        ("sizes", c_int64 * 2),
        ("outer", c_int64),
        ("piece", c_int64),
        ("ndim", c_int64),
        ("shape", c_int64 * AXES),
        ("axes", c_int64),
        ("overflow", c_int64),
    ]


# --- matrix products ------------------------------------------------------------------------------

ROWS, COLUMNS = 256, 128  # of a block of a product, at the most
TILE_ROWS, TILE_COLUMNS = 8, 32  # what they are multiples of
FEW = 8  # rows of A up to which what bounds a product may be how B comes from memory


class Product(Given):
    """A product of matrices, or one for each entry of a batch. Matrices are contiguous; sizes and
    distances count elements.

    Attributes:
        a, b, c: the first elements.
        batch: how many products.
        m, n, k: C is [m, n], and K is summed over.
        lda, ldb: from one row of the array to the next.
        turned_a, turned_b: whether the array is the transposed matrix.
        a_size, b_size, c_size: from one matrix of the batch to the next.
        rest: steps of K that the last product of the batch has besides.
        rows, columns: of a block of C.
        down, across: blocks in either direction; chunks are counted along the rows, then down, then
            by batch. Chunk -1 adds up what all products gave.
        total: where it stores that.
        ndim, shape: of the result.
    """

    _fields_ = [
        *[
            (name, c_int64)
            for name in (
                *("a", "b", "c", "batch", "m", "n", "k", "lda", "ldb", "turned_a", "turned_b"),
                *("a_size", "b_size", "c_size", "rest", "rows", "columns", "down", "across"),
                "total",
            )
        ],
        ("ndim", c_int64),
        ("shape", c_int64 * AXES),
    ]


class ProductKernel(Structure):
    """The kernel of a product, see `generic.product`: its address, null where there is none; the
    dtype of the elements; whether long sums may be computed in parts."""

    _fields_ = [("run", c_void_p), ("descr", c_void_p), ("size", c_int64), ("splits", c_int64)]


class ProductKernels(Structure):
    """Kernels by type number; the last one is for bfloat16, which has a number of its own in every
    process: -1 as long as there is no kernel."""

    _fields_ = [
        ("bfloat16", c_int64),
        ("kernels", POINTER(ProductKernel) * (DTYPES + 1)),
    ]


class Matmul(Builtin):
    """The product of matrices; `true` and `false` are objects of the interpreter."""

    _fields_ = [
        ("true", c_void_p),
        ("false", c_void_p),
        ("kernels", POINTER(ProductKernels)),
    ]


# --- moves along an axis --------------------------------------------------------------------------

JOINED = 16  # arrays, at the most
ITEMS = (4, 8)  # bytes of rows that are moved as one number
ELEMENTS = {"float32": "float", "float64": "double", "int32": "i32", "int64": "i64"}
"""Dtypes whose elements are added one by one where each row is one: as generated code names them.
A kind counts them from 1."""


class Moves(Builtin):
    """An op that moves elements along an axis; `make` makes the kernel in `kernels`.

    Attributes:
        int32, int64: type numbers of indices.
        sizes: bytes of an element, by type number.
        kinds: which of the elements that are added one by one they are, by type number; else 0.
        kernels: of the op that combines old elements with new ones, by type number; null where
            those are replaced.
        rows: of a scan, those along rows, by type number: from the start, and from the end.
        true, false: objects of the interpreter.
    """

    _fields_ = [
        ("int32", c_int64),
        ("int64", c_int64),
        ("sizes", c_int64 * DTYPES),
        ("kinds", c_int64 * DTYPES),
        ("kernels", POINTER(POINTER(Kernel) * DTYPES)),
        ("rows", POINTER(POINTER(Kernel) * DTYPES) * 2),
        ("true", c_void_p),
        ("false", c_void_p),
    ]


class Move(Given):
    """A call of one. Arrays are seen as (outer, n, inner) along the axis.

    Attributes:
        source, index, update, result: the first elements.
        outer, n: sizes.
        inner: bytes of a row; in a join, of a row of the result.
        count: how many indices there are, or arrays to join.
        wide: whether indices have 8 bytes.
        size: bytes of an element.
        run: what moves rows, or combines them; null where they are replaced.
        kind: see `Moves.kinds`.
        piece: rows, slices or bytes of a chunk.
        bad: whether an index was out of range.
        reverse: whether a scan goes from the end to the start.
        ndim, shape: of the result.
        overflow: where the interpreter reports that an int is too large.
        parts: of a join, bytes of a row of each array.
        sources: their first elements.
    """

    _fields_ = [
        ("source", c_void_p),
        ("index", c_void_p),
        ("update", c_void_p),
        ("result", c_void_p),
        ("run", c_void_p),
        *[
            (name, c_int64)
            for name in ("outer", "n", "inner", "count", "wide", "size", "kind", "piece", "bad")
        ],
        ("reverse", c_int64),
        ("ndim", c_int64),
        ("shape", c_int64 * AXES),
        ("overflow", c_int64),
        ("parts", c_int64 * JOINED),
        ("sources", c_void_p * JOINED),
    ]
