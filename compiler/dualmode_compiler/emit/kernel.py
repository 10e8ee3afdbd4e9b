"""One function per kernel: `void @name(ptr %bufs, i64 %chunk)`; `%bufs` holds base pointers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .. import contract
from ..contraction import is_plain
from ..expr import Axis, Buffer, Expr, Load, Reduce
from ..loops import Contraction, Kernel, Store, walk
from ..runtime.jit import Host
from .instructions import memory_type
from .levels import Value, iota, mask_text
from .nest import Nest
from .resident import Row, resident_rows

PARALLEL = 1 << 18  # work, in additions, from which a kernel is cut into chunks
CHUNK = 1 << 17  # work per chunk
MOST = 32  # chunks at the most


@dataclass(slots=True)
class Code:
    """A kernel's text and how to call it.

    Attributes:
        text: IR that defines `@name`.
        buffers: (buffer, byte offset) whose addresses `%bufs` holds, in order.
        chunks: how many times to call it, with chunk = 0, 1, ...; more than 1 may run in parallel.
        helpers: shared functions by name, defined once a module.
        declarations: of the intrinsics used.
        scratch: bytes of scratch memory the kernel wants; its pointer follows the buffers'.
    """

    text: str
    buffers: list[tuple[Buffer, int]]
    chunks: int = 1
    helpers: dict[str, str] = field(default_factory=dict)
    declarations: set[str] = field(default_factory=set)
    scratch: int = 0


def attributes(host: Host) -> str:
    bits = 8 * host.vector_bytes
    return f'nounwind "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}"'


def emit_kernel(kernel: Kernel, name: str, host: Host, work: float) -> Code:
    """The code of `kernel`. `work` is its cost in additions; chunks are cut by it alone."""
    if kernel.contraction is not None:
        return _contraction(kernel, kernel.contraction, name, host)
    buffers = list(dict.fromkeys([*kernel.writes(), *kernel.reads()]))
    nest = Nest(host, {})
    _pointers(nest, buffers)
    chunks = _Loops(nest, kernel, work).emit()
    text = _function(f"@{name}(ptr noalias %bufs, i64 %chunk)", nest, host)
    return Code(text, [(b, 0) for b in buffers], chunks, {}, nest.w.declarations)


def _function(signature: str, nest: Nest, host: Host) -> str:
    body = "\n".join(nest.lines)
    return (
        f"define internal void {signature} {attributes(host)} {{\nentry:\n{body}\n  ret void\n}}\n"
    )


def _pointers(nest: Nest, buffers: list[Buffer], first: int = 0) -> None:
    nest.w.lines = nest.lines
    for k, b in enumerate(buffers, first):
        slot = nest.w.emit(f"getelementptr ptr, ptr %bufs, i64 {k}")
        nest.pointers[b] = nest.w.emit(f"load ptr, ptr {slot}")


class _Loops:
    """The loop nest of a kernel without contraction."""

    def __init__(self, nest: Nest, kernel: Kernel, work: float) -> None:
        self.nest, self.kernel, self.work = nest, kernel, work
        self.by_depth: dict[int, list[Store]] = {}
        for s in kernel.stores:
            self.by_depth.setdefault(s.depth, []).append(s)
        self.vector = vector_axis(nest, kernel)
        widest = max((b.spec.dtype.itemsize for b in kernel.writes()), default=4)
        extent = self.vector.extent if self.vector is not None else 1
        self.lanes = min(nest.host.vector_bytes // max(widest, 4), 1 << (extent - 1).bit_length())

        self.rows = self._rows()

    def _rows(self) -> list[Row]:
        """Values that the innermost loop finds in a row rather than computing them again."""
        if self.vector is None:
            return []
        stored = [s.value for s in self.by_depth[len(self.kernel.axes)]]
        rows = resident_rows(stored, self.vector)
        for row in rows:
            self.nest.keep(row.value, row.reuse, self.vector)
        return rows

    def _fill_rows(self) -> None:
        for row in self.rows:
            self.nest.value(row.total)

    def emit(self) -> int:
        """Emit the nest; gives the number of chunks."""
        axes = self.kernel.axes
        chunks = self._chunks()
        if chunks == 1:
            self._axis(0)
            return 1
        outer, w = axes[0], self.nest.w
        size = math.ceil(outer.extent / chunks)
        if outer is self.vector:
            size = math.ceil(size / (4 * self.lanes)) * 4 * self.lanes
        chunks = math.ceil(outer.extent / size)
        start = w.emit(f"mul nuw nsw i64 %chunk, {size}")
        end = w.emit(f"add nuw nsw i64 {start}, {size}")
        inside = w.emit(f"icmp ult i64 {end}, {outer.extent}")
        stop = w.emit(f"select i1 {inside}, i64 {end}, i64 {outer.extent}")
        if outer is self.vector:
            self._vector_range(outer, start, stop)
        else:
            self.nest.each(outer, lambda: self._axis(1), start, stop)
        return chunks

    def _chunks(self) -> int:
        if self.work < PARALLEL or not self.kernel.axes or 0 in self.by_depth:
            return 1
        return int(min(MOST, self.work // CHUNK, self.kernel.axes[0].extent))

    def _axis(self, k: int) -> None:
        """Loops over axes k, k + 1, ..., then the stores at depth k."""
        axes = self.kernel.axes
        if k < len(axes) and axes[k].extent:
            axis = axes[k]
            if axis is self.vector:
                self._vector(axis)
            else:
                self.nest.each(axis, lambda: self._axis(k + 1))
        self._stores(k)

    def _stores(self, depth: int) -> None:
        """All values before the first store: a kernel may overwrite what it reads."""
        stores = self.by_depth.get(depth, ())
        for s in stores:
            self.nest.value(s.value)
        for s in stores:
            self.nest.store(s.buffer, s.offset, s.value)

    def _body(self) -> None:
        self._stores(len(self.kernel.axes))

    def _vector(self, axis: Axis) -> None:
        lanes, nest = self.lanes, self.nest
        self._fill_rows()
        whole = axis.extent // lanes * lanes
        if whole // lanes <= 4:
            for at in range(0, whole, lanes):
                nest.scope(axis, str(at), self._body, lanes, None)
        else:
            self._vector_loop(axis, "0", str(whole))
        self._tail(axis, whole)

    def _tail(self, axis: Axis, whole: int) -> None:
        left = axis.extent - whole
        if left:
            lanes = 1 << (left - 1).bit_length()
            self.nest.scope(axis, str(whole), self._body, lanes, mask_text(left, lanes))

    def _vector_loop(self, axis: Axis, start: str, stop: str) -> None:
        def iteration(index: str, _: list[str]) -> list[str]:
            self.nest.scope(axis, index, self._body, self.lanes, None)
            return []

        self.nest.loop(start, stop, self.lanes, iteration)

    def _vector_range(self, axis: Axis, start: str, stop: str) -> None:
        """One chunk of a vectorised axis: only the last chunk can have a tail."""
        nest, lanes = self.nest, self.lanes
        self._fill_rows()
        whole = axis.extent // lanes * lanes
        full = stop
        if whole != axis.extent:
            last = nest.w.emit(f"icmp ugt i64 {stop}, {whole}")
            full = nest.w.emit(f"select i1 {last}, i64 {whole}, i64 {stop}")
            some = nest.w.emit(f"icmp ult i64 {start}, {full}")
            nest.when(some, lambda: self._vector_loop(axis, start, full))
            nest.when(last, lambda: self._tail(axis, whole))
        else:
            self._vector_loop(axis, start, full)


def vector_axis(nest: Nest, kernel: Kernel) -> Axis | None:
    """The innermost axis, unless reductions inside it would rather use the lanes themselves."""
    if not kernel.axes or not any(s.depth == len(kernel.axes) for s in kernel.stores):
        return None
    axis = kernel.axes[-1]
    if axis.extent < 2:
        return None
    for e in walk([s.value for s in kernel.stores]):
        if isinstance(e, Reduce) and axis in e.axes:
            inner = [x for x in walk([e.body]) if isinstance(x, Load) and e.bound[-1] in x.axes]
            gathers = sum(nest.stride(x.index[0], axis) not in (0, 1) for x in inner)
            strided = sum(nest.stride(x.index[0], e.bound[-1]) not in (0, 1) for x in inner)
            if gathers > strided and e.bound[-1].extent >= 4:
                return None
    return axis


# --- contractions -------------------------------------------------------------------------------


def _contraction(kernel: Kernel, c: Contraction, name: str, host: Host) -> Code:
    plain = is_plain(kernel)
    code = contract.emit(name, c.gemm, host, None if plain else f"{name}_epilogue")
    target = kernel.stores[0].buffer
    buffers = [c.a, c.b, (target, 0)]
    text, declarations = code.text, set[str]()
    if not plain:
        epilogue, extra, declarations = _epilogue(kernel, c, f"{name}_epilogue", host)
        buffers += [(b, 0) for b in extra]
        text = epilogue + text
    return Code(text, buffers, code.chunks, dict(code.helpers), declarations, code.scratch)


def _epilogue(
    kernel: Kernel, c: Contraction, name: str, host: Host
) -> tuple[str, list[Buffer], set[str]]:
    """What happens to each finished tile: the kernel's stores, with the tile as the contraction."""
    inner = [s.value for s in kernel.stores]
    reads = {e.buffer for e in _outside(inner, c.reduce) if isinstance(e, Load)}
    first = kernel.stores[0].buffer
    extra = [
        b for b in dict.fromkeys([*kernel.writes(), *sorted(reads, key=str)]) if b is not first
    ]
    nest = Nest(host, {})
    _pointers(nest, [first, *extra], first=2)
    _Tile(nest, kernel, c).emit()
    arguments = "ptr %bufs, i64 %batch, i64 %i0, i64 %j0, i64 %mr, i64 %nr, ptr %tile, i64 %ldt"
    return _function(f"@{name}({arguments})", nest, host), extra, nest.w.declarations


def _outside(roots: list[Expr], stop: Expr) -> list[Expr]:
    """Subexpressions reached without passing through `stop`."""
    from ..expr import operands

    seen: dict[Expr, None] = {}
    stack = list(roots)
    while stack:
        e = stack.pop()
        if e is not stop and e not in seen:
            seen[e] = None
            stack.extend(operands(e))
    return list(seen)


class _Tile:
    def __init__(self, nest: Nest, kernel: Kernel, c: Contraction) -> None:
        self.nest, self.kernel, self.c = nest, kernel, c
        widest = max(b.spec.dtype.itemsize for b in kernel.writes())
        self.lanes = nest.host.vector_bytes // max(widest, c.gemm.dtype.itemsize)

    def emit(self) -> None:
        nest = self.nest
        rest = "%batch"
        for axis in reversed(self.c.batch):
            nest.w.lines = nest.lines
            at = nest.w.emit(f"urem i64 {rest}, {axis.extent}")
            rest = nest.w.emit(f"udiv i64 {rest}, {axis.extent}")
            nest.open(nest.inherit(nest.levels[-1].block), axis, at)
        nest.loop("0", "%mr", 1, self._row)

    def _row(self, index: str, _: list[str]) -> list[str]:
        nest, c, w = self.nest, self.c, self.nest.w
        w.lines = nest.levels[-1].block.lines
        at = w.emit(f"add nuw nsw i64 %i0, {index}")
        start = w.emit(f"mul nuw nsw i64 {index}, %ldt")
        kind = memory_type(c.gemm.dtype, 1)
        row = w.emit(f"getelementptr {kind}, ptr %tile, i64 {start}")
        if c.m is None:
            self._columns(row)
        else:
            nest.scope(c.m, at, lambda: self._columns(row))
        return []

    def _columns(self, row: str) -> None:
        nest, w, lanes = self.nest, self.nest.w, self.lanes
        here = nest.levels[-1].block
        w.lines = here.lines
        whole = w.emit(f"and i64 %nr, {-lanes}")
        some = w.emit(f"icmp ne i64 {whole}, 0")

        def full(index: str, _: list[str]) -> list[str]:
            self._vector(row, index, None)
            return []

        def all_full() -> None:
            nest.loop("0", whole, lanes, full)

        nest.when(some, all_full)
        w.lines = nest.levels[-1].block.lines
        left = w.emit(f"icmp ult i64 {whole}, %nr")

        def tail() -> None:
            w.lines = nest.levels[-1].block.lines
            count = w.emit(f"sub i64 %nr, {whole}")
            kind = f"<{lanes} x i64>"
            first = w.emit(f"insertelement {kind} poison, i64 {count}, i64 0")
            every = w.emit(
                f"shufflevector {kind} {first}, {kind} poison, <{lanes} x i32> zeroinitializer"
            )
            self._vector(row, whole, w.emit(f"icmp ult {kind} {iota(lanes)}, {every}"))

        nest.when(left, tail)

    def _vector(self, row: str, index: str, mask: str | None) -> None:
        nest, c, w, lanes = self.nest, self.c, self.nest.w, self.lanes
        assert c.n is not None
        w.lines = nest.levels[-1].block.lines
        at = w.emit(f"add nuw nsw i64 %j0, {index}")

        def body() -> None:
            level = nest.levels[-1]
            w.lines = level.block.lines
            kind = memory_type(c.gemm.dtype, lanes)
            place = w.emit(f"getelementptr {memory_type(c.gemm.dtype, 1)}, ptr {row}, i64 {index}")
            align = c.gemm.dtype.itemsize
            nest.memo[c.reduce] = Value(w.emit(f"load {kind}, ptr {place}, align {align}"), lanes)
            level.names.append(c.reduce)
            for s in self.kernel.stores:
                nest.value(s.value)
            for s in self.kernel.stores:
                nest.store(s.buffer, s.offset, s.value)

        nest.scope(c.n, at, body, lanes, mask)
