# ruff: noqa: E501
"""Mutations of the compiler, each of which must make a test fail.

A mutation turns one pass off, or makes one rule, mask or bound wrong. It is applied to a copy of
the packages, and the quick tests that it names run on that. One that no test notices has survived:
then a test is missing.

    python tests/mutate.py                 all of them
    python tests/mutate.py gemm plan       those of these groups, or with these names
    python tests/mutate.py --list
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMPILER = "compiler/dualmode_compiler"
COPIED = ("dualmode", "compiler", "tests", "pyproject.toml")
LIMIT = 120  # seconds after which tests count as failed: code may hang


@dataclass(frozen=True)
class Mutation:
    """`old`, which is in the file exactly once, becomes `new`; then one of `tests` fails.

    Attributes:
        name: the group and what is wrong.
        file: below the compiler's package.
        tests: arguments of pytest, of which each runs by itself, in order.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def path(self) -> str:
        return f"{COMPILER}/{self.file}"

    def occurrences(self, root: Path = ROOT) -> int:
        return (root / self.path).read_text().count(self.old)

    def __str__(self) -> str:
        return self.name


def _levels(*names: str) -> str:
    return f"tests/compiler/test_levels.py -k '{' or '.join(names)}'"


def _guarded(*names: str) -> str:
    return f"tests/compiler/test_memory_safety.py -k '{' or '.join(names)}'"


PASSES = "tests/compiler/test_passes.py"
CONTROL = "tests/compiler/test_control_passes.py"
NATIVE = "tests/compiler/test_native_control.py"
PLAN = "tests/compiler/test_plan.py"
GEMM = "tests/compiler/test_gemm.py"
HALVES = "tests/compiler/test_halves.py"
EMIT = "tests/compiler/test_emit.py"
MOVED = "tests/compiler/test_movement.py"
SUMS = "tests/compiler/test_reductions.py"
LOWER = "tests/compiler/test_lower.py"
STREAMS = "tests/compiler/test_streams.py"
MIXED = ("tests/compiler/test_epilogue.py",)
ROWS = ("tests/compiler/test_sums.py",)
BEFORE = ("tests/compiler/test_prologue.py",)
MATRIX = (_levels("matmul"), _guarded("gemm", "double"), GEMM)

MUTATIONS: tuple[Mutation, ...] = (
    # --- passes
    Mutation("passes: no constant folding", "passes/__init__.py",
        "(simplify, fold)", "(simplify,)", (_levels("by_level"),)),
    Mutation("passes: no merging", "passes/__init__.py",
        "*(merge, inline, *PIPELINE)", "*(inline, *PIPELINE)", (CONTROL,)),
    Mutation("passes: no merging without optimization", "passes/__init__.py",
        "steps: tuple[Pass, ...] = (merge,) if owns_graphs(graph) else ()",
        "steps: tuple[Pass, ...] = ()", ("tests/test_optimization.py",)),
    Mutation("passes: no inlining", "passes/inline.py",
        "    inner = cache(inline)", "    return graph\n    inner = cache(inline)", (CONTROL,)),
    Mutation("passes: no pruning", "passes/prune.py",
        "    read = items_read(graph)", "    return graph\n    read = items_read(graph)", (CONTROL,)),
    Mutation("passes: no hoisting", "passes/hoist.py",
        "    inner = cache(hoist)", "    return graph\n    inner = cache(hoist)", (CONTROL,)),
    Mutation("passes: constants fold through effects", "passes/fold.py",
        " or node.op.effect", "", (PASSES,)),
    Mutation("passes: what may raise is hoisted", "passes/hoist.py",
        "if certain or work < math.inf:", "if True:", (CONTROL, NATIVE)),
    Mutation("passes: the last branch for a number too large only", "passes/inline.py",
        "branches[k if 0 <= k < len(branches) else -1]",
        "branches[max(0, min(k, len(branches) - 1))]", (CONTROL, NATIVE)),
    Mutation("passes: what a condition reads is dropped", "passes/prune.py",
        "needed |= {k for k in _read(cond) if k < carried}", "pass", (CONTROL, NATIVE)),
    Mutation("passes: a loop's dependences are followed once", "passes/prune.py",
        "        needed |= more\n", "        return sorted(needed | more)\n", (_levels("in_a_row"),)),
    Mutation("passes: results that differ between branches", "passes/prune.py",
        "if any((n.op, n.attrs) != (one.op, one.attrs) for n in outputs):", "if False:",
        (CONTROL, NATIVE)),
    Mutation("passes: no algebraic rules", "passes/simplify.py",
        "return rebuild(graph, apply_rules)", "return graph", (PASSES,)),
    Mutation("passes: effects are merged", "passes/merge.py",
        "if not (group and node.effect):", "if True:", (CONTROL, "tests/test_optimization.py")),
    Mutation("graph: equal effects are one", "graph.py",
        "            self.effects.append(node)\n        else:\n",
        "            self.effects.append(node)\n        if True:\n", ("tests/compiler/test_graph.py",)),
    # --- what goes with products
    Mutation("mixing: off", "emit/kernel.py",
        "epilogue if epilogue.mixing else None", "None", MIXED),
    Mutation("mixing: polynomials among the sums", "epilogues.py",
        "return ASKS if loops or max(costs) > SHORT or sum(costs) > WORK else WAITS", "return WAITS",
        MIXED),
    Mutation("mixing: arrays that are near", "epilogues.py", "< FAR:", "< 0:", MIXED),
    Mutation("mixing: the last panel is forgotten", "emit/overlap.py",
        "        if self.waits:\n            last", "        if False:\n            last", MIXED),
    Mutation("mixing: one memory for two panels", "emit/overlap.py",
        'self.w.op("urem", self.w.op("sub", p, p0), 2)', '"0"', MIXED),
    Mutation("mixing: turns are left over", "emit/overlap.py",
        "*divmod(self.length, rounds)", "self.length // rounds, 0", MIXED),
    Mutation("mixing: fewer turns than vectors", "emit/overlap.py",
        "self.length < turns * t.tallest * t.vectors", "False",
        ("tests/compiler/test_epilogue.py -k where",)),
    Mutation("mixing: columns that need masks", "emit/overlap.py",
        "self.ragged = self.g.n % self.width > 0", "self.ragged = False", MIXED),
    Mutation("mixing: nothing comes before the first panel", "emit/overlap.py",
        "icmp ne i64 {p}, {p0}", "icmp uge i64 {p}, {p0}", MIXED),
    Mutation("mixing: panels of one height", "emit/overlap.py",
        "        if waiting.is_tall:\n", "        if False:\n", MIXED),
    Mutation("mixing: stretches begin anew", "emit/epilogue.py",
        "body.load_tile() if resumes", "body.load_tile() if False", MIXED),
    Mutation("mixing: rows do not end", "emit/epilogue.py",
        "select i1 {end}, i64 0, i64 {column}", "select i1 {end}, i64 {column}, i64 {column}",
        MIXED),
    Mutation("epilogue: blocks of inner products are equally wide", "emit/epilogue.py",
        "if most < lanes and most in (1, self.inner.extent):", "if most < lanes:",
        ("tests/compiler/test_fusion.py -k few_columns",)),
    Mutation("epilogue: few columns are whole vectors", "emit/epilogue.py",
        "wide, mask_text(active, wide))", "wide)",
        ("tests/compiler/test_fusion.py -k few_columns", _guarded("gemm"))),
    Mutation("joined: off", "lower.py", "        steps = joined(steps)\n", "        pass\n", ROWS),
    Mutation("joined: what needs the other", "sums.py",
        "if not {*late.reads()} & {*early.writes()}:", "if True:", ROWS),
    Mutation("joined: what comes between", "sums.py",
        "if not {*late.reads()} & written and not {*late.writes()} & (read | written):", "if True:",
        ROWS),
    Mutation("joined: other rows", "sums.py",
        "found == ({k: g.b[0], n: 1}, c.b[1]) and (n.extent, k.extent) == (g.n, g.k)",
        "n.extent == g.n", ROWS),
    Mutation("joined: once for each block", "emit/product.py", "icmp eq i64 {ib}, 0", "icmp uge i64 {ib}, 0",
        ROWS),
    Mutation("joined: stretches begin anew", "emit/product.py",
        'f"ptr %sums, i64 {k0})"', 'f"ptr %sums, i64 0)"', ROWS),
    Mutation("joined: rows are left over", "emit/sums.py",
        "icmp ult i64 {done}, %k", "icmp ugt i64 {done}, %k", ROWS),
    Mutation("joined: where the product is turned around", "sums.py",
        "if gathers(g.transposed()):", "if False:", ROWS),
    Mutation("joined: zeros lose their sign", "emit/sums.py", "{e.type} -0.0", "{e.type} 0.0", ROWS),
    Mutation("prologue: off", "lower.py",
        "if self.optimization > 1 and computes_operands(", "if False and computes_operands(", BEFORE),
    Mutation("prologue: columns of A", "contraction.py",
        "place[0].get(along, 0) not in (0, 1)", "False", BEFORE),
    Mutation("prologue: B along K", "contraction.py", " or b.strides.get(k) == 1", "", BEFORE),
    Mutation("prologue: inner products", "contraction.py",
        "if n.extent <= THIN and k.extent >= LONG_DOT:", "if False:", BEFORE),
    Mutation("prologue: many columns", "contraction.py", "n.extent > NARROW", "False", BEFORE),
    Mutation("prologue: stretches begin anew", "emit/product.py",
        'i64 {row}, i64 {k0}, "', 'i64 {row}, i64 0, "', BEFORE),
    Mutation("prologue: every stretch of B is the first", "emit/product.py",
        'i64 {self.flat}, i64 {k0}, "', 'i64 {self.flat}, i64 0, "', BEFORE),
    Mutation("prologue: every micro-tile of B is the first", "emit/product.py",
        "i64 {w.op('add', self.j0, first)}, i64 {length}", "i64 {self.j0}, i64 {length}", BEFORE),
    # --- lowering
    Mutation("lower: bound axes meet", "lowered.py", "    if taken:\n", "    if False:\n", (LOWER,)),
    Mutation("lower: 0.0 is -0.0", "lower.py",
        "raw = flat.view(np.dtype((np.void, array.itemsize)))", "raw = flat", (LOWER, EMIT)),
    Mutation("lower: other elements of a finished contraction", "clusters.py",
        '            return "it needs other elements of a contraction than the finished ones"\n',
        '            return ""\n', (LOWER, GEMM, EMIT)),
    Mutation("staging: the rest of a cut reduction", "staging.py",
        "rest = over(end, cut.rest) if cut.rest else None", "rest = None", (SUMS, EMIT, _levels("sum"))),
    Mutation("staging: positions count from each part", "staging.py",
        "return total + start * inner if position else total", "return total",
        (_levels("argmax", "argmin"), SUMS)),
    Mutation("staging: NaN does not win", "staging.py",
        'return expr.apply("or", better, nan)', "return better", (_levels("argmax"), SUMS, EMIT)),
    Mutation("folds: places that overlap count as apart", "folds.py",
        "abs(step) <= reach", "abs(step) < reach", (_levels("scatter"), MOVED)),
    Mutation("split: the last part is missing", "split.py",
        "for start, stop in pairwise(bounds):\n", "for start, stop in pairwise(bounds[:-1]):\n", (MOVED,)),
    Mutation("split: one place more is known to be beyond", "split.py",
        "less, more = a[1] <= b[0], a[0] >= b[1]", "less, more = a[1] <= b[0], a[1] >= b[1]", (MOVED,)),
    Mutation("copies: what others read is not stored", "copies.py",
        "readers[source] == writers[source] == 1", "writers[source] == 1", (MOVED, PLAN)),
    # --- plan
    Mutation("plan: in place whatever is read", "plan.py",
        "        e.index[0] is offset\n", "        True\n", (PLAN, _levels("drawn"))),
    Mutation("plan: a state is stored before it is read", "plan.py",
        "        for b in before:\n            order.after[b].add(writer)\n        self.places", "        self.places",
        (PLAN, _levels("drawn"))),
    Mutation("plan: copies do not wait for readers", "plan.py",
        "order.append(Copy(value, state), before=order.before_write(state))",
        "order.append(Copy(value, state))", (PLAN, _levels("drawn"))),
    Mutation("plan: outputs read states too late", "plan.py",
        "        if node.op is PARAM and place.at in self.states:\n", "        if False:\n",
        (PLAN, _levels("drawn"))),
    Mutation("plan: memory is free one step early", "plan.py",
        "for b in [b for b in held if last[b] == k]", "for b in [b for b in held if last[b] <= k + 1]",
        (PLAN, _levels("drawn"))),
    Mutation("plan: failing calls after writes", "plan.py",
        "return {*readers, *self.calls.values()} if self.lasting else {*readers}",
        "return {*readers}", (PLAN,)),
    # --- matrix products
    Mutation("splitk: the rest is left out", "splitk.py",
        "    if rest:", "    if False:", ("tests/compiler/test_splitk.py",)),
    Mutation("splitk: parts overlap", "splitk.py",
        "products = _over(c.reduce, part * size, size)",
        "products = _over(c.reduce, part * (size - 1), size)", ("tests/compiler/test_splitk.py",)),
    Mutation("halves: half a pair is dropped", "emit/half.py",
        "with w.when(odd):", 'with w.when("false"):', (HALVES,)),
    Mutation("halves: the last pair has another element", "emit/packing.py",
        "half.terms, w.op(", "half.terms + 1, w.op(", (HALVES,)),
    Mutation("halves: pairs of odd rows in place", "halves.py",
        "for x in (g.k, am,", "for x in (g.k,", (HALVES,)),
    Mutation("halves: pairs without flushing", "halves.py",
        "half.source is bfloat16 and half.flushed and", "half.source is bfloat16 and", (HALVES,)),
    Mutation("tuner: any entry is believed", "tuner.py",
        "return found if found.tiling in candidates(g, host, epilogue) else None", "return found",
        ("tests/compiler/test_tuner.py",)),
    Mutation("tuner: choices are for any number of threads", "tuner.py",
        "epilogue, pool.num_threads()))", "epilogue))", ("tests/compiler/test_tuner.py",)),
    Mutation("gemm: the mask has a lane more", "emit/simd.py",
        'icmp ult {integers} <{steps}>, {limit}', 'icmp ule {integers} <{steps}>, {limit}', MATRIX),
    Mutation("gemm: the first vector is masked", "emit/gemm.py",
        "if vector == self.spec.vectors - 1 else None", "if vector == 0 else None", MATRIX),
    Mutation("gemm: sums start anew", "emit/gemm.py",
        '"icmp ne i64 %add, 0"', '"icmp ne i64 0, 0"', (GEMM, _guarded("deep"))),
    Mutation("gemm: the tail has whole vectors", "emit/panels.py",
        "tail - (vectors - 1) * lanes", "lanes", MATRIX),
    Mutation("gemm: the tail is one tile on", "emit/panels.py",
        "last = self.tiles // self.across - 1 if", "last = self.tiles // self.across if", MATRIX),
    Mutation("gemm: the last stretch of K is whole", "emit/product.py",
        'length = w.minimum(w.op("sub", g.k, k0), t.depth)', "length = str(t.depth)",
        (GEMM, _guarded("deep"))),
    Mutation("gemm: the stretches of K do not add up", "emit/product.py",
        'add = k0 if self.stretches > 1 else "0"', 'add = "0"', (GEMM, _guarded("deep"))),
    Mutation("gemm: panels beyond the last", "emit/product.py",
        'p1 = w.minimum(w.op("add", p0, t.panels_per_block), t.panels)',
        'p1 = w.op("add", p0, t.panels_per_block)', MATRIX),
    Mutation("gemm: no row more in tall panels", "emit/packing.py",
        'i64 {t.rows + 1}, i64 {t.rows}', 'i64 {t.rows}, i64 {t.rows}', MATRIX),
    Mutation("gemm: tall panels do not move the others", "emit/packing.py",
        'row = w.op("add", row, w.minimum(p, t.taller))', "pass", MATRIX),
    Mutation("gemm: the first panel packs nothing", "emit/gemm.py",
        "e.store(w, y, w.at(p[0], e.type, v * e.lanes))", "pass", (GEMM,)),
    Mutation("gemm: columns that are not there are turned", "emit/gemm.py",
        'w.op("mul", w.minimum(last, j), "%bs")', 'w.op("mul", "%bs", j)',
        (_guarded("gemm", "double", "strides", "deep", "matmul"),)),
    Mutation("pack: columns that are not there", "emit/pack.py",
        'e.mask(w, w.minimum("%columns", e.lanes))', "e.mask(w, str(e.lanes))",
        (_guarded("crowded"),)),
    Mutation("pack: the last column is not repeated", "emit/pack.py",
        'w.op("mul", w.minimum(last, j), "%sn")', 'w.op("mul", str(j), "%sn")',
        (_guarded("gemm", "double", "strides", "deep"), GEMM)),
    Mutation("pack: the last group does not overlap", "emit/pack.py",
        "i = w.minimum(turn, final)", "i = turn", (_guarded("gemm", "double", "strides", "deep"), GEMM)),
    Mutation("eager products: the last part has no rest", "generic/block.py",
        'self._choose(w, final, self._get(w, "rest"), 0)', '"0"', ("tests/test_native.py -k long_sums",)),
    Mutation("eager products: an odd K is in place", "generic/half_product.py",
        'w.emit(f"icmp eq i64 {odd}, 0") if self.half.pairs else "false"', '"true"',
        ("tests/compiler/test_generic.py -k products",)),
    Mutation("eager products: gathered rows are a place off", "generic/block.py",
        'w.at(strips, e.type, w.op("add", w.op("mul", j, apart), k))',
        'w.at(strips, e.type, w.op("add", w.op("mul", j, self.steps), k))',
        ("tests/compiler/test_generic.py -k products",)),
    Mutation("workspace: a block that is too small", "runtime/workspace.py",
        "icmp uge i64 %size, %bytes", "icmp uge i64 %size, 1", ("tests/compiler/test_workspace.py",)),
    Mutation("workspace: all of it on the stack", "emit/room.py",
        "STACK = 1 << 14", "STACK = 1 << 30", ("tests/compiler/test_workspace.py",)),
    Mutation("gemm: gathered rows are a place off", "emit/packing.py",
        "place = w.at(target, e.type, i * self.ldp)", "place = w.at(target, e.type, i * g.k)", (GEMM,)),
    Mutation("dot: columns beyond the last", "emit/panels.py",
        'left = w.op("sub", self.columns, j)', "left = str(DOT_COLUMNS)",
        (_guarded("vectors", "matmul"), GEMM)),
    Mutation("dot: the rest of K without a mask", "emit/dot.py",
        "at, sums, e.mask(w, left)", "at, sums, None", (_guarded("vectors"), GEMM)),
    # --- elementwise loops
    Mutation("nest: loads without masks", "emit/nest.py",
        "        if lanes == 1 or mask is None:\n            return self.w.emit(f\"load",
        "        if True:\n            return self.w.emit(f\"load", (_guarded("elementwise", "rows"),)),
    Mutation("nest: stores without masks", "emit/nest.py",
        "        if lanes == 1 or mask is None:\n            self.w.line(f\"  store",
        "        if True:\n            self.w.line(f\"  store", (_guarded("elementwise", "rows"),)),
    Mutation("rows: long chains one vector at a time", "emit/rows.py",
        "operations(values) >= DEEP", "False", ("tests/compiler/test_fusion.py -k words",)),
    Mutation("nest: gathers without masks", "emit/nest.py",
        "elif scope.mask is None:\n                out = gather", "elif True:\n                out = gather",
        (_guarded("index", "elementwise", "prefix"), _levels("take"), EMIT)),
    Mutation("levels: the second piece of a tail is missing", "emit/levels.py",
        "    if left > at:\n", "    if left > at and not at:\n", (_levels("tanh", "add"), EMIT)),
    Mutation("rows: chunks run on", "emit/rows.py",
        "select i1 {inside}, i64 {end}, i64 {outer.extent}", "select i1 {inside}, i64 {end}, i64 {end}",
        (_levels("add", "multiply", "tanh"), "tests/compiler/test_threads.py")),
    Mutation("chunks: the last part runs on", "emit/chunks.py",
        "minimum(w, end, extent), -(-extent // size)", "end, -(-extent // size)",
        (_levels("permute", "cumulative"), MOVED, SUMS)),
    Mutation("streams: the head without a mask", "emit/streams.py",
        "self.nest.scope(self.axis, at, self.body, lanes, mask)",
        "self.nest.scope(self.axis, at, self.body, lanes, None)", (STREAMS,)),
    Mutation("streams: the end without a mask", "emit/streams.py",
        "nest.scope(self.axis, full, self.body, self.lanes, mask)",
        "nest.scope(self.axis, full, self.body, self.lanes, None)", (STREAMS,)),
    Mutation("columns: the last group of rows runs on", "emit/columns.py",
        "end = minimum(w, w.emit(f\"add nuw nsw i64 {index}, {count}\"), stop)",
        "end = w.emit(f\"add nuw nsw i64 {index}, {count}\")", (_guarded("columns"), SUMS)),
    Mutation("half: columns that are not there", "emit/half.py",
        'mask = self.e.mask(w, w.minimum("%columns", lanes))', "mask = self.e.mask(w, str(lanes))",
        (_guarded("halves"),)),
    # --- reductions
    Mutation("reduce: what is masked counts", "emit/reduce.py",
        "        if mask is not None:\n            rest =", "        if False:\n            rest =",
        (_levels("every_length"), SUMS)),
    Mutation("reduce: the last element is missing", "emit/reduce.py",
        "enumerate(range(start, extent, self.stride))", "enumerate(range(start, extent - 1, self.stride))",
        (_levels("sum", "prod", "max"), SUMS)),
    Mutation("reduce: the loop ends a group early", "emit/reduce.py",
        '"0", str(whole), group, lambda i, phis', '"0", str(whole - group), group, lambda i, phis',
        (SUMS, _guarded("rows"), EMIT)),
    Mutation("position: the rest is missing", "emit/position.py",
        "        if whole < extent:\n            pair = self._better(", "        if False:\n            pair = self._better(",
        (_levels("argmax", "every_length"), SUMS)),
    Mutation("position: what is masked counts", "emit/position.py",
        "accs.append(self.select(mask, self.kind, value, self.worst))", "accs.append(value)",
        (_levels("every_length"), SUMS)),
    Mutation("position: the search runs on", "emit/position.py",
        'select i1 {inside}, i64 {past}, i64 {extent}', 'select i1 {inside}, i64 {past}, i64 {past}',
        (_guarded("chunks"), SUMS)),
    # --- transposes, scans, writes at indices
    Mutation("transpose: the last tile does not move back", "emit/transpose.py",
        "body(minimum(self._here(), index, extent - step), step)", "body(index, step)",
        (_guarded("moved", "turned"), MOVED)),
    Mutation("transpose: twice in place", "emit/transpose.py",
        "self.twice = offsets.isdisjoint(read)", "self.twice = True", (MOVED, EMIT)),
    Mutation("transpose: tails without a mask", "emit/transpose.py",
        "mask = mask_text(columns, lanes)", "mask = None", (_guarded("moved", "turned"), MOVED)),
    Mutation("transpose: rows that are not there", "emit/transpose.py",
        "nest.read(x.dtype, place, width, mask_text(rows, width))",
        "nest.read(x.dtype, place, width, None)", (_guarded("moved", "turned"), MOVED)),
    Mutation("interleave: nothing after the vectors", "emit/interleave.py",
        "            if whole < self.along.extent:\n                self._rest(whole)\n", "", (_guarded("apart"), MOVED)),
    Mutation("interleave: nothing after the vectors of the last chunk", "emit/interleave.py",
        "nest.when(last, lambda: self._rest(whole))", "pass", (_guarded("chunks"), MOVED)),
    Mutation("interleave: the vectors of the last chunk run on", "emit/interleave.py",
        "end = minimum(w, stop, whole)", "end = stop", (_guarded("chunks"),)),
    Mutation("strided: the last load does not move back", "emit/strided.py",
        "[reach + 1 - lanes]", "[reach // lanes * lanes]", (_guarded("apart"), MOVED)),
    Mutation("scan: columns without a mask", "emit/scan.py",
        "nest.scope(axis, str(whole), body, width, mask_text(left, width))",
        "nest.scope(axis, str(whole), body, width, None)", (_guarded("prefix"), _levels("cumulative"))),
    Mutation("scan: the rest without a mask", "emit/scan.py",
        "self._step(at, self._spread(carry, 0, lanes), lanes, mask_text(count, lanes))",
        "self._step(at, self._spread(carry, 0, lanes), lanes, None)",
        (_guarded("prefix", "elementwise"), _levels("cumulative"))),
    Mutation("scan: in reverse, what is masked counts", "emit/scan.py",
        "if mask is not None and self.form.reverse:", "if False:", (MOVED, _levels("cumulative"))),
    Mutation("scan: a group of lanes takes one too early", "emit/scan.py",
        "order[(k & -2 * step) + step - 1]", "order[(k & -2 * step)]", (MOVED, _levels("cumulative"))),
    Mutation("scan: a block adds its own total", "emit/scan.py",
        "icmp ult i64 {index}, %chunk", "icmp ule i64 {index}, %chunk", (MOVED,)),
    Mutation("scan: the last block is whole", "emit/scan.py",
        "select i1 {last}, i64 {whole}, i64 {size}", "select i1 {last}, i64 {size}, i64 {size}", (MOVED,)),
    Mutation("scatter: nothing after the groups of elements", "emit/fold.py",
        "if axis.extent > whole:\n            nest", "if False:\n            nest", (MOVED,)),
    Mutation("scatter: tails without a mask", "emit/fold.py",
        "self.nest.scope(axis, str(whole), self._put, lanes, mask_text(left, lanes))",
        "self.nest.scope(axis, str(whole), self._put, lanes, None)",
        (_guarded("prefix"), _levels("scatter"), MOVED)),
    Mutation("scatter: threads meet at one place", "emit/fold.py",
        "return math.gcd(*(c for a, c in at.terms if a is not axis)) >= axis.extent",
        "return True", (MOVED, _levels("scatter"))),
)  # fmt: skip


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of what tests need, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="dualmode-mutants-") as folder:
        for name in COPIED:
            source, target = ROOT / name, Path(folder) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        yield Path(folder)


def run(tests: str, folder: Path) -> tuple[bool, str]:
    """Whether all of `tests` pass in the copy at `folder`, and what pytest says last."""
    flags = ("-x", "-q", "-p", "no:cacheprovider", "-n", "0", "--no-header", "--tb", "no")
    paths = os.pathsep.join([str(folder), str(folder / "compiler")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("PYTEST_XDIST_WORKER", "DUALMODE_CACHE_DIR", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *flags, *shlex.split(tests)],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False, f"no end after {LIMIT} s"
    lines = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    said = (lines or done.stdout.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    if done.returncode < 0:
        said = f"signal {-done.returncode}"
    if done.returncode in (4, 5):
        raise ValueError(f"pytest found no tests for {tests!r}: {done.stdout}{done.stderr}")
    return done.returncode == 0, said


def killed_by(mutation: Mutation, folder: Path) -> str:
    """What noticed `mutation`, in the copy at `folder`; empty if nothing did."""
    path = folder / mutation.path
    text = path.read_text()
    assert text.count(mutation.old) == 1, f"{mutation}: not exactly once in {mutation.file}"
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
        for tests in mutation.tests:
            passed, said = run(tests, folder)
            if not passed:
                return said
        return ""
    finally:
        path.write_text(text)


def survivors(mutations: Sequence[Mutation], say: bool = True) -> list[Mutation]:
    """Those of `mutations` that no test notices."""
    found: list[Mutation] = []
    with copied() as folder:
        for mutation in mutations:
            start = time.perf_counter()
            said = killed_by(mutation, folder)
            if not said:
                found.append(mutation)
            if say:
                took = f"{time.perf_counter() - start:.0f} s"
                print(
                    f"{'killed  ' if said else 'SURVIVED'} {took:>5}  {mutation}  {said}",
                    flush=True,
                )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("which", nargs="*", help="groups or names; all by default")
    parser.add_argument("--list", action="store_true", help="list them and run nothing")
    options = parser.parse_args()
    chosen = [
        m
        for m in MUTATIONS
        if not options.which or any(m.name == w or m.name.split(":")[0] == w for w in options.which)
    ]
    stale = [m for m in MUTATIONS if m.occurrences() != 1]
    for m in stale:
        print(f"STALE: {m}: its text is {m.occurrences()} times in {m.file}")
    if options.list:
        print(*chosen, sep="\n")
        return bool(stale)
    return bool(survivors([m for m in chosen if m not in stale]) or stale)


if __name__ == "__main__":
    sys.exit(main())
