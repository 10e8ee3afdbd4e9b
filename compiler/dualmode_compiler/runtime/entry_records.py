"""The records that an entry and its generated code share, and how the code's text reads them."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_int32, c_int64, c_void_p
from typing import Any

from ..spec import float32, float64, int32, int64

WEAK = {float64: 1, float32: 2, int64: 3, int32: 4}
"""How a Python number is stored for an input of this type; 0 is an array."""


class Api(Structure):
    """Objects and functions of the interpreter, of NumPy and of the engine."""

    _fields_ = [
        (name, c_void_p)
        for name in (
            *("tensor", "tensor_slot", "ndarray", "float", "int", "none", "miss"),
            *("incref", "decref", "copy_array", "alloc", "thread"),
            *("release_gil", "take_gil", "new_tuple", "set_item", "from_long", "as_long", "call"),
            *("vectorcall", "new_method", "new_result", "variable", "variable_slot"),
        )
    ]


class Slot(Structure):
    """One input, state or output.

    Attributes:
        descr, type_num, ndim, dims: the array it must be, or is made as.
        mode: of an input, its entry in `WEAK`; of a state, whether it is written.
        place: of a weak input, its value; of a state, where the variable holds its tensor.
        held: the reference that the call owns: the array of a state, and of an input where the
            call holds these; or an output's tensor.
        pool: of an output, the two latest tensors, in a list that owns them; null where they are
            not kept. One that nobody else holds is used again.
        latest: which of the two is the later one.
    """

    _fields_ = [
        ("descr", c_void_p),
        ("type_num", c_int32),
        ("ndim", c_int32),
        ("dims", POINTER(c_int64)),
        ("mode", c_int64),
        ("place", c_void_p),
        ("held", c_void_p),
        ("pool", c_void_p),
        ("latest", c_int64),
    ]


class Arena(Structure):
    """Scratch memory that several entries use, one at a time.

    Attributes:
        base: its address.
        owner: the thread that is using it, or 0. It stays where it is until then.
    """

    base: int
    owner: int
    _fields_ = [("base", c_void_p), ("owner", c_int64)]


class Call(Structure):
    """What the generated function knows of one entry.

    Attributes:
        table: the pointers that `run` gets: inputs, states, outputs, then fixed ones.
        owner: the thread that is using `table`, or 0.
        overflow: where the interpreter reports that an int is too large.
        fail: Python callable that raises for a return code of `run`.
        hold: whether other code may run meanwhile, which may take the value of a tensor away.
        arena: the scratch memory to use, or null where the entry has its own.
        scratch: where in `table` its address goes.
        pooled: bytes of results that are kept to use their memory again.
    """

    keep: Any
    pooled: int
    owner: int
    __hash__ = object.__hash__
    _fields_ = [
        ("api", POINTER(Api)),
        ("run", c_void_p),
        ("table", POINTER(c_void_p)),
        ("inputs", POINTER(Slot)),
        ("states", POINTER(Slot)),
        ("outputs", POINTER(Slot)),
        ("input_count", c_int64),
        ("state_count", c_int64),
        ("output_count", c_int64),
        ("release_gil", c_int32),
        ("tuple", c_int32),
        ("owner", c_int64),
        ("overflow", c_int64),
        ("fail", c_void_p),
        ("hold", c_int64),
        ("arena", POINTER(Arena)),
        ("scratch", c_void_p),
    ]


class Home(Structure):
    """What generated code knows of a class of callables.

    Attributes:
        detours: a list; while it has entries, all calls go through Python.
        slow: the class's `__call__`.
        skip: how many of the first arguments are not for the target.
    """

    keep: Any
    _fields_ = [
        ("api", POINTER(Api)),
        ("detours", c_void_p),
        ("slow", c_void_p),
        ("skip", c_int64),
    ]


class Route(Structure):
    """Where calls of one instance go.

    Attributes:
        target: a Python callable that may give `MISS`.
        call: its record if it is an entry, else null.
    """

    keep: Any
    _fields_ = [("target", c_void_p), ("call", POINTER(Call))]


_LLVM = {c_int32: "i32", c_int64: "i64", ctypes.c_char: "i8"}


def field(structure: type[Structure], pointer: str, name: str) -> str:
    offset = getattr(structure, name).offset
    return f"getelementptr i8, ptr {pointer}, i64 {offset}"


def llvm_type(structure: type[Structure], name: str) -> str:
    for known in structure.__mro__:  # the fields that come first are those of a base
        for its, kind, *_ in vars(known).get("_fields_", ()):
            if its == name:
                return _LLVM.get(kind, "ptr")
    raise AttributeError(f"{structure.__name__} has no field {name}")


def get(result: str, structure: type[Structure], pointer: str, name: str) -> str:
    """`%result = pointer->name`"""
    return f"""{result}.at = {field(structure, pointer, name)}
  {result} = load {llvm_type(structure, name)}, ptr {result}.at"""


def put(structure: type[Structure], pointer: str, name: str, value: str) -> str:
    """`pointer->name = value`; once per structure, field and function."""
    at = f"%to.{structure.__name__}.{name}"
    return f"""{at} = {field(structure, pointer, name)}
  store {llvm_type(structure, name)} {value}, ptr {at}"""


def element(result: str, pointer: str, index: str) -> str:
    """`%result = &pointer[index]` for slots."""
    return f"{result} = getelementptr [{ctypes.sizeof(Slot)} x i8], ptr {pointer}, i64 {index}"
