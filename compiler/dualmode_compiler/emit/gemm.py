"""Register-tiled micro-kernels of the matrix product, as LLVM IR text.

A micro-kernel computes an MR x (NV vectors) tile of C from K steps of rank one, with the tile held
in registers. K and all strides are run-time arguments, so one kernel serves every product in a
module that has the same tile.
"""

from __future__ import annotations

from functools import cache

from ..records import dataclass
from ..runtime.jit import Host
from .pack import group, turned
from .simd import Element, attributes
from .writer import LoopWriter

RUN = 8  # lines that are fetched in a row, a power of two


@dataclass(frozen=True)
class Kernel:
    """A micro-kernel: C[r, j] (+)= sum_k A[r, k] * B[k, j] for r < rows, j < vectors * lanes.

    Attributes:
        rows, vectors: the tile.
        masked: only the first `live` lanes of the last vector exist, in B and in C.
        by_rows: A[r, k] is at A + r*as + k; else at A + r + k*as.
        fetch: in each step of K, a cache line is asked for that will be needed later: a `RUN` of
            them from P on, ps apart; another one from pt after the last of these on; and so on.
        packs: "rows": every line of B is stored at P, P + ps, ... as well, for later panels.
            "columns": B[k, j] is at B + k + j*bs, k is a multiple of `group`, and the tile is one
            vector wide; what stands for missing columns in P is the last one.
        ahead: how many lines before it is read each line of B is asked for; 0 if it is not.
    """

    rows: int
    vectors: int
    masked: bool
    by_rows: bool
    element: Element
    fetch: bool = False
    packs: str | None = None
    ahead: int = 0

    @property
    def name(self) -> str:
        tail = "m" * self.masked + "f" * self.fetch + (self.packs or "")[:1]
        tail += f"a{self.ahead}" * (self.ahead > 0)
        mode = "row" if self.by_rows else "col"
        return f"dm_gemm_{self.rows}x{self.vectors}{tail}_{mode}_{self.element.name}"


ARGUMENTS = "ptr %A, i64 %as, ptr %B, i64 %bs, ptr %C, i64 %cs, i64 %k, i64 %live, i64 %add"
# More arguments of those that fetch or pack. Small products notice each argument.
ASIDE = ", ptr %P, i64 %ps, i64 %pt"


@cache
def kernel(spec: Kernel, host: Host) -> str:
    """IR of `spec`. Arguments: A, as, B, bs, C, cs, k >= 1, live, add (C += where not 0), and P,
    ps, pt if it fetches or packs.

    Strides count elements. A turn is one rank-one step: with a dozen multiply-adds or more in it,
    longer turns are no faster, and they take longer to compile. Where B is packed, it is a group.
    """
    body = Body(spec)
    w = body.w
    adding = w.emit("icmp ne i64 %add, 0")
    before = w.label
    w.do(f"br i1 {adding}, label %resume, label %begin")
    w.block("resume")
    loaded = body.load_tile()
    w.do("br label %begin")

    # a loop that is entered from one block has what stays the same computed there
    w.block("begin")
    kind = spec.element.vector
    first = [w.emit(f"phi {kind} [ zeroinitializer, %{before} ], [ {x}, %resume ]") for x in loaded]
    start = (w.label, body.start(first))
    w.do("br label %turn")

    w.block("turn")
    phis = len(w.lines)
    turned = (w.label, body.turn(body.names()))
    w.do(f"%left.next = sub i64 %left, {body.steps}")
    w.do("%more = icmp ne i64 %left.next, 0")
    w.do("br i1 %more, label %turn, label %finish")
    w.lines[phis:phis] = body.phis(start, turned)
    w.block("finish")
    body.store_tile(turned[1][body.fixed :])
    w.do("ret void")
    arguments = ARGUMENTS + ASIDE * body.moves
    head = f"define internal void @{spec.name}({arguments}) {attributes(host)} {{"
    return f"{head}\nentry:\n{w.text()}\n}}\n"


Incoming = tuple[str, list[str]]  # a block's label and the state on leaving it


class Body:
    """Pieces of a micro-kernel. Its state is a list: steps left, place in A, pointer into B, the
    line to fetch or to store if there is one, sums.

    The place in A is a pointer, or by rows the column's index: rows keep pointers of their own.
    """

    def __init__(self, spec: Kernel, w: LoopWriter | None = None) -> None:
        self.spec, self.w = spec, w or LoopWriter()
        self.turns = spec.packs == "columns"
        self.moves = spec.fetch or spec.packs is not None  # P is part of the state
        self.fixed = 3 + self.moves  # entries of the state ahead of the sums
        self.steps = group(spec.element) if self.turns else 1  # of K, in a turn
        self.mask = spec.element.mask(self.w, "%live") if spec.masked else None
        self.tile = [(r, v) for r in range(spec.rows) for v in range(spec.vectors)]
        self.ahead = self.w.op("mul", "%bs", spec.ahead) if spec.ahead else ""
        self.columns = self._columns() if self.turns else []
        self.rows = self._rows() if spec.by_rows else []

    def _rows(self) -> list[str]:
        """Pointers to the rows of A, read back from memory.

        LLVM's strength reduction would else see that they are one stride apart and form each from
        the one before in every turn, which takes slots of the multiply-add ports and registers.
        """
        w, count = self.w, self.spec.rows
        table = w.emit(f"alloca [{count} x ptr], align 8")
        slots = [w.at(table, "ptr", r) for r in range(count)]
        row = "%A"
        for r, slot in enumerate(slots):
            row = w.at(row, self.spec.element.type, "%as") if r else row
            w.do(f"store ptr {row}, ptr {slot}, align 8")
        w.do("br label %start")
        w.block("start")
        return [w.emit(f"load ptr, ptr {slot}, align 8") for slot in slots]

    def _columns(self) -> list[str]:
        """How far the columns of B are from the first one."""
        w, lanes = self.w, self.spec.element.lanes
        if not self.spec.masked:
            return [w.op("mul", "%bs", j) for j in range(lanes)]
        last = w.op("sub", "%live", 1)
        return ["0", *(w.op("mul", w.minimum(last, j), "%bs") for j in range(1, lanes))]

    def _where(self) -> list[str]:
        """Addresses of the tile's vectors in C, formed where they are used: registers are few."""
        w, e, row = self.w, self.spec.element, "%C"
        out = []
        for r, v in self.tile:
            if r and v == 0:
                row = w.at(row, e.type, "%cs")
            out.append(w.at(row, e.type, v * e.lanes))
        return out

    def start(self, sums: list[str]) -> list[str]:
        return ["%k", "0" if self.spec.by_rows else "%A", "%B", *["%P"] * self.moves, *sums]

    def names(self) -> list[str]:
        sums = (f"%c{r}.{v}" for r, v in self.tile)
        return ["%left", "%a", "%b", *["%p"] * self.moves, *sums]

    def types(self) -> list[str]:
        place = "i64" if self.spec.by_rows else "ptr"
        pointers = ["ptr"] * (self.fixed - 2)
        return ["i64", place, *pointers, *[self.spec.element.vector] * len(self.tile)]

    def phis(self, *sources: Incoming) -> list[str]:
        return [
            f"  {name} = phi {kind} " + ", ".join(f"[ {s[i]}, %{label} ]" for label, s in sources)
            for i, (name, kind) in enumerate(zip(self.names(), self.types(), strict=True))
        ]

    def turn(self, state: list[str]) -> list[str]:
        """The state after a turn of the loop over K."""
        w, e, spec = self.w, self.spec.element, self.spec
        a, b, p, sums = state[1], state[2], state[3 : self.fixed], state[self.fixed :]
        for line in self._turned(b) if self.turns else [self._line(b)]:
            for v, y in enumerate(line if spec.packs else []):
                e.store(w, y, w.at(p[0], e.type, v * e.lanes))
            if spec.fetch:
                w.do(f"call void @llvm.prefetch.p0(ptr {p[0]}, i32 0, i32 2, i32 1)")
            sums = self._update(a, line, sums)
            a = w.op("add", a, 1) if spec.by_rows else w.at(a, e.type, "%as")
            p = [w.at(x, e.type, self._next_line() if spec.fetch else "%ps") for x in p]
        b = w.at(b, e.type, self.steps if self.turns else "%bs")
        return ["%left.next", a, b, *p, *sums]

    def _next_line(self) -> str:
        """How far from the line that is fetched now the next one is."""
        w = self.w
        done = w.op("sub", "%k", w.op("sub", "%left", 1))
        ends = w.emit(f"icmp eq i64 {w.op('and', done, RUN - 1)}, 0")
        return w.emit(f"select i1 {ends}, i64 %pt, i64 %ps")

    def _line(self, b: str) -> list[str]:
        """The vectors of a line of B."""
        w, e = self.w, self.spec.element
        vectors = range(self.spec.vectors)
        if self.spec.ahead:
            later = w.at(b, e.type, self.ahead)
            for v in vectors:
                at = w.at(later, e.type, v * e.lanes)
                w.do(f"call void @llvm.prefetch.p0(ptr {at}, i32 0, i32 3, i32 1)")
        return [e.load(w, w.at(b, e.type, v * e.lanes), self._mask(v)) for v in vectors]

    def _turned(self, b: str) -> list[list[str]]:
        """The next lines of B, formed of parts of its columns."""
        w, e = self.w, self.spec.element
        return [[line] for line in turned(w, e, [w.at(b, e.type, x) for x in self.columns], "0")]

    def _update(self, a: str, line: list[str], sums: list[str]) -> list[str]:
        """The sums after a rank-one update: the column of A at `a` times a line of B."""
        w, spec, e = self.w, self.spec, self.spec.element
        new: list[str] = []
        for r in range(spec.rows):
            address = w.at(self.rows[r], e.type, a) if spec.by_rows else w.at(a, e.type, r)
            x = e.broadcast(w, w.emit(f"load {e.type}, ptr {address}, align {e.size}"))
            for v, y in enumerate(line):
                new.append(e.multiply_add(w, x, y, sums[r * spec.vectors + v]))
        return new

    def _mask(self, vector: int) -> str | None:
        return self.mask if vector == self.spec.vectors - 1 else None

    def load_tile(self) -> list[str]:
        pairs = zip(self.tile, self._where(), strict=True)
        return [self.spec.element.load(self.w, at, self._mask(v)) for (_, v), at in pairs]

    def store_tile(self, sums: list[str]) -> None:
        for (_, v), at, total in zip(self.tile, self._where(), sums, strict=True):
            self.spec.element.store(self.w, total, at, self._mask(v))
