"""@dm.function with Variables, as a method, and inside of another."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from counted import Counted, array, same

# bodies here count their traces
pytestmark = pytest.mark.filterwarnings(
    "ignore::dualmode.errors.SideEffectWarning", "ignore::dualmode.errors.RetracingWarning"
)


# --- variables ------------------------------------------------------------------------------------


def test_variables_are_read_and_updated() -> None:
    v = dm.Variable([1.0, 2.0])

    @dm.function
    def fn(x: Any) -> Any:
        before = v.read_value()
        v.assign_add(x)
        middle = v + 0.0
        v.assign(v * 2)
        return before, middle, v

    before, middle, after = fn(dm.asarray([1.0, 1.0]))
    same(before, np.float32([1, 2]))
    same(middle, np.float32([2, 3]))
    same(after, np.float32([4, 6]))
    same(v, np.float32([4, 6]))
    v.assign([0.0, 0.0])
    same(fn(dm.asarray([1.0, 1.0]))[2], np.float32([2, 2]))
    same(after, np.float32([4, 6]))
    assert fn.trace_count == 1


def test_swapped_variables() -> None:
    a, b = dm.Variable([1.0, 2.0]), dm.Variable([3.0, 4.0])

    @dm.function
    def swap() -> None:
        old = a.read_value()
        a.assign(b)
        b.assign(old)

    for k in range(3):
        swap()
        first, second = ([3, 4], [1, 2]) if k % 2 == 0 else ([1, 2], [3, 4])
        same(a, np.float32(first))
        same(b, np.float32(second))


def test_a_value_read_before_stays() -> None:
    v = dm.Variable(array(8))

    @dm.function
    def fn() -> None:
        v.assign_add(dm.ones(8))

    before = v.read_value()
    view = before.numpy()
    fn()
    fn()
    same(before, array(8))
    same(view, array(8))
    same(v, array(8) + 2)


def test_variable_created_on_the_first_call() -> None:
    class Layer:
        def __init__(self) -> None:
            self.w: Any = None

        @dm.function
        def __call__(self, x: Any) -> Any:
            if self.w is None:
                self.w = dm.Variable(dm.ones((x.shape[-1], 2)) * 3)
            return x @ self.w

    layer = Layer()
    x = array(4, 3)
    for _ in range(2):
        same(layer(x), x @ np.full((3, 2), 3, np.float32))
    same(layer(array(5, 3)), array(5, 3) @ np.full((3, 2), 3, np.float32))
    assert Layer.__call__ is not layer.__call__
    assert layer.__call__.trace_count == 2
    layer.w.assign(dm.zeros((3, 2)))
    same(layer(x), np.zeros((4, 2), np.float32))


def test_variable_created_on_every_call() -> None:
    fn = dm.function(lambda x: x * dm.Variable(1.0))
    with pytest.raises(dm.errors.VariableError, match="created on a later call") as caught:
        fn(array(2))
    assert "x * dm.Variable(1.0)" in str(caught.value)


def test_variable_created_on_a_later_trace() -> None:
    kept: list[Any] = []

    @dm.function
    def fn(x: Any) -> Any:
        if not kept or x.ndim == 2:
            kept.append(dm.Variable(1.0))
        return x * kept[0]

    fn(array(2))
    fn(array(3))
    with pytest.raises(dm.errors.VariableError, match="created on a later call"):
        fn(array(2, 2))
    same(fn(array(2)), array(2))


def test_initial_value_from_an_argument() -> None:
    kept: list[Any] = []
    fn = dm.function(lambda x: kept.append(dm.Variable(x * 2)))
    with pytest.raises(dm.errors.VariableError, match="initial value"):
        fn(array(2))


def test_random_initial_values_are_not_drawn_again() -> None:
    dm.random.set_seed(5)
    expected = [np.asarray(dm.random.normal((4,))) for _ in range(2)]
    dm.random.set_seed(5)
    kept: list[Any] = []

    @dm.function
    def fn() -> Any:
        if not kept:
            kept.append(dm.Variable(dm.random.normal((4,))))
        return dm.random.normal((4,))

    same(fn(), expected[1])
    same(kept[0], expected[0])
    assert not np.array_equal(fn(), expected[1])


def test_variables_as_arguments() -> None:
    @dm.function
    def fn(v: Any, by: float) -> None:
        v.assign_add(by)

    a, b = dm.Variable(1.0), dm.Variable(1.0)
    fn(a, 1.0)
    fn(b, 10.0)
    fn(a, 1.0)
    same(a, np.float32(3))
    same(b, np.float32(11))


def test_assign_checks_shape_and_dtype() -> None:
    v = dm.Variable([1.0, 2.0])
    with pytest.raises(dm.errors.ShapeError, match=r"float32\[2\].*float32\[3\]"):
        dm.function(lambda: v.assign(dm.ones(3)))()
    with pytest.raises(dm.errors.DTypeError):
        dm.function(lambda x: v.assign(x))(array(2, dtype=np.complex64))
    same(v, np.float32([1, 2]))


# --- methods --------------------------------------------------------------------------------------


def test_methods_have_traces_of_their_own() -> None:
    class Counter:
        def __init__(self, start: float) -> None:
            self.v = dm.Variable(start)

        @dm.function
        def add(self, x: Any, times: int = 1) -> Any:
            self.v.assign_add(x * times)
            return self.v

    a, b = Counter(0.0), Counter(10.0)
    same(a.add(1.0), np.float32(1))
    same(b.add(1.0), np.float32(11))
    same(a.add(2.0, times=2), np.float32(5))
    assert a.add.trace_count == 1 and b.add.trace_count == 1
    assert a.add.get_concrete_function(1.0).variables == [a.v]
    same(Counter.add(a, 1.0), np.float32(6))


def test_instances_are_collectable() -> None:
    class Model:
        def __init__(self) -> None:
            self.v = dm.Variable(1.0)

        @dm.function
        def __call__(self, x: Any) -> Any:
            return self.v * x

    gc.disable()
    try:
        model = Model()
        gone, variable = weakref.ref(model), weakref.ref(model.v)
        model(2.0)
        del model
        assert gone() is None
    finally:
        gc.enable()
    gc.collect()
    assert variable() is None


def test_functions_are_collectable() -> None:
    v = dm.Variable(1.0)

    def body(x: Any) -> Any:
        return x * v

    fn = dm.function(body)
    fn(2.0)
    gone = weakref.ref(fn)
    del fn
    gc.collect()
    assert gone() is None


def test_method_of_an_instance_without_weak_references() -> None:
    class Slotted:
        __slots__ = ()

        @dm.function
        def fn(self, x: Any) -> Any:
            return x

    with pytest.raises(TypeError, match="__weakref__"):
        Slotted().fn(1.0)


# --- functions in functions -----------------------------------------------------------------------


def test_function_inside_a_function() -> None:
    v = dm.Variable(1.0)

    @dm.function
    def inner(x: Any, n: int) -> Any:
        v.assign_add(x)
        return x * n + v

    @dm.function
    def outer(x: Any) -> Any:
        return inner(x, 2) + inner(x, 3) * inner(x, 4)

    x = dm.asarray(2.0)
    got = outer(x)
    v.assign(1.0)
    same(got, outer.python_function(x))
    assert inner.trace_count == 1
    assert outer.trace_count == 1


def test_inner_function_captures_a_traced_tensor() -> None:
    body = Counted(lambda x: x)

    @dm.function
    def outer(x: Any) -> Any:
        y = x * 2

        @dm.function
        def inner(z: Any) -> Any:
            body(z)
            return z + y

        return inner(x) * inner(x + 1)

    same(outer(dm.asarray(3.0)), np.float32(9 * 10))
    same(outer(dm.asarray(1.0)), np.float32(3 * 4))
    assert body.count == 1


def test_shared_function_that_captures_from_two_traces() -> None:
    held: list[Any] = []

    @dm.function
    def inner(z: Any) -> Any:
        return z + held[-1]

    @dm.function
    def outer(x: Any) -> Any:
        held.append(x * 2)
        return inner(x)

    same(outer(dm.asarray(3.0)), np.float32(9))
    same(outer(array(2)), 3 * array(2))


def test_inner_number_makes_the_outer_one_static() -> None:
    inner = dm.function(lambda n: dm.ones(n))
    outer = dm.function(lambda n: dm.sum(inner(n + 1)))
    for n in (1, 2, 1):
        same(outer(n), np.float32(n + 1))
    assert outer.trace_count == 2 and inner.trace_count == 2


def test_recursion_on_a_number() -> None:
    @dm.function
    def power(x: Any, n: int) -> Any:
        return x if n == 1 else x * power(x, n - 1)

    same(power(dm.asarray(2.0), 5), np.float32(32))


def test_endless_recursion() -> None:
    @dm.function
    def endless(x: Any) -> Any:
        return endless(x) + 1

    with pytest.raises(RecursionError, match="endless: calls itself"):
        endless(array(2))
