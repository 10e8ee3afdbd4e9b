"""What tests of functions share: arrays, and bodies that count how often they run."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np


def array(*shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.arange(1, 1 + int(np.prod(shape)), dtype=dtype).reshape(shape)


def same(a: Any, b: Any) -> None:
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=1e-6)


class Counted:
    """A Python function that counts how often its body runs."""

    def __init__(self, fn: Any) -> None:
        self.fn = fn
        self.count = 0
        self.__signature__ = inspect.signature(fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return self.fn(*args, **kwargs)
