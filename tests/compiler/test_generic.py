"""Kernels for any size, on hosts of every vector width, between pages that must not be touched."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from functools import cache
from typing import Any

import numpy as np
import pytest

from dualmode.ops import linalg, normalization, reduction, softmax
from dualmode_compiler import spec as specs
from dualmode_compiler.expr import Const
from dualmode_compiler.generic import Generic, reduced, sized
from dualmode_compiler.generic.product import product
from dualmode_compiler.runtime import jit, pool
from dualmode_compiler.runtime.eager_records import COLUMNS, ROWS, Product
from dualmode_compiler.walks import walk
from graphs import on_every_half_host, on_every_host
from guarded import Guarded

SIZES = (1, 2, 7, 8, 16, 17, 33, 63, 64, 65, 100)
ALONG = [
    *(reduction.SUM, reduction.MEAN, reduction.PROD, reduction.MAX, reduction.MIN),
    *(reduction.ARGMAX, reduction.ARGMIN, softmax.SOFTMAX, softmax.LOG_SOFTMAX, softmax.LOGSUMEXP),
]
RANDOM = np.random.default_rng(0)


@cache
def _address(text: str, host: jit.Host) -> Any:
    library = jit.load(jit.compile_text(text, host), ["kernel"], pool.symbols())
    return library, library["kernel"]


def _run(made: Generic, host: jit.Host, arrays: list[Any], steps: list[int], *sizes: int) -> None:
    """All rows, or all columns of the only slice."""
    function = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_int64, c_int64)
    n, m, last = sizes
    table = (c_void_p * len(arrays))(*[a.ctypes.data for a in arrays])
    run = function(_address(made.text, host)[1])
    run(table, (c_int64 * len(steps))(*steps), (c_int64 * 2)(n, m), 0, last)


class Memory:
    """Copies of arrays that end where a page ends that must not be touched."""

    def __init__(self) -> None:
        self._pages: list[Guarded] = []

    def copy(self, x: Any) -> Any:
        x = np.ascontiguousarray(x)
        self._pages.append(Guarded(x.nbytes))
        out = self._pages[-1].array(x, at_end=True)
        out[...] = x
        return out


def _attrs(op: Any) -> dict[str, Any]:
    return {"keepdims": False} if "keepdims" in op.arguments else {}


@on_every_host
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", ALONG, ids=repr)
def test_rows_and_columns(op, dtype, host):
    kind, attrs = specs.dtype(dtype), {**_attrs(op), "axis": (0,)}
    by_rows = reduced.rows(op, [(kind, ("n",))], attrs, host)
    by_columns = reduced.columns(op, [(kind, ("n", "m"))], attrs, host)
    for n in SIZES:
        for m in (1, 5, 64, 67):
            x, memory = RANDOM.uniform(-1, 1, (n, m)).astype(dtype), Memory()
            wanted = np.asarray(op.kernel(x, **attrs))
            out = memory.copy(np.zeros_like(wanted.T))
            step = out.nbytes // m
            _run(by_rows, host, [out, memory.copy(x.T)], [step, n * x.itemsize], n, 1, m)
            close(out.T, wanted)
            out = memory.copy(np.zeros_like(wanted))
            _run(by_columns, host, [out, memory.copy(x)], [0, 0], n, m, m)
            close(out, wanted)


def close(a: Any, b: Any) -> None:
    tolerance = 1e-12 if b.dtype == np.float64 else 1e-5
    np.testing.assert_allclose(a, b, tolerance, tolerance)


PRODUCTS = (
    *((1, 1, 1), (3, 2, 5), (7, 33, 3), (9, 15, 300), (65, 40, 2), (70, 130, 300)),
    *((1, 300, 40), (4, 20, 34), (2, 70, 35), (20, 37, 514), (17, 18, 601), (19, 5, 600)),
)


@on_every_half_host
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("turned", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_products(dtype, turned, host):
    """Small integers: sums are exact in any order."""
    kind = specs.dtype(dtype)
    made = product(kind, host)
    run = ctypes.CFUNCTYPE(None, c_void_p, c_int64)(_address(made.text, host)[1])
    for m, n, k in PRODUCTS:
        a, b = (
            RANDOM.integers(-3, 4, s[::-1] if t else s).astype(kind.numpy)
            for s, t in zip(((m, k), (k, n)), turned, strict=True)
        )
        memory = Memory()
        arrays = [memory.copy(x) for x in (a, b, np.zeros((m, n), kind.numpy))]
        job = Product(batch=1, m=m, n=n, k=k)
        job.a, job.b, job.c = (x.ctypes.data for x in arrays)
        job.lda, job.ldb, (job.turned_a, job.turned_b) = a.shape[1], b.shape[1], turned
        job.rows, job.columns = ROWS, COLUMNS * (4 if m == 1 else 1)
        job.down, job.across = -(-m // ROWS), -(-n // job.columns)
        for chunk in range(job.down * job.across):
            run(ctypes.addressof(job), chunk)
        wanted = linalg.MATMUL.kernel(a, b, *map(bool, turned))
        np.testing.assert_array_equal(arrays[2], wanted)


def test_sizes_become_values():
    """The mean divides by one; the sum asks for none."""
    float32 = specs.float32
    with sized.expr.fresh():
        attrs = {"axis": (0,), "keepdims": False}
        mean, total = (
            sized.lower(op, [(float32, ("n",))], attrs) for op in (reduction.MEAN, reduction.SUM)
        )
        assert mean.size("n") in walk([mean.value])
        assert total.size("n") not in walk([total.value])
        numbers = {e.value for e in walk([mean.value]) if isinstance(e, Const)}
        assert numbers <= {0}


def test_what_depends_on_a_size_otherwise_has_no_kernel():
    host = jit.host()

    def lower(i: Any, out: Any, x: Any, *, axis: Any, keepdims: bool) -> Any:
        (r,) = (sized.expr.Axis(k) for k in x.spec.shape)
        total = sized.expr.reduce("add", [r], x([r]))
        return total * (2.0 if x.spec.shape[0] > 9000 else 1.0)

    attrs = {"axis": (0,), "keepdims": False}
    odd = type(reduction.SUM)("odd", infer=reduction.SUM.infer, kernel=np.sum, lower=lower)
    assert reduced.rows(odd, [(specs.float32, ("n",))], attrs, host) is None


def test_normalization_reads_its_vectors_once_for_all_rows():
    host = jit.host()
    operands = [(specs.float32, ("n",))] * 3
    made = reduced.rows(normalization.LAYER_NORM, operands, {"epsilon": 1e-5}, host)
    x, scale, offset = (RANDOM.normal(size=s).astype("f") for s in ((9, 70), 70, 70))
    memory = Memory()
    arrays = [memory.copy(a) for a in (np.zeros_like(x), x, scale, offset)]
    _run(made, host, arrays, [280, 280, 0, 0], 70, 1, 9)
    close(arrays[0], normalization.LAYER_NORM.kernel(x, scale, offset, 1e-5))
