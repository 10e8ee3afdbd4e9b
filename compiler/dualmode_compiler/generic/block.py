"""What blocks of a product of any sizes are written with: the job, and inner products."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import Structure, c_int64
from functools import partial

from ..emit.dot import COLUMNS as DOT_COLUMNS
from ..emit.dot import Dot, dot, kernel_for
from ..emit.gemv import FAR
from ..emit.room import asked
from ..emit.simd import Element, attributes
from ..emit.writer import LoopWriter
from ..runtime.eager_records import Product
from ..runtime.entry_records import field
from ..runtime.jit import Host

VECTORS = 2  # of a micro-tile
DOT_ROWS = 8  # rows of A up to which there are inner products
DOT_HEIGHTS = (4, 2, 1)  # rows that are computed together
# Columns of B up to which they are gathered into rows for these, and least terms of a sum.
THIN, LONG_DOT = 8, 512
STRIPS = 1 << 15  # elements of what is packed of B


class Block:
    """Writes what a block of C needs of its job.

    Attributes:
        heights, long: rows of micro-tiles; vectors of those of a few rows.
        parts: functions that are called, by name.
        declared: declarations of intrinsics.
        unit: the type that strides of the operands count.
        job: its fields.
        a, b, c: the first elements of these matrices.
        i0, j0, rows, columns: the block.
        a_rows, b_rows: whether A and B are not transposed.
        steps: of K.
        line: memory for a few results.
        target, stride: where the block is computed.
    """

    a: str
    b: str
    c: str
    steps: str
    line: str
    target: str
    stride: str

    def __init__(self, e: Element, host: Host) -> None:
        self.e, self.host, self.unit = e, host, e.type  # that strides of the operands count
        self.width = VECTORS * e.lanes
        tall, self.long = (8, 6) if host.registers >= 32 else (4, 4)
        self.heights = [h for h in (8, 4, 2, 1) if h <= tall]
        self.parts: dict[str, str] = {}
        self.declared: set[str] = set()

    def _function(self, head: str, write: Callable[[LoopWriter], None]) -> str:
        w = LoopWriter()
        w.host = self.host
        write(w)
        w.do("ret void")
        self.declared |= w.declarations
        return f"define {head} {attributes(self.host)} {{\nentry:\n{w.text()}\n}}\n"

    def _either(
        self, w: LoopWriter, condition: str, yes: Callable[[], None], no: Callable[[], None]
    ) -> None:
        """One of two pieces of code."""
        first, second, done = (w.name(k) for k in ("yes", "no", "done"))
        w.do(f"br i1 {condition}, label %{first}, label %{second}")
        for label, write in ((first, yes), (second, no)):
            w.block(label)
            write()
            w.do(f"br label %{done}")
        w.block(done)

    def _choose(self, w: LoopWriter, condition: str, a: str | int, b: str | int) -> str:
        return w.emit(f"select i1 {condition}, i64 {a}, i64 {b}")

    def _get(self, w: LoopWriter, name: str) -> str:
        place = w.emit(_field(Product, "%job", name))
        return w.emit(f"load i64, ptr {place}")

    def _matrix(self, w: LoopWriter, name: str, batch: str) -> str:
        """The first element of this matrix of the batch."""
        base = w.emit(f"inttoptr i64 {self._get(w, name)} to ptr")
        return w.at(base, self.unit, w.op("mul", batch, self._get(w, f"{name}_size")))

    def _find(self, w: LoopWriter) -> None:
        """Which block this is, and its operands."""
        names = ("m", "n", "k", "lda", "ldb", "turned_a", "turned_b")
        names += ("rows", "columns", "across", "down")
        self.job = job = {name: self._get(w, name) for name in names}
        jb, rest = w.op("urem", "%chunk", job["across"]), w.op("udiv", "%chunk", job["across"])
        ib, batch = w.op("urem", rest, job["down"]), w.op("udiv", rest, job["down"])
        self.i0, self.j0 = w.op("mul", ib, job["rows"]), w.op("mul", jb, job["columns"])
        self.rows = w.minimum(w.op("sub", job["m"], self.i0), job["rows"])
        self.columns = w.minimum(w.op("sub", job["n"], self.j0), job["columns"])
        self.a, self.b, self.c = (self._matrix(w, name, batch) for name in "abc")
        self.a_rows = w.emit(f"icmp eq i64 {job['turned_a']}, 0")
        self.b_rows = w.emit(f"icmp eq i64 {job['turned_b']}, 0")
        # how far the next row and column of A are, and of B
        self.a_down = self._choose(w, self.a_rows, job["lda"], 1)
        self.a_along = self._choose(w, self.a_rows, 1, job["lda"])
        self.b_down = self._choose(w, self.b_rows, job["ldb"], 1)
        self.b_along = self._choose(w, self.b_rows, 1, job["ldb"])
        final = w.emit(f"icmp eq i64 {w.op('add', batch, 1)}, {self._get(w, 'batch')}")
        self.steps = w.op("add", job["k"], self._choose(w, final, self._get(w, "rest"), 0))

    def _sum(self, w: LoopWriter) -> None:
        """What the products of the batch gave, in order."""
        e = self.e
        count = w.op("mul", self._get(w, "m"), self._get(w, "n"))
        c, total = (w.emit(f"inttoptr i64 {self._get(w, x)} to ptr") for x in ("c", "total"))
        held = w.emit(f"alloca {e.vector}, align 64")
        with w.loop(0, count, e.lanes) as i:
            first = w.at(c, e.type, i)
            e.store(w, e.load(w, first), held)
            with w.loop(1, self._get(w, "batch")) as p:
                other = e.load(w, w.at(first, e.type, w.op("mul", p, count)))
                e.store(w, w.emit(f"fadd {e.vector} {e.load(w, held)}, {other}"), held)
            mask = e.mask(w, w.minimum(w.op("sub", count, i), e.lanes))
            e.store(w, e.load(w, held), w.at(total, e.type, i), mask)

    # --- inner products ---------------------------------------------------------------------------

    def _few_along(self, w: LoopWriter, most: int) -> str:
        """Whether the rows of A are few and run along K."""
        one = w.emit(f"icmp eq i64 {self.job['m']}, 1")
        few = w.emit(f"icmp ule i64 {self.job['m']}, {most}")
        return w.emit(f"and i1 {few}, {w.emit(f'or i1 {one}, {self.a_rows}')}")

    def _rows_along(self, w: LoopWriter) -> tuple[str, str]:
        """How far the rows of A and the columns of B are apart that run along K."""
        return self.job["lda"], self.job["ldb"]

    def _dots(self, w: LoopWriter) -> None:
        """A few rows whose operands both run along K."""
        one = w.emit(f"icmp eq i64 {self.job['m']}, 1")
        far = w.emit(f"and i1 {one}, {self._is_far(w)}")
        alone = kernel_for(self.e, 1, True, True)
        several = [kernel_for(self.e, rows, False, False) for rows in DOT_HEIGHTS]
        self._either(
            w, far, partial(self._all_dots, w, [alone]), partial(self._all_dots, w, several)
        )

    def _is_far(self, w: LoopWriter) -> str:
        """Whether B comes from memory."""
        job = self.job
        count = w.op("mul", w.op("mul", self._get(w, "batch"), job["k"]), job["n"])
        return w.emit(f"icmp uge i64 {count}, {FAR // self.e.size}")

    def _all_dots(self, w: LoopWriter, kernels: list[Dot]) -> None:
        """`_dots` by these kernels, for the most rows first."""
        e, step = self.e, kernels[0].columns
        down_a, down_b = self._rows_along(w)
        first = w.at(self.a, e.type, w.op("mul", self.i0, down_a))
        with w.loop(0, self.columns, step) as j:
            b = w.at(self.b, e.type, w.op("mul", w.op("add", self.j0, j), down_b))
            left = w.minimum(w.op("sub", self.columns, j), step)
            whole = w.emit(f"icmp eq i64 {left}, {step}")

            def some(spec: Dot, i: str) -> None:
                a = w.at(first, e.type, w.op("mul", i, down_a))
                c = w.at(w.at(self.target, e.type, w.op("mul", i, self.stride)), e.type, j)

                def beside() -> None:
                    self._dot(w, spec, a, down_a, b, down_b, left)
                    with w.loop(0, spec.rows) as r, w.loop(0, left) as q:
                        self._copy(w, (r, q), c, w.op("add", w.op("mul", r, self.stride), q))

                in_place = partial(self._dot, w, spec, a, down_a, b, down_b, left, (c, self.stride))
                self._either(w, whole, in_place, beside)

            self._by_heights(w, self.rows, kernels, some)

    def _by_heights(
        self, w: LoopWriter, rows: str, kernels: list[Dot], some: Callable[[Dot, str], None]
    ) -> None:
        """All of `rows`: by the first kernel as long as there are enough, then by the others."""
        tall = kernels[0].rows
        done = w.op("sub", rows, w.op("urem", rows, tall))
        with w.when(w.emit(f"icmp ne i64 {done}, 0")), w.loop(0, done, tall) as i:
            some(kernels[0], i)
        for spec in kernels[1:]:
            bit = w.op("and", rows, str(spec.rows))
            with w.when(w.emit(f"icmp ne i64 {bit}, 0")):
                some(spec, w.op("and", rows, str(-2 * spec.rows)))

    def _copy(self, w: LoopWriter, element: tuple[str, str], c: str, place: str) -> None:
        """An element of `line`, by row and column, to C."""
        kind = self.e.type
        at = w.op("add", w.op("mul", element[0], DOT_COLUMNS), element[1])
        x = w.emit(f"load {kind}, ptr {w.at(self.line, kind, at)}")
        w.do(f"store {kind} {x}, ptr {w.at(c, kind, place)}")

    def _strips(self, w: LoopWriter) -> str:
        """Memory for what is packed of B."""
        return asked(w, STRIPS * self.e.size)

    def _is_thin(self, w: LoopWriter) -> str:
        """Whether B has a few columns, which are best gathered into rows."""
        n, k = self.job["n"], self.steps
        room = w.op("mul", n, w.op("add", k, self.e.lanes))
        tests = [
            *(self.a_rows, self.b_rows),
            w.emit(f"icmp ule i64 {n}, {THIN}"),
            w.emit(f"icmp uge i64 {k}, {LONG_DOT}"),
            w.emit(f"icmp ule i64 {room}, {STRIPS}"),
        ]
        every = tests[0]
        for test in tests[1:]:
            every = w.emit(f"and i1 {every}, {test}")
        return every

    def _gathered(self, w: LoopWriter) -> None:
        """Inner products of the rows of A and the columns of B."""
        e, job = self.e, self.job
        apart, strips = w.op("add", self.steps, e.lanes), self._strips(w)
        with w.loop(0, self.steps) as k, w.loop(0, job["n"]) as j:
            source = w.at(self.b, e.type, w.op("add", w.op("mul", k, job["ldb"]), j))
            place = w.at(strips, e.type, w.op("add", w.op("mul", j, apart), k))
            w.do(f"store {e.type} {w.emit(f'load {e.type}, ptr {source}')}, ptr {place}")
        kernels = [kernel_for(e, rows, False, False) for rows in DOT_HEIGHTS]
        step = kernels[0].columns
        with w.loop(0, self.rows, step) as i:
            first = w.op("add", self.i0, i)
            rows = w.at(self.a, e.type, w.op("mul", first, job["lda"]))
            left = w.minimum(w.op("sub", self.rows, i), step)
            c = w.at(self.target, e.type, w.op("mul", i, self.stride))

            def some(spec: Dot, j: str) -> None:
                column = w.at(strips, e.type, w.op("mul", j, apart))
                self._dot(w, spec, column, apart, rows, job["lda"], left)
                beside = w.at(c, e.type, j)
                with w.loop(0, spec.rows) as q, w.loop(0, left) as r:
                    self._copy(w, (q, r), beside, w.op("add", w.op("mul", r, self.stride), q))

            self._by_heights(w, job["n"], kernels, some)

    def _dot(
        self,
        w: LoopWriter,
        spec: Dot,
        a: str,
        down_a: str,
        b: str,
        down_b: str,
        count: str,
        to: tuple[str, str] | None = None,
    ) -> None:
        """Rows at `a` times rows at `b`, so far apart: to a place and rows so far apart, or to
        `line`."""
        self.parts[spec.name] = dot(spec, self.host)
        c, stride = to or (self.line, str(DOT_COLUMNS))
        w.do(
            f"call void @{spec.name}(ptr {a}, i64 {down_a}, ptr {b}, i64 {down_b}, i64 {count}, "
            f"i64 {self.steps}, ptr {c}, i64 {stride})"
        )


def _field(structure: type[Structure], pointer: str, name: str) -> str:
    assert dict(structure._fields_)[name] is c_int64  # pyright: ignore
    return field(structure, pointer, name)
