"""Arrays whose memory begins at a cache line: a memory handler of NumPy's (NEP 49).

NumPy's own arrays begin 16 bytes into a line, so that every wide load and store of a row touches
two lines. The handler is set only while a copy of ours is made; all others of the process are as
before. An array keeps the handler that made its memory and gives it back through that.

There is a second handler, for what `new_result` makes: results of eager ops, and of compiled
functions. It is never set: the arrays are made around memory of ours, and then own it. Larger
blocks of theirs go round (`reused.py`).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ctypes import PYFUNCTYPE, Structure, c_char, c_char_p, c_int64, c_uint8, c_void_p, py_object
from functools import cache
from typing import Any

import numpy as np

from . import jit, reused
from .entry_records import get, put
from .forks import making
from .layout import ALIGNED, CONTIGUOUS, OWNS_DATA, WRITEABLE, Array, Descr, standard
from .trim import trim_heap

LEAST = 512  # elements; a smaller array is not worth the time to set the handler
# Bytes of a huge page. Arrays that have such pages begin at one: what is 4096 bytes apart then lies
# in different sets of the second-level cache, by whatever pages the system has left.
_HUGE = 1 << 21
# Places in NumPy's table of C functions.
_NEW_FROM_DESCR, _NEW_COPY, _SET_HANDLER = 94, 85, 304
_MAKERS = ("new_result", "copy_array")
_ALL = CONTIGUOUS | ALIGNED | WRITEABLE
_DOMAIN = 389047  # by which tracemalloc knows NumPy's memory


_TEXT = f"""
{reused.TEXT}
declare ptr @aligned_alloc(i64, i64)
declare ptr @realloc(ptr, i64)
declare void @free(ptr)
declare i32 @madvise(ptr, i64, i32)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare ptr @numpy_new_array(ptr, ptr, i32, ptr, ptr, ptr, i32, ptr)
declare ptr @numpy_copy_array(ptr, i32)
declare ptr @numpy_set_handler(ptr)
declare void @dm_handler()
@dm_reusing = external global i8
@dm_blocks = external global i8
declare void @Py_IncRef(ptr)
declare void @Py_DecRef(ptr)
declare i32 @PyTraceMalloc_Track(i32, ptr, i64)
declare i32 @PyTraceMalloc_Untrack(i32, ptr)

; whole lines; at least one
define internal i64 @whole(i64 %size) {{
  %more = add i64 %size, 63
  %lines = and i64 %more, -64
  %none = icmp eq i64 %lines, 0
  %bytes = select i1 %none, i64 64, i64 %lines
  ret i64 %bytes
}}

; whether blocks of this size go round
define internal i1 @goes_round(ptr %blocks, i64 %bytes) {{
  %some = icmp ne ptr %blocks, null
  %above = sub i64 %bytes, {reused.LEAST}
  %within = icmp ule i64 %above, {reused.MOST - reused.LEAST}
  %both = and i1 %some, %within
  ret i1 %both
}}

define ptr @allocate(ptr %blocks, i64 %size) {{
  %bytes = call i64 @whole(i64 %size)
  %round = call i1 @goes_round(ptr %blocks, i64 %bytes)
  br i1 %round, label %seek, label %new
seek:
  %kept = call ptr @take(ptr %blocks, i64 %bytes)
  %missing = icmp eq ptr %kept, null
  br i1 %missing, label %new, label %again
again:
  ret ptr %kept
new:
  %pages = and i64 %bytes, {-_HUGE}
  %small = icmp eq i64 %pages, 0
  %alignment = select i1 %small, i64 64, i64 {_HUGE}
  %memory = call ptr @aligned_alloc(i64 %alignment, i64 %bytes)
  %failed = icmp eq ptr %memory, null
  %plain = or i1 %failed, %small
  br i1 %plain, label %end, label %large
large:
  %advised = call i32 @madvise(ptr %memory, i64 %pages, i32 14)  ; MADV_HUGEPAGE
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
  %bytes = call i64 @whole(i64 %size)  ; as many as `release` takes it for
  %new = call ptr @realloc(ptr %memory, i64 %bytes)
  ret ptr %new
}}

define void @release(ptr %blocks, ptr %memory, i64 %size) {{
  %bytes = call i64 @whole(i64 %size)
  %round = call i1 @goes_round(ptr %blocks, i64 %bytes)
  br i1 %round, label %keep, label %drop
keep:
  call void @give(ptr %blocks, ptr %memory, i64 %bytes)
  ret void
drop:
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

; PyArray_NewFromDescr. To set the handler for it would take longer than all else, so what it does
; for its own memory is done here: the array owns it, and gives it back through the handler.
define ptr @new_result(ptr %type, ptr %descr, i32 %ndim, ptr %dims, ptr %strides, ptr %data,
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
  br i1 %wanted, label %take, label %plain
plain:
  %as.it.is = call ptr @numpy_new_array(ptr %type, ptr %descr, i32 %ndim, ptr %dims, ptr %strides,
                                        ptr %data, i32 %flags, ptr %object)
  ret ptr %as.it.is
take:
  {get("%item", Descr, "%descr", "itemsize")}
  %bytes = mul i64 %count, %item
  %memory = call ptr @allocate(ptr @dm_blocks, i64 %bytes)
  %none = icmp eq ptr %memory, null
  br i1 %none, label %plain, label %make
make:
  %noted = call i32 @PyTraceMalloc_Track(i32 {_DOMAIN}, ptr %memory, i64 %bytes)
  %array = call ptr @numpy_new_array(ptr %type, ptr %descr, i32 %ndim, ptr %dims, ptr %strides,
                                     ptr %memory, i32 {_ALL}, ptr %object)
  %failed = icmp eq ptr %array, null
  br i1 %failed, label %lost, label %made
lost:
  %forgotten = call i32 @PyTraceMalloc_Untrack(i32 {_DOMAIN}, ptr %memory)
  call void @release(ptr @dm_blocks, ptr %memory, i64 %bytes)
  ret ptr null
made:
  {get("%now", Array, "%array", "flags")}
  %owned = or i32 %now, {OWNS_DATA}
  {put(Array, "%array", "flags", "%owned")}
  {put(Array, "%array", "handler", "@dm_reusing")}
  call void @Py_IncRef(ptr @dm_reusing)
  ret ptr %array
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


@cache
def begin() -> jit.Making:
    """Begin to make this module's machine code, or find it in the cache."""
    return jit.begin(_TEXT)


class _Code:
    """The generated code. It is never freed: arrays may outlive everything but the process.

    Attributes:
        capsule, reusing: NumPy's names of the handlers; the second one's blocks go round.
    """

    def __init__(self, functions: Mapping[str, int]) -> None:
        self.blocks = reused.Blocks()
        self.records = [_Handler(b"dualmode_aligned", 1), _Handler(b"dualmode_reused", 1)]
        self.records[1].context = ctypes.addressof(self.blocks)
        new = PYFUNCTYPE(py_object, c_void_p, c_char_p, c_void_p)(
            ("PyCapsule_New", ctypes.pythonapi)
        )
        self.name = ctypes.create_string_buffer(b"mem_handler")
        capsules = [new(ctypes.addressof(record), self.name, None) for record in self.records]
        self.capsule, self.reusing = capsules
        imports = {
            **functions,
            "dm_handler": id(self.capsule),
            "dm_reusing": id(self.reusing),
            "dm_blocks": ctypes.addressof(self.blocks),
        }
        exports = ["allocate", "allocate_zeros", "reallocate", "release", "shrink", *_MAKERS]
        self.library = jit.load(begin().result(), exports, imports)
        begin().keep()
        for record in self.records:
            record.malloc = self.library["allocate"]
            record.calloc = self.library["allocate_zeros"]
            record.realloc = self.library["reallocate"]
            record.free = self.library["release"]
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
    with making:
        code = _Code(
            {
                "numpy_new_array": table[_NEW_FROM_DESCR],
                "numpy_copy_array": table[_NEW_COPY],
                "numpy_set_handler": table[_SET_HANDLER],
            }
        )
    with _handler(code.capsule):
        made = np.empty(1)
    return code if Array.from_address(id(made)).handler == id(code.capsule) else None


def functions() -> dict[str, int]:
    """Addresses of what stands for PyArray_NewFromDescr and PyArray_NewCopy, by name: `_MAKERS`."""
    code = _code()
    if code is not None:
        return {name: code.library[name] for name in _MAKERS}
    new, copy = numpy_api()[_NEW_FROM_DESCR], numpy_api()[_NEW_COPY]
    return {"new_result": new, "copy_array": copy}


def goes_round() -> bool:
    """Whether the memory of large results does (`reused.py`)."""
    return _code() is not None


def give_back() -> None:
    """Free the blocks that are kept for new arrays, and give their pages back to the system: the
    heap cannot use a free block for another one that has to begin at a huge page as well."""
    code = _code() if _code.cache_info().currsize else None
    if code is not None:
        shrink = PYFUNCTYPE(None, c_void_p, c_int64)(code.library["shrink"])
        shrink(ctypes.addressof(code.blocks), 0)
        trim_heap()


@cache
def _set_handler() -> Any:
    return PYFUNCTYPE(py_object, py_object)(numpy_api()[_SET_HANDLER])


@contextmanager
def _handler(capsule: Any) -> Iterator[None]:
    """Let NumPy make arrays by this handler."""
    old = _set_handler()(capsule)
    try:
        yield
    finally:
        _set_handler()(old)


def copied(x: np.ndarray[Any, Any] | np.generic, dtype: Any) -> np.ndarray[Any, Any]:
    """A copy of `x` in C order, as `np.array(x, dtype, order="C")` gives it."""
    code = _code() if x.size >= LEAST else None
    if code is None:
        return np.array(x, dtype, order="C")
    with _handler(code.capsule):
        return np.array(x, dtype, order="C")
