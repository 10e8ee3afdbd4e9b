"""Graphs and expressions as text. A printed graph parses back to the same graph.

param %0: float32[3,4]
param %1: float32[4]
%2 = add(%0, %1): float32[3,4]
update %1 = %3
return %2
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from .expr import Affine, Apply, Axis, Const, Expr, Load, Reduce, operands
from .graph import CONST, PARAM, Graph, Literal, Node, OpDef
from .loops import walk
from .spec import DTYPES, DType, Spec, dtype

SHORT = 12  # characters of a part that is written out each time it occurs
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%"}
_INFIX |= {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def show_expr(x: Expr) -> str:
    """An expression in infix form; axes are named a, b, ... in order of creation.

    What occurs more than once has a name, unless it is short: (t0 * t0) where t0 = exp(x[a] + 1.0).
    """
    parts = list(walk([x]))
    uses = Counter(c for e in parts for c in operands(e))
    axes = {a for e in parts for a in (e.bound if isinstance(e, Reduce) else e.axes)}
    names = {a: _axis_name(k) for k, a in enumerate(sorted(axes, key=lambda a: a.uid))}
    texts: dict[Expr, str] = {}
    shared: list[str] = []
    for e in parts:
        texts[e] = _show(e, names, texts)
        if uses[e] > 1 and len(texts[e]) > SHORT:
            shared.append(f"t{len(shared)} = {texts[e]}")
            texts[e] = f"t{len(shared) - 1}"
    return texts[x] + (f" where {', '.join(shared)}" if shared else "")


def _axis_name(k: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[k] if k < 26 else f"a{k}"


def _show(x: Expr, names: Mapping[Axis, str], texts: Mapping[Expr, str]) -> str:
    """`x`, given the texts of its operands."""
    if isinstance(x, Axis):
        return names[x]
    if isinstance(x, Const):
        return repr(x.value)
    if isinstance(x, Affine):
        parts = [texts[a] if c == 1 else f"{c}*{texts[a]}" for a, c in x.terms]
        return "(" + " + ".join([*parts, *([str(x.const)] if x.const else [])]) + ")"
    if isinstance(x, Load):
        return f"{x.buffer}[{', '.join(texts[i] for i in x.index)}]"
    if isinstance(x, Reduce):
        bound = ", ".join(f"{names[a]}<{a.extent}" for a in x.bound)
        return f"{x.kind}({bound}: {texts[x.body]})"
    assert isinstance(x, Apply)
    args = [texts[a] for a in x.args]
    if x.fn in _INFIX:
        return f"({args[0]} {_INFIX[x.fn]} {args[1]})"
    kind = f".{x.dtype}" if x.fn in ("cast", "bitcast") else ""
    return f"{x.fn}{kind}({', '.join(args)})"


# --- graphs ---------------------------------------------------------------------------------------


def show(graph: Graph) -> str:
    """The graph as text: one node a line, inputs before users, effects in their order."""
    others = [n for n in graph.nodes() if n.op is not PARAM]
    nodes = [*graph.params, *sorted(others, key=lambda n: n.uid)]
    names = {n: f"%{k}" for k, n in enumerate(nodes)}
    lines = [_line(n, names) for n in nodes]
    lines += [f"update {names[graph.params[k]]} = {names[n]}" for k, n in graph.updates]
    lines.append("return " + ", ".join(names[n] for n in graph.outputs))
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _line(node: Node, names: Mapping[Node, str]) -> str:
    if node.op is PARAM:
        return f"param {names[node]}: {node.spec}"
    args = [names[n] for n in node.inputs]
    args += [f"{k}={_attr(v)}" for k, v in node.attrs]
    mark = "!" if node.op.effect else ""
    return f"{names[node]} = {node.op.name}{mark}({', '.join(args)}): {node.spec}"


def _attr(value: Any) -> str:
    if isinstance(value, Literal):
        array = value.array
        data = repr(array.tolist()) if array.size else "[]"
        return f"<{array.dtype.name}{list(array.shape)} {data}>"
    if isinstance(value, DType):
        return f"<{value.name}>"
    if isinstance(value, tuple):
        return "(" + ", ".join(_attr(v) for v in value) + ("," if len(value) == 1 else "") + ")"
    return repr(value).strip("()") if isinstance(value, complex) else repr(value)


_SPEC = re.compile(r"(~?)(\w+)\[([\d,]*)\]$")
_NODE = re.compile(r"%(\d+) = (\w+)!?\((.*)\): (\S+)$")


def parse(text: str, ops: Mapping[str, OpDef]) -> Graph:
    """The graph that `text` shows; `ops` gives the operations by name.

    Raises:
        ValueError: a line is not understood, or names an unknown op or value.
    """
    graph = Graph()
    values: dict[str, Node] = {}
    for number, line in enumerate(text.strip().splitlines(), 1):
        try:
            _parse_line(line.strip(), graph, values, ops)
        except (KeyError, SyntaxError, ValueError) as error:
            raise ValueError(f"line {number}: {line.strip()!r}: {error}") from None
    return graph


def _parse_line(line: str, graph: Graph, values: dict[str, Node], ops: Mapping[str, OpDef]) -> None:
    if line.startswith("param "):
        name, spec = line[6:].split(": ")
        values[name] = graph.param(parse_spec(spec))
    elif line.startswith("update "):
        state, value = line[7:].split(" = ")
        graph.updates.append((values[state].attr("index"), values[value]))
    elif line.startswith("return"):
        graph.outputs = [values[n.strip()] for n in line[6:].split(",") if n.strip()]
    elif line:
        found = _NODE.match(line)
        if found is None:
            raise ValueError("expected `%n = op(...): spec`")
        number, op, args, spec = found.groups()
        values[f"%{number}"] = _parse_node(op, args, parse_spec(spec), graph, values, ops)


def _parse_node(
    op: str,
    args: str,
    spec: Spec,
    graph: Graph,
    values: Mapping[str, Node],
    ops: Mapping[str, OpDef],
) -> Node:
    inputs: list[Node] = []
    attrs: dict[str, Any] = {}
    for part in _split(args):
        if part.startswith("%"):
            inputs.append(values[part])
        else:
            key, value = part.split("=", 1)
            attrs[key] = _parse_attr(value)
    record: OpDef = CONST if op == CONST.name else ops[op]
    return graph.add(record, inputs, attrs, spec=spec)


def parse_spec(text: str) -> Spec:
    found = _SPEC.match(text)
    if found is None or found[2] not in DTYPES:
        raise ValueError(f"{text!r} is no spec such as float32[3,4]")
    shape = tuple(int(n) for n in found[3].split(",") if n)
    return Spec(shape, DTYPES[found[2]], weak=bool(found[1]))


def _split(text: str) -> list[str]:
    """At the commas outside of brackets and quotes."""
    out, depth, start, quote, escaped = [], 0, 0, "", False
    for k, c in enumerate(text):
        if quote:
            quote = "" if c == quote and not escaped else quote
            escaped = c == "\\" and not escaped
        elif c in "'\"":
            quote = c
        elif c in "([<":
            depth += 1
        elif c in ")]>":
            depth -= 1
        elif c == "," and depth == 0:
            out.append(text[start:k].strip())
            start = k + 1
    last = text[start:].strip()
    return [*out, last] if last else out


_LITERAL = re.compile(r"<(\w+)\[([\d, ]*)\] (.*)>$", re.DOTALL)


def _parse_attr(text: str) -> Any:
    found = _LITERAL.match(text)
    if found:
        shape = tuple(int(n) for n in found[2].split(",") if n.strip())
        data = _parse_numbers(found[3])
        return Literal(np.array(data, dtype(found[1]).numpy).reshape(shape))
    if text.startswith("<"):
        return dtype(text[1:-1])
    if text.startswith("("):
        return tuple(_parse_attr(p) for p in _split(text[1:-1]))
    return _parse_numbers(text)


def _parse_numbers(text: str) -> Any:
    """A Python literal in which `nan` and `inf` may stand."""
    tree = ast.parse(text, mode="eval")
    allowed = (ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.UnaryOp, ast.USub, ast.Name)
    complex_sum = (ast.BinOp, ast.Add, ast.Sub)
    for node in ast.walk(tree):
        if not isinstance(node, (*allowed, *complex_sum, ast.Load)):
            raise ValueError(f"{text!r} is no literal")
        if isinstance(node, ast.Name) and node.id not in ("nan", "inf", "nanj", "infj"):
            raise ValueError(f"{node.id!r} is no number")
    names = {"nan": float("nan"), "inf": float("inf"), "nanj": complex(0, float("nan"))}
    names["infj"] = complex(0, float("inf"))
    return eval(compile(tree, "<literal>", "eval"), {"__builtins__": {}}, names)
