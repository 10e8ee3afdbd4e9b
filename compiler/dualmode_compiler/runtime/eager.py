"""Builtins for eager ops: from Python operands to a kernel of any size and back.

Kernels and the code around them are kept on disk by what they are made from, not by their text: a
process that finds them there loads nothing that makes text.
"""

from __future__ import annotations

import ctypes
import marshal
import os
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_void_p
from dataclasses import astuple
from functools import cache
from importlib import import_module
from typing import Any

from ..artifact import source_version
from ..generic import Generic
from ..records import dataclass
from ..spec import DTYPES as SPECS
from ..spec import DType, bfloat16
from . import aligned, entry_native, jit, pool
from . import cache as store
from .eager_records import (
    DTYPES,
    ELEMENTS,
    OPERANDS,
    Along,
    Kernel,
    Matmul,
    Moves,
    Operand,
    Operation,
    ProductKernel,
    ProductKernels,
)
from .entry_records import WEAK
from .layout import Layout

# --- code -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loaded:
    """A kernel in memory.

    Attributes:
        library: holds its machine code.
        operands, result, grain, splits: see `Generic`.
    """

    library: jit.Library
    operands: tuple[DType, ...]
    result: DType
    grain: int
    splits: bool


def loaded(said: Sequence[str] | None, make: Callable[[], Generic | None]) -> Loaded | None:
    """The kernel that `make` gives the text of, or None where it gives none.

    Args:
        said: all that the kernel depends on, but for the compiler and the machine; None where that
            means something in this process only.
    """
    key = None if said is None else _key("eager kernel", *said)
    packed = None if key is None else store.get(key, f"eager kernel {said}")
    if packed is None:
        packed = _packed(make(), key is not None)
        if key is not None:
            store.put(key, packed, f"eager kernel {said}")
    found = marshal.loads(packed)
    if found is None:
        return None
    code, operands, result, *rest = found
    library = jit.load(code, ["kernel"], pool.symbols())
    return Loaded(library, tuple(SPECS[d] for d in operands), SPECS[result], *rest)


def _packed(made: Generic | None, whole: bool) -> bytes:
    """A kernel and its code, which is in the cache by its text unless it is kept as a `whole`."""
    if made is None:
        return marshal.dumps(None)
    makings = _begin(made.text, whole)
    code = [making.result() for making in makings]
    for making in () if whole else makings:
        making.keep()
    names = [d.name for d in made.operands]
    return marshal.dumps((code, names, made.result.name, made.grain, made.splits))


def _begin(text: str, whole: bool, promote: str = "") -> list[jit.Making]:
    """Begin to make the code of a module, of its parts at the same time."""
    from ..emit.modules import cut

    return [jit.begin(part, promote=promote, look=not whole) for part in cut(text)]


def _key(*said: str) -> str:
    here = source_version(os.path.dirname(os.path.dirname(__file__)))
    return store.digest(*said, here, repr(astuple(jit.host())), jit.llvm_version())


def _library(module: str, exports: list[str], promote: str = "") -> jit.Library:
    """The functions whose text is the `TEXT` of a module of this package."""
    key = _key("eager builtins", module)
    code = store.get(key, module)
    if code is None:
        text = import_module(f".{module}", __package__).TEXT
        makings = _begin(text, True, promote)
        aligned.begin()  # all that builtins need is made at the same time
        pool.begin()
        code = marshal.dumps([making.result() for making in makings])
        store.put(key, code, module)
    return jit.load(marshal.loads(code), exports, pool.symbols())


# --- elementwise ----------------------------------------------------------------------------------


@cache
def _apply() -> Any:
    library = _library("eager_text", ["apply"], promote="apply")
    method = entry_native.method("apply", library["apply"])
    _keep.append(library)
    return method


_keep: list[Any] = []


class Table:
    """The kernels of an elementwise op on `count` operands, by the dtype of the last one that is a
    tensor."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.kernels = (POINTER(Kernel) * DTYPES)()
        self._keep: list[Any] = []

    def add(self, dtype: DType, code: Loaded | None) -> None:
        """Set the kernel for `dtype`; None where there is none."""
        modes = [] if code is None else [WEAK.get(d, 0) for d in code.operands]
        kernel = _kernel(code, modes)
        self._keep.append((kernel, code))
        if dtype.numpy.num < DTYPES:
            self.kernels[dtype.numpy.num] = ctypes.pointer(kernel)


def _kernel(code: Loaded | None, modes: Sequence[int]) -> Kernel:
    """The record of a kernel, which has to be kept as long as that; `modes` of its operands."""
    if code is None:
        return Kernel()
    operands = zip(code.operands, modes, strict=True)
    known = (Operand * OPERANDS)(*[Operand(d.numpy.num, d.itemsize, m) for d, m in operands])
    descr = code.result.numpy  # there is one object for each dtype, which never dies
    address = code.library["kernel"]
    return Kernel(address, id(descr), descr.itemsize, code.grain, code.splits, known)


def builtin(
    table: Table,
    layout: Layout,
    obstacles: list[Any],
    make: Callable[..., Any],
    recording: list[Any],
) -> Callable[..., Any]:
    """A function that computes an op on tensors, variables and Python numbers, or gives `MISS`.

    Args:
        layout: the engine's classes.
        obstacles: not empty while it must give `MISS`.
        make: called with the operands where the table has no kernel for them yet; its result is the
            call's.
        recording: not empty while it must leave variables to others.
    """
    method = _apply()
    record = Operation(
        ctypes.pointer(entry_native.api(layout)),
        id(obstacles),
        id(make),
        _vectorcall(),
        table.count,
        ctypes.pointer(table.kernels),
        id(recording),
    )
    record.keep = (table, obstacles, make, recording)
    return entry_native.fastcall(method, record)


def _vectorcall() -> Any:
    return ctypes.cast(ctypes.pythonapi.PyObject_Vectorcall, c_void_p).value


# --- along an axis --------------------------------------------------------------------------------


@cache
def _along() -> dict[str, Any]:
    names = ["along", "rows"]
    library = _library("eager_along_text", names)
    _keep.append(library)
    return {name: entry_native.method(name, library[name]) for name in names}


class AlongTable:
    """The kernels of an op along an axis, by two numbers: see `Along`."""

    def __init__(self) -> None:
        self.kernels = (POINTER(Kernel) * (DTYPES * DTYPES))()
        self._keep: list[Any] = []

    def add(self, row: int, column: int, code: Loaded | None, roles: Sequence[int]) -> None:
        """Set a kernel; None where there is none."""
        kernel = _kernel(code, roles)
        self._keep.append((kernel, code))
        if max(row, column) < DTYPES:
            self.kernels[row * DTYPES + column] = ctypes.pointer(kernel)


def along(
    kind: str,
    table: AlongTable,
    layout: Layout,
    obstacles: list[Any],
    make: Callable[..., Any],
    *,
    count: int,
    kinds: int,
    whole: bool,
) -> Callable[..., Any]:
    """A function that computes an op along an axis, or gives `MISS`.

    Args:
        kind: "along" for `(x, axis)` and `(x, axis, keepdims)`; "rows" for operands only.
        layout, obstacles, make: as of `builtin`.
        count: of arguments.
        kinds: a bit for each type number that the first operand may have.
        whole: whether the result has the first operand's shape.
    """
    method = _along()[kind]
    record = Along(
        ctypes.pointer(entry_native.api(layout)),
        id(obstacles),
        id(make),
        _vectorcall(),
        count,
        kinds,
        whole,
        id(tuple),
        tuple.__basicsize__,
        id(True),
        id(False),
        ctypes.pointer(table.kernels),
    )
    record.keep = (table, obstacles, make)
    return entry_native.fastcall(method, record)


# --- matrix products ------------------------------------------------------------------------------


@cache
def _matmul() -> Any:
    library = _library("eager_product_text", ["matmul"])
    _keep.append(library)
    return entry_native.method("matmul", library["matmul"])


class ProductTable:
    """The kernels of matrix products, by dtype."""

    def __init__(self) -> None:
        self.kernels = ProductKernels(-1)
        self._keep: list[Any] = []

    def has(self, dtype: DType) -> bool:
        """Whether it was said what computes this dtype."""
        number = DTYPES if dtype is bfloat16 else dtype.numpy.num
        return number > DTYPES or bool(self.kernels.kernels[number])

    def add(self, dtype: DType, code: Loaded | None) -> None:
        """Set the kernel for `dtype`; None where there is none."""
        kernel = ProductKernel()
        if code is not None:
            descr = dtype.numpy
            address = code.library["kernel"]
            kernel = ProductKernel(address, id(descr), descr.itemsize, code.splits)
            self._keep.append((code, descr))
        self._keep.append(kernel)
        number = DTYPES if dtype is bfloat16 else dtype.numpy.num
        if number <= DTYPES:
            self.kernels.kernels[number] = ctypes.pointer(kernel)
        if dtype is bfloat16:
            self.kernels.bfloat16 = dtype.numpy.num


def matmul(
    table: ProductTable, layout: Layout, obstacles: list[Any], make: Callable[..., Any]
) -> Callable[..., Any]:
    """`builtin`, for `(a, b, transpose_a, transpose_b)`."""
    method = _matmul()
    record = Matmul(
        ctypes.pointer(entry_native.api(layout)),
        id(obstacles),
        id(make),
        _vectorcall(),
        id(True),
        id(False),
        ctypes.pointer(table.kernels),
    )
    record.keep = (table, obstacles, make)
    return entry_native.fastcall(method, record)


# --- moves along an axis --------------------------------------------------------------------------


@cache
def _moves(module: str, kind: str) -> Any:
    library = _library(module, [kind])
    _keep.append(library)
    return entry_native.method(kind, library[kind])


def moves(
    kind: str,
    combine: Table | None,
    rows: Sequence[Table],
    layout: Layout,
    obstacles: list[Any],
    make: Callable[..., Any],
) -> Callable[..., Any]:
    """A function that moves elements along an axis, or gives `MISS`: see `eager_move_text` and
    `eager_combine_text`.

    Args:
        kind: "take", "scatter", "join" or "scan".
        combine: of a scatter or scan, the kernels of the op that combines old elements with new
            ones.
        rows: of a scan, its kernels along rows, from the start and from the end.
        layout, obstacles: as of `builtin`.
        make: called with the arguments where there is no kernel for them yet; its result is the
            call's.
    """
    module = "eager_move_text" if kind in ("take", "join") else "eager_combine_text"
    method = _moves(module, kind)
    record = Moves(
        ctypes.pointer(entry_native.api(layout)),
        id(obstacles),
        id(make),
        _vectorcall(),
        SPECS["int32"].numpy.num,
        SPECS["int64"].numpy.num,
    )
    for d in SPECS.values():
        if d is not bfloat16:  # whose number is not one of NumPy's own
            record.sizes[d.numpy.num] = d.itemsize
    for k, name in enumerate(ELEMENTS, 1):
        record.kinds[SPECS[name].numpy.num] = k
    if combine is not None:
        record.kernels = ctypes.pointer(combine.kernels)
    for k, table in enumerate(rows):
        record.rows[k] = ctypes.pointer(table.kernels)
    record.true, record.false = id(True), id(False)
    record.keep = (combine, rows, obstacles, make)
    return entry_native.fastcall(method, record)
