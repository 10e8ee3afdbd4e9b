"""input_signature, the record of retraces, and the quick way into nested arguments."""

from __future__ import annotations

import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode.errors import DTypeError, RetracingWarning, ShapeError, TracedValueError
from dualmode.unpack import caller
from dualmode_compiler.runtime.layout import MISS

F32 = "float32"


@pytest.fixture(autouse=True)
def interpreted() -> Any:
    """What is compiled is not the question in most of these."""
    with dm.config.override(backend="interpret"):
        yield


@pytest.fixture
def compiled(interpreted: Any) -> Any:
    with dm.config.override(backend="compile"):
        yield


def ones(*shape: int, dtype: Any = np.float32) -> Any:
    return dm.asarray(np.ones(shape, dtype))


# --- TensorSpec -----------------------------------------------------------------------------------


def test_tensor_spec() -> None:
    spec = dm.TensorSpec([None, 3], F32)
    assert repr(spec) == "float32[None,3]" and spec.dtype is dm.float32 and spec.shape == (None, 3)
    assert spec == dm.TensorSpec((None, 3)) and hash(spec) == hash(dm.TensorSpec((None, 3)))
    assert spec != dm.TensorSpec((2, 3)) and spec != dm.TensorSpec((None, 3), "float64")
    with pytest.raises(ShapeError, match="all sizes have to be known"):
        dm.function(lambda x: x).get_concrete_function(spec)
    with pytest.raises(ShapeError, match=r"float32\[-1,3\] has a negative size; None stands"):
        dm.TensorSpec([-1, 3])


# --- input_signature ------------------------------------------------------------------------------


def test_any_size_from_the_first_call_on() -> None:
    bodies = []

    @dm.function(input_signature=[dm.TensorSpec([None, 3], F32)], autograph=False)
    def fn(x: Any) -> Any:
        bodies.append(x.shape)
        return dm.mean(x, axis=0) * x.shape[0]

    with pytest.warns(dm.errors.SideEffectWarning):
        fn(ones(4, 3))
    for n in (4, 7, 2, 31, 7):
        np.testing.assert_allclose(fn(ones(n, 3)).numpy(), np.full(3, n, np.float32), rtol=1e-6)
    assert bodies == [(4, 3), (8, 3)]  # once more to learn what depends on the size
    assert fn.trace_count == 1 and fn.retraces == []


def test_a_first_call_of_size_1_teaches_nothing() -> None:
    fn = dm.function(input_signature=[dm.TensorSpec([None, 3], F32)])(lambda x: x * 2)
    for n in (1, 4, 5, 6, 1):
        assert fn(ones(n, 3)).shape == (n, 3)
    assert fn.trace_count == 2


def test_two_sizes_that_may_differ() -> None:
    spec = dm.TensorSpec([None], F32)
    fn = dm.function(input_signature=[spec, spec])(lambda x, y: dm.sum(x) + y)
    for n, m in ((4, 4), (5, 5), (5, 9), (6, 8), (7, 7)):
        assert fn(ones(n), ones(m)).shape == (m,)
    assert fn.trace_count <= 3
    fn = dm.function(input_signature=[spec, spec])(lambda x, y: x * y)
    assert fn(ones(4), ones(4)).shape == (4,)
    with pytest.raises(ShapeError, match="multiply"):
        fn(ones(4), ones(5))


def test_what_a_probe_cannot_do_is_no_error() -> None:
    def fixed(x: Any) -> Any:
        return x + dm.ones(4)

    fn = dm.function(input_signature=[dm.TensorSpec([None], F32)])(fixed)
    assert fn(ones(4)).tolist() == [2.0] * 4
    with pytest.raises(ShapeError):
        fn(ones(5))


def test_nested_signature_and_numbers() -> None:
    specs = [{"a": dm.TensorSpec([None], F32), "b": [dm.TensorSpec([], "int32")]}]
    fn = dm.function(input_signature=specs)(lambda tree, k=2: tree["a"] * tree["b"][0] * k)
    assert fn({"a": ones(3), "b": [4]}).tolist() == [8.0] * 3
    assert fn({"a": np.ones(5, np.float32), "b": [dm.asarray(5)]}, k=1).tolist() == [5.0] * 5
    assert fn({"a": dm.Variable(ones(2)), "b": [True]}).tolist() == [2.0] * 2


class Model:
    @dm.function(input_signature=[dm.TensorSpec([None], F32)])
    def double(self, x: Any) -> Any:
        return x * 2


def test_methods() -> None:
    model = Model()
    for n in (3, 5, 8):
        assert model.double(ones(n)).shape == (n,)
    with pytest.raises(ShapeError, match="double: argument x: expected"):
        model.double(ones(2, 2))


X = dm.TensorSpec([None, 3], F32)
REFUSED = {
    "size": ([X], (ones(2, 4),), ShapeError, r"argument x: expected float32\[None,3\] by "
             r"input_signature, got float32\[2,4\] \(axis 1 has 4, not 3\)"),
    "rank": ([X], (ones(3),), ShapeError, r"got float32\[3\] \(1 axes, not 2\)"),
    "dtype": ([X], (ones(2, 3, dtype=np.float64),), DTypeError, r"got float64\[2,3\] \(convert"),
    "number": ([X], (1.5,), DTypeError, "got float 1.5; pass a tensor"),
    "fraction": ([dm.TensorSpec([], "int32")], (1.5,), DTypeError, "got float 1.5"),
    "text": ([X], ("no",), DTypeError, "got str 'no'; pass a tensor"),
    "list": ([X], ([ones(3), ones(3)],), TypeError, r"argument x: expected a tensor by input_sig"),
    "path": ([{"w": [X]}], ({"w": [ones(3, 1)]},), ShapeError, r"argument x\['w'\]\[0\]: expected"),
    "keys": ([{"w": X}], ({"v": ones(2, 3)},), TypeError,
             r"expected tensors nested as \{'w': \*\} .*\{'v': \*\}"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_arguments(name: str) -> None:
    signature, args, error, message = REFUSED[name]
    fn = dm.function(input_signature=signature)(lambda x: x)
    with pytest.raises(error, match=message) as caught:
        fn(*args)
    assert "fn(*args)" in str(caught.value)
    assert fn.trace_count == 0


def test_signatures_that_make_no_sense() -> None:
    with pytest.raises(TypeError, match="2 entries for 1 positional"):
        dm.function(input_signature=[X, X])(lambda x: x)
    with pytest.raises(TypeError, match=r"holds dm.TensorSpecs, not 'float32'"):
        dm.function(input_signature=["float32"])(lambda x: x)
    with pytest.raises(TypeError, match="one entry for each parameter"):
        dm.function(input_signature=X)(lambda x: x)


# --- retraces -------------------------------------------------------------------------------------


class Thing:
    pass


CHANGES = {
    "shape": (ones(3), ones(4), "x", "shape", "float32[3]", "float32[4]"),
    "dtype": (ones(3), ones(3, dtype=np.int8), "x", "dtype", "float32[3]", "int8[3]"),
    "value": (True, False, "x", "value", "True", "False"),
    "text": ("a", "b", "x", "value", "'a'", "'b'"),
    "number": (2, 3, "x", "value", "2", "3"),
    "type": (ones(), "b", "x", "type", "float32[]", "'b'"),
    "path": ({"w": [1.0, ones(2)]}, {"w": [1.0, ones(5)]}, "x['w'][1]", "shape",
             "float32[2]", "float32[5]"),
    "keys": ({"a": 1.0}, {"a": 1.0, "b": 2.0}, "x", "structure", "without", "with x['b']"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_retraces_say_what_changed(name: str) -> None:
    old, new, argument, kind, before, after = CHANGES[name]
    fn = dm.function(autograph=False)(lambda x: int(x) if type(old) is int else None)
    if type(old) is int:
        fn = dm.function(autograph=False)(lambda x: dm.ones(x))
    fn(old)
    fn(new)
    fn(old)
    (retrace,) = fn.retraces
    assert (retrace.argument, retrace.kind) == (argument, kind)
    assert (repr(retrace.old), repr(retrace.new)) == (before, after)
    assert retrace.ms > 0 and f"{kind} of {argument}: {before} -> {after}" in repr(retrace)


def test_identity_and_the_line_that_needs_a_value() -> None:
    a, b = Thing(), Thing()
    fn = dm.function(autograph=False)(lambda thing, n: dm.ones(n))
    fn(a, 2)
    fn(b, 2)
    fn(b, 3)
    first, second = fn.retraces
    assert (first.argument, first.kind) == ("thing", "identity")
    assert (second.argument, second.kind) == ("n", "value")
    assert "dm.ones(n)" in second.changes[0].why
    assert "lambda thing, n" in repr(second)


def test_the_closest_signature_is_compared() -> None:
    fn = dm.function(lambda x, y: x)
    fn(ones(2), ones(3))
    fn(ones(2, dtype=np.int32), ones(7, dtype=np.int8))
    fn(ones(2), ones(4))
    assert [r.argument for r in fn.retraces] == ["x", "y"]
    assert len(fn.retraces[0].changes) == 2


def test_one_warning_after_five() -> None:
    fn = dm.function(lambda x, flag: x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(5):
            fn(ones(2), str(k))
        assert not caught
        for k in range(5, 20):
            fn(ones(2), str(k))
    (warning,) = caught
    assert warning.category is RetracingWarning and warning.filename == __file__
    text = str(warning.message)
    assert "traced again 5 times" in text and "value of flag: '4' -> '5'" in text
    assert "pass a tensor" in text and ".retraces" in text and "reduce_retracing" not in text
    fn = dm.function(lambda flag: flag)
    for k in range(5):
        fn(str(k))
    with pytest.raises(RetracingWarning):  # as an error, it leaves the trace in place
        fn("5")
    assert fn("5") == "5" and fn.trace_count == 6
    fn = dm.function(autograph=False)(lambda x: [x[k] for k in range(x.shape[0])])
    for n in range(2, 7):
        fn(ones(n))
    with pytest.warns(RetracingWarning, match="TensorSpec.*reduce_retracing"):
        fn(ones(7))


def test_an_exception_leaves_nothing() -> None:
    fail = True

    def body(x: Any) -> Any:
        y = x * 2
        if fail:
            raise KeyError("no")
        return y

    fn = dm.function(autograph=False)(body)
    for _ in range(2):
        with pytest.raises(KeyError):
            fn(ones(3))
    assert fn.trace_count == 0 and not fn.retraces
    assert not fn._traces._tracing and not fn._traces._traces
    fail = False
    assert fn(ones(3)).tolist() == [2.0] * 3
    with pytest.raises(TracedValueError):
        dm.function(autograph=False)(lambda x: float(x[0]))(ones(2))
    assert dm.executing_eagerly() and type(ones(3).shape[0]) is int


# --- nested arguments -----------------------------------------------------------------------------

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Point:
    x: Any
    y: Any


def _trees(z: Any) -> list[Any]:
    return [
        {"w": z(), "b": z()},
        [z(), (z(), None)],
        Pair(z(), {3: z()}),
        Point(z(), [Point(z(), "label")]),
        z(),
        True,
        2.5,
    ]


@pytest.mark.usefixtures("compiled")
def test_nested_arguments_take_the_quick_way() -> None:
    def body(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any = (1.0,)) -> Any:
        total = a["w"] - a["b"] + b[0] + b[1][0] + c.left * c.right[3] + d.x * d.y[0].x + e * g
        return total * h[0] if f else [total, d.y[0].y]

    fn = dm.function(body)
    args: list[Any] = []
    values = iter(np.linspace(0, 1, 1000, dtype=np.float32))
    for _ in range(4):
        args = _trees(lambda: dm.asarray(next(values)))
        np.testing.assert_allclose(fn(*args).numpy(), body(*args).numpy(), rtol=1e-5)
    assert fn._fast(*args) is not MISS and fn.trace_count == 1
    for k, other in (
        (0, {"w": args[0]["w"], "c": args[0]["b"]}),
        (0, {**args[0], "c": 1.0}),
        (1, (args[1][0], args[1][1])),
        (1, [args[1][0], (args[1][1][0], 1)]),
        (2, (args[2].left, args[2].right)),
        (3, Pair(args[3].x, args[3].y)),
        (3, Point(args[3].x, [Point(args[3].x, "other")])),
        (4, [args[4]]),
        (5, False),
        (5, [True]),
        (6, 3),
        (6, dm.asarray(2.5)),
    ):
        assert fn._fast(*(other if i == k else x for i, x in enumerate(args))) is MISS, (k, other)
    assert fn._fast(*args[:-1]) is MISS and fn._fast(*args, (1.0,)) is MISS
    args[5] = False
    found = fn(*args)
    assert found[1] == "label" and fn(*args)[1] == "label" and fn._fast(*args)[1] == "label"
    np.testing.assert_allclose(found[0].numpy(), body(*args)[0].numpy(), rtol=1e-5)


@pytest.mark.usefixtures("compiled")
def test_what_the_quick_way_does_not_know() -> None:
    fn = dm.function(lambda a, b: a["x"] + b)
    for _ in range(3):
        assert fn(OrderedDict(x=ones()), ones()).item() == 2.0
    assert fn._fast(OrderedDict(x=ones()), ones()) is MISS
    thing = Thing()
    fn = dm.function(lambda a, thing: a[0] + 1)
    for _ in range(3):
        assert fn([ones()], thing).item() == 2.0
    assert fn._fast([ones()], thing) is not MISS
    assert fn._fast([ones()], Thing()) is MISS


def test_callers_are_for_positional_arguments() -> None:
    from dualmode import tree

    _, form = tree.flatten((([1.0],), {"k": 1.0}))
    assert caller(form, [], [], [0, 1], lambda *_: None, None) is None
