"""Small tensors, variables and compiled functions for the tests of the entry."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

from dualmode_compiler.runtime import jit
from dualmode_compiler.runtime.entry import Entry, Layout, State, Target
from dualmode_compiler.spec import Spec, float32


class Tensor:
    __slots__ = ("_value",)
    _value: Any

    def __init__(self, value: Any) -> None:
        self._value = np.asarray(value)


class Variable:
    __slots__ = ("__weakref__", "_tensor", "name")

    def __init__(self, value: Any) -> None:
        self._tensor = Tensor(np.array(value))
        self.name = "v"


LAYOUT = Layout(Tensor, "_value", Variable, "_tensor")
F3 = Spec((3,), float32)

# Each function reads its pointers from the table and works on 3 floats, or as its name says.
TEXT = """
define internal void @add3(ptr %a, ptr %b, ptr %to) {
  %x = load <3 x float>, ptr %a, align 4
  %y = load <3 x float>, ptr %b, align 4
  %z = fadd <3 x float> %x, %y
  store <3 x float> %z, ptr %to, align 4
  ret void
}
define i32 @add(ptr %t) { ; out = a + b
  %a = load ptr, ptr %t
  %b.at = getelementptr ptr, ptr %t, i64 1
  %b = load ptr, ptr %b.at
  %c.at = getelementptr ptr, ptr %t, i64 2
  %c = load ptr, ptr %c.at
  call void @add3(ptr %a, ptr %b, ptr %c)
  ret i32 0
}
define i32 @update(ptr %t) { ; (a), (state) -> (old); state += a
  %a = load ptr, ptr %t
  %s.at = getelementptr ptr, ptr %t, i64 1
  %s = load ptr, ptr %s.at
  %o.at = getelementptr ptr, ptr %t, i64 2
  %o = load ptr, ptr %o.at
  %old = load <3 x float>, ptr %s, align 4
  store <3 x float> %old, ptr %o, align 4
  call void @add3(ptr %a, ptr %s, ptr %s)
  ret i32 0
}
define i32 @copy8(ptr %t) { ; the first 8 bytes of the input, and the input's address
  %a = load ptr, ptr %t
  %o.at = getelementptr ptr, ptr %t, i64 1
  %o = load ptr, ptr %o.at
  %p.at = getelementptr ptr, ptr %t, i64 2
  %p = load ptr, ptr %p.at
  %x = load i64, ptr %a, align 1
  store i64 %x, ptr %o
  store ptr %a, ptr %p
  ret i32 0
}
define i32 @nothing(ptr %t) {
  ret i32 0
}
define i32 @fail(ptr %t) {
  ret i32 -7
}
define i32 @tail(ptr %t) { ; () -> (arena mod 64, second fixed pointer)
  %a.at = getelementptr ptr, ptr %t, i64 2
  %a = load i64, ptr %a.at
  %p = inttoptr i64 %a to ptr
  store i64 1, ptr %p
  %f.at = getelementptr ptr, ptr %t, i64 4
  %f = load i64, ptr %f.at
  %low = and i64 %a, 63
  %x = load ptr, ptr %t
  %y.at = getelementptr ptr, ptr %t, i64 1
  %y = load ptr, ptr %y.at
  store i64 %low, ptr %x
  store i64 %f, ptr %y
  ret i32 0
}
define i32 @late(ptr %t) { ; (state) -> (its value after calling the first fixed pointer)
  %s = load ptr, ptr %t
  %o.at = getelementptr ptr, ptr %t, i64 1
  %o = load ptr, ptr %o.at
  %f.at = getelementptr ptr, ptr %t, i64 3
  %f = load ptr, ptr %f.at
  %code = call i32 %f()
  %x = load <3 x float>, ptr %s, align 4
  store <3 x float> %x, ptr %o, align 4
  ret i32 %code
}
"""
EXPORTS = ["add", "update", "copy8", "nothing", "fail", "tail", "late"]


@cache
def code() -> jit.Library:
    return jit.load(jit.compile_text(TEXT), EXPORTS)


def entry(
    name: str,
    inputs: list[Spec],
    outputs: list[Spec],
    on_error: Any = None,
    native: bool = True,
    single: bool = True,
    **options: Any,
) -> Entry:
    """The entry of the function `name` of `TEXT`."""
    options.setdefault("keep", code())
    target = Target(code()[name], tuple(inputs), tuple(outputs), single, **options)
    return Entry(target, LAYOUT, on_error, native)


def updater(make: Any, variable: Variable, **options: Any) -> Entry:
    return make("update", [F3], [F3], states=(State(variable, F3, True),), **options)


def array(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


def same(tensor: Any, *values: Any) -> None:
    assert type(tensor) is Tensor
    np.testing.assert_array_equal(tensor._value, values)


class Subclass(np.ndarray[Any, Any]):
    pass


def callback(code: Any) -> int:
    """The address of a C function that calls `code`, which is kept for ever."""
    function = ctypes.CFUNCTYPE(ctypes.c_int32)(lambda: code() or 0)
    CALLBACKS.append(function)
    return ctypes.cast(function, ctypes.c_void_p).value or 0


CALLBACKS: list[Any] = []


def reader(make: Any, variable: Variable, code: Any, written: bool, **options: Any) -> Entry:
    return make(
        "late",
        [],
        [F3],
        states=(State(variable, F3, written),),
        fixed=(callback(code),),
        calls_back=True,
        **options,
    )
