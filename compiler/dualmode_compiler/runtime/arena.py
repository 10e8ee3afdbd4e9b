"""Scratch memory of executables: one block that they use in turns, as large as the largest needs.

Executables that are not at work need no memory of their own. One that finds the block in use, by
another thread or because it is called back from there, gets memory for that run.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import aligned
from .entry_records import Arena

_ALIGNMENT = 64
_OWN = 1 << 14  # bytes; where less is needed, executables have memory of their own


def block(size: int) -> tuple[np.ndarray[Any, Any] | None, int]:
    """New memory and its address, a multiple of 64; nothing and 0 when nothing is needed."""
    if size == 0:
        return None, 0
    memory = np.empty(size + _ALIGNMENT - 1, np.uint8)
    # `memory.ctypes` would import a module, which fails while the interpreter ends
    address = memory.__array_interface__["data"][0]
    return memory, -(-address // _ALIGNMENT) * _ALIGNMENT


class Shared:
    """The block. It grows with the needs of those that join, and shrinks when these die.

    Attributes:
        record: its address and the thread that is using it, for generated code.
    """

    def __init__(self) -> None:
        self.record = Arena()
        self.size = 0
        self._memory: Any = None
        self._spare: Any = None  # of the latest run that found the block in use
        self._needs: dict[weakref.ref[Any], int] = {}
        self._changing = threading.Lock()  # nobody waits for it: users may die at any moment

    def join(self, user: object, size: int) -> bool:
        """Whether `user` may count on the block having `size` bytes, for as long as it lives.

        False where that would not pay, or the block is in use and too small.
        """
        if size <= _OWN or not self._changing.acquire(blocking=False):
            return False
        try:
            if size > self.size and not self._fit(size):
                return False
            self._needs[weakref.ref(user, self._leave)] = size
            return True
        finally:
            self._changing.release()

    def _leave(self, user: weakref.ref[Any]) -> None:
        self._needs.pop(user, None)
        if not self._changing.acquire(blocking=False):
            return
        try:
            largest = max(self._needs.copy().values(), default=0)
            if largest < self.size:
                self._fit(largest)
        finally:
            self._changing.release()

    def _claim(self, size: int) -> bool:
        """Whether the block was free and has `size` bytes; it is in use by this thread then."""
        me = threading.get_ident()  # no call comes between the test and the claim
        if self.record.owner or size > self.size:
            return False
        self.record.owner = me
        return True

    def _fit(self, size: int) -> bool:
        """Whether the block now has `size` bytes: nobody is using it."""
        if not self._claim(0):
            return False
        try:
            if size > self.size:
                aligned.give_back()  # compiled code is about to have the memory
            memory, address = block(size)
            self._spare = None
            self._memory, self.record.base, self.size = memory, address, size
            return True
        finally:
            self.record.owner = 0

    @contextmanager
    def borrow(self, size: int) -> Iterator[int]:
        """The address of `size` bytes, in the block if that is free; null for none."""
        if size == 0:
            yield 0
            return
        if size > _OWN and self._claim(size):
            try:
                yield self.record.base
            finally:
                self.record.owner = 0
            return
        memory, self._spare = self._spare, None
        if memory is None or len(memory) < size + _ALIGNMENT:
            memory = np.empty(size + _ALIGNMENT, np.uint8)
        yield -(-memory.ctypes.data // _ALIGNMENT) * _ALIGNMENT
        if _OWN < size <= self.size:
            self._spare = memory


shared = Shared()
