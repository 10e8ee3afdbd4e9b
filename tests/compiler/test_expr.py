"""The index algebra against arithmetic: every expression, at every value of its axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualmode_compiler import expr
from dualmode_compiler.arithmetic import floordiv
from dualmode_compiler.expr import Affine, Apply, Axis, Buffer, Const, Expr, Load, Reduce
from dualmode_compiler.index import ravel, unravel
from dualmode_compiler.loops import Kernel, Store, collapse, collapse_reduce, flat
from dualmode_compiler.spec import (
    DTYPES,
    Spec,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int64,
    uint8,
)
from dualmode_compiler.walks import substitute, walk

Values = dict[Axis, int]
WRAP = 1 << 64


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    with expr.fresh():
        yield


# --- an evaluator that knows nothing of normal forms ----------------------------------------------


def evaluate(x: Expr, at: Values, arrays: dict[Buffer, Any] | None = None) -> Any:
    if isinstance(x, Axis):
        return at[x]
    if isinstance(x, Const):
        return x.value
    if isinstance(x, Affine):
        total = x.const + sum(c * evaluate(a, at, arrays) for a, c in x.terms)
        return (total + WRAP // 2) % WRAP - WRAP // 2
    if isinstance(x, Load):
        assert arrays is not None
        return arrays[x.buffer][tuple(evaluate(i, at, arrays) for i in x.index)]
    if isinstance(x, Reduce):
        return _reduce(x, at, arrays)
    assert isinstance(x, Apply)
    args = [evaluate(a, at, arrays) for a in x.args]
    return APPLY[x.fn](*args)


APPLY: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "minimum": min,
    "maximum": max,
    "neg": lambda a: -a,
    "select": lambda c, a, b: a if c else b,
    "lt": lambda a, b: a < b,
}


def _reduce(x: Reduce, at: Values, arrays: Any) -> Any:
    points = itertools.product(*(range(a.extent) for a in x.bound))
    values = [
        evaluate(x.body, {**at, **dict(zip(x.bound, p, strict=True))}, arrays) for p in points
    ]
    if x.kind in ("argmax", "argmin"):
        return values.index(max(values) if x.kind == "argmax" else min(values))
    return {"add": sum, "mul": math.prod, "maximum": max, "minimum": min}[x.kind](values)


def points(*axes: Axis) -> Iterator[Values]:
    for p in itertools.product(*(range(a.extent) for a in axes)):
        yield dict(zip(axes, p, strict=True))


# --- drawn index expressions ----------------------------------------------------------------------

Tree = tuple[Any, ...]  # ("axis", k) | ("const", c) | (operator, tree, tree or int)


def trees() -> st.SearchStrategy[Tree]:
    leaves = st.one_of(
        st.tuples(st.just("axis"), st.integers(0, 2)),
        st.tuples(st.just("const"), st.integers(-7, 30)),
    )

    def grow(inner: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
        divisor = st.one_of(st.integers(1, 8), st.sampled_from([12, 15, 30, 35, 64]))
        return st.one_of(
            st.tuples(st.sampled_from(["+", "-", "min", "max"]), inner, inner),
            st.tuples(st.just("*"), inner, st.integers(-6, 12)),
            st.tuples(st.sampled_from(["//", "%"]), inner, divisor),
        )

    return st.recursive(leaves, grow, max_leaves=10)


def build(tree: Tree, axes: list[Axis]) -> Expr:
    """`tree` by the operators of expressions."""
    kind, *args = tree
    if kind == "axis":
        return axes[args[0]]
    if kind == "const":
        return expr.const(args[0], int64)
    a = build(args[0], axes)
    b = args[1] if isinstance(args[1], int) else build(args[1], axes)
    if kind in ("min", "max"):
        return expr.apply(f"{kind}imum", a, b)
    operators = {"+": Expr.__add__, "-": Expr.__sub__, "*": Expr.__mul__}
    operators |= {"//": Expr.__floordiv__, "%": Expr.__mod__}
    return operators[kind](a, b)


def expected(tree: Tree, at: list[int]) -> int:
    """`tree` by Python's."""
    kind, *args = tree
    if kind == "axis":
        return at[args[0]]
    if kind == "const":
        return args[0]
    a = expected(args[0], at)
    b = args[1] if isinstance(args[1], int) else expected(args[1], at)
    both = {"+": a + b, "-": a - b, "*": a * b, "min": min(a, b), "max": max(a, b)}
    return both[kind] if kind in both else a // b if kind == "//" else a % b


EXTENTS = st.tuples(*[st.integers(1, 9)] * 3)


@settings(max_examples=400)
@given(trees(), EXTENTS)
def test_expressions_are_what_python_computes(tree: Tree, extents: tuple[int, ...]):
    with expr.fresh():
        axes = [Axis(n) for n in extents]
        x = build(tree, axes)
        known = x.span
        assert known is not None
        for at in itertools.product(*map(range, extents)):
            value = evaluate(x, dict(zip(axes, at, strict=True)))
            assert value == expected(tree, list(at))
            assert known[0] <= value <= known[1]


def linear() -> st.SearchStrategy[Tree]:
    """A sum of axes with coefficients that share factors, as addresses have them."""
    coefficients = st.sampled_from([1, 1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60, -1, -5, -12])
    terms = [st.tuples(st.just("*"), st.just(("axis", k)), coefficients) for k in range(3)]
    return st.tuples(
        st.lists(st.sampled_from(range(3)), min_size=1), *terms, st.integers(-9, 30)
    ).map(lambda t: _sum([t[1 + k] for k in t[0]] + [("const", t[-1])]))


def _sum(parts: list[Tree]) -> Tree:
    total = parts[0]
    for p in parts[1:]:
        total = ("+", total, p)
    return total


DIVISORS = st.sampled_from([2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60])


@settings(max_examples=400)
@given(linear(), DIVISORS, DIVISORS, st.integers(-2, 2), st.integers(-12, 60), EXTENTS)
def test_division_of_sums(
    tree: Tree, d: int, e: int, low: int, high: int, extents: tuple[int, ...]
):
    """Quotients and remainders of one sum, on their own, nested, and put together again."""
    quotient, remainder = ("//", tree, d), ("%", tree, d)
    joined = ("+", ("*", quotient, d * low), ("*", remainder, low))
    other = ("+", ("*", quotient, high), ("*", remainder, low))
    found = [quotient, remainder, ("//", quotient, e), ("%", quotient, e), ("//", remainder, e)]
    with expr.fresh():
        axes = [Axis(n) for n in extents]
        for t in (*found, joined, other):
            x = build(t, axes)
            known = x.span
            assert known is not None
            for at in itertools.product(*map(range, extents)):
                value = evaluate(x, dict(zip(axes, at, strict=True)))
                assert value == expected(t, list(at))
                assert known[0] <= value <= known[1]


@settings(max_examples=200)
@given(trees(), trees(), EXTENTS, EXTENTS)
def test_substitution_of_an_axis(
    tree: Tree, other: Tree, extents: tuple[int, ...], more: tuple[int, ...]
):
    """Substituting first and evaluating after gives what evaluating twice does."""
    with expr.fresh():
        axes, inner = [Axis(n) for n in extents], [Axis(n) for n in more]
        source = build(other, inner)
        x = build(tree, axes)
        new = substitute(x, {axes[0]: _clamped(source, extents[0])})
        for at in points(*inner):
            value = min(max(evaluate(source, at), 0), extents[0] - 1)
            for rest in points(axes[1], axes[2]):
                want = evaluate(x, {**rest, axes[0]: value})
                assert evaluate(new, {**at, **rest}) == want


def _clamped(x: Expr, n: int) -> Expr:
    low = expr.apply("maximum", x, expr.const(0, int64))
    return expr.apply("minimum", low, expr.const(n - 1, int64))


def test_substitution_exchanges_axes():
    i, j = Axis(3), Axis(3)
    x = i * 5 + floordiv(j + 1, expr.const(2, int64))
    y = substitute(x, {i: j, j: i})
    for at in points(i, j):
        assert evaluate(y, at) == at[j] * 5 + (at[i] + 1) // 2


def test_substitution_leaves_bound_axes_alone():
    data = Buffer("x", Spec((4, 5), float32))
    i, k = Axis(4), Axis(5)
    row = expr.load(data, [i, k])
    total = expr.reduce("add", [k], row)
    both = substitute(total + row, {k: expr.const(2, int64), i: expr.const(3, int64)})
    array = np.arange(20).reshape(4, 5)
    assert evaluate(both, {}, {data: array}) == array[3].sum() + array[3, 2]


@settings(max_examples=200)
@given(st.lists(st.integers(1, 6), max_size=4), st.lists(st.integers(1, 6), max_size=4))
def test_ravel_and_unravel(shape: list[int], other: list[int]):
    """Reshape is ravel, then unravel; both ways give back the index."""
    with expr.fresh():
        axes = [Axis(n) for n in shape]
        flat_index = ravel(axes, shape)
        back = unravel(flat_index, shape)
        for at, index in zip(points(*axes), np.ndindex(*shape), strict=True):
            assert evaluate(flat_index, at) == (np.ravel_multi_index(index, shape) if shape else 0)
            assert tuple(evaluate(i, at) for i in back) == index
        if math.prod(shape) == math.prod(other):
            there = unravel(flat_index, other)
            for at in points(*axes):
                position = evaluate(flat_index, at)
                found = tuple(evaluate(i, at) for i in there)
                assert (
                    found
                    == tuple(int(k) for k in np.unravel_index(position, other or [1]))[: len(other)]
                )


def test_a_reshape_and_back_is_nothing():
    for shape, other in [
        ((4, 6), (24,)),
        ((4, 6), (8, 3)),
        ((2, 3, 5), (6, 5)),
        ((6, 4), (3, 2, 4)),
    ]:
        axes = [Axis(n) for n in other]
        there = unravel(ravel(axes, other), shape)
        assert unravel(ravel(there, shape), other) == tuple(axes)


def test_unravel_of_nothing():
    index = unravel(Axis(0), (0, 3))
    assert all(isinstance(i, Const) and i.value == 0 for i in index)


def test_equal_expressions_are_one():
    i, j = Axis(4), Axis(5)
    assert i * 3 + j + 7 is j + 7 + i + i * 2
    assert i + j - i is j
    assert i * 0 is expr.const(0, int64)
    assert expr.const(1, bool_) is not expr.const(1, int64)
    assert expr.const(0.0, float32) is not expr.const(-0.0, float32)
    assert expr.const(math.nan, float32) is expr.const(math.nan, float32)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda i, j: (i * 5 + j) // 5, "a"),
        (lambda i, j: (i * 5 + j) % 5, "b"),
        (lambda i, j: (i * 5 + j) // 15, "(a // 3)"),
        (lambda i, j: (i * 5 + j) % 15, "(b + 5*(a % 3))"),
        (lambda i, j: (i * 10 + j * 2 + 1) // 2, "(5*a + b)"),
        (lambda i, j: (i * 10 + 13) % 10, "3"),
        (lambda i, j: (i // 3) // 2, "(a // 6)"),
        (lambda i, j: (j - 4) // 5, "(((b + 1) // 5) + -1)"),
        (lambda i, j: (j + 5) // 5, "1"),
        (lambda i, j: i // 1, "a"),
        (lambda i, j: ((i + 3) % 5) // 5, "0"),
        (lambda i, j: (i // 3) * 3 + i % 3, "a"),
        (lambda i, j: (i // 3) * 4 + i % 3, "(4*(a // 3) + (a % 3))"),
    ],
)
def test_division_is_simplified_by_what_is_known(make: Any, text: str):
    i, j = Axis(7), Axis(5)
    x = make(i, j)
    for at in points(i, j):
        assert evaluate(x, at) == make(_Number(at[i]), _Number(at[j]))
    assert _shown(x, i, j) == text


class _Number(int):
    """An int whose operators are an expression's."""


def _shown(x: Expr, i: Axis, j: Axis) -> str:
    """With i named a and j named b whether or not both occur."""
    return repr(expr.apply("add", expr.apply("add", i, j), x))[len("((a + b) + ") : -1]


def test_arithmetic_that_may_wrap_has_no_span():
    i = Axis(5)
    assert (i * (1 << 60)).span == (0, 4 << 60)
    wide = i * (1 << 61) * 2
    assert wide.span is None
    assert isinstance(floordiv(wide, expr.const(2, int64)), Apply)
    data = expr.load(Buffer("x", Spec((5,), int64)), [i])
    assert data.span is None
    doubled = floordiv(data * 2, expr.const(2, int64))
    assert isinstance(doubled, Apply) and doubled.fn == "floordiv"


def test_bounds_of_deep_and_shared_expressions():
    x: Expr = Axis(5)
    for _ in range(2000):
        x = expr.apply("maximum", x + 1, expr.apply("minimum", x, expr.const(3, int64)))
    assert x.span == (2000, 2004)


def test_constants_are_rounded_or_wrapped():
    assert expr.const(300, uint8).value == 44
    assert expr.const(-1, uint8).value == 255
    assert expr.const(200, int8).value == -56
    assert expr.const(2**64 - 1, DTYPES["uint64"]).value == 2**64 - 1
    assert expr.const(0.1, float32).value == float(np.float32(0.1))
    assert expr.const(1e300, float32).value == math.inf
    assert expr.const(2, bool_).value is True


@pytest.mark.parametrize("source", [d for d in DTYPES.values() if not d.is_complex], ids=str)
@pytest.mark.parametrize("target", [d for d in DTYPES.values() if not d.is_complex], ids=str)
def test_a_cast_of_a_constant_is_folded_only_where_it_is_plain(source: Any, target: Any):
    for value in (0, 1, -1, 1.5, 1e10, 300, 2**24 + 1, math.inf, -math.inf, math.nan):
        if not math.isfinite(value) and not source.is_floating:
            continue
        x = expr.const(value, source)
        y = expr.cast(x, target)
        if not isinstance(y, Const):
            continue
        if target.is_floating and source.is_floating:
            with np.errstate(all="ignore"):
                want = source.numpy.type(x.value).astype(target.numpy)
            assert y.value == float(want) or (math.isnan(y.value) and math.isnan(float(want)))
        else:
            assert y.value == x.value


def test_a_cast_to_the_same_type_is_nothing():
    x = expr.load(Buffer("x", Spec((), float16)), [])
    assert expr.cast(x, float16) is x
    assert expr.cast(expr.cast(x, float64), float16) is not x


def test_select_of_a_known_condition():
    a, b = expr.const(1.0, float32), expr.const(2.0, float32)
    c = expr.load(Buffer("c", Spec((), bool_)), [])
    assert expr.select(expr.const(True, bool_), a, b) is a
    assert expr.select(expr.const(False, bool_), a, b) is b
    assert expr.select(c, a, a) is a


def test_an_apply_that_needs_a_dtype_says_so():
    with pytest.raises(TypeError, match="bitcast needs a dtype"):
        expr.apply("bitcast", expr.const(1.0, float32))


def test_a_reduction_over_no_axes():
    x = expr.load(Buffer("x", Spec((), float32)), [])
    assert expr.reduce("add", [], x) is x
    position = expr.reduce("argmax", [], x)
    assert isinstance(position, Const) and position.value == 0


def test_every_axis_is_another():
    assert Axis(3) is not Axis(3)
    k, m = Axis(3), Axis(3)
    x = Buffer("x", Spec((3,), float32))
    assert expr.reduce("add", [k], expr.load(x, [k])) is not expr.reduce(
        "add", [m], expr.load(x, [m])
    )


def test_fresh_gives_the_old_table_back():
    i = Axis(3)
    before = i + 1
    with expr.fresh():
        inside = i + 1
        assert inside is not before
    assert i + 1 is before


# --- merging axes ---------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.lists(st.integers(2, 4), min_size=1, max_size=4), st.data())
def test_collapse_keeps_every_store(shape: list[int], data: st.DataObject):
    """Loops over a permuted, broadcast or reversed operand, merged where its offsets allow."""
    with expr.fresh():
        axes = [Axis(n) for n in shape]
        order = data.draw(st.permutations(range(len(shape))))
        turned = [axes[k] for k in order]
        index = [expr.const(0, int64) if data.draw(st.booleans()) else a for a in turned]
        index = [
            a if isinstance(a, Const) or data.draw(st.booleans()) else a.extent - 1 - a
            for a in index
        ]  # type: ignore[attr-defined]
        x, y = (
            Buffer(n, Spec(s, float32)) for n, s in (("x", [shape[k] for k in order]), ("y", shape))
        )
        value = flat(expr.apply("neg", expr.load(x, index)))
        offset = ravel(axes, shape)
        kernel = Kernel("k", tuple(axes), [Store(y, offset, value, len(axes))])
        array = np.arange(math.prod(shape))
        before = _stored(kernel, {x: array})
        collapse(kernel)
        assert _stored(kernel, {x: array}) == before
        assert all(
            e not in axes or e in kernel.axes for s in kernel.stores for e in walk([s.value])
        )


def _stored(kernel: Kernel, arrays: dict[Buffer, Any]) -> dict[int, Any]:
    (store,) = kernel.stores
    return {
        evaluate(store.offset, at): evaluate(store.value, at, arrays) for at in points(*kernel.axes)
    }


def test_collapse_merges_all_axes_of_a_plain_loop():
    axes = Axis(4), Axis(5), Axis(6)
    x, y = (Buffer(n, Spec((4, 5, 6), float32)) for n in "xy")
    offset = ravel(axes, (4, 5, 6))
    kernel = Kernel("k", axes, [Store(y, offset, flat(expr.load(x, axes)), 3)])
    collapse(kernel)
    assert [a.extent for a in kernel.axes] == [120]


def test_collapse_leaves_axes_between_stores_of_different_depth():
    i, j = Axis(4), Axis(5)
    x, y, z = (Buffer(n, Spec(s, float32)) for n, s in (("x", (4, 5)), ("y", (4, 5)), ("z", (4,))))
    value = flat(expr.load(x, [i, j]))
    stores = [
        Store(y, ravel([i, j], (4, 5)), value, 2),
        Store(z, i, expr.const(0.0, float32), 1),
    ]
    kernel = Kernel("k", (i, j), stores)
    collapse(kernel)
    assert kernel.axes == (i, j) and [s.depth for s in stores] == [2, 1]


@pytest.mark.parametrize("kind", ["add", "maximum", "argmax", "argmin"])
def test_collapse_of_a_reduction(kind: str):
    """Positions count in row-major order, merged or not."""
    i, k, m = Axis(2), Axis(3), Axis(4)
    x = Buffer("x", Spec((2, 3, 4), float32))
    rng = np.random.default_rng(0)
    array = rng.permutation(24).astype(int)
    for index, merged in (((i, k, m), 1), ((i, k, 3 - m), 2)):
        total = expr.reduce(kind, [k, m], flat(expr.load(x, index)))
        assert isinstance(total, Reduce)
        new = collapse_reduce(total)
        assert len(new.bound) == merged
        for at in points(i):
            assert evaluate(new, at, {x: array}) == evaluate(total, at, {x: array})
