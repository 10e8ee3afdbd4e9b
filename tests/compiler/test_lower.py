"""Lowering: which ops share a kernel, and over which loops it runs.

The golden files are what `explain` says, with the depth at which every kernel stores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode import debugging
from dualmode_compiler import driver, expr, passes
from dualmode_compiler.cost import cost, repeated_cost
from dualmode_compiler.expr import Axis, Buffer, Load, Reduce
from dualmode_compiler.graph import Graph
from dualmode_compiler.loops import HostCall, Kernel
from dualmode_compiler.lower import lower
from dualmode_compiler.lowered import Lowered, at
from dualmode_compiler.spec import Spec, float32, int64
from dualmode_compiler.walks import walk
from golden import check_golden
from graphs import check, trace

X = "float32[64,100]"


def _layer_norm(x: Any, scale: Any, shift: Any) -> Any:
    mean = dm.mean(x, -1, True)
    variance = dm.mean(dm.square(x - mean), -1, True)
    return (x - mean) * dm.rsqrt(variance + 1e-5) * scale + shift


def _attention(q: Any, k: Any, v: Any) -> Any:
    return dm.softmax(dm.matmul(q, k, False, True) * 0.125) @ v


def _mlp_step(w: Any, b: Any, u: Any, c: Any, x: Any, y: Any) -> Any:
    weights = [w, b, u, c]
    with dm.GradientTape() as tape:
        tape.watch(weights)
        logits = dm.relu(x @ w + b) @ u + c
        loss = -dm.mean(dm.sum(dm.log_softmax(logits) * y, 1))
    new = [v - 0.1 * g for v, g in zip(weights, tape.gradient(loss, weights), strict=True)]
    return new, [loss]


def _adam(w: Any, m: Any, v: Any, t: Any, g: Any) -> Any:
    t = t + 1.0
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * dm.square(g)
    rate = 1e-3 * dm.sqrt(1.0 - dm.pow(0.999, t)) / (1.0 - dm.pow(0.9, t))
    return [w - rate * m / (dm.sqrt(v) + 1e-7), m, v, t], []


def _gradient(fn: Any) -> Any:
    def both(*xs: Any) -> list[Any]:
        with dm.GradientTape() as tape:
            tape.watch(list(xs))
            y = fn(*xs)
        return [y, *tape.gradient(y, list(xs))]

    return both


LAYERS = ["float32[784,256]", "float32[256]", "float32[256,10]", "float32[10]"]
CASES: dict[str, tuple[Any, list[str], int]] = {
    "softmax": (dm.softmax, [X], 0),
    "softmax over the first axis": (lambda x: dm.softmax(x, 0), [X], 0),
    "softmax, gradient": (_gradient(dm.softmax), [X], 0),
    "logsumexp": (lambda x: dm.logsumexp(x, 1), [X], 0),
    "layer norm": (_layer_norm, [X, "float32[100]", "float32[100]"], 0),
    "layer norm, gradient": (_gradient(_layer_norm), [X, "float32[100]", "float32[100]"], 0),
    "variance": (lambda x: [dm.var(x, 1), dm.var(x)], [X], 0),
    "centred columns of a square": (lambda x: x - dm.mean(x, 0), ["float32[512,512]"], 0),
    "attention": (_attention, ["float32[2,4,50,64]"] * 3, 0),
    "mean squared error, gradient": (_gradient(lambda x, y: dm.mean(dm.square(x - y))), [X, X], 0),
    "training step of a perceptron": (_mlp_step, [*LAYERS, "float32[64,784]", "float32[64,10]"], 4),
    "update of Adam": (_adam, ["float32[784,256]"] * 3 + ["float32[]", "float32[784,256]"], 4),
    "index maps cost nothing": (
        lambda x: dm.pad(dm.transpose(x[::2])[::-1], ((0, 1), (1, 0))) * 2.0,
        [X],
        0,
    ),
    "a value and its index maps": (lambda x: [dm.exp(x), dm.transpose(dm.exp(x)) + 1.0], [X], 0),
    "by the host": (lambda x: dm.real(x * 2.0) + 1.0, ["complex64[64,100]"], 0),
    "a prefix sum": (lambda x: dm.cumulative_sum(x * 2.0, 1) + x, [X], 0),
}


@pytest.mark.parametrize("name", CASES)
def test_fusion(name: str):
    fn, specs, states = CASES[name]
    executable = driver.compile(trace(fn, *specs, states=states), name=name)
    lines = driver.explain(executable).splitlines()
    for k, step in enumerate(executable.native().plan.steps, 1):
        if isinstance(step, Kernel):
            stores = [f"{s.buffer.spec} at depth {s.depth}" for s in step.stores]
            lines[k] += f"\n      stores {', '.join(stores)}"
    check_golden(f"lower {name.replace(',', '')}".replace(" ", "_"), "\n".join(lines))


def _kernels(fn: Any, *specs: str) -> list[Kernel]:
    with expr.fresh():
        steps, _ = lower(passes.run(trace(fn, *specs)))
    return [s for s in steps if isinstance(s, Kernel)]


def test_no_loop_without_a_store():
    """A kernel runs over the axes of what it stores; what it only reduces is in its loops."""
    for fn in (
        lambda x: dm.mean(dm.square(x - 1.0)),
        lambda x: dm.log(dm.sum(dm.exp(x), 1)),
        lambda x: dm.argmax(dm.tanh(x), 0),
    ):
        for kernel in _kernels(fn, X):
            assert len(kernel.axes) == max(s.depth for s in kernel.stores)


def test_axes_merge():
    (kernel,) = _kernels(lambda x, y: dm.tanh(x) * y, "float32[4,5,6]", "float32[4,5,6]")
    assert [a.extent for a in kernel.axes] == [120]
    (kernel,) = _kernels(lambda x, y: dm.tanh(x) * y, "float32[4,5,6]", "float32[6]")
    assert [a.extent for a in kernel.axes] == [20, 6]
    (kernel,) = _kernels(lambda x: dm.sum(dm.tanh(x), (1, 2)), "float32[4,5,6]")
    (total,) = (e for e in walk([kernel.stores[0].value]) if isinstance(e, Reduce))
    assert [a.extent for a in total.bound] == [30]


def test_a_reshape_there_and_back_reads_in_order():
    fn = lambda x: dm.reshape(dm.reshape(x, (8, 100, 8)) + 0.0, (64, 100)) * x  # noqa: E731
    for kernel in _kernels(fn, X):
        assert [a.extent for a in kernel.axes] == [6400]
        for e in walk([s.value for s in kernel.stores]):
            assert not isinstance(e, Load) or e.index == kernel.axes


def test_an_expensive_value_is_not_computed_once_for_each_reader():
    """Row sums of a product with itself would square the work if they were not stored."""
    kernels = _kernels(lambda x: x * dm.sum(dm.exp(x), 1)[None, :], "float32[64,64]")
    assert len(kernels) == 2
    (one,) = _kernels(lambda x: x * dm.sum(dm.exp(x), 1)[:, None], "float32[64,64]")
    assert {s.depth for s in one.stores} == {2}


def test_a_cheap_value_is_computed_again():
    kernels = _kernels(lambda x: [dm.transpose(x + 1.0) * 2.0, x + 1.0], "float32[64,100]")
    assert all(e.index[0].axes for k in kernels for s in k.stores for e in walk([s.value])
               if isinstance(e, Load))  # fmt: skip


def test_cost_counts_work_and_depth():
    with expr.fresh():
        i, k = expr.Axis(4), expr.Axis(10)
        x = expr.load(expr.Buffer("x", Spec((4, 10), float32)), [i, k])
        y = expr.apply("exp", x + x)
        total = expr.reduce("add", [k], y)
        assert cost(y, {})[0] == 16
        assert cost(total, {})[0] == 170
        assert repeated_cost(total / y, frozenset({i}), {}) == 4 + 16
        assert repeated_cost(total / y, frozenset(), {}) == 4 + 16 + 170
        assert cost(total, {})[1] > cost(y, {})[1] > cost(x, {})[1]


def test_an_op_without_a_lowering_is_called_back():
    executable = driver.compile(trace(lambda x: dm.real(x), "complex64[5]"))
    assert "host callback: real" in driver.explain(executable)
    (step,) = (s for s in executable.native().plan.steps if isinstance(s, HostCall))
    assert step.node.op.lower is None


def test_a_lowering_may_decline():
    """Complex types are left to the host, and what reads them as well."""
    text = driver.explain(driver.compile(trace(lambda x: dm.abs(x * x) + 1.0, "complex64[5]")))
    assert text.count("host callback") == 2 and "loops over 5: add" in text


def test_an_error_of_a_kernel_called_back_reaches_the_caller():
    def fn(x: Any) -> Any:
        debugging.assert_greater(x, 0.0, "positive values")
        return x

    executable = driver.compile(trace(fn, "float32[2]"))
    executable.run([np.ones(2, np.float32)])
    with pytest.raises(AssertionError, match="positive values: x > y expected"):
        executable.run([-np.ones(2, np.float32)])
    executable.run([np.ones(2, np.float32)])


def test_dead_code_makes_no_kernel():
    graph = trace(lambda x, y: [x + 1.0, dm.tanh(y)], X, X)
    graph.outputs.pop()
    with expr.fresh():
        steps, _ = lower(graph)
    assert len(steps) == 1


def test_an_empty_graph():
    graph = Graph()
    graph.param(Spec((3,), float32))
    outputs, states = driver.compile(graph).run([np.zeros(3, np.float32)])
    assert outputs == [] and states == []


def test_parameters_as_outputs_are_copied():
    graph = trace(lambda x: [x, x], "float32[3]")
    x = np.arange(3, dtype=np.float32)
    outputs, _ = driver.compile(graph).run([x])
    assert all(not np.shares_memory(x, y) for y in outputs)
    check(graph)


def test_a_reduction_at_an_index_that_holds_it_binds_axes_of_its_own():
    """total(k) = sum of x[k, j] over j, at the index total(k): no axis is bound twice at once."""
    k, j = Axis(5), Axis(7)
    x = Buffer("x", Spec((5, 7), int64))
    total = expr.reduce("sum", (j,), expr.load(x, (k, j)))
    graph = trace(lambda x: dm.sum(x, 1), "int64[5,7]")
    item = Lowered(graph.outputs[0], (k,), (k,), total, Buffer("total", Spec((5,), int64)))
    found = at(item, total, [total])
    (outer,) = [e for e in walk([found]) if isinstance(e, Reduce) and e is not total]
    assert total in walk([outer]) and j not in outer.bound
    second = at(item, total, [expr.const(2, int64)])
    assert isinstance(second, Reduce) and second.bound == (j,)  # where none is inside another
