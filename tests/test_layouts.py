"""Wherever and however arguments lie in memory, results are the same, and arguments stay as is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dualmode as dm
from layouts import LAYOUTS, laid_out
from levels import COMBINATIONS
from op_table import SPECIAL, rows

ROWS = rows()
COMPUTED = sorted(name for name, row in ROWS.items() if not row.op.effect and row.arity)
Array = np.ndarray[Any, Any]
QUICK = settings(deadline=None, derandomize=True)


def bits(xs: Any) -> list[tuple[tuple[int, ...], bytes]]:
    arrays = [np.asarray(x) for x in (xs if isinstance(xs, list | tuple) else [xs])]
    return [(a.shape, a.tobytes()) for a in arrays]


@pytest.mark.parametrize("name", COMPUTED)
@settings(QUICK, max_examples=5)
@given(data=st.data())
def test_ops(name: str, data: st.DataObject):
    """As arrays and as tensors, eager and compiled."""
    row = ROWS[name]
    arrays, attrs = row.examples(data.draw)
    placed = [laid_out(data.draw, x) for x in arrays]
    before = bits(placed)

    def call(*xs: Any) -> Any:
        return row.call(*map(dm.asarray, xs), **attrs)

    compiled = dm.function(call)
    with dm.config.override(**data.draw(st.sampled_from(COMBINATIONS))):
        want = bits(compiled(*arrays))
        assert bits(compiled(*placed)) == want
        assert bits(compiled(*map(dm.asarray, placed))) == want
    assert bits(call(*placed)) == bits(call(*arrays))
    assert bits(placed) == before, "an argument was written to"


# --- arguments that share memory ------------------------------------------------------------------


def _pair(base: Array) -> dict[str, tuple[Array, Array]]:
    n = len(base) - 3
    return {
        "one array": (base[:n], base[:n]),
        "shifted": (base[:n], base[3:]),
        "shifted back": (base[3:], base[:n]),
        "reversed": (base[:n], base[:n][::-1]),
        "both reversed": (base[3:][::-1], base[:n][::-1]),
        "strided": (base[: n // 2], base[: n // 2 * 2 : 2]),
    }


BASE = np.concatenate([np.linspace(-3, 3, 1000), SPECIAL]).astype(np.float32)
PAIRS = sorted(_pair(BASE))


def _both(fn: Callable[..., Any], start: Array, args: Sequence[Array]) -> None:
    """`fn(variable, *args)` twice in both modes: the same results, variable, and arguments."""
    found = []
    for mode in (lambda f: f, dm.function):
        v = dm.Variable(start)
        call = mode(lambda *xs, v=v: fn(v, *map(dm.asarray, xs)))
        out = [[np.asarray(x) for x in (*call(*args), v.read_value())] for _ in range(2)]
        found.append([*out[0], *out[1]])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", COMBINATIONS, ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_arguments_that_overlap(name: str, settings: dict[str, Any]):
    base = BASE.copy()
    a, b = _pair(base)[name]

    def update(v: Any, x: Any, y: Any) -> Any:
        old = v.read_value()
        v.assign(x * 0.5 + y[::-1])
        v.assign_add(old)
        return x - y, dm.concat([y, x])[1:], old

    with dm.config.override(**settings):
        _both(update, a, (a, b))
    assert base.tobytes() == BASE.tobytes()


@pytest.mark.parametrize("settings", COMBINATIONS, ids=str)
def test_a_variables_value_as_an_argument(settings: dict[str, Any]):
    """The argument is the variable's own memory; what was passed and read stays as it is."""

    def update(v: Any, x: Any, y: Any) -> Any:
        v.assign(dm.flip(x) * 0.5 + y)
        return x + y, v.read_value() - x

    found = []
    for mode in (lambda f: f, dm.function):
        with dm.config.override(**settings):
            v = dm.Variable(BASE[:1000])
            call = mode(lambda x, y, v=v: update(v, x, y))
            out: list[Any] = []
            for _ in range(3):
                x, shown = v.read_value(), v.numpy()
                before = shown.copy()
                out += [*call(x, x), v.read_value()]
                out += call(shown, dm.asarray(shown))
                assert np.asarray(x).tobytes() == shown.tobytes() == before.tobytes()
            found.append([np.asarray(x) for x in out])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("settings", COMBINATIONS, ids=str)
def test_two_variables_of_one_array(settings: dict[str, Any]):
    """Each has a copy of its own, and so have those that take each other's values."""
    base = BASE[:997].copy()
    found = []
    for mode in (lambda f: f, dm.function):
        with dm.config.override(**settings):
            v, w = dm.Variable(base), dm.Variable(base[::-1])

            def swap(x: Any, v: Any = v, w: Any = w) -> Any:
                a, b = v.read_value(), w.read_value()
                v.assign(b)
                w.assign(a + x)
                return a - b

            call = mode(swap)
            out = [np.asarray(call(base)) for _ in range(3)]
            found.append([*out, v.numpy(), w.numpy()])
            del swap
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    assert base.tobytes() == BASE[:997].tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4), (1, 1), (), (1, 17), (17, 1)])
def test_shapes_with_little_in_them(layout: str, shape: tuple[int, ...]):
    x = LAYOUTS[layout](np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(np.float32))
    axis = -1 if shape else None

    def call(x: Any) -> list[Any]:
        return [dm.sum(x, axis), x * 2.0, dm.sum(x), dm.reshape(x, (-1,)), x == x]

    assert bits(dm.function(call)(x)) == bits(call(x))
