"""Prints and assertions, in both modes."""

from __future__ import annotations

import io
import sys
from typing import NamedTuple

import numpy as np
import pytest

import dualmode as dm
from dualmode import debugging
from dualmode.debugging import assert_
from dualmode.ops.effects import python_print

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
    with pytest.raises(ValueError, match="'stdout', 'stderr', 'file://PATH'"):
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


# --- what print takes -----------------------------------------------------------------------------


class Pair(NamedTuple):
    left: object
    right: object


@MODES
def test_print_shows_nested_tensors_by_their_values(wrap, capfd):
    @wrap
    def show(x):
        dm.print([x, "a"], (x,), {"k": x, 2: [x + 1]}, Pair(x, 1), "plain", [1, "b"], sep="|")

    show(dm.asarray(2))
    assert capfd.readouterr().out == (
        "[2, 'a']|(2,)|{'k': 2, 2: [3]}|Pair(left=2, right=1)|plain|[1, 'b']\n"
    )


@MODES
def test_print_goes_where_it_is_told(wrap, capfd, tmp_path):
    stream, logged = io.StringIO(), []

    @wrap
    def show(x):
        dm.print("stream", x, output_stream=stream)
        dm.print("logger", x, output_stream=logged.append)
        dm.print("file", x, file=f"file://{tmp_path}/log.txt")
        dm.print("stderr", x, file=sys.stderr, end="")
        dm.print("stdout", x, file=sys.stdout)

    show(dm.asarray(1))
    show(dm.asarray(2))
    assert stream.getvalue() == "stream 1\nstream 2\n"
    assert logged == ["logger 1", "logger 2"]
    assert (tmp_path / "log.txt").read_text() == "file 1\nfile 2\n"
    assert capfd.readouterr() == ("stdout 1\nstdout 2\n", "stderr 1stderr 2")


def test_print_finds_the_stream_of_the_moment(monkeypatch):
    step = dm.function(lambda x: dm.print("x", x))
    for _ in range(2):
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        step(1)
        assert sys.stdout.getvalue() == "x 1\n"


@MODES
def test_python_print_shows_what_python_shows(wrap, capfd):
    x = dm.asarray([1.5, 2.0])

    @wrap
    def show(x, n):
        python_print("x", x, [x, 1], {"k": n}, n, sep="; ", end=".\n")

    show(x, 3)
    print("x", x, [x, 1], {"k": 3}, 3, sep="; ", end=".\n", flush=True)
    first, second = capfd.readouterr().out.splitlines()
    assert first == second


@MODES
def test_effects_in_loops_and_branches_keep_their_order(wrap, capfd):
    @wrap
    def step(x):
        def body(i, s):
            dm.print("start", i)
            s = dm.numpy_function(lambda a: print("host", a, flush=True) or a + 1, [s], dm.float32)
            dm.cond(i > 0, lambda: dm.print("later", s), lambda: dm.print("first", s))
            debugging.assert_less(s, 3.0, "too much")
            return i + 1, s

        return dm.while_loop(lambda i, s: i < 3, body, (0, x))[1]

    with pytest.raises(AssertionError, match="too much: x < y expected: 3.0 and 3.0"):
        step(dm.asarray(0.0))
    expected = ["start 0", "host 0.0", "first 1.0", "start 1", "host 1.0", "later 2.0"]
    expected += ["start 2", "host 2.0", "later 3.0"]
    assert capfd.readouterr().out.splitlines() == expected
