"""Scratch memory of chunks: a block for each thread; products in threads that have little stack."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from functools import cache
from typing import Any

import pytest

from dualmode_compiler.runtime import jit, pool, workspace


@cache
def _ask() -> Any:
    return jit.function(pool.symbols()[workspace.SYMBOL], ctypes.c_void_p, ctypes.c_int64)


def test_a_thread_keeps_its_block_and_others_have_their_own() -> None:
    _ask()(1)
    large = _ask()(3 << 20)
    assert large % 64 == 0
    ctypes.memset(large, 1, 3 << 20)
    assert _ask()(1) == _ask()(3 << 20) == large
    other: list[int] = []
    thread = threading.Thread(target=lambda: other.append(_ask()(1)))
    thread.start()
    thread.join()
    assert other[0] not in (0, large)


def test_blocks_go_with_their_threads() -> None:
    def touch() -> None:
        ctypes.memset(_ask()(8 << 20), 1, 8 << 20)

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    if sys.platform != "linux":
        pytest.skip("asks the system how much memory is in use")
    found: list[int] = []
    for _ in range(12):
        thread = threading.Thread(target=touch)
        thread.start()
        thread.join()
        found.append(resident())
    assert found[-1] - found[1] < 32 << 20


PRODUCTS = """
import threading
import numpy as np
import dualmode as dm

def operand(value, rows, columns, turned, dtype):
    shape = (columns, rows) if turned else (rows, columns)
    return dm.cast(dm.full(shape, value), dtype)

def products():
    for m, n, k in SIZES:
        for dtype in DTYPES:
            for ta, tb in TURNED:
                a, b = operand(1 / k, m, k, ta, dtype), operand(1.0, k, n, tb, dtype)
                multiply = lambda a, b: dm.matmul(a, b, transpose_a=ta, transpose_b=tb)
                ways = [(multiply, 1)]
                if COMPILED:
                    follow = dm.function(lambda a, b: dm.relu(multiply(a, b) + 1))
                    ways = [(dm.function(multiply), 1), (follow, 2)]
                for f, want in ways:
                    c = dm.cast(f(a, b), "float64").numpy()
                    assert np.allclose(c, want, rtol=0.01), (m, n, k, dtype, ta, tb, c)
    done.append(True)

done = []
threading.stack_size(128 << 10)
thread = threading.Thread(target=products)
thread.start()
thread.join()
assert done
"""
EAGER = """
COMPILED = False
SIZES = [(1, 300, 3000), (300, 1, 3000), (5, 700, 600), (900, 6, 700), (40, 290, 700),
         (16, 16, 65536), (300, 310, 320), (520, 530, 1100)]
DTYPES = ["float32", "float64", "bfloat16", "float16"]
TURNED = [(False, False), (True, False), (False, True)]
"""
COMPILED = """
COMPILED = True
SIZES = [(40, 290, 700), (300, 310, 320), (520, 530, 1100)]
DTYPES = ["float32", "float64", "bfloat16"]
TURNED = [(False, True)]
"""


@pytest.mark.parametrize("products", [EAGER, COMPILED], ids=["eager", "compiled"])
def test_products_need_little_stack(products: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("DUALMODE_NUM_THREADS", "1")  # so the thread computes all chunks
    program = [sys.executable, "-c", products + PRODUCTS]
    result = subprocess.run(program, capture_output=True, text=True)
    assert result.returncode == 0, (result.returncode, result.stderr[-2000:])


ROWS = """
import threading
import numpy as np
import dualmode as dm

def normal(x):
    x -= dm.mean(x, axis=-1, keepdims=True)
    return x / dm.sqrt(dm.mean(x * x, axis=-1, keepdims=True) + 1e-5)

X = dm.asarray(np.random.default_rng(0).standard_normal((4, 30_000)).astype("float32"))
KERNELS = [
    (dm.softmax, X),
    (normal, X),
    (lambda x: dm.softmax(dm.exp(normal(x))), X),
    (lambda x: dm.softmax(x, axis=0), X.T),
    (lambda x: dm.softmax(x, axis=0), dm.reshape(X, (300, 400))),
    (lambda x: dm.cumulative_sum(x, axis=-1), X),
    (lambda x: dm.cumulative_sum(dm.cast(x, "float64"), axis=0), dm.reshape(X, (30, 4000))),
    (lambda x: dm.sum(dm.exp(x), axis=0), dm.reshape(X, (30, 4000))),
    (lambda x: dm.argmax(x, axis=0), dm.reshape(X, (30, 4000))),
    (lambda x: dm.logsumexp(x, axis=-1), X),
]

def rows():
    for f, x, want in CASES:
        np.testing.assert_array_equal(f(x), want)
    done.append(True)

FUNCTIONS = [(f, x) for f, x in KERNELS] + [(dm.function(f), x) for f, x in KERNELS]
CASES = [(f, x, f(x).numpy()) for f, x in FUNCTIONS]
done = []
threading.stack_size(64 << 10)
thread = threading.Thread(target=rows)
thread.start()
thread.join()
assert done
"""


def test_rows_need_little_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUALMODE_NUM_THREADS", "1")
    result = subprocess.run([sys.executable, "-c", ROWS], capture_output=True, text=True)
    assert result.returncode == 0, (result.returncode, result.stderr[-2000:])
