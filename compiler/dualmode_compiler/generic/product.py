"""The matrix product for any sizes, in blocks around the micro-kernels of compiled products.

Sizes are known only when it runs, so it has one way for all: C is cut into blocks, which are the
chunks that threads share; K into stretches; and a block of a stretch into strips of columns as wide
as a micro-tile. A strip of B that is transposed, or far apart in memory, is packed first and then
serves all rows of the block. What rows are left below whole micro-tiles is computed in halves.

Every element is a sum over K in order, whatever the block that it is in.
"""

from __future__ import annotations

from ctypes import Structure, c_int64

from ..emit.gemm import ARGUMENTS, Kernel, kernel
from ..emit.pack import group, packer, packer_name
from ..emit.simd import Element, attributes, element
from ..emit.writer import LoopWriter
from ..runtime.eager_records import COLUMNS, Product
from ..runtime.entry_records import field
from ..runtime.jit import Host
from ..spec import DType
from . import Generic

DEPTH = 256  # of a stretch of K
VECTORS = 2  # of a micro-tile
TALL = 64  # rows of a block from which on it packs what is far apart
PAGES = 16  # rows of B that are packed together
FAR = 1 << 18  # bytes of B from which on its rows are


def product(dtype: DType, host: Host) -> Generic | None:
    """The kernel of products of `dtype`: `void @kernel(ptr job, i64 chunk)` computes a block of a
    `runtime.eager_records.Product`. None unless the dtype is float32 or float64."""
    try:
        e = element(dtype, host)
    except TypeError:
        return None
    text = _Blocks(e, host).text()
    return Generic(text, (dtype, dtype), dtype, 0)


class _Blocks:
    def __init__(self, e: Element, host: Host) -> None:
        self.e, self.host = e, host
        self.width = VECTORS * e.lanes
        tall = 8 if host.registers >= 32 else 4
        self.heights = [h for h in (8, 4, 2, 1) if h <= tall]
        self.parts: dict[str, str] = {}

    def text(self) -> str:
        body = self._function("void @kernel(ptr %job, i64 %chunk)", self._block)
        for by_rows in (True, False):
            for vectors, masked in ((VECTORS, False), (VECTORS, True), (1, True)):
                name = self._strip(by_rows, vectors, masked)
                head = "ptr %a, i64 %as, i64 %down, ptr %b, i64 %bs, ptr %c, i64 %cs, i64 %rows"
                self.parts[name] = self._function(
                    f"internal void @{name}({head}, i64 %k, i64 %live, i64 %add)",
                    lambda w, t=(vectors, masked, by_rows): self._panels(w, *t),
                )
        declared = [
            f"declare {self.e.vector} @llvm.fma.{self.e.suffix}({', '.join([self.e.vector] * 3)})"
        ]
        lanes, v, suffix = self.e.lanes, self.e.vector, self.e.suffix
        declared += [
            f"declare {v} @llvm.masked.load.{suffix}.p0(ptr, i32, <{lanes} x i1>, {v})",
            f"declare void @llvm.masked.store.{suffix}.p0({v}, ptr, i32, <{lanes} x i1>)",
        ]
        return "\n".join([*declared, *self.parts.values(), body])

    def _function(self, head: str, write: object) -> str:
        w = LoopWriter()
        write(w)  # pyright: ignore
        w.do("ret void")
        return f"define {head} {attributes(self.host)} {{\nentry:\n{w.text()}\n}}\n"

    def _strip(self, by_rows: bool, vectors: int, masked: bool) -> str:
        return f"strip_{'row' if by_rows else 'column'}_{vectors}{'m' * masked}"

    def _panels(self, w: LoopWriter, vectors: int, masked: bool, by_rows: bool) -> None:
        """All rows of a strip: by whole micro-tiles, then by halves."""
        tall = self.heights[0]
        done = w.op("and", "%rows", str(-tall))

        def tile(height: int, row: str) -> None:
            spec = Kernel(height, vectors, masked, by_rows, self.e)
            self.parts[spec.name] = kernel(spec, self.host)
            values = {"A": w.at("%a", self.e.type, w.op("mul", row, "%down")), "as": "%as"}
            values |= {"B": "%b", "bs": "%bs", "k": "%k", "live": "%live", "add": "%add"}
            values |= {"C": w.at("%c", self.e.type, w.op("mul", row, "%cs")), "cs": "%cs"}
            values |= {"P": "null", "ps": "0"}
            given = [a.split() for a in ARGUMENTS.split(", ")]
            arguments = ", ".join(f"{kind} {values[name[1:]]}" for kind, name in given)
            w.do(f"call void @{spec.name}({arguments})")

        with w.when(w.emit(f"icmp ne i64 {done}, 0")), w.loop(0, done, tall) as row:
            tile(tall, row)
        for height in self.heights[1:]:
            left = w.op("and", "%rows", str(height))
            with w.when(w.emit(f"icmp ne i64 {left}, 0")):
                tile(height, w.op("and", "%rows", str(-2 * height)))

    # --- a block ----------------------------------------------------------------------------------

    def _get(self, w: LoopWriter, name: str) -> str:
        place = w.emit(_field(Product, "%job", name))
        return w.emit(f"load i64, ptr {place}")

    def _block(self, w: LoopWriter) -> None:
        e = self.e
        strips = w.emit(f"alloca [{DEPTH * COLUMNS} x {e.type}], align 64")
        names = ("m", "n", "k", "lda", "ldb", "turned_a", "turned_b")
        names += ("rows", "columns", "across", "down")
        self.job = job = {name: self._get(w, name) for name in names}
        jb, rest = w.op("urem", "%chunk", job["across"]), w.op("udiv", "%chunk", job["across"])
        ib, batch = w.op("urem", rest, job["down"]), w.op("udiv", rest, job["down"])
        i0, j0 = w.op("mul", ib, job["rows"]), w.op("mul", jb, job["columns"])
        rows = w.minimum(w.op("sub", job["m"], i0), job["rows"])
        columns = w.minimum(w.op("sub", job["n"], j0), job["columns"])
        a, b, c = (self._matrix(w, name, batch) for name in "abc")
        a_rows = w.emit(f"icmp eq i64 {job['turned_a']}, 0")
        b_rows = w.emit(f"icmp eq i64 {job['turned_b']}, 0")
        # how far the next row and column of A are, and of B
        down = self._choose(w, a_rows, job["lda"], 1)
        a = w.at(a, e.type, w.op("mul", i0, down))
        along = self._choose(w, a_rows, 1, job["lda"])
        b_down = self._choose(w, b_rows, job["ldb"], 1)
        b_along = self._choose(w, b_rows, 1, job["ldb"])
        c = w.at(c, e.type, w.op("mul", i0, job["n"]))
        size = w.op("mul", w.op("mul", job["k"], job["n"]), e.size)
        far = w.emit(f"icmp uge i64 {size}, {FAR}")
        tall = w.emit(f"icmp uge i64 {rows}, {TALL}")
        turned = w.emit(f"xor i1 {b_rows}, true")
        packs = w.emit(f"or i1 {w.emit(f'and i1 {far}, {tall}')}, {turned}")
        with w.loop(0, job["k"], DEPTH) as k0:
            length = w.minimum(w.op("sub", job["k"], k0), DEPTH)
            a0 = w.at(a, e.type, w.op("mul", k0, along))
            b0 = w.at(b, e.type, w.op("mul", k0, b_down))
            b0 = w.at(b0, e.type, w.op("mul", j0, b_along))
            with w.when(packs):
                self._pack(w, b0, b_down, b_along, columns, length, strips, b_rows)
            with w.loop(0, columns, self.width) as j:
                width = w.minimum(w.op("sub", columns, j), self.width)
                packed = w.at(strips, e.type, w.op("mul", j, length))
                plain = w.at(b0, e.type, w.op("mul", j, b_along))
                source = w.emit(f"select i1 {packs}, ptr {packed}, ptr {plain}")
                step = self._choose(w, packs, self.width, b_down)
                target = w.at(c, e.type, w.op("add", j0, j))
                self._multiply(w, a0, down, source, step, target, rows, length, width, k0)

    def _choose(self, w: LoopWriter, condition: str, a: str | int, b: str | int) -> str:
        return w.emit(f"select i1 {condition}, i64 {a}, i64 {b}")

    def _matrix(self, w: LoopWriter, name: str, batch: str) -> str:
        """The first element of this matrix of the batch."""
        base = w.emit(f"inttoptr i64 {self._get(w, name)} to ptr")
        return w.at(base, self.e.type, w.op("mul", batch, self._get(w, f"{name}_size")))

    def _pack(
        self,
        w: LoopWriter,
        source: str,
        down: str,
        along: str,
        columns: str,
        length: str,
        strips: str,
        by_rows: str,
    ) -> None:
        """A block of B, strip after strip of `length` rows; columns that are missing are filled up.

        Rows that lie apart are taken a few at a time over all strips: they are on different pages.
        """
        e = self.e
        enough = w.emit(f"icmp uge i64 {length}, {group(e)}")
        copy, turn, single, done = (w.name(k) for k in ("copy", "turn", "single", "packed"))
        long = w.name("long")
        w.do(f"br i1 {by_rows}, label %{copy}, label %{long}")
        w.block(long)
        w.do(f"br i1 {enough}, label %{turn}, label %{single}")
        for label, mode in ((copy, "rows"), (turn, "columns"), (single, "strided")):
            w.block(label)
            name = packer_name(mode, e)
            self.parts[name] = packer(mode, e, self.host)
            pages = PAGES if mode == "rows" else DEPTH
            with w.loop(0, length, pages) as k, w.loop(0, columns, e.lanes) as j:
                first = w.at(source, e.type, w.op("mul", j, along))
                first = w.at(first, e.type, w.op("mul", k, down))
                within = w.op("urem", j, self.width)
                strip = w.op("mul", w.op("sub", j, within), length)
                row = w.op("add", w.op("mul", k, self.width), within)
                target = w.at(strips, e.type, w.op("add", strip, row))
                left, some = w.op("sub", columns, j), w.minimum(w.op("sub", length, k), pages)
                w.do(
                    f"call void @{name}(ptr {first}, i64 {down}, i64 {along}, i64 {left}, "
                    f"i64 {some}, ptr {target}, i64 {self.width})"
                )
            w.do(f"br label %{done}")
        w.block(done)

    def _multiply(
        self,
        w: LoopWriter,
        a: str,
        down: str,
        b: str,
        step: str,
        c: str,
        rows: str,
        length: str,
        width: str,
        add: str,
    ) -> None:
        """The rows of a block times a strip, by the function for its width."""
        e, job = self.e, self.job
        live = w.op("sub", width, (VECTORS - 1) * e.lanes)
        some = self._choose(w, w.emit(f"icmp sgt i64 {live}, 0"), live, width)
        full = w.emit(f"icmp eq i64 {width}, {self.width}")
        one = w.emit(f"icmp sle i64 {live}, 0")
        mode = w.emit(f"icmp eq i64 {job['turned_a']}, 0")
        done = w.name("done")
        for by_rows in (True, False):
            inside, following = w.name("mode"), w.name("mode")
            if by_rows:
                w.do(f"br i1 {mode}, label %{inside}, label %{following}")
                w.block(inside)
            whole, part, narrow, masked = (w.name(k) for k in ("whole", "part", "narrow", "masked"))
            w.do(f"br i1 {full}, label %{whole}, label %{part}")
            w.block(part)
            w.do(f"br i1 {one}, label %{narrow}, label %{masked}")
            for label, vectors, mask in (
                (whole, VECTORS, False), (masked, VECTORS, True), (narrow, 1, True)
            ):  # fmt: skip
                w.block(label)
                w.do(
                    f"call void @{self._strip(by_rows, vectors, mask)}(ptr {a}, i64 {job['lda']}, "
                    f"i64 {down}, ptr {b}, i64 {step}, ptr {c}, i64 {job['n']}, i64 {rows}, "
                    f"i64 {length}, i64 {some}, i64 {add})"
                )
                w.do(f"br label %{done}")
            if by_rows:
                w.block(following)
        w.block(done)


def _field(structure: type[Structure], pointer: str, name: str) -> str:
    assert dict(structure._fields_)[name] is c_int64  # pyright: ignore
    return field(structure, pointer, name)
