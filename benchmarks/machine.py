"""What the machine can do, as contestants: multiply-adds in registers, and copies of memory.

They take their turns with the libraries, so that a fraction of the peak is a ratio of two
measurements that were made side by side. A call does a fixed amount of work, long enough to wake
another thread for; `Step.repeats` says how many times the work of the workload that is.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from dualmode_compiler.halves import multiplies_pairs
from dualmode_compiler.runtime import jit

from .workloads import Gemm, Step, Workload

_loaded: list[jit.Library] = []  # the code that functions point to
CHAINS = 12  # independent sums: latency x throughput of a multiply-add asks for 8 to 10
ROUNDS = 500_000  # of a call; 1 to 4 ms
COPIED = 1 << 27  # bytes: several times the caches of the machines at hand

_FMA = """
define void @fma(i64 %n, ptr %out) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{phis}
{steps}
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %done
done:
{stores}
  ret void
}}
declare {v} @llvm.fma({v}, {v}, {v})
"""

_COPY = """
define void @copy(ptr %to, ptr %from, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{body}
  %next = add i64 %i, {step}
  %more = icmp ult i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  fence seq_cst
  ret void
}}
!0 = !{{i32 1}}
"""


def build(workload: Workload, mode: str, threads: int) -> Step:
    match mode:
        case "fma":
            assert isinstance(workload, Gemm)
            return _peak(workload.dtype, workload.work, threads)
        case "copy":
            return _copy(workload.moved, threads)
    raise ValueError(mode)


def _peak(dtype: str, work: float, threads: int) -> Step:
    kernel, lanes = _fma(dtype)
    outs = [np.zeros(CHAINS * jit.host().vector_bytes, np.uint8) for _ in range(threads)]
    run = _together([lambda out=out: kernel(ROUNDS, out.ctypes.data) for out in outs])
    done = 2.0 * ROUNDS * CHAINS * lanes * threads
    return Step(run, repeats=done / work)


@cache
def _fma(dtype: str) -> tuple[Any, int]:
    """A function of (rounds, out) that does `CHAINS` multiply-adds of vectors in each round, and of
    how many elements. Those of bfloat16 are of pairs where the CPU has them, else of float32."""
    if dtype == "bfloat16":
        return _pairs() if multiplies_pairs(jit.host()) else _fma("float32")
    item, lanes = np.dtype(dtype).itemsize, jit.host().vector_bytes // np.dtype(dtype).itemsize
    v = f"<{lanes} x {'float' if item == 4 else 'double'}>"
    some = "splat (float 0x3FEFFFFFE0000000)" if item == 4 else "splat (double 0x3FEFFFFFE0000000)"
    step = f"@llvm.fma({v} {{x}}, {v} {some}, {v} {some})"
    return _chains(v, some, step, item), lanes


def _pairs() -> tuple[Any, int]:
    v, pair = "<16 x float>", "<32 x bfloat> splat (bfloat 0xR3F00)"
    step = f"@llvm.x86.avx512bf16.dpbf16ps.512({v} {{x}}, {pair}, {pair})"
    return _chains(v, "splat (float 0.5)", step, 4), 32


def _chains(v: str, some: str, step: str, item: int) -> Any:
    chains = range(CHAINS)
    text = _FMA.format(
        v=v,
        phis="\n".join(f"  %x{k} = phi {v} [ {some}, %entry ], [ %y{k}, %loop ]" for k in chains),
        steps="\n".join(f"  %y{k} = call {v} {step.format(x=f'%x{k}')}" for k in chains),
        stores="\n".join(
            f"  %p{k} = getelementptr {v}, ptr %out, i64 {k}\n"
            f"  store {v} %y{k}, ptr %p{k}, align {item}"
            for k in chains
        ),
    )
    return _load(text, "fma", ctypes.c_int64, ctypes.c_void_p)


def _copy(moved: float, threads: int) -> Step:
    """The quickest of three ways to copy: ordinary stores, those past the caches, and NumPy's."""
    source, target = (_aligned(COPIED) for _ in range(2))
    parts = [slice(k * COPIED // threads, (k + 1) * COPIED // threads) for k in range(threads)]
    kernels = [_copier(False), _copier(True)]
    ways = [
        _together(
            [
                lambda p=p, k=k: k(target[p].ctypes.data, source[p].ctypes.data, COPIED // threads)
                for p in parts
            ]
        )
        for k in kernels
    ]
    ways.append(_together([lambda p=p: np.copyto(target[p], source[p]) for p in parts]))
    quickest = min(ways, key=lambda way: min(_seconds(way) for _ in range(5)))
    return Step(quickest, repeats=2.0 * COPIED / moved)


@cache
def _copier(past_caches: bool) -> Any:
    """A function of (to, from, bytes); both pointers and the size are multiples of 512."""
    width = jit.host().vector_bytes
    v = f"<{width} x i8>"
    hint = ", !nontemporal !0" if past_caches else ""
    vectors = range(512 // width)
    loads = [
        f"  %o{k} = add i64 %i, {k * width}\n"
        f"  %f{k} = getelementptr i8, ptr %from, i64 %o{k}\n"
        f"  %x{k} = load {v}, ptr %f{k}, align {width}"
        for k in vectors
    ]
    stores = [
        f"  %t{k} = getelementptr i8, ptr %to, i64 %o{k}\n"
        f"  store {v} %x{k}, ptr %t{k}, align {width}{hint}"
        for k in vectors
    ]
    text = _COPY.format(body="\n".join(loads + stores), step=512)
    return _load(text, "copy", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


def _load(text: str, name: str, *argtypes: Any) -> Any:
    """A ctypes function that lets other threads run Python meanwhile."""
    library = jit.load(jit.compile_text(text), [name])
    function = ctypes.CFUNCTYPE(None, *argtypes)(library[name])
    _loaded.append(library)
    return function


def _aligned(size: int) -> Any:
    whole = np.ones(size + 4096, np.uint8)
    start = -whole.ctypes.data % 4096
    return whole[start : start + size]


def _together(jobs: list[Callable[[], Any]]) -> Callable[[], float]:
    """A function that runs all of the jobs at once, the last one in its own thread; returns 0."""
    *others, own = jobs
    pool = ThreadPoolExecutor(max(len(others), 1))

    def run() -> float:
        started = [pool.submit(job) for job in others]
        own()
        for future in started:
            future.result()
        return 0.0

    return run


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
