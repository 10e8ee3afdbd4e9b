"""Prints and assertions, in both modes."""

from __future__ import annotations

import numpy as np
import pytest

import dualmode as dm
from dualmode import debugging
from dualmode.debugging import assert_

MODES = pytest.mark.parametrize("wrap", [lambda f: f, dm.function], ids=["eager", "compiled"])


@MODES
def test_print(wrap, capfd):
    @wrap
    def show(x):
        dm.print("x =", x, "and", 3, sep=" ", end=";\n")
        return x + 1

    for k in (1, 2):
        show(dm.asarray([k, k + 1], dm.int32))
    assert capfd.readouterr().out == "x = [1 2] and 3;\nx = [2 3] and 3;\n"


@MODES
def test_prints_keep_their_order(wrap, capfd):
    @wrap
    def show(x):
        dm.print("a", x)
        y = x * 2
        dm.print("b", y)
        dm.print("c")
        return y

    show(dm.asarray(1.5))
    assert capfd.readouterr().out == "a 1.5\nb 3.0\nc\n"


def test_print_summarizes(capfd):
    dm.print(dm.arange(100), summarize=2)
    dm.print(dm.arange(3), file="stderr")
    out, err = capfd.readouterr()
    assert out == "[ 0  1 ... 98 99]\n"
    assert err == "[0 1 2]\n"
    with pytest.raises(ValueError, match="'stdout' or 'stderr'"):
        dm.print(1, file="log.txt")


@MODES
@pytest.mark.parametrize(
    ("check", "good", "bad", "message"),
    [
        (lambda x: debugging.assert_equal(x, [1, 2]), [1, 2], [1, 3], r"x == y expected: 3 and 2"),
        (
            lambda x: debugging.assert_less(x, 3),
            [1, 2],
            [1, 5],
            r"x < y expected: 5 and 3 at \[1\]",
        ),
        (
            lambda x: debugging.assert_all_finite(x / 0, "no quotient"),
            np.zeros(0, int),
            [0, 1],
            "no quotient: nan",
        ),
        (
            lambda x: assert_(dm.sum(x) > 0, "a positive sum", dm.sum(x)),
            [1, 2],
            [-1, -2],
            "a positive sum: -3",
        ),
    ],
    ids=["equal", "less", "finite", "condition"],
)
def test_assertions(wrap, check, good, bad, message):
    @wrap
    def step(x):
        check(x)
        return x * 2

    x = dm.asarray(np.array(good, np.int32))
    np.testing.assert_array_equal(step(x), 2 * np.array(good))
    with pytest.raises(AssertionError, match=message) as caught:
        step(dm.asarray(np.array(bad, np.int32)))
    assert isinstance(caught.value, dm.errors.AssertionFailed)


def test_check_numerics_gives_its_input():
    x = dm.asarray([1.0, 2.0])
    np.testing.assert_array_equal(debugging.check_numerics(x), x)
    with pytest.raises(AssertionError, match=r"inf at \[1\], 1 of 2 elements"):
        debugging.check_numerics(dm.asarray([1.0, np.inf]))


def test_shapes():
    x, y = dm.zeros((2, 3)), dm.zeros((3, 4))
    debugging.assert_shapes([(x, ("batch", "k")), (y, ("k", None))])
    debugging.assert_rank(x, 2)
    with pytest.raises(ValueError, match=r"tensor 1 is float32\[2,3\].*k=3"):
        debugging.assert_shapes([(x, ("n", "k")), (x, ("k", 3))])
    with pytest.raises(ValueError, match=r"rank 3 expected, got float32\[2,3\]"):
        debugging.assert_rank(x, 3)
