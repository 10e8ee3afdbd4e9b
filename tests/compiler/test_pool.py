"""The thread pool: every chunk once, from anywhere, through forks and every way a process ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from dualmode_compiler.runtime import jit, pool

# @count adds 1 to its chunk's element; @nested runs a job of its own for a row of 8 elements.
# @jobs runs `n` jobs of `chunks` chunks, with so much work, in a row.
TEXT = """
declare void @dm_pool_run(ptr, ptr, i64, i64)

define void @count(ptr %x, i64 %chunk) {
  %p = getelementptr i64, ptr %x, i64 %chunk
  %old = load i64, ptr %p
  %new = add i64 %old, 1
  store i64 %new, ptr %p
  ret void
}

define void @nested(ptr %x, i64 %chunk) {
  %first = mul i64 %chunk, 8
  %p = getelementptr i64, ptr %x, i64 %first
  call void @dm_pool_run(ptr @count, ptr %p, i64 8, i64 8)
  ret void
}

define void @jobs(ptr %f, ptr %x, i64 %chunks, i64 %n, i64 %work) {
entry:
  br label %job
job:
  %i = phi i64 [ 0, %entry ], [ %j, %job ]
  call void @dm_pool_run(ptr %f, ptr %x, i64 %chunks, i64 %work)
  %j = add i64 %i, 1
  %more = icmp ult i64 %j, %n
  br i1 %more, label %job, label %done
done:
  ret void
}
"""


@cache
def _library() -> jit.Library:
    return jit.load(jit.compile_text(TEXT), ["jobs", "count", "nested"], pool.symbols())


def _jobs(
    chunk: int, x: np.ndarray[Any, Any], chunks: int, n: int = 1, work: int = pool.LONG_JOB
) -> None:
    """`n` jobs of `chunks` calls of the function at address `chunk`, without the GIL."""
    prototype = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64
    )
    prototype(_library()["jobs"])(chunk, x.ctypes.data, chunks, n, work)


@pytest.fixture(autouse=True, params=[1, 2, 5], ids=lambda n: f"{n} threads")
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = pool.num_threads()
    pool.set_threads(request.param)
    yield
    pool.set_threads(before)


@pytest.mark.parametrize("chunks", [0, 1, 2, 3, 64, 10_000])
def test_every_chunk_runs_once(chunks: int) -> None:
    x = np.zeros(10_000, np.int64)
    _jobs(_library()["count"], x, chunks)
    assert (x[:chunks] == 1).all()
    assert (x[chunks:] == 0).all()


def test_many_jobs_in_a_row() -> None:
    x = np.zeros(7, np.int64)
    _jobs(_library()["count"], x, 7, 20_000)
    assert (x == 20_000).all()


def test_nested_jobs() -> None:
    x = np.zeros(8 * 50, np.int64)
    _jobs(_library()["nested"], x, 50, 100)
    assert (x == 100).all()


def test_concurrent_callers() -> None:
    arrays = [np.zeros(20, np.int64) for _ in range(4)]
    callers = [
        threading.Thread(target=_jobs, args=(_library()["count"], x, 20, 2000)) for x in arrays
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all((x == 2000).all() for x in arrays)


def test_a_chunk_may_call_python() -> None:
    seen: list[int] = []
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
    callback = prototype(lambda _, chunk: seen.append(chunk))
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address
    _jobs(address, np.zeros(1), 30)
    assert sorted(seen) == list(range(30))


def _who_runs(chunks: int, work: int) -> set[int]:
    """The threads that run the chunks of one job."""
    seen: set[int] = set()

    def chunk(_: int, chunk: int) -> None:
        seen.add(threading.get_native_id())
        time.sleep(0.001)

    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(chunk)
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address
    _jobs(address, np.zeros(1), chunks, work=work)
    return seen


def test_a_short_job_that_comes_alone_wakes_nobody() -> None:
    _jobs(_library()["count"], np.zeros(64, np.int64), 64)
    time.sleep(0.1)
    assert _who_runs(40, pool.LONG_JOB - 1) == {threading.get_native_id()}


def test_a_long_job_wakes_the_workers() -> None:
    time.sleep(0.1)
    assert len(_who_runs(48, pool.LONG_JOB)) == pool.num_threads()


def test_the_caller_begins_at_the_start_and_workers_at_the_end() -> None:
    owners: dict[int, int] = {}

    def chunk(_: int, chunk: int) -> None:
        owners[chunk] = threading.get_native_id()
        time.sleep(0.001)

    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(chunk)
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address
    _jobs(address, np.zeros(1), 48)
    mine = {chunk for chunk, owner in owners.items() if owner == threading.get_native_id()}
    assert mine == set(range(len(mine)))
    assert (len(mine) < 48) == (pool.num_threads() > 1)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system pins no threads")
def test_woken_workers_may_still_run_everywhere() -> None:
    mine = os.sched_getaffinity(0)
    for _ in range(10):
        time.sleep(0.002)  # workers sleep, and move off the caller's core when they are woken
        _jobs(_library()["count"], np.zeros(64, np.int64), 64, 20)
    until = time.monotonic() + 10  # a worker may be on its way to another core
    while any(os.sched_getaffinity(int(t)) != mine for t in os.listdir("/proc/self/task")):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_resize_and_shutdown_between_jobs() -> None:
    x = np.zeros(9, np.int64)
    for n in (1, 3, 2, 1, 4):
        pool.set_threads(n)
        assert pool.num_threads() == n
        _jobs(_library()["count"], x, 9)
        pool.shutdown()
        _jobs(_library()["count"], x, 9)
    assert (x == 10).all()


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pool.set_threads(0)


# --- processes --------------------------------------------------------------------------------

SCRIPT = f"""
import ctypes, os, signal, sys, threading
import numpy as np
from dualmode_compiler.runtime import jit, pool

library = jit.load(jit.compile_text('''{TEXT}'''), ["jobs", "count"], pool.symbols())
run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(
    library["jobs"])

def jobs(n=200):
    x = np.zeros(16, np.int64)
    run(library["count"], x.ctypes.data, 16, n)
    assert (x == n).all()

jobs()
"""
FORK = """
child = os.fork()
jobs()
if child == 0:
    jobs()
    sys.exit(5)
status = os.waitpid(child, 0)[1]
jobs()
sys.exit(os.waitstatus_to_exitcode(status) + 2)
"""
FORK_IN_A_JOB = """
other = threading.Thread(target=jobs, args=(200_000,))
other.start()
child = os.fork()
jobs()
if child == 0:
    os._exit(0)
status = os.waitpid(child, 0)[1]
other.join()
sys.exit(os.waitstatus_to_exitcode(status))
"""
ENDS = {
    "normal": ("", 0),
    "exit code": ("sys.exit(3)", 3),
    "exception": ("raise ValueError('wrong')", 1),
    "signal": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "interrupt": ("signal.raise_signal(signal.SIGINT)", -signal.SIGINT),
    "immediate": ("os._exit(4)", 4),
    "daemon": ("threading.Thread(target=jobs, args=(10**9,), daemon=True).start(); os._exit(6)", 6),
    "fork": (FORK, 7),
    "fork in a job": (FORK_IN_A_JOB, 0),
}


@pytest.mark.parametrize("name", ENDS)
def test_process_ends(name: str) -> None:
    ending, code = ENDS[name]
    if "fork" in name and not hasattr(os, "fork"):
        pytest.skip("needs fork")
    env = {
        **os.environ,
        "DUALMODE_NUM_THREADS": str(pool.num_threads()),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT + ending],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr


def test_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool._pool, "threads", None)
    monkeypatch.setenv("DUALMODE_NUM_THREADS", "three")
    with pytest.raises(ValueError, match="'three'"):
        pool.num_threads()
    monkeypatch.setenv("DUALMODE_NUM_THREADS", "3")
    assert pool.num_threads() == 3
    monkeypatch.setattr(pool._pool, "threads", None)
    monkeypatch.delenv("DUALMODE_NUM_THREADS")
    assert 1 <= pool.num_threads() <= (os.cpu_count() or 1)
