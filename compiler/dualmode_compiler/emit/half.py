"""Packing of operands of half types: as pairs, or converted to float32, as LLVM IR text.

The packers have the arguments of the others (`pack`): f(src, sk, sn, columns, k, dst, ds), with
strides and `k` in elements of the half type. Pairs fill (k + 1) / 2 rows of a strip: element 2i is
the lower half of a lane, element 2i + 1 the upper one, or zero where there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from ..halves import Half
from ..runtime.jit import Host
from ..spec import float32
from .conversion import cast, flush
from .simd import Element, attributes
from .writer import LoopWriter


def half_packer_name(mode: str, e: Element, half: Half) -> str:
    what = "pairs" if half.pairs else f"{half.source}{'_flushed' * half.flushed}"
    return f"dm_pack_{what}_{mode}_{e.suffix}"


@cache
def half_packer(mode: str, e: Element, half: Half, host: Host) -> str:
    """IR of a packer of strips of `lanes` columns; `mode` as in `pack`: "rows" or "strided"."""
    pack = _Packer(e, half, host)
    if mode == "rows":
        pack.rows()
    else:
        pack.strided()
    arguments = "ptr %src, i64 %sk, i64 %sn, i64 %columns, i64 %k, ptr %dst, i64 %ds"
    name = half_packer_name(mode, e, half)
    head = f"define internal void @{name}({arguments}) {attributes(host)} {{"
    return f"{head}\nentry:\n{pack.w.text()}\n}}\n"


class _Packer:
    def __init__(self, e: Element, half: Half, host: Host) -> None:
        self.w, self.e, self.half, self.host = LoopWriter(), e, half, host
        self.shorts, self.words = f"<{e.lanes} x i16>", f"<{e.lanes} x i32>"

    def rows(self) -> None:
        """Elements of one step of K lie side by side: whole vectors, or what there is of them."""
        w, lanes = self.w, self.e.lanes
        if self.host.has_masks:
            mask = self.e.mask(w, w.minimum("%columns", lanes))
            self._steps(lambda k: self._masked(k, mask))
            return
        whole = w.emit(f"icmp uge i64 %columns, {lanes}")
        w.do(f"br i1 {whole}, label %whole, label %part")
        w.block("whole")
        self._steps(lambda k: w.emit(f"load {self.shorts}, ptr {self._at(k)}, align 2"))
        w.block("part")
        self.strided()

    def strided(self) -> None:
        """Element by element; the last column stands in for those that do not exist."""
        w = self.w
        last = w.emit("sub i64 %columns, 1")
        columns = ["%src"]
        for j in range(1, self.e.lanes):
            columns.append(w.at("%src", "i16", w.op("mul", w.minimum(last, j), "%sn")))

        def gather(k: str) -> str:
            offset, line = w.op("mul", k, "%sk"), "poison"
            for j, column in enumerate(columns):
                x = w.emit(f"load i16, ptr {w.at(column, 'i16', offset)}, align 2")
                line = w.emit(f"insertelement {self.shorts} {line}, i16 {x}, i64 {j}")
            return line

        self._steps(gather)

    def _at(self, k: str) -> str:
        return self.w.at("%src", "i16", self.w.op("mul", k, "%sk"))

    def _masked(self, k: str, mask: str) -> str:
        return self.w.emit(
            f"call {self.shorts} @llvm.masked.load.v{self.e.lanes}i16.p0(ptr {self._at(k)}, i32 2, "
            f"<{self.e.lanes} x i1> {mask}, {self.shorts} zeroinitializer)"
        )

    def _steps(self, line: Callable[[str], str]) -> None:
        """The strip, from the vectors of elements that `line` gives for each step of K."""
        w = self.w
        if not self.half.pairs:
            with w.loop(0, "%k") as k:
                self._store(k, self._wide(line(k)))
            w.do("ret void")
            return
        whole = w.op("udiv", "%k", 2)
        with w.when(w.emit(f"icmp ne i64 {whole}, 0")), w.loop(0, whole) as i:
            k = w.op("mul", i, 2)
            low, high = (self._word(line(x)) for x in (k, w.op("add", k, 1)))
            high = w.emit(f"shl {self.words} {high}, splat (i32 16)")
            self._store(i, w.emit(f"or {self.words} {low}, {high}"))
        odd = w.emit(f"icmp ne i64 {w.op('urem', '%k', 2)}, 0")
        with w.when(odd):
            self._store(whole, self._word(line(w.op("sub", "%k", 1))))
        w.do("ret void")

    def _word(self, line: str) -> str:
        return self.w.emit(f"zext {self.shorts} {line} to {self.words}")

    def _wide(self, line: str) -> str:
        """Elements as float32; as zeros if they are subnormal and the product says so."""
        w, half, lanes = self.w, self.half, self.e.lanes
        if half.source.name == "float16":
            line = w.emit(f"bitcast {self.shorts} {line} to <{lanes} x half>")
        line = cast(w, line, half.source, float32, lanes)
        return flush(w, line, float32, lanes) if half.flushed else line

    def _store(self, row: str, line: str) -> None:
        w = self.w
        kind = self.words if self.half.pairs else self.e.vector
        at = w.at("%dst", self.e.type, w.op("mul", row, "%ds"))
        w.do(f"store {kind} {line}, ptr {at}, align {self.e.size}")
