"""Tests in both modes, and the arrays that they compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualmode as dm

MODES = [pytest.param(lambda f: f, id="eager"), pytest.param(dm.function, id="compiled")]
both_modes = pytest.mark.parametrize("mode", MODES)
Mode = Callable[[Any], Any]


def array(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Random float32 numbers from -1 to 1."""
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def close(actual: Any, expected: Any) -> None:
    """Of one shape, and equal but for float32's rounding."""
    actual = np.asarray(actual)
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
