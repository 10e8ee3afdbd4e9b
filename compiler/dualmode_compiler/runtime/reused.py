"""Memory of arrays that died, kept for new ones of the same size.

The system takes the memory of a large array away when that dies, and clears each page of the next
one when it is first written: that takes longer than most ops. So blocks go round here. They come
back when the last reference to an array and its views has gone, so nobody sees what becomes of
them. One that is not wanted while `SLOTS` others come, or `MOST` bytes of them, is given back.

NumPy calls memory handlers with the GIL held, so there is no lock.
"""

from __future__ import annotations

from ctypes import Structure, c_int64, c_void_p
from typing import Any

LEAST = 1 << 11  # bytes; of smaller blocks the C library is as quick
MOST = 1 << 27  # bytes of all blocks
SLOTS = 256  # a power of two


class _Slot(Structure):
    _fields_ = [("address", c_void_p), ("size", c_int64)]


class Blocks(Structure):
    """A ring of blocks, from the oldest one.

    Attributes:
        head, tail: how many have come, and how many of these have gone in turn.
        held: bytes of all.
        slots: a size of 0 is a block that was taken out of turn.
    """

    head: int
    tail: int
    held: int
    slots: Any
    _fields_ = [
        ("head", c_int64),
        ("tail", c_int64),
        ("held", c_int64),
        ("slots", _Slot * SLOTS),
    ]


TEXT = f"""
%slot = type {{ ptr, i64 }}
%blocks = type {{ i64, i64, i64, [{SLOTS} x %slot] }}

define internal ptr @slot(ptr %blocks, i64 %count) {{
  %k = and i64 %count, {SLOTS - 1}
  %place = getelementptr %blocks, ptr %blocks, i32 0, i32 3, i64 %k
  ret ptr %place
}}

; the latest block of this size, or null
define internal ptr @take(ptr %blocks, i64 %bytes) {{
entry:
  %tail.at = getelementptr %blocks, ptr %blocks, i32 0, i32 1
  %head = load i64, ptr %blocks
  %tail = load i64, ptr %tail.at
  br label %more
more:
  %i = phi i64 [ %head, %entry ], [ %k, %look ]
  %none = icmp eq i64 %i, %tail
  br i1 %none, label %lost, label %look
look:
  %k = sub i64 %i, 1
  %place = call ptr @slot(ptr %blocks, i64 %k)
  %size.at = getelementptr %slot, ptr %place, i32 0, i32 1
  %size = load i64, ptr %size.at
  %fits = icmp eq i64 %size, %bytes
  br i1 %fits, label %found, label %more
found:
  store i64 0, ptr %size.at
  %held.at = getelementptr %blocks, ptr %blocks, i32 0, i32 2
  %held = load i64, ptr %held.at
  %left = sub i64 %held, %bytes
  store i64 %left, ptr %held.at
  %address = load ptr, ptr %place
  ret ptr %address
lost:
  ret ptr null
}}

; frees the oldest blocks while there are more than %most bytes, or no slot is free
define void @shrink(ptr %blocks, i64 %most) {{
  %tail.at = getelementptr %blocks, ptr %blocks, i32 0, i32 1
  %held.at = getelementptr %blocks, ptr %blocks, i32 0, i32 2
  br label %check
check:
  %head = load i64, ptr %blocks
  %tail = load i64, ptr %tail.at
  %held = load i64, ptr %held.at
  %count = sub i64 %head, %tail
  %full = icmp eq i64 %count, {SLOTS}
  %much = icmp ugt i64 %held, %most
  %go = or i1 %full, %much
  br i1 %go, label %drop, label %done
drop:
  %place = call ptr @slot(ptr %blocks, i64 %tail)
  %size.at = getelementptr %slot, ptr %place, i32 0, i32 1
  %size = load i64, ptr %size.at
  %left = sub i64 %held, %size
  store i64 %left, ptr %held.at
  %following = add i64 %tail, 1
  store i64 %following, ptr %tail.at
  %gone = icmp eq i64 %size, 0
  br i1 %gone, label %check, label %free
free:
  %address = load ptr, ptr %place
  call void @free(ptr %address)
  br label %check
done:
  ret void
}}

define internal void @give(ptr %blocks, ptr %memory, i64 %bytes) {{
  %most = sub i64 {MOST}, %bytes
  call void @shrink(ptr %blocks, i64 %most)
  %head = load i64, ptr %blocks
  %place = call ptr @slot(ptr %blocks, i64 %head)
  store ptr %memory, ptr %place
  %size.at = getelementptr %slot, ptr %place, i32 0, i32 1
  store i64 %bytes, ptr %size.at
  %held.at = getelementptr %blocks, ptr %blocks, i32 0, i32 2
  %held = load i64, ptr %held.at
  %more = add i64 %held, %bytes
  store i64 %more, ptr %held.at
  %following = add i64 %head, 1
  store i64 %following, ptr %blocks
  ret void
}}
"""
