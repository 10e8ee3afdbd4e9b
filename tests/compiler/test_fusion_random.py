"""Random programs of products, reshapes, transposes and elementwise ops, and their gradients: what
is fused has the results of what is not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode_compiler import driver
from graphs import same, trace, values

SHAPES = [
    [(3, 8, 16), (16, 20), (20,), (3, 8, 20)],
    [(2, 4, 8, 16), (2, 4, 16, 8), (32, 16)],
    [(24, 33), (33, 8), (3, 8, 8), (8, 8)],
    [(4, 16, 16), (16, 64), (64, 16), (16,)],
]
ELEMENTWISE: list[Callable[[Any], Any]] = [
    dm.relu,
    dm.tanh,
    lambda x: x * 0.5,
    lambda x: 0.5 * x * (1.0 + dm.erf(x * 0.7)),
]


def _factors(rng: random.Random, size: int, count: int) -> tuple[int, ...]:
    """`count` sizes whose product is `size`."""
    out: list[int] = []
    for _ in range(count - 1):
        out.append(rng.choice([d for d in range(1, size + 1) if size % d == 0]))
        size //= out[-1]
    return (*out, size)


def _next(rng: random.Random, known: list[Any]) -> Any:
    """A new value of those that are `known`."""
    x = rng.choice(known)
    kind = rng.choice(["product", "product", "reshape", "permute", "elementwise", "add", "sum"])
    if kind == "product" and x.ndim >= 2:
        fits = [y for y in known if y.ndim >= 2 and y.shape[-2] == x.shape[-1]]
        fits = [y for y in fits if y.ndim == 2 or y.shape[:-2] == x.shape[:-2]]
        y = x @ rng.choice(fits) if fits else dm.matmul(x, x, transpose_b=True)
        return y * 0.25
    if kind == "reshape":
        return dm.reshape(x, _factors(rng, x.size, rng.randint(1, 4)))
    if kind == "permute":
        return dm.permute_dims(x, tuple(rng.sample(range(x.ndim), x.ndim)))
    if kind == "add":
        fits = [y for y in known if y.ndim <= x.ndim and y.shape == x.shape[x.ndim - y.ndim :]]
        return x + rng.choice(fits)
    if kind == "sum" and x.ndim:
        return dm.sum(x, axis=rng.randrange(x.ndim)) * 0.125
    return rng.choice(ELEMENTWISE)(x)


def _program(seed: int) -> Callable[..., Any]:
    def run(*xs: Any) -> Any:
        rng, known = random.Random(seed), list(xs)
        with dm.GradientTape() as tape:
            tape.watch(xs)
            for _ in range(rng.randint(4, 9)):
                known.append(_next(rng, known))
        gradients = tape.gradient(known[-1], list(xs), unconnected_gradients="zero")
        return [x * 1.0 for x in (known[-1], rng.choice(known), *gradients)]

    return run


@pytest.mark.parametrize(
    "seed", [*range(12), *(pytest.param(k, marks=pytest.mark.slow) for k in range(12, 300))]
)
def test_random_programs(seed: int):
    specs = [f"float32[{','.join(map(str, s))}]" for s in SHAPES[seed % len(SHAPES)]]
    graph = trace(_program(seed), *specs)
    arrays = [(values(n.spec, k) * 0.5).astype(np.float32) for k, n in enumerate(graph.params)]
    fused = driver.compile(graph).run(arrays)[0]
    apart = driver.compile(graph, optimization=0).run(arrays)[0]
    for k, (a, b) in enumerate(zip(fused, apart, strict=True)):
        same(a, b, 4096, f"result {k}")
