"""Graphs and expressions as text. A printed graph parses back to the same graph.

param %0: float32[3,4]
param %1: float32[4]
%2 = add(%0, %1): float32[3,4]
update %1 = %3
return %2

Graphs that a node owns follow it, indented, and its attributes name them by number:

%4 = call(%2, body={0}, derivative=None, inline=True): uint8[0]
  {0}
    param %0: float32[3,4]
    return %0
%5 = item(%4, index=0): float32[3,4]
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .expr import Affine, Apply, Axis, Const, Expr, Fold, Load, Reduce
from .graph import CALL, COND, CONST, ITEM, LOOP, PARAM, Graph, Literal, Node, OpDef
from .records import dataclass
from .spec import DTYPES, DType, Spec, dtype
from .walks import operands, walk

SHORT = 12  # characters of a part that is written out each time it occurs
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%"}
_INFIX |= {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def show_expr(x: Expr) -> str:
    """An expression in infix form; axes are named a, b, ... in order of creation.

    What occurs more than once has a name, unless it is short: (t0 * t0) where t0 = exp(x[a] + 1.0).
    """
    parts = list(walk([x]))
    uses = Counter(c for e in parts for c in operands(e))
    axes = {a for e in parts for a in (e.bound if isinstance(e, Reduce | Fold) else e.axes)}
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
    if isinstance(x, Fold):
        bound = ", ".join(f"{names[a]}<{a.extent}" for a in x.bound)
        start, when, body = texts[x.start], texts[x.when], texts[x.body]
        return f"fold.{x.kind}({bound}: {start}, where {when}, {body})"
    assert isinstance(x, Apply)
    args = [texts[a] for a in x.args]
    if x.fn in _INFIX:
        return f"({args[0]} {_INFIX[x.fn]} {args[1]})"
    kind = f".{x.dtype}" if x.fn in ("cast", "bitcast") else ""
    return f"{x.fn}{kind}({', '.join(args)})"


# --- graphs ---------------------------------------------------------------------------------------


def show(graph: Graph) -> str:
    """The graph as text: one node a line, inputs before users, effects in their order."""
    return "\n".join(line.rstrip() for line in _lines(graph)) + "\n"


def _lines(graph: Graph) -> Iterator[str]:
    others = [n for n in graph.nodes() if n.op is not PARAM]
    nodes = [*graph.params, *sorted(others, key=lambda n: n.uid)]
    names = {n: f"%{k}" for k, n in enumerate(nodes)}
    for node in nodes:
        yield _line(node, names)
        for k, owned in enumerate(node.graphs):
            yield f"  {{{k}}}"
            yield from (f"    {line}" for line in _lines(owned))
    yield from (f"update {names[graph.params[k]]} = {names[n]}" for k, n in graph.updates)
    yield "return " + ", ".join(names[n] for n in graph.outputs)


def _line(node: Node, names: Mapping[Node, str]) -> str:
    if node.op is PARAM:
        return f"param {names[node]}: {node.spec}"
    count = itertools.count()
    args = [names[n] for n in node.inputs]
    args += [f"{k}={_attr(v, count)}" for k, v in node.attrs]
    mark = "!" if node.effect else ""
    return f"{names[node]} = {node.op.name}{mark}({', '.join(args)}): {node.spec}"


@dataclass(frozen=True)
class Opaque:
    """What stands in a parsed graph for an attribute that is no data: a function, a stream."""

    kind: str


def _attr(value: Any, count: Iterator[int]) -> str:
    """An attribute; graphs are numbered by `count`. What is no data is named by its type alone."""
    if isinstance(value, Graph):
        return f"{{{next(count)}}}"
    if isinstance(value, Literal):
        array = value.array
        data = repr(array.tolist()) if array.size else "[]"
        return f"<{array.dtype.name}{list(array.shape)} {data}>"
    if isinstance(value, DType):
        return f"<{value.name}>"
    if isinstance(value, tuple):
        parts = ", ".join(_attr(v, count) for v in value)
        return f"({parts}{',' if len(value) == 1 else ''})"
    if isinstance(value, complex):
        return repr(value).strip("()")
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    return f"<{value.kind if isinstance(value, Opaque) else type(value).__name__}>"


_SPEC = re.compile(r"(~?)(\w+)\[([-\d,]*)\]$")
_STRUCTURAL: dict[str, OpDef] = {op.name: op for op in (CONST, ITEM, COND, CALL, LOOP)}
_Line = tuple[int, int, str]  # number, indentation, content
_NODE = re.compile(r"%(\d+) = (\w+)!?\((.*)\): (\S+)$")


def parse(text: str, ops: Mapping[str, OpDef]) -> Graph:
    """The graph that `text` shows; `ops` gives the operations by name.

    Raises:
        ValueError: a line is not understood, or names an unknown op or value.
    """
    lines = [
        (number, len(line) - len(line.lstrip()), line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]
    return _parse_graph(lines, {**ops, **_STRUCTURAL})


def _parse_graph(lines: list[_Line], ops: Mapping[str, OpDef]) -> Graph:
    """The graph of `lines`, all that are indented more than the first one being owned graphs."""
    graph = Graph()
    values: dict[str, Node] = {}
    k = 0
    while k < len(lines):
        number, indent, line = lines[k]
        end = k + 1
        while end < len(lines) and lines[end][1] > indent:
            end += 1
        owned = _parse_owned(lines[k + 1 : end], ops)
        try:
            _parse_line(line, graph, values, owned, ops)
        except (KeyError, IndexError, SyntaxError, ValueError) as error:
            raise ValueError(f"line {number}: {line!r}: {error}") from None
        k = end
    return graph


def _parse_owned(lines: list[_Line], ops: Mapping[str, OpDef]) -> list[Graph]:
    """Graphs, each of which a line `{number}` begins."""
    starts = [k for k, (_, indent, _) in enumerate(lines) if indent <= lines[0][1]]
    for n, k in enumerate(starts):
        number, _, line = lines[k]
        if line != f"{{{n}}}":
            raise ValueError(f"line {number}: {line!r}: expected `{{{n}}}`")
    bounds = itertools.pairwise([*starts, len(lines)])
    return [_parse_graph(lines[a + 1 : b], ops) for a, b in bounds]


def _parse_line(
    line: str,
    graph: Graph,
    values: dict[str, Node],
    owned: list[Graph],
    ops: Mapping[str, OpDef],
) -> None:
    if line.startswith("param "):
        name, spec = line[6:].split(": ")
        values[name] = graph.param(parse_spec(spec))
    elif line.startswith("update "):
        state, value = line[7:].split(" = ")
        graph.updates.append((values[state].attr("index"), values[value]))
    elif line.startswith("return"):
        graph.outputs = [values[n.strip()] for n in line[6:].split(",") if n.strip()]
    else:
        found = _NODE.match(line)
        if found is None:
            raise ValueError("expected `%n = op(...): spec`")
        number, op, args, spec = found.groups()
        inputs, attrs = _parse_args(args, values, owned)
        values[f"%{number}"] = graph.add(ops[op], inputs, attrs, spec=parse_spec(spec))


def _parse_args(
    args: str, values: Mapping[str, Node], owned: list[Graph]
) -> tuple[list[Node], dict[str, Any]]:
    inputs: list[Node] = []
    attrs: dict[str, Any] = {}
    for part in _split(args):
        if part.startswith("%"):
            inputs.append(values[part])
        else:
            key, value = part.split("=", 1)
            attrs[key] = _parse_attr(value, owned)
    return inputs, attrs


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


def _parse_attr(text: str, owned: list[Graph]) -> Any:
    if text.startswith("{"):
        return owned[int(text[1:-1])]
    found = _LITERAL.match(text)
    if found:
        shape = tuple(int(n) for n in found[2].split(",") if n.strip())
        data = _parse_numbers(found[3])
        return Literal(np.array(data, dtype(found[1]).numpy).reshape(shape))
    if text.startswith("<"):
        return DTYPES.get(text[1:-1]) or Opaque(text[1:-1])
    if text.startswith("("):
        return tuple(_parse_attr(p, owned) for p in _split(text[1:-1]))
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
