"""Memory of large eager results goes round, and never while somebody can see it."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode_compiler.runtime import aligned, arena, entry_native, reused
from dualmode_compiler.runtime.layout import standard

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not standard(), reason="NumPy's own memory elsewhere"
)
SIZE = reused.LEAST // 4  # elements of float32
X = dm.asarray(np.arange(SIZE, dtype=np.float32))


@pytest.fixture(autouse=True)
def blocks() -> Iterator[reused.Blocks]:
    dm.add(X, 1.0)
    gc.collect()  # functions keep results
    aligned.give_back()
    code = aligned._code()
    assert code is not None
    assert code.blocks.held == 0
    yield code.blocks
    aligned.give_back()
    assert code.blocks.held == 0


def _address(x: dm.Tensor) -> int:
    return x.numpy().ctypes.data


def test_a_result_takes_the_place_of_one_of_its_size_that_died(blocks: reused.Blocks) -> None:
    first = dm.add(X, 1.0)
    there = _address(first)
    del first
    assert blocks.held == 4 * SIZE
    longer = dm.add(dm.zeros(2 * SIZE), 1.0)
    assert _address(longer) != there
    assert blocks.held == 4 * SIZE
    again = dm.multiply(X, 2.0)
    assert _address(again) == there
    assert blocks.held == 0
    np.testing.assert_array_equal(again, 2 * np.arange(SIZE, dtype=np.float32))


def test_small_results_do_not(blocks: reused.Blocks) -> None:
    dm.add(X[:-16], 1.0)
    assert blocks.held == 0


@pytest.mark.parametrize(
    "keep", [lambda y: y.numpy()[3:], np.from_dlpack, lambda y: y[1:2], memoryview]
)
def test_views_keep_the_memory(keep) -> None:
    y = dm.add(X, 1.0)
    there, view = _address(y), keep(y.numpy() if keep is memoryview else y)
    before = np.array(view)
    del y
    others = [dm.multiply(X, float(k)) for k in range(3)]
    assert there not in map(_address, others)
    np.testing.assert_array_equal(np.array(view), before)


def test_variables_and_results_of_functions_are_their_own(blocks: reused.Blocks) -> None:
    v = dm.Variable(dm.add(X, 1.0))
    held = dm.function(lambda x: x + 1.0)(v)
    v.assign(dm.multiply(X, 3.0))
    before, value = held.numpy().copy(), v.numpy().copy()
    for k in range(4):
        dm.add(X, float(k))
    np.testing.assert_array_equal(held, before)
    np.testing.assert_array_equal(v.numpy(), value)


def test_so_do_results_of_functions_that_keep_none(
    blocks: reused.Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry_native, "POOLED", 0)
    plus = dm.function(lambda x: x + 1.0)
    there = _address(plus(X))
    assert blocks.held == 4 * SIZE
    result = plus(X)
    assert _address(result) == there
    assert _address(plus(X)) != there
    np.testing.assert_array_equal(result, 1 + np.arange(SIZE, dtype=np.float32))


def test_there_are_bounds(blocks: reused.Blocks) -> None:
    large = dm.zeros(reused.MOST // 16)  # bytes: a quarter of what may be kept
    kept = [dm.add(large, float(k)) for k in range(6)]
    kept.clear()
    assert blocks.held == reused.MOST
    more = [dm.add(X, float(k)) for k in range(reused.SLOTS + 10)]
    more.clear()
    assert blocks.head - blocks.tail <= reused.SLOTS
    assert blocks.held == reused.SLOTS * 4 * SIZE
    dm.add(dm.zeros(reused.MOST // 4 + 16), 1.0)  # larger than all that may be kept
    assert blocks.held == reused.SLOTS * 4 * SIZE


def test_tracemalloc_sees_results(blocks: reused.Blocks) -> None:
    size = 1 << 20  # bytes
    large = dm.zeros(size // 4)
    tracemalloc.start()
    try:
        for _ in range(2):  # the second one in the memory of the first
            before, _ = tracemalloc.get_traced_memory()
            y = dm.add(large, 1.0)
            with_it, _ = tracemalloc.get_traced_memory()
            assert size <= with_it - before < size + 10_000
            del y
            after, _ = tracemalloc.get_traced_memory()
            assert after - before < 10_000
    finally:
        tracemalloc.stop()
    assert blocks.held == size


def test_scratch_memory_of_functions_takes_it_over(blocks: reused.Blocks) -> None:
    dm.add(X, 1.0)
    assert blocks.held
    shared = arena.Shared()
    user = threading.Event()
    assert shared.join(user, 1 << 20)
    assert blocks.held == 0


def test_arrays_that_grow_and_die_in_other_threads(blocks: reused.Blocks) -> None:
    y = dm.add(X, 1.0)._value
    y.resize(3 * SIZE, refcheck=False)
    held = [y, *[dm.add(X, float(k))._value for k in range(8)]]
    del y
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert blocks.held == (3 + 8) * 4 * SIZE
    z = [dm.add(X, float(k)) for k in range(8)]
    for k, x in enumerate(z):
        np.testing.assert_array_equal(x, np.arange(SIZE, dtype=np.float32) + k)
    assert len({_address(x) for x in z}) == 8


@pytest.mark.parametrize("more", [1, 2, 7, 15])
def test_arrays_that_were_resized_give_back_all_that_is_taken(more: int) -> None:
    """An array of the next few sizes gets the same block, and may fill it."""
    y = dm.add(X, 1.0)._value
    y.resize(2 * SIZE + more, refcheck=False)
    there = y.ctypes.data
    del y
    z = dm.add(dm.zeros(2 * SIZE + 16), 1.0)
    assert _address(z) == there
    usable = ctypes.CDLL(None).malloc_usable_size
    usable.argtypes, usable.restype = [ctypes.c_void_p], ctypes.c_size_t
    assert usable(there) >= z.numpy().nbytes


def test_the_scratch_block_stays_where_it_is_while_somebody_uses_it() -> None:
    shared, users = arena.Shared(), [threading.Event() for _ in range(3)]
    assert shared.join(users[0], 1 << 20)
    with shared.borrow(1 << 20) as there:
        assert there == shared.record.base
        assert not shared.join(users[1], 1 << 21)
        assert shared.join(users[2], 1 << 19)
        with shared.borrow(1 << 19) as other:
            assert other not in (0, there)
        users.pop(0)
        assert (shared.record.base, shared.size) == (there, 1 << 20)
    assert shared.record.owner == 0
    users.pop()
    assert shared.size == 0


def test_the_scratch_block_is_nobodys_while_it_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may run whenever Python code does."""
    shared, user = arena.Shared(), threading.Event()
    assert shared.join(user, 1 << 20)
    block, found = arena.block, []

    def changing(size: int) -> Any:
        with shared.borrow(1 << 20) as there:
            found.append(there not in (0, shared.record.base))
        found.append(not shared.join(threading.Event(), 1 << 19))
        return block(size)

    monkeypatch.setattr(arena, "block", changing)
    later = threading.Event()
    assert shared.join(later, 1 << 21)
    assert found == [True, True]
    assert shared.record.owner == 0
