"""Conversion of Python's control flow: what is converted, how it is called, and what it keeps."""

from __future__ import annotations

import functools
import gc
import importlib.util
import inspect
import linecache
import subprocess
import sys
import threading
import traceback
import weakref
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode import tree
from dualmode.autograph import analysis, conversion, source
from dualmode.autograph.passes import Unsupported


def both(fn: Any, *args: Any) -> None:
    """`fn` gives the same eagerly and compiled."""
    expected, found = fn(*args), dm.function(fn)(*args)
    xs, form = tree.flatten(expected)
    ys, other = tree.flatten(found)
    assert form == other
    for x, y in zip(xs, ys, strict=True):
        np.testing.assert_allclose(np.asarray(y), np.asarray(x), rtol=1e-5)


ONE, MINUS = dm.constant(1.5), dm.constant(-2.0)


# --- what is called -------------------------------------------------------------------------------


def relu(x):
    return x if x > 0 else x * 0.0


def twice(fn):
    @functools.wraps(fn)
    def wrapper(x):
        y = fn(x)
        if y > 1:
            y = fn(y)
        return y

    return wrapper


@twice
def decorated(x):
    return x - 1 if x > 0 else x + 1


class Counter:
    factor = 2.0

    def __init__(self, x):
        self.__hidden = x if x > 0 else -x
        self.total = 0.0

    def __call__(self, x):
        if x > self.__hidden:
            self.total = self.total + x
        return self.total * self.factor

    @staticmethod
    def fixed(x):
        return -x if x < 0 else x

    @classmethod
    def scaled(cls, x):
        return cls.factor * x if x > 0 else x


class Child(Counter):
    def __call__(self, x):
        y = super().__call__(x)
        return y - 1.0 if x < 0 else y


gradient = dm.grad(relu)


@dm.custom_gradient
def clipped(x):
    y = x if x < 1 else x * 0 + 1.0

    def grad(g):
        return g if g < 3 else g * 0 + 3.0

    return y, grad


class Gate(dm.nn.Layer):
    def __call__(self, x, training=False):
        return x * 2 if dm.sum(x) > 0 else x


gates = dm.nn.Sequential([Gate(), lambda x: x if dm.sum(x) > 1 else x * 3.0])

CALLED = {
    "function": lambda x: relu(x),
    "decorator": lambda x: decorated(x),
    "partial": lambda x: functools.partial(relu, x)(),
    "object": lambda x: Counter(x)(x * 2),
    "subclass": lambda x: Child(x)(x * 2),
    "static method": lambda x: Counter.fixed(x),
    "class method": lambda x: Counter.scaled(x),
    "map": lambda x: list(map(relu, [x, -x])),
    "sorted by key": lambda x: sorted([1, 2], key=lambda k: -k),
    "reduce": lambda x: functools.reduce(lambda a, b: a if a > b else b, [x, -x, x * 2]),
    "max": lambda x: (max(x, -x), min([x, -x, x * 2])),
    "gradient": lambda x: gradient(x),
    "gradient made inside": lambda x: dm.grad(relu)(x),
    "custom gradient": lambda x: dm.grad(lambda t: clipped(t) * 5.0)(x),
    "cond": lambda x: dm.cond(x > 0, functools.partial(relu, x), lambda: x),
    "layers": lambda x: gates(dm.stack([x])),
    "function of its own": lambda x: dm.function(relu)(x),
}


@pytest.mark.parametrize("name", CALLED)
@pytest.mark.parametrize("x", [ONE, MINUS], ids=["positive", "negative"])
def test_what_is_called_is_converted(name: str, x: Any) -> None:
    fn = CALLED[name]
    both(lambda t: fn(t), x)


def test_a_method() -> None:
    class Model:
        def __init__(self) -> None:
            self.w = dm.Variable(2.0)

        @dm.function
        def step(self, x):
            if x > 0:
                self.w.assign(self.w * x)
            return self.w + 0

    model = Model()
    assert float(model.step(ONE)) == 3.0
    assert float(model.step(MINUS)) == 3.0


def test_closures_share_conversions(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(k):
        return lambda x: x * k if x > 0 else x

    converted: list[str] = []
    convert = conversion._convert
    monkeypatch.setattr(
        conversion, "_convert", lambda fn: converted.append(fn.__name__) or convert(fn)
    )
    assert [float(dm.function(make(k))(ONE)) for k in (1.0, 2.0, 4.0)] == [1.5, 3.0, 6.0]
    assert converted == ["<lambda>"]


def test_two_lambdas_in_a_line() -> None:
    f, g = (lambda x: x + 1 if x > 0 else x), (lambda x: x + 2 if x > 0 else x)
    assert (float(dm.function(f)(ONE)), float(dm.function(g)(ONE))) == (2.5, 3.5)


def test_nonlocal_state() -> None:
    def fn(x):
        n = 0

        def add(t):
            nonlocal n
            if t > 0:
                n = n + 1
            return n

        add(x)
        add(-x)
        return add(x)

    both(fn, ONE)
    both(fn, MINUS)


def test_recursion_bounded_in_python() -> None:
    def power(x, n):
        if n == 0:
            return x * 0 + 1.0
        return power(x, n - 1) * (x if x > 0 else -x)

    both(lambda x: power(x, 5), MINUS)


# --- statements -----------------------------------------------------------------------------------


def early_return(x):
    for i in dm.range(6):
        for j in dm.range(3):
            x = x + j
            if x > 4:
                return x * i
    return -x


def loop_else(x):
    for i in dm.range(4):
        if x * i > 3:
            break
    else:
        x = x + 100
    return x


def last_value(x):
    for i in dm.range(1, 9, 3):
        y = x * i
    return y, i


def chained(x):
    seen = []

    def middle():
        seen.append(1)
        return x

    inside = -1.0 < middle() < 2.0
    return inside, len(seen)


def walrus(x):
    n = 0
    while (x := x * 2) < 50 and n < 9:
        n += 1
    if (y := x + 1) > 0:
        return y
    return x


def zipped(x):
    out = x * 0
    for k, (a, b) in enumerate(zip(dm.ones(3) * x, dm.range(3), strict=True), 1):
        out = out + a * b * k
    return out


def appended(x):
    first, second = [x], []
    for i in dm.range(3):
        first.append(x * i)
        second.append((x, i))
    return dm.stack(first), len(second), second


def appends_after_a_branch(x):
    found = []
    for i in dm.range(4):
        y = x * i
        if y > 2:
            y = -y
        found.append(y)
    return found


def appends_in_both_branches(x):
    found = []
    for i in dm.range(4):
        y = x * i
        if y > 2:
            found.append(y)
            found.append(y + 1)
        else:
            found.append(-y)
            found.append(y * 0)
    return found


def appends_in_nested_loops(x):
    found = [x]
    for i in dm.range(3):
        found.append(x + i)
        for j in dm.range(2):
            found.append(x * j - i)
        for _ in dm.range(2):
            x = x + 1
    return found


def matched(x, kind):
    match kind:
        case {"scale": k}:
            x = x * k if x > 0 else x
        case ["shift", k] if k > 0:
            x = x + k
        case _:
            x = -x
    return x


def generator_inside(x):
    def numbers():
        yield 1.0
        yield x

    for n in numbers():
        if n > 1:
            x = x + n
    return x


def known_before_unknown(x):
    n = 0
    while True:
        n += 1
        x = x * 2
        if x > 20 or n > 12:
            break
    return x


def peeled_python_range(x):
    for i in range(5):
        x = x + 1
        if x > i + 3:
            break
    return x


STATEMENTS = [
    early_return,
    loop_else,
    last_value,
    chained,
    walrus,
    zipped,
    appended,
    appends_in_nested_loops,
    appends_in_both_branches,
    appends_after_a_branch,
    generator_inside,
    known_before_unknown,
    peeled_python_range,
]


@pytest.mark.parametrize("fn", STATEMENTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("x", [ONE, MINUS], ids=["positive", "negative"])
def test_statements(fn: Any, x: Any) -> None:
    both(fn, x)


@pytest.mark.parametrize("kind", [{"scale": 3.0}, ["shift", 2.0], ["shift", -1.0], None])
def test_match(kind: Any) -> None:
    both(lambda x: matched(x, kind), ONE)


def test_python_numbers_stay_python() -> None:
    def fn(x, n):
        return x if n > 3 else (x, x)  # structures differ: no native branch

    compiled = dm.function(fn)
    assert isinstance(compiled(ONE, 5), dm.Tensor)
    assert isinstance(compiled(ONE, 2), tuple)


def test_raise_waits_for_its_branch() -> None:
    @dm.function
    def fn(x):
        if x < 0:
            raise KeyError("negative")
        return x * 2

    assert float(fn(ONE)) == 3.0
    for _ in range(2):
        with pytest.raises(KeyError, match="negative"):
            fn(MINUS)


def test_exceptions_restore_attributes() -> None:
    counter = Counter(ONE)

    @dm.function
    def fn(x):
        if x > 0:
            counter.total = x
            counter.missing.method()
        return x

    with pytest.raises(AttributeError):
        fn(ONE)
    assert counter.total == 0.0


def test_shape_invariants_unroll() -> None:
    def fn(x):
        for _ in dm.range(3):
            dm.autograph.set_loop_options(shape_invariants=[(x, [None])])
            x = dm.concat([x, x * 2])
        return x

    both(fn, dm.ones(2))


def test_maximum_iterations() -> None:
    @dm.function
    def fn(x):
        while x < 100:
            dm.autograph.set_loop_options(maximum_iterations=3)
            x = x + 1
        return x

    assert float(fn(ONE)) == 4.5


# --- ranges and datasets --------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [(5,), (2, 7), (7, 2, -2), (0, 7, 3), (3, 3), (1, -4, -1)])
def test_ranges(bounds: tuple[int, ...]) -> None:
    def fn(*numbers):
        out = dm.constant(0)
        count = dm.constant(0)
        for i in dm.range(*numbers):
            out = out * 3 + i
            count += 1
        return out, count

    both(fn, *map(dm.constant, bounds))
    both(lambda: fn(*bounds))
    assert [int(i) for i in dm.range(*bounds)] == list(range(*bounds))
    assert len(dm.range(*bounds)) == len(range(*bounds))


def test_range_of_traced_bounds_as_python_range() -> None:
    def fn(n):
        total = n * 0
        for i in range(n):
            total = total + i
        return total

    both(fn, dm.constant(7))


@pytest.mark.parametrize("limit", [1e9, 70.0], ids=["all", "break"])
@pytest.mark.parametrize("drop", [False, True], ids=["partial", "full"])
def test_dataset_in_a_native_loop(limit: float, drop: bool) -> None:
    x = np.arange(20, dtype=np.float32).reshape(10, 2)

    def train(data, w):
        rows = 0
        for _ in dm.range(3):
            for batch, target in data:
                w.assign_add(dm.sum(batch * 0.1, axis=0))
                rows += batch.shape[0]
                if dm.sum(target) > limit:
                    break
        return rows

    outcomes = []
    for run in (train, dm.function(train)):
        dm.random.set_seed(0)
        data = dm.data.Dataset.from_tensor_slices((x, x.sum(1))).shuffle(10)
        data, w = data.batch(3, drop_remainder=drop), dm.Variable([0.0, 0.0])
        counts = [int(run(data, w)), int(run(data, w))]
        outcomes.append((counts, w.numpy().tolist()))
    assert outcomes[0][0] == outcomes[1][0]
    np.testing.assert_allclose(outcomes[1][1], outcomes[0][1], rtol=1e-6)


def test_dataset_of_unknown_length() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    data = dm.data.Dataset.from_generator(lambda: iter(rows))

    @dm.function
    def fn(s):
        for row in data:
            s = s + row
        return s

    for _ in range(2):
        assert fn(dm.zeros(2)).numpy().tolist() == [6.0, 9.0]


def test_dataset_whose_elements_change_shape() -> None:
    rows = [np.ones(2, np.float32), np.ones(3, np.float32)]
    data = dm.data.Dataset.from_generator(lambda: iter(rows))

    @dm.function
    def fn(s):
        for row in data:
            s = s + dm.sum(row)
        return s

    with pytest.raises(dm.errors.ShapeError, match=r"float32\[3\].*traced for.*drop_remainder"):
        fn(ONE)


# --- conversion itself ----------------------------------------------------------------------------


def test_library_is_imported_on_demand() -> None:
    code = (
        "import sys, dualmode as dm; dm.function(lambda x: dm.tanh(x) + 1)(1.0); "
        "print('malt' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def no_flow(x, y):
    with dm.GradientTape() as tape:
        tape.watch(x)
        loss = dm.sum(dm.tanh(x) * y)
    return loss, tape.gradient(loss, x)


def calls_parameter(f, x):
    return f(x)


def prints(x):
    print(x)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (no_flow, False),
        (relu, True),
        (calls_parameter, True),
        (prints, True),
        (lambda x: relu(x), True),
        (lambda x: np.tanh(x) + abs(x.ndim), False),
        (lambda x: not x, True),
        (lambda x: 0 < x < 1, True),
        (lambda x: [k + 1 for k in x], False),
    ],
)
def test_only_what_has_to_be_is_converted(fn: Any, expected: bool) -> None:
    assert analysis.needed(fn, source.find(fn)[0]) is expected


def test_to_code() -> None:
    text = dm.autograph.to_code(early_return)
    assert "ag__.for_stmt" in text
    assert "ag__.if_stmt" in text
    compile(text, "text", "exec")
    assert dm.autograph.to_code(dm.function(early_return)) == text
    with pytest.raises(TypeError, match="to_code"):
        dm.autograph.to_code(3)


def test_do_not_convert() -> None:
    @dm.autograph.do_not_convert
    def plain(x):
        return x if isinstance(x, dm.Tensor) and len(x.shape) == 0 else -x

    @dm.autograph.do_not_convert
    def branching(x):
        return x if x > 0 else -x

    assert float(dm.function(lambda x: plain(x))(ONE)) == 1.5
    with pytest.raises(dm.errors.TracedValueError, match="marked by do_not_convert"):
        dm.function(lambda x: branching(x))(ONE)


def test_lines_are_the_users() -> None:
    def fails(x):
        y = x + 1
        if y > 0:
            y = y @ y
        return y

    line = fails.__code__.co_firstlineno + 3
    with pytest.raises(dm.errors.ShapeError) as caught:
        dm.function(fails)(dm.ones(()))
    assert f"test_autograph.py:{line}: y = y @ y" in str(caught.value)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert (__file__, line) in [(f.filename, f.lineno) for f in frames]


def test_nothing_is_kept_alive() -> None:
    def make(k):
        def fn(x):
            if x > 0:
                return x * k
            return x

        return fn

    class Token(float):
        pass

    dead = []
    for k in range(20):
        token = Token(k)
        fn = make(token)
        dead += [weakref.ref(fn), weakref.ref(token)]
        converted = dm.autograph.called(fn)
        assert converted is not fn
        assert float(converted(ONE)) == 1.5 * k
        del fn, token, converted
    gc.collect()
    assert not any(ref() for ref in dead)


def test_code_without_functions_is_forgotten() -> None:
    codes: list[weakref.ref[CodeType]] = []
    file = f"<{__name__}>"
    for k in range(5):
        text = f"def fn(x):\n    return x + {k} if x > 0 else x\n"
        linecache.cache[file] = (len(text), None, text.splitlines(True), file)
        scope: dict[str, Any] = {}
        exec(compile(text, file, "exec"), scope)
        assert float(dm.autograph.called(scope["fn"])(ONE)) == 1.5 + k
        codes.append(weakref.ref(scope["fn"].__code__))
        assert conversion.is_converted(scope["fn"].__code__)
    del scope
    gc.collect()
    assert not any(code() for code in codes)


def test_threads_convert_at_the_same_time() -> None:
    def fn(x):
        for i in dm.range(3):
            if x > i:
                x = x + 1
        return x

    found: list[float] = []
    threads = [
        threading.Thread(target=lambda: found.append(float(dm.function(fn)(ONE)))) for _ in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [float(fn(ONE))] * 4


# --- Python stays Python --------------------------------------------------------------------------


def converted_copy(name: str) -> Any:
    """A module of Python's library with all its functions converted."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for owner in [module, *(x for x in vars(module).values() if isinstance(x, type))]:
        for key, x in list(vars(owner).items()):
            if isinstance(x, FunctionType) and x.__module__ == name:
                try:
                    setattr(owner, key, conversion.instance(x))
                except Unsupported:
                    assert inspect.isgeneratorfunction(x)
    return module


LIBRARY = {
    "textwrap": lambda m: (m.fill("aa bb-cc dd " * 20, 30), m.dedent("  a\n    b")),
    "heapq": lambda m: (m.nsmallest(3, [5, 1, 4, 2]), m.nlargest(2, range(9), key=lambda k: -k)),
    "bisect": lambda m: [m.bisect([1, 2, 2, 5], k, key=lambda v: v) for k in range(6)],
    "fnmatch": lambda m: m.filter(["ab", "ac", "b"], "a[!c]*"),
    "graphlib": lambda m: [*m.TopologicalSorter({1: {2, 3}, 2: {3}}).static_order()],
}


@pytest.mark.parametrize("name", LIBRARY)
def test_python_code_keeps_its_meaning(name: str) -> None:
    assert LIBRARY[name](converted_copy(name)) == LIBRARY[name](importlib.import_module(name))


def handled(x, kind):
    order = []
    try:
        try:
            if kind:
                order.append("set")
                raise kind("inner")
        except KeyError as error:
            order.append(str(error))
            raise
        except ValueError as error:
            order.append(str(error))
        else:
            order.append("else")
        finally:
            order.append("finally")
    except KeyError:
        return order, x
    return order, x + 1 if x > 0 else x


@pytest.mark.parametrize("kind", [None, KeyError, ValueError])
def test_exceptions_of_python(kind: Any) -> None:
    expected, found = handled(ONE, kind), dm.function(lambda x: handled(x, kind))(ONE)
    assert found[0] == expected[0]
    assert float(found[1]) == float(expected[1])


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
