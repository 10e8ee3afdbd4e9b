"""Runs executables between guard pages: a read or write out of range kills the process.

As a program, `guarded.py name lengths hosts`, it runs one case, and says before each run how.
The memory outside of what belongs to a run has one of two patterns, so that results which depend
on it differ.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import dualmode as dm
from dualmode.ops.slicing import PAD
from dualmode_compiler import driver
from dualmode_compiler.graph import Graph
from dualmode_compiler.interpret import Interpreter
from graphs import Array, hosts, same, trace, values

PAGE = mmap.PAGESIZE
POISON = 0xA5  # numbers, and not the same as their neighbours' halves
OTHER = 0xFF  # NaN, -1 or True


class Guarded:
    """Memory of whole pages between two pages that nobody may touch."""

    def __init__(self, size: int, poison: int = POISON) -> None:
        pages = max(-(-size // PAGE), 1)
        self._map = mmap.mmap(-1, (pages + 2) * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        libc = ctypes.CDLL(None, use_errno=True)
        for guard in (start, start + (pages + 1) * PAGE):
            if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.start, self.stop = start + PAGE, start + (pages + 1) * PAGE
        ctypes.memset(self.start, poison, pages * PAGE)

    def array(self, like: Array, at_end: bool, shift: int = 0) -> Array:
        """An array of the kind of `like`, against one of the guard pages."""
        place = self.stop - like.nbytes if at_end else self.start + shift
        memory = (ctypes.c_char * like.nbytes).from_address(place)
        return np.frombuffer(memory, like.dtype, like.size).reshape(like.shape)


def run(executable: driver.Executable, graph: Graph, at_end: bool, shifted: bool) -> None:
    """Run with every buffer against a guard page, and compare with the interpreter.

    Args:
        graph: what `executable` was made from.
        at_end: buffers end where the page ends; else they start where it starts.
        shifted: or one element after that, so that they lie on no vector's boundary.
    """
    arrays = [values(n.spec, k) for k, n in enumerate(graph.params)]
    outputs, states = Interpreter(graph).run(arrays)
    results = between_guards(executable, graph, arrays, at_end, shifted)
    for actual, expected in zip(results, [*outputs, *states], strict=True):
        same(actual, expected, ulp=64)


def between_guards(
    executable: driver.Executable,
    graph: Graph,
    arrays: Sequence[Array],
    at_end: bool,
    shifted: bool,
    poison: int = POISON,
) -> list[Array]:
    """Outputs and new states of a run with every buffer against a guard page; see `run`.

    Args:
        poison: the byte that outputs, the arena, and what surrounds all buffers are filled with.
    """
    code = executable.native()
    held: list[Guarded] = []

    def place(like: Array, fill: bool = True) -> Array:
        shift = like.itemsize if shifted else 0
        held.append(Guarded(like.nbytes + shift, poison))
        array = held[-1].array(like, at_end, shift)
        if fill:
            array[...] = like
        return array

    empty = [np.empty(n.spec.shape, n.spec.dtype.numpy) for n in graph.outputs]
    params, results = [place(a) for a in arrays], [place(a, fill=False) for a in empty]
    constants = [place(a) for a in code.constants]
    arena = Guarded(code.arena, poison)
    table = np.zeros(code.size, np.uintp)
    for slots, buffers in ((code.slots.params, params), (code.slots.outputs, results)):
        for slot, array in zip(slots, buffers, strict=True):
            table[slot] = array.ctypes.data
    table[code.slots.arena] = arena.stop - code.arena if at_end else arena.start
    table[code.slots.callback] = code.fixed()[0]
    for k, array in enumerate(constants, code.slots.callback + 1):
        table[k] = array.ctypes.data
    assert code._run(table.ctypes.data) == 0
    updated = [k for k, _ in graph.updates]
    results += [params[k] for k in updated]
    for k, (actual, before) in enumerate(zip(params, arrays, strict=True)):
        assert k in updated or actual.tobytes() == before.tobytes(), "an input was written to"
    return [np.array(a) for a in results]


Lengths = Sequence[int]


def lengthwise(fn: Callable[..., Any], *shapes: str, states: int = 0) -> Callable[[Lengths], Graph]:
    """A graph that applies `fn` to parameters of each length `n` that these specs name."""

    def graph(lengths: Lengths) -> Graph:
        specs = [re.sub(r"\bn\b", str(n), s) for n in lengths for s in shapes]
        count = len(shapes)

        def every(*xs: Any) -> Any:
            made: list[Any] = []
            for k in range(len(lengths)):
                made += fn(*xs[k * count : (k + 1) * count])
            return made

        def update(*xs: Any) -> Any:
            new = every(*xs)
            return new[: states * len(lengths)], new[states * len(lengths) :]

        return trace(update if states else every, *specs, states=states * len(lengths))

    return graph


def _scan(x: Any, y: Any) -> list[Any]:
    return [dm.exp(x) * y, dm.flip(x), x[::2] + 1.0, dm.cumulative_sum(x), dm.argmax(x, 0)]


def _index(x: Any, i: Any) -> list[Any]:
    padded = PAD(x, low=(2,), high=(1,), interior=(2,), value=1)
    return [padded, dm.concat([x, i, x]), dm.take(x, dm.cast(i, "int64") * 0 - 1, 0), dm.roll(x, 1)]


def _crowded(x: Any, n: Any) -> list[Any]:
    """Products with columns at the end of rows so far apart that they are packed by rows."""
    some = 64 + n.shape[0]
    return [
        dm.matmul(x[:, -some:], x[:, -100:], True, False),
        dm.matmul(x[:130, -150:], x[:150, -some:]),
    ]


def _chunks(x: Any, y: Any) -> list[Any]:
    """Work that is cut for threads: the last chunk has the tail."""
    moved = [dm.stack([y, y + 1.0, y * 2.0], 1), dm.flip(x), x[::2] * 2.0, dm.concat([x, x[1:]])]
    # Its largest is the last; it is a result, as between other values none would see what is read.
    rising = dm.tanh(x) * 0.25 + dm.arange(x.shape[0], dtype="float32")
    return [*moved, dm.exp(x), dm.cumulative_sum(x), rising, dm.argmax(rising, 0), dm.sum(x)]


_AT = np.array([1, 1, -1, 0, 8, 8, 2, 3, -9])  # repeated, negative

CASES: dict[str, Callable[[Lengths], Graph]] = {
    "elementwise": lengthwise(_scan, "float32[n]", "float32[n]"),
    "wide": lengthwise(
        lambda x, y: [dm.tanh(x) + dm.cast(y, "float64"), dm.cast(x, "float32")],
        *("float64[n]", "int16[n]"),
    ),
    "narrow": lengthwise(
        lambda a, b, c: [dm.logical_not(a), b + 1, dm.cast(c, "int8"), c * c, dm.cast(b, "bool")],
        *("bool[n]", "uint8[n]", "float16[n]"),
    ),
    "odd": lengthwise(
        lambda a, b: [dm.exp(a), dm.cast(a, "float16"), b + b, dm.sum(dm.real(b), 0)],
        *("bfloat16[n]", "complex128[n]"),
    ),
    "index": lengthwise(_index, "float32[n]", "float32[n]"),
    "rows": lengthwise(
        lambda x: [dm.softmax(x), dm.sum(x, 1), dm.max(x, 0), dm.argmin(x, 1), dm.transpose(x)],
        "float32[3,n]",
    ),
    "columns": lengthwise(
        lambda x: [dm.softmax(x, 0), dm.sum(x, 0), dm.min(x, 1), dm.transpose(x) * 2.0, x - x[0]],
        "float32[n,5]",
    ),
    "moved": lengthwise(
        lambda x, y: [dm.transpose(x), dm.pad(x, 1), dm.roll(x, 3, 1), dm.concat([x, y], 1)],
        *("float32[20,n]", "float32[20,70]"),
    ),
    "turned": lengthwise(
        lambda x, y: [dm.transpose(x), dm.transpose(y) > 0, dm.transpose(y) + y[0, 0]],
        *("int8[n,33]", "float64[n,18]"),
    ),
    "apart": lengthwise(
        lambda x: [*(x[::s] for s in (-1, 2, -2, 3, 4, -4)), dm.repeat(x, 3), dm.stack([x, x], 1)],
        "float32[n]",
    ),
    "prefix": lengthwise(
        lambda x: [dm.cumulative_sum(x, axis=0), dm.cumulative_sum(x, axis=1), x.at[_AT].add(x)],
        "float32[9,n]",
    ),
    "matmul": lengthwise(
        lambda x, w, b: [x @ w, dm.relu(dm.transpose(x) @ dm.transpose(w) + b), dm.sum(x @ w)],
        *("float32[3,n]", "float32[n,3]", "float32[n]"),
    ),
    "gemm": lengthwise(
        lambda x, w: [x @ w, dm.tanh(x @ w) + x[:, :1], dm.matmul(w, x, True, True)],
        *("float32[40,41]", "float32[41,n]"),
    ),
    "halves": lengthwise(
        lambda x, w: [x @ w, dm.tanh(dm.matmul(x, w)), dm.matmul(w, x, True, True)],
        *("bfloat16[40,41]", "bfloat16[41,n]"),
    ),
    "pairs": lengthwise(
        lambda x, w: [dm.matmul(x, w, False, True), dm.matmul(w, x, False, True)],
        *("bfloat16[33,42]", "bfloat16[n,42]"),
    ),
    "double": lengthwise(
        lambda x, w: [dm.matmul(x, w, False, True), dm.flip(x) @ dm.transpose(w) * 2.0],
        *("float64[n,60]", "float64[33,60]"),
    ),
    "strides": lengthwise(
        lambda x, w: [x[:, ::2] @ w[::2], dm.flip(x) @ w * 2.0, dm.matmul(w, x, True, True)],
        *("float32[n,30]", "float32[30,n]"),
    ),
    "vectors": lengthwise(
        lambda x, v, u: [x @ v, u @ x, dm.relu(dm.transpose(x) @ u), dm.flip(x) @ v],
        *("float32[n,80]", "float32[80]", "float32[n]"),
    ),
    "deep": lengthwise(
        lambda x, w: [x @ w, dm.tanh(dm.matmul(x, x, False, True))],
        *("float32[n,1100]", "float32[1100,9]"),
    ),
    "crowded": lambda lengths: lengthwise(_crowded, "float32[160,2048]", "float32[n]")(
        lengths[2::6]
    ),
    "chunks": lambda lengths: lengthwise(_chunks, "float32[n]", "float32[99991]")(
        [100_000 + n for n in lengths[4::12]]
    ),
    "states": lengthwise(
        lambda v: [dm.softmax(v) - v * 0.5 + dm.sum(v, 0)], "float32[2,n]", states=1
    ),
}


def main(name: str, lengths: Lengths, which: Sequence[int]) -> None:
    graph = CASES[name](lengths)
    for k in which:
        executable = driver.compile(graph, host=hosts()[k])
        for at_end, shifted in ((True, False), (False, False), (False, True)):
            print(f"host {k}, {'end' if at_end else 'start'}, shifted {shifted}", flush=True)
            run(executable, graph, at_end, shifted)


if __name__ == "__main__":
    main(sys.argv[1], eval(sys.argv[2]), eval(sys.argv[3]))
