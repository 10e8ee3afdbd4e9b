"""Register-tiled micro-kernels of the matrix product, as LLVM IR text.

A micro-kernel computes an MR x (NV vectors) tile of C from K steps of rank one, with the tile held
in registers. K and all strides are run-time arguments, so one kernel serves every product in a
module that has the same tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ..runtime.jit import Host
from ..spec import DType
from .writer import LoopWriter


def attributes(host: Host) -> str:
    """Function attributes that keep LLVM at the host's full vector width."""
    bits = 8 * host.vector_bytes
    return f'nounwind "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}"'


@dataclass(frozen=True)
class Element:
    """How elements of a floating dtype are written in LLVM IR on a host.

    Attributes:
        type: the scalar type.
        lanes: elements in one vector register.
        vector: the vector type.
        suffix: of the vector type in the names of intrinsics.
        size: bytes of one element.
    """

    type: str
    lanes: int
    size: int
    fma: bool

    @property
    def vector(self) -> str:
        return f"<{self.lanes} x {self.type}>"

    @property
    def suffix(self) -> str:
        return f"v{self.lanes}f{8 * self.size}"

    def broadcast(self, w: LoopWriter, scalar: str) -> str:
        one = w.emit(f"insertelement {self.vector} poison, {self.type} {scalar}, i64 0")
        order = f"<{self.lanes} x i32> zeroinitializer"
        return w.emit(f"shufflevector {self.vector} {one}, {self.vector} poison, {order}")

    def multiply_add(self, w: LoopWriter, a: str, b: str, c: str) -> str:
        """a * b + c, fused where that is an instruction (elsewhere it would be a libm call)."""
        v = self.vector
        if self.fma:
            return w.emit(f"call {v} @llvm.fma.{self.suffix}({v} {a}, {v} {b}, {v} {c})")
        return w.emit(f"fadd {v} {w.emit(f'fmul {v} {a}, {b}')}, {c}")

    def load(self, w: LoopWriter, address: str, mask: str | None = None) -> str:
        if mask is None:
            return w.emit(f"load {self.vector}, ptr {address}, align {self.size}")
        return w.emit(
            f"call {self.vector} @llvm.masked.load.{self.suffix}.p0(ptr {address}, "
            f"i32 {self.size}, <{self.lanes} x i1> {mask}, {self.vector} zeroinitializer)"
        )

    def store(self, w: LoopWriter, value: str, address: str, mask: str | None = None) -> None:
        if mask is None:
            w.do(f"store {self.vector} {value}, ptr {address}, align {self.size}")
        else:
            w.do(
                f"call void @llvm.masked.store.{self.suffix}.p0({self.vector} {value}, "
                f"ptr {address}, i32 {self.size}, <{self.lanes} x i1> {mask})"
            )

    def mask(self, w: LoopWriter, live: str) -> str:
        """The first `live` lanes (an i64), as <lanes x i1>."""
        integers = f"<{self.lanes} x i{8 * self.size}>"
        kind = f"i{8 * self.size}"
        count = live if kind == "i64" else w.emit(f"trunc i64 {live} to {kind}")
        one = w.emit(f"insertelement {integers} poison, {kind} {count}, i64 0")
        order = f"<{self.lanes} x i32> zeroinitializer"
        limit = w.emit(f"shufflevector {integers} {one}, {integers} poison, {order}")
        steps = ", ".join(f"{kind} {i}" for i in range(self.lanes))
        return w.emit(f"icmp ult {integers} <{steps}>, {limit}")


def element(dtype: DType, host: Host) -> Element:
    """Raises TypeError unless `dtype` is float32 or float64."""
    if dtype.kind != "f" or dtype.itemsize not in (4, 8):
        raise TypeError(f"contraction: {dtype} has no vector kernel; cast to float32 or float64")
    kind = "float" if dtype.itemsize == 4 else "double"
    return Element(kind, host.vector_bytes // dtype.itemsize, dtype.itemsize, host.fma)


@dataclass(frozen=True)
class Kernel:
    """A micro-kernel: C[r, j] (+)= sum_k A[r, k] * B[k, j] for r < rows, j < vectors * lanes.

    Attributes:
        rows, vectors: the tile.
        masked: only the first `live` lanes of the last vector exist, in B and in C.
        by_rows: A[r, k] is at A + r*as + k; else at A + r + k*as.
        fetch: in each step of K, a cache line is asked for that will be needed later: those at P,
            P + ps, P + 2*ps, ...
    """

    rows: int
    vectors: int
    masked: bool
    by_rows: bool
    element: Element
    fetch: bool = False

    @property
    def name(self) -> str:
        tail = "m" * self.masked + "f" * self.fetch
        mode = "row" if self.by_rows else "col"
        return f"dm_gemm_{self.rows}x{self.vectors}{tail}_{mode}_{self.element.suffix}"


ARGUMENTS = "ptr %A, i64 %as, ptr %B, i64 %bs, ptr %C, i64 %cs, i64 %k, i64 %live, i64 %add"
FETCHED = ", ptr %P, i64 %ps"


@cache
def kernel(spec: Kernel, host: Host) -> str:
    """IR of `spec`. Arguments: A, as, B, bs, C, cs, k >= 1, live, add (C += where not 0).

    Strides count elements. One rank-one step a turn: with a dozen multiply-adds or more in it,
    longer turns are no faster, and they take longer to compile.
    """
    body = _Body(spec)
    w = body.w
    adding = w.emit("icmp ne i64 %add, 0")
    zeros = (w.label, body.start(["zeroinitializer"] * len(body.tile)))
    w.do(f"br i1 {adding}, label %resume, label %turn")
    w.block("resume")
    loaded = (w.label, body.start(body.load_tile()))
    w.do("br label %turn")

    w.block("turn")
    phis = len(w.lines)
    turned = (w.label, body.step(body.names()))
    w.do("%left.next = sub i64 %left, 1")
    w.do("%more = icmp ne i64 %left.next, 0")
    w.do("br i1 %more, label %turn, label %finish")
    w.lines[phis:phis] = body.phis(zeros, loaded, turned)
    w.block("finish")
    body.store_tile(turned[1][body.fixed :])
    w.do("ret void")
    arguments = ARGUMENTS + FETCHED * spec.fetch
    head = f"define internal void @{spec.name}({arguments}) {attributes(host)} {{"
    return f"{head}\nentry:\n{w.text()}\n}}\n"


Incoming = tuple[str, list[str]]  # a block's label and the state on leaving it


class _Body:
    """Pieces of a micro-kernel. Its state is a list: steps left, place in A, pointer into B, the
    line to fetch if there is one, sums.

    The place in A is a pointer, or by rows the column's index: rows keep pointers of their own.
    """

    def __init__(self, spec: Kernel) -> None:
        self.spec, self.w = spec, LoopWriter()
        self.fixed = 3 + spec.fetch  # entries of the state ahead of the sums
        self.mask = spec.element.mask(self.w, "%live") if spec.masked else None
        self.tile = [(r, v) for r in range(spec.rows) for v in range(spec.vectors)]
        self.rows = self._rows() if spec.by_rows else []
        self.where = self._where()

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

    def _where(self) -> list[str]:
        """Addresses of the tile's vectors in C."""
        w, e, row = self.w, self.spec.element, "%C"
        out = []
        for r, v in self.tile:
            if r and v == 0:
                row = w.at(row, e.type, "%cs")
            out.append(w.at(row, e.type, v * e.lanes))
        return out

    def start(self, sums: list[str]) -> list[str]:
        return ["%k", "0" if self.spec.by_rows else "%A", "%B", *["%P"] * self.spec.fetch, *sums]

    def names(self) -> list[str]:
        sums = (f"%c{r}.{v}" for r, v in self.tile)
        return ["%left", "%a", "%b", *["%p"] * self.spec.fetch, *sums]

    def phis(self, *sources: Incoming) -> list[str]:
        place = "i64" if self.spec.by_rows else "ptr"
        pointers = ["ptr"] * (self.fixed - 2)
        types = ["i64", place, *pointers, *[self.spec.element.vector] * len(self.tile)]
        return [
            f"  {name} = phi {kind} " + ", ".join(f"[ {s[i]}, %{label} ]" for label, s in sources)
            for i, (name, kind) in enumerate(zip(self.names(), types, strict=True))
        ]

    def step(self, state: list[str]) -> list[str]:
        """A rank-one update of the state."""
        w, spec, e = self.w, self.spec, self.spec.element
        a, b, sums = state[1], state[2], state[self.fixed :]
        fetch = []
        if spec.fetch:
            w.do("call void @llvm.prefetch.p0(ptr %p, i32 0, i32 2, i32 1)")
            fetch = [w.at("%p", e.type, "%ps")]
        line = [e.load(w, w.at(b, e.type, v * e.lanes), self._mask(v)) for v in range(spec.vectors)]
        new: list[str] = []
        for r in range(spec.rows):
            address = w.at(self.rows[r], e.type, a) if spec.by_rows else w.at(a, e.type, r)
            x = e.broadcast(w, w.emit(f"load {e.type}, ptr {address}, align {e.size}"))
            for v, y in enumerate(line):
                new.append(e.multiply_add(w, x, y, sums[r * spec.vectors + v]))
        a = w.op("add", a, 1) if spec.by_rows else w.at(a, e.type, "%as")
        return ["%left.next", a, w.at(b, e.type, "%bs"), *fetch, *new]

    def _mask(self, vector: int) -> str | None:
        return self.mask if vector == self.spec.vectors - 1 else None

    def load_tile(self) -> list[str]:
        pairs = zip(self.tile, self.where, strict=True)
        return [self.spec.element.load(self.w, at, self._mask(v)) for (_, v), at in pairs]

    def store_tile(self, sums: list[str]) -> None:
        for (_, v), at, total in zip(self.tile, self.where, sums, strict=True):
            self.spec.element.store(self.w, total, at, self._mask(v))
