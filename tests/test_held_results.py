"""What somebody still holds of a result never changes: memory of results is used again, in both
modes, but only once nobody can see it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import dualmode as dm
from dualmode_compiler.runtime import aligned, entry_native, reused

Array = np.ndarray[Any, Any]

# elements of float32: results that NumPy keeps, that go round, that entries keep, and that they do
# not
SIZES = (6, reused.LEAST // 4, 3 * reused.LEAST // 4, 20_000, entry_native.LARGE // 4)


@dm.function
def _plus(x: Any, y: Any) -> Any:
    return x + y


@dm.function
def _both(x: Any, y: Any) -> Any:
    return x * 2.0, y - x


@dm.function
def _refusing(x: Any) -> Any:
    def refuse(value: Any) -> Any:
        if value[0] < 0:
            raise ValueError("below 0")
        return value

    return x + 1.0, dm.py_function(refuse, [x], dm.float32) + 2.0


MAKERS: dict[str, Callable[[Any, Any], Any]] = {
    "eager": lambda x, y: dm.add(x, y),
    "eager chain": lambda x, y: dm.subtract(dm.multiply(x, 2.0), y),
    "eager moves": lambda x, y: dm.concat([x, y], 0)[: x.shape[0]],
    "compiled": _plus,
    "compiled twice": _both,
    "assigned": lambda x, y: _assigned(x, y),
}


def _assigned(x: Any, y: Any) -> Any:
    v = dm.Variable(x)
    before = v.read_value()
    v.assign_add(y)
    return before, v.read_value()


VIEWS: dict[str, Callable[[Any], Any]] = {
    "numpy": lambda t: t.numpy(),
    "a slice of a slice": lambda t: t.numpy()[1:][::2][:-1],
    "turned": lambda t: t.numpy().reshape(2, -1).T[::-1],
    "memoryview": lambda t: memoryview(t.numpy()),
    "bytes of a memoryview": lambda t: memoryview(t.numpy()).cast("B")[4:-4],
    "frombuffer": lambda t: np.frombuffer(memoryview(t.numpy())[2:], np.int32),
    "dlpack": lambda t: np.from_dlpack(t),
    "owner": lambda t: t.numpy().base,
    "flat": lambda t: t.numpy().flat,
    "tensor of a view": lambda t: t[1:],
    "tensor reshaped": lambda t: t.reshape(2, -1),
    "tensor of it": lambda t: dm.asarray(t.numpy()),
}


def _seen(held: Any) -> bytes:
    """All that can be seen of it, as a copy."""
    return (np.array(held) if not isinstance(held, np.flatiter) else held.copy()).tobytes()


class Holder(RuleBasedStateMachine):
    """Makes, views and drops results in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[tuple[dm.Tensor, Array]] = []  # with what they are to be
        self.views: list[tuple[Any, bytes]] = []
        self.sizes: list[int] = []
        self.count = 0

    def _fresh(self, size: int) -> tuple[dm.Tensor, Array]:
        self.count += 1
        value = np.arange(size, dtype=np.float32) % 1000 + self.count
        return dm.asarray(value.copy()), value

    def _operand(self, size: int, which: int) -> tuple[dm.Tensor, Array]:
        fitting = [pair for pair in self.tensors if pair[1].size == size]
        return fitting[which % len(fitting)] if fitting and which else self._fresh(size)

    def _make(self, maker: str, size: int, which: int) -> None:
        (x, a), (y, b) = self._operand(size, which), self._operand(size, which // 2)
        made = MAKERS[maker](x, y)
        wanted = {
            "eager": (a + b,),
            "eager chain": (2 * a - b,),
            "eager moves": (a,),
            "compiled": (a + b,),
            "compiled twice": (2 * a, b - a),
            "assigned": (a, a + b),
        }[maker]
        results = made if isinstance(made, tuple) else (made,)
        self.tensors += zip(results, wanted, strict=True)

    @initialize(sizes=st.lists(st.sampled_from(SIZES), min_size=2, max_size=2))
    def begin(self, sizes: list[int]) -> None:
        self.sizes = sizes  # few, so that memory has a use

    @rule(maker=st.sampled_from(list(MAKERS)), k=st.integers(0, 1), which=st.integers(0, 9))
    def make(self, maker: str, k: int, which: int) -> None:
        self._make(maker, self.sizes[k], which)

    @rule(maker=st.sampled_from(list(MAKERS)), k=st.integers(0, 1), which=st.integers(0, 9))
    def make_elsewhere(self, maker: str, k: int, which: int) -> None:
        thread = threading.Thread(target=self._make, args=(maker, self.sizes[k], which))
        thread.start()
        thread.join()

    @rule(maker=st.sampled_from(list(MAKERS)), k=st.integers(0, 1))
    def make_and_drop(self, maker: str, k: int) -> None:
        for _ in range(3):
            MAKERS[maker](self._fresh(self.sizes[k])[0], self._fresh(self.sizes[k])[0])

    @rule(k=st.integers(0, 1))
    def fail(self, k: int) -> None:
        value = np.full(self.sizes[k], -1, np.float32)
        with pytest.raises(ValueError, match="below 0"):
            _refusing(dm.asarray(value))

    @precondition(lambda self: self.tensors)
    @rule(which=st.integers(0, 99), how=st.sampled_from(list(VIEWS)))
    def view(self, which: int, how: str) -> None:
        tensor, _ = self.tensors[which % len(self.tensors)]
        held = VIEWS[how](tensor)
        self.views.append((held, _seen(held)))

    @rule(
        maker=st.sampled_from(list(MAKERS)),
        k=st.integers(0, 1),
        how=st.lists(st.sampled_from(list(VIEWS)), min_size=1, max_size=3),
    )
    def hold_only_views(self, maker: str, k: int, how: list[str]) -> None:
        """Of some results, while as many others are made in the same way."""
        first = len(self.tensors)
        for view in how:
            self._make(maker, self.sizes[k], 0)
            held = VIEWS[view](self.tensors[-1][0])
            self.views.append((held, _seen(held)))
        del self.tensors[first:]
        for _ in how:
            self._make(maker, self.sizes[k], 0)

    @precondition(lambda self: self.tensors)
    @rule(which=st.integers(0, 99))
    def drop(self, which: int) -> None:
        del self.tensors[which % len(self.tensors)]

    @precondition(lambda self: self.tensors)
    @rule(which=st.integers(0, 99))
    def drop_elsewhere(self, which: int) -> None:
        held = [self.tensors.pop(which % len(self.tensors))]
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()

    @precondition(lambda self: self.views)
    @rule(which=st.integers(0, 99))
    def drop_view(self, which: int) -> None:
        del self.views[which % len(self.views)]

    @precondition(lambda self: self.tensors)
    @rule(which=st.integers(0, 99))
    def drop_in_a_cycle(self, which: int) -> None:
        cycle: list[Any] = [self.tensors.pop(which % len(self.tensors))]
        cycle.append(cycle)
        del cycle
        gc.collect(0)

    @rule()
    def give_back(self) -> None:
        aligned.give_back()

    @invariant()
    def nothing_has_changed(self) -> None:
        for tensor, wanted in self.tensors:
            np.testing.assert_array_equal(tensor.numpy(), wanted)
        for held, seen in self.views:
            assert _seen(held) == seen


Holder.TestCase.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
TestHolder = Holder.TestCase


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes that share memory by fork")
def test_a_forked_child_and_its_parent_do_not_see_each_others() -> None:
    size = SIZES[2]
    held = [dm.add(dm.zeros(size), float(k)) for k in range(4)]
    views = [t.numpy()[1:] for t in held]
    del held[::2]  # the views go on
    child = os.fork()
    if not child:
        good = True
        for k in range(8):
            made = _plus(dm.full(size, 100.0), dm.full(size, float(k)))
            good &= bool((made.numpy() == 100 + k).all())
            del views[3:]
        good &= all((v == k).all() for k, v in enumerate(views))
        os._exit(0 if good else 1)
    made = [dm.add(dm.full(size, 7.0), float(k)) for k in range(8)]
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    for k, (v, m) in enumerate(zip(views, made, strict=False)):
        assert (v == k).all() and (m.numpy() == 7 + k).all()


_AT_THE_END = """
import atexit
import dualmode as dm

plus = dm.function(lambda x: x + 1.0)

def eager(x):
    return dm.add(x, 1.0)

class Last:
    def __init__(self, make, size):
        self.add, self.other = dm.add, dm.full(size, 9.0)
        self.tensor = make(dm.full(size, 3.0))
        self.view = self.tensor.numpy()[2:]

    def __del__(self):  # while modules go
        del self.tensor
        later = [self.add(self.other, 1.0) for _ in range(3)]
        good = (self.view == 4).all() and all((y.numpy() == 10).all() for y in later)
        print("good" if good else "bad", flush=True)

kept = [Last(make, size) for make in (plus, eager) for size in (6, 600, 20_000, 600_000)]
cycle = [Last(plus, 20_000)]
cycle.append(cycle)
atexit.register(lambda: [plus(dm.full(20_000, 1.0)) for _ in range(4)])
"""


def test_results_that_end_with_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _AT_THE_END], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["good"] * 9
    assert not done.stderr, done.stderr
