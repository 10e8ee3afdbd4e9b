"""The product of matrices of half types for any sizes: `product`, with operands that are converted
to float32 or interleaved to pairs when they are packed (`halves`), and results that are rounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..emit.conversion import cast, narrow
from ..emit.half import half_packer, half_packer_name
from ..emit.pack import group, packer, packer_name
from ..emit.room import reserve
from ..emit.simd import element
from ..emit.writer import LoopWriter
from ..halves import Half, multiplies_pairs
from ..runtime.eager_records import COLUMNS, ROWS
from ..runtime.jit import Host
from ..spec import DType, bfloat16, float32
from . import Generic
from .block import STRIPS
from .product import DEPTH, PAGES, Blocks, Left, Packed, Right


def half_product(dtype: DType, host: Host) -> Generic:
    """See `product.product`."""
    return Generic(_HalfBlocks(dtype, host).text(), (dtype, dtype), dtype, 0)


class _HalfBlocks(Blocks):
    """C is computed as float32, in memory beside it. Where a step of K is a pair, an operand that
    runs along K is read in place if K is even."""

    def __init__(self, dtype: DType, host: Host) -> None:
        pairs = dtype is bfloat16 and multiplies_pairs(host)
        super().__init__(replace(element(float32, host), pairs=pairs), host)
        self.dtype, self.unit = dtype, "i16"
        self.half = Half(dtype, flushed=dtype is bfloat16, pairs=pairs)
        self.terms = 2 if pairs else 1  # of a step of K

    def _used(self) -> list[str]:
        lanes = self.e.lanes
        shorts, mask = f"<{lanes} x i16>", f"<{lanes} x i1>"
        return [
            *super()._used(),
            f"declare {shorts} @llvm.masked.load.v{lanes}i16.p0(ptr, i32, {mask}, {shorts})",
            f"declare void @llvm.masked.store.v{lanes}i16.p0({shorts}, ptr, i32, {mask})",
        ]

    def _reserve(self, w: LoopWriter) -> None:
        super()._reserve(w)
        sizes = {"strips": STRIPS, "panels": DEPTH * ROWS, "target": ROWS * COLUMNS}
        reserve(w, {f"%{name}": n * self.e.size for name, n in sizes.items()})
        self.target = "%target"
        self.stride = self.job["columns"]
        odd = w.op("urem", self.job["k"], self.terms)
        self.whole = w.emit(f"icmp eq i64 {odd}, 0") if self.half.pairs else "false"
        self.steps = w.op("udiv", w.op("add", self.job["k"], self.terms - 1), self.terms)

    def _whole_block(self, w: LoopWriter) -> None:
        """Part by part, as far as what is packed has room."""
        first, all_columns = self.j0, self.columns
        with w.loop(0, all_columns, COLUMNS) as part:
            self.j0 = w.op("add", first, part)
            self.columns = w.minimum(w.op("sub", all_columns, part), COLUMNS)
            super()._whole_block(w)
            self._store(w)

    def _few_along(self, w: LoopWriter, most: int) -> str:
        return w.emit(f"and i1 {self.whole}, {super()._few_along(w, most)}")

    def _rows_along(self, w: LoopWriter) -> tuple[str, str]:
        lda, ldb = (w.op("udiv", x, self.terms) for x in super()._rows_along(w))
        return lda, ldb

    def _is_thin(self, w: LoopWriter) -> str:
        return "false"

    def _tiles(self, w: LoopWriter) -> None:
        self._stretches(w, DEPTH)

    def _terms(self, w: LoopWriter, k0: str, k: str, some: str) -> str:
        """Terms in so many steps of K from step k0 + k on."""
        start = w.op("mul", w.op("add", k0, k), self.terms)
        return w.minimum(w.op("mul", some, self.terms), w.op("sub", self.job["k"], start))

    def _packer(self, mode: str) -> str:
        name = half_packer_name(mode, self.e, self.half)
        self.parts[name] = half_packer(mode, self.e, self.half, self.host)
        return name

    def _left(self, w: LoopWriter, k0: str, length: str) -> Left:
        start = w.op("mul", w.op("mul", k0, self.terms), self.a_along)
        first = w.op("add", w.op("mul", self.i0, self.a_down), start)
        base = w.at(self.a, self.unit, first)
        in_place = w.emit(f"and i1 {self.whole}, {self.a_rows}")
        strided, by_rows = self._packer("strided"), self._packer("rows")

        def pack(name: str) -> Callable[[], None]:
            return lambda: self._pack_left(w, name, base, k0, length)

        packs = partial(self._either, w, self.a_rows, pack(strided), pack(by_rows))
        self._either(w, in_place, lambda: None, packs)
        source = w.emit(f"select i1 {in_place}, ptr {base}, ptr %panels")
        step = w.op("udiv", self.job["lda"], self.terms)
        return Left(
            source,
            self._choose(w, in_place, step, self.e.lanes),
            self._choose(w, in_place, step, length),
            in_place,
        )

    def _pack_left(self, w: LoopWriter, name: str, base: str, k0: str, length: str) -> None:
        """Strips of as many rows of A as a vector has lanes."""
        e = self.e
        terms = self._terms(w, k0, "0", length)
        with w.loop(0, self.rows, e.lanes) as i:
            source = w.at(base, self.unit, w.op("mul", i, self.a_down))
            target = w.at("%panels", e.type, w.op("mul", i, length))
            w.do(
                f"call void @{name}(ptr {source}, i64 {self.a_along}, i64 {self.a_down}, "
                f"i64 {w.op('sub', self.rows, i)}, i64 {terms}, ptr {target}, i64 {e.lanes})"
            )

    def _right(self, w: LoopWriter, k0: str, length: str) -> Right:
        e = self.e
        start = w.op("mul", w.op("mul", k0, self.terms), self.b_down)
        first = w.op("add", start, w.op("mul", self.j0, self.b_along))
        base = w.at(self.b, self.unit, first)
        name = packer_name("columns", e)
        self.parts[name] = packer("columns", e, self.host)
        pairs_down = w.op("udiv", self.job["ldb"], self.terms)

        def by(mode: str, pages: int) -> Callable[[], None]:
            apart = (self.b_down, self.b_along)
            strip = Packed(self._packer(mode), base, self.unit, *apart, "%strips", self.terms)
            return lambda: self._pack_strips(
                w, strip, length, pages, lambda k, some: self._terms(w, k0, k, some)
            )

        def turned() -> None:
            strip = Packed(name, base, e.type, "1", pairs_down, "%strips")
            self._pack_strips(w, strip, length, DEPTH, lambda _, some: some)

        enough = w.emit(f"icmp uge i64 {length}, {group(e)}")
        in_place = w.emit(f"and i1 {self.whole}, {enough}")
        rest = partial(self._either, w, in_place, turned, by("strided", DEPTH))
        self._either(w, self.b_rows, by("rows", PAGES // self.terms), rest)
        return Right("%strips", str(self.width), length)

    def _store(self, w: LoopWriter) -> None:
        """Round what was computed, and store it in C."""
        e, n = self.e, self.job["n"]
        place = w.op("add", w.op("mul", self.i0, n), self.j0)
        c = w.at(self.c, self.unit, place)
        shorts = f"<{e.lanes} x i16>"
        with w.loop(0, self.rows) as i, w.loop(0, self.columns, e.lanes) as j:
            source = w.at(self.target, e.type, w.op("add", w.op("mul", i, self.stride), j))
            line = e.load(w, source)
            if self.dtype is bfloat16:
                line = narrow(w, line, e.lanes)
            else:
                line = cast(w, line, float32, self.dtype, e.lanes)
                line = w.emit(f"bitcast <{e.lanes} x half> {line} to {shorts}")
            mask = e.mask(w, w.op("sub", self.columns, j))
            target = w.at(c, self.unit, w.op("add", w.op("mul", i, n), j))
            w.do(
                f"call void @llvm.masked.store.v{e.lanes}i16.p0({shorts} {line}, ptr {target}, "
                f"i32 2, <{e.lanes} x i1> {mask})"
            )
