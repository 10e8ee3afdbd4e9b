"""Tilings of matrix products chosen by measurement on this machine.

The cost model (`tiling`) gives a few cuts of a product; the code of each is timed on operands of
the same sizes and strides, and the choice is kept in the cache on disk, by all that it depends on.
Every cut adds up the same terms in the same order, so that choices change how long a product takes
and no bit of its result.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple, replace

import numpy as np

from . import contract
from .artifact import source_version
from .contraction import is_plain
from .loops import Control, Kernel, Step
from .records import dataclass
from .runtime import cache as store
from .runtime import jit, pool
from .tiling import WISHES, Gemm, Tiling, Wish, is_flipped, tiling

# Seconds in which cuts of a product are tried, and for all products of a process; once these are
# over, the model decides.
PRODUCT, PROCESS = 0.08, 4.0
# Products of fewer multiply-adds are not measured, nor those of more bytes.
SMALL, BYTES = 1 << 15, 1 << 28
# Multiply-adds from which only a part of a product is measured, and the rows that it has at least.
LARGE, ROWS = 1 << 27, 192
# What a cut has to be quicker by than the model's to be chosen: less may be chance.
GAIN = 1.03
# Seconds of one timing, and how many there are at least, and at most, of the quickest cuts.
SLICE, ROUNDS = 0.0005, (3, 8)
# How much slower a cut may have been once to be timed again.
NEAR = 1.25

_RUN = """
declare void @dm_pool_run(ptr, ptr, i64, i64)
declare ptr @dm_workspace(i64)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

{text}
define void @run(ptr %bufs, i64 %times) {{
entry:
  br label %turn
turn:
  %k = phi i64 [ 0, %entry ], [ %next, %turn ]
  call void @dm_pool_run(ptr @product, ptr %bufs, i64 {chunks}, i64 {work})
  %next = add i64 %k, 1
  %more = icmp ult i64 %next, %times
  br i1 %more, label %turn, label %done
done:
  ret void
}}
"""
# In place of an epilogue: a panel is copied to C.
_EPILOGUE = """
define internal void @epilogue(ptr %bufs, i64 %batch, i64 %i0, i64 %j0, i64 %mr, i64 %nr,
                               ptr %tile, i64 %ldt) {{
entry:
  %slot = getelementptr ptr, ptr %bufs, i64 2
  %out = load ptr, ptr %slot
  %skip = mul i64 %batch, {rows}
  %first = add i64 %skip, %i0
  %length = mul i64 %nr, {size}
  br label %row
row:
  %r = phi i64 [ 0, %entry ], [ %next, %row ]
  %at = mul i64 %r, %ldt
  %from = getelementptr {type}, ptr %tile, i64 %at
  %i = add i64 %first, %r
  %line = mul i64 %i, {columns}
  %place = add i64 %line, %j0
  %to = getelementptr {type}, ptr %out, i64 %place
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %length, i1 false)
  %next = add i64 %r, 1
  %more = icmp ult i64 %next, %mr
  br i1 %more, label %row, label %done
done:
  ret void
}}
"""


@dataclass(frozen=True, slots=True)
class Choice:
    """What measuring a product came to.

    Attributes:
        tiling: the quickest cut.
        tried: how many were measured.
        gain: the time of the model's cut over that of this one.
    """

    tiling: Tiling
    tried: int
    gain: float

    def __str__(self) -> str:
        t = self.tiling
        packed = [name for name, mode in (("A", t.pack_a), ("B", t.pack_b)) if mode]
        return (
            f"tuned: tiles of {t.tallest} rows and {t.vectors} vectors, blocks of "
            f"{t.panels_per_block} panels and {t.columns} columns, K by {t.depth}, "
            f"{' and '.join(packed) or 'nothing'} packed; {self.gain:.2f} times as fast as the "
            f"model's choice, of {self.tried}"
        )


class _Spent:
    """Seconds that this process has measured for."""

    seconds = 0.0


_known: dict[str, Choice] = {}


def tune(steps: Iterable[Step], host: jit.Host) -> None:
    """Choose the cuts of the products among `steps`, and of the graphs that they own."""
    if host != jit.host():
        return  # another machine's code cannot be measured here
    for kernel in _kernels(steps):
        c = kernel.contraction
        if c is not None:
            c.choice = choose(c.gemm, host, not is_plain(kernel))


def _kernels(steps: Iterable[Step]) -> Iterator[Kernel]:
    for step in steps:
        if isinstance(step, Kernel):
            yield step
        elif isinstance(step, Control):
            for plan in step.plans:
                yield from _kernels(plan.steps)


def choose(g: Gemm, host: jit.Host, epilogue: bool) -> Choice | None:
    """The quickest cut of `g`: as chosen before, here or by another process, or measured now. None
    where there is only one, or no time left to measure."""
    if not SMALL <= g.macs or _bytes(g) > BYTES:
        return None
    key = _key(g, host, epilogue)
    found = _known.get(key) or _read(key, g, host, epilogue)
    if found is None:
        if _Spent.seconds >= PROCESS:
            return None
        start = time.perf_counter()
        found = _measure(g, host, epilogue, start + PRODUCT)
        _Spent.seconds += time.perf_counter() - start
        if found is not None:
            store.put(key, json.dumps(astuple(found)).encode(), _what(g))
    if found is not None:
        _known[key] = found
    return found


def _what(g: Gemm) -> str:
    return f"the tiling of {g.m} x {g.n} x {g.k}"


def _key(g: Gemm, host: jit.Host, epilogue: bool) -> str:
    versions = (source_version(os.path.dirname(__file__)), jit.llvm_version())
    said = repr((astuple(g), astuple(host), epilogue, pool.num_threads()))
    return store.digest("tiling", *versions, said)


def _read(key: str, g: Gemm, host: jit.Host, epilogue: bool) -> Choice | None:
    """What the cache says, if it is one of the cuts that there are."""
    kept = store.get(key, _what(g))
    if kept is None:
        return None
    try:
        (*values,), tried, gain = json.loads(kept)
        found = Choice(Tiling(*values), int(tried), float(gain))
    except (ValueError, TypeError):
        return None
    return found if found.tiling in candidates(g, host, epilogue) else None


def candidates(g: Gemm, host: jit.Host, epilogue: bool) -> list[Tiling]:
    """Cuts that may be quick, the model's first."""
    return list(_cuts(g, host, epilogue))


def _cuts(g: Gemm, host: jit.Host, epilogue: bool) -> dict[Tiling, Wish]:
    """The candidates, and what each comes of."""
    found: dict[Tiling, Wish] = {}
    for wish in WISHES:
        found.setdefault(_cut(g, host, epilogue, wish), wish)
    return found


def _cut(g: Gemm, host: jit.Host, epilogue: bool, wish: Wish) -> Tiling:
    return tiling(g.transposed() if is_flipped(g, host) else g, host, epilogue, wish)


def _measure(g: Gemm, host: jit.Host, epilogue: bool, end: float) -> Choice | None:
    """Time the cuts in turns, as many as there is time for, and as often."""
    cuts = _cuts(g, host, epilogue)
    if len(cuts) < 2:
        return None
    part = _part(g, host)
    operands = _Operands(part)
    runs: dict[_Run, Tiling] = {}
    for cut, wish in cuts.items():
        run = _Run(part, host, epilogue, _cut(part, host, epilogue, wish), operands)
        run.time()
        runs[run] = cut
        if time.perf_counter() > end:
            break
    tried, model = len(runs), next(iter(runs))
    model.time()  # the first one touched the memory
    for turn in range(max(ROUNDS)):
        best = min(run.best for run in runs)
        runs = {run: cut for run, cut in runs.items() if run.best < NEAR * best or run is model}
        for run in runs:
            run.time()
        if turn + 1 >= min(ROUNDS) and time.perf_counter() > end:
            break
    quickest = min(runs, key=lambda run: run.best)
    if quickest.best * GAIN > model.best:
        quickest = model
    return Choice(runs[quickest], tried, model.best / quickest.best)


def _part(g: Gemm, host: jit.Host) -> Gemm:
    """The first rows of a product that takes long: what suits them suits all."""
    rows = max(ROWS, LARGE // (g.n * g.k * g.count))
    part = replace(g, m=min(g.m, rows))
    return part if is_flipped(part, host) == is_flipped(g, host) else g


class _Operands:
    """Memory that has the sizes of a product's operands and of its result."""

    def __init__(self, g: Gemm) -> None:
        sizes = _sizes(g)
        source = g.dtype if g.half is None else g.half.source
        self.arrays = [np.ones(n, source.numpy) for n in sizes[:2]]
        self.arrays.append(np.zeros(sizes[2], g.dtype.numpy))
        self.pointers = np.array([a.ctypes.data for a in self.arrays], np.uintp)


def _sizes(g: Gemm) -> tuple[int, int, int]:
    """Elements of A, B and C."""
    batch = [[(axis[0], axis[1 + x]) for axis in g.batch] for x in range(3)]
    a = [(g.m, g.a[0]), (g.k, g.a[1]), *batch[0]]
    b = [(g.k, g.b[0]), (g.n, g.b[1]), *batch[1]]
    c = [(g.m, max(g.c, g.n)), (g.n, 1), *batch[2]]
    a, b, c = (1 + sum((extent - 1) * stride for extent, stride in x) for x in (a, b, c))
    return a, b, max(c, g.count * g.m * g.n)


def _bytes(g: Gemm) -> int:
    return sum(_sizes(g)) * g.dtype.itemsize


class _Run:
    """The code of one cut, loaded.

    Attributes:
        best: the least seconds that it took.
    """

    def __init__(
        self, g: Gemm, host: jit.Host, epilogue: bool, cut: Tiling, operands: _Operands
    ) -> None:
        self.cut, self.best, self._times = cut, math.inf, 1
        self._operands = operands
        fused = contract.Fused("epilogue" if epilogue else None)
        code = contract.emit("product", g, host, fused, cut)
        text = "\n".join([*code.helpers.values(), code.text])
        if epilogue:
            kind = "float" if g.dtype.itemsize == 4 else "double"
            text += _EPILOGUE.format(rows=g.m, columns=g.n, type=kind, size=g.dtype.itemsize)
        text = _RUN.format(text=text, chunks=code.chunks, work=g.macs)
        self._library = jit.load(jit.compile_text(text, host), ["run"], pool.symbols())
        kinds = (ctypes.c_void_p, ctypes.c_int64)
        self._run = ctypes.CFUNCTYPE(None, *kinds)(self._library["run"])

    def time(self) -> None:
        """Once more; so often in a row that it takes some time."""
        pointers = self._operands.pointers.ctypes.data
        start = time.perf_counter()
        self._run(pointers, self._times)
        seconds = (time.perf_counter() - start) / self._times
        self.best = min(self.best, seconds)
        self._times = max(1, min(1000, int(SLICE / max(seconds, 1e-9))))
