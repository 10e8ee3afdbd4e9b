"""The inner-product kernel of products whose operands both run along K in memory."""

from __future__ import annotations

from functools import cache

from ..records import dataclass
from ..runtime.jit import Host
from .gemv import AHEAD
from .simd import Element, attributes
from .writer import LoopWriter

# Most columns of B that a kernel goes through side by side.
COLUMNS = 8


def dot_rows(host: Host) -> int:
    """Rows of A that share each load of a column of B, as far as registers hold the sums."""
    return 6 if host.registers >= 32 else 2


@dataclass(frozen=True)
class Dot:
    """A kernel of inner products.

    Attributes:
        rows: of A.
        columns: of B, a power of two. Each is a stream, which prefetchers follow.
        ahead: bytes by which each vector of B is asked for ahead; 0 if it is not.
    """

    element: Element
    rows: int
    columns: int
    ahead: int

    @property
    def name(self) -> str:
        tail = f"_{self.ahead}" * (self.ahead > 0)
        return f"dm_dot_{self.rows}x{self.columns}{tail}_{self.element.name}"


def kernel_for(e: Element, rows: int, is_far: bool, alone: bool) -> Dot:
    """The kernel for so many rows of A, by where B is (see `gemv.FAR`); `alone` if A has one."""
    return Dot(e, rows, COLUMNS if is_far and alone else COLUMNS // 2, AHEAD * is_far)


@cache
def dot(spec: Dot, host: Host) -> str:
    """IR of `void f(a, as, b, bs, columns, k, c, cs)`: for i < rows and j < spec.columns,
    c[i*cs + j] = sum_k a[i*as + k] * b[j*bs + k].

    Only `columns` of them exist; the others repeat the last, so a row of `c` has room for all. The
    order of every sum is fixed, whatever the kernel.
    """
    w, e, rows = LoopWriter(), spec.element, spec.rows
    last = w.emit("sub i64 %columns, 1")
    columns = ["%b"]
    for j in range(1, spec.columns):
        columns.append(w.at("%b", e.type, w.op("mul", w.minimum(last, j), "%bs")))
    lines = ["%a", *(w.at("%a", e.type, w.op("mul", "%as", i)) for i in range(1, rows))]
    left = w.op("urem", "%k", e.lanes)
    whole = w.emit(f"sub i64 %k, {left}")
    sums = _whole(w, spec, lines, columns, whole)
    sums = _rest(w, e, lines, columns, whole, left, sums)
    for i in range(rows):
        line = _sum_lanes(w, e, sums[i * spec.columns : (i + 1) * spec.columns])
        c = w.at("%c", e.type, w.op("mul", "%cs", i))
        w.do(f"store <{spec.columns} x {e.type}> {line}, ptr {c}, align {e.size}")
    w.do("ret void")
    arguments = "ptr %a, i64 %as, ptr %b, i64 %bs, i64 %columns, i64 %k, ptr %c, i64 %cs"
    head = f"define internal void @{spec.name}({arguments}) {attributes(host)} {{"
    return f"{head}\nentry:\n{w.text()}\n}}\n"


def _step(
    w: LoopWriter,
    e: Element,
    rows: list[str],
    columns: list[str],
    at: str,
    sums: list[str],
    mask: str | None,
) -> list[str]:
    xs, ys = ([e.load(w, w.at(p, e.type, at), mask) for p in ps] for ps in (rows, columns))
    pairs = ((x, y) for x in xs for y in ys)
    return [e.multiply_add(w, y, x, total) for (x, y), total in zip(pairs, sums, strict=True)]


def _whole(w: LoopWriter, spec: Dot, rows: list[str], columns: list[str], whole: str) -> list[str]:
    """Sums over whole vectors."""
    e, start = spec.element, w.label
    w.do(f"%some = icmp ne i64 {whole}, 0")
    w.do("br i1 %some, label %turn, label %rest")
    w.block("turn")
    phis = len(w.lines)
    names = [f"%sum{j}" for j in range(len(rows) * len(columns))]
    for column in columns if spec.ahead else []:
        later = w.at(w.at(column, e.type, "%i"), "i8", spec.ahead)
        w.do(f"call void @llvm.prefetch.p0(ptr {later}, i32 0, i32 2, i32 1)")
    new = _step(w, e, rows, columns, "%i", names, None)
    w.do(f"%i.next = add i64 %i, {e.lanes}")
    w.do(f"%more = icmp ult i64 %i.next, {whole}")
    w.do("br i1 %more, label %turn, label %rest")
    w.lines[phis:phis] = [
        f"  %i = phi i64 [ 0, %{start} ], [ %i.next, %turn ]",
        *(
            f"  {name} = phi {e.vector} [ zeroinitializer, %{start} ], [ {x}, %turn ]"
            for name, x in zip(names, new, strict=True)
        ),
    ]
    w.block("rest")
    return [w.emit(f"phi {e.vector} [ zeroinitializer, %{start} ], [ {x}, %turn ]") for x in new]


def _rest(
    w: LoopWriter,
    e: Element,
    rows: list[str],
    columns: list[str],
    at: str,
    left: str,
    sums: list[str],
) -> list[str]:
    """`sums` and the elements that fill no vector."""
    some = w.emit(f"icmp ne i64 {left}, 0")
    w.do(f"br i1 {some}, label %part, label %finish")
    w.block("part")
    new = _step(w, e, rows, columns, at, sums, e.mask(w, left))
    end = w.label
    w.do("br label %finish")
    w.block("finish")
    return [
        w.emit(f"phi {e.vector} [ {old}, %rest ], [ {x}, %{end} ]")
        for old, x in zip(sums, new, strict=True)
    ]


def _sum_lanes(w: LoopWriter, e: Element, sums: list[str]) -> str:
    """The sum of each vector's lanes, as one vector of them all.

    Two vectors at a time, the lower halves of their groups of lanes are added to the upper halves;
    both results fit one vector, whose groups are half as long. So the additions of all are shared.
    """
    lanes, group = e.lanes, e.lanes
    while group > 1:
        half = group // 2
        starts = range(0, lanes, group)
        low = [s + i for s in starts for i in range(half)]
        high = [i + half for i in low]
        if len(sums) > 1:
            low, high = (x + [i + lanes for i in x] for x in (low, high))
            pairs = list(zip(sums[::2], sums[1::2], strict=True))
        else:
            pairs = [(sums[0], "poison")]
        kind = f"<{len(low)} x {e.type}>"
        sums = [
            w.emit(f"fadd {kind} {_pick(w, e, lanes, x, low)}, {_pick(w, e, lanes, x, high)}")
            for x in pairs
        ]
        lanes, group = len(low), half
    while len(sums) > 1:
        order = list(range(2 * lanes))
        sums = [_pick(w, e, lanes, x, order) for x in zip(sums[::2], sums[1::2], strict=True)]
        lanes *= 2
    return sums[0]


def _pick(w: LoopWriter, e: Element, lanes: int, pair: tuple[str, str], order: list[int]) -> str:
    v = f"<{lanes} x {e.type}>"
    text = ", ".join(f"i32 {n}" for n in order)
    return w.emit(f"shufflevector {v} {pair[0]}, {v} {pair[1]}, <{len(order)} x i32> <{text}>")
