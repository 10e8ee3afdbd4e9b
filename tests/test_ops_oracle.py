"""Every op of the op table in eager mode against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dualmode as dm
from dualmode.ops import OPS
from op_table import assert_agree, rows

ROWS = rows()
COMPUTED = sorted(name for name, row in ROWS.items() if not row.op.effect)


def test_every_op_has_a_row():
    assert set(OPS) == set(ROWS)


@pytest.mark.parametrize("name", COMPUTED)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_eager_agrees_with_numpy(name: str, data: st.DataObject):
    row = ROWS[name]
    arrays, attrs = row.examples(data.draw)
    result = row.call(*(dm.asarray(x) for x in arrays), **attrs)
    actual = np.asarray(result)
    with np.errstate(all="ignore"):
        expected = row.expected(arrays, attrs).astype(actual.dtype)
    terms, scale = row.bound(arrays, attrs) if row.op.tolerance.per_term else (0, 0.0)
    assert_agree(actual, expected, row.tolerance, terms, scale)
    with dm.config.override(kernels="numpy"):
        interpreted = np.asarray(row.call(*(dm.asarray(x) for x in arrays), **attrs))
    assert_agree(actual, interpreted, row.op.tolerance, terms, scale)
