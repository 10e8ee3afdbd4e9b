"""What follows a matrix product, computed on its finished panels, as LLVM IR text.

A panel is handed to a function once it is finished. Or it waits, and is walked between the
multiply-adds of the next panel (`Epilogue.between`): an optimizer's update then takes little time
of its own, as the core moves its data beside the sums. What takes many registers, as a polynomial
does, would take those of the sums: then only the data is asked for between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field

from ..epilogues import WAITS, far, mixing, outside
from ..expr import Axis, Buffer, Expr, Load, Reduce
from ..loops import Contraction, Kernel, Store
from ..records import dataclass
from ..runtime.jit import Host
from ..walks import walk
from .gemm import ARGUMENTS, Body
from .gemm import Kernel as MicroKernel
from .instructions import memory_type
from .levels import Value, iota, mask_text, pieces
from .nest import Nest
from .simd import attributes
from .writer import LoopWriter

PANEL = "ptr %bufs, i64 %batch, i64 %i0, i64 %j0, i64 %mr, i64 %nr, ptr %tile, i64 %ldt"
# Arguments of a micro-kernel that walks a part of a finished panel, after those of any other: the
# panel as above, the row and column where the part begins, and the number of its vectors. So many
# turns of the sums follow each, and one more where its number is less than `longer`.
BETWEEN = (
    "ptr %bufs, i64 %batch, i64 %i0, i64 %j0, i64 %nr, ptr %tile, i64 %ldt, i64 %row, i64 %column, "
    "i64 %rounds, i64 %turns, i64 %longer"
)
AHEAD = 1024  # bytes by which loads ask for what they will read later


@dataclass(slots=True)
class Epilogue:
    """Stores of a kernel that follow from what its contraction computes.

    Attributes:
        stores: those.
        total: the elements that panels have when they are finished.
        name: of the function that takes a panel.
        mixing: see `epilogues`.
        far: what it reads of arrays of C's size.
        extra: buffers of the kernel, which come after the two operands.
        declarations: of the intrinsics used so far.
    """

    c: Contraction
    stores: list[Store]
    total: Reduce
    name: str
    host: Host
    mixing: str
    far: list[Load]
    extra: list[Buffer]
    declarations: set[str] = field(default_factory=set)

    def prologue(self, name: str) -> str:
        """The function that computes a panel of A: i0 is its first row, j0 its first step of K."""
        nest, (k,) = Nest(self.host, {}), self.c.reduce.bound
        assert self.c.left is not None
        _Operand(nest, self, self.c.left, self.c.m, k).panel((1, k.extent))
        return self._text(f"@{name}({PANEL})", nest)

    def prologue_of_b(self, name: str) -> str:
        """The function that computes a part of B: i0 is its first step of K, j0 its column."""
        nest, (k,), n = Nest(self.host, {}), self.c.reduce.bound, self.c.n
        assert self.c.right is not None
        assert n is not None
        tile = _Operand(nest, self, self.c.right, k, n)
        tile.panel((math.gcd(n.extent, tile.lanes), n.extent))
        return self._text(f"@{name}({PANEL})", nest)

    def function(self, widths: tuple[int, int]) -> str:
        """The function of a finished panel.

        Args:
            widths: see `product.Code`.
        """
        nest = Nest(self.host, {})
        tile = _Tile(nest, self)
        tile.panel(widths)
        return self._text(f"@{self.name}({PANEL})", nest)

    @property
    def waits(self) -> bool:
        """True if finished panels wait."""
        return self.mixing == WAITS

    def between(self, spec: MicroKernel, name: str, resumes: bool) -> str | None:
        """The micro-kernel `spec`, which besides walks a part of a finished panel, or asks for what
        that will read; None where vectors of the result have not as many elements.

        Args:
            resumes: the sums go on from what is in C.
        """
        nest = Nest(self.host, {})
        nest.w = w = LoopWriter()
        w.host, w.lines = self.host, nest.lines
        body = Body(spec, w)
        nest.levels[0].block.label = w.label
        tile = _Tile(nest, self)
        if tile.lanes != spec.element.lanes:
            return None
        for x in self.far:
            nest.ahead[x] = AHEAD // x.dtype.itemsize
        part_at = tile.vector_at if self.waits else tile.ask_at
        w.lines = nest.lines
        start = body.start(body.load_tile() if resumes else ["zeroinitializer"] * len(body.tile))
        kinds = body.types()[1:]

        def turn(_: str, state: list[str]) -> list[str]:
            w.lines = nest.levels[-1].block.lines
            return body.turn(["", *state])[1:]

        def part(index: str, state: list[str]) -> list[str]:
            row, column, *sums = state
            part_at(row, column)
            w.lines = nest.levels[-1].block.lines
            column = w.op("add", column, tile.lanes)
            end = w.emit(f"icmp uge i64 {column}, %nr")
            column = w.emit(f"select i1 {end}, i64 0, i64 {column}")
            row = w.op("add", row, w.emit(f"zext i1 {end} to i64"))
            more = w.emit(f"zext i1 {w.emit(f'icmp ult i64 {index}, %longer')} to i64")
            turns = w.op("add", "%turns", more)
            sums = nest.loop("0", turns, 1, turn, list(zip(kinds, sums, strict=True)))
            return [row, column, *sums]

        carried = [("i64", "%row"), ("i64", "%column"), *zip(kinds, start[1:], strict=True)]
        state = nest.loop("0", "%rounds", 1, part, carried)[2:]
        w.lines = nest.lines
        body.store_tile(state[body.fixed - 1 :])
        return self._text(f"@{name}({ARGUMENTS}, {BETWEEN})", nest)

    def _text(self, signature: str, nest: Nest) -> str:
        self.declarations |= nest.w.declarations
        body = "\n".join(nest.lines)
        head = f"define internal void {signature} {attributes(self.host)} {{"
        return f"{head}\nentry:\n{body}\n  ret void\n}}\n"


def epilogues(kernel: Kernel, c: Contraction, name: str, host: Host) -> tuple[Epilogue, Epilogue]:
    """What follows from the product, and what follows from the sums over the rows of B."""
    products = kernel.products()
    others = [s for s in kernel.stores if s.depth < len(kernel.axes)]
    after = outside(kernel.stores, {c.reduce, c.sums})
    before = walk([x for x in (c.left, c.right) if x is not None])
    read = [e.buffer for e in (*after, *before) if isinstance(e, Load)]
    extra = list(dict.fromkeys([*kernel.writes(), *read]))  # alike for kernels that are alike
    of_product = (f"{name}_epilogue", host, mixing(kernel), far(kernel), extra)
    of_sums = (f"{name}_sums", host, "", [], extra)
    return (
        Epilogue(c, products, c.reduce, *of_product),
        Epilogue(c, others, c.sums or c.reduce, *of_sums),
    )


class _Tile:
    """Writes the walk over a finished tile: `%tile`, whose rows are `%ldt` elements apart.

    Attributes:
        lanes: elements of a vector.
    """

    def __init__(self, nest: Nest, epilogue: Epilogue) -> None:
        self.nest, self.stores, self.c = nest, epilogue.stores, epilogue.c
        self.total, self.far = epilogue.total, epilogue.far
        assert self.c.n is not None
        self.outer, self.inner = self.c.m, self.c.n
        sizes = [self.c.gemm.dtype.itemsize, *(s.buffer.spec.dtype.itemsize for s in self.stores)]
        self.lanes = nest.host.vector_bytes // max(sizes)
        nest.w.lines = nest.lines
        for k, b in enumerate(epilogue.extra, 2):
            slot = nest.w.emit(f"getelementptr ptr, ptr %bufs, i64 {k}")
            nest.pointers[b] = nest.w.emit(f"load ptr, ptr {slot}")
        rest = "%batch"
        for axis in reversed(self.c.batch):
            at = nest.w.emit(f"urem i64 {rest}, {axis.extent}")
            rest = nest.w.emit(f"udiv i64 {rest}, {axis.extent}")
            nest.open(nest.inherit(nest.levels[-1].block), axis, at)

    def panel(self, widths: tuple[int, int]) -> None:
        """`%mr` rows of `%nr` columns; `widths` as in `product.Code`."""

        def row(index: str, _: list[str]) -> list[str]:
            self._row(index, lambda start: self._columns(start, *widths))
            return []

        self.nest.loop("0", "%mr", 1, row)

    def ask_at(self, row: str, column: str) -> None:
        """Bring what the vector there will read into the caches."""
        self._row(row, lambda start: self._here(column, self._ask, self.lanes))

    def _ask(self) -> None:
        nest, w = self.nest, self.nest.w
        w.declarations.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        for x in self.far:
            place = nest.address(x.buffer, x.index[0])
            w.line(f"  call void @llvm.prefetch.p0(ptr {place}, i32 0, i32 3, i32 1)")

    def vector_at(self, row: str, column: str) -> None:
        """The vector of row `row` that begins at `column`."""
        self._row(row, lambda start: self._vector(start, column, self.lanes))

    def _row(self, index: str, body: Callable[[str], None]) -> None:
        """`body`, given where row `index` begins."""
        nest, c, w = self.nest, self.c, self.nest.w
        w.lines = nest.levels[-1].block.lines
        at = w.emit(f"add nuw nsw i64 %i0, {index}")
        start = w.emit(f"mul nuw nsw i64 {index}, %ldt")
        kind = memory_type(c.gemm.dtype, 1)
        row = w.emit(f"getelementptr {kind}, ptr %tile, i64 {start}")
        if self.outer is None:
            body(row)
        else:
            nest.scope(self.outer, at, lambda: body(row))

    def _columns(self, row: str, multiple: int, most: int) -> None:
        nest, w, lanes = self.nest, self.nest.w, self.lanes
        here = nest.levels[-1].block
        w.lines = here.lines

        def full(index: str, _: list[str]) -> list[str]:
            self._vector(row, index, lanes)
            return []

        if multiple % lanes == 0:
            nest.loop("0", "%nr", lanes, full)
            return
        if most < lanes and most in (1, self.inner.extent):  # always as many
            for at, wide, active in pieces(most, True):
                self._vector(row, str(at), wide, mask_text(active, wide))
            return
        whole = "0"
        if most >= lanes:
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
            self._vector(row, whole, lanes, w.emit(f"icmp ult {kind} {iota(lanes)}, {every}"))

        if most < lanes:
            tail()
            return
        w.lines = nest.levels[-1].block.lines
        left = w.emit(f"icmp ult i64 {whole}, %nr")
        nest.when(left, tail)

    def _vector(self, row: str, index: str, lanes: int, mask: str | None = None) -> None:
        """Compute and store the vector at column `index` of the row that begins at `row`."""
        nest, c, w = self.nest, self.c, self.nest.w

        def body() -> None:
            level = nest.levels[-1]
            w.lines = level.block.lines
            kind = memory_type(c.gemm.dtype, lanes)
            place = w.emit(f"getelementptr {memory_type(c.gemm.dtype, 1)}, ptr {row}, i64 {index}")
            align = c.gemm.dtype.itemsize
            found = w.emit(f"load {kind}, ptr {place}, align {align}")
            nest.memo[self.total] = Value(found, lanes)
            level.names.append(self.total)
            for s in self.stores:
                nest.value(s.value)
            for s in self.stores:
                nest.store(s.buffer, s.offset, s.value)

        self._here(index, body, lanes, mask)

    def _here(
        self, index: str, body: Callable[[], None], lanes: int, mask: str | None = None
    ) -> None:
        """`body` with the axis of columns bound to the vector at column `index`."""
        nest, w = self.nest, self.nest.w
        w.lines = nest.levels[-1].block.lines
        at = w.emit(f"add nuw nsw i64 %j0, {index}")
        nest.scope(self.inner, at, body, lanes, mask)


class _Operand(_Tile):
    """Writes a part of an operand that is computed, of the elements `value`, to `%tile`: rows along
    the axis `outer` and columns along `inner`."""

    def __init__(
        self, nest: Nest, epilogue: Epilogue, value: Expr, outer: Axis | None, inner: Axis
    ) -> None:
        super().__init__(nest, epilogue)
        self.value, self.outer, self.inner = value, outer, inner
        self.lanes = nest.host.vector_bytes // self.c.gemm.dtype.itemsize

    def _vector(self, row: str, index: str, lanes: int, mask: str | None = None) -> None:
        """Compute the vector at column `index`; rows have room for whole ones."""
        nest, value = self.nest, self.value

        def body() -> None:
            name = nest.vector(value, lanes)
            nest.w.lines = nest.levels[-1].block.lines
            kind = memory_type(value.dtype, 1)
            place = nest.w.emit(f"getelementptr {kind}, ptr {row}, i64 {index}")
            nest.write(name, value.dtype, place, lanes, None)

        self._here(index, body, lanes, mask)
