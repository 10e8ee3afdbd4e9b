"""Functions with Python control flow, and what it takes to run one in both modes.

`PROGRAMS` are written by hand, one construct each; `nested` makes functions in which constructs
stand three deep, on tensors and on Python's own values in every position.
"""

from __future__ import annotations

import itertools
import linecache
import random
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np

import dualmode as dm
from dualmode import tree

Program = Callable[..., Any]


@dataclass
class Outcome:
    """What a run left behind."""

    result: Any
    prints: list[str]
    variables: list[np.ndarray[Any, Any]]
    error: tuple[type[BaseException], str] | None


class World:
    """The variables that programs assign."""

    def __init__(self) -> None:
        self.v = dm.Variable(0.0, name="v")
        self.w = dm.Variable([1.0, 2.0, 3.0], name="w")

    def run(self, fn: Program, args: tuple[Any, ...]) -> Outcome:
        self.v.assign(0.0)
        self.w.assign([1.0, 2.0, 3.0])
        result, error = None, None
        with redirect_stdout(StringIO()) as out:
            try:
                result = fn(self, *args)
            except Exception as found:
                error = type(found), str(found).split("\n")[0]
        return Outcome(result, out.getvalue().split("\n"), [self.v.numpy(), self.w.numpy()], error)


def compare(eager: Outcome, compiled: Outcome) -> None:
    assert (compiled.error is None) == (eager.error is None), compiled.error or eager.error
    if eager.error is not None and compiled.error is not None:
        assert issubclass(compiled.error[0], eager.error[0])
        assert compiled.error[1] == eager.error[1]
    xs, form = tree.flatten(eager.result)
    ys, other = tree.flatten(compiled.result)
    assert form == other
    for x, y in zip(xs, ys, strict=True):
        if isinstance(x, str):
            assert x == y
            continue
        if not isinstance(x, bool | int | float):  # Python's own numbers may become tensors
            assert x.dtype is y.dtype
        a, b = np.asarray(x), np.asarray(y)
        assert a.shape == b.shape
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=1e-5)
    assert compiled.prints == eager.prints
    if eager.error is None:  # compiled code makes no assignment of a call that failed
        for a, b in zip(eager.variables, compiled.variables, strict=True):
            np.testing.assert_allclose(b, a, rtol=2e-4, atol=1e-5)


def check(fn: Program, *inputs: Any) -> None:
    """Compare eager and compiled runs of `fn(world, x)` for each of `inputs`."""
    world = World()
    compiled = dm.function(fn)
    for x in inputs:
        x = dm.asarray(x)
        compare(world.run(fn, (x,)), world.run(compiled, (x,)))


# --- nested, from a grammar -----------------------------------------------------------------------

# Each construct: its name, and lines with a place for the body. `s` is a scalar tensor, `x` a
# vector, `n` a Python int, `{k}` the depth.
_TEXT = """
# if tensor
if s > 1.0:
    <body>
# if python
if n % 2 == 1:
    <body>
# if else tensor
if s > 1.0:
    <body>
else:
    x = x - 1.0
    s = s + 0.5
# if else python
if n > 100:
    s = s + 1.0
else:
    <body>
# elif tensor
if s < 0.0:
    s = s + 2.0
elif x[0] > 0.0:
    <body>
else:
    x = x * 0.5
# while tensor
c{k} = s * 0.0
while c{k} < 3.0:
    c{k} = c{k} + 1.0
    s = s * 1.5 + 1.0
    <body>
# while python
m{k} = 0
while m{k} < 2:
    m{k} += 1
    <body>
# while mixed
m{k} = 0
while s < 9.0 and m{k} < 3:
    m{k} += 1
    s = s + 1.0
    <body>
# for range tensor
for i{k} in dm.range(3):
    s = s + dm.cast(i{k}, 'float32')
    <body>
# for range traced
for i{k} in dm.range(count):
    x = x + 0.25
    <body>
# for range python
for i{k} in range(2):
    s = s + i{k}
    <body>
# for tensor
for e{k} in x:
    s = s + e{k} * 0.5
    <body>
# for list
for e{k} in [1.0, -0.5]:
    x = x + e{k}
    <body>
# break tensor
for i{k} in dm.range(4):
    if s > 6.0:
        break
    s = s + 1.0
    <body>
# break python
for i{k} in range(4):
    if i{k} == 2:
        break
    <body>
# break both
c{k} = s * 0.0
while True:
    c{k} = c{k} + 1.0
    <body>
    if s > 5.0 or c{k} > 3.0:
        break
# continue tensor
for i{k} in dm.range(4):
    if i{k} == 1:
        continue
    <body>
    s = s + 0.5
# continue python
for i{k} in range(3):
    if i{k} == 1:
        continue
    <body>
# return tensor
if dm.sum(x) > 60.0:
    return x, s, n
<body>
# return loop
for i{k} in dm.range(3):
    <body>
    if dm.sum(x) > 25.0:
        return x, s, n
# ifexp
s = s + 1.0 if x[0] > 0 else s - 1.0
<body>
# bool
if s > 0 and x[0] < 2 or not s < 1:
    <body>
# chain
if -1.0 < s < 3.0:
    <body>
"""
CONSTRUCTS = dict(re.findall(r"^# (.*)\n((?:[^#].*\n)+)", _TEXT, re.M))
BODIES = [
    "x = x * 1.25 - s * 0.1",
    "s = s + dm.mean(x)",
    "n = n + 1\n    ",
    "world.v.assign_add(s)\nx = x + world.v * 0.01",
    "dm.print('here', dm.floor(s))\ns = s * 0.9",
]


def nest(names: tuple[str, ...], body: str) -> str:
    text = body.strip()
    for k, name in reversed(list(enumerate(names))):
        lines = []
        for line in CONSTRUCTS[name].replace("{k}", str(k)).splitlines():
            if line.strip() == "<body>":
                pad = line[: line.index("<")]
                lines += [pad + inner for inner in text.split("\n")]
            else:
                lines.append(line)
        text = "\n".join(lines)
    return text


def define(text: str, name: str) -> Program:
    """The function `name(world, x)` with this body; its source can be found."""
    body = "\n".join(f"    {line}" for line in text.split("\n"))
    source = (
        "def program(world, x):\n"
        "    s = dm.sum(x)\n    n = 1\n    count = dm.cast(x[2], 'int32')\n"
        f"{body}\n    return x, s, n\n"
    )
    file = f"<{name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    scope: dict[str, Any] = {"dm": dm}
    exec(compile(source, file, "exec"), scope)
    return scope["program"]


def nested(count: int) -> Iterator[tuple[str, str]]:
    """Names and texts of `count` functions, constructs three deep; each pair occurs early on."""
    rng = random.Random(0)
    names = list(CONSTRUCTS)
    triples = list(itertools.product(names, repeat=3))
    rng.shuffle(triples)
    pairs: set[tuple[int, str, str]] = set()
    chosen = []
    for triple in triples:
        new = {(0, *triple[:2]), (1, *triple[1:])} - pairs
        if len(new) == 2:
            pairs |= new
            chosen.append(triple)
    for k, triple in enumerate([*chosen, *triples][:count]):
        yield " / ".join(triple), nest(triple, BODIES[k % len(BODIES)])
