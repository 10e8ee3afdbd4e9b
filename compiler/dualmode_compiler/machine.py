"""What this machine can do, measured: the figures from which `explain` predicts times.

Nothing that is compiled depends on them.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .cost import LARGE, Cost
from .records import dataclass
from .runtime import jit, pool

NEAR, FAR = 1 << 16, 1 << 25  # bytes of a copy inside of a cache, and of one outside of all
CHUNKS = 32
TURNS = 1 << 14
_SUMS = 8  # independent sums, to hide the latency of an addition

_TEXT = """
declare void @dm_pool_run(ptr, ptr, i64, i64)

define void @add(ptr %job, i64 %chunk) {attributes} {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{phis}
{adds}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, {turns}
  br i1 %more, label %loop, label %done
done:
{stores}
  ret void
}}

define void @copy(ptr %job, i64 %chunk) {attributes} {{
entry:
  %target.p = getelementptr ptr, ptr %job, i64 1
  %size.p = getelementptr ptr, ptr %job, i64 2
  %source = load ptr, ptr %job
  %target = load ptr, ptr %target.p
  %size = load i64, ptr %size.p
  %start = mul i64 %chunk, %size
  %stop = add i64 %start, %size
  br label %loop
loop:
  %i = phi i64 [ %start, %entry ], [ %next, %loop ]
  %from = getelementptr i8, ptr %source, i64 %i
  %to = getelementptr i8, ptr %target, i64 %i
  %v = load {vector}, ptr %from, align {width}
  store {vector} %v, ptr %to, align {width}{past}
  %next = add i64 %i, {width}
  %more = icmp ult i64 %next, %stop
  br i1 %more, label %loop, label %done
done:
  {fence}
  ret void
}}

define void @pooled(ptr %job, i64 %chunks) {{
  call void @dm_pool_run(ptr @copy, ptr %job, i64 %chunks, i64 {long_job})
  ret void
}}
"""
_STREAM = "\ndeclare void @llvm.x86.sse.sfence()\n!0 = !{i32 1}\n"


@dataclass(frozen=True, slots=True)
class Machine:
    """Rates of one thread; bytes are those read and those written.

    Attributes:
        threads: of the pool.
        additions: of float32, a second.
        cache: bytes a second within its own cache.
        memory: bytes a second in memory.
        memory_all: the same of all threads together.
    """

    threads: int
    additions: float
    cache: float
    memory: float
    memory_all: float

    def seconds(self, cost: Cost, chunks: int) -> tuple[float, str]:
        """How long a kernel of `chunks` chunks takes, and what it is bound by."""
        threads = min(self.threads, chunks)
        rate = self.cache * threads
        if cost.moved >= LARGE:
            rate = self.memory_all if threads > 1 else self.memory
        times = (cost.flops / (self.additions * threads), cost.moved / rate)
        return max(zip(times, ("arithmetic", "memory"), strict=True))


@cache
def measure(threads: int) -> Machine:
    """Measure this machine with `threads` threads, once: it takes a tenth of a second."""
    near, far = (
        jit.load(jit.compile_text(_text(past)), ["add", "copy", "pooled"], pool.symbols())
        for past in (False, True)
    )
    lanes = jit.host().vector_bytes // 4
    small, keep_small = _job(NEAR, 1)
    big, keep_big = _job(FAR // CHUNKS, CHUNKS)
    sums = np.zeros(_SUMS * lanes, np.float32)
    add, copy = _function(near["add"]), _function(near["copy"])
    one, every = _function(far["copy"]), _function(far["pooled"])
    found = Machine(
        threads,
        _SUMS * lanes * TURNS / _least(lambda: add(sums.ctypes.data, 0), 5),
        2 * NEAR / _least(lambda: copy(small.ctypes.data, 0), 50),
        2 * FAR / _least(lambda: [one(big.ctypes.data, k) for k in range(CHUNKS)], 5),
        2 * FAR / _least(lambda: every(big.ctypes.data, CHUNKS), 5),
    )
    del keep_small, keep_big
    return found


def _text(past: bool) -> str:
    """`past`: copy with stores past the caches, where there are such."""
    host = jit.host()
    past = past and host.triple.startswith("x86_64")
    vector = f"<{host.vector_bytes // 4} x float>"
    sums, one = range(_SUMS), f"splat (float {1.0:e})"
    place = "getelementptr {0}, ptr %job, i64 {1}"
    text = _TEXT.format(
        attributes=f'nounwind "min-legal-vector-width"="{8 * host.vector_bytes}"',
        phis="\n".join(f"  %a{k} = phi {vector} [ {one}, %entry ], [ %b{k}, %loop ]" for k in sums),
        adds="\n".join(f"  %b{k} = fadd {vector} %a{k}, {one}" for k in sums),
        stores="\n".join(
            f"  %p{k} = {place.format(vector, k)}\n  store {vector} %b{k}, ptr %p{k}, align 4"
            for k in sums
        ),
        turns=TURNS,
        vector=vector,
        width=host.vector_bytes,
        long_job=pool.LONG_JOB,
        past=", !nontemporal !0" if past else "",
        fence="call void @llvm.x86.sse.sfence()" if past else "",
    )
    return text + _STREAM if past else text


def _job(chunk: int, chunks: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """What `@copy` reads: where from, where to, bytes of a chunk; and the memory."""
    size = chunk * chunks
    memory = np.ones(2 * size + 64, np.uint8)
    start = -(-memory.ctypes.data // 64) * 64
    return np.array([start, start + size, chunk], np.int64), memory


def _function(address: int) -> Callable[[int, int], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(address)


def _least(run: Callable[[], object], times: int) -> float:
    """Seconds of the quickest of several runs."""
    best = math.inf
    for _ in range(times):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
