"""What follows a product, computed between the multiply-adds of its next panel, or asked for there:
the same bits as panel by panel, whatever the cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dualmode as dm
from dualmode_compiler import driver, epilogues
from dualmode_compiler.graph import Graph
from dualmode_compiler.runtime import jit, pool
from graphs import Array, trace

WIDE = jit.host().registers >= 32
pytestmark = pytest.mark.skipif(not WIDE, reason="sums take all registers")


def _adam(g: Any, w: Any, m: Any, v: Any) -> Sequence[Any]:
    m = m + (g - m) * 0.1
    v = v + (dm.square(g) - v) * 0.001
    return [w - 0.01 * m / (dm.sqrt(v) + 1e-7), m, v]


EPILOGUES = {
    "update": _adam,
    "residual": lambda g, w, m, v: [g + w],
    "by row": lambda g, w, m, v: [g * w + m[..., :1]],
    "mask": lambda g, w, m, v: [dm.where(w > 0, g, 0.0), g],
    "activation": lambda g, w, m, v: [dm.tanh(g + w)],
    "other type": lambda g, w, m, v: [dm.astype(g, "float64") + w],
    "angle": lambda g, w, m, v: [dm.sin(g * 1e6 + w)],
}


def _graph(m: int, n: int, k: int, batch: int, transposed: bool, dtype: str, name: str) -> Graph:
    lead = "" if batch == 1 else f"{batch},"
    a = f"{k},{m}" if transposed else f"{m},{k}"

    def fn(x: Any, y: Any, *others: Any) -> list[Any]:
        product = dm.matmul(x, y, transpose_a=transposed)
        return [*EPILOGUES[name](dm.astype(product, "float32"), *others)]

    c = f"float32[{lead}{m},{n}]"
    return trace(fn, f"{dtype}[{lead}{a}]", f"{dtype}[{lead}{k},{n}]", c, c, c)


def _arrays(graph: Graph) -> list[Array]:
    rng = np.random.default_rng(5)
    return [rng.random(p.spec.shape).astype(p.spec.dtype.numpy) for p in graph.params]


def _mixed(executable: driver.Executable) -> bool:
    return "_between" in executable.native().program.text


def _compiled(graph: Graph, far: int = 1) -> driver.Executable:
    """Given the least bytes for which panels are mixed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epilogues, "FAR", far)
        executable = driver.compile(graph)
        executable.native()
    return executable


def _agree(graph: Graph) -> bool:
    """Both ways have equal bits; gives whether there are two."""
    apart, mixed, arrays = _compiled(graph, 1 << 60), _compiled(graph), _arrays(graph)
    assert not _mixed(apart)
    for a, b in zip(mixed.run(arrays)[0], apart.run(arrays)[0], strict=True):
        assert a.tobytes() == b.tobytes()
    return _mixed(mixed)


@pytest.mark.parametrize(
    "case",
    [
        (64, 64, 64, 1, True, "float32", "update"),  # one stretch of K
        (67, 96, 40, 1, True, "float32", "update"),  # panels of two heights
        (160, 256, 700, 1, True, "float32", "residual"),  # several stretches
        (160, 256, 1000, 1, False, "float32", "update"),  # rows of A
        (40, 256, 600, 6, False, "float32", "by row"),
        (96, 64, 99, 2, True, "float32", "mask"),
        (64, 64, 64, 1, True, "float32", "activation"),  # asks alone
        (160, 256, 1000, 1, False, "float32", "activation"),
        (128, 256, 128, 1, False, "bfloat16", "update"),
        (1024, 64, 256, 1, True, "float32", "update"),  # a packed A
        (1025, 64, 700, 1, True, "bfloat16", "activation"),
        (64, 40, 160, 1, True, "float32", "update"),  # columns that make no whole micro-tile
        (67, 99, 160, 2, True, "float32", "residual"),
        (160, 250, 700, 1, True, "float32", "by row"),
        (128, 1000, 700, 1, False, "float32", "update"),
        (256, 3001, 160, 1, True, "float32", "update"),  # several blocks across
        (64, 72, 160, 1, True, "float32", "activation"),
        (128, 250, 640, 1, False, "bfloat16", "update"),
    ],
    ids=str,
)
def test_equal_bits(case: Any):
    assert _agree(_graph(*case))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 130),
    st.integers(1, 150),
    st.integers(1, 300),
    st.integers(1, 2),
    st.booleans(),
    st.sampled_from(["float32", "bfloat16", "float16"]),
    st.sampled_from([*EPILOGUES]),
)
@example(64, 64, 64, 1, True, "float32", "other type")
@example(64, 64, 64, 1, True, "float32", "angle")
def test_any_product(
    m: int, n: int, k: int, batch: int, transposed: bool, dtype: str, name: str
) -> None:
    _agree(_graph(m, n, k, batch, transposed, dtype, name))


def test_bits_do_not_depend_on_the_number_of_threads():
    graph = _graph(512, 256, 96, 1, True, "float32", "update")
    executable, arrays = _compiled(graph), _arrays(graph)
    assert _mixed(executable) and executable.native().program.chunked
    found: set[tuple[bytes, ...]] = set()
    for n in (1, 2, 3):
        pool.set_threads(n)
        found.add(tuple(a.tobytes() for a in executable.run(arrays)[0]))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("case", "mixed"),
    [
        ((64, 64, 64, 1, True, "float32", "residual"), True),
        ((64, 64, 8, 1, True, "float32", "residual"), False),  # too few turns
        ((64, 40, 160, 1, True, "float32", "residual"), True),  # some columns do not wait
        ((64, 15, 64, 1, True, "float32", "residual"), False),  # all need masks
        ((8, 64, 64, 1, True, "float32", "residual"), False),  # a single panel
    ],
)
def test_where_it_is_done(case: Any, mixed: bool):
    assert _mixed(_compiled(_graph(*case))) == mixed


def test_small_arrays_are_at_hand_anyway():
    assert _mixed(driver.compile(_graph(512, 256, 64, 1, True, "float32", "residual")))
    assert not _mixed(driver.compile(_graph(128, 256, 64, 1, True, "float32", "residual")))


def test_what_needs_many_registers_is_only_asked_for():
    def text(name: str) -> str:
        program = _compiled(_graph(64, 64, 64, 1, True, "float32", name)).native().program
        functions = "\n".join(program.functions).split("\n}\n")
        (found,) = (f for f in functions if "_between8(" in f.partition("{")[0])
        return found

    assert "fdiv" in text("update") and "prefetch" in text("update")
    assert "prefetch" in text("activation") and "fdiv" not in text("activation")
