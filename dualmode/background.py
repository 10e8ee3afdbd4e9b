"""Work in another thread, while the program goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any


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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_all)
