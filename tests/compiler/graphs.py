"""Graphs for the compiler's tests: traced from functions, or drawn, and run against the oracle."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from dualmode import op
from dualmode.tensor import Tensor
from dualmode.tracer import Tracer
from dualmode_compiler import driver
from dualmode_compiler.graph import Graph
from dualmode_compiler.halves import multiplies_pairs
from dualmode_compiler.interpret import Interpreter
from dualmode_compiler.runtime import jit
from dualmode_compiler.spec import DTYPES, Spec, spec_of
from dualmode_compiler.text import parse_spec

Array = np.ndarray[Any, Any]


def trace(fn: Callable[..., Any], *specs: Any, states: int = 0) -> Graph:
    """The graph of `fn` on parameters of these specs, given as text or as arrays.

    The first `states` parameters are states; `fn` then returns their new values and the outputs.
    """
    tracer = Tracer()
    params = [tracer.param(_spec(s)) for s in specs]
    with op.mode(tracer):
        out = fn(*params)
        new, out = out if states else ((), out)
        outputs = [tracer.node(_tensor(x)) for x in _many(out)]
        updates = [(k, tracer.node(_tensor(x))) for k, x in enumerate(new)]
    graph = tracer.finish(outputs)
    graph.updates += updates
    return graph


def _spec(x: Any) -> Spec:
    if isinstance(x, str):
        return parse_spec(x)
    return x if isinstance(x, Spec) else spec_of(x)


def _many(x: Any) -> Sequence[Any]:
    return x if isinstance(x, list | tuple) else [x]


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else op.convert(x)


@cache
def hosts() -> tuple[jit.Host, ...]:
    """This machine, and as if it had only its narrower vectors."""
    here = jit.host()
    found = [here]
    if platform.machine() == "x86_64":
        if here.vector_bytes > 32:
            features = here.features + ",-avx512f,-avx512vl,-avx512dq,-avx512bw"
            found.append(replace(here, features=features, vector_bytes=32, registers=16))
        if here.vector_bytes > 16:
            features = here.features + ",-avx512f,-avx2"
            found.append(replace(here, features=features, vector_bytes=16, registers=16))
    return tuple(found)


on_every_host = pytest.mark.parametrize(
    "host", hosts(), ids=[f"{8 * h.vector_bytes} bits" for h in hosts()]
)


def _half_hosts() -> list[jit.Host]:
    """All of `hosts()`, and this machine without products of bfloat16."""
    here = jit.host()
    without = here.features.replace("+avx512bf16", "-avx512bf16")
    return [*hosts(), replace(here, features=without)] if multiplies_pairs(here) else [*hosts()]


on_every_half_host = pytest.mark.parametrize(
    "host",
    _half_hosts(),
    ids=lambda h: f"{8 * h.vector_bytes} bits{', pairs' * multiplies_pairs(h)}",
)


def values(spec: Any, seed: int = 0) -> Array:
    """Small integers of every sign, so that sums and products are exact in any order."""
    spec = _spec(spec)
    rng = np.random.default_rng([seed, spec.size])
    kind = spec.dtype.kind
    low = 0 if kind in "bu" else -3
    x = rng.integers(low, 2 if kind == "b" else 4, spec.shape)
    if kind == "c":
        x = x + 1j * rng.integers(-3, 4, spec.shape)
    return np.asarray(x).astype(spec.dtype.numpy)


def check(
    graph: Graph,
    arrays: Sequence[Array] | None = None,
    host: jit.Host | None = None,
    ulp: float | None = None,
) -> list[Array]:
    """Compile and run `graph`; its results must be those of the interpreter, bit for bit, or
    within `ulp` times the epsilon of the dtype, relative to the largest element."""
    if arrays is None:
        arrays = [values(n.spec, k) for k, n in enumerate(graph.params)]
    before = [a.copy() for a in arrays]
    expected = Interpreter(graph).run(arrays)
    actual = driver.compile(graph, host=host).run(arrays)
    for a, b in zip(arrays, before, strict=True):
        assert a.tobytes() == b.tobytes(), "an input was written to"
    for k, (a, b) in enumerate(
        zip([*actual[0], *actual[1]], [*expected[0], *expected[1]], strict=True)
    ):
        same(a, b, ulp, f"result {k}")
    return [*actual[0], *actual[1]]


def same(a: Array, b: Array, ulp: float | None = None, what: str = "") -> None:
    assert (a.shape, a.dtype) == (b.shape, b.dtype), (a.shape, a.dtype, b.shape, b.dtype)
    if a.dtype.kind in "biu":
        np.testing.assert_array_equal(a, b, what)
        return
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    x, y = a.astype(wide), b.astype(wide)
    if ulp is None:
        np.testing.assert_array_equal(x, y, what)
        return
    finite = np.abs(y[np.isfinite(y)])
    bound = ulp * _epsilon(a.dtype) * max(1.0, finite.max(initial=0.0))
    np.testing.assert_allclose(x, y, rtol=0, atol=bound, err_msg=what)


def _epsilon(dtype: np.dtype[Any]) -> float:
    bits = {"float16": 10, "bfloat16": 7, "float32": 23, "complex64": 23}
    return 2.0 ** -bits.get(dtype.name, 52)


REAL = [name for name, d in DTYPES.items() if not d.is_complex]
