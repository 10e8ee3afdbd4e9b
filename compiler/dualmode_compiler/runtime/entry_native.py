"""Makes builtin functions out of executables; `entry_text` is the code that they run."""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_void_p, py_object
from functools import cache
from typing import Any

import numpy as np

from ..spec import Spec
from . import jit
from .entry_records import WEAK, Api, Call, Slot
from .entry_text import TEXT
from .layout import MISS, Layout, slot_offset

_METH_FASTCALL = 0x80
_NEW_FROM_DESCR, _NEW_COPY = 94, 85  # places in NumPy's C-API table, part of its ABI
_lock = threading.Lock()


class _MethodDef(Structure):
    """PyMethodDef."""

    _fields_ = [
        ("name", c_char_p),
        ("function", c_void_p),
        ("flags", c_int),
        ("doc", c_char_p),
    ]


@cache
def _compiled() -> jit.Library:
    return jit.load(jit.compile_text(TEXT), ["call", "acquire"])


def _library() -> jit.Library:
    with _lock:
        return _compiled()


def prepare() -> None:
    """Make the machine code of the entry, if it is not there yet."""
    _library()


@cache
def _method() -> _MethodDef:
    return _MethodDef(b"call", _library()["call"], _METH_FASTCALL, None)


@cache
def _api(layout: Layout) -> Api:
    objects = {
        "tensor": id(layout.tensor),
        "tensor_slot": slot_offset(layout.tensor, layout.tensor_slot),
        "ndarray": id(np.ndarray),
        "float": id(float),
        "int": id(int),
        "none": id(None),
        "miss": id(MISS),
    }
    functions = {
        "incref": "Py_IncRef",
        "decref": "Py_DecRef",
        "alloc": "PyType_GenericAlloc",
        "thread": "PyThread_get_thread_ident",
        "release_gil": "PyEval_SaveThread",
        "take_gil": "PyEval_RestoreThread",
        "new_tuple": "PyTuple_New",
        "set_item": "PyTuple_SetItem",
        "from_long": "PyLong_FromLong",
        "as_long": "PyLong_AsLongLongAndOverflow",
        "call": "PyObject_CallOneArg",
    }
    addresses = {
        field: ctypes.cast(getattr(ctypes.pythonapi, name), c_void_p).value
        for field, name in functions.items()
    }
    numpy = _numpy_api()
    return Api(
        **objects, **addresses, new_array=numpy[_NEW_FROM_DESCR], copy_array=numpy[_NEW_COPY]
    )


def _numpy_api() -> Any:
    from numpy._core import multiarray  # pyright: ignore[reportAttributeAccessIssue]

    pointer = ctypes.PYFUNCTYPE(c_void_p, py_object, c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    return ctypes.cast(pointer(multiarray._ARRAY_API, None), POINTER(c_void_p))


def _slot(spec: Spec, mode: int = 0, place: int = 0) -> Slot:
    descr = spec.dtype.numpy
    dims = (c_int64 * spec.ndim)(*spec.shape)
    return Slot(id(descr), descr.num, spec.ndim, dims, mode, place, None)


def record(
    *,
    run_address: int,
    inputs: Sequence[Spec],
    states: Sequence[Any],
    state_specs: Sequence[Spec],
    state_written: Sequence[bool],
    outputs: Sequence[Spec],
    fixed: Sequence[int],
    layout: Layout,
    release_gil: bool,
    tuple_result: bool,
    fail: Callable[[int], Any],
    keep: Any,
) -> Call:
    """All that the generated function must know of an executable; it keeps `keep` alive."""
    place = slot_offset(layout.variable, layout.variable_slot)
    ins = (Slot * len(inputs))(*(_slot(s, WEAK[s.dtype] if s.weak else 0) for s in inputs))
    held = (Slot * len(states))(
        *(
            _slot(s, int(w), id(v) + place)
            for v, s, w in zip(states, state_specs, state_written, strict=True)
        )
    )
    outs = (Slot * len(outputs))(*(_slot(s) for s in outputs))
    table = (c_void_p * (len(inputs) + len(states) + len(outputs) + len(fixed)))()
    table[len(table) - len(fixed) :] = fixed
    call = Call(
        ctypes.pointer(_api(layout)),
        run_address,
        table,
        ins,
        held,
        outs,
        len(inputs),
        len(states),
        len(outputs),
        release_gil,
        tuple_result,
        0,
        0,
        id(fail),
    )
    dtypes = [s.dtype.numpy for s in (*inputs, *state_specs, *outputs)]
    call.keep = (keep, tuple(states), fail, dtypes)
    _calls.add(call)
    return call


_calls: weakref.WeakSet[Call] = weakref.WeakSet()


def _free_calls_of_other_threads() -> None:
    """In a forked child: the threads that were inside these calls do not exist here."""
    me = threading.get_ident()
    for call in _calls:
        if call.owner != me:
            call.owner = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_calls_of_other_threads)


def builtin(call: Call) -> Callable[..., Any]:
    """The builtin function that runs `call`; it keeps the record alive."""
    new = ctypes.PYFUNCTYPE(py_object, POINTER(_MethodDef), py_object, c_void_p)(
        ("PyCFunction_NewEx", ctypes.pythonapi)
    )
    return new(_method(), call, None)


class Turn:
    """A lock against other threads that run the same entry, natively or not.

    The thread that has the turn may enter again: a callback of an executable may call it.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._depth = 0  # only the thread that has the turn touches it
        self._acquire = jit.function(_library()["acquire"], c_int64, POINTER(Call), c_int64)

    def __enter__(self) -> None:
        me = threading.get_ident()
        while owner := self._acquire(self._call, me):
            if owner == me:
                self._depth += 1
                return
            time.sleep(20e-6)  # native code has no way to wake us

    def __exit__(self, *_: object) -> None:
        if self._depth:
            self._depth -= 1
        else:
            self._call.owner = 0
