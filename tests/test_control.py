"""cond, switch_case, while_loop, fori_loop, scan, map_fn: in both modes, with gradients."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode import tree

X = np.array([0.5, -1.25, 2.0], np.float32)
Program = Callable[..., Any]


def agree(a: Any, b: Any, rtol: float = 1e-5) -> None:
    """Equal structures of values that are close."""
    xs, form = tree.flatten(a)
    ys, other = tree.flatten(b)
    assert form == other
    for x, y in zip(xs, ys, strict=True):
        if isinstance(x, str):
            assert x == y
            continue
        x, y = np.asarray(x), np.asarray(y)
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6)


def both(fn: Program, *args: Any) -> Any:
    """The result of `fn`, the same in both modes."""
    args = tuple(dm.asarray(a) if isinstance(a, np.ndarray) else a for a in args)
    eager = fn(*args)
    agree(eager, dm.function(fn)(*args))
    return eager


def branchy(x: Any) -> Any:
    return dm.cond(dm.sum(x) > 0, lambda: dm.sin(x) * x, lambda: dm.exp(x))


def switching(x: Any) -> Any:
    k = dm.cast(dm.sum(dm.abs(x)) * 10, "int32") % 5
    return dm.switch_case(k, {0: lambda: x, 1: lambda: x * x, 3: lambda: dm.tanh(x)})


def growing(x: Any) -> Any:
    """Iterations whose number depends on the values."""
    return dm.while_loop(
        lambda i, y: dm.sum(y * y) < 50.0, lambda i, y: (i + 1, y * 1.5 + dm.sin(y)), (0, x)
    )[1]


def unused(x: Any) -> Any:
    """Nothing of an iteration is needed by the gradient but how many there were."""
    return dm.while_loop(lambda i, y: i < 4, lambda i, y: (i + 1, y * 2.0 + 1.0), (0, x))[1]


def counted(x: Any) -> Any:
    return dm.fori_loop(0, 5, lambda i, y: y * dm.cos(y) + dm.cast(i, "float32"), x)


def limited(x: Any) -> Any:
    return dm.while_loop(lambda y: dm.sum(y) < 1e9, lambda y: y * y + x, x, maximum_iterations=3)


def scanning(x: Any) -> Any:
    carry, ys = dm.scan(lambda c, t: (dm.tanh(c * t + c), (c * t, dm.sin(t))), dm.sum(x), x)
    return carry + dm.sum(ys[0] * ys[0]) + dm.sum(ys[1] * x)


def reversed_scan(x: Any) -> Any:
    carry, ys = dm.scan(lambda c, t: (c * t + 1.0, c * c), dm.ones(()), x, reverse=True)
    return carry * dm.sum(ys * x)


def mapped(x: Any) -> Any:
    return dm.map_fn(lambda t: dm.exp(t) * dm.sum(x), x)


def nested(x: Any) -> Any:
    """A loop in a branch in a scan."""

    def step(c: Any, t: Any) -> Any:
        y = dm.cond(
            t > 0,
            lambda: dm.while_loop(lambda i, z: z < 5.0, lambda i, z: (i + 1, z * 2 + c), (0, t))[1],
            lambda: t * t * c,
        )
        return c + dm.sin(y), y

    carry, ys = dm.scan(step, dm.ones(()), dm.abs(x) - 1.0)
    return carry * dm.sum(ys)


def loop_in_loop(x: Any) -> Any:
    def outer(i: Any, y: Any) -> Any:
        z = dm.while_loop(lambda j, z: j <= i, lambda j, z: (j + 1, dm.sin(z) + x), (0, y))[1]
        return i + 1, y * 0.5 + z

    return dm.while_loop(lambda i, y: i < 3, outer, (0, x))[1]


PROGRAMS = [
    branchy,
    switching,
    growing,
    unused,
    counted,
    limited,
    scanning,
    reversed_scan,
    mapped,
    nested,
    loop_in_loop,
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_values(program: Program) -> None:
    for x in (X, -X, X * 0.1):
        both(program, x)


def first_order(program: Program, x: Any) -> Any:
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = dm.sum(program(x))
    return tape.gradient(y, x, unconnected_gradients="zero")


def second_order(program: Program, x: Any) -> Any:
    return first_order(lambda x: dm.sin(first_order(program, x)), x)


def difference(fn: Program, x: np.ndarray[Any, Any], eps: float = 1e-6) -> np.ndarray[Any, Any]:
    """The gradient of the sum of `fn` by central differences, in float64."""
    out = np.zeros_like(x)
    for k in range(x.size):
        step = np.zeros_like(x)
        step.flat[k] = eps
        up, down = (np.sum(np.asarray(fn(dm.asarray(x + s)))) for s in (step, -step))
        out.flat[k] = (up - down) / (2 * eps)
    return out


def in_double(program: Program) -> Program:
    return lambda x: dm.cast(program(x), "float64")


@pytest.mark.parametrize("program", [branchy, growing, scanning, nested, loop_in_loop])
def test_gradient_is_the_derivative(program: Program) -> None:
    """Of scalars that the loops carry in float32 as well: so with a coarse step."""
    x = X.astype(np.float64)
    with dm.GradientTape() as tape:
        t = dm.asarray(X)
        tape.watch(t)
        y = dm.sum(dm.function(program)(t))
    found = np.asarray(tape.gradient(y, t))
    expected = difference(in_double(program), X.astype(np.float32), 1e-3)
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)
    del x


@pytest.mark.parametrize("order", [first_order, second_order])
@pytest.mark.parametrize("program", PROGRAMS)
def test_gradients_in_all_combinations(program: Program, order: Any) -> None:
    """A tape inside the function, around it, and around an eager run."""
    for x in (dm.asarray(X), dm.asarray(X * 0.3)):
        eager = order(program, x)
        inside = dm.function(lambda x: order(program, x))(x)
        around = order(dm.function(program), x)
        agree(eager, inside, 1e-4)
        agree(eager, around, 1e-4)


@pytest.mark.parametrize("program", [growing, scanning])
def test_third_order(program: Program) -> None:
    x = dm.asarray(X)
    eager = first_order(lambda x: second_order(program, x), x)
    compiled = dm.function(lambda x: first_order(lambda x: second_order(program, x), x))(x)
    agree(eager, compiled, 1e-3)


def test_variables_are_assigned_in_branches_and_loops() -> None:
    v, w = dm.Variable(1.0), dm.Variable([1.0, 2.0])

    def body(i: Any, x: Any) -> Any:
        v.assign_add(dm.sum(x))
        dm.cond(i % 2 == 0, lambda: w.assign_sub(x) * 0, lambda: x)
        return i + 1, x * v

    def program(x: Any) -> Any:
        out = dm.while_loop(lambda i, x: i < 3, body, (0, x))
        dm.cond(out[0] > 2, lambda: v.assign(dm.sum(w)), lambda: v.assign(0.0))
        return out, v + 1.0

    x = dm.asarray([0.5, 0.25])
    eager = program(x)
    held = v.numpy(), w.numpy()
    v.assign(1.0)
    w.assign([1.0, 2.0])
    agree(eager, dm.function(program)(x))
    agree(held, (v.numpy(), w.numpy()))


def test_variables_get_gradients_through_loops() -> None:
    w = dm.Variable([0.5, 1.5])

    def loss(x: Any) -> Any:
        y = dm.fori_loop(0, 3, lambda i, y: dm.tanh(y * w), x)
        return dm.cond(dm.sum(y) > 0, lambda: dm.sum(y * w), lambda: dm.sum(y))

    def gradient(fn: Program, x: Any) -> Any:
        with dm.GradientTape() as tape:
            y = fn(x)
        return tape.gradient(y, w)

    x = dm.asarray([1.0, -2.0])
    eager = gradient(loss, x)
    agree(eager, gradient(dm.function(loss), x))
    agree(eager, dm.function(lambda x: gradient(loss, x))(x))


def assigned_then_read(v: dm.Variable, x: Any) -> Any:
    y = v * x
    v.assign(dm.sum(x) * 2.0)
    return dm.sum(y + v * 3.0)


def test_assignments_pass_no_gradient() -> None:
    """To what was assigned; all that is read of a variable goes to the variable."""
    v = dm.Variable(1.5)

    def branch(x: Any) -> Any:
        return dm.cond(dm.sum(x) > 0, lambda: assigned_then_read(v, x), lambda: dm.sum(x))

    def repeat(x: Any) -> Any:
        return dm.fori_loop(0, 3, lambda i, s: s * 0.5 + assigned_then_read(v, x * s), 1.0)

    for fn in (lambda x: assigned_then_read(v, x), branch, repeat, lambda x: repeat(x) + branch(x)):

        def gradients(x: Any, fn: Any = fn) -> Any:
            with dm.GradientTape() as tape:
                tape.watch(x)
                y = fn(x)
            return tape.gradient(y, [x, v])

        results = []
        around = lambda x, fn=fn: gradients(x, dm.function(fn))  # noqa: E731
        for run in (gradients, dm.function(gradients), around):
            v.assign(1.5)
            results.append(run(dm.asarray(X)))
        agree(results[0], results[1])
        agree(results[0], results[2])


def test_prints_and_assertions_keep_their_order(capfd: Any) -> None:
    def body(i: Any, x: Any) -> Any:
        dm.print("i", i)
        dm.cond(i == 1, lambda: dm.print("one"), lambda: dm.print("other"))
        dm.debugging.assert_less(x, 100.0)
        dm.print("x", x)
        return i + 1, x * 10.0

    def program(x: Any) -> Any:
        dm.print("start")
        out = dm.while_loop(lambda i, x: i < 5, body, (0, x))
        dm.print("end")
        return out

    texts = []
    for fn in (program, dm.function(program)):
        fn(dm.asarray(0.001))
        texts.append(capfd.readouterr().out)
        with pytest.raises(dm.errors.AssertionFailed, match="x < y expected: 100"):
            fn(dm.asarray(1.0))
        texts.append(capfd.readouterr().out)
    assert texts[:2] == texts[2:]
    assert texts[0].split("\n")[:4] == ["start", "i 0", "other", "x 0.001"]


def test_code_around_effects_is_not_fused_across_them(capfd: Any) -> None:
    """What is printed first and what needs the loop read the same, but cannot be one kernel."""

    def program(x: Any) -> Any:
        dm.print(dm.abs(x) * 2.0)

        def body(i: Any, s: Any) -> Any:
            dm.print(s)
            return s * 0.5

        return x * dm.fori_loop(0, 3, body, dm.sum(x))

    both(program, X)
    lines = capfd.readouterr().out.splitlines()
    assert lines[:4] == lines[4:]


def test_watching_a_loop_variable_is_not_watching_what_it_started_from() -> None:
    def program(x: Any) -> Any:
        def body(i: Any, y: Any) -> Any:
            with dm.GradientTape() as tape:
                tape.watch(y)
                z = dm.sum(y * y * x)
            return i + 1, y + tape.gradient(z, y)

        return dm.fori_loop(0, 2, lambda i, y: body(i, y)[1], x)

    both(program, X)


def test_gradients_do_not_print_again(capfd: Any) -> None:
    def program(x: Any) -> Any:
        def body(i: Any, y: Any) -> Any:
            dm.print(i)
            return i + 1, dm.sin(y)

        return dm.while_loop(lambda i, y: i < 2, body, (0, x))[1]

    for fn in (
        lambda x: first_order(program, x),
        dm.function(lambda x: first_order(program, x)),
        lambda x: first_order(dm.function(program), x),
    ):
        fn(dm.asarray(X))
        assert capfd.readouterr().out == "0\n1\n"


def test_random_draws_in_a_loop() -> None:
    def program() -> Any:
        return dm.scan(
            lambda c, _: (c + dm.random.normal(), dm.random.uniform((2,))), 0.0, length=4
        )

    results = []
    for fn in (program, dm.function(program)):
        dm.random.set_seed(3)
        results.append((fn(), dm.random.normal()))
    agree(*results)


def test_numbers_take_the_dtype_of_the_body() -> None:
    for start in (0, 0.0):
        out = both(lambda x, s=start: dm.fori_loop(0, 3, lambda i, a: a + x[i], s), X)
        assert out.dtype is dm.float32
    wide = X.astype(np.float64)
    assert both(lambda x: dm.scan(lambda a, t: (a + t, a), 0.0, x), wide)[0].dtype is dm.float64
    none = both(lambda x: dm.scan(lambda a, t: (a + t, a), 0, x[:0]), wide)
    assert none[0].dtype is none[1].dtype is dm.float64 and none[1].shape == (0,)


def test_structures() -> None:
    def program(x: Any) -> Any:
        state = {"x": x, "n": (0, None), "name": "a"}
        out = dm.while_loop(
            lambda s: s["n"][0] < 2,
            lambda s: {"x": s["x"] * 2, "n": (s["n"][0] + 1, None), "name": "a"},
            state,
        )
        chosen = dm.cond(x[0] > 0, lambda: [out, 1, "same"], lambda: [out, 2, "same"])
        return chosen, dm.map_fn(lambda t: {"a": t, "b": -t}, x)

    both(program, X)


def test_no_iterations_and_no_entries() -> None:
    both(lambda x: dm.while_loop(lambda y: False, lambda y: y * 2, x), X)
    both(lambda x: dm.fori_loop(3, 0, lambda i, y: y * 2, x), X)
    both(lambda x: dm.scan(lambda c, t: (c, c * t), 1.0, x[:0]), X)
    both(lambda x: dm.map_fn(lambda t: dm.sum(t, axis=0), dm.zeros((3, 0))), X)
    agree(
        dm.function(
            lambda x: first_order(lambda x: dm.scan(lambda c, t: (c * t, c), 2.0, x[:0])[0] * x, x)
        )(dm.asarray(X)),
        np.full(3, 2.0),
    )


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("x", [[0.1, 0.2, 0.3], [2.0, 1.0, 1.0], [0.9, 0.9, 3.0]])
def test_entries_that_a_loop_leaves_out_have_gradients_of_zero(x: list[float], order: int) -> None:
    def total(x: Any) -> Any:
        s = dm.sum(x) * 0.0
        for entry in x:
            s = s + entry * entry
            if s > 1.0:
                break
        return s

    gradient: Any = dm.grad(total)
    if order == 2:
        first = gradient
        gradient = dm.grad(lambda x: dm.sum(first(x) ** 2))
    read = 3 if x[0] < 0.5 else 1 if x[0] > 1 else 2
    factor = 2 if order == 1 else 8
    expected = [factor * v if k < read else 0.0 for k, v in enumerate(x)]
    np.testing.assert_allclose(both(gradient, np.array(x, np.float32)), expected, rtol=1e-6)


def test_a_loop_within_a_loop_without_iterations() -> None:
    def run(x: Any) -> Any:
        grow = lambda y: dm.while_loop(lambda y: y < 9.0, lambda y: dm.sin(y) + 1.5 * y, y)  # noqa: E731
        last = dm.while_loop(lambda y: y < 9.0, grow, x, maximum_iterations=0)
        return last, dm.grad(lambda x: dm.while_loop(lambda y: y < 9.0, grow, x, 0))(x)

    both(run, np.float32(0.5))


def test_the_values_of_captured_numbers_are_known() -> None:
    """A Python number that the body needs the value of turns static."""

    @dm.function
    def fn(x: Any, n: int) -> Any:
        return dm.while_loop(lambda i, y: i < 2, lambda i, y: (i + 1, sum([y] * n)), (0, x))[1]

    for n in (1, 3):
        agree(fn(dm.asarray(X), n), X * n * n)


def test_swapped_variables() -> None:
    both(
        lambda x: dm.while_loop(lambda i, a, b: i < 3, lambda i, a, b: (i + 1, b, a), (0, x, -x)), X
    )


def test_many_iterations() -> None:
    out = dm.function(
        lambda n: dm.while_loop(lambda i, x: i < n, lambda i, x: (i + 1, x * 0.5 + 1.0), (0, 0.0))
    )(dm.asarray(20_000))
    agree(out, (20_000, np.float32(2.0)))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
@pytest.mark.parametrize("entry", ["native", "ctypes"])
@pytest.mark.parametrize("size", [1, 100])
def test_a_signal_ends_a_loop(entry: str, size: int) -> None:
    class Late(Exception):
        pass

    def late(*_: Any) -> None:
        raise Late

    @dm.function
    def fn(start: Any, x: Any) -> Any:
        return dm.while_loop(lambda i, x: i >= 0, lambda i, x: (i * 1.0, dm.sin(x @ x)), (start, x))

    dm.config.update(entry=entry)
    x = dm.ones((size, size))
    fn(dm.asarray(-1.0), x)  # compiled, and over at once
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(Late):
            fn(dm.asarray(0.0), x)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- errors ---------------------------------------------------------------------------------------

BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "shapes of branches": (
        lambda x: dm.cond(x[0] > 0, lambda: x, lambda: x[:2]),
        dm.errors.ShapeError,
        r"different values for the result: float32\[2\] where False, float32\[3\] where True",
    ),
    "dtypes of branches": (
        lambda x: dm.cond(x[0] > 0, lambda: x, lambda: dm.cast(x, "float64"), names=["y"]),
        dm.errors.DTypeError,
        r"float64\[3\] where False, float32\[3\] where True; convert one with dm.astype",
    ),
    "structures of branches": (
        lambda x: dm.cond(x[0] > 0, lambda: x, lambda: (x, None)),
        dm.errors.ShapeError,
        r"different structures: False gives \(float32\[3\], None\) and True float32\[3\]",
    ),
    "condition": (
        lambda x: dm.cond(x > 0, lambda: x, lambda: x),
        dm.errors.ShapeError,
        r"cond: the condition is bool\[3\], not a scalar; reduce it by dm.all",
    ),
    "loop condition": (
        lambda x: dm.while_loop(lambda y: y > 0, lambda y: y - 1, x),
        dm.errors.ShapeError,
        r"while_loop: the condition is bool\[3\], not a scalar",
    ),
    "dtype of a loop variable": (
        lambda x: dm.while_loop(
            lambda i, y: i < 2, lambda i, y: (i + 1, dm.cast(y, "float64")), (0, x), names="iy"
        ),
        dm.errors.DTypeError,
        r"y is float32\[3\] and becomes float64\[3\] after an iteration; convert it with",
    ),
    "shape of a loop variable": (
        lambda x: dm.scan(lambda c, t: (c[:2], t), x, x),
        dm.errors.ShapeError,
        r"becomes float32\[2\] after an iteration; the shape of a loop variable stays",
    ),
    "structure of the loop variables": (
        lambda x: dm.while_loop(lambda i, y: i < 2, lambda i, y: (i + 1, (y, y)), (0, x)),
        dm.errors.ShapeError,
        r"change their structure",
    ),
    "no pair": (
        lambda x: dm.scan(lambda c, t: c, x, x),
        dm.errors.ShapeError,
        r"gives \(carry, y\)",
    ),
    "no length": (lambda x: dm.scan(lambda c, t: (c, t), x), ValueError, "number of steps"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    fn, error, message = BAD[name]
    with pytest.raises(error, match=message) as found:
        dm.function(fn)(dm.asarray(X))
    assert "test_control.py" in str(found.value) or error is ValueError
    if "branches" not in name:
        with pytest.raises(error, match=message):
            fn(dm.asarray(X))


def test_values_of_a_branch_do_not_leak() -> None:
    kept: list[Any] = []

    @dm.function
    def fn(x: Any) -> Any:
        dm.cond(x[0] > 0, lambda: kept.append(x * 2), lambda: None)
        return kept[0] + 1

    with pytest.raises(dm.errors.TracedValueError, match="used outside of the function"):
        fn(dm.asarray(X))


def test_the_condition_assigns_nothing() -> None:
    v = dm.Variable(0.0)

    @dm.function
    def fn(x: Any) -> Any:
        def condition(y: Any) -> Any:
            v.assign_add(1.0)
            return dm.sum(y) < 10

        return dm.while_loop(condition, lambda y: y + 1, x)

    with pytest.raises(dm.errors.VariableError, match="the condition assigns"):
        fn(dm.asarray(X))
