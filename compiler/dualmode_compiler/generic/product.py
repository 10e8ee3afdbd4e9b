"""The matrix product for any sizes, in blocks around the micro-kernels of compiled products.

Sizes are known only when it runs, so it has one way for most: C is cut into blocks, which are the
chunks that threads share; K into stretches; and a block of a stretch into strips of columns as wide
as a micro-tile. A strip of B that is transposed, or far apart in memory, is packed first and then
serves all rows of the block. What rows are left below whole micro-tiles is computed in halves.
A few rows whose operands both run along K are inner products (`block`), and so are those of a few
columns; with one or two rows of A, a B that runs along N is gone through a few rows at a time.

Every element is a sum of the same terms in the same order, whatever the block that it is in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..emit.dot import COLUMNS as DOT_COLUMNS
from ..emit.gemm import ARGUMENTS, Kernel, kernel
from ..emit.gemv import MOST_ROWS, gemv, kernel_for
from ..emit.pack import group, packer, packer_name
from ..emit.simd import element
from ..emit.writer import LoopWriter
from ..records import dataclass
from ..runtime import workspace
from ..runtime.eager_records import COLUMNS, FEW
from ..runtime.jit import Host
from ..spec import DType
from . import Generic
from .block import DOT_HEIGHTS, DOT_ROWS, STRIPS, VECTORS, Block

DEPTH = STRIPS // COLUMNS  # of a stretch of K
SWEPT = 24  # rows of B that are gone through for all rows of A while they are in a cache
TALL = 64  # rows of a block from which on it packs what is far apart
PAGES = 16  # rows of B that are packed together
FAR = 1 << 18  # bytes of B from which on its rows are


def product(dtype: DType, host: Host) -> Generic | None:
    """The kernel of products of `dtype`: `void @kernel(ptr job, i64 chunk)` computes a block of a
    `runtime.eager_records.Product`. None unless the dtype is a floating one."""
    if not dtype.is_floating:
        return None
    if dtype.itemsize == 2:
        from .half_product import half_product

        return half_product(dtype, host)
    text = Blocks(element(dtype, host), host).text()
    return Generic(text, (dtype, dtype), dtype, 0, splits=True)


@dataclass(frozen=True)
class Left:
    """The rows of A in a block, for one stretch of K: A[i, k] is at base + i*down + k, or by
    columns at base + k*step + i, where strips as wide as a vector are `down` elements a row apart.

    Attributes:
        by_rows: an i1.
    """

    base: str
    step: str
    down: str
    by_rows: str


@dataclass(frozen=True)
class Right:
    """The columns of B in a block, for one stretch of K: B[k, j] of a strip that begins with column
    j0 is at base + k*down + j - j0, with the base of the strip a multiple of `along` away."""

    base: str
    down: str
    along: str


@dataclass(frozen=True)
class Packed:
    """How a strip of B is packed.

    Attributes:
        packer: the function.
        source: the first element, of type `unit`.
        down, along: from one row and column of B to the next, in elements.
        strips: where they go.
        rows: how many there are in a step of K.
    """

    packer: str
    source: str
    unit: str
    down: str
    along: str
    strips: str
    rows: int = 1


class Blocks(Block):
    """Writes the kernel, with operands of the type of the sums."""

    def text(self) -> str:
        body = self._function("void @kernel(ptr %job, i64 %chunk)", self._kernel)
        widths = ((VECTORS, False), (VECTORS, True), (1, True))
        strips = [(*x, by_rows) for by_rows in (True, False) for x in widths]
        for strip in (*strips, (self.long, False, True)):
            vectors, masked, by_rows = strip
            name = self._strip(by_rows, vectors, masked)
            head = "ptr %a, i64 %as, i64 %down, ptr %b, i64 %bs, ptr %c, i64 %cs, i64 %rows"
            self.parts[name] = self._function(
                f"internal void @{name}({head}, i64 %k, i64 %live, i64 %add)",
                lambda w, t=strip: self._panels(w, *t),
            )
        return "\n".join([*sorted({*self.declared, *self._used()}), *self.parts.values(), body])

    def _used(self) -> list[str]:
        """Declarations of what micro-kernels call."""
        e, lanes, v = self.e, self.e.lanes, self.e.vector
        return [
            f"declare {v} @llvm.fma.{e.suffix}({v}, {v}, {v})",
            f"declare {v} @llvm.masked.load.{e.suffix}.p0(ptr, i32, <{lanes} x i1>, {v})",
            f"declare void @llvm.masked.store.{e.suffix}.p0({v}, ptr, i32, <{lanes} x i1>)",
            "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)",
            workspace.DECLARATION,
        ]

    def _strip(self, by_rows: bool, vectors: int, masked: bool) -> str:
        return f"strip_{'row' if by_rows else 'column'}_{vectors}{'m' * masked}"

    def _panels(self, w: LoopWriter, vectors: int, masked: bool, by_rows: bool) -> None:
        """All rows of a strip: by whole micro-tiles, then by halves."""
        room = (self.host.registers - 1) // vectors - 1  # tile, a line of B and an element of A
        heights = [h for h in self.heights if h <= room]
        tall = heights[0]
        done = w.op("and", "%rows", str(-tall))

        def tile(height: int, row: str) -> None:
            spec = Kernel(height, vectors, masked, by_rows, self.e)
            self.parts[spec.name] = kernel(spec, self.host)
            values = {"A": w.at("%a", self.e.type, self._row(w, row, by_rows)), "as": "%as"}
            values |= {"B": "%b", "bs": "%bs", "k": "%k", "live": "%live", "add": "%add"}
            values |= {"C": w.at("%c", self.e.type, w.op("mul", row, "%cs")), "cs": "%cs"}
            given = [a.split() for a in ARGUMENTS.split(", ")]
            arguments = ", ".join(f"{kind} {values[name[1:]]}" for kind, name in given)
            w.do(f"call void @{spec.name}({arguments})")

        with w.when(w.emit(f"icmp ne i64 {done}, 0")), w.loop(0, done, tall) as row:
            tile(tall, row)
        for height in heights[1:]:
            left = w.op("and", "%rows", str(height))
            with w.when(w.emit(f"icmp ne i64 {left}, 0")):
                tile(height, w.op("and", "%rows", str(-2 * height)))

    def _row(self, w: LoopWriter, row: str, by_rows: bool) -> str:
        """Where row `row` of A is: see `Left`."""
        if by_rows:
            return w.op("mul", row, "%down")
        first = w.op("and", row, str(-self.e.lanes))
        return w.op("add", w.op("mul", first, "%down"), w.op("sub", row, first))

    # --- a block ----------------------------------------------------------------------------------

    def _kernel(self, w: LoopWriter) -> None:
        summed = w.emit("icmp eq i64 %chunk, -1")
        self._either(w, summed, partial(self._sum, w), partial(self._block, w))

    def _block(self, w: LoopWriter) -> None:
        self._find(w)
        self._reserve(w)
        self._whole_block(w)

    def _reserve(self, w: LoopWriter) -> None:
        """Memory beside C. What is computed goes to `target`, of rows `stride` apart."""
        room = DOT_HEIGHTS[0] * DOT_COLUMNS
        self.line = w.emit(f"alloca [{room} x {self.e.type}], align 64")
        place = w.op("add", w.op("mul", self.i0, self.job["n"]), self.j0)
        self.target, self.stride = w.at(self.c, self.e.type, place), self.job["n"]

    def _whole_block(self, w: LoopWriter) -> None:
        turned = w.emit(f"xor i1 {self.b_rows}, true")
        dots = w.emit(f"and i1 {turned}, {self._few_along(w, DOT_ROWS)}")
        thin = partial(self._either, w, self._is_thin(w), partial(self._gathered, w))
        self._either(w, dots, partial(self._dots, w), partial(thin, partial(self._tiles, w)))

    def _tiles(self, w: LoopWriter) -> None:
        few = w.emit(f"icmp ule i64 {self.job['m']}, {MOST_ROWS}")
        thin = w.emit(f"icmp ule i64 {self.job['m']}, {FEW}")
        far = w.emit(f"and i1 {thin}, {self._is_far(w)}")
        sweeps = w.emit(f"and i1 {w.emit(f'or i1 {few}, {far}')}, {self.b_rows}")
        self._plan(w)
        self._either(w, sweeps, partial(self._sweep, w), partial(self._strips_of_few, w))

    def _strips_of_few(self, w: LoopWriter) -> None:
        """Stretch after stretch of K; a few rows by wide micro-tiles, whose columns of B are read
        once."""
        few = w.emit(f"and i1 {self._few_along(w, FEW)}, {self.b_rows}")
        self._either(w, few, partial(self._long, w), partial(self._stretches, w, DEPTH))

    def _stretches(self, w: LoopWriter, depth: int) -> None:
        """Stretch after stretch of K."""
        with w.loop(0, self.steps, depth) as k0:
            length = w.minimum(w.op("sub", self.steps, k0), depth)
            left, right = self._left(w, k0, length), self._right(w, k0, length)
            self._columns_from(w, left, right, "0", length, k0)

    def _columns_from(
        self, w: LoopWriter, a: Left, b: Right, first: str, length: str, add: str
    ) -> None:
        """The columns from `first` on, as wide as micro-tiles."""
        e = self.e
        with w.loop(first, self.columns, self.width) as j:
            width = w.minimum(w.op("sub", self.columns, j), self.width)
            strip = w.at(b.base, e.type, w.op("mul", j, b.along))
            c = w.at(self.target, e.type, j)
            self._multiply(w, a, strip, b.down, c, length, width, add)

    def _sweep(self, w: LoopWriter) -> None:
        """A B that is read once, row after row, for one or two rows of A at a time."""
        one = w.emit(f"icmp eq i64 {self.job['m']}, 1")
        two = w.emit(f"icmp eq i64 {self.job['m']}, 2")
        alone = partial(
            self._either,
            w,
            self._is_far(w),
            *(partial(self._rows_of_b, w, 1, "0", "0", self.steps, far) for far in (True, False)),
        )
        pair = partial(self._rows_of_b, w, 2, "0", "0", self.steps, False)
        several = partial(self._either, w, two, pair, partial(self._groups, w))
        self._either(w, one, alone, several)

    def _groups(self, w: LoopWriter) -> None:
        """Some rows of B at a time, for all rows of A."""
        pairs = w.op("and", self.rows, "-2")
        odd = w.emit(f"icmp ne i64 {pairs}, {self.rows}")
        with w.loop(0, self.steps, SWEPT) as k0:
            length = w.minimum(w.op("sub", self.steps, k0), SWEPT)
            with w.loop(0, pairs, 2) as i:
                self._rows_of_b(w, 2, i, k0, length, False)
            with w.when(odd):
                self._rows_of_b(w, 1, pairs, k0, length, False)

    def _rows_of_b(
        self, w: LoopWriter, rows: int, i: str, k0: str, length: str, is_far: bool
    ) -> None:
        """The part of the sums of `rows` rows from `i` on that `length` rows of B give."""
        e, spec = self.e, kernel_for(self.e, self.host, rows, is_far)
        self.parts[spec.name] = gemv(spec, self.host)
        a = w.at(self.a, e.type, w.op("mul", w.op("add", self.i0, i), self.a_down))
        a = w.at(a, e.type, w.op("mul", k0, self.a_along))
        b = w.at(w.at(self.b, e.type, w.op("mul", k0, self.b_down)), e.type, self.j0)
        c = w.at(self.target, e.type, w.op("mul", i, self.stride))
        w.do(
            f"call void @{spec.name}(ptr {a}, i64 {self.a_down}, i64 {self.a_along}, ptr {b}, "
            f"i64 {self.b_down}, ptr {c}, i64 {self.stride}, i64 {self.columns}, i64 {length}, "
            f"i64 {k0})"
        )

    def _long(self, w: LoopWriter) -> None:
        """A few rows, by wide micro-tiles."""
        e, wide = self.e, self.long * self.e.lanes
        whole = w.op("sub", self.columns, w.op("urem", self.columns, wide))
        some = w.emit(f"icmp ne i64 {whole}, 0")
        more = w.emit(f"icmp ult i64 {whole}, {self.columns}")
        with w.loop(0, self.steps, DEPTH) as k0:
            length = w.minimum(w.op("sub", self.steps, k0), DEPTH)
            a, b = self._left(w, k0, length), self._right(w, k0, length)
            with w.when(some), w.loop(0, whole, wide) as j:
                w.do(
                    f"call void @{self._strip(True, self.long, False)}(ptr {a.base}, "
                    f"i64 {a.step}, i64 {a.down}, ptr {w.at(b.base, e.type, j)}, i64 {b.down}, "
                    f"ptr {w.at(self.target, e.type, j)}, i64 {self.stride}, i64 {self.rows}, "
                    f"i64 {length}, i64 0, i64 {k0})"
                )
            with w.when(more):
                self._columns_from(w, a, b, whole, length, k0)

    def _plan(self, w: LoopWriter) -> None:
        """Whether B is packed."""
        job = self.job
        size = w.op("mul", w.op("mul", job["k"], job["n"]), self.e.size)
        far = w.emit(f"icmp uge i64 {size}, {FAR}")
        tall = w.emit(f"icmp uge i64 {self.rows}, {TALL}")
        turned = w.emit(f"xor i1 {self.b_rows}, true")
        self.packs = w.emit(f"or i1 {w.emit(f'and i1 {far}, {tall}')}, {turned}")

    def _left(self, w: LoopWriter, k0: str, length: str) -> Left:
        first = w.op("add", w.op("mul", self.i0, self.a_down), w.op("mul", k0, self.a_along))
        base = w.at(self.a, self.e.type, first)
        return Left(base, self.job["lda"], self.a_down, self.a_rows)

    def _right(self, w: LoopWriter, k0: str, length: str) -> Right:
        first = w.op("add", w.op("mul", k0, self.b_down), w.op("mul", self.j0, self.b_along))
        base = w.at(self.b, self.e.type, first)
        before = w.label
        with w.when(self.packs):
            strips = self._strips(w)
            self._pack(w, base, length, strips)
            packed = w.label
        source = w.emit(f"phi ptr [ {base}, %{before} ], [ {strips}, %{packed} ]")
        down = self._choose(w, self.packs, self.width, self.b_down)
        return Right(source, down, self._choose(w, self.packs, length, self.b_along))

    def _pack(self, w: LoopWriter, source: str, length: str, strips: str) -> None:
        """A block of B to `strips`, one after the other, of `length` rows."""
        e = self.e

        def by(mode: str, pages: int) -> Callable[[], None]:
            name = packer_name(mode, e)
            self.parts[name] = packer(mode, e, self.host)
            strip = Packed(name, source, e.type, self.b_down, self.b_along, strips)
            return lambda: self._pack_strips(w, strip, length, pages, lambda _, some: some)

        enough = w.emit(f"icmp uge i64 {length}, {group(e)}")
        rest = partial(self._either, w, enough, by("columns", DEPTH), by("strided", DEPTH))
        self._either(w, self.b_rows, by("rows", PAGES), rest)

    def _pack_strips(
        self,
        w: LoopWriter,
        x: Packed,
        length: str,
        pages: int,
        count: Callable[[str, str], str],
    ) -> None:
        """All strips of a block of B, `pages` steps of K at a time: rows that lie apart are on
        different pages. `count` gives how many rows are in so many steps from a step on."""
        e = self.e
        with w.loop(0, length, pages) as k, w.loop(0, self.columns, e.lanes) as j:
            first = w.at(x.source, x.unit, w.op("mul", j, x.along))
            first = w.at(first, x.unit, w.op("mul", w.op("mul", k, x.down), x.rows))
            within = w.op("urem", j, self.width)
            strip = w.op("mul", w.op("sub", j, within), length)
            row = w.op("add", w.op("mul", k, self.width), within)
            target = w.at(x.strips, e.type, w.op("add", strip, row))
            some = count(k, w.minimum(w.op("sub", length, k), pages))
            w.do(
                f"call void @{x.packer}(ptr {first}, i64 {x.down}, i64 {x.along}, "
                f"i64 {w.op('sub', self.columns, j)}, i64 {some}, ptr {target}, i64 {self.width})"
            )

    def _multiply(
        self, w: LoopWriter, a: Left, b: str, down: str, c: str, length: str, width: str, add: str
    ) -> None:
        """The rows of a block times a strip, by the function for its width."""
        live = w.op("sub", width, (VECTORS - 1) * self.e.lanes)
        one = w.emit(f"icmp sle i64 {live}, 0")
        some = self._choose(w, one, width, live)
        full = w.emit(f"icmp eq i64 {width}, {self.width}")

        def strip(by_rows: bool, vectors: int, masked: bool) -> Callable[[], None]:
            return lambda: w.do(
                f"call void @{self._strip(by_rows, vectors, masked)}(ptr {a.base}, i64 {a.step}, "
                f"i64 {a.down}, ptr {b}, i64 {down}, ptr {c}, i64 {self.stride}, "
                f"i64 {self.rows}, i64 {length}, i64 {some}, i64 {add})"
            )

        def by(by_rows: bool) -> Callable[[], None]:
            narrow, part = strip(by_rows, 1, True), strip(by_rows, VECTORS, True)
            rest = partial(self._either, w, one, narrow, part)
            return partial(self._either, w, full, strip(by_rows, VECTORS, False), rest)

        self._either(w, a.by_rows, by(True), by(False))
