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
from . import aligned, arena, jit, vectorcall
from .entry_records import WEAK, Api, Call, Home, Route, Slot
from .entry_target import Target
from .entry_text import TEXTS
from .layout import MISS, Layout, List, slot_offset, supported

_METH_FASTCALL = 0x80
POOLED = 1 << 28  # bytes of results that all entries together keep to use them again
LARGE = 1 << 21  # bytes from which a new result in memory that goes round is as quick
_lock = threading.RLock()  # a signal's handler may run compiled code
# What generated code and builtins point to. A handler makes its own of what is just being made.
_kept: list[Any] = []


class _MethodDef(Structure):
    """PyMethodDef."""

    _fields_ = [
        ("name", c_char_p),
        ("function", c_void_p),
        ("flags", c_int),
        ("doc", c_char_p),
    ]


@cache
def begin() -> list[jit.Making]:
    """Begin to make the machine code of the entry, or find it in the cache."""
    return [jit.begin(text) for text in TEXTS]


@cache
def _compiled() -> jit.Library:
    objects = [making.result() for making in begin()]
    for making in begin():
        making.keep()
    library = jit.load(objects, ["call", "acquire", "route"])
    _kept.append(library)
    return library


def _library() -> jit.Library:
    with _lock:
        return _compiled()


def prepare() -> None:
    """Load the machine code of the entry, if it is not there yet."""
    _library()


@cache
def _method() -> _MethodDef:
    return method("call", _library()["call"])


@cache
def api(layout: Layout) -> Api:
    objects = {
        "tensor": id(layout.tensor),
        "tensor_slot": slot_offset(layout.tensor, layout.tensor_slot),
        "variable": id(layout.variable),
        "variable_slot": slot_offset(layout.variable, layout.variable_slot),
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
        "vectorcall": "PyObject_Vectorcall",
        "new_method": "PyMethod_New",
    }
    addresses = {
        field: ctypes.cast(getattr(ctypes.pythonapi, name), c_void_p).value
        for field, name in functions.items()
    }
    return Api(**objects, **addresses, **aligned.functions())


def _slot(spec: Spec, mode: int = 0, place: int = 0) -> Slot:
    descr = spec.dtype.numpy
    dims = (c_int64 * spec.ndim)(*spec.shape)
    return Slot(id(descr), descr.num, spec.ndim, dims, mode, place)


def _pool(outputs: Sequence[Spec], slots: Any) -> tuple[list[Any], int]:
    """Room for the latest results, where the bytes that all entries keep stay below `POOLED`; but
    for large ones, if their memory goes round."""
    most = LARGE if aligned.goes_round() else POOLED
    rooms: list[Any] = [None] * (2 * len(outputs))
    start = List.from_address(id(rooms)).items
    left = POOLED - sum(c.pooled for c in _calls)
    used = 0
    for k, (spec, slot) in enumerate(zip(outputs, slots, strict=True)):
        if spec.nbytes < most and used + 2 * spec.nbytes <= left:
            used += 2 * spec.nbytes
            slot.pool = ctypes.addressof(start.contents) + 2 * k * ctypes.sizeof(c_void_p)
    return rooms, used


def record(target: Target, layout: Layout, fail: Callable[[int], Any]) -> Call:
    """All that the generated function must know of `target`, which it keeps alive.

    Args:
        fail: raises for a non-zero result.
    """
    inputs, states, outputs = target.inputs, target.states, target.outputs
    place = slot_offset(layout.variable, layout.variable_slot)
    outs = (Slot * len(outputs))(*(_slot(s) for s in outputs))
    rooms, pooled = _pool(outputs, outs)
    scratch = len(inputs) + len(states) + len(outputs)
    table = (c_void_p * (scratch + 1 + len(target.fixed)))()
    table[scratch + 1 :] = target.fixed
    call = Call(
        api=ctypes.pointer(api(layout)),
        run=target.address,
        table=table,
        inputs=(Slot * len(inputs))(*(_slot(s, WEAK[s.dtype] if s.weak else 0) for s in inputs)),
        states=(Slot * len(states))(
            *(_slot(s.spec, int(s.written), id(s.variable) + place) for s in states)
        ),
        outputs=outs,
        input_count=len(inputs),
        state_count=len(states),
        output_count=len(outputs),
        release_gil=target.release_gil,
        tuple=bool(outputs) and not target.single,
        fail=id(fail),
        hold=target.release_gil or target.calls_back,
    )
    memory = None
    if arena.shared.join(call, target.arena_bytes):
        call.arena = ctypes.pointer(arena.shared.record)
        call.scratch = ctypes.addressof(table) + scratch * ctypes.sizeof(c_void_p)
    else:
        memory, table[scratch] = arena.block(target.arena_bytes)
    dtypes = [s.dtype.numpy for s in (*inputs, *(s.spec for s in states), *outputs)]
    call.keep = (target, fail, dtypes, rooms, memory)
    call.pooled = pooled
    _calls.add(call)
    return call


_calls: weakref.WeakSet[Call] = weakref.WeakSet()


def _free_calls_of_other_threads() -> None:
    """In a forked child: the threads that were inside these calls do not exist here."""
    me = threading.get_ident()
    for call in _calls:
        if call.owner != me:
            call.owner = 0
    if arena.shared.record.owner != me:
        arena.shared.record.owner = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_calls_of_other_threads)


def builtin(call: Call) -> Callable[..., Any]:
    """The builtin function that runs `call`; it keeps the record alive."""
    return fastcall(_method(), call)


def method(name: str, address: int) -> _MethodDef:
    """What a builtin runs: `PyObject *function(PyObject *self, PyObject **args, ssize_t count)`."""
    made = _MethodDef(name.encode(), address, _METH_FASTCALL, None)
    _kept.append(made)
    return made


def fastcall(method: _MethodDef, record: Structure) -> Callable[..., Any]:
    """A builtin function whose `self` is `record`, which it keeps."""
    new = ctypes.PYFUNCTYPE(py_object, POINTER(_MethodDef), py_object, c_void_p)(
        ("PyCFunction_NewEx", ctypes.pythonapi)
    )
    return new(method, record, None)


class Router:
    """Sends calls of instances of a class to generated code.

    Args:
        owner: a subclass of `vectorcall.Routable` with a slot `_route`.
        layout: the engine's classes.
        detours: while this list has entries, all calls go to the class's `__call__`.
        skip: how many of the first arguments targets do not get.
    """

    def __init__(self, owner: Any, layout: Layout, detours: list[Any], skip: int) -> None:
        self._usable = supported(layout) and vectorcall.prepare(owner)
        if self._usable:
            slow = owner.__call__
            self._home = Home(ctypes.pointer(api(layout)), id(detours), id(slow), skip)
            self._keep = (detours, slow)

    def connect(self, instance: Any, target: Callable[..., Any]) -> None:
        """Let calls of `instance` with positional arguments go to `target`; those for which that
        gives `MISS`, and all others, go to `__call__`. The router has to stay alive."""
        if not self._usable:
            return
        entry = getattr(target, "__self__", None)
        record = ctypes.pointer(entry) if isinstance(entry, Call) else None
        route = Route(id(target), record)
        route.keep = target
        instance._route = route
        head = vectorcall.Instance.from_address(id(instance))
        head.home = ctypes.addressof(self._home)
        head.vectorcall = _library()["route"]


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
