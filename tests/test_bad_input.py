"""Bad input, in both modes: what the error says, that it names the user's line, and that nothing
is lost. `test_bad_data.py` has what is no error, such as NaN and a batch of 0."""

from __future__ import annotations

import linecache
import re
import traceback
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode.errors import (
    AssertionFailed,
    DTypeError,
    GradientError,
    OutOfRangeError,
    ShapeError,
    TracedValueError,
    VariableError,
    hide_frames,
)

# bodies here let traced tensors out
pytestmark = pytest.mark.filterwarnings("ignore::dualmode.errors.SideEffectWarning")
both = pytest.mark.parametrize("mode", [lambda f: f, dm.function], ids=["eager", "compiled"])
W = dm.Variable([1.0, 2.0], name="w")
COUNT = dm.Variable([1, 2], name="count")


def zeros(*shape: int) -> Any:
    return dm.zeros(shape)


def taped(target: Any, source: Any = W, **options: Any) -> Any:
    """The gradient of what `target` makes of W."""
    with dm.GradientTape() as tape:
        y = target(W)
    return tape.gradient(y, source, **options)


def again() -> Any:
    with dm.GradientTape() as tape:
        y = W * W
    tape.gradient(y, W)
    return tape.gradient(y, W)


mse = dm.losses.MeanSquaredError()
cross_entropy = dm.losses.SparseCategoricalCrossentropy(from_logits=True)
dense = dm.nn.Dense(2, name="dense")
dense(zeros(1, 3))

# body, arguments, type of the error, what the message says
ERRORS: dict[str, tuple[Any, tuple[Any, ...], type[Exception], str]] = {
    # shapes
    "add": (
        lambda x, y: x + y,
        (zeros(3, 7), zeros(4, 5)),
        ShapeError,
        "add: shapes do not broadcast: float32[3,7] and float32[4,5] (sizes 7 and 5 on axis -1)",
    ),
    "matmul": (
        lambda x, y: x @ y,
        (zeros(3, 7), zeros(4, 5)),
        ShapeError,
        "matmul: inner sizes differ: float32[3,7] @ float32[4,5] (7 vs 4)",
    ),
    "concat": (
        lambda x, y: dm.concat([x, y]),
        (zeros(3, 7), zeros(4, 5)),
        ShapeError,
        "concat: float32[3,7] and float32[4,5] differ in more than axis 0",
    ),
    "reshape": (
        lambda x: x.reshape(4, 5),
        (zeros(3, 7),),
        ShapeError,
        "reshape: float32[3,7] has 21 elements, shape [4,5] has 20",
    ),
    "axis": (
        lambda x: dm.sum(x, axis=2),
        (zeros(3, 7),),
        ShapeError,
        "sum: axis 2 is out of range for rank 2 (valid are -2 to 1)",
    ),
    "unknown size": (
        lambda: dm.TensorSpec(("n", 3)),
        (),
        DTypeError,
        "sizes and axes are integers, got 'n'",
    ),
    "batches": (
        lambda x, y: x @ y,
        (zeros(2, 3, 3), zeros(4, 3, 3)),
        ShapeError,
        "matmul: float32[2,3,3] @ float32[4,3,3]: the batch: shapes do not broadcast: ",
    ),
    "padding": (
        lambda x: dm.pad(x, (1, 2, 3)),
        (zeros(2, 2),),
        ShapeError,
        "pad: float32[2,2] needs (before, after) for each axis, got (1, 2, 3)",
    ),
    "depth": (
        lambda x: dm.one_hot(x, -1),
        (dm.asarray([0, 1]),),
        ShapeError,
        "one_hot: a negative depth, -1",
    ),
    "random integers": (
        lambda: dm.random.randint(0, 10, (3,)),
        (),
        DTypeError,
        "low and high are integers, got 10 and (3,); the arguments are (shape, low, high)",
    ),
    "negative size": (
        lambda x: dm.zeros((2, -1)) + x,
        (1.0,),
        ShapeError,
        "a size is negative in the shape [2, -1]",
    ),
    "size that is no integer": (
        lambda x: dm.zeros((2, 1.5)) + x,
        (1.0,),
        DTypeError,
        "sizes and axes are integers, got (2, 1.5)",
    ),
    "loss": (
        lambda y, p: mse(y, p),
        (zeros(3, 1), zeros(3)),
        ShapeError,
        "mean_squared_error: y_true and y_pred differ in shape: float32[3,1] vs float32[3]",
    ),
    "labels": (
        lambda y, p: cross_entropy(y, p),
        (dm.zeros((3,), "int32"), zeros(4, 5)),
        ShapeError,
        "y_true is int32[3], y_pred is float32[4,5]",
    ),
    "layer": (
        lambda x: dense(x),
        (zeros(2, 5),),
        ShapeError,
        "dense: the last axis of the input must be 3, the size it was built for; "
        "the input is float32[2,5]",
    ),
    "maximum of nothing": (
        lambda x: dm.max(x, axis=0),
        (zeros(0, 3),),
        ShapeError,
        "max: no elements to choose from in float32[0,3]",
    ),
    "ragged lists": (
        lambda x: dm.asarray([[1, 2], [3]]) + x,
        (1,),
        ShapeError,
        "asarray: [[1, 2], [3]] is not rectangular; give all rows one length",
    ),
    # dtypes
    "float bits": (
        lambda x: x & x,
        (zeros(3),),
        DTypeError,
        "bitwise_and: float32 is not supported, it takes bool or integer",
    ),
    "labels that are no integers": (
        lambda y, p: cross_entropy(y, p),
        (zeros(4), zeros(4, 5)),
        DTypeError,
        "labels must be integers, y_true is float32[4]; use y_true.astype('int32')",
    ),
    "None": (
        lambda x: x + None,
        (zeros(2),),
        DTypeError,
        "None cannot be made a tensor; it has to be a number, an array",
    ),
    "text": (
        lambda x: x + "a",
        (zeros(2),),
        DTypeError,
        "'a' cannot be made a tensor",
    ),
    "array of objects": (
        lambda x: x + np.array([1, None]),
        (zeros(2),),
        DTypeError,
        "an array of dtype object cannot be made a tensor; it has to be one of bool, int8",
    ),
    "number too large": (
        lambda x: x + 300,
        (dm.zeros((2,), "int8"),),
        DTypeError,
        "300 does not fit int8; give a wider dtype",
    ),
    "integer to a negative power": (
        lambda x, y: x**y,
        (dm.asarray([2, 3]), dm.asarray([1, -1])),
        ValueError,
        "pow: an integer to a negative power is no integer",
    ),
    # gradients
    "integer target": (
        lambda: taped(dm.argmax),
        (),
        GradientError,
        "gradient: the target is int64[]: int64 is non-differentiable; use a floating dtype",
    ),
    "bool target": (
        lambda: taped(lambda w: w > 0),
        (),
        GradientError,
        "gradient: the target is bool[2]: bool is non-differentiable",
    ),
    "text as target": (
        lambda: taped(lambda w: "loss"),
        (),
        GradientError,
        "gradient: the target is a str; only tensors and variables have gradients",
    ),
    "None as target": (
        lambda: taped(lambda w: None),
        (),
        GradientError,
        "gradient: there is no tensor in the target, None",
    ),
    "integer source": (
        lambda: taped(dm.sum, COUNT),
        (),
        GradientError,
        "gradient: a source is int32[2]: int32 is non-differentiable",
    ),
    "source in a structure that is no tensor": (
        lambda: taped(dm.sum, {"w": W, "b": ["b"]}),
        (),
        GradientError,
        "gradient: a source is a str; only tensors and variables have gradients",
    ),
    "output gradients": (
        lambda: taped(dm.exp, output_gradients=dm.ones(3)),
        (),
        ShapeError,
        "gradient: output_gradients float32[3] for a target float32[2]",
    ),
    "second gradient": (
        again,
        (),
        GradientError,
        "gradient: this tape is used up; a tape gives one gradient unless it is made with "
        "GradientTape(persistent=True)",
    ),
    # variables
    "assigned shape": (
        lambda x: W.assign(x),
        (zeros(3),),
        ShapeError,
        "assign: w is float32[2] and the value float32[3]; the shape of a variable stays",
    ),
    "assigned dtype": (
        lambda x: COUNT.assign(x),
        (zeros(2),),
        DTypeError,
        "assign: count is int32[2] and the value float32[2]; convert it with .astype('int32')",
    ),
    "augmented assignment": (
        lambda x: W.__iadd__(x),
        (1.0,),
        VariableError,
        "variable += x does not change w; use v.assign_add(x)",
    ),
    "item assignment": (
        lambda x: x.__setitem__(0, 1.0),
        (zeros(2),),
        TypeError,
        "a tensor has no item assignment; use x = x.at[index].set(value)",
    ),
    "item assignment to a variable": (
        lambda x: W.__setitem__(0, x),
        (1.0,),
        TypeError,
        "a variable has no item assignment; use v.assign(v.at[index].set(value))",
    ),
    # indices
    "index": (
        lambda x: x[0, 3],
        (zeros(2, 3),),
        OutOfRangeError,
        "getitem: index 3 is out of range for axis 1 of float32[2,3]",
    ),
    "too many indices": (
        lambda x: x[0, 1, 2],
        (zeros(2, 3),),
        OutOfRangeError,
        "getitem: 3 indices for float32[2,3], which has 2 axes",
    ),
    "index that is a float": (
        lambda x: x[1.0],
        (zeros(2, 3),),
        DTypeError,
        "getitem: indices are integers, got float32[]",
    ),
    "index that is text": (
        lambda x: x["a"],
        (zeros(2, 3),),
        DTypeError,
        "getitem: 'a' is no index of a tensor; indices are integers, slices",
    ),
    "index that is a bool": (
        lambda x: x[True],
        (zeros(2, 3),),
        DTypeError,
        "getitem: a single bool is no index of a tensor",
    ),
    "slice of floats": (
        lambda x: x[0:1.5],
        (zeros(2, 3),),
        TypeError,
        "slice indices must be integers",
    ),
    "index known at run time": (
        lambda x, i: dm.take(x, i, axis=1),
        (zeros(2, 3), dm.asarray([0, -4])),
        OutOfRangeError,
        "take: index -4 is out of range for an axis of size 3",
    ),
    # assertions
    "assertion": (
        lambda x: dm.debugging.assert_greater(x, 0.0, "x has to be positive"),
        (dm.asarray([1.0, -2.0]),),
        AssertionFailed,
        "x has to be positive: x > y expected: -2.0 and 0.0 at [1], 1 of 2 elements",
    ),
}

# what only a function that is traced cannot do
TRACED: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "a comprehension": (
        lambda x: [y for y in (x, -x) if dm.sum(y) > 0],
        (zeros(2),),
        "bool() needs the value of TracedTensor(bool[]), which has none yet: a function is traced "
        "before it runs.\n  It was made by greater at ",
    ),
    "any()": (
        lambda flag: any((flag,)),
        (dm.asarray(True),),
        "It is argument flag.\n  Instead, use dm.where to choose between results",
    ),
    "in": (lambda x: x in (0.0, 1.0), (dm.asarray(0.5),), "dm.logical_and for `and`"),
    "float()": (lambda x: float(x * 2), (dm.asarray(0.5),), "float() needs the value"),
    "item()": (lambda x: x.item(), (dm.asarray(0.5),), "item() needs the value"),
    "range()": (
        lambda n: list(range(n)),
        (dm.asarray(5),),
        "pass it as a Python int, whose value is known",
    ),
    "size": (lambda x, n: x.reshape(n, 2), (zeros(6), dm.asarray(3)), "an index or size needs"),
    "slice": (lambda x, n: x[:n], (zeros(6), dm.asarray(3)), "It is argument n."),
    "asarray": (
        lambda x: np.asarray(x),
        (zeros(2),),
        "numpy() needs the value of TracedTensor(float32[2])",
    ),
    "a function of NumPy": (
        lambda x: np.sin(x),
        (zeros(2),),
        "use the functions of dm in the place of NumPy's",
    ),
    "mask": (
        lambda x: x[x > 0],
        (zeros(2),),
        "a boolean mask needs the value of TracedTensor(bool[2])",
    ),
}


def located(error: BaseException, body: Any = None) -> bool:
    """Whether the message ends with a line of this file: of `body`, where that is given."""
    found = re.search(r"\n  at \S*test_bad_input\.py:(\d+): (.*)$", str(error))
    if found is None:
        return False
    line = int(found[1])
    lines = {n for *_, n in body.__code__.co_lines()} if body else {line}
    return line in lines and linecache.getline(__file__, line).strip() == found[2]


@both
@pytest.mark.parametrize(("body", "args", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_the_error_says_what_is_wrong_and_where(mode, body, args, kind, message):
    before = W.numpy().tolist(), COUNT.numpy().tolist()
    with pytest.raises(kind) as info:
        mode(body)(*args)
    assert message in str(info.value)
    assert located(info.value)
    assert (W.numpy().tolist(), COUNT.numpy().tolist()) == before
    assert dm.executing_eagerly()


@pytest.mark.parametrize(("body", "args", "message"), TRACED.values(), ids=TRACED)
def test_what_needs_a_value_while_tracing(body, args, message):
    body(*args)  # fine eagerly
    with pytest.raises(TracedValueError) as info:
        dm.function(body)(*args)
    assert message in str(info.value)
    assert located(info.value, body)
    with dm.config.override(jit=False):
        dm.function(body)(*args)


# --- traced tensors that got out ----------------------------------------------------------------


def leaked() -> Any:
    kept = []
    dm.function(lambda x: kept.append(x * 2))(dm.asarray(1.0))
    return kept[0]


@pytest.mark.parametrize(
    ("use", "name"),
    [
        (lambda t: t + 1, "add"),
        (lambda t: t.numpy(), "numpy()"),
        (lambda t: COUNT.assign(t.astype("int32")), "cast"),
        (lambda t: dm.Variable(0.0).assign(t), "assign"),
        (lambda t: dm.Variable(t), "Variable"),
        (lambda t: dm.function(lambda x: x + t)(1.0), "add"),
        (lambda t: dm.function(lambda: t)(), "the result"),
    ],
    ids=["op", "value", "cast", "assign", "variable", "in a function", "as a result"],
)
def test_a_leaked_tensor_is_named(use, name):
    with pytest.raises(TracedValueError) as info:
        use(leaked())
    message, origin, mend, _ = str(info.value).splitlines()
    assert message.startswith(f"{name}: TracedTensor(float32[]) is used outside of the function")
    assert "It was made by multiply at" in origin
    assert "kept.append(x * 2)" in origin
    assert "Return it from the function, or assign it to a dm.Variable" in mend
    assert located(info.value)


def test_a_leaked_argument_has_no_origin():
    kept = []
    dm.function(lambda x: kept.append(x))(zeros(2))
    assert repr(kept[0]) == "TracedTensor(float32[2])"
    with pytest.raises(TracedValueError, match="It is an argument or a variable of that function"):
        dm.exp(kept[0])


# --- functions: arguments, variables, exceptions ------------------------------------------------


@both
@pytest.mark.parametrize(
    ("args", "options"), [((), {}), ((1, 2, 3), {}), ((1,), {"z": 2}), ((1, 2), {"x": 1})]
)
def test_arguments_that_do_not_fit(mode, args, options):
    def add(x, y):
        return x + y

    with pytest.raises(TypeError, match=r"add\(\)"):
        mode(add)(*args, **options)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({1, 2}, "f: argument params['b']: a set can neither be traced nor hashed"),
        (np.array(["a"]), "f: argument params['b']: NumPy dtype <U1 has no counterpart"),
    ],
)
def test_an_argument_that_cannot_be_traced_is_named(argument, message):
    @dm.function
    def f(params):
        return params["w"]

    for call in (f, f.get_concrete_function):
        with pytest.raises(DTypeError, match=re.escape(message)) as info:
            call({"w": zeros(2), "b": argument})
        assert located(info.value)


def test_a_variable_on_a_later_call():
    made = []

    @dm.function
    def step(x):
        made.append(dm.Variable(1.0))
        return made[-1] * x

    with pytest.raises(VariableError, match="created on a later call") as info:
        step(zeros(2))
    assert "Create it outside of the function, or once" in str(info.value)
    assert located(info.value)


def test_a_variable_from_an_argument():
    def step(x):
        return dm.Variable(x)

    with pytest.raises(VariableError, match="depends on an argument .* argument x") as info:
        dm.function(step)(zeros(2))
    assert located(info.value, step)


@both
def test_an_exception_in_the_middle(mode):
    """It arrives as it is, and all is usable afterwards; the next call starts anew."""
    v, bad = dm.Variable(1.0), [True]

    @mode
    def step(x):
        with dm.GradientTape() as tape:
            y = v * x
            if bad[0]:
                raise KeyError("middle")
        v.assign_sub(tape.gradient(y, v))
        return v.read_value()

    with pytest.raises(KeyError, match="middle"):
        step(2.0)
    assert dm.executing_eagerly()
    assert v.numpy() == 1
    bad[0] = False
    assert (step(2.0).item(), step(2.0).item(), v.numpy()) == (-1, -3, -3)


@both
def test_after_an_error_at_run_time_a_function_goes_on(mode):
    v = dm.Variable([1.0, 2.0, 3.0])

    @mode
    def pick(i):
        return dm.take(v, i) * 2

    for _ in range(2):
        assert pick(dm.asarray([2])).tolist() == [6]
        with pytest.raises(OutOfRangeError, match="take: index 3 is out of range"):
            pick(dm.asarray([3]))
    assert v.numpy().tolist() == [1, 2, 3]


def test_an_error_names_the_line_in_the_function_that_was_called():
    def inner(x):
        return x @ x

    def outer(x):
        return dm.function(inner)(x + 1)

    with pytest.raises(ShapeError, match="matmul") as info:
        dm.function(outer)(zeros(2, 3))
    assert located(info.value, inner)


# --- names --------------------------------------------------------------------------------------


def test_settings_that_do_not_exist():
    for change in (
        lambda: dm.config.update(num_thread=2),
        lambda: setattr(dm.config, "num_thread", 2),
        lambda: dm.config.override(num_thread=2).__enter__(),
    ):
        with pytest.raises(AttributeError, match="no setting 'num_thread'; it has num_threads"):
            change()
    with pytest.raises(ValueError, match="jit is True or False, not 3"):
        dm.config.jit = 3
    dm.config.num_threads = 2
    assert dm.config.num_threads == 2


def test_names_that_do_not_exist():
    with pytest.raises(AttributeError, match="no attribute 'reduce_mean'; it is dm.mean here"):
        dm.reduce_mean  # noqa: B018
    with pytest.raises(AttributeError) as info:
        dm.matmull  # noqa: B018
    assert (info.value.name, info.value.obj) == ("matmull", dm)  # Python suggests matmul
    for here in dm._ELSEWHERE.values():
        assert hasattr(dm, here)
    assert not [name for name in dm._ELSEWHERE if hasattr(dm, name)]


# --- tracebacks ---------------------------------------------------------------------------------


def frames(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def test_the_engines_frames_are_hidden_from_any_error_that_is_raised_on_purpose():
    def body(x):
        raise KeyError("mine")

    for call in (
        lambda: dm.function(body)(1.0),
        lambda: dm.nn.Dense(-1),
        lambda: dm.function(lambda x: x)(1, 2),
    ):
        with pytest.raises((KeyError, ValueError, TypeError)) as info:
            call()
        hide_frames(info.value)
        assert set(frames(info.value)[1:]) <= {"<lambda>", "body"}


def test_frames_stay_where_the_engine_itself_failed():
    with pytest.raises(AttributeError) as info:
        dm.GradientTape.watch(None, W)  # what a bug looks like
    hide_frames(info.value)
    assert frames(info.value)[-1] == "watch"


def test_what_led_to_an_error_has_its_frames_hidden_as_well():
    def of_mine():
        try:
            dm.function(lambda x: x @ x)(zeros(2, 3))
        except ShapeError as error:
            raise RuntimeError("of mine") from error

    with pytest.raises(RuntimeError) as info:
        of_mine()
    hide_frames(info.value)
    cause = info.value.__cause__
    assert cause is not None
    assert frames(cause) == ["of_mine", "<lambda>"]
