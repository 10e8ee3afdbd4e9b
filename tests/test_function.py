"""@dm.function: signatures, traces, structures, variables, errors."""

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

# bodies here count their traces
pytestmark = pytest.mark.filterwarnings(
    "ignore::dualmode.errors.SideEffectWarning", "ignore::dualmode.errors.RetracingWarning"
)


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
        self.__signature__ = __import__("inspect").signature(fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return self.fn(*args, **kwargs)


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


# --- variables ------------------------------------------------------------------------------------


def test_variables_are_read_and_updated() -> None:
    v = dm.Variable([1.0, 2.0])

    @dm.function
    def fn(x: Any) -> Any:
        before = v.read_value()
        v.assign_add(x)
        middle = v + 0.0
        v.assign(v * 2)
        return before, middle, v

    before, middle, after = fn(dm.asarray([1.0, 1.0]))
    same(before, np.float32([1, 2]))
    same(middle, np.float32([2, 3]))
    same(after, np.float32([4, 6]))
    same(v, np.float32([4, 6]))
    v.assign([0.0, 0.0])
    same(fn(dm.asarray([1.0, 1.0]))[2], np.float32([2, 2]))
    same(after, np.float32([4, 6]))
    assert fn.trace_count == 1


def test_swapped_variables() -> None:
    a, b = dm.Variable([1.0, 2.0]), dm.Variable([3.0, 4.0])

    @dm.function
    def swap() -> None:
        old = a.read_value()
        a.assign(b)
        b.assign(old)

    for k in range(3):
        swap()
        first, second = ([3, 4], [1, 2]) if k % 2 == 0 else ([1, 2], [3, 4])
        same(a, np.float32(first))
        same(b, np.float32(second))


def test_a_value_read_before_stays() -> None:
    v = dm.Variable(array(8))

    @dm.function
    def fn() -> None:
        v.assign_add(dm.ones(8))

    before = v.read_value()
    view = before.numpy()
    fn()
    fn()
    same(before, array(8))
    same(view, array(8))
    same(v, array(8) + 2)


def test_variable_created_on_the_first_call() -> None:
    class Layer:
        def __init__(self) -> None:
            self.w: Any = None

        @dm.function
        def __call__(self, x: Any) -> Any:
            if self.w is None:
                self.w = dm.Variable(dm.ones((x.shape[-1], 2)) * 3)
            return x @ self.w

    layer = Layer()
    x = array(4, 3)
    for _ in range(2):
        same(layer(x), x @ np.full((3, 2), 3, np.float32))
    same(layer(array(5, 3)), array(5, 3) @ np.full((3, 2), 3, np.float32))
    assert Layer.__call__ is not layer.__call__
    assert layer.__call__.trace_count == 2
    layer.w.assign(dm.zeros((3, 2)))
    same(layer(x), np.zeros((4, 2), np.float32))


def test_variable_created_on_every_call() -> None:
    fn = dm.function(lambda x: x * dm.Variable(1.0))
    with pytest.raises(dm.errors.VariableError, match="created on a later call") as caught:
        fn(array(2))
    assert "x * dm.Variable(1.0)" in str(caught.value)


def test_variable_created_on_a_later_trace() -> None:
    kept: list[Any] = []

    @dm.function
    def fn(x: Any) -> Any:
        if not kept or x.ndim == 2:
            kept.append(dm.Variable(1.0))
        return x * kept[0]

    fn(array(2))
    fn(array(3))
    with pytest.raises(dm.errors.VariableError, match="created on a later call"):
        fn(array(2, 2))
    same(fn(array(2)), array(2))


def test_initial_value_from_an_argument() -> None:
    kept: list[Any] = []
    fn = dm.function(lambda x: kept.append(dm.Variable(x * 2)))
    with pytest.raises(dm.errors.VariableError, match="initial value"):
        fn(array(2))


def test_random_initial_values_are_not_drawn_again() -> None:
    dm.random.set_seed(5)
    expected = [np.asarray(dm.random.normal((4,))) for _ in range(2)]
    dm.random.set_seed(5)
    kept: list[Any] = []

    @dm.function
    def fn() -> Any:
        if not kept:
            kept.append(dm.Variable(dm.random.normal((4,))))
        return dm.random.normal((4,))

    same(fn(), expected[1])
    same(kept[0], expected[0])
    assert not np.array_equal(fn(), expected[1])


def test_variables_as_arguments() -> None:
    @dm.function
    def fn(v: Any, by: float) -> None:
        v.assign_add(by)

    a, b = dm.Variable(1.0), dm.Variable(1.0)
    fn(a, 1.0)
    fn(b, 10.0)
    fn(a, 1.0)
    same(a, np.float32(3))
    same(b, np.float32(11))


def test_assign_checks_shape_and_dtype() -> None:
    v = dm.Variable([1.0, 2.0])
    with pytest.raises(dm.errors.ShapeError, match=r"float32\[2\].*float32\[3\]"):
        dm.function(lambda: v.assign(dm.ones(3)))()
    with pytest.raises(dm.errors.DTypeError):
        dm.function(lambda x: v.assign(x))(array(2, dtype=np.complex64))
    same(v, np.float32([1, 2]))


# --- methods --------------------------------------------------------------------------------------


def test_methods_have_traces_of_their_own() -> None:
    class Counter:
        def __init__(self, start: float) -> None:
            self.v = dm.Variable(start)

        @dm.function
        def add(self, x: Any, times: int = 1) -> Any:
            self.v.assign_add(x * times)
            return self.v

    a, b = Counter(0.0), Counter(10.0)
    same(a.add(1.0), np.float32(1))
    same(b.add(1.0), np.float32(11))
    same(a.add(2.0, times=2), np.float32(5))
    assert a.add.trace_count == 1 and b.add.trace_count == 1
    assert a.add.get_concrete_function(1.0).variables == [a.v]
    same(Counter.add(a, 1.0), np.float32(6))


def test_instances_are_collectable() -> None:
    class Model:
        def __init__(self) -> None:
            self.v = dm.Variable(1.0)

        @dm.function
        def __call__(self, x: Any) -> Any:
            return self.v * x

    gc.disable()
    try:
        model = Model()
        gone, variable = weakref.ref(model), weakref.ref(model.v)
        model(2.0)
        del model
        assert gone() is None
    finally:
        gc.enable()
    gc.collect()
    assert variable() is None


def test_functions_are_collectable() -> None:
    v = dm.Variable(1.0)

    def body(x: Any) -> Any:
        return x * v

    fn = dm.function(body)
    fn(2.0)
    gone = weakref.ref(fn)
    del fn
    gc.collect()
    assert gone() is None


def test_method_of_an_instance_without_weak_references() -> None:
    class Slotted:
        __slots__ = ()

        @dm.function
        def fn(self, x: Any) -> Any:
            return x

    with pytest.raises(TypeError, match="__weakref__"):
        Slotted().fn(1.0)


# --- functions in functions -----------------------------------------------------------------------


def test_function_inside_a_function() -> None:
    v = dm.Variable(1.0)

    @dm.function
    def inner(x: Any, n: int) -> Any:
        v.assign_add(x)
        return x * n + v

    @dm.function
    def outer(x: Any) -> Any:
        return inner(x, 2) + inner(x, 3) * inner(x, 4)

    x = dm.asarray(2.0)
    got = outer(x)
    v.assign(1.0)
    same(got, outer.python_function(x))
    assert inner.trace_count == 1
    assert outer.trace_count == 1


def test_inner_function_captures_a_traced_tensor() -> None:
    body = Counted(lambda x: x)

    @dm.function
    def outer(x: Any) -> Any:
        y = x * 2

        @dm.function
        def inner(z: Any) -> Any:
            body(z)
            return z + y

        return inner(x) * inner(x + 1)

    same(outer(dm.asarray(3.0)), np.float32(9 * 10))
    same(outer(dm.asarray(1.0)), np.float32(3 * 4))
    assert body.count == 1


def test_shared_function_that_captures_from_two_traces() -> None:
    held: list[Any] = []

    @dm.function
    def inner(z: Any) -> Any:
        return z + held[-1]

    @dm.function
    def outer(x: Any) -> Any:
        held.append(x * 2)
        return inner(x)

    same(outer(dm.asarray(3.0)), np.float32(9))
    same(outer(array(2)), 3 * array(2))


def test_inner_number_makes_the_outer_one_static() -> None:
    inner = dm.function(lambda n: dm.ones(n))
    outer = dm.function(lambda n: dm.sum(inner(n + 1)))
    for n in (1, 2, 1):
        same(outer(n), np.float32(n + 1))
    assert outer.trace_count == 2 and inner.trace_count == 2


def test_recursion_on_a_number() -> None:
    @dm.function
    def power(x: Any, n: int) -> Any:
        return x if n == 1 else x * power(x, n - 1)

    same(power(dm.asarray(2.0), 5), np.float32(32))


def test_endless_recursion() -> None:
    @dm.function
    def endless(x: Any) -> Any:
        return endless(x) + 1

    with pytest.raises(RecursionError, match="endless: calls itself"):
        endless(array(2))


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
