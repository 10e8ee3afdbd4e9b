"""Kernels of a few rows times a B whose rows run along N, as LLVM IR text.

Such a product has one or two multiply-adds for each element of B, so what bounds it is how B comes
from memory. Some rows of B are gone through side by side, each a stream that prefetchers follow,
and the rows of C are loaded and stored once for all of these.
"""

from __future__ import annotations

from functools import cache

from ..records import dataclass
from ..runtime.jit import Host
from .simd import Element, attributes
from .writer import LoopWriter

# Bytes of B from which on it is taken to come from memory, not from a cache that cores share. More
# streams keep more lines on the way then, and to ask for lines so many bytes ahead is worth it;
# nearer, that only takes slots of loads.
FAR, AHEAD = 1 << 24, 1024
MOST_ROWS = 2  # of A; with more, what bounds the product is multiply-adds


@dataclass(frozen=True)
class Gemv:
    """A kernel: C[r, j] (+)= sum_k A[r, k] * B[k, j] for r < rows, j < columns.

    Attributes:
        rows: of A and C.
        group: rows of B that are gone through side by side.
        vectors: that are read of one of them before the next one's.
        ahead: bytes by which each vector of B is asked for ahead; 0 if it is not.
    """

    element: Element
    rows: int
    group: int
    vectors: int
    ahead: int

    @property
    def name(self) -> str:
        tail = f"_{self.ahead}" * (self.ahead > 0)
        return f"dm_gemv_{self.rows}x{self.group}x{self.vectors}{tail}_{self.element.name}"


def kernel_for(e: Element, host: Host, rows: int, is_far: bool) -> Gemv:
    """The kernel for so many rows of A, by where B is."""
    group, vectors = 8 if is_far else 6, 4
    if host.registers < 32:
        group, vectors = group // rows, vectors // rows
    return Gemv(e, rows, group, vectors, AHEAD * is_far)


ARGUMENTS = (
    "ptr %A, i64 %as, i64 %ak, ptr %B, i64 %bs, ptr %C, i64 %cs, i64 %columns, i64 %k, i64 %add"
)


@cache
def gemv(spec: Gemv, host: Host) -> str:
    """IR of `spec`. Arguments: A, as, ak, B, bs, C, cs, columns >= 1, k >= 1, add (C += where not
    0). A[r, k] is at A + r*as + k*ak, B[k, j] at B + k*bs + j, C[r, j] at C + r*cs + j; strides
    count elements. Every sum is added up in the order of k."""
    body = _Body(spec)
    w, e = body.w, spec.element
    with w.when(w.emit("icmp eq i64 %add, 0")), w.loop(0, spec.rows) as r:
        row = w.at("%C", e.type, w.op("mul", r, "%cs"))
        size = w.op("mul", "%columns", e.size)
        w.do(f"call void @llvm.memset.p0.i64(ptr {row}, i8 0, i64 {size}, i1 false)")
    whole = w.op("sub", "%k", w.op("urem", "%k", spec.group))
    with w.when(w.emit(f"icmp ne i64 {whole}, 0")), w.loop(0, whole, spec.group) as k:
        body.add(k, spec.group)
    with w.when(w.emit(f"icmp ult i64 {whole}, %k")), w.loop(whole, "%k") as k:
        body.add(k, 1)
    w.do("ret void")
    head = f"define internal void @{spec.name}({ARGUMENTS}) {attributes(host)} {{"
    return f"{head}\nentry:\n{w.text()}\n}}\n"


class _Body:
    """Writes what is added to C for some rows of B."""

    def __init__(self, spec: Gemv) -> None:
        self.w, self.spec, self.e = LoopWriter(), spec, spec.element
        w, lanes = self.w, self.e.lanes
        self.width = lanes * spec.vectors
        self.wide = w.op("sub", "%columns", w.op("urem", "%columns", self.width))
        self.whole = w.op("sub", "%columns", w.op("urem", "%columns", lanes))
        self.mask = self.e.mask(w, w.op("sub", "%columns", self.whole))

    def add(self, k: str, count: int) -> None:
        """The part of the sums that the `count` rows from `k` on give: by tiles of some vectors, by
        single ones, and what fills none."""
        w, e = self.w, self.e
        b = self._apart(w.at("%B", e.type, w.op("mul", k, "%bs")), "%bs", count)
        a = self._apart(w.at("%A", e.type, w.op("mul", k, "%ak")), "%ak", count)
        c = self._apart("%C", "%cs", self.spec.rows)
        places = [[w.at(x, e.type, w.op("mul", "%as", r)) for x in a] for r in range(len(c))]
        xs = [[self._scalar(x) for x in row] for row in places]
        with w.when(w.emit(f"icmp ne i64 {self.wide}, 0")), w.loop(0, self.wide, self.width) as j:
            self._tile(xs, b, c, j, self.spec.vectors, None)
        some = w.emit(f"icmp ult i64 {self.wide}, {self.whole}")
        with w.when(some), w.loop(self.wide, self.whole, e.lanes) as j:
            self._tile(xs, b, c, j, 1, None)
        with w.when(w.emit(f"icmp ult i64 {self.whole}, %columns")):
            self._tile(xs, b, c, self.whole, 1, self.mask)

    def _apart(self, first: str, stride: str, count: int) -> list[str]:
        places = [first]
        for _ in range(count - 1):
            places.append(self.w.at(places[-1], self.e.type, stride))
        return places

    def _scalar(self, place: str) -> str:
        w, e = self.w, self.e
        return e.broadcast(w, w.emit(f"load {e.type}, ptr {place}, align {e.size}"))

    def _tile(
        self,
        xs: list[list[str]],
        b: list[str],
        c: list[str],
        j: str,
        vectors: int,
        mask: str | None,
    ) -> None:
        """Some vectors of the rows of C, from column `j` on."""
        w, e = self.w, self.e

        def across(row: str) -> list[str]:
            first = w.at(row, e.type, j)
            return [w.at(first, e.type, v * e.lanes) for v in range(vectors)]

        places = [across(row) for row in c]
        sums = [[e.load(w, x, mask) for x in row] for row in places]
        for k, line in enumerate(b):
            for v, at in enumerate(across(line)):
                if self.spec.ahead:
                    later = w.at(at, "i8", self.spec.ahead)
                    w.do(f"call void @llvm.prefetch.p0(ptr {later}, i32 0, i32 2, i32 1)")
                y = e.load(w, at, mask)
                for row, x in zip(sums, xs, strict=True):
                    row[v] = e.multiply_add(w, y, x[k], row[v])
        for row, new in zip(places, sums, strict=True):
            for x, total in zip(row, new, strict=True):
                e.store(w, total, x, mask)
