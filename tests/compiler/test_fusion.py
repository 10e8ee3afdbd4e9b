"""What becomes part of a kernel: epilogues of products, what later kernels recompute, and jobs of
several kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode.ops.random import RANDOM_BITS
from dualmode_compiler import driver, expr, regroup
from dualmode_compiler.arithmetic import floordiv, mod
from dualmode_compiler.cost import kernel_cost
from dualmode_compiler.emit import sweep
from dualmode_compiler.expr import Axis
from dualmode_compiler.loops import Kernel
from dualmode_compiler.profile import profile
from dualmode_compiler.runtime import jit, pool
from dualmode_compiler.spec import Spec, bool_, int64
from dualmode_compiler.split import split, split_cost
from dualmode_compiler.walks import walk
from graphs import check, hosts, trace, values

X, W, Y = "float32[8,16,32]", "float32[32,48]", "float32[8,16,48]"
FLAT, HEADS = "float32[128,32]", "float32[2,4,16,16]"


def _kernels(graph: Any) -> list[Kernel]:
    steps = driver.compile(graph).native().plan.steps
    return [s for s in steps if isinstance(s, Kernel)]


def _merged(x: Any) -> Any:
    """[batch, heads, length, size] -> [batch * length, heads * size]."""
    batch, heads, length, size = x.shape
    return dm.reshape(dm.permute_dims(x, (0, 2, 1, 3)), (batch * length, heads * size))


EPILOGUES: dict[str, tuple[Any, list[str]]] = {
    "bias": (lambda x, w, b: x @ w + b, [X, W, "float32[48]"]),
    "bias by row": (lambda x, w, b: x @ w + b, [X, W, "float32[16,48]"]),
    "activation": (lambda x, w: dm.relu(x @ w), [X, W]),
    "residual": (lambda x, w, r: r + x @ w, [X, W, Y]),
    "dropout mask": (lambda x, w, m: dm.where(m, x @ w * 2.0, 0.0), [X, W, "bool[8,16,48]"]),
    "scale": (lambda x, w: x @ w * 0.5, [X, W]),
    "cast": (lambda x, w: dm.astype(x @ w, "float64"), [X, W]),
    "transpose": (lambda p, v: _merged(p @ v), [HEADS, HEADS]),
    "transpose and residual": (
        lambda p, v, r: _merged(p @ v) + r,
        [HEADS, HEADS, "float32[32,64]"],
    ),
    "two results": (lambda x, w, r: [x @ w + 1.0, (x @ w) * r], [X, W, Y]),
    "update of a weight": (
        lambda x, d, w: w - 0.5 * dm.matmul(x, d, transpose_a=True),
        [FLAT, "float32[128,48]", W],
    ),
}


@pytest.mark.parametrize("name", EPILOGUES)
def test_what_follows_a_product_is_part_of_it(name: str):
    fn, specs = EPILOGUES[name]
    (kernel,) = _kernels(trace(fn, *specs))
    assert kernel.contraction is not None
    check(trace(fn, *specs))


@pytest.mark.parametrize("host", hosts(), ids=lambda h: f"{8 * h.vector_bytes} bits")
@pytest.mark.parametrize("n", [1, 3, 7, 10, 11, 15, 20])
@pytest.mark.parametrize(("m", "k"), [(40, 64), (4, 9000)])  # the last in blocks of inner products
def test_few_columns(m: int, n: int, k: int, host: jit.Host):
    def fn(x: Any, w: Any, b: Any, r: Any) -> Any:
        return dm.relu(dm.matmul(x, w, transpose_b=True) + b) * r

    specs = [f"float32[{m},{k}]", f"float32[{n},{k}]", f"float32[{n}]", f"float32[{m},{n}]"]
    check(trace(fn, *specs), host=host)


def test_an_operand_without_strides_is_stored_first():
    """A product of an array in other groups and order is not left to plain loops."""
    graph = trace(lambda s, w: _merged(s) @ w, HEADS, "float32[64,48]")
    assert _kernels(graph)[-1].contraction is not None
    check(graph)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, w: dm.transpose(dm.reshape(x, (128, 32)) @ w),
        lambda x, w: dm.permute_dims(dm.reshape(x @ w, (8, 16, 3, 16)), (0, 2, 1, 3)),
    ],
)
def test_columns_of_a_product_that_come_apart(fn: Any):
    """A tile is stored by whole vectors of a row, so this is a kernel of its own."""
    assert len(_kernels(trace(fn, X, W))) == 2
    check(trace(fn, X, W))


# --- other groups, other orders -------------------------------------------------------------------


def test_inverse_of_a_reshape():
    i, j, m = Axis(8), Axis(16), Axis(128)
    assert regroup.inverse({m: i * 16 + j}, {i, j}) == {
        i: floordiv(m, expr.const(16, int64)),
        j: mod(m, expr.const(16, int64)),
    }
    digits = {i: floordiv(m, expr.const(16, int64)), j: m % 16}
    assert regroup.inverse(digits, {m}) == {m: i * 16 + j}


@pytest.mark.parametrize(
    "place",
    [
        lambda i, j: i * 16 + j + 1,  # moved
        lambda i, j: i * 32 + j,  # with gaps
        lambda i, j: i * 16,  # an axis is missing
        lambda i, j: i * 16 + (j // 2) * 2,  # elements are read twice
    ],
)
def test_no_inverse(place: Any):
    i, j, m = Axis(8), Axis(16), Axis(128)
    assert regroup.inverse({m: place(i, j)}, {i, j}) is None


def test_no_inverse_of_a_diagonal():
    i, m, n = Axis(8), Axis(8), Axis(8)
    assert regroup.inverse({m: i, n: i}, {i}) is None


# --- computed where it is read --------------------------------------------------------------------


def _gelu_gradient(x: Any, w: Any, b: Any, u: Any, d: Any) -> Any:
    with dm.GradientTape() as tape:
        tape.watch([w, b, u])
        h = x @ w + b
        y = (0.5 * h * (1.0 + dm.erf(h * math.sqrt(0.5)))) @ u
        loss = dm.mean(dm.square(y - d))
    return [loss, *tape.gradient(loss, [w, b, u])]


SIZES = ["float32[4,16,32]", "float32[32,96]", "float32[96]", "float32[96,32]", "float32[4,16,32]"]


def test_the_slope_of_an_activation_is_computed_on_the_way_back():
    """It needs what the product stores anyway; storing it too would move more bytes."""
    forward, *_ = kernels = _kernels(trace(_gelu_gradient, *SIZES))
    functions = [[e.fn for e in _applied(k)] for k in kernels]
    assert len(forward.stores) == 3  # the product, its erf, and what the next product reads
    assert "exp" not in functions[0] and any("exp" in f for f in functions[1:])
    assert sum(k.contraction is not None for k in kernels) == 5  # operands are stored
    check(trace(_gelu_gradient, *SIZES), ulp=64)


def _applied(kernel: Kernel) -> list[expr.Apply]:
    found = walk([s.value for s in kernel.stores])
    return [e for e in found if isinstance(e, expr.Apply)]


# --- random masks --------------------------------------------------------------------------------


def _dropout(x: Any, w: Any, u: Any, state: Any) -> Any:
    """The mask is drawn after the product whose activations it takes away."""
    with dm.GradientTape() as tape:
        tape.watch([w, u])
        h = dm.relu(x @ w)
        bits = RANDOM_BITS(state, shape=h.shape, dtype=dm.uint32)
        y = dm.where(bits >= np.uint32(1 << 31), h * 2.0, 0.0)
        loss = dm.mean(dm.square(y @ u))
    return tape.gradient(loss, [w, u])


DROPOUT = ["float32[64,96]", "float32[96,128]", "float32[128,48]", "uint64[2]"]


def test_a_mask_is_drawn_before_the_product_that_it_follows():
    """It is stored as one byte an element, and the product is masked as it is finished."""
    kernels = _kernels(trace(_dropout, *DROPOUT))
    assert kernels[0].contraction is None
    assert [s.buffer.spec for s in kernels[0].stores] == [Spec((64, 128), bool_)]
    assert {n.op.name for n in kernels[1].nodes} >= {"matmul", "where"}
    assert all(k.contraction is not None for k in kernels[1:] if math.prod(_sizes(k)) > 1)
    check(trace(_dropout, *DROPOUT), ulp=64)


def _sizes(kernel: Kernel) -> list[int]:
    return [a.extent for a in kernel.axes]


def test_words_of_a_counter_are_made_at_once():
    graph = trace(lambda s: RANDOM_BITS(s, shape=(64, 128), dtype=dm.uint32), "uint64[2]")
    (kernel,) = _kernels(graph)
    (part,) = split(kernel)
    assert _sizes(part) == [64 * 128 // 4] and len(part.stores) == 4
    assert 3 * split_cost(kernel).flops < kernel_cost(kernel).flops
    check(graph)


@pytest.mark.parametrize("host", hosts(), ids=lambda h: f"{8 * h.vector_bytes} bits")
def test_words_are_made_two_vectors_at_a_time(host: jit.Host):
    """One vector's chain of operations is so long that the next one's does not begin beside it."""
    graph = trace(lambda s: RANDOM_BITS(s, shape=(64, 128), dtype=dm.uint32), "uint64[2]")
    text = driver.compile(graph, host=host).native().program.text
    assert f"mul <{2 * host.vector_bytes // 4} x i64>" in text
    check(graph, host=host)


@pytest.mark.parametrize("host", hosts(), ids=lambda h: f"{8 * h.vector_bytes} bits")
@pytest.mark.parametrize("n", [3, 683, 2047, 2052, 4099, 70000])
def test_words_of_any_number(n: int, host: jit.Host):
    def fn(state: Any, x: Any) -> Any:
        return dm.where(RANDOM_BITS(state, shape=(n,), dtype=dm.uint32) > 5, x, -x)

    check(trace(fn, "uint64[2]", f"float32[{n}]"), host=host)


def test_parts_that_share_nothing_stay_apart():
    graph = trace(lambda x, y: dm.concat([x + 1.0, y * 2.0]), *["float32[4096]"] * 2)
    (kernel,) = _kernels(graph)
    assert len(split(kernel)) == 2
    check(graph)


# --- jobs of several kernels ----------------------------------------------------------------------


def _updates(*arrays: Any) -> Any:
    """New values and momenta of parameters, from those and gradients."""
    count = len(arrays) // 3
    new = []
    for k in range(count):
        w, m, g = arrays[k], arrays[count + k], arrays[2 * count + k]
        m = 0.5 * m + dm.sqrt(dm.abs(g)) / (dm.exp(-g) + 1.0)
        new.append((w - m, m))
    return [*(w for w, _ in new), *(m for _, m in new)], []


PARAMETERS = [f"float32[{n}]" for n in (7, 3000, 4100, 64, 9000, 1, 5000, 2500, 8000, 7777)]


def test_updates_of_all_parameters_are_one_job():
    graph = trace(_updates, *PARAMETERS * 3, states=2 * len(PARAMETERS))
    executable = driver.compile(graph)
    assert executable.native().program.jobs == [[*range(len(PARAMETERS))]]
    assert "in one job each: 0 to 9" in driver.explain(executable, costs=True)
    arrays = [values(n.spec, k) for k, n in enumerate(graph.params)]
    found: set[tuple[bytes, ...]] = set()
    for threads in (1, 2, 5):
        pool.set_threads(threads)
        for _ in range(3):
            found.add(tuple(a.tobytes() for a in executable.run(arrays)[1]))
    assert len(found) == 1
    check(graph, ulp=4)


def test_what_depends_on_another_waits():
    """The second kernel reads what the first has written, and the arena's blocks are used again."""

    def chain(x: Any) -> Any:
        for _ in range(6):
            x = dm.cumulative_sum(x, 1) * 0.5
        return x

    graph = trace(chain, "float32[400,300]")
    assert driver.compile(graph).native().program.jobs == []
    check(graph, ulp=64)


def test_calls_that_meet_in_memory_depend():
    def call(step: int, reads: list[sweep.Range], writes: list[sweep.Range]) -> sweep.Call:
        return sweep.Call("k", (), 1, 1.0, step, tuple(reads), tuple(writes))

    a, b, c = ("arena", 0, 64), ("arena", 32, 96), ("arena", 64, 128)
    assert sweep._depend(call(0, [], [a]), call(1, [b], [c]))  # read after write
    assert sweep._depend(call(0, [a], []), call(1, [], [b]))  # write after read
    assert sweep._depend(call(0, [], [a]), call(1, [], [b]))  # write after write
    assert not sweep._depend(call(0, [a], [c]), call(1, [a], []))
    assert not sweep._depend(call(0, [], [a]), call(0, [b], [b]))  # parts of one step
    assert not sweep._depend(call(0, [], [a]), call(1, [("param 0", 0, 1)], [c]))


def test_kernels_too_small_to_be_cut_share_a_chunk():
    work = [sweep.CHUNK / 2, sweep.CHUNK / 2, 1.0, sweep.CHUNK * 3, 1.0]
    chunks = [1, 1, 1, 3, 1]
    calls = [
        sweep.Call("k", (), n, w, k, (), ())
        for k, (n, w) in enumerate(zip(chunks, work, strict=True))
    ]
    entries, count = sweep._chunks(calls)
    assert [(first, stop) for _, first, stop in entries] == [(0, 1), (0, 1), (1, 2), (2, 5), (5, 6)]
    assert count == 6


def test_profile_times_each_step():
    graph = trace(_gelu_gradient, *SIZES)
    executable = driver.compile(graph)
    timed = profile(executable, [values(n.spec, k) for k, n in enumerate(graph.params)], runs=5)
    assert [t.step for t in timed] == executable.native().plan.steps
    assert all(t.seconds > 0 and t.predicted is not None for t in timed)
    assert "matmul" in str(timed[0])


def test_profile_leaves_states_alone():
    graph = trace(lambda x: ([x + 1.0], [dm.sum(x)]), "float32[100]", states=1)
    state = np.zeros(100, np.float32)
    profile(driver.compile(graph), [state], runs=3)
    assert not state.any()


@pytest.mark.skipif(dm.config.backend != "compile", reason="about compiled code")
def test_profile_of_a_function():
    w = dm.Variable(np.ones(100, np.float32))

    @dm.function
    def step(x: Any) -> Any:
        w.assign(w - 0.5 * x)
        return dm.sum(w)

    x = np.ones(100, np.float32)
    step(x)
    timed = step.get_concrete_function(x).profile(x, runs=3)
    assert timed and all(t.seconds > 0 for t in timed)
    assert w.numpy().tolist() == [0.5] * 100
