"""Random functions with Python control flow: both modes agree on values, gradients, variables.

Each is compiled at a drawn optimisation level and runs with a drawn number of threads.

A failing function is printed as Python source.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import dualmode as dm
from control_flow import check, define
from levels import COMBINATIONS

EXAMPLES = int(os.environ.get("DUALMODE_TEST_PROGRAMS", "0")) or 20

# such that no two values come out equal, of which rounding would choose the larger
INPUTS = [0.5137, 1.0291, 0.7713], [-0.6177, 0.2119, 0.1093]

VECTORS = ["dm.sin(x)", "dm.tanh(y + s)", "x * 0.5 + y", "dm.where(x > y, x, y)", "x[::-1] * t"]
SCALARS = ["dm.mean(x * y)", "dm.cos(t) + s * 0.5", "dm.max(x)", "x[0] - y[2]", "s * 0.25 + n"]
TENSOR_TESTS = ["s > 0.3", "x[0] < y[1]", "dm.any(y > 0.9)", "-0.5 < t <= 0.75", "above(s, t)"]
PYTHON_TESTS = ["n > 2", "n % 2 == 0", "x.ndim == 1", "box.count < 3", "len(rows) > 1"]

# functions and objects that the programs use, before their own statements
PRELUDE = """\
y, t = x[::-1], x[1] * 0.5
s = dm.mean(x)
calls, rows = 0, [x]
class Box:
    count = 0
box = Box()
def above(a, b):
    nonlocal calls
    calls += 1
    if a > b:
        return a > 0.1
    return b < 0.2
def bump():
    box.count += 1
def bent(v):
    for e in v:
        if e > 0.8:
            return v * 0.5
    return v + 0.25 if n > 1 else -v
"""

tests = st.recursive(
    st.sampled_from(TENSOR_TESTS + PYTHON_TESTS),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda p: f"({' '.join(p)})"),
        inner.map(lambda p: f"not ({p})"),
    ),
    max_leaves=3,
)


OTHERS = {
    "call": ["x = bent(y)"],
    "outside": ["bump()", "s = s * 0.5 + box.count"],
    "text": ["print(f'{n:3d}|', n, box.count, dm.zeros(()))"],
    "item": ["rows[0] = rows[0] * 0.5 + y"],
    "lambda": ["pick = lambda a: a * 0.5 if a > s else a + n", "t = pick(t)"],
    "choice of numbers": ["n = n + 2 if n > 3 else n + 1", "t = t * 0.5 + n * 0.1"],
    "assert": ["assert n < 1000, 'small'", "assert dm.all(x < 1e9), 'finite'"],
    "try": ["try:", "    y = y * 0.5 + n", "finally:", "    n = n + 1"],
}


def indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


@st.composite
def simple(draw: Any) -> list[str]:
    kinds = ["vector", "scalar", "number", "variable", "choice", "print", *OTHERS]
    kind = draw(st.sampled_from(kinds))
    if kind in OTHERS:
        return OTHERS[kind]
    if kind == "vector":
        return [f"{draw(st.sampled_from('xy'))} = {draw(st.sampled_from(VECTORS))}"]
    if kind == "scalar":
        return [f"{draw(st.sampled_from('st'))} = {draw(st.sampled_from(SCALARS))}"]
    if kind == "number":
        return ["n += 1"]
    if kind == "variable":
        return ["world.v.assign(world.v * 0.5 + s)", "t = t + world.v"]
    if kind == "print":
        return ["dm.print(dm.floor(s * 4 + 0.3))"]
    return [f"s = {draw(st.sampled_from(SCALARS))} if {draw(tests)} else t"]


@st.composite
def block(draw: Any, depth: int, loop: bool) -> list[str]:
    out: list[str] = []
    for _ in range(draw(st.integers(1, 2))):
        out += draw(statement(depth, loop))
    return out


def statement(depth: int, loop: bool) -> Any:
    return st.one_of(simple(), compound(depth, loop)) if depth else simple()


@st.composite
def compound(draw: Any, depth: int, loop: bool) -> list[str]:
    kinds = ["if", "if else", "while", "for range", "for python", "for tensor", "rows", "else"]
    kind = draw(st.sampled_from([*kinds, "leave"] if loop else [*kinds, "return"]))
    if kind == "return":
        return [f"if {draw(tests)}:", "    return x, s + calls, n"]
    if kind == "rows":
        size = draw(st.integers(1, 3))
        head = ["more = [y]", f"for i{depth} in dm.range({size}):", "    more.append(y * 0.5 + s)"]
        return [*head, "y = dm.sum(dm.stack(more[1:]), axis=0) * 0.3"]
    if kind == "leave":
        how = draw(st.sampled_from(["break", "continue", "return x * 0.5, s, n"]))
        return [f"if {draw(tests)}:", f"    {how}"]
    if kind == "else":
        head = [f"for i{depth} in dm.range({draw(st.integers(0, 3))}):", f"    if {draw(tests)}:"]
        body = [*indented(draw(block(depth - 1, False))), "    break"]
        return [*head, *indented(body), "else:", *indented(draw(simple()))]
    if kind.startswith("if"):
        lines = [f"if {draw(tests)}:", *indented(draw(block(depth - 1, loop)))]
        if kind == "if else":
            lines += ["else:", *indented(draw(block(depth - 1, loop)))]
        return lines
    body = indented(draw(block(depth - 1, True)))
    if kind == "while":
        c = f"c{depth}"
        return [f"{c} = 0", f"while {c} < 3 and {draw(tests)}:", f"    {c} += 1", *body]
    head = {
        "for range": f"for i{depth} in dm.range({draw(st.integers(0, 3))}):",
        "for python": f"for i{depth} in range({draw(st.integers(0, 2))}):",
        "for tensor": f"for e{depth} in {draw(st.sampled_from('xy'))}:",
    }[kind]
    use = f"    s = s * 0.5 + e{depth}" if kind == "for tensor" else f"    t = t + 0.1 * i{depth}"
    return [head, use, *body]


@st.composite
def texts(draw: Any) -> str:
    lines = PRELUDE.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        lines += draw(compound(draw(st.integers(1, 3)), False))
    return "\n".join([*lines, "x = x + y * t + rows[0] * 0.1", "s = s + calls + box.count"])


combinations = st.sampled_from(COMBINATIONS)
quick = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@quick
@given(texts(), combinations)
def test_values(text: str, settings: dict[str, Any]) -> None:
    note(text)
    with dm.config.override(**settings):
        check(define(text, f"random {hash(text)}"), *INPUTS)


@quick
@given(texts(), combinations)
def test_gradients(text: str, settings: dict[str, Any]) -> None:
    note(text)
    program = define(text, f"random {hash(text)}")

    def gradient(world: Any, x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(x)
            x_last, s, _ = program(world, x)
            loss = dm.sum(x_last) + s
        return loss, tape.gradient(loss, x, unconnected_gradients="zero")

    with dm.config.override(**settings):
        check(gradient, *INPUTS)
