"""Functions with Python control flow, written by hand: one idea each. All take (world, x)."""

# ruff: noqa: B007, C416, C417 - the point is to write things in every way
from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import dualmode as dm

PROGRAMS: list[Callable[..., Any]] = []


def program(fn: Callable[..., Any]) -> Callable[..., Any]:
    PROGRAMS.append(fn)
    return fn


# --- branches -------------------------------------------------------------------------------------


@program
def if_without_else(world, x):
    y = x * 2
    if dm.sum(x) > 0:
        y = y + 1
    return y


@program
def if_assigns_several(world, x):
    a, b = x, -x
    if x[0] > 0:
        a, b = b, a * 2
        a = a + b
    return a, b


@program
def elif_chain(world, x):
    s = dm.sum(x)
    if s < -1:
        y = x
    elif s < 1:
        y = x * 2
    elif s < 5:
        y = x * 3
    else:
        y = x * 4
    return y


@program
def defined_in_all_branches(world, x):
    if x[0] > 0:
        y = x + 1
        z = 1.0
    else:
        z = 2.0
        y = x - 1
    return y * z


@program
def defined_in_one_branch_but_not_used(world, x):
    if x[0] > 0:
        temporary = x * 2
        x = temporary + 1
    return x


@program
def both_branches_return(world, x):
    if dm.sum(x) > 0:
        return x * 2
    return x - 2


@program
def early_return(world, x):
    if dm.sum(x) > 0:
        return x * 2
    y = x * 3
    if x[1] > 0.5:
        return y
    return y + 1


@program
def return_of_structures(world, x):
    if dm.sum(x) > 0:
        return {"a": x, "b": (x[0], 1.0)}
    return {"a": -x, "b": (x[1], 2.0)}


@program
def nested_returns(world, x):
    if x[0] > 0:
        if x[1] > 2:
            return x
        if x[2] > 0:
            return x * 2
    else:
        return x * 3
    return x * 4


@program
def numbers_of_two_kinds(world, x):
    k = 1
    if x[0] > 0:
        k = 2.5
    return x * k


@program
def conditional_expression(world, x):
    return x * 2 if dm.sum(x) > 0 else -x


@program
def nested_conditional_expressions(world, x):
    return 1.0 if x[0] > 1 else (2.0 if x[1] > 1 else 3.0)


@program
def conditional_expression_of_python(world, x):
    return x if len(x.shape) == 1 else x[0]


@program
def boolean_operators(world, x):
    a, b = x[0] > 0, x[1] > 1
    out = 0
    if a and b:
        out = 1
    if a or b:
        out = out + 2
    if not a:
        out = out + 4
    return out


@program
def boolean_operators_are_lazy(world, x):
    def noisy(t):
        dm.print("asked")
        return t > 1

    if x[0] > 0 and noisy(x[1]):
        return x
    return -x


@program
def boolean_operators_of_mixed_values(world, x):
    flag = True
    if flag and x[0] > 0:
        x = x + 1
    if not flag or x[1] > 1:
        x = x * 2
    return x


@program
def chained_comparison(world, x):
    if 0.0 < x[0] <= 1.0 < x[2]:
        return x
    return x * 0


@program
def comparison_of_equality(world, x):
    if dm.floor(x[1]) == 1.0:
        return x + 1
    if dm.floor(x[0]) != 2.0:
        return x + 2
    return x


@program
def bool_tensor_as_condition(world, x):
    flag = dm.any(x > 1.5)
    if flag:
        x = -x
    return x


@program
def int_tensor_as_condition(world, x):
    if dm.cast(x[2], "int32"):
        return x
    return x + 10


@program
def python_condition(world, x):
    if x.ndim == 1 and x.shape[0] > 2:
        x = x * 2
    return x


@program
def is_none(world, x):
    bias = None
    if bias is None:
        bias = x
    if x[0] > 0:
        bias = bias + 1
    return bias


@program
def python_values_kept_in_a_branch(world, x):
    name, k = "first", 3
    if x[0] > 0:
        y = x * k
    else:
        y = x + k
    return y, name, k


@program
def walrus(world, x):
    if (s := dm.sum(x)) > 0:
        return s
    return s * 2


@program
def unpacking_in_a_branch(world, x):
    a, *rest = x[0], x[1], x[2]
    if a > 0:
        (a, b), rest = (a + 1, a), rest[::-1]
    else:
        b = a
    return a, b, rest


@program
def augmented_assignments(world, x):
    y = x
    if dm.sum(y) > 0:
        y += 1
        y *= 2
        y -= x
        y /= 3
    return y


@program
def match_on_python(world, x):
    match x.shape[0]:
        case 3:
            x = x * 3
        case _:
            x = x * 4
    if x[0] > 0:
        x = x + 1
    return x


# --- while ----------------------------------------------------------------------------------------


@program
def while_on_a_tensor(world, x):
    while dm.sum(dm.abs(x)) < 50:
        x = x * 2
    return x


@program
def while_with_a_counter(world, x):
    i = 0
    while i < 3 and dm.sum(x) < 100:
        x = x + i
        i += 1
    return x, i


@program
def while_of_python(world, x):
    i = 0
    while i < 3:
        x = x * 1.5
        i = i + 1
    return x


@program
def while_true_with_break(world, x):
    steps = dm.asarray(0)
    while True:
        x = x + 1
        steps += 1
        if dm.sum(x) > 10:
            break
    return x, steps


@program
def while_with_continue(world, x):
    i = dm.asarray(0)
    total = 0.0
    while i < 6:
        i += 1
        if i % 2 == 0:
            continue
        total = total + dm.cast(i, "float32") * x[0]
    return total


@program
def while_with_return(world, x):
    i = dm.asarray(0)
    while i < 10:
        x = x + 1
        if x[0] > 3:
            return x, i
        i += 1
    return x * 0, i


@program
def collatz(world, x):
    n = dm.cast(dm.abs(x[1]) * 8, "int32") + 6
    steps = 0
    while n != 1:
        if n % 2 == 0:
            n = n // 2
        else:
            n = 3 * n + 1
        steps += 1
    return steps


@program
def greatest_common_divisor(world, x):
    a, b = dm.asarray(48), dm.cast(dm.abs(x[1] * 6), "int32") + 12
    while b > 0:
        a, b = b, a % b
    return a


@program
def loops_in_loops(world, x):
    i = dm.asarray(0)
    while i < 3:
        j = i
        while j < 3:
            if i != j:
                x = x + dm.cast(i * j, "float32")
            j += 1
        i += 1
    return x


@program
def break_out_of_the_inner_loop(world, x):
    count = dm.asarray(0)
    for i in dm.range(4):
        for j in dm.range(4):
            if j > i:
                break
            count += 1
        if count > 6:
            break
    return count


@program
def loop_variable_of_python_turns_tensor(world, x):
    total = 0
    for value in x:
        total = total + value
    return total


@program
def condition_with_side_effect_variable(world, x):
    while world.v < 3.0:
        world.v.assign_add(1.0)
        x = x * 2
    return x


# --- for ------------------------------------------------------------------------------------------


@program
def for_over_a_tensor(world, x):
    largest = x[0]
    for value in x:
        if value > largest:
            largest = value
    return largest


@program
def for_over_rows(world, x):
    table = dm.stack([x, x * 2, x * 3])
    y = dm.zeros((3,))
    for row in table:
        y = y * 0.5 + row
    return y


@program
def for_over_a_range(world, x):
    for i in dm.range(1, 10, 3):
        x = x + dm.cast(i, "float32")
    return x


@program
def for_over_a_range_downwards(world, x):
    out = 0
    for i in dm.range(5, 0, -2):
        out = out * 10 + i
    return out


@program
def for_over_a_traced_range(world, x):
    out = 0
    for i in dm.range(dm.cast(x[2], "int32") + 2):
        out = out * 10 + i
    return out


@program
def for_over_an_empty_range(world, x):
    for _ in dm.range(0):
        x = x + 1
    return x


@program
def for_over_python(world, x):
    for i in range(3):
        x = x + i
    for name, factor in {"a": 1.0, "b": 2.0}.items():
        if name == "b":
            x = x * factor
    return x


@program
def for_over_a_generator(world, x):
    def numbers():
        for k in range(3):
            yield k * 2

    for k in numbers():
        if x[0] > k:
            x = x - 1
    return x


@program
def for_with_enumerate(world, x):
    out = 0.0
    for k, factor in enumerate([0.5, 2.0]):
        out = out + x[k] * factor
    return out


@program
def for_with_zip(world, x):
    out = x * 0
    for a, b in zip([1.0, 2.0], [x, -x], strict=True):
        out = out + a * b
    return out


@program
def for_with_else_of_python(world, x):
    for k in range(3):
        if k == 5:
            break
    else:
        x = x + 1
    return x


@program
def for_with_break_and_continue(world, x):
    total = dm.asarray(0)
    for i in dm.range(10):
        if i % 3 == 0:
            continue
        if i > 7:
            break
        total += i
    return total


@program
def for_with_return(world, x):
    for i in dm.range(10):
        x = x + 1
        if dm.sum(x) > 15:
            return x, "found"
    return x, "found"


@program
def fizzbuzz(world, x):
    for i in dm.range(1, 16):
        if i % 15 == 0:
            dm.print("FizzBuzz")
        elif i % 3 == 0:
            dm.print("Fizz")
        elif i % 5 == 0:
            dm.print("Buzz")
        else:
            dm.print(i)


@program
def for_over_a_dataset(world, x):
    data = dm.data.Dataset.range(5).batch(2)
    total = dm.asarray(0, dtype="int64")
    for batch in data:
        total = total * 10 + dm.sum(batch)
    return total


@program
def epochs_over_a_dataset(world, x):
    data = dm.data.Dataset.from_tensor_slices([1.0, 2.0, 3.0, 4.0, 5.0]).batch(2)
    for epoch in dm.range(2):
        for batch in data:
            world.v.assign_add(dm.sum(batch) * x[0])
        dm.print("epoch", epoch, dm.floor(world.v))
    return world.v + 0


@program
def appended_list(world, x):
    found = []
    for i in dm.range(4):
        found.append(x * dm.cast(i, "float32"))
    return dm.stack(found)


@program
def appended_list_of_python(world, x):
    found = []
    for i in range(3):
        found.append(x[i] * i)
    return found


@program
def appended_list_is_a_list(world, x):
    found = []
    for value in x:
        found.append(value * 2)
    return found[0] + found[-1], len(found)


@program
def comprehensions(world, x):
    squares = [x[k] * x[k] for k in range(3)]
    table = {k: v for k, v in zip("abc", squares, strict=True)}
    return dm.stack(squares), sum(v for v in squares), table["b"]


@program
def power_iteration(world, x):
    m = dm.asarray([[2.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 0.5]])
    y, change = x + 4.0, dm.asarray(1.0)
    while change > 1e-3:
        z = m @ y
        z = z / dm.sqrt(dm.sum(z * z))
        change = dm.max(dm.abs(z - y))
        y = z
    return y


# --- functions ------------------------------------------------------------------------------------


def _relu(t):
    if t > 0:
        return t
    return t * 0.0


@program
def helper_functions_are_converted(world, x):
    return _relu(x[0]) + _relu(-x[1])


@program
def closures(world, x):
    scale = 3.0

    def inner(t):
        if t > 0:
            return t * scale
        return t / scale

    return inner(x[0]) + inner(x[1] - 2)


@program
def nonlocal_variables(world, x):
    total = x[0] * 0

    def add(t):
        nonlocal total
        if t > 0:
            total = total + t

    for value in [x[0], x[1], x[2]]:
        add(value)
    return total


@program
def lambdas(world, x):
    pick = lambda t: t * 2 if t > 0 else t - 1  # noqa: E731
    return pick(x[0]) + pick(x[1])


@program
def lambdas_in_map(world, x):
    return list(map(lambda t: t if t > 0 else -t, [x[0], x[1]]))


def _twice(fn):
    @functools.wraps(fn)
    def wrapped(*args, **kwargs):
        return fn(fn(*args, **kwargs))

    return wrapped


@_twice
def _shrink(t):
    if dm.sum(t) > 1:
        t = t / 2
    return t


@program
def decorated_functions(world, x):
    return _shrink(x)


@program
def partial_functions(world, x):
    def clip(t, low, high):
        if t < low:
            return low + 0 * t
        if t > high:
            return high + 0 * t
        return t

    return functools.partial(clip, low=0.0)(x[0], high=1.0)


class _Model:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, t):
        return self.step(t)

    def step(self, t):
        if dm.sum(t) > 0:
            return t * self.factor
        return t

    @staticmethod
    def negate(t):
        return -t if t[0] > 0 else t

    @classmethod
    def make(cls, t):
        return cls(2.0)(t)

    @property
    def double(self):
        return self.factor * 2


@program
def methods(world, x):
    model = _Model(1.5)
    return model(x) + model.negate(x) * model.double + _Model.make(x)


@program
def recursion_over_python(world, x):
    def power(t, n):
        if n == 0:
            return t * 0 + 1
        if t > 1:
            return t * power(t, n - 1)
        return power(t, n - 1)

    return power(x[1], 3)


@program
def functions_as_arguments(world, x):
    def apply(fn, t, times):
        for _ in dm.range(times):
            t = fn(t)
        return t

    return apply(lambda t: t * 2 if dm.sum(t) < 20 else t, x, 5)


@program
def star_arguments(world, x):
    def choose(flag, *values, **named):
        if flag > 0:
            return values[0] + named["extra"]
        return values[1]

    return choose(x[0], *[x, -x], extra=1.0)


@program
def function_in_a_function(world, x):
    @dm.function
    def inner(t):
        if dm.sum(t) > 0:
            return t * 2
        return t * 3

    for _ in dm.range(2):
        x = inner(x) - 1
    return x


@program
def numpy_of_python_values(world, x):
    if x[0] > 0:
        x = x * math.sqrt(4.0)
    return x


# --- state, prints, assertions --------------------------------------------------------------------


@program
def assigned_in_branches(world, x):
    if dm.sum(x) > 0:
        world.v.assign(x[0])
    else:
        world.v.assign(-x[0])
        world.w.assign_add(x)
    return world.v * 2


@program
def assigned_in_loops(world, x):
    for value in x:
        if value > 0:
            world.v.assign_add(value)
    return world.v + world.w


@program
def read_after_assign(world, x):
    before = world.v + 1
    if x[0] > 0:
        world.v.assign(5.0)
        x = x + world.v
    return before, x, world.v + 0


@program
def prints_in_branches(world, x):
    print("tensor", dm.floor(x[1]))
    if x[0] > 0:
        print("positive", dm.floor(x[0] * 10), "end")
    else:
        dm.print("negative")
    return x


@program
def prints_in_loops(world, x):
    for i in dm.range(3):
        print("i", i)
        if i == 1:
            print("one")
    return x


@program
def assertion_that_may_fail(world, x):
    assert dm.sum(x) > 0, "the sum is positive"
    world.v.assign(1.0)
    return x


@program
def assertion_in_a_loop(world, x):
    for i in dm.range(4):
        dm.print("step", i)
        dm.debugging.assert_less(dm.cast(i, "float32"), x[2] + 1.5)
        x = x + 0.25
    return x


@program
def assertion_of_python(world, x):
    assert x.shape == (3,), "three"
    if x[0] > 0:
        assert isinstance(x, dm.Tensor)
    return x


@program
def try_around_python(world, x):
    try:
        k = int("no number")
    except ValueError:
        k = 2
    if x[0] > 0:
        x = x * k
    return x


@program
def with_around_branches(world, x):
    with dm.GradientTape() as tape:
        tape.watch(x)
        if dm.sum(x) > 0:
            y = dm.sum(x * x)
        else:
            y = dm.sum(dm.exp(x))
    return tape.gradient(y, x)


@program
def gradient_through_a_loop(world, x):
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = x
        while dm.sum(y * y) < 30:
            y = y * 1.5 + dm.sin(y)
    return tape.gradient(y, x)


@program
def second_gradient_through_a_loop(world, x):
    with dm.GradientTape() as outer:
        outer.watch(x)
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = x[0] * 0 + 1
            for value in x:
                if value > 0.4:
                    y = y * dm.sin(value)
                else:
                    y = y + value**3
        first = tape.gradient(y, x)
    return first, outer.gradient(first, x)


@program
def gradient_inside_a_loop(world, x):
    for _ in dm.range(3):
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = dm.sum(x**2) if dm.sum(x) > 0 else dm.sum(x**4)
        x = x - 0.1 * tape.gradient(y, x)
    return x


@program
def random_numbers_in_a_loop(world, x):
    dm.random.set_seed(0)
    for _ in dm.range(3):
        if dm.random.uniform() > 0.5:
            x = x + dm.random.normal((3,))
    return x


# --- objects --------------------------------------------------------------------------------------


@program
def dictionaries(world, x):
    state = {"x": x, "n": 0}
    for i in dm.range(3):
        state["x"] = state["x"] * 2
        state["n"] = state["n"] + i
    return state


@program
def lists_of_tensors(world, x):
    pair = [x, -x]
    if dm.sum(x) > 0:
        pair[0] = pair[0] + 1
    else:
        pair[1] = pair[1] * 3
    return pair


class _Box:
    def __init__(self, value):
        self.value = value


@program
def attributes(world, x):
    box = _Box(x)
    if x[0] > 0:
        box.value = box.value * 2
    while dm.sum(dm.abs(box.value)) < 20:
        box.value = box.value + box.value
    return box.value


@program
def sliced_and_indexed(world, x):
    out = dm.zeros((3,))
    for i in dm.range(3):
        if x[i] > 0:
            out = out + x[i] * dm.one_hot(i, 3)
    return out


@program
def line_search(world, x):
    def fn(t):
        return dm.sum(t * t) + dm.sum(t**4)

    with dm.GradientTape() as tape:
        tape.watch(x)
        value = fn(x)
    grad = tape.gradient(value, x)
    grad_norm = dm.sum(grad * grad)
    init_value, rate = value, dm.asarray(1.0)
    step = x
    while value > init_value - 0.1 * rate * grad_norm:
        step = x - rate * grad
        value = fn(step)
        rate = rate / 2
        if rate < 1e-4:
            break
    return step, value
