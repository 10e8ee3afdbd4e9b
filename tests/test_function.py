"""@dm.function: signatures, traces, structures, errors, threads, effects."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from counted import Counted, array, same

# bodies here count their traces
pytestmark = pytest.mark.filterwarnings(
    "ignore::dualmode.errors.SideEffectWarning", "ignore::dualmode.errors.RetracingWarning"
)


# --- signatures and traces ------------------------------------------------------------------------


def test_known_signature_is_not_traced_again() -> None:
    body = Counted(lambda x, y: x * y + 1)
    fn = dm.function(body)
    for k in range(3):
        same(fn(dm.asarray(float(k)), dm.asarray(2.0)), np.float32(2 * k + 1))
    assert body.count == fn.trace_count == 1


def test_new_shape_or_dtype_is_a_new_trace() -> None:
    fn = dm.function(lambda x: x + x)
    for x in (array(3), array(4), array(3, 1), array(3, dtype=np.float64), array(3, dtype=np.int8)):
        same(fn(x), x + x)
        same(fn(dm.asarray(x)), x + x)
    assert fn.trace_count == 5
    same(fn(array(3)), 2 * array(3))
    assert fn.trace_count == 5


def test_alternating_signatures() -> None:
    fn = dm.function(lambda x: x * 2)
    for _ in range(3):
        same(fn(array(2)), 2 * array(2))
        same(fn(array(5)), 2 * array(5))
    assert fn.trace_count == 2


def test_python_numbers_are_traced_once() -> None:
    body = Counted(lambda x, rate: x * rate)
    fn = dm.function(body)
    for rate in (0.5, 1.5, -2.0):
        same(fn(array(3), rate), array(3) * np.float32(rate))
    assert body.count == 1
    fn(array(3), 2)
    assert body.count == 2


def test_python_number_takes_the_other_dtype() -> None:
    fn = dm.function(lambda x, n: x * n)
    for dtype in (np.float64, np.float32, np.float16, np.int8, np.int64):
        same(fn(array(3, dtype=dtype), 3), array(3, dtype=dtype) * 3)
    same(fn(array(3, dtype=np.int32), 0.5), array(3) / 2)
    assert fn(3, 4).dtype is dm.int32
    assert fn(3, 0.5).dtype is dm.float32
    same(fn(dm.asarray(2.0, dtype=dm.float64), 0.1), np.float64(0.2))


@pytest.mark.parametrize(("a", "b"), [(7, 2), (-7, 2), (7.5, 2), (1e-3, 3.0)])
def test_arithmetic_of_python_numbers_is_pythons(a: float, b: float) -> None:
    def fn(a: Any, b: Any) -> Any:
        return [a + b, a - b, a * b, a / b, a // b, a % b, -a, (a + 1) * 2.5, a > b]

    for got, expected in zip(dm.function(fn)(a, b), fn(a, b), strict=True):
        same(got, dm.asarray(expected))


def test_number_becomes_static_where_its_value_is_needed() -> None:
    def body(x: Any, n: int) -> Any:
        y = x
        for _ in range(n):
            y = y * x
        return y

    counted = Counted(body)
    fn = dm.function(counted)
    x = dm.asarray([1.0, 2.0])
    for n in (0, 1, 3, 1, 0, 3):
        same(fn(x, n), body(x, n))
    assert counted.count == fn.trace_count == 3
    (need,) = fn.get_concrete_function(x, 3).needs.values()
    assert "range(n)" in str(need)


def test_uses_that_need_a_number() -> None:
    uses = {
        "shape": lambda n: dm.zeros((n, 2)),
        "if": lambda n: n + 1 if n > 2 else n - 1,
        "int": lambda n: dm.asarray(int(n)),
        "float": lambda n: dm.asarray(float(n) / 2),
        "index": lambda n: dm.asarray([10, 20, 30, 40])[n],
        "derived": lambda n: dm.ones(2 * n + 1),
    }
    for name, use in uses.items():
        fn = dm.function(use)
        for n in (1, 3, 2, 3):
            same(fn(n), dm.asarray(use(n)))
        assert fn.trace_count <= 3, name


def test_only_the_needed_number_is_static() -> None:
    fn = dm.function(lambda x, n, rate: x * rate + dm.ones(n))
    for n in (2, 1):
        for rate in (0.1, 0.2, 0.3):
            same(fn(dm.asarray([1.0]), n, rate), np.ones(n, np.float32) * np.float32(rate) + 1)
    assert fn.trace_count == 2


def test_needs_may_grow() -> None:
    def body(n: int, m: int) -> Any:
        return dm.ones(n) if n < 3 else dm.ones((n, m))

    fn = dm.function(body)
    for n, m in ((1, 1), (4, 2), (1, 5), (4, 3), (4, 2)):
        assert fn(n, m).shape == body(n, m).shape
    assert fn.trace_count == 3


def test_needed_floats_count_by_their_bits() -> None:
    fn = dm.function(lambda r: dm.asarray(str(float(r)) == "-0.0"))
    assert not fn(0.0)
    assert fn(-0.0)
    assert not fn(float("nan"))
    assert not fn(float("nan"))
    assert fn.trace_count == 3


def test_static_arguments() -> None:
    seen: list[Any] = []

    def body(x: Any, flag: Any) -> Any:
        seen.append(flag)
        return x if flag else -x

    fn = dm.function(body)
    x = dm.asarray(1.0)
    for flag in (True, False, "text", None, True, dm.float32):
        fn(x, flag)
    assert seen == [True, False, "text", None, dm.float32]
    assert fn.trace_count == 5


def test_traced_numbers_as_attributes_of_ops() -> None:
    uses = [
        lambda n: dm.eye(n),
        lambda n: dm.arange(n),
        lambda n: dm.linspace(0, 1, n),
        lambda n: dm.split(dm.arange(6), n)[0],
        lambda n: dm.sum(dm.ones((2, 3, 4, 5)), axis=n),
        lambda n: dm.expand_dims(dm.ones((2, 3, 4)), axis=n),
        lambda n: dm.one_hot(dm.asarray([0, 1]), n),
    ]
    for use in uses:
        fn = dm.function(use)
        for n in (2, 3, 2):
            same(fn(n), use(n))
        assert fn.trace_count == 2


def test_true_and_one_are_different_signatures() -> None:
    fn = dm.function(lambda x, n: x * n if n is not True else x)
    x = dm.asarray(3.0)
    same(fn(x, True), x)
    same(fn(x, 2), np.float32(6))
    assert fn.trace_count == 2


def test_objects_count_by_identity_and_are_not_kept_alive() -> None:
    class Scale:
        def __init__(self, by: float) -> None:
            self.by = by

    fn = dm.function(lambda x, scale: x * scale.by)
    a, b = Scale(2.0), Scale(3.0)
    same(fn(dm.asarray(1.0), a), np.float32(2))
    same(fn(dm.asarray(1.0), b), np.float32(3))
    same(fn(dm.asarray(1.0), a), np.float32(2))
    assert fn.trace_count == 2
    gone = weakref.ref(a)
    del a
    assert gone() is None


def test_unhashable_argument_without_identity() -> None:
    with pytest.raises(TypeError, match="neither be traced nor hashed"):
        dm.function(lambda x: 1)({1, 2})


def test_keywords_and_defaults_share_a_trace() -> None:
    fn = dm.function(lambda x, y=2.0, *, z=1.0: x * y + z)
    x = dm.asarray(3.0)
    for call in (lambda: fn(x), lambda: fn(x, 2.0), lambda: fn(y=2.0, x=x), lambda: fn(x, z=1.0)):
        same(call(), np.float32(7))
    assert fn.trace_count == 1
    same(fn(x, z=2.0), np.float32(8))
    assert fn.trace_count == 1
    with pytest.raises(TypeError, match=r"<lambda>\(\): missing a required argument: 'x'"):
        fn()
    with pytest.raises(TypeError, match="unexpected keyword argument 'w'"):
        fn(x, w=1)


def test_variadic_arguments() -> None:
    fn = dm.function(lambda *xs, **named: sum(xs) + sum(named.values()))
    one = dm.asarray(1.0)
    same(fn(one, one, a=one), np.float32(3))
    same(fn(one, a=one, b=one), np.float32(3))
    assert fn.trace_count == 2


def test_decorator_with_arguments_and_metadata() -> None:
    @dm.function(name="renamed", autograph=False, jit_compile=True)
    def original(x: Any, y: Any) -> Any:
        """What it does."""
        return x + y

    assert original.__doc__ == "What it does."
    assert original.name == "renamed"
    assert original.python_function(1, 2) == 3
    assert repr(original) == "<dm.Function renamed(x, y): 0 traces>"
    original(1.0, 2.0)
    assert repr(original) == "<dm.Function renamed(x, y): 1 trace>"


# --- structures -----------------------------------------------------------------------------------

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Point:
    x: Any
    y: Any
    label: str = "p"


@dataclass(frozen=True)
class Frozen:
    value: Any


def test_nested_arguments_and_results() -> None:
    def body(tree: Any) -> Any:
        return {
            "pair": Pair(tree["a"][0] * 2, tree["a"][1]),
            "point": Point(tree["p"].x + tree["p"].y, tree["p"].y, tree["p"].label + "!"),
            "frozen": Frozen(tree["a"][0]),
            "nothing": None,
            "text": "constant",
            "number": 3,
            "empty": [],
        }

    fn = dm.function(body)
    tree = {"a": (dm.asarray(1.0), array(2)), "p": Point(dm.asarray(2.0), 3.0)}
    for _ in range(2):
        got = fn(tree)
        assert isinstance(got["pair"], Pair) and isinstance(got["point"], Point)
        same(got["pair"].left, np.float32(2))
        same(got["pair"].right, array(2))
        same(got["point"].x, np.float32(5))
        assert got["point"].label == "p!"
        same(got["frozen"].value, np.float32(1))
        assert got["nothing"] is None and got["text"] == "constant"
        assert got["number"] == 3 and got["empty"] == []
    assert fn.trace_count == 1
    fn({**tree, "p": Point(1.0, 2.0, "q")})
    assert fn.trace_count == 2


def test_results_of_every_kind() -> None:
    v = dm.Variable(4.0)
    constant = dm.asarray([1.0, 2.0])
    fn = dm.function(lambda x: (v, constant, x, [x]))
    value, same_constant, x, (again,) = fn(array(2))
    assert isinstance(value, dm.Tensor)
    same(value, np.float32(4))
    same(same_constant, constant)
    same(x, array(2))
    same(again, array(2))
    assert dm.function(lambda: None)() is None
    assert dm.function(lambda: ())() == ()
    assert dm.function(lambda x: "text")(1.0) == "text"


def test_result_does_not_follow_the_callers_array() -> None:
    x = array(3)
    for fn in (dm.function(lambda x: x), dm.function(lambda x: [x, x * 1])):
        got = fn(x)
        x += 1
        same(got if isinstance(got, dm.Tensor) else got[0], x - 1)


# --- closures and captured tensors ----------------------------------------------------------------


def test_captured_arrays_and_tensors() -> None:
    a, b = array(4), dm.asarray(array(4))
    fn = dm.function(lambda x: (a + b) * x + b)
    same(fn(2.0), 5 * array(4))
    same(fn(3.0), 7 * array(4))
    assert fn.trace_count == 1


def test_leaked_tensor() -> None:
    kept: list[Any] = []

    @dm.function
    def fn(x: Any) -> Any:
        kept.append(x * 2)
        return x

    fn(array(2))
    assert repr(kept[0]) == "TracedTensor(float32[2])"
    for use in (
        lambda: kept[0] + 1,
        lambda: dm.function(lambda y: y + kept[0])(array(2)),
        lambda: kept[0].numpy(),
    ):
        with pytest.raises(dm.errors.TracedValueError, match=r"kept.append\(x \* 2\)"):
            use()


# --- concrete functions ---------------------------------------------------------------------------


def test_concrete_function() -> None:
    fn = dm.function(lambda x, n=2, flag=False: x * n if flag else x)
    concrete = fn.get_concrete_function(dm.TensorSpec((3,), dm.float32), flag=True)
    assert fn.trace_count == 1
    same(concrete(array(3), flag=True), 2 * array(3))
    same(fn(array(3), flag=True), 2 * array(3))
    assert fn.trace_count == 1
    assert fn.get_concrete_function(array(3), flag=True) is concrete
    assert repr(concrete) == (
        "<dm.ConcreteFunction <lambda>(x: float32[3], n: ~int64[], flag=True) -> float32[3]>"
    )
    assert [n.op.name for n in concrete.graph.nodes()][-1] == "multiply"
    with pytest.raises(TypeError, match=r"traced for .*float32\[3\].*called with .*float32\[4\]"):
        concrete(array(4), flag=True)


# --- errors ---------------------------------------------------------------------------------------


def test_if_on_a_traced_value_without_conversion() -> None:
    @dm.function(autograph=False)
    def fn(x: Any) -> Any:
        y = dm.sum(x)
        return x if y > 0 else -x

    with pytest.raises(dm.errors.TracedValueError, match="dm.where") as caught:
        fn(array(2))
    assert "x if y > 0 else -x" in str(caught.value)


def test_traced_value_error_names_the_argument() -> None:
    v = dm.Variable([1.0], name="scale")
    captured = dm.asarray([1.0, 2.0])
    with pytest.raises(dm.errors.TracedValueError, match=r"argument params\['w'\]\[1\]"):
        dm.function(lambda params: float(params["w"][1]))({"w": [1.0, dm.asarray(2.0)]})
    with pytest.raises(dm.errors.TracedValueError, match="variable 'scale'"):
        dm.function(lambda: float(v))()
    assert dm.function(lambda: float(captured[0].item()))() == 1.0


def test_shape_error_names_the_users_line() -> None:
    fn = dm.function(lambda x, y: x @ y)
    with pytest.raises(dm.errors.ShapeError, match=r"inner sizes differ.*3 vs 4") as caught:
        fn(array(2, 3), array(4, 5))
    assert "test_function.py" in str(caught.value)
    assert "x @ y" in str(caught.value)


def test_an_exception_leaves_nothing_behind() -> None:
    v = dm.Variable(1.0)
    fail = True

    @dm.function
    def fn(x: Any) -> Any:
        v.assign_add(x)
        if fail:
            raise KeyError("mine")
        return v

    for _ in range(2):
        with pytest.raises(KeyError, match="mine"):
            fn(1.0)
    assert dm.executing_eagerly() and fn.trace_count == 0
    same(v, np.float32(1))
    fail = False
    same(fn(1.0), np.float32(2))


# --- eager runs -----------------------------------------------------------------------------------


def test_run_functions_eagerly() -> None:
    body = Counted(lambda x: (dm.executing_eagerly(), x * 2)[1])
    fn = dm.function(body)
    fn(array(2))
    dm.run_functions_eagerly(True)
    try:
        for _ in range(2):
            same(fn(array(2)), 2 * array(2))
    finally:
        dm.run_functions_eagerly(False)
    assert body.count == 3
    fn(array(2))
    assert body.count == 3


def test_jit_setting() -> None:
    fn = dm.function(lambda x: dm.executing_eagerly())
    with dm.config.override(jit=False):
        assert fn(1.0)
    assert not fn(1.0)


# --- threads --------------------------------------------------------------------------------------


def test_threads_share_one_trace() -> None:
    body = Counted(lambda x: dm.sum(x * x))
    fn = dm.function(body)
    results: list[Any] = []
    start = threading.Barrier(4)

    def work(k: int) -> None:
        start.wait()
        for n in (3, 4, 5):
            results.append((k, n, float(fn(np.full(n, k, np.float32)))))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 12
    assert all(value == n * k * k for k, n, value in results)
    assert body.count == fn.trace_count == 3


def test_threads_lose_no_update() -> None:
    v = dm.Variable(dm.zeros(3), trainable=False)

    @dm.function
    def fn(x: Any) -> None:
        v.assign_add(x)

    def work() -> None:
        for k in range(100):
            fn(np.ones(3, np.float32) if k % 2 else dm.ones(3))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    same(v, np.full(3, 400, np.float32))


# --- effects --------------------------------------------------------------------------------------


def test_python_effects_happen_once_and_dm_print_each_time(capsys: Any) -> None:
    @dm.function
    def fn(x: Any) -> Any:
        print("tracing")
        dm.print("running", x)
        return x

    fn(dm.asarray(1.0))
    fn(dm.asarray(2.0))
    assert capsys.readouterr().out == "tracing\nrunning 1.0\nrunning 2.0\n"


def test_prints_keep_their_order_across_functions(capsys: Any) -> None:
    inner = dm.function(lambda x: dm.print("inner", x))

    @dm.function
    def outer(x: Any) -> Any:
        dm.print("before")
        inner(x)
        dm.print("after")

    outer(1)
    assert capsys.readouterr().out == "before\ninner 1\nafter\n"


def test_executables_go_with_their_functions() -> None:
    fn = dm.function(lambda x: x + 1)
    same(fn(array(3)), array(3) + 1)
    library = weakref.ref(fn.get_concrete_function(array(3))._function.executable.native()._library)
    gc.collect()
    assert library() is not None
    del fn
    gc.collect()
    assert library() is None
