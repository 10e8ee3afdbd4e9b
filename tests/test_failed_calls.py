"""A call of a function that fails leaves all variables as they were before it."""

from __future__ import annotations

import numpy as np
import pytest

import dualmode as dm

entries = pytest.mark.parametrize("entry", ["native", "ctypes"])


@entries
def test_a_failed_assertion_updates_nothing(entry):
    dm.config.entry = entry
    v, w = dm.Variable([1.0, 2.0]), dm.Variable(0.0)

    @dm.function
    def step(g):
        w.assign_add(1.0)
        v.assign_sub(g)
        dm.debugging.check_numerics(v, "v")
        w.assign_add(1.0)

    step(dm.ones(2))
    with pytest.raises(dm.errors.AssertionFailed, match="v: nan at"):
        step(dm.asarray([1.0, np.nan]))
    assert (v.numpy().tolist(), w.numpy()) == ([0, 1], 2)
    step(dm.ones(2))
    assert (v.numpy().tolist(), w.numpy()) == ([-1, 0], 4)


@entries
def test_an_index_out_of_range_is_found_before_it_is_used(entry):
    dm.config.entry = entry
    table = dm.Variable(np.ones((2, 3), np.float32))

    @dm.function
    def step(ids):
        with dm.GradientTape() as tape:
            loss = dm.sum(dm.take(table, ids, axis=0))
        table.assign_sub(tape.gradient(loss, table))

    step(dm.asarray([0, 0]))
    with pytest.raises(dm.errors.OutOfRangeError, match="take: index 5 is out of range"):
        step(dm.asarray([0, 5]))
    assert table.numpy().tolist() == [[-1] * 3, [1] * 3]
