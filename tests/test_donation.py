"""Donated arguments: results take their memory, and using them afterwards says so."""

from __future__ import annotations

import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode.errors import DonatedError
from dualmode_compiler import driver

compiled = pytest.mark.skipif(
    dm.config.backend != "compile" or dm.config.entry != "native",
    reason="memory is used again by the native entry",
)


def full(value: float, *shape: int) -> dm.Tensor:
    return dm.asarray(np.full(shape or (4,), value, np.float32))


def address(x: dm.Tensor) -> int:
    return x._value.ctypes.data


@dm.function(donate_argnums=0)
def decayed(x, y):
    return x * 0.5 + y


@compiled
def test_a_result_takes_the_memory() -> None:
    x, y = full(2), full(1)
    for k in range(5):
        before = address(x)
        x = decayed(x, y)
        assert address(x) == before or k == 0  # at first, the array that it was made of holds it
    assert x.tolist() == [2.0] * 4 and y.tolist() == [1] * 4


def test_later_use_says_what_happened() -> None:
    x = full(2)
    decayed(x, full(1))
    uses: list[Any] = [
        lambda: x + 1.0,
        lambda: dm.sum(x),
        lambda: x.shape,
        lambda: x.numpy(),
        lambda: np.asarray(x),
        lambda: np.add(x, np.ones(4, np.float32)),
        lambda: float(x[0]),
        lambda: dm.function(lambda x: x)(x),
        lambda: decayed(x, full(1)),
        lambda: decayed(full(1), x),
        lambda: dm.Variable(x),
        lambda: repr(x),
        lambda: list(x),
        lambda: dm.grad(lambda v: dm.sum(v * v))(x),
    ]
    for use in uses:
        with pytest.raises(DonatedError, match=r"donated to decayed\(\) as its argument x,"):
            use()


@compiled
@pytest.mark.parametrize(
    "hold",
    [lambda x: x.numpy(), lambda x: x._value, lambda x: x[1:], lambda x: memoryview(x.numpy())],
)
def test_memory_that_others_hold_is_copied(hold: Any) -> None:
    x = decayed(full(2), full(1))
    held = hold(x)
    before = np.array(held).tolist()
    assert decayed(x, full(1)).tolist() == [2] * 4
    for _ in range(3):
        decayed(full(7), full(7))
    assert np.array(held).tolist() == before


def test_numpy_arrays_stay_the_callers() -> None:
    x = np.full(4, 2, np.float32)
    assert decayed(x, full(1)).tolist() == [2] * 4
    assert decayed(x, x).tolist() == [3] * 4
    assert x.tolist() == [2] * 4


def test_the_same_tensor_twice() -> None:
    x = full(2)
    assert decayed(x, x).tolist() == [3] * 4
    both = dm.function(lambda x, y: (x + y, x - y), donate_argnums=(0, 1))
    x = full(2)
    a, b = both(x, x)
    assert a.tolist() == [4] * 4 and b.tolist() == [0] * 4
    with pytest.raises(DonatedError):
        _ = x.shape


def test_structures_and_several_results() -> None:
    @dm.function(donate_argnums=(0,))
    def step(state, rate=0.5):
        w, m = state["w"], state["m"]
        m = m * 0.9 + w
        return {"w": w - rate * m, "m": m}, dm.sum(w)

    state = {"w": full(1), "m": full(0)}
    w, m = np.ones(4, np.float32), np.zeros(4, np.float32)
    for _ in range(4):
        old = state
        state, total = step(state)
        assert total.item() == pytest.approx(w.sum())
        m = np.float32(0.9) * m + w
        w = w - np.float32(0.5) * m
        np.testing.assert_allclose(np.asarray(state["w"]), w, rtol=1e-6)
        np.testing.assert_allclose(np.asarray(state["m"]), m, rtol=1e-6)
        with pytest.raises(DonatedError, match=r"argument state\['w'\],"):
            _ = old["w"].shape


def test_values_that_swap_places() -> None:
    swap = dm.function(lambda x, y: (y * 1.0, x * 1.0), donate_argnums=(0, 1))
    x, y = full(1), full(2)
    for _ in range(3):
        x, y = swap(x, y)
    assert x.tolist() == [2] * 4 and y.tolist() == [1] * 4
    plain = dm.function(lambda x, y: (y, x), donate_argnums=(0, 1))
    x, y = plain(x, y)
    assert x.tolist() == [1] * 4 and y.tolist() == [2] * 4


@compiled
def test_what_no_result_can_take_is_freed() -> None:
    total = dm.function(lambda x: dm.sum(x), donate_argnums=0)
    x = full(1) + 0.0
    there = weakref.ref(x._value)
    assert total(x).item() == 4
    assert there() is None
    assert total.memory(full(1)).results == 4


@compiled
def test_planned_memory() -> None:
    plain = dm.function(lambda x: x * 2.0)
    giving = dm.function(lambda x: x * 2.0, donate_argnums=0)
    assert giving.memory(full(1)).peak == plain.memory(full(1)).peak / 2


def test_failures_leave_arguments_as_they_were() -> None:
    def check(v: Any) -> Any:
        if v[0] > 1:
            raise KeyError("refused")
        return v

    @dm.function(donate_argnums=0)
    def fn(x):
        y = x * 2.0
        return y + dm.numpy_function(check, [x], dm.TensorSpec((4,), "float32"))

    x = full(5)
    for _ in range(3):
        with pytest.raises(KeyError):
            fn(x)
        assert x.tolist() == [5] * 4
    assert fn(full(1)).tolist() == [3] * 4


def test_nothing_is_donated_under_a_tape_or_in_another_function() -> None:
    x, y = full(2), full(1)
    with dm.GradientTape() as tape:
        tape.watch(x)
        z = dm.sum(decayed(x, y))
    assert tape.gradient(z, x).tolist() == [0.5] * 4 and x.tolist() == [2] * 4
    outer = dm.function(lambda x, y: decayed(x, y) + x)
    assert outer(x, y).tolist() == [4] * 4 and x.tolist() == [2] * 4
    with dm.config.override(jit=False):
        assert decayed(x, y).tolist() == [2] * 4 and x.tolist() == [2] * 4


def test_numbers_of_parameters_are_checked() -> None:
    for bad in (2, -3, (0, 5)):
        with pytest.raises(ValueError, match=r"no positional parameter -?\d; it has 2: x, y"):
            dm.function(lambda x, y: x + y, donate_argnums=bad)
    last = dm.function(lambda x, y: x + y, donate_argnums=-1)
    y = full(1)
    last(full(1), y)
    with pytest.raises(DonatedError, match="argument y,"):
        _ = y.shape


def test_methods_count_without_self_and_keywords_count_by_place() -> None:
    class Model:
        @dm.function(donate_argnums=0)
        def step(self, state):
            return state + 1.0

    model, x = Model(), full(1)
    assert model.step(state=x).tolist() == [2] * 4
    with pytest.raises(DonatedError):
        _ = x.shape


def test_an_argument_of_another_call_that_is_under_way() -> None:
    inside, leave = threading.Event(), threading.Event()

    def wait(v: Any) -> Any:
        inside.set()
        assert leave.wait(30)
        return v

    @dm.function
    def slow(x):
        first = dm.numpy_function(wait, [dm.sum(x)], dm.TensorSpec((), "float32"))
        return x + first

    x, found = full(1) + 0.0, []
    thread = threading.Thread(target=lambda: found.append(slow(x).tolist()))
    thread.start()
    assert inside.wait(30)
    for _ in range(3):
        decayed(x, full(9))
        x = full(1) + 0.0
    leave.set()
    thread.join()
    assert found == [[5] * 4]


def test_counts_stay() -> None:
    y = full(1)
    decayed(full(1), y)
    before = sys.getrefcount(y), sys.getrefcount(y._value)
    for _ in range(200):
        decayed(full(1), y)
    assert (sys.getrefcount(y), sys.getrefcount(y._value)) == before


@compiled
def test_explain_and_profile_show_the_code_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is compiled for them."""
    step = dm.function(lambda x: x * 2 + 1, donate_argnums=0)
    step(dm.ones(50))
    concrete = step.get_concrete_function(dm.ones(50))
    monkeypatch.setattr(driver, "compile", lambda *_, **__: pytest.fail("compiled once more"))
    assert "loops over 50" in concrete.explain()
    assert len(concrete.profile(dm.ones(50), runs=2)) == 1
