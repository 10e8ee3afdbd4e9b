"""The same bits for any number of threads, and from many threads at once."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode_compiler import driver
from dualmode_compiler.graph import Graph
from dualmode_compiler.runtime import pool
from graphs import Array, trace


def _arrays(graph: Graph) -> list[Array]:
    """Values whose sums depend on their order."""
    rng = np.random.default_rng(7)
    return [rng.standard_normal(n.spec.shape).astype(n.spec.dtype.numpy) for n in graph.params]


def _rows(x: Any, y: Any) -> list[Any]:
    out = [dm.softmax(x), dm.softmax(x, 0), dm.sum(x * y), dm.sum(x, 0), dm.sum(x, 1), dm.mean(x)]
    return [*out, dm.tanh(x) * y, dm.logsumexp(x, 0), dm.argmax(x, 0), dm.prod(dm.cos(x), 1)]


def _products(x: Any, w: Any, b: Any) -> list[Any]:
    y = dm.tanh(x @ w + b)
    return [y, dm.matmul(x, y, True), dm.matmul(y, w, False, True), dm.sum(dm.square(y), 0)]


def _step(w: Any, m: Any, x: Any) -> Any:
    y = x @ w
    g = dm.matmul(x, dm.softmax(y) - y, True)
    m = m * 0.9 + g * 0.1
    return [w - m * 0.01, m], [dm.mean(y * y)]


GRAPHS = {
    "rows": trace(_rows, "float32[500,700]", "float32[500,700]"),
    "long": trace(lambda x: [dm.exp(x), dm.sum(x), dm.max(x)], "float64[700001]"),
    "products": trace(_products, "float32[150,900]", "float32[900,130]", "float32[130]"),
    "batches": trace(lambda x, w: x @ w, "float32[9,70,80]", "float32[9,80,90]"),
    "step": trace(_step, "float32[300,100]", "float32[300,100]", "float32[128,300]", states=2),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_bits_do_not_depend_on_the_number_of_threads(name: str):
    graph = GRAPHS[name]
    executable = driver.compile(graph)
    assert executable.native().program.chunked, "the graph is too small to be cut"
    arrays = _arrays(graph)
    found: set[tuple[bytes, ...]] = set()
    for n in (1, 2, 5):
        pool.set_threads(n)
        for _ in range(3):
            outputs, states = executable.run(arrays)
            found.add(tuple(a.tobytes() for a in (*outputs, *states)))
    assert len(found) == 1


def test_many_callers_at_once():
    """Each run has its own scratch memory; only one caller at a time has the pool."""
    graph = GRAPHS["products"]
    executable = driver.compile(graph)
    arrays = _arrays(graph)
    want = [a.tobytes() for a in executable.run(arrays)[0]]
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(5):
            if [a.tobytes() for a in executable.run(arrays)[0]] != want:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_executables_compiled_at_once_in_several_threads():
    """Expressions are interned for one compilation: another at the same time must not mix in."""

    def fn(k: int) -> Any:
        return lambda x: [dm.softmax(x * float(k)), dm.sum(x + float(k), 0), dm.transpose(x) + x]

    graphs = [trace(fn(k), "float32[17,17]") for k in range(1, 9)]
    alone = [driver.compile(g).native().program.text for g in graphs]
    found: dict[int, str] = {}

    def work(k: int) -> None:
        found[k] = driver.compile(graphs[k]).native().program.text

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(switch)
    assert [found[k] for k in range(8)] == alone
