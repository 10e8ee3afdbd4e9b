"""Builtins for eager ops: from Python operands to a kernel of any size and back."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_void_p
from functools import cache
from typing import Any

from ..generic import Generic
from ..spec import DType
from . import entry_native, jit, pool
from .eager_records import DTYPES, OPERANDS, Kernel, Operand, Operation
from .eager_text import TEXT
from .entry_records import WEAK
from .layout import Layout


@cache
def _library() -> jit.Library:
    return jit.load(jit.compile_text(TEXT, promote="apply"), ["apply"], pool.symbols())


@cache
def _method() -> Any:
    return entry_native.method("apply", _library()["apply"])


class Table:
    """The kernels of an op on `count` operands, by the dtype of the last one that is a tensor."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.kernels = (POINTER(Kernel) * DTYPES)()
        self._keep: list[Any] = []

    def add(self, dtype: DType, generic: Generic | None) -> None:
        """Set the kernel for `dtype`; None where there is none."""
        kernel = Kernel()
        if generic is not None:
            library = jit.load(jit.compile_text(generic.text), ["kernel"])
            descr = generic.result.numpy
            kinds = [Operand(d.numpy.num, d.itemsize, WEAK.get(d, 0)) for d in generic.operands]
            row = (Operand * OPERANDS)(*kinds)
            kernel = Kernel(library["kernel"], id(descr), descr.itemsize, generic.grain, row)
            self._keep.append((library, descr))
        self._keep.append(kernel)
        if dtype.numpy.num < DTYPES:
            self.kernels[dtype.numpy.num] = ctypes.pointer(kernel)


def builtin(
    table: Table, layout: Layout, obstacles: list[Any], make: Callable[..., Any]
) -> Callable[..., Any]:
    """A function that computes an op on tensors and Python numbers, or gives `MISS`.

    Args:
        layout: the engine's classes.
        obstacles: not empty while it must give `MISS`.
        make: called with the operands where the table has no kernel for them yet; its result is the
            call's.
    """
    vectorcall = ctypes.cast(ctypes.pythonapi.PyObject_Vectorcall, c_void_p)
    record = Operation(
        ctypes.pointer(entry_native.api(layout)),
        id(obstacles),
        id(make),
        vectorcall.value,
        table.count,
        ctypes.pointer(table.kernels),
    )
    record.keep = (table, obstacles, make)
    return entry_native.fastcall(_method(), record)
