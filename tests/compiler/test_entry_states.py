"""The entry from Python into generated code: states, lifetimes and threads."""

from __future__ import annotations

import gc
import os
import sys
import threading
import warnings
import weakref
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest

from dualmode_compiler.runtime.entry import MISS
from dualmode_compiler.spec import Spec, int64
from entry_harness import (
    F3,
    Subclass,
    Tensor,
    Variable,
    array,
    callback,
    entry,
    reader,
    same,
    updater,
)


@pytest.fixture(params=[True, False], ids=["native", "ctypes"])
def make(request: pytest.FixtureRequest) -> Any:
    return partial(entry, native=request.param)


def test_states_are_updated(make: Any) -> None:
    variable = Variable(array(1, 2, 3))
    call = updater(make, variable).call
    same(call(array(1, 1, 1)), 1, 2, 3)
    same(call(Tensor(array(1, 1, 1))), 2, 3, 4)
    same(variable._tensor, 3, 4, 5)


def test_a_state_that_nobody_else_holds_is_updated_in_place() -> None:
    variable = Variable(array(1, 2, 3))
    made = updater(entry, variable)
    before = id(variable._tensor), variable._tensor._value.ctypes.data
    made.call(array(1, 1, 1))
    after = id(variable._tensor), variable._tensor._value.ctypes.data
    assert before == after or not made.native


@pytest.mark.parametrize(
    "hold",
    [
        lambda v: v._tensor,
        lambda v: v._tensor._value,
        lambda v: v._tensor._value[1:],
        lambda v: memoryview(v._tensor._value),
        lambda v: Variable.__dict__["_tensor"].__get__(v),
    ],
    ids=["tensor", "array", "view", "memoryview", "descriptor"],
)
def test_a_value_that_was_read_never_changes(make: Any, hold: Any) -> None:
    variable = Variable(array(1, 2, 3))
    call = updater(make, variable).call
    call(array(0, 0, 0))
    held = hold(variable)
    before = np.array(getattr(held, "_value", held)).tolist()
    for _ in range(3):
        call(array(1, 1, 1))
    same(variable._tensor, 4, 5, 6)
    assert np.array(getattr(held, "_value", held)).tolist() == before


def test_a_state_may_be_passed_as_its_own_argument(make: Any) -> None:
    variable = Variable(array(1, 2, 3))
    call = updater(make, variable).call
    same(call(variable._tensor), 1, 2, 3)
    same(variable._tensor, 2, 4, 6)
    same(call(variable._tensor._value), 2, 4, 6)
    same(variable._tensor, 4, 8, 12)


def test_variables_that_share_a_value_part(make: Any) -> None:
    first, second = Variable(array(1, 2, 3)), Variable(array(0, 0, 0))
    second._tensor = first._tensor
    updater(make, first).call(array(1, 1, 1))
    same(first._tensor, 2, 3, 4)
    same(second._tensor, 1, 2, 3)


@pytest.mark.parametrize("kind", ["readonly", "borrowed"])
def test_memory_of_others_is_never_written(make: Any, kind: str) -> None:
    source = bytearray(array(1, 2, 3).tobytes())
    variable = Variable(array(0, 0, 0))
    value = np.frombuffer(source, np.float32) if kind == "borrowed" else array(1, 2, 3)
    if kind == "readonly":
        value.flags.writeable = False
    variable._tensor = Tensor(value)
    del value
    updater(make, variable).call(array(1, 1, 1))
    same(variable._tensor, 2, 3, 4)
    assert source == array(1, 2, 3).tobytes()


def test_a_state_that_does_not_fit_misses(make: Any) -> None:
    variable = Variable(array(1, 2, 3))
    made = updater(make, variable)
    for bad in (np.zeros(4, np.float32), np.zeros(3), np.zeros(6, np.float32)[::2]):
        variable._tensor = Tensor(bad)
        assert made.call(array(1, 1, 1)) is MISS
    assert made.run([array(1, 1, 1)])[0].tolist() == [0, 0, 0]
    same(variable._tensor, 1, 1, 1)
    variable._tensor = Tensor(np.zeros(3))
    with pytest.raises(TypeError, match=r"state 0: expected float32\[3\], got float64\[3\]"):
        made.run([array(1, 1, 1)])


def test_run_converts_layouts(make: Any) -> None:
    variable = Variable(array(1, 2, 3))
    made = updater(make, variable)
    strided = np.arange(6, dtype=np.float32)[::2]
    swapped = array(0, 2, 4).astype(">f4")
    unaligned = np.frombuffer(b"." + array(0, 2, 4).tobytes(), np.uint8)[1:].view(np.float32)
    for k, x in enumerate((strided, swapped, unaligned, array(0, 2, 4).view(Subclass))):
        old = made.run([x])
        assert old[0].tolist() == [1, 2 + 2 * k, 3 + 4 * k]
    same(variable._tensor, 1, 10, 19)


def blocks(action: Any, repeat: int) -> int:
    """Memory blocks that `repeat` calls leave behind."""
    for _ in range(100):
        action()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(repeat):
        action()
    gc.collect()
    return sys.getallocatedblocks() - before


def test_reference_counts_stay(make: Any) -> None:
    variable = Variable(array(1, 2, 3))
    a, zero = array(1, 2, 3), Tensor(array(0, 0, 0))
    add = make("add", [F3, F3], [F3]).call
    many = make("nothing", [F3], [F3] * 3, single=False).call
    update = updater(make, variable).call
    fail = make("fail", [F3], [F3]).call
    number = Spec((), int64, weak=True)
    weak = make("copy8", [number], [Spec((), int64)] * 2, single=False).call

    def everything() -> None:
        add(a, zero)
        add(a, None)
        many(a)
        update(zero)
        held = variable._tensor
        update(zero)
        update(held)
        weak(2**40)
        weak(2**80)
        with suppress(RuntimeError):
            fail(a)

    watched = [a, zero, zero._value, variable, MISS, Tensor, np.ndarray, a.dtype, None]
    repeat = 30_000 if update.__class__.__name__ == "builtin_function_or_method" else 300
    everything()
    before = [sys.getrefcount(x) for x in watched]
    assert abs(blocks(everything, repeat)) < 100
    after = [sys.getrefcount(x) for x in watched]
    for x, y in zip(before, after, strict=True):
        assert abs(x - y) < repeat // 3
    update(zero)
    fresh = Variable(array(1, 2, 3))
    assert sys.getrefcount(variable._tensor) == sys.getrefcount(fresh._tensor)
    assert sys.getrefcount(variable._tensor._value) == sys.getrefcount(fresh._tensor._value)


def test_the_callable_keeps_all_alive_and_all_dies_with_it(make: Any) -> None:
    variable = Variable(array(1, 2, 3))
    call = updater(make, variable).call
    there = weakref.ref(variable)
    del variable
    gc.collect()
    same(call(array(1, 1, 1)), 1, 2, 3)
    assert there() is not None
    del call
    gc.collect()
    assert there() is None


def test_threads_update_one_at_a_time(make: Any) -> None:
    variable = Variable(array(0, 0, 0))
    made = updater(make, variable, release_gil=True)
    one, rounds = array(1, 1, 1), 300

    def work() -> None:
        for _ in range(rounds):
            if made.call(one) is MISS:
                made.run([one])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    same(variable._tensor, *[4 * rounds] * 3)


@pytest.mark.parametrize("release_gil", [True, False])
def test_a_callback_may_call_the_entry_again(make: Any, release_gil: bool) -> None:
    variable = Variable(array(1, 2, 3))
    seen: list[Any] = []

    def again() -> None:
        if len(seen) < 3:
            seen.append(None)
            seen[len(seen) - 1] = made.call()
            made.run([])

    made = reader(make, variable, again, written=True, release_gil=release_gil)
    same(made.call(), 1, 2, 3)
    assert len(seen) == 3
    if made.native:
        assert all(x is MISS for x in seen)
    same(made.call(), 1, 2, 3)


@pytest.mark.parametrize("release_gil", [True, False])
@pytest.mark.parametrize("written", [True, False])
def test_a_variable_may_be_assigned_while_it_is_read(
    make: Any, written: bool, release_gil: bool
) -> None:
    variable = Variable(array(1, 2, 3))

    def assign() -> None:
        old = weakref.ref(variable._tensor._value)
        variable._tensor = Tensor(array(7, 7, 7))
        alive.append(old() is not None)

    alive: list[bool] = []
    made = reader(make, variable, assign, written, release_gil=release_gil)
    same(made.call(), 1, 2, 3)
    assert alive == [True] or (written and not made.native)  # there the code works on a copy


def test_others_run_while_the_gil_is_released(make: Any) -> None:
    inside, leave = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert leave.wait(30)

    variable = Variable(array(1, 2, 3))
    made = reader(make, variable, wait, written=False, release_gil=True)
    first = threading.Thread(target=made.call)
    first.start()
    assert inside.wait(30)
    if made.native:
        assert made.call() is MISS
    leave.set()
    assert made.run([])[0].tolist() == [1, 2, 3]
    first.join()
    same(made.call(), 1, 2, 3)


@pytest.mark.parametrize("release_gil", [True, False])
def test_a_tensor_may_be_emptied_while_it_is_read(make: Any, release_gil: bool) -> None:
    def take() -> None:
        old = weakref.ref(x._value)
        x._value = None
        alive.append(old() is not None)

    alive: list[bool] = []
    made = make(
        "late", [F3], [F3], fixed=(callback(take),), release_gil=release_gil, calls_back=True
    )
    for _ in range(3):
        x = Tensor(array(1, 2, 3))
        same(made.call(x), 1, 2, 3)
        x = Tensor(array(4, 5, 6)[::-1])
        assert made.call(x) is MISS
    assert alive == [True] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_call_what_another_thread_was_running() -> None:
    inside, leave = threading.Event(), threading.Event()
    parent = os.getpid()

    def wait() -> None:
        if os.getpid() == parent:
            inside.set()
            assert leave.wait(30)

    made = reader(entry, Variable(array(1, 2, 3)), wait, written=True, release_gil=True)
    first = threading.Thread(target=made.call)
    first.start()
    assert inside.wait(30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork while there are threads
        child = os.fork()
    if child == 0:
        os._exit(0 if made.call() is not MISS and len(made.run([])) == 1 else 1)
    leave.set()
    first.join()
    assert os.waitpid(child, 0)[1] == 0
