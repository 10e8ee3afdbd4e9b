"""Graphs for new sizes without tracing: what is learned, and when it must not be used."""

from __future__ import annotations

import gc
import math
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode import tree
from dualmode.fit import Fitter, Unfit
from dualmode.relax import Learned, NotAlike
from dualmode.signature import Arguments
from dualmode.trace import Trace, trace
from dualmode_compiler.text import show

pytestmark = pytest.mark.filterwarnings(
    "ignore::dualmode.errors.SideEffectWarning", "ignore::dualmode.errors.RetracingWarning"
)


@pytest.fixture(autouse=True)
def interpreted() -> Any:
    """What is compiled is not the question here."""
    with dm.config.override(backend="interpret"):
        yield


def rows(n: int, *others: int) -> np.ndarray[Any, Any]:
    shape = (n, *others)
    return np.linspace(-1, 2, math.prod(shape), dtype=np.float32).reshape(shape)


def traced(fn: Any, *args: Any) -> Trace:
    arguments = Arguments(fn)
    leaves, form = tree.flatten((args, {}))
    return trace(arguments, arguments.key(form, leaves), fn, leaves, {}, creates=False)


def agree(fn: Any, sizes: Any, counted: int, compiled: Any = None, **options: Any) -> Any:
    """The compiled function gives what `fn` gives at all sizes, and traces `counted` times."""
    compiled = compiled or dm.function(autograph=False, **options)(fn)
    for n in sizes:
        x = dm.asarray(rows(n, 3))
        found, wanted = tree.leaves(compiled(x)), tree.leaves(fn(x))
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-5, atol=1e-6)
    assert compiled.trace_count == counted, compiled.retraces
    return compiled


# --- the graph is the one that tracing would give -------------------------------------------------

W = dm.asarray(rows(3, 3))
V = dm.Variable(rows(3, 3))


def _gradient(x: Any) -> Any:
    with dm.GradientTape() as tape:
        loss = dm.mean(dm.tanh(x @ V + x[0]) ** 2)
    return tape.gradient(loss, V)


def _gradient_of_scan(x: Any) -> Any:
    with dm.GradientTape() as tape:
        w = dm.ones(3)
        tape.watch(w)
        loss = dm.sum(dm.scan(lambda c, y: (dm.tanh(c * y), c), w, x)[1])
    return tape.gradient(loss, w)


def _update(x: Any) -> Any:
    V.assign_sub(dm.mean(x) * 0.01 + V * 0.0)
    return V @ x.T


ALIKE = {
    "mean": lambda x: dm.mean(x, axis=0) + dm.mean(x),
    "divide by the size": lambda x: dm.sum(x) / x.shape[0] + x * (1.0 / x.shape[0]),
    "variance": lambda x: (dm.var(x, axis=0), dm.std(x, correction=1)),
    "reshape": lambda x: (dm.reshape(x, (-1,)), dm.reshape(x, (x.shape[0], 3, 1)), x.T),
    "slices": lambda x: (x[1:], x[:-1], x[-2:], x[::-1], x[2 : x.shape[0] - 1]),
    "join": lambda x: (dm.concat([x, x[1:]]), dm.stack([x, x]), dm.pad(x, ((1, 2), (0, 0)))),
    "made of sizes": lambda x: (dm.zeros((x.shape[0], 2)), dm.arange(x.shape[0] + 1)),
    "linspace": lambda x: dm.linspace(0, 1, x.shape[0]),
    "attention": lambda x: dm.softmax(x @ x.T / x.shape[1] ** 0.5) @ x,
    "square": lambda x: dm.reshape(x @ x.T, (-1,)) * x.size,
    "sizes as results": lambda x: (x.shape[0], x.size, [x.shape[0] * 0.5]),
    "captured": lambda x: x @ W,
    "gradient": _gradient,
    "update": _update,
    "random": lambda x: x + dm.random.normal(x.shape) * 0.0,
    "cond": lambda x: dm.cond(dm.sum(x) > 0, lambda: x * 2, lambda: x / x.shape[0]),
    "scan": lambda x: dm.scan(lambda c, y: (c + y, c * y), dm.zeros(3), x),
    "fori_loop": lambda x: dm.fori_loop(0, x.shape[0], lambda i, a: a + x[i], dm.zeros(3)),
    "while_loop": lambda x: dm.while_loop(
        lambda i, a: i < x.shape[0], lambda i, a: (i + 1, a + x), (0, x)
    ),
    "gradient of scan": _gradient_of_scan,
}


@pytest.mark.parametrize("name", ALIKE)
def test_learned_graph_is_the_traced_one(name: str) -> None:
    fn = ALIKE[name]
    learned = Learned([traced(fn, rows(n, 3)) for n in (14, 10, 6)])
    for n in (4, 8, 12, 50):
        wanted = traced(fn, rows(n, 3))
        found = learned.trace(wanted.key)
        assert show(found.graph) == show(wanted.graph)
        assert found.result.leaves == wanted.result.leaves
        assert [e[:3] for e in found.events] == [e[:3] for e in wanted.events]


@pytest.mark.parametrize("name", [n for n in ALIKE if n not in ("random", "update")])
def test_derived_results(name: str) -> None:
    agree(ALIKE[name], (6, 10, 14, 5, 9, 30), 3)


def test_no_size_is_traced_after_the_third() -> None:
    with dm.config.override(backend="compile"):
        _no_size_is_traced_after_the_third()


def _no_size_is_traced_after_the_third() -> None:
    bodies = 0

    def body(x: Any) -> Any:
        nonlocal bodies
        bodies += 1
        return dm.mean(x, axis=0)

    fn = dm.function(body)
    for n in (32, 17, 8, 31, 2, 5, 32, 17, 100, 31):
        np.testing.assert_allclose(np.asarray(fn(rows(n, 3))), rows(n, 3).mean(0), rtol=1e-5)
    assert bodies == fn.trace_count == 3
    assert len(fn.retraces) == 2
    assert len(fn.specializations) == 4
    assert all(s.ms > 0 for s in fn.specializations)
    assert "x: float32[31,3]" in repr(fn.specializations)


def test_reduce_retracing_learns_from_the_first_new_size() -> None:
    agree(lambda x: x / x.shape[0], (4, 6, 5, 9, 20), 2, reduce_retracing=True)


def test_batches_under_a_tape() -> None:
    v = dm.Variable(rows(3))
    fn = dm.function(lambda x: dm.mean((x * v) ** 2))
    for n in (4, 6, 8, 5, 7):
        with dm.GradientTape() as tape:
            loss = fn(rows(n, 3))
        found = tape.gradient(loss, v)
        np.testing.assert_allclose(
            np.asarray(found), 2 * rows(3) * (rows(n, 3) ** 2).sum(0) / (3 * n), rtol=1e-5
        )
    assert fn.trace_count == 3


def test_methods_and_needed_numbers() -> None:
    class Layer:
        def __init__(self) -> None:
            self.w = dm.Variable(rows(3, 3))

        @dm.function(autograph=False)
        def apply(self, x: Any, times: int) -> Any:
            for _ in range(times):
                x = x @ self.w
            return x

    layer = Layer()
    for n in (4, 6, 8, 5, 7, 9):
        wanted = rows(n, 3) @ rows(3, 3) @ rows(3, 3)
        np.testing.assert_allclose(np.asarray(layer.apply(rows(n, 3), 2)), wanted, rtol=1e-5)
    assert layer.apply.__func__.trace_count == 3


# --- several sizes --------------------------------------------------------------------------------


def test_sizes_that_go_together() -> None:
    fn = dm.function(lambda x, y: dm.sum(x, axis=1) * y)
    for n in (4, 6, 8, 5, 7):
        assert fn(rows(n, 3), rows(n)).shape == (n,)
    assert fn.trace_count == 3
    with pytest.raises(dm.errors.ShapeError, match="multiply"):
        fn(rows(9, 3), rows(11))
    assert fn(rows(9, 3), rows(9)).shape == (9,)
    assert fn.trace_count == 3


def test_two_independent_sizes() -> None:
    fn = dm.function(lambda x: dm.softmax(x @ dm.matrix_transpose(x)) / x.shape[0])
    for n, m in ((4, 7), (6, 5), (9, 8), (5, 5), (12, 3), (3, 12)):
        assert fn(rows(n, m, 2)).shape == (n, m, m)
    assert fn.trace_count == 3


def test_an_axis_that_changes_later() -> None:
    fn = dm.function(lambda x: dm.reshape(x, (-1,)) * x.shape[1])
    for n, m in ((4, 7), (6, 7), (8, 7), (10, 7), (10, 5), (12, 4), (3, 6), (7, 7)):
        np.testing.assert_allclose(np.asarray(fn(rows(n, m))), rows(n, m).ravel() * m)
    assert fn.trace_count == 4


# --- Python code that looks at sizes --------------------------------------------------------------


def _large(x: Any) -> Any:
    return x * 2 if x.shape[0] > 7 else x


def _even(x: Any) -> Any:
    return x[: x.shape[0] // 2] if x.shape[0] % 2 == 0 else x


def test_branches_on_sizes_are_kept_apart() -> None:
    # both ways are learned, each from two sizes
    agree(_large, (4, 6, 8, 5, 20, 7, 9, 100, 3), 4)
    agree(_even, (4, 6, 8, 5, 7, 20, 9, 100, 3), 5)


@pytest.mark.parametrize(
    "count",
    [
        lambda n: n // 3,
        lambda n: n % 3 + 1,
        lambda n: math.ceil(n / 3),
        lambda n: int(n / 3) + 1,
        lambda n: round(n / 3) + 1,
        lambda n: min(n, 9),
        lambda n: max(n // 2, 4),
        lambda n: divmod(n, 4)[0] + 1,
        lambda n: n >> 1,
        lambda n: (n & 3) + 1,
        lambda n: 100 // n,
        lambda n: n.bit_length(),
        lambda n: int(math.sqrt(n)),
        lambda n: {8: 2}.get(n, 3),
        lambda n: abs(n - 9) + 1,
        lambda n: pow(n, 2) % 7 + 1,
        lambda n: 5 if 0 < n < 9 else 6,
        lambda n: 2 if n == 8 else 3,
        lambda n: (n - 8 or 5) + 10,
        lambda n: 2 if not n - 8 else 3,
    ],
)
@pytest.mark.parametrize("start", [3, 6, 10])
def test_numbers_that_are_not_linear_in_sizes(count: Any, start: int) -> None:
    fn = dm.function(autograph=False)(lambda x: dm.ones(count(x.shape[0])) * dm.sum(x))
    for n in (start, start + 2, start + 4, *range(2, 20)):
        assert fn(rows(n, 3)).shape == (count(n),), n


def test_sizes_are_ints_to_python_code() -> None:
    def body(x: Any) -> Any:
        n = x.shape[0]
        assert isinstance(n, int) and x.shape == (n, 3) and x.shape[1] == 3
        assert [0] * n == [0] * 4 and list(range(n)) == [0, 1, 2, 3] and f"{n:3}" == "  4"
        assert np.zeros(n).shape == (4,) and n in {4, 5} and str(n) == repr(n) == "4"
        assert math.prod(x.shape) == 12 == x.size and len(x) == 4 and n**2 == 16
        assert (2 * n, n * 2, n - 1, 9 - n, -n, n / 2, 2 / n) == (8, 8, 3, 5, -4, 2.0, 0.5)
        assert dm.asarray(n).dtype is dm.int32 and (x * n).dtype is dm.float32
        assert (dm.asarray([1]) * n).dtype is dm.int32 and dm.asarray(n / 2).dtype is dm.float32
        return dm.full((n,), n), inner(n), dm.one_hot(dm.asarray([n - 1]), n)

    inner = dm.function(lambda n: n * 2)
    found = dm.function(autograph=False)(body)(rows(4, 3))
    assert found[0].tolist() == [4] * 4 and found[1].item() == 8
    assert found[2].tolist() == [[0, 0, 0, 1]]


def test_sizes_0_and_1_are_traced() -> None:
    agree(lambda x: x + dm.sum(x, axis=0), (4, 6, 8, 1, 5, 0, 1, 0), 5)


def test_inner_functions_tell_what_they_ask() -> None:
    inner = dm.function(autograph=False)(_large)
    fn = dm.function(autograph=False)(lambda x: inner(x) + 1)
    for n in (20, 30, 9):  # so that the inner function is known already
        inner(dm.asarray(rows(n, 3)))
    agree(lambda x: _large(x) + 1, (9, 20, 30, 10, 4, 6, 5, 40), 5, fn)


def test_an_inner_function_is_asked_once_however_it_is_known() -> None:
    inner = dm.function(autograph=False)(lambda x: x * (2 if x.shape[0] < 100 else 3))

    def body(x: Any) -> Any:
        return inner(x) + inner(x)

    fresh = traced(body, rows(6, 3)).events  # traces the inner function
    known = traced(body, rows(6, 3)).events
    for n in (8, 10, 12):
        inner(dm.asarray(rows(n, 3)))
    derived = traced(body, rows(12, 3)).events
    assert inner.trace_count == 3 and len(inner.specializations) == 1
    assert [e.operation for e in fresh] == [e.operation for e in known] == ["lt", "lt"]
    assert [e[:2] for e in derived] == [("lt", (12, 100))] * 2


# --- what cannot be learned -----------------------------------------------------------------------


def _unrolled(x: Any) -> Any:
    out = x[0]
    for k in range(x.shape[0]):
        out = out + x[k]
    return out


def test_unrolled_loops_are_traced_and_say_why() -> None:
    fn = agree(_unrolled, (4, 6, 8, 5, 9), 5)
    assert "axis 0 of x cannot be symbolic" in repr(fn.retraces[-1])
    assert "for k in range(x.shape[0])" in repr(fn.retraces[-1])


def test_other_reasons() -> None:
    def reason(fn: Any) -> str:
        with pytest.raises(NotAlike) as caught:
            Learned([traced(fn, rows(n, 3)) for n in (8, 6, 4)])
        return str(caught.value)

    assert "plain number" in reason(lambda x: x * float(x.shape[0]))
    assert "float(x.shape[0])" in reason(lambda x: x * float(x.shape[0]))
    assert "plain number" in reason(lambda x: dm.zeros(len(x)))
    assert "plain number" in reason(lambda x: x + np.arange(x.shape[0] * 3).reshape(-1, 3))
    arrays = iter(np.arange(9, dtype=np.float32).reshape(3, 3))
    assert "array that is computed" in reason(lambda x: x + next(arrays))
    assert "constant depends" in reason(lambda x: x * math.exp(0.1 / x.shape[0].real))
    assert "decides by it" in reason(lambda x: x if x.shape[0] > 5 else -x)
    assert "structure of the result" in reason(lambda x: [x] * x.shape[0])
    v = dm.Variable(1.0), dm.Variable(2.0)
    assert "variables" in reason(lambda x: x * ([v[0]] * 5 + [v[1]] * 9)[x.shape[0]])


def test_constants_of_an_unlike_trace_are_not_mixed() -> None:
    table = {4: 1.0, 6: 2.0, 8: 5.0, 5: 7.0}
    agree(lambda x: x * table[x.shape[0]], (4, 6, 8, 5), 4)


def test_derived_signatures_are_let_go() -> None:
    from dualmode.traces import DERIVED

    fn = agree(lambda x: x + 1, range(2, DERIVED + 20), 3)
    assert len(fn.specializations) == DERIVED
    agree(lambda x: x + 1, range(2, DERIVED + 20), 3, fn)


# --- forms ----------------------------------------------------------------------------------------


def test_forms() -> None:
    fitter = Fitter([(4,), (6,), (9,)])

    def at(n: int, *values: Any) -> Any:
        found = fitter.fit(values)
        return found.at((n,)) if hasattr(found, "at") else found

    assert at(10, 7, 7, 7) == 7
    assert at(10, 9, 13, 19) == 21
    assert at(10, 16, 36, 81) == 100
    assert at(10, 1 / 4, 1 / 6, 1 / 9) == 0.1
    assert at(10, 3 / 4, 3 / 6, 3 / 9) == 0.3
    assert at(11, 1 / 3, 1 / 5, 1 / 8) == 0.1
    assert at(10, 0.4, 0.1 * 6, 0.1 * 9) == 1.0
    for values in ((2, 3, 4), (1.0, 2.0, 4.0), (1, 1, 2), (0.5, math.inf, 1.0)):
        with pytest.raises(Unfit):
            fitter.fit(values)
    with pytest.raises(Unfit, match="integer"):
        Fitter([(4,), (6,)]).fit((2, 3)).at((7,))


def test_forms_of_two_sizes() -> None:
    fitter = Fitter([(4, 4, 7), (6, 6, 5), (9, 9, 8)])
    assert fitter.symbols == [0, 2]  # the second goes with the first
    assert fitter.fit((28, 30, 72)).at((3, 5)) == 15
    assert fitter.fit((15, 17, 26)).at((3, 5)) == 11
    assert fitter.fit((1 / 28, 1 / 30, 1 / 72)).at((3, 5)) == 1 / 15


# --- memory ---------------------------------------------------------------------------------------


def test_functions_go_with_all_that_was_learned() -> None:
    import weakref

    fn = agree(lambda x: x + x.shape[0], (4, 6, 8, 5), 3)
    gone = weakref.ref(fn), weakref.ref(next(iter(fn._traces._derived.values())))
    del fn
    gc.collect()
    assert gone[0]() is None and gone[1]() is None


def test_len_int_and_float_of_sizes() -> None:
    fn = dm.function(lambda x: dm.sum(x) / float(len(x)) + dm.zeros(int(x.shape[0])))
    for n in (4, 6, 8, 5, 7):
        assert fn(rows(n, 3)).shape == (n,)
    assert fn.trace_count == 3
