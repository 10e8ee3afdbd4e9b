"""A pool of worker threads in generated code: no C extension, no interpreter on its path.

Generated code calls `void dm_pool_run(ptr fn, ptr ctx, i64 chunks, i64 work)`, which calls
`void fn(ptr ctx, i64 chunk)` for every chunk and returns when all are done; `work` estimates what
all of them take, in additions of one number (`dualmode_compiler.cost`). One 64-bit ticket holds
the job's generation and how many chunks are claimed; workers and the caller claim chunks by
compare-and-swap, so a claim can only succeed for the job it was read from. In jobs of many
chunks the caller begins with the first one, workers with the last: so job after job finds its part
of the data in the caches of the core that had it before. The caller waits for chunks, not for
workers: one that sleeps or was preempted before its claim delays nobody. A second caller, or a call
from inside a chunk, runs its chunks by itself.

Idle workers spin for some tens of microseconds, then sleep on a futex. To wake one takes the caller
longer than a short job gains by it: so a short job that finds all asleep, and does not follow upon
another, is run by the caller alone. Threads start at the first job that wants them, and again after
a fork. Where there is no futex, jobs run serially.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from functools import cache

from . import jit, workspace
from .cores import cores
from .pool_text import LONG_JOB, MOST_THREADS, text

__all__ = ["LONG_JOB", "cores", "num_threads", "set_threads", "shutdown", "symbols"]


@cache
def begin() -> jit.Making:
    """Begin to make the pool's machine code, or find it in the cache."""
    return jit.begin(text() + workspace.TEXT)


class _Pool:
    """The process's pool: its machine code, built at first use, and its size."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal's handler may run compiled code
        self.library: jit.Library | None = None
        self.threads: int | None = None

    def build(self) -> jit.Library:
        with self.lock:
            if self.library is None:
                library = self._made()
                if self.library is None:  # a signal's handler was quicker
                    self.library = library
                    self._resize(library)
                    atexit.register(shutdown)
            return self.library

    def _made(self) -> jit.Library:
        names = ["dm_pool_run", "dm_pool_resize", "dm_pool_reset"]
        names += [workspace.SYMBOL, workspace.START]
        library = jit.load(begin().result(), names)
        begin().keep()
        if jit.function(library[workspace.START], ctypes.c_int32)():
            raise RuntimeError("the system has no pthread key left for dualmode's threads")
        return library

    def _resize(self, library: jit.Library) -> None:
        # CFUNCTYPE lets go of the GIL: a chunk that a worker still runs may call Python.
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_int64)
        prototype(library["dm_pool_resize"])(num_threads() - 1)

    def resize(self) -> None:
        with self.lock:
            if self.library is not None:
                self._resize(self.library)

    def after_fork(self) -> None:
        self.lock = threading.RLock()
        if self.library is not None:
            jit.function(self.library["dm_pool_reset"], None)()


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.after_fork)


def symbols() -> dict[str, int]:
    """Addresses for generated code to import: `dm_pool_run`, and what `workspace` gives."""
    library = _pool.build()
    return {name: library[name] for name in ("dm_pool_run", workspace.SYMBOL)}


def num_threads() -> int:
    """Threads that a job may use, the caller among them.

    Set by `set_threads`, else by the environment's DUALMODE_NUM_THREADS, else the number of cores.
    """
    if _pool.threads is None:
        _pool.threads = _default()
    return _pool.threads


def set_threads(n: int) -> None:
    """Use `n` threads (the caller and n - 1 workers) from the next job on.

    Waits for a job that runs now. Results do not depend on `n`.

    Raises:
        ValueError: `n` is less than 1.
    """
    if n < 1:
        raise ValueError(f"set_threads: the number of threads must be at least 1, got {n}")
    _pool.threads = min(int(n), MOST_THREADS)
    _pool.resize()


def shutdown() -> None:
    """Stop and join the workers. A later job starts them again."""
    _pool.resize()


def _default() -> int:
    text = os.environ.get("DUALMODE_NUM_THREADS")
    if text is None:
        return min(cores(), MOST_THREADS)
    try:
        n = int(text)
    except ValueError:
        n = 0
    if n < 1:
        raise ValueError(f"DUALMODE_NUM_THREADS must be a whole number of at least 1, got {text!r}")
    return min(n, MOST_THREADS)
