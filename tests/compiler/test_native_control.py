"""Branches and loops in compiled code: the same results as the interpreter's, and no leaks."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dualmode as dm
from control_drawing import branch, call, loop
from dualmode_compiler import driver, expr
from dualmode_compiler.graph import TOKEN, Graph, Node
from dualmode_compiler.interpret import Interpreter
from dualmode_compiler.loops import Control, Copy
from dualmode_compiler.runtime import jit
from dualmode_compiler.runtime.bindings import promoted
from graphs import Array, check, hosts, trace
from ops import SmallOp

F, N, V = "float32[]", "int32[]", "float32[5]"


def graph(*specs: str) -> tuple[Graph, list[Node]]:
    g = Graph()
    return g, [g.param(n.spec) for n in trace(lambda *x: x, *specs).params]


def add(g: Graph, fn: Callable[..., Any], *nodes: Node) -> list[Node]:
    """What `fn` computes of `nodes`."""
    made = trace(fn, *(n.spec for n in nodes))
    image = dict(zip(made.params, nodes, strict=True))
    for n in made.nodes():
        if n not in image:
            image[n] = g.add(n.op, [image[k] for k in n.inputs], n.attrs, n.site, n.spec)
    return [image[n] for n in made.outputs]


def arrays(*xs: Any) -> list[Array]:
    return [np.asarray(x, np.int32 if isinstance(x, int) else np.float32) for x in xs]


ROW = np.arange(5, dtype=np.float32)


# --- branches and calls -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [-3, 0, 1, 2, 3, 1 << 30])
def test_branches(number: int):
    g, (k, x, y) = graph(N, F, V)
    branches = [
        trace(lambda x, y: [x + 1.0, y], F, V),
        trace(lambda x, y: [x, dm.flip(y) * x], F, V),
        trace(lambda x, y: [dm.sum(y), y + y], F, V),
    ]
    a, b = branch(g, k, branches, x, y)
    g.outputs = [*add(g, lambda a, b: [a * b, dm.sum(b)], a, b), a, b]
    check(g, arrays(number, 2.0, ROW), ulp=2)


def test_results_that_nobody_reads_and_one_that_is_read_twice():
    g, (k, x) = graph(N, V)
    same_twice = trace(lambda x: [x * 2.0, x * 2.0, x], V)
    constants = trace(lambda x: [dm.zeros(5), x, dm.ones(5)], V)
    a, _, c = branch(g, k, [same_twice, constants], x)
    g.outputs = [c, a, c]
    for number in (0, 1):
        check(g, arrays(number, ROW))


def test_a_call_of_its_own():
    g, (x,) = graph(V)
    (y,) = call(g, trace(lambda x: dm.tanh(x) * 2.0, V), x, inline=False)
    (z,) = call(g, trace(lambda x: dm.sum(x), V), y, inline=False)
    g.outputs = [y, z]
    check(g, arrays(ROW), ulp=4)


def test_a_branch_takes_its_operands_from_kernels_and_gives_to_kernels():
    g, (x, w) = graph("float32[40,30]", "float32[30,20]")
    (y,) = add(g, lambda x, w: dm.relu(x @ w), x, w)
    (k,) = add(g, lambda y: dm.astype(dm.sum(y) > 0, "int32"), y)
    products = [
        trace(lambda y: dm.matmul(y, y, True), "float32[40,20]"),
        trace(lambda y: dm.matmul(y, y, True) * 2.0 + 1.0, "float32[40,20]"),
    ]
    (z,) = branch(g, k, products, y)
    g.outputs = add(g, lambda z, y: dm.sum(z) + dm.sum(y), z, y)
    check(g, ulp=64)


# --- loops --------------------------------------------------------------------------------------


def counting(*specs: str, **bodies: Any) -> tuple[Graph, Graph]:
    """A body that counts its first value to the last one's value, and the condition."""
    step = bodies["step"]
    body = trace(
        lambda k, *x: [k + 1, *step(*x[:-1]), *bodies.get("out", lambda *_: [])(*x[:-1])],
        N,
        *specs,
        N,
    )
    return body, trace(lambda k, *x: k < x[-1], N, *specs, N)


@pytest.mark.parametrize("times", [-1, 0, 1, 2, 7, 1000])
def test_while(times: int):
    body, cond = counting(F, V, step=lambda x, v: [x * 0.5 + 1.0, v + x])
    g, (k, x, v, n) = graph(N, F, V, N)
    g.outputs = loop(g, body, [k, x, v], cond=cond, fixed=[n])
    check(g, arrays(0, 3.0, ROW, times), ulp=4)


def test_at_most_so_many_iterations():
    body, cond = counting(F, step=lambda x: [x + 1.0])
    for times in (0, 3, 5, 9):
        g, (k, x, n) = graph(N, F, N)
        g.outputs = loop(g, body, [k, x], cond=cond, fixed=[n], length=5)
        check(g, arrays(0, 0.0, times))


PERMUTED: dict[str, Any] = {
    "swap": lambda a, b, c: [b, a, c],
    "rotate": lambda a, b, c: [b, c, a],
    "spread": lambda a, b, c: [b, b, a],
    "fibonacci": lambda a, b, c: [b, a + b, c],
    "mixed": lambda a, b, c: [c, a - b, dm.flip(a)],
    "constant": lambda a, b, c: [a * 0.0, dm.zeros_like(b) + 2.0, b],
    "as it is": lambda a, b, c: [a, b, c],
}


@pytest.mark.parametrize("spec", [V, "float32[1]", "float32[0]"])
@pytest.mark.parametrize("name", PERMUTED)
def test_bodies_that_permute_what_they_carry(name: str, spec: str):
    body = trace(PERMUTED[name], spec, spec, spec)
    for length in (0, 1, 2, 5):
        g, xs = graph(spec, spec, spec)
        g.outputs = [*loop(g, body, xs, length=length), *xs]
        check(g)
        # the same initial value three times, computed by a kernel
        g, (x, _, _) = graph(spec, spec, spec)
        (y,) = add(g, lambda x: x + 1.0, x)
        g.outputs = [*loop(g, body, [y, y, y], length=length), *add(g, lambda y: y * 2.0, y)]
        check(g)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("entry", ["", "3", "0", "4,3"])
@pytest.mark.parametrize("length", [0, 1, 4])
def test_scan(reverse: bool, entry: str, length: int):
    spec, stacked = f"float32[{entry}]", f"float32[{f'{length},{entry}'.strip(',')}]"
    body = trace(lambda c, x, f: [c + x * f, dm.flip(c) - x, x + 1.0], spec, spec, F)
    g, (c, xs, f) = graph(spec, stacked, F)
    g.outputs = loop(g, body, [c], scanned=[xs], fixed=[f], length=length, reverse=reverse)
    check(g)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("entry", ["", "1", "3", "0", "500"])
@pytest.mark.parametrize("times", [0, 1, 40, 1000])
def test_stacks(times: int, entry: str, reverse: bool):
    """A loop of unknown length saves values; others go through them, back and forth."""
    spec = f"float32[{entry}]"
    body, cond = counting(spec, step=lambda x: [x * 0.5 + 1.0], out=lambda x: [x, x * 2.0])
    g, (k, x, n) = graph(N, spec, N)
    count, last, one, two = loop(g, body, [k, x], cond=cond, fixed=[n])
    back = trace(lambda s, a, b: [s * 0.5 + a - b, s + a], spec, spec, spec)
    total, sums = loop(g, back, [last], scanned=[one, two], reverse=reverse)
    again = trace(lambda s, m, a, b: [s - a * b, m + 1], spec, N, spec, spec)
    g.outputs = [count, *loop(g, again, [total, k], scanned=[sums, one], reverse=not reverse)]
    with counted() as blocks:
        check(g, arrays(0, np.ones([int(e) for e in entry.split(",") if e]), times), ulp=64)
        assert not blocks.open


def test_a_reversed_loop_that_stops_early_keeps_its_last_entries():
    body = trace(lambda k, x: [k + 1, x * 2.0], N, V)
    cond = trace(lambda k: k < 3, N)
    g, (k, xs) = graph(N, "float32[7,5]")
    count, stack = loop(g, body, [k], cond=cond, scanned=[xs], length=7, reverse=True)
    add_up = trace(lambda s, x: s * 2.0 + x, V, V)
    (zero,) = add(g, lambda xs: xs[0] * 0.0, xs)
    g.outputs = [count, *loop(g, add_up, [zero], scanned=[stack])]
    check(g, arrays(0, np.arange(35.0).reshape(7, 5)))


def test_big_arrays():
    """Kernels that are cut into chunks, inside of a loop."""
    spec, times = "float32[300,500]", 4
    body = trace(lambda w, v, x: [dm.tanh(w) + x, w @ dm.matmul(v, x, True)], *[spec] * 3)
    g, (w, v, xs) = graph(spec, spec, f"float32[{times},300,500]")
    g.outputs = loop(g, body, [w, v], scanned=[xs], length=times)
    rng = np.random.default_rng(3)
    data = [rng.standard_normal(n.spec.shape).astype(np.float32) * 0.01 for n in g.params]
    check(g, data, ulp=64)
    assert driver.compile(g).native().program.chunked


@pytest.mark.parametrize("host", hosts(), ids=lambda h: str(h.vector_bytes))
def test_every_dtype(host: Any):
    for kind in ("bool", "int8", "uint64", "float16", "bfloat16", "float64", "complex64"):
        for shape in ("", "1", "3"):
            spec = f"{kind}[{shape}]"
            body = trace(lambda a, b, x: [b, x, a], spec, spec, spec)
            g, (a, b, xs) = graph(spec, spec, f"{kind}[{f'4,{shape}'.strip(',')}]")
            g.outputs = loop(g, body, [a, b], scanned=[xs], length=4)
            check(g, host=host)


def test_an_update_of_a_state_by_a_loop():
    """In place where nothing can fail."""
    g, (w, xs) = graph(V, "float32[3,5]")
    body = trace(lambda w, x: [w * 0.5 + x], V, V)
    (new,) = loop(g, body, [w], scanned=[xs], length=3)
    g.updates = [(0, new)]
    check(g)
    with_output = Graph(g.params, [w, new], [(0, new)])
    check(with_output)
    code = driver.compile(g).native()
    plan = code.plan
    assert "call void @llvm.memcpy" not in code.program.text
    assert [plan.places[b].kind for b in plan.steps[0].writes()] == ["param"]


def test_a_loop_over_a_state_that_it_also_reads_as_it_was():
    g, (w,) = graph(V)
    (new,) = loop(g, trace(lambda w, f: w * 0.5 + dm.flip(f), V, V), [w], fixed=[w], length=3)
    g.updates = [(0, new)]
    check(g)


def test_numbers_that_the_host_computes():
    triple = SmallOp("triple", kernel=lambda x: x * 3)
    body, (x,) = graph(N)
    y = body.add(triple, [x])
    body.outputs = add(body, lambda y: y - 1, y)
    g, (x,) = graph(N)
    g.outputs = loop(g, body, [x], length=5)
    (out,) = check(g, arrays(1))
    assert out == 122


# --- nested -------------------------------------------------------------------------------------


def test_a_loop_in_a_branch_in_a_loop():
    inner = trace(lambda x, m: [x * 0.5 + m], F, F)
    twice, (x, v) = graph(F, V)
    (m,) = add(twice, lambda v: dm.max(v), v)
    (y,) = loop(twice, inner, [x], fixed=[m], length=2)
    twice.outputs = [y, *add(twice, lambda v, y: v * y, v, y)]
    flipped = trace(lambda x, v: [x - 1.0, dm.flip(v)], F, V)
    body, (k, x, v, n) = graph(N, F, V, N)
    (number,) = add(body, lambda k: k % 3, k)
    x2, v2 = branch(body, number, [twice, flipped], x, v)
    body.outputs = [*add(body, lambda k: k + 1, k), x2, v2, *add(body, lambda v: dm.sum(v), v2)]
    cond = trace(lambda k, x, v, n: k < n, N, F, V, N)
    g, (k, x, v, n) = graph(N, F, V, N)
    *carried, stack = loop(g, body, [k, x, v], cond=cond, fixed=[n])
    total = trace(lambda s, e: s * 0.5 + e, F, F)
    g.outputs = [*carried, *loop(g, total, [x], scanned=[stack], reverse=True)]
    for times in (0, 1, 2, 9):
        check(g, arrays(0, 1.0, ROW / 8, times), ulp=16)


def test_loops_that_save_inside_of_loops_that_save():
    """Stacks of an inner loop are made and freed in each iteration of the outer one."""
    inner, inner_cond = counting(F, step=lambda x: [x * 0.5 + 1.0], out=lambda x: [x])
    total = trace(lambda s, e: s + e, F, F)
    body, (k, x, n) = graph(N, F, N)
    (zero,) = add(body, lambda k: k * 0, k)
    _, last, stack = loop(body, inner, [zero, x], cond=inner_cond, fixed=[k])
    (s,) = loop(body, total, [last], scanned=[stack], reverse=True)
    body.outputs = [*add(body, lambda k: k + 1, k), *add(body, lambda s: s * 0.25, s), s]
    cond = trace(lambda k, x, n: k < n, N, F, N)
    g, (k, x, n) = graph(N, F, N)
    *carried, sums = loop(g, body, [k, x], cond=cond, fixed=[n])
    g.outputs = [*carried, *loop(g, total, [x], scanned=[sums])]
    with counted() as blocks:
        for times in (0, 1, 6, 300):
            check(g, arrays(0, 1.0, times), ulp=64)
        assert blocks.made and not blocks.open


W = "int32[5]"  # whole numbers: exact in any order, also where they overflow


@st.composite
def bodies(draw: st.DrawFn, depth: int) -> Graph:
    """A graph from two numbers and two rows to the same."""
    g, xs = graph(N, N, W, W)
    values = list(xs)
    for _ in range(draw(st.integers(1, 3))):
        values = draw(st.sampled_from(_STEPS if depth else _STEPS[:1]))(g, values, draw, depth)
    if draw(st.booleans()):
        values = [values[1], values[0], values[3], values[2]]
    g.outputs = values
    return g


def _narrow(x: Any) -> Any:
    return dm.astype(x, "int32")


_PLAIN: list[Any] = [
    lambda a, b, v, w: [b, a, w, v],
    lambda a, b, v, w: [a * 3 + b, a, v * a, dm.flip(v)],
    lambda a, b, v, w: [_narrow(dm.sum(v)) + 2, b, w, v - dm.max(w)],
    lambda a, b, v, w: [a, b // 2, v // 2, w],
    lambda a, b, v, w: [a, a, v, v],
    lambda a, b, v, w: [a - b, b, _narrow(dm.cumulative_sum(w)), v],
]


def _plain(g: Graph, x: list[Node], draw: Any, depth: int) -> list[Node]:
    return add(g, draw(st.sampled_from(_PLAIN)), *x)


def _branches(g: Graph, x: list[Node], draw: Any, depth: int) -> list[Node]:
    return branch(g, x[0], [draw(bodies(depth - 1)), draw(bodies(depth - 1))], *x)


def _calls(g: Graph, x: list[Node], draw: Any, depth: int) -> list[Node]:
    return call(g, draw(bodies(depth - 1)), *x, inline=False)


def _scans(g: Graph, x: list[Node], draw: Any, depth: int) -> list[Node]:
    """A loop of certain length, then one over a row."""
    length, reverse = draw(st.integers(0, 3)), draw(st.booleans())
    a, b, v, w = loop(g, draw(bodies(depth - 1)), x, length=length, reverse=reverse)
    body = trace(lambda c, e, f: [c + e, c + f], N, N, N)
    c, one = loop(g, body, [a], scanned=[v], fixed=[b], length=5, reverse=reverse)
    return [c, b, w, one]


def _whiles(g: Graph, x: list[Node], draw: Any, depth: int) -> list[Node]:
    """A loop of unknown length, then one through what it saved."""
    body, (k, a, b, v, w) = graph(N, N, N, W, W)
    results = call(body, draw(bodies(depth - 1)), a, b, v, w, inline=False)
    body.outputs = [*add(body, lambda k: k + 1, k), *results, a, w]
    times = draw(st.integers(0, 3))
    cond = trace(lambda k, a, b, v, w: dm.logical_and(k < times, a < 50), N, N, N, W, W)
    (zero,) = add(g, lambda a: a * 0, x[0])
    _, a, b, v, w, saved, rows = loop(g, body, [zero, *x], cond=cond)
    back = trace(lambda a, v, e, r: [a * 2 - e, v + r], N, W, N, W)
    a, v = loop(g, back, [a, v], scanned=[saved, rows], reverse=draw(st.booleans()))
    return [a, b, v, w]


_STEPS = [_plain, _branches, _calls, _scans, _whiles]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_nest(data: st.DataObject):
    g = data.draw(bodies(2))
    if data.draw(st.booleans()):
        g.updates = [(2, g.outputs[3]), (3, g.outputs[2])]
    rows = np.arange(5, dtype=np.int32)
    with counted() as blocks:
        check(g, [np.asarray(2, np.int32), np.asarray(-1, np.int32), rows, rows[::-1] * 7])
    assert not blocks.open


# --- effects, failures, memory ------------------------------------------------------------------


class Blocks:
    """Counts what compiled code allocates and frees."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.made = self.most = 0
        self.room: int | None = None  # allocations that still succeed
        c = ctypes.CDLL(None)
        c.realloc.restype = ctypes.c_void_p
        c.realloc.argtypes, c.free.argtypes = [ctypes.c_void_p, ctypes.c_size_t], [ctypes.c_void_p]
        self._c, pointer = c, ctypes.c_void_p
        self.realloc = ctypes.CFUNCTYPE(pointer, pointer, ctypes.c_size_t)(self._realloc)
        self.free = ctypes.CFUNCTYPE(None, pointer)(self._free)

    def _realloc(self, old: int | None, size: int) -> int | None:
        if self.room is not None:
            self.room -= 1
            if self.room < 0:
                return None
        if size == 0:  # which may give null, by the C standard
            self._c.free(old)
            return None
        new = self._c.realloc(old, size)
        self.open.discard(old or 0)
        self.open.add(new)
        self.made += 1
        self.most = max(self.most, len(self.open))
        return new

    def _free(self, old: int | None) -> None:
        if old:
            self.open.remove(old)
        self._c.free(old)


@contextmanager
def counted() -> Iterator[Blocks]:
    """Code that is loaded meanwhile allocates and frees by way of `Blocks`."""
    blocks, load = Blocks(), jit.load

    def loaded(objects: Any, exports: Any, imports: Any = None) -> Any:
        address = {
            name: ctypes.cast(getattr(blocks, name), ctypes.c_void_p).value or 0
            for name in ("realloc", "free")
        }
        return load(objects, exports, {**(imports or {}), **address})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jit, "load", loaded)
        yield blocks


def note(seen: list[Any], fail_at: int | None = None) -> SmallOp:
    """An effect that keeps what it is shown; it raises on the value `fail_at`."""

    def kernel(x: Array, tag: str = "") -> Array:
        seen.append((tag, x.tolist()) if tag else x.tolist())
        if fail_at is not None and x == fail_at:
            raise ValueError(f"the value {fail_at}")
        return x

    return SmallOp("note", kernel=kernel, effect=True)


def test_a_failure_in_a_loop_ends_everything():
    """The error surfaces, stacks are freed, states stay as they were; the next run works."""
    seen: list[Any] = []
    op = note(seen, fail_at=3)
    body, (k, x, n) = graph(N, V, N)
    body.add(op, [k])
    body.outputs = [*add(body, lambda k, x: [k + 1, x * 2.0], k, x), x]
    cond = trace(lambda k, x, n: k < n, N, V, N)
    g, (k, x, n) = graph(N, V, N)
    _, last, saved = loop(g, body, [k, x], cond=cond, fixed=[n])
    (total,) = loop(g, trace(lambda s, x: s + x, V, V), [last], scanned=[saved])
    g.updates = [(1, total)]
    with counted() as blocks:
        code = driver.compile(g).native()
        state = np.ones(5, np.float32)
        for times, fails in ((3, False), (9, True), (2, False), (9, True)):
            seen.clear()
            before = state.copy()
            params = [np.asarray(0, np.int32), state, np.asarray(times, np.int32)]
            if fails:
                with pytest.raises(ValueError, match="the value 3"):
                    code.run(params, [])
                np.testing.assert_array_equal(state, before)
            else:
                code.run(params, [])
                assert (state != before).all()
            assert seen == list(range(min(times, 4)))
            assert blocks.made and not blocks.open


def test_states_stay_as_they_were_where_a_loop_fails():
    """The loop's own, and one that has nothing to do with it."""
    body, (k, w) = graph(N, V)
    body.add(note([], fail_at=3), [k])
    body.outputs = add(body, lambda k, w: [k + 1, w * 2.0], k, w)
    g, (k, w, v) = graph(N, V, V)
    _, new = loop(g, body, [k, w], length=6)
    g.updates = [(2, add(g, lambda v: v + 1.0, v)[0]), (1, new)]
    check(g, arrays(10, ROW, ROW))
    code, states = driver.compile(g).native(), [ROW.copy(), ROW.copy()]
    with pytest.raises(ValueError, match="the value 3"):
        code.run([*arrays(0), *states], [])
    for state in states:
        np.testing.assert_array_equal(state, ROW)


def test_stacks_are_freed_after_their_last_reader():
    body, cond = counting(V, step=lambda x: [x * 0.5], out=lambda x: [x])
    g, (k, x, n) = graph(N, V, N)
    total = trace(lambda s, x: s + x, V, V)
    for _ in range(3):
        _, x, saved = loop(g, body, [k, x], cond=cond, fixed=[n])
        (x,) = loop(g, total, [x], scanned=[saved])
    g.outputs = [x]
    with counted() as blocks:
        check(g, arrays(0, ROW, 20))
        assert blocks.most == 1 and not blocks.open


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_no_memory_left(room: int):
    body, cond = counting(V, step=lambda x: [x * 0.5], out=lambda x: [x, x + 1.0])
    g, (k, x, n) = graph(N, V, N)
    _, last, one, two = loop(g, body, [k, x], cond=cond, fixed=[n])
    total = trace(lambda s, x, y: [s + x, s * y], V, V, V)
    last, three = loop(g, total, [last], scanned=[one, two])
    g.outputs = loop(g, total, [last], scanned=[three, three])[:1]
    with counted() as blocks:
        executable = driver.compile(g)
        blocks.room = room
        with pytest.raises(MemoryError, match="loop"):
            executable.run(arrays(0, ROW, 100))
        assert not blocks.open
        blocks.room = None
        executable.run(arrays(0, ROW, 100))
        assert blocks.made > 3 and not blocks.open


def test_effects_keep_their_order():
    """Before, within and after loops and branches; nothing runs twice."""
    seen: list[Any] = []
    op = note(seen)
    inner, (k,) = graph(N)
    inner.add(op, [k], {"tag": "inner"})
    inner.outputs = add(inner, lambda k: k * 10, k)
    quiet = trace(lambda k: k, N)
    body, (k,) = graph(N)
    body.add(op, [k], {"tag": "one"})
    (number,) = add(body, lambda k: k % 2, k)
    (j,) = branch(body, number, [quiet, inner], k)
    body.add(op, [j], {"tag": "two"})
    body.outputs = add(body, lambda k: k + 1, k)
    cond, (k,) = graph(N)
    cond.add(op, [k], {"tag": "cond"})
    cond.outputs = add(cond, lambda k: k < 3, k)
    g, (k,) = graph(N)
    g.add(op, [k], {"tag": "before"})
    (last,) = loop(g, body, [k], cond=cond)
    g.add(op, [last], {"tag": "after"})
    call(g, inner, last, inline=False)  # none of its results is read
    g.outputs = add(g, lambda k: k * 2, k)  # nor any of the loop's
    Interpreter(g).run(arrays(0))
    expected = [*seen]
    assert [t for t, _ in expected][:3] == ["before", "cond", "one"] and len(expected) == 14
    seen.clear()
    check(g, arrays(0))
    assert seen == expected * 2  # the oracle's and the compiled run's


def test_a_check_comes_before_the_loop_that_it_guards():
    """A loop that would not end must not start."""
    op = note([], fail_at=7)
    g, (k, n) = graph(N, N)
    g.outputs = loop(
        g, trace(lambda k, n: k + 2, N, N), [k], cond=trace(lambda k, n: k != n, N, N), fixed=[n]
    )
    late, (k, n) = graph(N, N)
    late.add(op, [n])
    late.outputs = call(late, g, k, n, inline=False)
    with pytest.raises(ValueError, match="the value 7"):
        driver.compile(late).run(arrays(0, 7))
    (out,), _ = driver.compile(late).run(arrays(0, 8))
    assert out == 8


def test_many_threads_at_once():
    """Each run has stacks of its own."""
    body, cond = counting("float32[50]", step=lambda x: [x * 0.5 + 1.0], out=lambda x: [x])
    g, (k, x, n) = graph(N, "float32[50]", N)
    _, last, saved = loop(g, body, [k, x], cond=cond, fixed=[n])
    total = trace(lambda s, x: s * 0.5 + x, "float32[50]", "float32[50]")
    g.outputs = loop(g, total, [last], scanned=[saved], reverse=True)
    executable = driver.compile(g)
    data = [arrays(0, np.full(50, k), 100 * k) for k in range(1, 5)]
    want = [executable.run(x)[0][0].tobytes() for x in data]
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(30):
            if executable.run(data[k])[0][0].tobytes() != want[k]:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


# --- what is made of them -----------------------------------------------------------------------


def test_numbers_of_a_loop_stay_in_registers():
    body, cond = counting(F, step=lambda x: [x * 0.5 + 1.0])
    g, (k, x, n) = graph(N, F, N)
    g.outputs = loop(g, body, [k, x], cond=cond, fixed=[n])
    program = driver.compile(g).native().program
    assert not program.kernels, "numbers are computed without calls"
    host = jit.host()
    text = promoted(program.text, "run", host.triple, host.cpu, host.features)
    assert "alloca" in program.text and "alloca" not in text
    start = text.index("\nloop")
    inside = text[start : text.index("\ndone", start)]
    assert "fmul" in inside and "store" not in inside


def test_equal_kernels_are_compiled_once():
    body = trace(lambda x: dm.tanh(x) * 2.0, V)
    g, (k, x) = graph(N, V)
    y = loop(g, body, [x], length=3)
    (z,) = branch(g, k, [body, body], *y)
    g.outputs = add(g, lambda z: dm.tanh(z) * 2.0, z)
    program = driver.compile(g).native().program
    assert program.kernels == 4
    assert program.text.count("define internal") <= 2  # in place, or from one array to another
    check(g, arrays(1, ROW), ulp=8)


def test_work_grows_with_the_length():
    body = trace(lambda x: dm.tanh(x) * 2.0, V)

    def work(length: int) -> float:
        g, (x,) = graph(V)
        g.outputs = loop(g, body, [x], length=length)
        return driver.compile(g).native().program.work

    assert work(1000) == pytest.approx(100 * work(10), rel=0.2)


def test_explain():
    body, cond = counting(V, step=lambda x: [x * 0.5])
    outer = Graph()
    k, x, n = (outer.param(p.spec) for p in body.params)
    (number,) = add(outer, lambda k: k * 0, k)
    outer.outputs = branch(outer, number, [trace(lambda x: x * 2.0, V), trace(lambda x: x, V)], x)
    g, (k, x, n) = graph(N, V, N)
    _, last = loop(g, body, [k, x], cond=cond, fixed=[n])
    g.outputs = call(g, outer, k, last, n, inline=False)
    assert driver.explain(driver.compile(g)) == EXPLAINED


EXPLAINED = """\
graph: 7 nodes
  0: loop
    body:
      0: loops over scalar: add
      1: loops over 5: multiply
    condition:
      0: loops over scalar: less
  1: call
    body:
      0: loops over scalar: multiply
      1: cond
        branch 0:
          0: loops over 5: multiply
        branch 1:
          0: copy float32[5]
  arena: 128 bytes"""


def test_a_long_program_is_several_modules():
    """Of which one has `run`, whose numbers are in registers there too."""
    spec = "float32[31,17]"
    body, cond = counting(
        spec,
        step=lambda x: [
            dm.softmax(x, 0) + dm.softmax(x) + dm.logsumexp(dm.sin(x) * dm.cos(x), 1, True)
        ],
        out=lambda x: [dm.tanh(dm.matmul(x, x, True)), dm.sum(x)],
    )
    g, (k, x, n) = graph(N, spec, N)
    count, last, squares, sums = loop(g, body, [k, x], cond=cond, fixed=[n])
    back = trace(lambda s, q, e: dm.sum(q) + s * 0.5 + e, F, "float32[17,17]", F)
    (zero,) = add(g, lambda x: dm.sum(x) * 0.0, x)
    g.outputs = [count, last, *loop(g, back, [zero], scanned=[squares, sums], reverse=True)]
    assert len(driver.compile(g).native().program.modules) > 1
    check(
        g,
        [*arrays(0), np.linspace(-1, 1, 31 * 17, dtype=np.float32).reshape(31, 17), *arrays(5)],
        ulp=256,
    )


# --- host calls where they are needed -----------------------------------------------------------


def _wanted(i: Any, out: Any, x: Any, y: Any, **_: Any) -> Any:
    bound = [expr.Axis(n) for n in x.spec.shape]
    return expr.reduce("or", bound, expr.apply("lt", y(()), x(bound)))


@pytest.mark.parametrize("spec", [N, "int32[7]", "int32[2,3]", "int32[0]"])
def test_an_effect_is_called_back_only_where_it_has_something_to_do(spec: str):
    """Its `lower` says where. Effects keep their order, and numbers of the loop their values."""
    seen: list[Any] = []

    def kernel(x: Array, y: Array) -> Array:
        seen.append((x.tolist(), y.tolist()))
        return np.empty(0, np.uint8)

    above = SmallOp("above", lambda x, y: TOKEN, kernel, _wanted, effect=True)
    body, (x, s, limit) = graph(spec, N, N)
    body.add(above, [x, limit])
    body.add(above, [x, s])
    body.outputs = add(body, lambda x, s: [x + 1, s + 2], x, s)
    g, (x, s, limit) = graph(spec, N, N)
    g.outputs = loop(g, body, [x, s], fixed=[limit], length=6)
    size = int(np.prod(x.spec.shape))
    start = np.arange(size, dtype=np.int32).reshape(x.spec.shape)
    check(g, [start, *arrays(size, size + 2)])
    values = [(start + k, size + 2 * k) for k in range(6)]
    wanted = [((v).tolist(), y) for v, s in values for y in (size + 2, s) if size and v.max() > y]
    assert seen[-len(wanted) or len(seen) :] == wanted
    assert len(seen) == 12 + len(wanted), "the oracle always calls"


def test_a_check_that_fails_in_a_loop():
    xs = np.arange(5, dtype=np.float32)
    body = trace(lambda k, s, x: [k + 1, s + dm.take(x, k, 0)], N, F, V)
    g, (k, s, x, n) = graph(N, F, V, N)
    cond = trace(lambda k, s, x, n: k < n, N, F, V, N)
    with_limit = trace(lambda k, s, x, n: [k + 1, s + dm.take(x, k, 0)], N, F, V, N)
    assert len(body.effects) == len(with_limit.effects) == 1
    g.outputs = loop(g, with_limit, [k, s], cond=cond, fixed=[x, n])
    executable = driver.compile(g)
    (count, total), _ = executable.run([*arrays(-5, 0.0), xs, *arrays(5)])
    assert (count, total) == (5, 20)
    with pytest.raises(IndexError, match="index 5 is out of range for an axis of size 5"):
        executable.run([*arrays(0, 0.0), xs, *arrays(9)])


def test_a_body_that_calls_back_after_an_update_needs_no_copy():
    """What it carries is not kept where the call fails, unlike a state."""
    seen: list[Any] = []
    op = note(seen)
    body, (x,) = graph(V)
    (y,) = add(body, lambda x: x * 2.0 + 1.0, x)
    body.add(op, [y])
    body.outputs = [y]
    g, (x,) = graph(V)
    g.outputs = loop(g, body, [x], length=3)
    check(g, arrays(ROW))
    assert len(seen) == 6
    (step,) = driver.compile(g).native().plan.steps
    assert isinstance(step, Control)
    assert not any(isinstance(s, Copy) for s in step.plans[0].steps)
