"""Random programs: up to 30 ops on tensors and Variables, drawn by hypothesis, printed as code.

A program is data, so a failing one shrinks to a few lines, which `str(program)` shows as the Python
that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

import dualmode as dm

Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]
SIZES = (1, 2, 3, 4, 17)
MOST = 30

UNARY = ("tanh", "sigmoid", "relu", "sin", "cos", "square", "negative", "abs", "softplus", "erf")
UNARY += ("identity", "sign", "gelu")
BINARY = ("add", "subtract", "multiply", "maximum", "minimum")
REDUCTIONS = ("sum", "mean", "max", "min", "logsumexp")
ROWWISE = ("softmax", "log_softmax")


@dataclass(frozen=True)
class Step:
    """One line: `name(*args, **attrs)`, with args as numbers of earlier values."""

    name: str
    args: tuple[int, ...]
    attrs: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        args = [f"v{k}" for k in self.args] + [f"{k}={v!r}" for k, v in self.attrs]
        return f"dm.{self.name}({', '.join(args)})"

    def run(self, values: Sequence[Any]) -> Any:
        args = [values[k] for k in self.args]
        if self.name == "concat":
            return dm.concat(args, **dict(self.attrs))
        if self.name == "where":
            return dm.where(dm.greater(args[0], args[1]), args[0], args[2])
        if self.name == "slice":
            return args[0][tuple(slice(*s) for s in dict(self.attrs)["slices"])]
        return getattr(dm, self.name)(*args, **dict(self.attrs))


@dataclass
class Program:
    """Inputs first, then variables, then the value of each step; shapes of all of them.

    `assigns` are (line, variable, value): after that line, the variable is assigned the value.
    """

    inputs: int
    variables: int
    dtype: str
    seed: int
    shapes: list[Shape]
    steps: list[Step] = field(default_factory=list)
    assigns: list[tuple[int, int, int]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"# {self.dtype}, values from np.random.default_rng({self.seed})"]
        for k in range(self.inputs + self.variables):
            kind = "input" if k < self.inputs else "variable"
            lines.append(f"v{k} = {kind}{self.shapes[k]}")
        for k, step in enumerate(self.steps):
            lines.append(f"v{self.inputs + self.variables + k} = {step}  # {self._shape(k)}")
            lines += [f"v{v + self.inputs}.assign(v{x})" for at, v, x in self.assigns if at == k]
        return "\n".join(lines)

    __repr__ = __str__

    def _shape(self, k: int) -> Shape:
        return self.shapes[self.inputs + self.variables + k]

    def arrays(self) -> list[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        count = self.inputs + self.variables
        return [rng.uniform(-1.5, 1.5, s).astype(self.dtype) for s in self.shapes[:count]]

    def body(self, variables: Sequence[Any]) -> Callable[..., Any]:
        """The program as a function of its inputs: all values, and the gradients of a summary."""

        def run(*inputs: Any) -> list[Any]:
            with dm.GradientTape() as tape:
                tape.watch(list(inputs))
                values: list[Any] = [*inputs, *(v.read_value() for v in variables)]
                for k, step in enumerate(self.steps):
                    values.append(step.run(values))
                    for at, v, x in self.assigns:
                        if at == k:
                            variables[v].assign(values[x])
                summary = sum((dm.mean(dm.tanh(v)) for v in values), start=dm.asarray(0.0))
            sources = [*inputs, *variables]
            grads = tape.gradient(summary, sources, unconnected_gradients="zero")
            return [*values, summary, *grads]

        return run


@st.composite
def programs(draw: Draw) -> Program:
    inputs = draw(st.integers(1, 3))
    variables = draw(st.integers(0, 2))
    shapes = [_shape(draw) for _ in range(inputs + variables)]
    program = Program(
        inputs,
        variables,
        draw(st.sampled_from(["float64", "float32"])),
        draw(st.integers(0, 2**16)),
        shapes,
    )
    for _ in range(draw(st.integers(1, MOST))):
        step, shape = _step(draw, program.shapes)
        program.steps.append(step)
        program.shapes.append(shape)
        _assign(draw, program)
    return program


def _shape(draw: Draw) -> Shape:
    return tuple(draw(st.sampled_from(SIZES)) for _ in range(draw(st.integers(0, 3))))


def _assign(draw: Draw, program: Program) -> None:
    """Now and then, a variable takes the newest value that fits."""
    for v in range(program.variables):
        if program.shapes[-1] == program.shapes[program.inputs + v] and draw(st.booleans()):
            program.assigns.append((len(program.steps) - 1, v, len(program.shapes) - 1))
            return


def _step(draw: Draw, shapes: list[Shape]) -> tuple[Step, Shape]:
    a = draw(st.integers(0, len(shapes) - 1))
    makers = [_unary, _binary, _reduction, _rowwise, _matmul, _reshape, _permute, _slice, _join]
    order = draw(st.permutations(range(len(makers))))
    for k in order:
        made = makers[k](draw, shapes, a)
        if made is not None:
            return made
    return _unary(draw, shapes, a)


Made = tuple[Step, Shape] | None


def _unary(draw: Draw, shapes: list[Shape], a: int) -> tuple[Step, Shape]:
    return Step(draw(st.sampled_from(UNARY)), (a,)), shapes[a]


def _fits(a: Shape, b: Shape) -> Shape | None:
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        return None


def _binary(draw: Draw, shapes: list[Shape], a: int) -> Made:
    others = [k for k, s in enumerate(shapes) if _fits(shapes[a], s) is not None]
    b = draw(st.sampled_from(others))
    out = np.broadcast_shapes(shapes[a], shapes[b])
    if draw(st.integers(0, 4)) == 0:
        c = draw(st.sampled_from([k for k, s in enumerate(shapes) if _fits(out, s) is not None]))
        return Step("where", (a, b, c)), np.broadcast_shapes(out, shapes[c])
    pair = (a, b) if draw(st.booleans()) else (b, a)
    return Step(draw(st.sampled_from(BINARY)), pair), out


def _reduction(draw: Draw, shapes: list[Shape], a: int) -> Made:
    rank = len(shapes[a])
    if rank == 0:
        return None
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, unique=True))
    keep = draw(st.booleans())
    out = tuple(1 if k in axes else n for k, n in enumerate(shapes[a]) if keep or k not in axes)
    attrs = (("axis", tuple(axes)), ("keepdims", keep))
    return Step(draw(st.sampled_from(REDUCTIONS)), (a,), attrs), out


def _rowwise(draw: Draw, shapes: list[Shape], a: int) -> Made:
    rank = len(shapes[a])
    if rank == 0:
        return None
    axis = draw(st.integers(0, rank - 1))
    return Step(draw(st.sampled_from(ROWWISE)), (a,), (("axis", axis),)), shapes[a]


def _matmul(draw: Draw, shapes: list[Shape], a: int) -> Made:
    if len(shapes[a]) < 2:
        return None
    fitting = [
        k
        for k, s in enumerate(shapes)
        if len(s) >= 2 and s[-2] == shapes[a][-1] and _fits(s[:-2], shapes[a][:-2]) is not None
    ]
    if not fitting:
        return None
    b = draw(st.sampled_from(fitting))
    batch = np.broadcast_shapes(shapes[a][:-2], shapes[b][:-2])
    return Step("matmul", (a, b)), (*batch, shapes[a][-2], shapes[b][-1])


def _reshape(draw: Draw, shapes: list[Shape], a: int) -> Made:
    size = int(np.prod(shapes[a]))
    options = [(size,), (1, size), (size, 1)]
    options += [(d, size // d) for d in (2, 3, 4) if size % d == 0]
    shape = draw(st.sampled_from(options))
    return Step("reshape", (a,), (("shape", shape),)), shape


def _permute(draw: Draw, shapes: list[Shape], a: int) -> Made:
    axes = tuple(draw(st.permutations(range(len(shapes[a])))))
    shape = tuple(shapes[a][k] for k in axes)
    return Step("permute_dims", (a,), (("axes", axes),)), shape


def _slice(draw: Draw, shapes: list[Shape], a: int) -> Made:
    if not shapes[a]:
        return None
    slices = []
    for n in shapes[a]:
        start = draw(st.integers(0, n - 1))
        stop = draw(st.integers(start + 1, n))
        slices.append((start, stop, draw(st.sampled_from([1, 2]))))
    shape = tuple(len(range(*s)) for s in slices)
    return Step("slice", (a,), (("slices", tuple(slices)),)), shape


def _join(draw: Draw, shapes: list[Shape], a: int) -> Made:
    rank = len(shapes[a])
    if rank == 0:
        return None
    axis = draw(st.integers(0, rank - 1))

    def rest(s: Shape) -> Shape:
        return (*s[:axis], *s[axis + 1 :])

    same = [k for k, s in enumerate(shapes) if len(s) == rank and rest(s) == rest(shapes[a])]
    b = draw(st.sampled_from(same))
    shape = list(shapes[a])
    shape[axis] += shapes[b][axis]
    return Step("concat", (a, b), (("axis", axis),)), tuple(shape)
