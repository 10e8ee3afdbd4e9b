"""The rewrite rules that ops own, and the errors of their inference, in both modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode.ops.conversion import CAST, IDENTITY
from dualmode.ops.elementwise import ADD, DIVIDE, MULTIPLY, NEGATIVE, POW, SUBTRACT
from dualmode.ops.limits import MAXIMUM
from dualmode.ops.logic import WHERE
from dualmode_compiler.graph import Graph, Node
from dualmode_compiler.passes.simplify import simplify
from dualmode_compiler.spec import Spec, bool_, float32, float64, int32
from dualmode_compiler.verify import verify

X = Spec((2, 3), float32)
N = Spec((2, 3), int32)


def simplified(spec: Spec, build: Callable[[Graph, Node], Node]) -> tuple[Node, Node]:
    """The parameter and the output of a graph after its rules have fired."""
    graph = Graph()
    x = graph.param(spec)
    graph.outputs = [build(graph, x)]
    graph = simplify(graph)
    verify(graph)
    return x, graph.outputs[0]


def number(g: Graph, value: float, dtype: Any = np.float32) -> Node:
    return g.const(np.asarray(value, dtype))


UNCHANGED = {
    "x * 1": lambda g, x: g.add(MULTIPLY, (x, number(g, 1))),
    "1 * x": lambda g, x: g.add(MULTIPLY, (number(g, 1), x)),
    "x + -0.0": lambda g, x: g.add(ADD, (x, number(g, -0.0))),
    "x - 0.0": lambda g, x: g.add(SUBTRACT, (x, number(g, 0.0))),
    "x / 1": lambda g, x: g.add(DIVIDE, (x, number(g, 1))),
    "x ** 1": lambda g, x: g.add(POW, (x, number(g, 1))),
    "--x": lambda g, x: g.add(NEGATIVE, (g.add(NEGATIVE, (x,)),)),
    "max(x, x)": lambda g, x: g.add(MAXIMUM, (x, x)),
    "identity(x)": lambda g, x: g.add(IDENTITY, (x,)),
    "same dtype": lambda g, x: g.add(CAST, (x,), {"dtype": float32}),
    "there and back": lambda g, x: g.add(
        CAST, (g.add(CAST, (x,), {"dtype": float64}),), {"dtype": float32}
    ),
    "where(True, x, y)": lambda g, x: g.add(
        WHERE, (number(g, True, bool), x, g.add(NEGATIVE, (x,)))
    ),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_rules_that_leave_the_input(name: str):
    x, out = simplified(X, UNCHANGED[name])
    assert out is x


def test_adding_positive_zero_is_no_identity():
    x, out = simplified(X, lambda g, x: g.add(ADD, (x, number(g, 0.0))))
    assert out is not x  # -0.0 + 0.0 is 0.0
    n, out = simplified(N, lambda g, n: g.add(ADD, (n, number(g, 0, np.int32))))
    assert out is n


def test_a_broadcasting_neutral_element_stays():
    ones = np.ones((4, 2, 3), np.float32)
    _, out = simplified(X, lambda g, x: g.add(MULTIPLY, (x, g.const(ones))))
    assert out.op is MULTIPLY


def test_lossy_casts_stay():
    def build(g: Graph, x: Node) -> Node:
        return g.add(CAST, (g.add(CAST, (x,), {"dtype": int32}),), {"dtype": float32})

    assert simplified(X, build)[1].op is CAST
    _, out = simplified(X, lambda g, x: g.add(CAST, (x,), {"dtype": bool_}))
    assert out.op is CAST


def test_square_from_pow():
    _, out = simplified(X, lambda g, x: g.add(POW, (x, number(g, 2))))
    assert out.op.name == "square"


def _f(*shape: int) -> Any:
    return dm.zeros(shape, dtype=dm.float32)


ERRORS = [
    (lambda a, b: a + b, (_f(3, 4), _f(5)), dm.errors.ShapeError,
     r"add: shapes do not broadcast: float32\[3,4\] and float32\[5\] "
     r"\(sizes 4 and 5 on axis -1\)"),
    (lambda a: dm.sum(a, axis=2), (_f(2, 3),), dm.errors.ShapeError,
     r"sum: axis 2 is out of range for rank 2 \(valid are -2 to 1\)"),
    (lambda a: dm.mean(a, axis=0), (_f(),), dm.errors.ShapeError,
     r"mean: axis 0 is out of range for rank 0 \(a scalar has no axes\)"),
    (lambda a: dm.max(a, axis=(0, -2)), (_f(2, 3),), dm.errors.ShapeError,
     r"max: axis=\(0, -2\) names an axis twice"),
    (lambda a: dm.argmax(a, axis=0), (_f(0, 3),), dm.errors.ShapeError,
     r"argmax: no elements to choose from in float32\[0,3\]"),
    (lambda a: dm.bitwise_and(a, a), (_f(2),), dm.errors.DTypeError,
     r"bitwise_and: float32 is not supported"),
    (lambda a: dm.erf(a), (dm.asarray([1j]),), dm.errors.DTypeError,
     r"erf: complex64 is not supported, it takes floating tensors"),
    (lambda a: dm.astype(a, dm.float32), (dm.asarray([1j]),), dm.errors.DTypeError,
     r"cast: complex64\[1\] to float32 would drop the imaginary part"),
]  # fmt: skip


@pytest.mark.parametrize(("fn", "args", "kind", "message"), ERRORS, ids=lambda x: None)
def test_errors_are_the_same_in_both_modes(
    fn: Callable[..., Any], args: tuple[Any, ...], kind: type[Exception], message: str
):
    for call in (fn, dm.function(fn)):
        with pytest.raises(kind, match=message):
            call(*args)
