"""The entry from Python into generated code: arguments, results and failures."""

from __future__ import annotations

import sys
import sysconfig
from functools import partial
from typing import Any

import numpy as np
import pytest

from dualmode_compiler.runtime.entry import MISS, Layout
from dualmode_compiler.runtime.layout import supported
from dualmode_compiler.spec import DTYPES, Spec, bfloat16, float32, float64, int32, int64
from entry_harness import F3, LAYOUT, Subclass, Tensor, Variable, array, entry, same


@pytest.fixture(params=[True, False], ids=["native", "ctypes"])
def make(request: pytest.FixtureRequest) -> Any:
    return partial(entry, native=request.param)


def test_this_interpreter_has_the_native_entry() -> None:
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    assert supported(LAYOUT) == (sys.implementation.name == "cpython" and not free_threaded)


def test_a_class_without_slots_goes_through_ctypes() -> None:
    class Plain:
        pass

    assert not supported(Layout(Plain, "_value", Variable, "_tensor"))


def test_tensors_and_arrays_are_taken(make: Any) -> None:
    call = make("add", [F3, F3], [F3]).call
    a, b = array(1, 2, 3), array(10, 20, 30)
    b.flags.writeable = False
    same(call(a, b), 11, 22, 33)
    same(call(Tensor(a), b), 11, 22, 33)
    result = call(Tensor(a), Tensor(b))
    same(result, 11, 22, 33)
    assert result._value.dtype == np.float32
    assert result._value.flags.owndata and result._value.flags.writeable
    same(call(result, result), 22, 44, 66)


def test_results_are_fresh(make: Any) -> None:
    call = make("add", [F3, F3], [F3]).call
    a = array(1, 2, 3)
    first = call(a, a)
    second = call(first, a)
    same(first, 2, 4, 6)
    same(second, 3, 6, 9)


class SubTensor(Tensor):
    __slots__ = ()


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(4, np.float32),
        np.zeros((3, 1), np.float32),
        np.zeros((), np.float32),
        np.zeros(3, np.float64),
        np.zeros(3, np.int32),
        np.zeros(6, np.float32)[::2],
        np.zeros(3, ">f4"),
        np.zeros(13, np.uint8)[1:].view(np.float32),
        np.zeros(3, np.float32).view(Subclass),
        Tensor(np.zeros(4, np.float32)),
        SubTensor(np.zeros(3, np.float32)),
        Tensor.__new__(Tensor),
        1.0,
        1,
        None,
        "abc",
        [1.0, 2.0, 3.0],
    ],
    ids=lambda x: type(x).__name__,  # the same in every process
)
def test_anything_else_misses(make: Any, bad: Any) -> None:
    call = make("add", [F3, F3], [F3]).call
    good = array(1, 2, 3)
    assert call(bad, good) is MISS
    assert call(good, bad) is MISS
    nested = Tensor(0.0)
    nested._value = good
    same(call(good, nested), 2, 4, 6)


def test_a_tensor_that_holds_no_array_misses(make: Any) -> None:
    call = make("add", [F3, F3], [F3]).call
    traced = Tensor(0.0)
    for value in (object(), Tensor(array(1, 2, 3)), 1.5):
        traced._value = value
        assert call(traced, traced) is MISS


def test_a_wrong_number_of_arguments_misses(make: Any) -> None:
    call = make("add", [F3, F3], [F3]).call
    a = array(1, 2, 3)
    assert call() is MISS
    assert call(a) is MISS
    assert call(a, a, a) is MISS


def test_an_equal_dtype_that_is_another_object_is_taken(make: Any) -> None:
    call = make("add", [F3, F3], [F3]).call
    other = np.zeros(3, np.dtype("f4", metadata={"unit": "m"}))
    assert other.dtype is not np.dtype("f4")
    same(call(other, array(1, 2, 3)), 1, 2, 3)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1, 1, 1), (2, 3)])
def test_every_dtype_and_rank(make: Any, name: str, shape: tuple[int, ...]) -> None:
    spec = Spec(shape, DTYPES[name])
    made = make("nothing", [spec], [spec, spec], single=False)
    results = made.call(np.zeros(shape, spec.dtype.numpy))
    assert type(results) is tuple
    for value in [r._value for r in results] + made.run([np.zeros(shape, spec.dtype.numpy)]):
        assert type(value) is np.ndarray
        assert value.shape == shape
        assert value.dtype == spec.dtype.numpy


def test_results(make: Any) -> None:
    assert make("nothing", [], []).call() is None
    assert make("nothing", [], [], single=False).call() is None
    assert len(make("nothing", [], [F3], single=False).call()) == 1
    assert len(make("nothing", [], [F3] * 5, single=False).call()) == 5
    with pytest.raises(ValueError, match="single result cannot hold 2 outputs"):
        make("nothing", [], [F3, F3])


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(float64, 0.1), (float64, float("inf")), (int64, -(2**63)), (int64, 2**63 - 1)],
)
def test_python_numbers(make: Any, dtype: Any, value: Any) -> None:
    spec = Spec((), dtype, weak=True)
    made = make("copy8", [spec], [Spec((), dtype), Spec((), int64)], single=False)
    assert made.call(value)[0]._value == value
    assert made.run([np.asarray(value)])[0] == value


@pytest.mark.parametrize(
    ("dtype", "value"), [(float32, 0.1), (float32, 1e300), (int32, -5), (int32, 2**31 - 1)]
)
def test_python_numbers_of_32_bits(make: Any, dtype: Any, value: Any) -> None:
    spec = Spec((), dtype, weak=True)
    call = make("copy8", [spec], [Spec((2,), dtype), Spec((), int64)], single=False).call
    with np.errstate(over="ignore"):
        assert call(value)[0]._value[0] == np.asarray(value).astype(dtype.numpy)


def test_numbers_of_another_kind_or_range_miss(make: Any) -> None:
    class Float(float):
        pass

    def call(dtype: Any, value: Any) -> Any:
        spec = Spec((), dtype, weak=True)
        return make("nothing", [spec], []).call(value)

    for value in (1, True, Float(1.0), "1", None, np.float64(1), np.zeros(()), Tensor(1.0)):
        assert call(float64, value) is MISS
    for value in (1.0, True, 2**63, -(2**63) - 1, 10**40, np.int64(1), np.zeros((), int)):
        assert call(int64, value) is MISS
    for value in (2**31, -(2**31) - 1, 2**70):
        assert call(int32, value) is MISS
    with pytest.raises(ValueError, match="no type for a Python number"):
        call(bfloat16, 1.0)


def test_run_refuses_what_it_would_have_to_change(make: Any) -> None:
    made = make("add", [F3, F3], [F3])
    a = array(1, 2, 3)
    with pytest.raises(TypeError, match="expected 2 arguments, got 1"):
        made.run([a])
    with pytest.raises(TypeError, match=r"argument 1: expected float32\[3\], got float64\[3\]"):
        made.run([a, a.astype(np.float64)])


def test_the_table_ends_with_the_arena_and_the_fixed_pointers(make: Any) -> None:
    i = Spec((), int64)
    made = make("tail", [], [i, i], arena_bytes=8, fixed=(11, 22), single=False)
    assert [int(x._value) for x in made.call()] == [0, 22]
    assert [int(x) for x in made.run([])] == [0, 22]


def test_failures_raise(make: Any) -> None:
    class Failed(Exception):
        pass

    def on_error(code: int) -> None:
        raise Failed(code)

    made = make("fail", [F3], [F3, F3], single=False, on_error=on_error)
    for act in (lambda: made.call(array(1, 2, 3)), lambda: made.run([array(1, 2, 3)])):
        with pytest.raises(Failed, match="-7"):
            act()
    with pytest.raises(RuntimeError, match="failed with code -7"):
        make("fail", [], []).call()
    with pytest.raises(RuntimeError, match="failed with code -7"):
        make("fail", [], [], on_error=lambda code: None).call()
