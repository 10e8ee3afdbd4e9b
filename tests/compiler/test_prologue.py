"""What comes before a product: computed as its rows are read, rather than stored first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dualmode as dm
from dualmode_compiler import driver, expr
from dualmode_compiler.contraction import computes_operands
from dualmode_compiler.cost import Cost, kernel_cost
from dualmode_compiler.expr import Axis, Buffer
from dualmode_compiler.graph import Graph
from dualmode_compiler.loops import Kernel
from dualmode_compiler.runtime import jit
from dualmode_compiler.spec import Spec, float32
from graphs import check, hosts, same, trace

PROLOGUES: dict[str, tuple[Any, str]] = {
    "scale": (lambda x: x * 0.5, "float32"),
    "cast": (lambda x: dm.astype(x, "float32"), "int8"),
    "cast of a half type": (lambda x: dm.astype(x, "float32"), "bfloat16"),
    "cast and scale": (lambda x: dm.astype(x, "float32") * 0.25, "uint8"),
    "activation": (lambda x: dm.relu(x + 1.0), "float32"),
    "choice": (lambda x: dm.where(x > 0, x, 0.5), "float32"),
}


# What is computed of B, of as many rows as A has columns; the mask has its sizes, the factors lie
# along one of its axes.
WEIGHTS: dict[str, tuple[Any, str]] = {
    "scale": (lambda w, mask, rows, columns: w * 0.5, "float32"),
    "scales of rows": (lambda w, mask, rows, columns: w * rows, "float32"),
    "scales of columns": (lambda w, mask, rows, columns: w * columns + 1.0, "float32"),
    "cast": (lambda w, mask, rows, columns: dm.astype(w, "float32"), "int8"),
    "cast of a half type": (lambda w, mask, rows, columns: dm.astype(w, "float32"), "bfloat16"),
    "mask": (lambda w, mask, rows, columns: dm.where(mask, w * 2.0, 0.0), "float32"),
}


def _kernels(graph: Graph) -> list[Kernel]:
    steps = driver.compile(graph).native().plan.steps
    return [s for s in steps if isinstance(s, Kernel)]


def _graph(name: str, m: int, n: int, k: int, batch: int = 1, follows: bool = False) -> Graph:
    before, dtype = PROLOGUES[name]
    lead = "" if batch == 1 else f"{batch},"

    def fn(x: Any, w: Any, b: Any) -> list[Any]:
        y = dm.matmul(before(x), w)
        return [dm.relu(y + b)] if follows else [y]

    weights = f"float32[{lead if k % 2 else ''}{k},{n}]"
    return trace(fn, f"{dtype}[{lead}{m},{k}]", weights, f"float32[{n}]")


@pytest.mark.parametrize("name", PROLOGUES)
def test_it_is_part_of_the_product(name: str):
    (kernel,) = _kernels(_graph(name, 40, 48, 32))
    assert kernel.contraction is not None
    assert kernel.contraction.left is not None


@pytest.mark.parametrize("host", hosts(), ids=lambda h: f"{8 * h.vector_bytes} bits")
@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([*PROLOGUES]),
    st.integers(1, 70),
    st.integers(2, 64),
    st.integers(2, 70),
    st.integers(1, 3),
    st.booleans(),
)
@example("scale", 300, 64, 700, 1, True)  # several blocks and stretches
@example("cast", 130, 61, 520, 2, False)
@example("activation", 8, 16, 3000, 1, False)  # a long sum, in parts
@example("activation", 300, 4, 600, 1, True)  # a few columns and long sums: inner products
@example("activation", 300, 9, 600, 1, True)
def test_any_product(
    host: jit.Host, name: str, m: int, n: int, k: int, batch: int, follows: bool
) -> None:
    check(_graph(name, m, n, k, batch, follows), host=host)


def _weights_graph(
    name: str, m: int, n: int, k: int, batch: int = 1, both: bool = False, follows: bool = False
) -> Graph:
    before, dtype = WEIGHTS[name]
    lead = "" if batch == 1 else f"{batch},"

    def fn(x: Any, w: Any, mask: Any, rows: Any, columns: Any) -> list[Any]:
        y = dm.matmul(dm.relu(x) if both else x, before(w, mask, rows, columns))
        return [dm.tanh(y + columns)] if follows else [y]

    c = f"{k},{n}]"
    specs = [f"float32[{lead}{m},{k}]", f"{dtype}[{lead}{c}", f"bool[{lead}{c}"]
    return trace(fn, *specs, f"float32[{k},1]", f"float32[{n}]")


@pytest.mark.parametrize("name", WEIGHTS)
def test_what_comes_before_the_weights_is_part_of_the_product(name: str):
    (kernel,) = _kernels(_weights_graph(name, 40, 48, 32))
    assert kernel.contraction is not None
    assert kernel.contraction.right is not None


@pytest.mark.parametrize("host", hosts(), ids=lambda h: f"{8 * h.vector_bytes} bits")
@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([*WEIGHTS]),
    st.integers(1, 70),
    st.integers(2, 90),
    st.integers(2, 70),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
@example("mask", 300, 300, 700, 1, True, True)  # several blocks and stretches
@example("scales of rows", 130, 93, 1100, 1, False, True)
@example("cast", 40, 15, 100, 2, False, False)  # less than a vector across
@example("scale", 8, 64, 3000, 1, False, False)  # a long sum, in parts
@example("scale", 1, 2048, 1030, 1, False, False)  # large for a few rows
@example("scale", 2, 2048, 1030, 1, True, True)
def test_any_weights(
    host: jit.Host, name: str, m: int, n: int, k: int, batch: int, both: bool, follows: bool
) -> None:
    check(_weights_graph(name, m, n, k, batch, both, follows), host=host, ulp=8)


def test_a_mask_that_nobody_else_needs_is_applied_as_rows_are_read():
    fn = lambda x, w, m: [dm.where(m, x * 2.0, 0.0) @ w]  # noqa: E731
    specs = ["float32[64,48]", "float32[48,40]", "bool[64,48]"]
    (kernel,) = _kernels(trace(fn, *specs))
    assert kernel.contraction is not None and kernel.contraction.left is not None
    check(trace(fn, *specs))


def test_many_columns_of_a_large_array():
    def fn(x: Any, w: Any) -> Any:
        return dm.relu(x) @ w

    (kernel,) = _kernels(trace(fn, "float32[2000,160]", "float32[160,80]"))
    assert kernel.contraction is not None and kernel.contraction.left is not None
    check(trace(fn, "float32[2000,160]", "float32[160,80]"))


def test_what_is_stored_for_others_is_not_computed_again():
    """Forward the product might compute its operand; on the way back another needs it in memory."""

    def fn(x: Any, w: Any, d: Any) -> list[Any]:
        y = dm.relu(x + 1.0)
        return [y @ w, dm.matmul(y, d, transpose_a=True)]

    specs = ["float32[64,48]", "float32[48,40]", "float32[64,40]"]
    contractions = [k.contraction for k in _kernels(trace(fn, *specs)) if k.contraction]
    assert [c.left for c in contractions] == [None, None]
    check(trace(fn, *specs))


def test_what_follows_a_product_is_computed_there():
    specs = ["float32[64,48]", "float32[48,40]", "float32[40,32]"]
    first, second = _kernels(trace(lambda x, w, u: [dm.relu(x @ w) @ u], *specs))
    assert first.contraction is not None and second.contraction is not None
    assert second.contraction.left is None
    assert len(first.nodes) == 2
    check(trace(lambda x, w, u: [dm.relu(x @ w) @ u], *specs), ulp=4)


def test_the_same_bits_as_of_a_stored_operand():
    graph = _graph("scale", 64, 48, 300, follows=True)
    rng = np.random.default_rng(4)
    x, w, b = (rng.standard_normal(p.spec.shape).astype(np.float32) for p in graph.params)
    stored = trace(lambda x, w, b: [dm.relu(dm.matmul(x, w) + b)], *(p.spec for p in graph.params))
    (got,), _ = driver.compile(graph).run([x, w, b])
    (want,), _ = driver.compile(stored).run([x * np.float32(0.5), w, b])
    same(got, want)


X, W = "float32[64,48]", "float32[48,40]"
APART: dict[str, tuple[Any, list[str]]] = {
    "weights of few rows": (lambda x, w: [x @ (w * 0.5)], ["float32[3,480]", "float32[480,400]"]),
    "columns of weights": (
        lambda x, w: [dm.matmul(x, w * 0.5, transpose_b=True)],
        [X, "float32[40,48]"],
    ),
    "columns": (lambda x, w: [dm.matmul(x * 0.5, w, transpose_a=True)], ["float32[48,64]", W]),
    "rows and columns": (lambda x, w: [(x * dm.transpose(x)) @ w], ["float32[48,48]", W]),
    "rows of both": (
        lambda x, w: [dm.matmul(x * 0.5, w, transpose_b=True)],
        [X, "float32[40,48]"],
    ),
    "a vector": (lambda x, w: [(x * 0.5) @ w], ["float32[64,480]", "float32[480]"]),
    "many columns": (lambda x, w: [(x * 0.5) @ w], [X, "float32[48,80]"]),
    "inner products": (lambda x, w: [(x * 0.5) @ w], ["float32[300,600]", "float32[600,4]"]),
    "much to compute": (lambda x, w: [dm.exp(x) @ w], [X, W]),
}


@pytest.mark.parametrize("name", APART)
def test_what_is_stored_first(name: str):
    fn, specs = APART[name]
    graph = trace(fn, *specs)
    found = [k.contraction for k in _kernels(graph) if k.contraction is not None]
    assert all(c.left is None and c.right is None for c in found)
    check(graph, ulp=8 if name == "much to compute" else None)


def test_rows_of_b_that_overlap_are_not_read_so():
    m, n, k = Axis(8), Axis(16), Axis(32)
    x, b = Buffer("x", Spec((8, 32), float32)), Buffer("b", Spec((64,), float32))
    half = expr.apply("mul", expr.load(x, (m, k)), expr.const(0.5, float32))

    def total(at: expr.Expr) -> expr.Expr:
        return expr.reduce("add", (k,), expr.apply("mul", half, expr.load(b, (at,))))

    assert computes_operands(total(k * 2 + n), (m, n))
    assert not computes_operands(total(k + n), (m, n))


def test_the_cost_model_counts_it():
    def cost(name: str) -> Cost:
        (kernel,) = _kernels(_graph(name, 40, 48, 32))
        return kernel_cost(kernel)

    assert cost("scale").flops == 40 * 48 * 32 + 40 * 32
    assert cost("cast").read == 40 * 32 + 4 * 48 * 32
