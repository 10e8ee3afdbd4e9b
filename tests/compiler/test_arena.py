"""Scratch memory that executables share: as large as the largest needs, used by one at a time."""

from __future__ import annotations

import gc
import os
import threading
import warnings
from typing import Any

import pytest

from dualmode_compiler.runtime.arena import Shared, shared
from dualmode_compiler.runtime.entry import MISS
from dualmode_compiler.spec import Spec, int64
from entry_harness import Variable, array, entry, reader, same

LARGE = 1 << 20


class User:
    pass


def test_it_is_as_large_as_the_largest_living_user_needs() -> None:
    block, users = Shared(), [User() for _ in range(3)]
    assert not block.join(users[0], 100)  # it has its own
    sizes = []
    for user, size in zip(users, (LARGE, 3 * LARGE, 2 * LARGE), strict=True):
        assert block.join(user, size)
        sizes.append(block.size)
        assert block.record.base % 64 == 0
    del user
    while users:
        del users[len(users) // 2]
        gc.collect()
        sizes.append(block.size)
    assert [s // LARGE for s in sizes] == [1, 3, 3, 2, 1, 0]


def test_a_block_in_use_stays_where_it_is() -> None:
    block, small, large = Shared(), User(), User()
    assert block.join(small, LARGE)
    with block.borrow(LARGE) as address:
        assert address == block.record.base and block.record.owner == threading.get_ident()
        assert not block.join(large, 2 * LARGE)
        with block.borrow(LARGE) as other:
            assert abs(other - address) >= LARGE
        del small
        gc.collect()
        assert block.size == LARGE and block.record.base == address
    assert block.record.owner == 0 and block.join(large, 2 * LARGE)
    assert block.size == 2 * LARGE


def test_it_is_free_again_after_an_exception() -> None:
    block, user = Shared(), User()
    block.join(user, LARGE)
    with pytest.raises(KeyError), block.borrow(LARGE):
        raise KeyError
    assert block.record.owner == 0


def test_entries_share_memory_and_give_it_back() -> None:
    gc.collect()
    before = shared.size
    slots = [Spec((), int64)] * 2

    def tail(size: int) -> Any:
        return entry("tail", [], slots, fixed=(0, 5), arena_bytes=size, single=False)

    first, second = tail(before + LARGE), tail(before + 2 * LARGE)
    if not first.native:
        pytest.skip("entries go through ctypes here")
    for _ in range(3):
        for made in (first, second):
            assert [int(x._value) for x in made.call()] == [0, 5]
            assert [int(x) for x in made.run([])] == [0, 5]
    assert shared.size == before + 2 * LARGE and shared.record.owner == 0
    del second, made
    gc.collect()
    assert shared.size == before + LARGE
    del first
    gc.collect()
    assert shared.size == before


def test_a_failing_entry_gives_it_back() -> None:
    fail = entry("fail", [], [], arena_bytes=LARGE)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            fail.call()
        assert shared.record.owner == 0


@pytest.mark.parametrize("release_gil", [True, False])
def test_one_that_is_called_back_has_other_memory(release_gil: bool) -> None:
    inner = entry("tail", [], [Spec((), int64)] * 2, fixed=(0, 5), arena_bytes=LARGE, single=False)
    seen: list[Any] = []

    def again() -> None:
        seen.append((inner.call(), [int(x) for x in inner.run([])], shared.record.owner))

    made = reader(
        entry,
        Variable(array(1, 2, 3)),
        again,
        written=False,
        release_gil=release_gil,
        arena_bytes=LARGE,
    )
    if not made.native:
        pytest.skip("entries go through ctypes here")
    same(made.call(), 1, 2, 3)
    assert seen == [(MISS, [0, 5], threading.get_ident())]
    assert shared.record.owner == 0 and inner.call() is not MISS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_it_even_if_another_thread_was_using_it() -> None:
    inside, leave = threading.Event(), threading.Event()
    parent = os.getpid()

    def wait() -> None:
        if os.getpid() == parent:
            inside.set()
            assert leave.wait(30)

    made = reader(
        entry, Variable(array(1, 2, 3)), wait, written=False, release_gil=True, arena_bytes=LARGE
    )
    thread = threading.Thread(target=made.call)
    thread.start()
    assert inside.wait(30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork while there are threads
        child = os.fork()
    if child == 0:
        os._exit(0 if made.call() is not MISS and not shared.record.owner else 1)
    leave.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
