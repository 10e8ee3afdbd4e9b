"""The entry's pool: memory of results is used again, but never while somebody can see it."""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest

from dualmode_compiler.runtime import entry_native
from dualmode_compiler.spec import Spec, float32
from entry_harness import F3, Tensor, Variable, array, entry, reader, same

pytestmark = pytest.mark.skipif(
    not entry("nothing", [], []).native, reason="there is a pool only in the native entry"
)


def addition(**options: Any) -> Any:
    return entry("add", [F3, F3], [F3], **options).call


def test_results_that_nobody_holds_are_used_again() -> None:
    call, one = addition(), array(1, 1, 1)
    assert len({call(one, one)._value.ctypes.data for _ in range(10)}) == 1
    x: Any = one
    seen = set()
    for _ in range(10):  # the former result is still there while the next is made
        x = call(x, one)
        seen.add(x._value.ctypes.data)
    same(x, 11, 11, 11)
    assert len(seen) == 2


@pytest.mark.parametrize(
    "hold",
    [
        lambda t: t,
        lambda t: t._value,
        lambda t: t._value.view(),
        lambda t: t._value[1:],
        lambda t: t._value.T,
        lambda t: memoryview(t._value),
        lambda t: t._value.view().__dlpack__(),
        lambda t: [t],
        lambda t: lambda: t,
    ],
    ids=["tensor", "array", "view", "slice", "transpose", "buffer", "dlpack", "list", "closure"],
)
def test_what_is_held_never_changes(hold: Any) -> None:
    call, zero = addition(), array(0, 0, 0)
    held, addresses = [], set()
    for k in range(20):
        result = call(array(k, k, k), zero)
        held.append(hold(result))
        addresses.add(result._value.ctypes.data)
        del result
    assert len(addresses) == len(held)
    for k, x in enumerate(held):
        if isinstance(x, Tensor | np.ndarray | memoryview):
            assert set(np.ravel(getattr(x, "_value", x))) == {k}


def test_a_result_that_is_watched_is_not_used_again() -> None:
    call, zero = addition(), array(0, 0, 0)
    watched = weakref.ref(call(zero, zero)._value)
    for k in range(4):
        call(array(k, k, k), zero)
        value = watched()
        assert value is None or value.tolist() == [0, 0, 0]


def test_an_array_that_was_made_read_only_is_not_written() -> None:
    call, zero = addition(), array(0, 0, 0)
    first = call(zero, zero)
    address = first._value.ctypes.data
    first._value.flags.writeable = False
    del first
    second = call(zero, zero)
    assert second._value.flags.writeable and second._value.ctypes.data != address


def test_a_variable_may_take_a_result() -> None:
    call, one = addition(), array(1, 1, 1)
    variable = Variable(array(0, 0, 0))
    for k in range(5):
        variable._tensor = call(variable._tensor, one)
        same(variable._tensor, k + 1, k + 1, k + 1)
        same(call(one, one), 2, 2, 2)
        same(variable._tensor, k + 1, k + 1, k + 1)


def test_several_results() -> None:
    call = entry("nothing", [], [F3] * 3, single=False).call
    first = [x._value.ctypes.data for x in call()]
    assert [x._value.ctypes.data for x in call()] == first
    keep = call()[1]
    second = [x._value.ctypes.data for x in call()]
    assert second[0] == first[0] and second[1] != first[1] and second[2] == first[2]
    assert keep._value.ctypes.data == first[1]


def test_a_failure_leaves_the_pool_whole() -> None:
    call = entry("fail", [F3], [F3] * 2, single=False).call
    for _ in range(100):
        with suppress(RuntimeError):
            call(array(1, 2, 3))


def test_the_pool_dies_with_its_entry() -> None:
    call = addition()
    there = weakref.ref(call)
    array_there = weakref.ref(call(array(1, 2, 3), array(1, 2, 3))._value)
    assert array_there() is not None
    del call
    gc.collect()
    assert there() is None and array_there() is None


def test_a_callback_that_calls_again_gets_another_result() -> None:
    variable = Variable(array(1, 2, 3))
    inner: list[Any] = []

    def again() -> None:
        if not inner:
            inner.append(None)
            inner[0] = made.run([])[0]

    made = reader(entry, variable, again, written=False)
    outer = made.call()
    assert outer._value is not inner[0]
    same(outer, 1, 2, 3)


def test_threads_get_results_of_their_own() -> None:
    call, zero = addition(release_gil=True), array(0, 0, 0)
    failed: list[Any] = []

    def work(k: int) -> None:
        mine = array(k, k, k)
        for _ in range(2000):
            result = call(mine, zero)
            if type(result) is Tensor and result._value.tolist() != [k, k, k]:
                failed.append(result)

    threads = [threading.Thread(target=partial(work, k)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed


def test_only_so_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    used = sum(c.pooled for c in entry_native._calls)
    big = Spec((1000,), float32)
    monkeypatch.setattr(entry_native, "POOLED", used + 3 * big.nbytes)
    first = entry("nothing", [], [big] * 2, single=False).call
    second = entry("nothing", [], [big]).call
    there = [weakref.ref(x._value) for x in first()]
    assert [r() is not None for r in there] == [True, False]  # one kept, one not
    alone = weakref.ref(second()._value)
    assert alone() is None
    del first, there
    gc.collect()
    third = entry("nothing", [], [big]).call
    assert weakref.ref(third()._value)() is not None
