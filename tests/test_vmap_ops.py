"""`vmap` of every op of the op table against calling it for one example after another."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dualmode as dm
from dualmode.op import Agreement
from dualmode.ops import OPS
from op_table import Array, Attrs, Row, assert_agree, rows

ROWS = rows()
COMPUTED = sorted(name for name, row in ROWS.items() if not row.op.effect)
SIZE = 3


def shuffled(x: Array, rng: np.random.Generator) -> Array:
    """Examples with the elements of `x` in other orders: what was in range stays so."""
    return np.stack([rng.permutation(x.reshape(-1)).reshape(x.shape) for _ in range(SIZE)])


def draw_examples(
    row: Row, data: st.DataObject
) -> tuple[list[Array], list[int | None], list[list[Array]], Attrs]:
    """Inputs with a mapped axis at any place, these axes, and the inputs of each example."""
    arrays, attrs = row.examples(data.draw)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    mapped = data.draw(
        st.lists(st.booleans(), min_size=len(arrays), max_size=len(arrays)).filter(any)
        if arrays
        else st.just([])
    )
    inputs: list[Array] = []
    axes: list[int | None] = []
    examples: list[list[Array]] = [[] for _ in range(SIZE)]
    for x, m in zip(arrays, mapped, strict=True):
        many = shuffled(x, rng) if m else np.stack([x] * SIZE)
        axis = data.draw(st.integers(-x.ndim - 1, x.ndim)) if m else None
        inputs.append(x if axis is None else np.moveaxis(many, 0, axis))
        axes.append(axis)
        for own, one in zip(examples, many, strict=True):
            own.append(np.array(one, order="C"))
    return inputs, axes, examples, attrs


def check(row: Row, data: st.DataObject, transform: Any) -> None:
    inputs, axes, examples, attrs = draw_examples(row, data)
    expected = np.stack([np.asarray(row.call(*map(dm.asarray, x), **attrs)) for x in examples])

    def one(count: Any, *xs: Any) -> Any:  # `count` maps ops without inputs as well
        return row.call(*xs, **attrs)

    many = transform(dm.vmap(one, in_axes=(0, *axes)))
    actual = np.asarray(many(dm.arange(SIZE), *map(dm.asarray, inputs)))
    bounds = [row.bound(x, attrs) for x in examples] if row.op.tolerance.per_term else []
    scale = max((np.max(b, initial=0.0) for _, b in bounds), default=0.0)
    terms = bounds[0][0] if bounds else 0
    # two ways to compute, each as far off as agreed
    twice = Agreement(*(2 * x for x in astuple(row.op.tolerance)))
    assert_agree(actual, expected, twice, terms, scale)


@pytest.mark.parametrize("name", COMPUTED)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_eager(name: str, data: st.DataObject):
    check(ROWS[name], data, lambda f: f)


@pytest.mark.parametrize("name", COMPUTED)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(data=st.data())
def test_traced(name: str, data: st.DataObject):
    check(ROWS[name], data, dm.function)


def test_only_few_ops_go_example_by_example():
    slow = {name for name, op in OPS.items() if op.batch is None and name in COMPUTED}
    assert slow == {"arange", "random_bits", "random_permutation"}
