"""One function per kernel: `void @name(ptr %bufs, i64 %chunk)`; `%bufs` holds base pointers."""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import contract
from ..contraction import is_plain
from ..expr import Buffer, Expr, Load
from ..folds import Scan, Scatter
from ..loops import Contraction, Kernel
from ..runtime.jit import Host
from .fold import Update
from .instructions import memory_type
from .interleave import Interleave, short
from .levels import Value, iota
from .nest import Nest
from .rows import Loops
from .scan import Prefix
from .transpose import Tiles, turned


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


def emit_kernel(
    kernel: Kernel, name: str, host: Host, work: float, streams: frozenset[Buffer] = frozenset()
) -> Code:
    """The code of `kernel`.

    Args:
        work: its cost in additions; chunks are cut by it alone.
        streams: results to be stored past the caches.
    """
    if kernel.contraction is not None:
        return _contraction(kernel, kernel.contraction, name, host)
    buffers = list(dict.fromkeys([*kernel.writes(), *kernel.reads()]))
    nest = Nest(host, {})
    _pointers(nest, buffers)
    if isinstance(kernel.fold, Scatter):
        chunks = Update(nest, kernel, kernel.fold).emit()
    elif isinstance(kernel.fold, Scan):
        chunks = Prefix(nest, kernel, kernel.fold).emit()
    elif (brief := short(nest, kernel)) is not None:
        chunks = Interleave(nest, kernel, brief, work).emit()
    elif (exchanged := turned(nest, kernel)) is not None:
        chunks = Tiles(nest, kernel, exchanged, work).emit()
    else:
        chunks = Loops(nest, kernel, work, streams).emit()
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


# --- contractions -------------------------------------------------------------------------------


def _contraction(kernel: Kernel, c: Contraction, name: str, host: Host) -> Code:
    if is_plain(kernel):
        code = contract.emit(name, c.gemm, host, None, c.cut)
        buffers = [c.a, c.b, (kernel.stores[0].buffer, 0)]
        return Code(code.text, buffers, code.chunks, dict(code.helpers))
    outside = _outside([s.value for s in kernel.stores], c.reduce)
    read = sorted({e.buffer for e in outside if isinstance(e, Load)}, key=str)
    extra = list(dict.fromkeys([*kernel.writes(), *read]))
    code = contract.emit(name, c.gemm, host, f"{name}_epilogue", c.cut)
    epilogue, declarations = _epilogue(kernel, c, f"{name}_epilogue", extra, host, code.widths)
    buffers = [c.a, c.b, *((b, 0) for b in extra)]
    return Code(epilogue + code.text, buffers, code.chunks, dict(code.helpers), declarations)


def _epilogue(
    kernel: Kernel,
    c: Contraction,
    name: str,
    buffers: list[Buffer],
    host: Host,
    widths: tuple[int, int],
) -> tuple[str, set[str]]:
    """What happens to each finished tile: the kernel's stores, with the tile as the contraction.

    Args:
        widths: see `product.Code`.
    """
    nest = Nest(host, {})
    _pointers(nest, buffers, first=2)
    _Tile(nest, kernel, c, widths).emit()
    arguments = "ptr %bufs, i64 %batch, i64 %i0, i64 %j0, i64 %mr, i64 %nr, ptr %tile, i64 %ldt"
    return _function(f"@{name}({arguments})", nest, host), nest.w.declarations


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
    def __init__(self, nest: Nest, kernel: Kernel, c: Contraction, widths: tuple[int, int]) -> None:
        self.nest, self.kernel, self.c = nest, kernel, c
        self.multiple, self.most = widths
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

        def full(index: str, _: list[str]) -> list[str]:
            self._vector(row, index, None)
            return []

        if self.multiple % lanes == 0:
            nest.loop("0", "%nr", lanes, full)
            return
        whole = "0"
        if self.most >= lanes:
            whole = w.emit(f"and i64 %nr, {-lanes}")
            some = w.emit(f"icmp ne i64 {whole}, 0")

            def all_full() -> None:
                nest.loop("0", whole, lanes, full)

            nest.when(some, all_full)

        def tail() -> None:
            w.lines = nest.levels[-1].block.lines
            count = w.emit(f"sub i64 %nr, {whole}")
            kind = f"<{lanes} x i64>"
            first = w.emit(f"insertelement {kind} poison, i64 {count}, i64 0")
            every = w.emit(
                f"shufflevector {kind} {first}, {kind} poison, <{lanes} x i32> zeroinitializer"
            )
            self._vector(row, whole, w.emit(f"icmp ult {kind} {iota(lanes)}, {every}"))

        if self.most < lanes:
            tail()
            return
        w.lines = nest.levels[-1].block.lines
        left = w.emit(f"icmp ult i64 {whole}, %nr")
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
