"""Calls that go straight to generated code: `Function` stays a Python object like any other."""

from __future__ import annotations

import copy
import gc
import inspect
import os
import pickle
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode.concrete import LAYOUT
from dualmode.function import Function
from dualmode_compiler.runtime import vectorcall
from dualmode_compiler.runtime.layout import supported

native = pytest.mark.skipif(
    not supported(LAYOUT) or dm.config.entry != "native", reason="calls go through Python here"
)


def ones(*shape: int) -> dm.Tensor:
    return dm.asarray(np.ones(shape, np.float32))


def straight(fn: Any) -> bool:
    """Whether the instance has a pointer to generated code."""
    return bool(vectorcall.Instance.from_address(id(fn)).vectorcall)


@dm.function
def scaled(x, factor=2.0, *more, offset=0.0):
    """Documented."""
    return x * factor + offset + sum(more)


@native
def test_later_calls_do_not_come_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    add = dm.function(lambda x, y: x + y)
    assert not straight(add)
    add(ones(2), ones(2))
    assert straight(add)
    slow: list[Any] = []
    monkeypatch.setattr(Function, "_call", lambda self, args, kwargs: slow.append(args))
    for _ in range(3):
        assert add(ones(2), ones(2)).tolist() == [2, 2]
        assert add(*[ones(2), np.ones(2, np.float32)]).tolist() == [2, 2]
        assert [x.tolist() for x in map(add, [ones(2)], [ones(2)])] == [[2, 2]]
    assert not slow
    add(ones(3), ones(3))
    add(ones(2), y=ones(2))
    add(ones(2))
    assert len(slow) == 3


def test_a_function_is_documented_and_inspected_as_before() -> None:
    scaled(ones(2))
    assert isinstance(scaled, Function) and callable(scaled)
    assert scaled.__doc__ == "Documented." and scaled.__name__ == "scaled"
    assert str(inspect.signature(scaled)) == "(x, factor=2.0, *more, offset=0.0)"
    assert inspect.isclass(Function) and "__call__" in vars(Function)
    assert scaled.__call__(ones(2)).tolist() == [2, 2]
    assert Function.__call__(scaled, ones(2)).tolist() == [2, 2]
    scaled.note = "attributes may be set"
    assert scaled.note == "attributes may be set"


def test_every_way_to_give_arguments() -> None:
    kwargs = {"offset": 1.0}
    for _ in range(3):
        assert scaled(ones(2)).tolist() == [2, 2]
        assert scaled(ones(2), 3.0).tolist() == [3, 3]
        assert scaled(ones(2), factor=3.0).tolist() == [3, 3]
        assert scaled(x=ones(2), offset=1.0).tolist() == [3, 3]
        assert scaled(ones(2), 3.0, 1.0, 1.0).tolist() == [5, 5]
        assert scaled(*[ones(2), 3.0], **kwargs).tolist() == [4, 4]


def test_wrong_arguments_raise_each_time() -> None:
    fn = dm.function(lambda x, y: x + y)
    for _ in range(3):
        fn(ones(2), ones(2))
        for args, kwargs in (((), {}), ((1.0,), {}), ((1.0,) * 3, {}), ((1.0, 2.0), {"z": 1})):
            with pytest.raises(TypeError):
                fn(*args, **kwargs)


def test_a_subclass_with_a_call_of_its_own_gets_every_call() -> None:
    class Counting(Function):
        calls = 0

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return super().__call__(*args, **kwargs)

    fn = Counting(lambda x: x + 1.0)
    for _ in range(5):
        assert fn(ones(1)).tolist() == [2]
    assert fn.calls == 5


def test_exceptions_inside_leave_nothing_behind() -> None:
    def check(x: Any) -> Any:
        if x[0] > 0:
            raise KeyError("refused")
        return x

    @dm.function
    def fn(x):
        return dm.numpy_function(check, [x], dm.TensorSpec((2,), "float32")) * 2.0

    zero, one = dm.asarray(np.zeros(2, np.float32)), ones(2)
    for _ in range(300):
        assert fn(zero).tolist() == [0, 0]
        with pytest.raises(KeyError, match="refused"):
            fn(one)
    gc.collect()
    assert sys.getrefcount(one) == 2 and sys.getrefcount(zero) == 2


def test_a_function_that_is_called_within_itself() -> None:
    depth: list[int] = []

    def again(x: Any) -> Any:
        depth.append(1)
        return np.asarray(fn(dm.asarray(x))) if len(depth) < 4 else x

    @dm.function
    def fn(x):
        return dm.numpy_function(again, [x], dm.TensorSpec((2,), "float32")) + 1.0

    fn(ones(2))
    for _ in range(20):
        depth.clear()
        assert fn(ones(2)).tolist() == [5, 5]


def test_it_is_copied_and_pickled_by_reference_as_python_functions_are() -> None:
    scaled(ones(2))
    assert copy.copy(scaled) is scaled and copy.deepcopy([scaled])[0] is scaled
    assert pickle.loads(pickle.dumps(scaled)) is scaled
    with pytest.raises((AttributeError, pickle.PicklingError), match="local object|not found"):
        pickle.dumps(dm.function(lambda x: x))


def test_functions_and_their_routes_die() -> None:
    def make() -> weakref.ref[Any]:
        fn: Any = dm.function(lambda x: x + 1.0)
        fn(ones(2))
        fn.itself = fn
        fn.at_the_end = Last(fn)
        return weakref.ref(fn)

    class Last:
        """Calls the function while the collector takes the two apart."""

        def __init__(self, fn: Any) -> None:
            self.fn = fn

        def __del__(self) -> None:
            results.append(self.fn(ones(2)).tolist())

    results: list[Any] = []
    there = [make() for _ in range(5)]
    gc.collect()
    gc.collect()
    assert not any(r() for r in there) and results == [[2, 2]] * 5


def test_counts_and_blocks_stay_over_many_calls() -> None:
    class Model:
        @dm.function
        def step(self, x):
            return x + 1.0

    model, x, tree = Model(), ones(4), {"a": (ones(2), ones(3))}
    nested = dm.function(lambda d: [d["a"][0] * 2.0, {"b": d["a"][1]}])
    add = dm.function(lambda x, y: x + y)

    def everything() -> None:
        add(x, x)
        add(x, y=x)
        nested(tree)
        model.step(x)
        with suppress(TypeError):
            add(x)

    for _ in range(50):
        everything()
    watched = [add, x, tree, nested, model, Function, getattr(add, "_route", None)]
    gc.collect()
    before = [sys.getrefcount(o) for o in watched], sys.getallocatedblocks()
    for _ in range(10_000):
        everything()
    gc.collect()
    after = [sys.getrefcount(o) for o in watched], sys.getallocatedblocks()
    assert before[0] == after[0]
    assert abs(after[1] - before[1]) < 200


def test_threads_that_change_the_route_of_one_function() -> None:
    fn = dm.function(lambda x: x * 2.0)
    failed: list[Any] = []

    def work(n: int) -> None:
        x = dm.asarray(np.full(n, n, np.float32))
        for _ in range(300):
            if fn(x).tolist() != [2 * n] * n:
                failed.append(n)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(n,)) for n in (2, 3, 4, 5)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failed


def test_tapes_of_this_and_other_threads_are_obeyed() -> None:
    fn = dm.function(lambda x: dm.sum(x * x))
    x = ones(3)
    fn(x)
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with dm.GradientTape():
            inside.set()
            assert leave.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(30)
    assert fn(x).item() == 3.0
    leave.set()
    thread.join()
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = fn(x)
    assert tape.gradient(y, x).tolist() == [2, 2, 2]
    with dm.config.override(jit=False):
        assert fn(x).item() == 3.0
    assert dm.function(lambda x: fn(x) + 1.0)(x).item() == 4.0


def test_results_stay_what_they_were() -> None:
    fn = dm.function(lambda x: (x + 1.0, x * 2.0))
    kept = []
    for k in range(50):
        a, b = fn(dm.asarray(np.full(5, k, np.float32)))
        kept.append((a, b.numpy()[1:]))
        del a, b
    for k, (a, b) in enumerate(kept):
        assert a.tolist() == [k + 1] * 5 and b.tolist() == [2 * k] * 4


def test_a_result_in_a_variable_or_a_tape_stays() -> None:
    fn = dm.function(lambda x: x + 1.0)
    v = dm.Variable(np.zeros(3, np.float32))
    x = ones(3)
    with dm.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = fn(x)
        z = dm.sum(y * y)
    v.assign(fn(x))
    for _ in range(5):
        fn(dm.asarray(np.full(3, 9, np.float32)))
    assert v.numpy().tolist() == [2, 2, 2] and tape.gradient(z, x).tolist() == [4, 4, 4]


@native
def test_ctypes_mode_leaves_calls_to_python() -> None:
    code = (
        "import numpy as np, dualmode as dm\n"
        "from dualmode_compiler.runtime import vectorcall\n"
        "fn = dm.function(lambda x: x + 1.0)\n"
        "for _ in range(3): assert fn(np.ones(2, 'f')).tolist() == [2, 2]\n"
        "assert not vectorcall.Instance.from_address(id(fn)).vectorcall\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "DUALMODE_ENTRY": "ctypes"}, check=True
    )
