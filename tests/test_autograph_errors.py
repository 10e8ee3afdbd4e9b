"""Control flow that cannot be converted, or whose parts do not fit: what the error says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dualmode as dm

ONE = dm.constant(1.5)


# --- bad input ------------------------------------------------------------------------------------


def one_branch(x):
    if x > 0:
        y = x
    return y


def body_only(n):
    for i in dm.range(n):
        y = i
    return y


def structures(x):
    y = x
    if x > 0:
        y = [x]
    return y


def dtypes(x):
    if x > 0:
        x = dm.cast(x, "int32")
    return x


def strings(x):
    mode = "a"
    while x > 0:
        mode = "b"
        x = x - 1
    return mode


def loop_shape(x):
    for _ in dm.range(3):
        x = dm.concat([x, x])
    return x


def loop_dtype(x):
    while x < 3:
        x = dm.cast(x, "int32")
    return x


def none_first(x):
    best = None
    for v in dm.stack([x, -x]):
        best = v
    return best


def vector(x):
    if x + dm.zeros(2) > 0:
        return x
    return -x


def some_paths(x):  # noqa: RET503
    if x > 0:
        return x


def growing(x):
    found = []
    while x < 10:
        found.append(x)
        x = x + 1
    return found


def reads_growing(x):
    found = [x]
    for _ in dm.range(3):
        found.append(found[-1] * 2)
    return found


def grows_in_a_branch(x):
    found = []
    for i in dm.range(4):
        if i > x:
            found.append(i)
    return found


def raise_in_try(x):
    try:
        if x > 0:
            raise ValueError("positive")
    except ValueError:
        return x
    return -x


def zip_of_a_dataset(x):
    for row, k in zip(dm.data.Dataset.range(3), [1, 2, 3], strict=True):
        x = x + row * k
    return x


def shape_of_unknown_length(x):
    while x < 3:
        dm.autograph.set_loop_options(shape_invariants=[(x, [])])
        x = x + 1
    return x


BAD = [
    (one_branch, "UndefinedError", "y: it has no value where the condition is False at .*if x > 0"),
    (body_only, "UndefinedError", "y: it is assigned only within the loop"),
    (structures, "ShapeError", r"y: .* float32\[\] where False, a list of 1 where True"),
    (dtypes, "DTypeError", r"x: float32\[\] where False, int32\[\] where True"),
    (strings, "DTypeError", "mode is 'a', which is no tensor, and becomes 'b'"),
    (loop_shape, "ShapeError", r"x is float32\[2\] and becomes float32\[4\] after an iteration"),
    (loop_dtype, "DTypeError", r"x is float32\[\] and becomes int32\[\] after an iteration"),
    (none_first, "ShapeError", r"best is None before the loop and float32\[\] after"),
    (vector, "ShapeError", r"the condition of `if` is bool\[2\], not a scalar; .*dm.all"),
    (some_paths, "TypeError", "returns a value on some paths, and none on others.*add a return"),
    (growing, "ShapeError", "found: the loop appends to a list, .* dm.range of a Python int"),
    (reads_growing, "TypeError", "found: .* cannot be read in the loop"),
    (grows_in_a_branch, "ShapeError", "found: .* grows in one branch only"),
    (raise_in_try, "TypeError", "raise outside of the try"),
    (zip_of_a_dataset, "TypeError", "use dm.data.Dataset.zip"),
    (shape_of_unknown_length, "ShapeError", "known number of iterations"),
]


@pytest.mark.parametrize(("fn", "kind", "message"), BAD, ids=lambda x: getattr(x, "__name__", ""))
def test_what_cannot_be_native(fn: Any, kind: str, message: str) -> None:
    first = {"body_only": dm.constant(3), "loop_shape": dm.ones(2)}.get(fn.__name__, ONE)
    with pytest.raises(Exception, match=message) as caught:
        dm.function(fn)(first)
    assert type(caught.value).__name__ == kind
    lines = {n for *_, n in fn.__code__.co_lines() if n}
    site = caught.value.site
    assert site is not None
    assert site[0] == __file__
    assert site[1] in lines
    assert dm.executing_eagerly()


TEXT = "def fn(x):\n    return x if x > 0 else -x\n"


def compiled_text(file: str) -> Any:
    scope: dict[str, Any] = {}
    exec(compile(TEXT, file, "exec"), scope)
    return scope["fn"]


def generates(x):
    yield x if x > 0 else -x


@pytest.mark.parametrize(
    ("fn", "why"),
    [
        (compiled_text("<string>"), "made by exec or eval.*write it in a file"),
        (compiled_text("<stdin>"), "typed into the interactive interpreter"),
        (compiled_text("<frozen main>"), "the program is frozen"),
        (compiled_text("/nowhere/gone.py"), "there is no file /nowhere/gone.py"),
        (lambda x: [y for y in (x, -x) if y > 0], "comprehensions stay Python's"),
        (lambda x: list(generates(x)), "it is a generator"),
    ],
)
def test_what_is_not_converted_says_why(fn: Any, why: str) -> None:
    fn(ONE)
    with pytest.raises(dm.errors.TracedValueError, match=why):
        dm.function(fn)(ONE)


def test_code_that_is_not_available_runs_unless_it_needs_values() -> None:
    scope: dict[str, Any] = {"dm": dm}
    exec("def fn(x, n):\n    return dm.tanh(x) if n > 2 else x\n", scope)
    assert float(dm.function(scope["fn"])(ONE, 3)) == pytest.approx(np.tanh(1.5), rel=1e-5)


def test_code_of_what_is_not_converted() -> None:
    with pytest.raises(dm.errors.ConversionError, match="it is a generator"):
        dm.autograph.to_code(generates)
