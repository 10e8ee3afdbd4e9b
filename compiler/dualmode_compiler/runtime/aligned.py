"""Arrays whose memory begins at a cache line: a memory handler of NumPy's (NEP 49).

NumPy's own arrays begin 16 bytes into a line, so that every wide load and store of a row touches
two lines. The handler is set only while one of our arrays is made; all others of the process are
as before. An array keeps the handler that made its memory and gives it back through that.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from ctypes import PYFUNCTYPE, Structure, c_char, c_char_p, c_uint8, c_void_p, py_object
from functools import cache
from typing import Any

import numpy as np

from . import jit
from .layout import standard

LEAST = 512  # elements; a smaller array is not worth the time to set the handler
_HUGE = 1 << 22  # bytes from which NumPy asks for huge pages, and so does the handler
# Places in NumPy's table of C functions.
_NEW_FROM_DESCR, _NEW_COPY, _SET_HANDLER = 94, 85, 304

_TEXT = f"""
declare ptr @aligned_alloc(i64, i64)
declare ptr @realloc(ptr, i64)
declare void @free(ptr)
declare i32 @madvise(ptr, i64, i32)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare ptr @numpy_new_array(ptr, ptr, i32, ptr, ptr, ptr, i32, ptr)
declare ptr @numpy_copy_array(ptr, i32)
declare ptr @numpy_set_handler(ptr)
declare void @dm_handler()
declare void @Py_DecRef(ptr)

define ptr @allocate(ptr %context, i64 %size) {{
  %more = add i64 %size, 63
  %lines = and i64 %more, -64
  %none = icmp eq i64 %lines, 0
  %bytes = select i1 %none, i64 64, i64 %lines
  %memory = call ptr @aligned_alloc(i64 64, i64 %bytes)
  %failed = icmp eq ptr %memory, null
  %small = icmp ult i64 %bytes, {_HUGE}
  %plain = or i1 %failed, %small
  br i1 %plain, label %end, label %large
large:
  %address = ptrtoint ptr %memory to i64
  %ahead = sub i64 0, %address
  %skip = and i64 %ahead, 4095
  %page = getelementptr i8, ptr %memory, i64 %skip
  %rest = sub i64 %bytes, %skip
  %advised = call i32 @madvise(ptr %page, i64 %rest, i32 14)  ; MADV_HUGEPAGE
  br label %end
end:
  ret ptr %memory
}}

define ptr @allocate_zeros(ptr %context, i64 %count, i64 %size) {{
  %bytes = mul i64 %count, %size
  %memory = call ptr @allocate(ptr %context, i64 %bytes)
  %failed = icmp eq ptr %memory, null
  br i1 %failed, label %end, label %clear
clear:
  call void @llvm.memset.p0.i64(ptr %memory, i8 0, i64 %bytes, i1 false)
  br label %end
end:
  ret ptr %memory
}}

define ptr @reallocate(ptr %context, ptr %memory, i64 %size) {{
  %new = call ptr @realloc(ptr %memory, i64 %size)
  ret ptr %new
}}

define void @release(ptr %context, ptr %memory, i64 %size) {{
  call void @free(ptr %memory)
  ret void
}}

; takes the handler away again; the array, or null with an exception set
define internal ptr @finish(ptr %array, ptr %old) {{
  %ours = call ptr @numpy_set_handler(ptr %old)
  call void @Py_DecRef(ptr %old)
  %failed = icmp eq ptr %ours, null
  br i1 %failed, label %lost, label %end
lost:
  call void @Py_DecRef(ptr %array)  ; accepts null
  ret ptr null
end:
  call void @Py_DecRef(ptr %ours)
  ret ptr %array
}}

; PyArray_NewFromDescr
define ptr @new_array(ptr %type, ptr %descr, i32 %ndim, ptr %dims, ptr %strides, ptr %data,
                      i32 %flags, ptr %object) {{
  br label %head
head:
  %i = phi i32 [ 0, %0 ], [ %i.next, %body ]
  %count = phi i64 [ 1, %0 ], [ %product, %body ]
  %counted = icmp eq i32 %i, %ndim
  br i1 %counted, label %choose, label %body
body:
  %dim.at = getelementptr i64, ptr %dims, i32 %i
  %dim = load i64, ptr %dim.at
  %product = mul i64 %count, %dim
  %i.next = add i32 %i, 1
  br label %head
choose:
  %large = icmp uge i64 %count, {LEAST}
  %own = icmp eq ptr %data, null
  %wanted = and i1 %large, %own
  br i1 %wanted, label %set, label %plain
plain:
  %as.it.is = call ptr @numpy_new_array(ptr %type, ptr %descr, i32 %ndim, ptr %dims, ptr %strides,
                                        ptr %data, i32 %flags, ptr %object)
  ret ptr %as.it.is
set:
  %old = call ptr @numpy_set_handler(ptr @dm_handler)
  %failed = icmp eq ptr %old, null
  br i1 %failed, label %plain, label %make
make:
  %array = call ptr @numpy_new_array(ptr %type, ptr %descr, i32 %ndim, ptr %dims, ptr %strides,
                                     ptr %data, i32 %flags, ptr %object)
  %result = call ptr @finish(ptr %array, ptr %old)
  ret ptr %result
}}

; PyArray_NewCopy
define ptr @copy_array(ptr %source, i32 %order) {{
  %old = call ptr @numpy_set_handler(ptr @dm_handler)
  %failed = icmp eq ptr %old, null
  br i1 %failed, label %plain, label %make
plain:
  %as.it.is = call ptr @numpy_copy_array(ptr %source, i32 %order)
  ret ptr %as.it.is
make:
  %array = call ptr @numpy_copy_array(ptr %source, i32 %order)
  %result = call ptr @finish(ptr %array, ptr %old)
  ret ptr %result
}}
"""


class _Handler(Structure):
    """PyDataMem_Handler."""

    _fields_ = [
        ("name", c_char * 127),
        ("version", c_uint8),
        ("context", c_void_p),
        *((name, c_void_p) for name in ("malloc", "calloc", "realloc", "free")),
    ]


class _Code:
    """The generated code. It is never freed: arrays may outlive everything but the process."""

    def __init__(self, functions: Mapping[str, int]) -> None:
        self.record = _Handler(b"dualmode_aligned", 1)
        new = PYFUNCTYPE(py_object, c_void_p, c_char_p, c_void_p)(
            ("PyCapsule_New", ctypes.pythonapi)
        )
        self.name = ctypes.create_string_buffer(b"mem_handler")
        self.capsule = new(ctypes.addressof(self.record), self.name, None)
        imports = {**functions, "dm_handler": id(self.capsule)}
        exports = ["allocate", "allocate_zeros", "reallocate", "release", "new_array", "copy_array"]
        self.library = jit.load(jit.compile_text(_TEXT), exports, imports)
        self.record.malloc = self.library["allocate"]
        self.record.calloc = self.library["allocate_zeros"]
        self.record.realloc = self.library["reallocate"]
        self.record.free = self.library["release"]
        ctypes.pythonapi.Py_IncRef(py_object(self))


@cache
def numpy_api() -> Any:
    """NumPy's table of C functions, whose places are part of its ABI."""
    from numpy._core import multiarray  # pyright: ignore[reportAttributeAccessIssue]

    pointer = PYFUNCTYPE(c_void_p, py_object, c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
    return ctypes.cast(pointer(multiarray._ARRAY_API, None), ctypes.POINTER(c_void_p))


@cache
def _code() -> _Code | None:
    """None where there are only NumPy's own arrays."""
    if sys.platform != "linux" or not standard():
        return None
    table = numpy_api()
    return _Code(
        {
            "numpy_new_array": table[_NEW_FROM_DESCR],
            "numpy_copy_array": table[_NEW_COPY],
            "numpy_set_handler": table[_SET_HANDLER],
        }
    )


def functions() -> dict[str, int]:
    """Addresses of what stands for PyArray_NewFromDescr and PyArray_NewCopy, by name."""
    code = _code()
    if code is None:
        return {"new_array": numpy_api()[_NEW_FROM_DESCR], "copy_array": numpy_api()[_NEW_COPY]}
    return {name: code.library[name] for name in ("new_array", "copy_array")}


@cache
def _set_handler() -> Any:
    return PYFUNCTYPE(py_object, py_object)(numpy_api()[_SET_HANDLER])


def copied(x: np.ndarray[Any, Any] | np.generic, dtype: Any) -> np.ndarray[Any, Any]:
    """A copy of `x` in C order, as `np.array(x, dtype, order="C")` gives it."""
    code = _code() if x.size >= LEAST else None
    if code is None:
        return np.array(x, dtype, order="C")
    old = _set_handler()(code.capsule)
    try:
        return np.array(x, dtype, order="C")
    finally:
        _set_handler()(old)
