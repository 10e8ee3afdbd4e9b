"""Graphs and expressions as text: what is printed parses back to the same."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dualmode as dm
import dualmode.ops
from control_drawing import CONTROL_OPS, INT, NOTE, SCALAR, branch, call, graph, loop
from drawing import graphs
from dualmode.op import Op
from dualmode_compiler import expr
from dualmode_compiler.expr import Axis, Buffer
from dualmode_compiler.graph import CALL, TOKEN, Graph, Node
from dualmode_compiler.interpret import Interpreter
from dualmode_compiler.spec import DTYPES, Spec, float16, float32, int64
from dualmode_compiler.text import Opaque, parse, parse_spec, show
from dualmode_compiler.verify import verify
from golden import check_golden
from graphs import trace
from ops import NEGATIVE, OPS, SHOW, TAGGED


def _every_op() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in Path(dualmode.ops.__file__).parent.glob("*.py"):
        for value in vars(import_module(f"dualmode.ops.{path.stem}")).values():
            if isinstance(value, Op):
                found[value.name] = value
    return found


ENGINE = _every_op()


def round_trip(graph: Graph, ops: Any = ENGINE) -> Graph:
    text = show(graph)
    again = parse(text, ops)
    verify(again)
    assert show(again) == text
    assert [n.spec for n in again.params] == [n.spec for n in graph.params]
    assert [n.spec for n in again.outputs] == [n.spec for n in graph.outputs]
    assert [k for k, _ in again.updates] == [k for k, _ in graph.updates]
    assert [n.op.name for n in again.effects] == [n.op.name for n in graph.effects]
    return again


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_drawn_graphs_round_trip(data: st.DataObject):
    round_trip(graphs(data.draw, data.draw(st.integers(1, 20))))


TRACED: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "softmax": (lambda x: dm.softmax(x, axis=-1), ["float32[3,4]"]),
    "random": (lambda: dm.random.normal((3,)), []),
    "print": (lambda x: (dm.print("a, b: (", x, sep="'"), x + 1.0)[1], ["float32[2]"]),
    "infinite": (lambda x: dm.where(x, np.inf, -np.inf) + dm.full((2,), np.nan), ["bool[2]"]),
    "complex": (lambda x: x * (1 + 2j) + dm.full((2,), complex(0, np.inf)), ["complex64[2]"]),
    "slices": (lambda x: x[::-1, 1:3][None], ["int8[5,5]"]),
    "empty": (lambda x: dm.concat([x, x], 1), ["float64[0,3]"]),
    "no inputs": (lambda: [dm.eye(3), dm.arange(4)], []),
    "weak": (lambda x: x * 2 + 0.5, ["bfloat16[2]"]),
}


@pytest.mark.parametrize("name", TRACED)
def test_traced_functions_round_trip(name: str):
    fn, specs = TRACED[name]
    round_trip(trace(fn, *specs))


def test_a_parsed_graph_computes_the_same():
    graph = trace(
        lambda x, y: [dm.softmax(x @ y), dm.sum(x, 0) > 0.0], "float32[3,4]", "float32[4,5]"
    )
    arrays = [np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((4, 5), np.float32)]
    for a, b in zip(
        Interpreter(graph).run(arrays)[0],
        Interpreter(round_trip(graph)).run(arrays)[0],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_states_round_trip():
    graph = trace(lambda v, x: ([v - x], [v, x]), "float32[3]", "float32[3]", states=1)
    again = round_trip(graph)
    assert again.updates[0][1].op.name == "subtract"
    assert "update %0 = %2" in show(graph)


def test_effects_are_printed_in_order():
    """Also where the result needs a later one, which a walk from the outputs meets first."""
    graph = Graph()
    x = graph.param(Spec((2,), float32))
    made = [graph.add(SHOW, [x], {"tag": tag}) for tag in "abc"]
    graph.outputs = [made[2], made[0]]
    again = round_trip(graph, OPS)
    assert [n.attr("tag") for n in again.effects] == ["a", "b", "c"]


ATTRIBUTES = [
    *(True, None, 3, -7, 0.5, -0.0, 1e300, 1 + 2j, 1j, -1.5 - 2j, (), (1,), (1, (2, (3,)))),
    *(
        "",
        "a, b",
        "(",
        "<",
        "it's",
        '"',
        "%3",
        "back\\",
        "it's \"",
        "'\", b",
        "back\\\\'",
        "a\nb",
        "k=1",
        "é): int8[]",
    ),
    *(float32, (float32, "x"), float("inf"), -float("inf"), (True, None, "a", 1.5)),
]


@pytest.mark.parametrize("value", ATTRIBUTES, ids=repr)
def test_attributes_round_trip(value: Any):
    graph = Graph()
    x = graph.param(Spec((2,), float32))
    graph.outputs = [graph.add(TAGGED, [x], {"a": value, "b": (value, "next"), "c": 1})]
    again = round_trip(graph, OPS)
    assert again.outputs[0].attrs == graph.outputs[0].attrs


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from("abcd"), st.recursive(
    st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.booleans(), st.none()),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)))  # fmt: skip
def test_drawn_attributes_round_trip(attrs: dict[str, Any]):
    graph = Graph()
    x = graph.param(Spec((2,), float32))
    graph.outputs = [graph.add(TAGGED, [x], attrs)]
    assert round_trip(graph, OPS).outputs[0].attrs == graph.outputs[0].attrs


@pytest.mark.parametrize("name", DTYPES)
def test_constants_round_trip(name: str):
    kind, numpy = DTYPES[name].kind, DTYPES[name].numpy
    data: list[Any] = [0, 1, 1, 0]
    if kind in "iu":
        data = [np.iinfo(numpy).min, np.iinfo(numpy).max, 0, 1]
    if kind in "fc":
        data = [0.1, -0.0, np.inf, np.nan]
    if kind == "c":
        data = [1 + 2j, complex(0.5, np.inf), 3, -1j + 0.25]
    whole = np.array([numpy.type(v) for v in data], numpy)
    for array in (whole, np.zeros((2, 0, 3), numpy), np.asarray(whole[1])):
        graph = Graph()
        graph.outputs = [graph.const(array)]
        again = round_trip(graph, OPS).outputs[0]
        assert again.attrs == graph.outputs[0].attrs


def test_the_printed_form():
    graph = trace(
        lambda v, x: ([v - dm.cast(x, "float32") * 0.1], [dm.max(v * 2.0, axis=(0, 1)), v]),
        *("float32[2,3]", "float16[3]"),
        states=1,
    )
    check_golden("text", show(graph))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("param %0 float32[2]", "line 1: 'param %0 float32[2]'"),
        ("param %0: float33[2]", "no spec such as float32[3,4]"),
        ("param %0: float32[2]\n%1 = what(%0): float32[2]", "float32[2]': 'what'"),
        ("param %0: float32[2]\n%1 = negative(%7): float32[2]", "'%7'"),
        ("param %0: float32[2]\nnonsense", "expected `%n = op"),
        ("param %0: float32[2]\nreturn %4", "line 2: 'return %4': '%4'"),
        ("param %0: float32[2]\nupdate %1 = %0", "'%1'"),
        ("%0 = const(value=<float32[2] [1.0, open('x')]>): float32[2]", "is no literal"),
        ("%0 = const(value=<float32[2] [1.0, x]>): float32[2]", "'x' is no number"),
        ("%0 = const(value=<float32[2] [1.0]>): float32[2]", "reshape"),
        ("%0 = call(body={0}): uint8[0]", "line 1: '%0 = call(body={0}): uint8[0]': "),
        ("%0 = call(body={0}): uint8[0]\n  {1}\n    return", "line 2: '{1}': expected `{0}`"),
        ("%0 = call(body={0}): uint8[0]\n  {0}\n    return %2", "line 3: 'return %2': '%2'"),
    ],
)
def test_what_is_not_understood(text: str, message: str):
    with pytest.raises(ValueError, match="line ") as error:
        parse(text, OPS)
    assert message in str(error.value)


# --- graphs that nodes own ------------------------------------------------------------------------


def _negative(h: Graph, x: Node) -> list[Node]:
    h.add(NOTE, [x], {"tag": 1})
    return [h.add(NEGATIVE, [x])]


def _owners(g: Graph, n: Node, x: Node) -> list[Node]:
    same = graph([SCALAR], lambda h, a: a)
    other = graph([SCALAR], _negative)
    body = graph([SCALAR, INT], lambda h, a, k: [*branch(h, k, [same, other], a), a])
    return [*loop(g, body, [x], fixed=[n], length=3), *call(g, same, x)]


def test_owned_graphs_are_indented():
    g = graph([INT, SCALAR], _owners)
    check_golden("text_owned", show(round_trip(g, CONTROL_OPS)))


def test_a_graph_that_is_owned_twice_is_printed_twice():
    same = graph([SCALAR], lambda h, a: a)
    g = graph([INT, SCALAR], lambda g, n, x: branch(g, n, [same, same], x))
    assert "branches=({0}, {1})" in show(g)
    round_trip(g, CONTROL_OPS)


def test_stacks_round_trip():
    assert parse_spec("float32[-1,2]") is Spec((-1, 2), float32)


def test_what_is_no_data_is_named_by_its_type():
    g = Graph()
    body = graph([SCALAR], lambda h, a: a)
    attrs = {"body": body, "derivative": print, "inline": True}
    g.outputs = g.items(g.add(CALL, [g.param(SCALAR)], attrs, spec=TOKEN))
    assert "derivative=<builtin_function_or_method>, inline=True" in show(g)
    (item,) = round_trip(g, CONTROL_OPS).outputs
    assert item.inputs[0].attr("derivative") == Opaque("builtin_function_or_method")


def test_specs():
    assert parse_spec("float32[3,4]") is Spec((3, 4), float32)
    assert parse_spec("~int64[]") is Spec((), int64, weak=True)
    with pytest.raises(ValueError, match="no spec"):
        parse_spec("float32[3")


# --- expressions ----------------------------------------------------------------------------------


def test_expressions():
    x, y = Buffer("x", Spec((4, 5), float32)), Buffer("y", Spec((5,), float16))
    i, k = Axis(4), Axis(5)
    item = expr.load(x, [i, k])
    total = expr.reduce("add", [k], item * expr.cast(expr.load(y, [k]), float32))
    assert repr(total) == "add(b<5: (x[a, b] * cast.float32(y[b])))"
    assert repr(i * 5 + k - 3) == "(5*a + b + -3)"
    assert repr(expr.apply("lt", item, expr.const(0.5, float32))) == "(x[a, b] < 0.5)"
    assert repr(expr.apply("exp", item)) == "exp(x[a, b])"


def test_shared_parts_are_written_once():
    x = Buffer("x", Spec((), float32))
    y = expr.load(x, [])
    for _ in range(200):
        y = expr.apply("add", y, expr.apply("exp", y))
    text = repr(y)
    assert len(text) < 20_000 and " where t0 = " in text


def test_deep_expressions_print():
    x = expr.load(Buffer("x", Spec((), float32)), [])
    for _ in range(5000):
        x = expr.apply("neg", x)
    assert repr(x).startswith("neg(neg(")
