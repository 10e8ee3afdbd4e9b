"""`vmap` of functions with Variables, random numbers, prints, checks and host functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode.errors import AssertionFailed, OutOfRangeError, VariableError
from modes import Mode, array, both_modes, close


@both_modes
def test_a_variable_takes_what_is_the_same_for_all(mode: Mode):
    v = dm.Variable(1.0)

    def f(a: Any) -> Any:
        v.assign_add(2.0)
        return a * v

    close(mode(dm.vmap(f))(dm.asarray([1.0, 2.0])), [3.0, 6.0])
    assert v.numpy() == 3.0


@both_modes
def test_a_variable_cannot_take_what_differs(mode: Mode):
    v = dm.Variable(1.0, name="total")

    def f(a: Any) -> Any:
        v.assign(a)
        return a

    with pytest.raises(VariableError, match=r"vmap: variable 'total' .* differs between the 2"):
        mode(dm.vmap(f))(dm.asarray([1.0, 2.0]))
    assert v.numpy() == 1.0


@both_modes
def test_all_examples_get_the_same_random_numbers(mode: Mode):
    draw = mode(dm.vmap(lambda a: a + dm.random.uniform((2,))))
    first, second = draw(dm.zeros(3)).numpy(), draw(dm.zeros(3)).numpy()
    assert (first == first[0]).all()
    assert (second == second[0]).all()
    assert (first != second).all()  # the generator has moved on


@both_modes
def test_state_in_branches_and_loops_stays_the_same_for_all(mode: Mode):
    """A branch that all examples take changes a variable; a loop over them draws numbers."""
    v = dm.Variable(1.0)
    flag = dm.asarray(True)

    def f(a: Any) -> Any:
        dm.cond(flag, lambda: v.assign_add(1.0).read_value(), v.read_value)
        total = dm.scan(lambda c, _: (c + a * dm.random.uniform(()), ()), a * 0, length=3)[0]
        return total, v * 1

    total, values = mode(dm.vmap(f))(dm.asarray([1.0, 2.0]))
    close(values, [2.0, 2.0])
    assert v.numpy() == 2.0
    assert total.numpy()[0] > 0
    close(total[1], 2 * total.numpy()[0])


@both_modes
def test_prints_come_one_example_after_another(mode: Mode, capfd: pytest.CaptureFixture[str]):
    def f(a: Any) -> Any:
        dm.print("start")
        dm.print("a =", a)
        return a

    mode(dm.vmap(f))(dm.asarray([1, 2, 3]))
    assert capfd.readouterr().out == "start\na = 1\na = 2\na = 3\n"


@both_modes
def test_effects_of_a_branch_are_those_of_its_examples(
    mode: Mode, capfd: pytest.CaptureFixture[str]
):
    def f(a: Any) -> Any:
        return dm.cond(a > 1, lambda: show("large", a), lambda: show("small", a))

    def show(word: str, a: Any) -> Any:
        dm.print(word, a)
        return a

    mode(dm.vmap(f))(dm.asarray([2, 1, 3]))
    lines = capfd.readouterr().out.splitlines()
    assert sorted(lines) == ["large 2", "large 3", "small 1"]
    assert lines.index("large 2") < lines.index("large 3")


@both_modes
def test_assertions_hold_for_every_example(mode: Mode):
    def f(a: Any) -> Any:
        dm.debugging.assert_less(a, dm.asarray(3.0))
        return a

    many = mode(dm.vmap(f))
    close(many(dm.asarray([1.0, 2.0])), [1.0, 2.0])
    with pytest.raises(AssertionFailed):
        many(dm.asarray([1.0, 4.0]))


@both_modes
def test_indices_are_checked_for_every_example(mode: Mode):
    x = dm.asarray([10.0, 20.0])
    many = mode(dm.vmap(lambda k: dm.take(x, k)))
    close(many(dm.asarray([1, -2])), [20.0, 10.0])
    with pytest.raises(OutOfRangeError, match="index 2 is out of range"):
        many(dm.asarray([0, 2]))


@both_modes
def test_host_functions_see_one_example(mode: Mode):
    shapes: list[Any] = []

    def host(a: Any) -> Any:
        shapes.append(np.shape(a))
        return np.asarray(a).sum()

    many = mode(dm.vmap(lambda a: dm.numpy_function(host, [a], dm.TensorSpec((), "float32"))))
    close(many(dm.asarray(array(3, 2))), array(3, 2).sum(1))
    assert shapes == [(2,)] * 3


@both_modes
def test_host_functions_in_a_branch_see_its_examples(mode: Mode):
    seen: list[float] = []

    def host(a: Any) -> Any:
        seen.append(float(a))
        return a * 10, a > 2

    def call(a: Any) -> Any:
        return dm.numpy_function(host, [a], [dm.TensorSpec((), "float32"), "bool"])[0]

    many = mode(dm.vmap(lambda a: dm.cond(a > 1, lambda: call(a), lambda: -a)))
    close(many(dm.asarray([3.0, 1.0, 2.0])), [30.0, -1.0, 20.0])
    assert seen == [3.0, 2.0]
