"""Both modes agree: every op of the op table, eager against compiled, forward and gradient.

Each example draws an optimisation level and a number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dualmode as dm
from dualmode_compiler import passes
from dualmode_compiler.verify import verify
from levels import COMBINATIONS
from op_table import assert_agree, rows

ROWS = rows()
COMPUTED = sorted(name for name, row in ROWS.items() if not row.op.effect)
DIFFERENTIABLE = sorted(name for name, row in ROWS.items() if row.gradients)


@pytest.mark.parametrize("name", COMPUTED)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_forward(name: str, data: st.DataObject):
    row = ROWS[name]
    arrays, attrs = row.examples(data.draw)
    compiled = dm.function(lambda *xs: row.call(*xs, **attrs))
    tensors = [dm.asarray(x) for x in arrays]
    eager = np.asarray(row.call(*tensors, **attrs))
    with dm.config.override(**data.draw(st.sampled_from(COMBINATIONS))):
        actual = np.asarray(compiled(*tensors))
    terms, scale = row.bound(arrays, attrs) if row.op.tolerance.per_term else (0, 0.0)
    assert_agree(actual, eager, row.op.tolerance, terms, scale)
    passes.run(compiled.get_concrete_function(*tensors).graph, verify)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_gradient(name: str, data: st.DataObject):
    """First and second order, in one compiled function against the eager tape."""
    row = ROWS[name]
    arrays, attrs = row.smooth_examples(data.draw)
    which = row.gradients

    def derivatives(*xs: Any) -> list[Any]:
        inputs = [xs[k] for k in which]
        with dm.GradientTape() as outer:
            outer.watch(inputs)
            with dm.GradientTape() as tape:
                tape.watch(inputs)
                y = row.call(*xs, **attrs)
            first = tape.gradient(y, inputs, unconnected_gradients="zero")
            slope = sum((dm.sum(g * g) for g in first), start=dm.asarray(0.0))
        return [*first, *outer.gradient(slope, inputs, unconnected_gradients="zero")]

    tensors = [dm.asarray(x) for x in arrays]
    eager = derivatives(*tensors)
    with dm.config.override(**data.draw(st.sampled_from(COMBINATIONS))):
        compiled = dm.function(derivatives)(*tensors)
    for a, b in zip(compiled, eager, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape and a.dtype == b.dtype
        size = np.max(np.abs(b), initial=1.0)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12 * size)
