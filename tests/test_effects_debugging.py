"""Assertions of every kind in both modes, and what their messages show."""

from __future__ import annotations

import numpy as np
import pytest

import dualmode as dm
from dualmode import debugging as d

MODES = pytest.mark.parametrize("wrap", [lambda f: f, dm.function], ids=["eager", "compiled"])

CHECKS = [
    (lambda x: d.assert_none_equal(x, 2), [1, 3], [1, 2], r"x != y expected: 2 and 2 at \[1\]"),
    (lambda x: d.assert_less_equal(x, 2), [1, 2], [3, 2], r"x <= y expected: 3 and 2 at \[0\]"),
    (lambda x: d.assert_greater(x, 2), [3, 4], [3, 2], r"x > y expected: 2 and 2 at \[1\]"),
    (lambda x: d.assert_greater_equal(x, 2), [2, 3], [1, 2], r"x >= y expected: 1 and 2"),
    (lambda x: d.assert_positive(x, "a rate"), [1, 2], [1, 0], r"a rate: x > 0 expected: 0 at"),
    (lambda x: d.assert_negative(x), [-1, -2], [-1, 0], r"x < 0 expected: 0 at \[1\], 1 of 2"),
    (lambda x: d.assert_non_negative(x), [0, 1], [-1, 0], r"x >= 0 expected: -1 at \[0\]"),
    (lambda x: d.assert_non_positive(x), [0, -1], [1, 0], r"x <= 0 expected: 1 at \[0\]"),
    (lambda x: d.assert_near(x, [4, 5]), [4, 5], [4, 6], r"<= 0 \+ 0 \|y\| expected: 6 and 5"),
    (lambda x: d.assert_near(x / 3, x / 3 + 0.01, atol=0.1), [1, 2], None, ""),
    (lambda x: d.assert_near(x / 1, 1.0), [1, 1], [1, 2], r"\|x - y\| <= 1.19e-06"),
    (lambda x: d.assert_near(x, 100, rtol=0.1, atol=0), [95, 105], [95, 120], "120 and 100"),
]


@MODES
@pytest.mark.parametrize(("check", "good", "bad", "message"), CHECKS)
def test_comparisons(wrap, check, good, bad, message):
    @wrap
    def step(x):
        check(x)
        return x + 1

    np.testing.assert_array_equal(step(dm.asarray(good)), np.array(good) + 1)
    if bad is not None:
        with pytest.raises(dm.errors.AssertionFailed, match=message) as caught:
            step(dm.asarray(bad))
        assert "test_effects_debugging.py" in str(caught.value)


@MODES
def test_the_first_offending_elements_are_shown(wrap):
    @wrap
    def step(x, summarize):
        d.assert_less(x, 2, "few", summarize=summarize)

    x = dm.asarray([[1, 2], [3, 4], [5, 1]])
    all_of_them = "2 and 2 at [0, 1], 3 and 2 at [1, 0], 4 and 2 at [1, 1], 5 and 2 at [2, 0]"
    for summarize, shown in ((None, 3), (1, 1), (-1, 4)):
        with pytest.raises(AssertionError) as caught:
            step(x, None if summarize is None else dm.asarray(summarize).item())
        text = str(caught.value).split("\n")[0]
        start = ", ".join(all_of_them.replace("], ", "]; ").split("; ")[:shown])
        assert text == f"few: x < y expected: {start}, 4 of 6 elements"


@MODES
def test_ranks_and_types(wrap):
    def checks(x):
        d.assert_rank_at_least(x, 1)
        d.assert_rank_in(x, (1, 2))
        d.assert_type(x, dm.float32)
        d.assert_shapes([(x, (..., 3))])
        d.assert_shapes({x: ("n", 3), x + 1: (..., "n", "k")})
        assert d.assert_same_float_dtype([x, x]) is dm.float32
        assert d.assert_same_float_dtype(dtype="float64") is dm.float64
        return d.assert_scalar(dm.sum(x))

    assert wrap(checks)(dm.ones((2, 3))) == 6
    for check, error, message in [
        (lambda x: d.assert_rank_at_least(x, 3), ValueError, r"rank 3 or more expected, got float"),
        (lambda x: d.assert_rank_in(x, (1, 3), "in"), ValueError, r"in: rank 1 or 3 expected"),
        (lambda x: d.assert_scalar(x), ValueError, r"assert_scalar: rank 0 expected"),
        (lambda x: d.assert_type(x, "int32"), TypeError, r"int32 expected, got float32"),
        (lambda x: d.assert_integer(x, "ids"), TypeError, r"ids: an integer dtype.* got float32"),
        (lambda x: d.assert_shapes([(x, (..., 4))]), ValueError, r"float32\[2,3\], not \[..., 4\]"),
        (lambda x: d.assert_same_float_dtype([x, dm.cast(x, "float16")]), TypeError, "tensor 1 is"),
        (lambda x: d.assert_same_float_dtype([dm.cast(x, "int8")]), TypeError, "int8 is not a flo"),
    ]:
        with pytest.raises(error, match=message):
            wrap(check)(dm.ones((2, 3)))


@MODES
def test_a_nan_is_found_where_it_is_made(wrap):
    @wrap
    def loss(x):
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = dm.sqrt(x)
        return tape.gradient(y, x)  # 1 / (2 sqrt(x))

    d.enable_check_numerics()
    try:
        assert loss(dm.asarray([0.25])).numpy().tolist() == [1.0]
        with pytest.raises(dm.errors.AssertionFailed, match=r"a result is NaN or infinite: inf at"):
            loss(dm.asarray([0.0]))
    finally:
        d.disable_check_numerics()
    assert np.isinf(dm.sqrt(dm.asarray([np.inf]))).all()
