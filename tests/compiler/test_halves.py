"""Products of float16 and bfloat16: exact sums, subnormal numbers, and pairs."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dualmode as dm
from dualmode_compiler import driver, expr
from dualmode_compiler.expr import Axis, apply
from dualmode_compiler.graph import Graph
from dualmode_compiler.halves import Half, multiplies_pairs
from dualmode_compiler.interpret import Interpreter
from dualmode_compiler.loops import Kernel
from dualmode_compiler.runtime import jit, pool
from dualmode_compiler.spec import Spec, bfloat16, float32, float64, spec_of
from graphs import Array, check, on_every_half_host, trace
from ops import SmallOp
from scalar_harness import kernel

BF16: Any = ml_dtypes.bfloat16
LEAST = 2.0**-126  # the least normal number of bfloat16 and float32


def _product(m: int, n: int, k: int, a: bool, b: bool, dtype: str, *batch: int) -> Any:
    shapes = [(k, m) if a else (m, k), (n, k) if b else (k, n)]
    specs = [f"{dtype}[{','.join(map(str, (*batch, *s)))}]" for s in shapes]
    return trace(lambda x, y: [dm.matmul(x, y, a, b)], *specs)


def _contraction(graph: Any, host: jit.Host | None = None) -> Any:
    steps = driver.compile(graph, host=host).native().plan.steps
    (kernel,) = (s for s in steps if isinstance(s, Kernel))
    assert kernel.contraction is not None
    return kernel.contraction


@on_every_half_host
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("size", [(33, 47, 10), (40, 3, 64), (1, 130, 66), (70, 65, 259)])
def test_sums_are_exact(size: tuple[int, int, int], dtype: str, host: jit.Host):
    """Small integers: the interpreter's result is exact, and so is ours, in any order."""
    for a, b in itertools.product((False, True), repeat=2):
        check(_product(*size, a, b, dtype), host=host)


@on_every_half_host
def test_batches_and_epilogues(host: jit.Host):
    check(_product(16, 18, 24, False, True, "bfloat16", 3), host=host)
    check(_product(16, 18, 25, True, False, "bfloat16", 2, 2), host=host)
    graph = trace(
        lambda x, y, z: [dm.relu(x @ y + z), dm.cast(x @ y, "float32") * 2],
        *("bfloat16[20,30]", "bfloat16[30,40]", "bfloat16[40]"),
    )
    check(graph, host=host)


def test_the_sum_is_rounded_once():
    """Terms far below the last digit of bfloat16 count together."""
    x = np.full((16, 1024), 2.0**-10, BF16)
    x[:, 0] = 1
    y = np.ones((1024, 16), BF16)
    exact = np.float32(1 + 1023 * 2.0**-10).astype(BF16)
    (got,), _ = driver.compile(_product(16, 16, 1024, False, False, "bfloat16")).run([x, y])
    assert (got == exact).all()


def test_pairs_are_multiplied_where_the_cpu_does_so():
    c = _contraction(_product(32, 32, 32, False, False, "bfloat16"))
    assert c.gemm.half == Half(bfloat16, flushed=True)
    program = driver.compile(_product(32, 32, 32, False, True, "bfloat16")).native().program
    assert ("dpbf16ps" in program.text) == multiplies_pairs(jit.host())
    assert ("cvtneps2bf16" in program.text) == multiplies_pairs(jit.host())
    half = driver.compile(_product(32, 32, 32, False, True, "float16")).native().program
    assert "dpbf16ps" not in half.text and "dm_pack_float16" in half.text


@on_every_half_host
@pytest.mark.parametrize("size", [(32, 32, 32), (2, 3, 4)])
def test_subnormal_operands_are_zeros(size: tuple[int, int, int], host: jit.Host):
    """In loops, in products of pairs and of float32, and in NumPy's kernel."""
    m, n, k = size
    x, y = np.full((m, k), LEAST / 2, BF16), np.full((k, n), 2.0**100, BF16)
    x[0], y[:, 0] = LEAST, 2.0**110
    graph = _product(m, n, k, False, False, "bfloat16")
    (got,), _ = driver.compile(graph, host=host).run([x, y])
    (want,), _ = Interpreter(graph).run([x, y])
    assert (want[1:] == 0).all() and (want[0] > 0).all()
    np.testing.assert_array_equal(got.astype(float), want.astype(float))


def _wide_lower(i: Any, out: Spec, x: Any, y: Any) -> Any:
    k = Axis(32)
    row, column = (expr.cast(v, float32) for v in (x((i[0], k)), y((k, i[1]))))
    return expr.reduce("add", [k], row * column)


# a product in float32 of bfloat16 operands as they are
WIDE = SmallOp("wide", lambda x, y: Spec((32, 32), float32), lower=_wide_lower)


@on_every_half_host
def test_only_what_says_so_is_flushed(host: jit.Host):
    x, y = np.full((32, 32), LEAST / 2, BF16), np.full((32, 32), 2.0**100, BF16)
    graph = Graph()
    operands = [graph.param(spec_of(a)) for a in (x, y)]
    graph.outputs = [graph.add(WIDE, operands, {})]
    assert _contraction(graph, host).gemm.half == Half(bfloat16, flushed=False)
    (got,), _ = driver.compile(graph, host=host).run([x, y])
    assert (got == np.float32(32 * LEAST / 2 * 2.0**100)).all()


def test_operands_with_rows_of_odd_length():
    graph = trace(
        lambda x, y: [x[:, :34] @ y, dm.matmul(y[:34, 1:], x[:, :34], True, True)],
        *("bfloat16[20,35]", "bfloat16[34,31]"),
    )
    check(graph)


def test_what_the_user_casts_keeps_subnormal_numbers():
    x, y = np.full((32, 32), LEAST / 2, BF16), np.full((32, 32), 2.0**100, BF16)

    graph = trace(
        lambda x, y: [dm.cast(x, "float32") @ dm.cast(y, "float32")],
        *("bfloat16[32,32]", "bfloat16[32,32]"),
    )
    (got,), _ = driver.compile(graph).run([x, y])
    assert (got == np.float32(32 * LEAST / 2 * 2.0**100)).all()


@on_every_half_host
def test_nan_and_infinity(host: jit.Host):
    x = np.ones((24, 24), BF16)
    y = np.ones((24, 24), BF16)
    x[0, 1], x[1, 2], x[2, 3], x[2, 4] = np.nan, np.inf, np.inf, -np.inf
    x[3, 5], y[5, :] = np.inf, 0
    x[4], x[5, :2], y[:2, 3] = 3e38, 3e38, [3e38, 1]
    graph = _product(24, 24, 24, False, False, "bfloat16")
    (got,), _ = driver.compile(graph, host=host).run([x, y])
    with np.errstate(all="ignore"):
        (want,), _ = Interpreter(graph).run([x, y])
    np.testing.assert_array_equal(got.astype(float), want.astype(float))


def test_bits_do_not_depend_on_the_number_of_threads():
    graph = _product(200, 150, 300, False, True, "bfloat16")
    executable = driver.compile(graph)
    assert executable.native().program.chunked
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(n.spec.shape).astype(BF16) for n in graph.params]
    found: set[bytes] = set()
    for n in (1, 2, 5):
        pool.set_threads(n)
        found.add(executable.run(arrays)[0][0].tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("lanes", [1, 4, 8, 16])
def test_flush_and_narrow(lanes: int):
    edges = [0.0, LEAST, LEAST / 2, 1e-45, 1.0, 3.0e38, np.inf, np.nan]
    edges += [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20]
    x = np.array([*edges, *(-e for e in edges)] * 16, np.float32)
    zero = np.where(np.abs(x) < LEAST, np.float32(0), x)
    np.testing.assert_array_equal(kernel(lambda x: apply("flush", x), [float32], lanes)(x), zero)
    narrow = kernel(lambda x: apply("narrow", x, dtype=bfloat16), [float32], lanes)(x)
    np.testing.assert_array_equal(narrow.astype(float), zero.astype(BF16).astype(float))
    wide = np.array([2.0**-1022, 2.0**-1023, -(2.0**-1074), np.nan, 1.0] * 16)
    got = kernel(lambda x: apply("flush", x), [float64], lanes)(wide)
    np.testing.assert_array_equal(got, np.where(np.abs(wide) < 2.0**-1022, 0, wide))


def test_both_modes_agree_on_subnormal_sums():
    rng = np.random.default_rng(5)
    a, b = (rng.standard_normal((40, 40)).astype(np.float32) * 2.0**-64 for _ in range(2))
    x, y = dm.tensor(a.astype(BF16)), dm.tensor(b.astype(BF16))
    compiled: Array = np.asarray(dm.function(dm.matmul)(x, y)).astype(float)
    with dm.config.override(kernels="numpy"):
        eager = np.asarray(x @ y).astype(float)
    assert (np.abs(compiled - eager) <= 40 * LEAST + 2.0**-7 * np.abs(eager)).all()
