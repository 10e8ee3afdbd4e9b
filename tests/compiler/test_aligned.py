"""Memory of arrays that begins at a cache line, and is given back by whom it came from."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode_compiler.runtime import aligned
from dualmode_compiler.runtime.layout import standard

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not standard(), reason="NumPy's own memory elsewhere"
)


def _handler(x: np.ndarray[Any, Any]) -> str:
    from numpy._core import multiarray  # pyright: ignore[reportAttributeAccessIssue]

    return str(multiarray.get_handler_name(x))


def _is_ours(x: np.ndarray[Any, Any]) -> bool:
    return _handler(x) == "dualmode_aligned" and x.ctypes.data % 64 == 0 and x.flags.owndata


@pytest.mark.parametrize("size", [1, aligned.LEAST - 1, aligned.LEAST, 5000, 2_000_003])
def test_copies(size: int) -> None:
    x = np.random.default_rng(0).normal(size=size)
    kept = [aligned.copied(x, np.float32) for _ in range(5)]
    for y in kept:
        np.testing.assert_array_equal(y, x.astype(np.float32))
        assert _is_ours(y) == (size >= aligned.LEAST)
    assert _handler(np.empty(5000)) == "default_allocator"


def test_large_arrays_begin_at_a_huge_page() -> None:
    for size, unit in ((1 << 18, 64), (1 << 19, 1 << 21), (3_000_001, 1 << 21)):
        kept = [aligned.copied(np.ones(size), np.float32) for _ in range(3)]
        assert all(x.ctypes.data % unit == 0 for x in kept)
        assert all(x.sum() == size for x in kept)


def test_copies_are_in_c_order() -> None:
    x = np.asfortranarray(np.arange(2400.0).reshape(40, 60))
    y = aligned.copied(x, x.dtype)
    assert y.flags.c_contiguous
    np.testing.assert_array_equal(y, x)


def test_a_failed_copy_leaves_no_handler_behind() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        aligned.copied(np.full(1000, "text"), np.float32)
    assert _handler(np.empty(5000)) == "default_allocator"


def test_arrays_grow_and_die_anywhere() -> None:
    x = aligned.copied(np.ones(1000), np.float64)
    x.resize(3_000_000, refcheck=False)
    assert x.sum() == 1000
    held = [aligned.copied(np.ones(4000), np.float64) for _ in range(20)]
    thread = threading.Thread(target=held.clear)
    del x
    thread.start()
    thread.join()
    assert not held


def test_zeros_of_the_handler() -> None:
    """NumPy asks it for those where it makes an array of zeros in the same context."""
    code = aligned._code()
    assert code is not None
    set_handler = aligned._set_handler()
    for _ in range(5):
        np.full(3000, np.nan)
        old = set_handler(code.capsule)
        try:
            x = np.zeros(3000)
        finally:
            set_handler(old)
        assert _is_ours(x)
        assert not x.any()


def test_tensors_variables_and_results() -> None:
    a = dm.asarray(np.random.default_rng(0).normal(size=(60, 70)).astype("float32"))
    product = dm.function(lambda a: a @ a.T)
    for x in (a, product(a), product(a), a @ a.T, dm.Variable(a.numpy()).read_value()):
        assert x.numpy().ctypes.data % 64 == 0
