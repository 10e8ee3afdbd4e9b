"""Which way calls of compiled functions take: straight to native code, or through Python."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

import dualmode as dm


def test_no_update_is_lost_between_tapes_and_plain_calls() -> None:
    total = dm.Variable(0.0)

    @dm.function
    def add(x):
        total.assign_add(1.0)
        return dm.sum(x)

    def work() -> None:
        for n in range(2, 30):
            x = dm.asarray(np.ones(n % 3 + 2, np.float32))
            add(x)
            with dm.GradientTape() as tape:
                tape.watch(x)
                loss = add(x)
            assert np.all(np.asarray(tape.gradient(loss, x)) == 1)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(interval)
    assert total.numpy() == 6 * 28 * 2


def test_what_keeps_calls_from_the_straight_way_ends() -> None:
    square = dm.function(lambda x: x * x)
    x = dm.asarray(3.0)
    square(x)
    assert dm.config.detours == []
    with dm.GradientTape() as outer:
        outer.watch(x)
        with dm.GradientTape() as inner:
            inner.watch(x)
            y = square(x)
        assert len(dm.config.detours) == 1
        slope = inner.gradient(y, x)
    assert dm.config.detours == []
    assert (slope.item(), outer.gradient(slope, x).item()) == (6.0, 2.0)
    with dm.config.override(jit=False):
        dm.config.update(jit=False)
        assert len(dm.config.detours) == 1
    with pytest.raises(ZeroDivisionError):
        dm.function(lambda x: 1 / 0)(x)
    assert dm.config.detours == []
