"""Kernels that are equal but for their buffers are lowered, emitted and compiled once; many calls
in a row are data."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode_compiler import driver, expr
from dualmode_compiler.alike import Forms, renamed
from dualmode_compiler.emit import jobs
from dualmode_compiler.expr import Axis, Buffer
from dualmode_compiler.graph import Graph
from dualmode_compiler.loops import Store
from dualmode_compiler.spec import Spec, float32, int64
from graphs import trace


def _layers(count: int) -> Graph:
    """Equal layers, each with weights of its own."""

    def network(x: Any, *weights: Any) -> Any:
        for w, b in zip(weights[::2], weights[1::2], strict=True):
            x = dm.softmax(dm.tanh(x @ w + b)) + dm.sum(x, 0) * 0.01
        return x

    return trace(network, "float32[24,24]", *["float32[24,24]", "float32[24]"] * count)


def _run(graph: Graph) -> list[np.ndarray[Any, Any]]:
    random = np.random.default_rng(3)
    arrays = [random.standard_normal(n.spec.shape).astype(np.float32) for n in graph.params]
    return driver.compile(graph).run(arrays)[0]


def test_equal_layers_have_the_code_of_a_few():
    """The first and the last ones may differ from those between."""
    few, many = (driver.compile(_layers(n)).native().program for n in (12, 20))
    assert many.kernels >= few.kernels + 8 * 2
    assert len(many.functions) == len(few.functions)


def test_layers_are_not_mixed_up():
    """Each kernel gets its own buffers: as NumPy computes it."""
    graph = _layers(7)
    random = np.random.default_rng(3)
    x, *weights = (random.standard_normal(n.spec.shape).astype(np.float32) for n in graph.params)
    for w, b in zip(weights[::2], weights[1::2], strict=True):
        y = np.exp(np.tanh(x @ w + b))
        x = y / y.sum(1, keepdims=True) + x.sum(0) * 0.01
    np.testing.assert_allclose(_run(graph)[0], x, rtol=1e-4)


def test_what_follows_products_of_other_widths_is_the_same_code():
    """The distance of rows is an argument; NumPy says whether each has its own."""
    graph = trace(
        lambda x, *w: [dm.relu(x @ a - b) for a, b in zip(w[::2], w[1::2], strict=True)],
        *("float32[64,40]", "float32[40,128]", "float32[64,128]"),
        *("float32[40,256]", "float32[64,256]", "float32[40,64]", "float32[64,64]"),
    )
    executable = driver.compile(graph)
    assert len(re.findall(r"define \S+ void @\w+_epilogue", executable.native().program.text)) == 1
    random = np.random.default_rng(3)
    x, *w = (random.standard_normal(n.spec.shape).astype(np.float32) for n in graph.params)
    for made, a, b in zip(_run(graph), w[::2], w[1::2], strict=True):
        np.testing.assert_allclose(made, np.maximum(x @ a - b, 0), rtol=1e-4, atol=1e-4)


PROGRAMS = {
    "layers": _layers(5),
    "independent": trace(
        lambda *xs: [dm.exp(x) * k for k, x in enumerate(xs)],
        *["float32[700,300]", "float32[5]", "float32[3000,200]", "float32[70]"] * 3,
    ),
    "loop": trace(
        lambda x: (
            dm.softmax(x @ x)
            + dm.fori_loop(0, 3, lambda i, x: dm.softmax(dm.sin(x) @ x) + i * 0.1, x)
        ),
        "float32[20,20]",
    ),
    "concatenation": trace(
        lambda x, y: dm.concat([dm.exp(x), y, x @ x], 0), "float32[90,90]", "float32[80,90]"
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("most", [2, 1024])
def test_calls_as_data_do_the_same(name: str, most: int, monkeypatch: pytest.MonkeyPatch):
    graph = PROGRAMS[name]
    wanted = _run(graph)
    monkeypatch.setattr(jobs, "LEAST", 1)
    monkeypatch.setattr(jobs, "FEW", 1)
    monkeypatch.setattr(jobs, "MOST", most)
    assert "@jobs" in driver.compile(graph).native().program.text
    for a, b in zip(_run(graph), wanted, strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_long_program_is_short_text():
    """A call more is some numbers, not instructions."""
    few, many = (driver.compile(_layers(n)).native().program for n in (16, 48))
    assert "@jobs" in few.text
    assert len(many.functions[-1].splitlines()) < len(few.functions[-1].splitlines()) + 8


# --- keys ---------------------------------------------------------------------------------------


def _store(a: Buffer, b: Buffer, n: int = 8, scale: float = 2.0, step: int = 1) -> Store:
    i, r = Axis(n), Axis(5)
    total = expr.reduce("add", (r,), expr.load(b, (r * step + i,)))
    value = expr.load(a, (i,)) * expr.const(scale, float32) + total
    return Store(a, i, value, 1)


@pytest.fixture
def buffers() -> list[Buffer]:
    return [Buffer(f"b{k}", Spec((100,), float32)) for k in range(4)]


def test_keys_are_those_of_the_structure(buffers: list[Buffer]):
    a, b, c, d = buffers
    forms = Forms()
    key, found = forms.of(_store(a, b))
    assert found == [a, b]
    assert forms.of(_store(c, d)) == (key, [c, d])
    others = [
        _store(a, a),
        _store(a, b, n=9),
        _store(a, b, scale=3.0),
        _store(a, b, step=2),
        _store(a, Buffer("x", Spec((101,), float32))),
    ]
    assert len({key, *(forms.of(s)[0] for s in others)}) == 1 + len(others)


def test_bound_axes_are_told_apart(buffers: list[Buffer]):
    """Sums over the same axis, and over others of the same size."""
    a, *_ = buffers
    i, j, k = (Axis(4) for _ in range(3))

    def pair(x: Axis, y: Axis) -> Any:
        loads = (expr.load(a, (x * 2 + y + i,)), expr.load(a, (x + y * 2 + i,)))
        return expr.reduce("add", (x,), loads[0]) - expr.reduce("add", (y,), loads[1])

    forms = Forms()
    assert forms.of(pair(j, k))[0] == forms.of(pair(Axis(4), Axis(4)))[0]
    assert forms.of(pair(j, k))[0] != forms.of(pair(i, k))[0]
    one = expr.const(1.0, float32)
    sums = [expr.reduce("add", (axis,), one) for axis in (j, k, Axis(5))]
    assert len({forms.of(x)[0] for x in sums}) == 2


def test_renamed(buffers: list[Buffer]):
    a, b, c, d = buffers
    store = _store(a, b)
    forms = Forms()
    made = renamed(store, {a: c, b: d})
    assert forms.of(made) == (forms.of(store)[0], [c, d])
    assert made.offset is store.offset
    assert forms.of(store)[1] == [a, b]
    assert renamed((expr.const(1, int64), [a, 3]), {a: b}) == (expr.const(1, int64), [b, 3])
