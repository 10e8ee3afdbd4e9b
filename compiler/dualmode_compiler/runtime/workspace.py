"""Scratch memory of chunks: a block of each thread's own, which it keeps until it ends.

`ptr dm_workspace(i64 bytes)` gives the calling thread's block, of at least so many bytes from a
cache line on; what was in it is lost where it has to grow. A chunk asks once, at its start, and no
chunk runs inside another that uses its block. The stack is no place for much: threads may have as
little as 32 KiB of it.
"""

from __future__ import annotations

DECLARATION = "declare ptr @dm_workspace(i64)"
SYMBOL, START = "dm_workspace", "dm_workspace_start"

_HEAD, _PAGE = 64, 4096  # bytes; a head precedes each block and holds its size
_LOST = "dualmode: no memory for the scratch space of a thread\\0A"

TEXT = f"""
@workspace = internal global i64 0
@lost = internal constant [{len(_LOST) - 2} x i8] c"{_LOST}"

declare i32 @pthread_key_create(ptr, ptr)
declare ptr @pthread_getspecific(i64)
declare i32 @pthread_setspecific(i64, ptr)
declare ptr @aligned_alloc(i64, i64)
declare i64 @write(i32, ptr, i64)
declare void @free(ptr)
declare void @abort()

; to be called before all others; not 0 if it fails
define i32 @dm_workspace_start() nounwind {{
  %failed = call i32 @pthread_key_create(ptr @workspace, ptr @free)
  ret i32 %failed
}}

define ptr @dm_workspace(i64 %bytes) nounwind {{
entry:
  %key = load i64, ptr @workspace
  %block = call ptr @pthread_getspecific(i64 %key)
  %none = icmp eq ptr %block, null
  br i1 %none, label %make, label %look
look:
  %size = load i64, ptr %block
  %enough = icmp uge i64 %size, %bytes
  br i1 %enough, label %found, label %make
found:
  %memory = getelementptr i8, ptr %block, i64 {_HEAD}
  ret ptr %memory
make:
  %made = call ptr @grown(i64 %key, ptr %block, i64 %bytes)
  ret ptr %made
}}

; a larger block in place of %old
define internal ptr @grown(i64 %key, ptr %old, i64 %bytes) nounwind noinline {{
entry:
  call void @free(ptr %old)
  %e0 = call i32 @pthread_setspecific(i64 %key, ptr null)
  %more = add i64 %bytes, {_HEAD + _PAGE - 1}
  %whole = and i64 %more, {-_PAGE}
  %new = call ptr @aligned_alloc(i64 {_HEAD}, i64 %whole)
  %missing = icmp eq ptr %new, null
  br i1 %missing, label %lost, label %keep
keep:
  %size = sub i64 %whole, {_HEAD}
  store i64 %size, ptr %new
  %e1 = call i32 @pthread_setspecific(i64 %key, ptr %new)
  %memory = getelementptr i8, ptr %new, i64 {_HEAD}
  ret ptr %memory
lost:  ; chunks cannot fail, and have nowhere to compute
  %w = call i64 @write(i32 2, ptr @lost, i64 {len(_LOST) - 2})
  call void @abort()
  unreachable
}}
"""
