"""Work in another thread, while the program goes on; and what forks wait for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dualmode_compiler.runtime.forks import making as kernels

tracing = threading.RLock()  # held by one trace or compilation at a time, and by what follows it
# `kernels` is held while kernels of eager operations are made; it is taken last of all
PATIENCE = 10.0  # seconds for which a fork waits for another thread, which may be waiting for it


class Background:
    """`work()`, begun at once in a thread of its own. What it raises is dropped: whoever needs its
    result does the work again.

    The process ends after the thread, and forks when there is none: a child would wait for ever for
    what a thread of its parent holds.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._thread = threading.Thread(target=self._run, name="dualmode-background")
        _threads.add(self._thread)
        self._thread.start()

    def _run(self) -> None:
        try:
            with suppress(Exception):
                self._work()
        finally:
            _threads.discard(self._thread)

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join()


_threads: set[threading.Thread] = set()


def _wait_for_all() -> None:
    for thread in list(_threads):
        if thread is not threading.current_thread():
            thread.join()


_held: list[Any] = []


def _before_fork() -> None:
    """No thread is amidst a trace or compilation: a child could not go on with it, and would wait
    for ever for what that holds."""
    _wait_for_all()
    for lock in (tracing, kernels):
        if lock.acquire(timeout=PATIENCE):
            _held.append(lock)


def _after_fork() -> None:
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
