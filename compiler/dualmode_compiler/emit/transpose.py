"""Kernels that read an array along one axis and write along another: by tiles, through registers.

for u: for v: y[u, v] = f(x[v, u])  -->  for each tile: load rows of x along u, transpose them in
registers, and compute and store rows of y along v.
"""

from __future__ import annotations

from collections.abc import Callable

from ..cost import CHUNK, PARALLEL
from ..expr import Affine, Axis, Expr, Fold, Load, Reduce
from ..loops import Kernel
from ..records import dataclass
from ..spec import DType
from ..walks import walk
from .chunks import minimum, share
from .instructions import memory_type
from .levels import Value, mask_text
from .nest import Nest
from .values import Writer

LANES = 16  # rows and columns of a tile at the most
STRIP = 256  # bytes along u that are read together: lines of memory that lie side by side
MOST = 32  # chunks at the most
SMALL = 256  # elements below which plain loops will do


@dataclass(frozen=True, slots=True)
class Turned:
    """Which axes of a kernel are exchanged: `loads` have neighbours along u, stores along v."""

    u: Axis
    v: Axis
    loads: tuple[Load, ...]


def turned(nest: Nest, kernel: Kernel) -> Turned | None:
    """What to transpose in `kernel`; None where its loads and stores walk the same way."""
    axes = kernel.axes
    if len(axes) < 2 or any(s.depth < len(axes) for s in kernel.stores):
        return None
    v = axes[-1]
    found: dict[Axis, list[Load]] = {}
    for e in walk([s.value for s in kernel.stores]):
        if isinstance(e, Reduce | Fold):
            return None
        if isinstance(e, Load) and nest.stride(e.index[0], v) not in (0, 1, None):
            for u in axes[:-1]:
                if nest.stride(e.index[0], u) == 1 and _linear(e.index[0], (u, v)):
                    found.setdefault(u, []).append(e)
    if not found or any(nest.stride(s.offset, v) != 1 for s in kernel.stores):
        return None
    u, loads = max(found.items(), key=lambda t: len(t[1]))
    if u.extent * v.extent < SMALL:
        return None
    return Turned(u, v, tuple(loads))


def _linear(index: Expr, axes: tuple[Axis, ...]) -> bool:
    terms = [a for a, _ in index.terms] if isinstance(index, Affine) else [index]
    return all(a in terms or a not in index.axes for a in axes)


class Tiles:
    """The nest of a kernel with exchanged axes."""

    def __init__(self, nest: Nest, kernel: Kernel, form: Turned, work: float) -> None:
        self.nest, self.kernel, self.form, self.work = nest, kernel, form, work
        self.u, self.v = form.u, form.v
        self.outer = tuple(a for a in kernel.axes if a is not self.u and a is not self.v)
        sizes = [b.spec.dtype.itemsize for b in kernel.writes()]
        sizes += [x.dtype.itemsize for x in form.loads]
        lanes = min(LANES, nest.host.vector_bytes // max(sizes))
        self.rows = min(lanes, _power(self.u.extent))  # of a tile: values of u
        self.columns = min(lanes, _power(self.v.extent))  # values of v
        # what a kernel reads where it stores may be stored already, in place
        offsets = {s.offset for s in kernel.stores}
        read = [e.index[0] for e in walk([s.value for s in kernel.stores]) if isinstance(e, Load)]
        self.twice = offsets.isdisjoint(read)
        self.strip = max(self.rows, STRIP // max(sizes) // self.rows * self.rows)

    def emit(self) -> int:
        """Emit the loops; gives the number of chunks."""
        if any(a.extent == 0 for a in self.kernel.axes):
            return 1
        chunks = 1 if self.work < PARALLEL else int(min(MOST, self.work // CHUNK))
        u, v = self.u.extent, self.v.extent
        if chunks > 1 and self.outer and self.outer[0].extent >= min(chunks, 4):
            start, stop, chunks = share(self.nest.w, self.outer[0].extent, chunks, 1)
            self.nest.each(self.outer[0], lambda: self._nested(self.outer[1:]), start, stop)
            return chunks
        if chunks > 1 and u >= 2 * self.strip and u >= v // 64:
            start, stop, chunks = share(self.nest.w, u, chunks, self.strip)
            self._nested(self.outer, (start, stop))
            return chunks
        if chunks > 1 and v >= 2 * self.columns:
            start, stop, chunks = share(self.nest.w, v, chunks, self.columns)
            self._nested(self.outer, None, (start, stop))
            return chunks
        self._nested(self.outer)
        return 1

    def _nested(
        self,
        axes: tuple[Axis, ...],
        u: tuple[str, str] | None = None,
        v: tuple[str, str] | None = None,
    ) -> None:
        if axes:
            self.nest.each(axes[0], lambda: self._nested(axes[1:], u, v))
            return
        self._strips(*(u or ("0", str(self.u.extent))), *(v or ("0", str(self.v.extent))))

    def _strips(self, u0: str, u1: str, v0: str, v1: str) -> None:
        """Strips of neighbours along u, each through all of v: so rows of x are read in runs."""
        if u0 == "0" and u1 == str(self.u.extent) and self.u.extent <= self.strip:
            self._down(u0, u1, v0, v1)
            return

        def strip(index: str, _: list[str]) -> list[str]:
            w = self._here()
            end = w.emit(f"add nuw nsw i64 {index}, {self.strip}")
            self._down(index, minimum(w, end, u1), v0, v1)
            return []

        self.nest.loop(u0, u1, self.strip, strip)

    def _down(self, u0: str, u1: str, v0: str, v1: str) -> None:
        self._range(self.v, v0, v1, self.columns, lambda v, n: self._across(u0, u1, v, n))

    def _across(self, u0: str, u1: str, v: str, columns: int) -> None:
        self._range(self.u, u0, u1, self.rows, lambda u, n: self._tile(u, n, v, columns))

    def _range(
        self, axis: Axis, start: str, stop: str, step: int, body: Callable[[str, int], None]
    ) -> None:
        """`body` of each place and how many elements follow; only the axis's end has fewer.

        Where elements may be stored twice, the last tile overlaps the one before instead.
        """
        nest, extent = self.nest, axis.extent
        whole = extent // step * step

        def full(index: str, _: list[str]) -> list[str]:
            body(index, step)
            return []

        def moved(index: str, _: list[str]) -> list[str]:
            body(minimum(self._here(), index, extent - step), step)
            return []

        if self.twice and extent > step and whole < extent:
            nest.loop(start, stop, step, moved)
            return
        if start[0] != "%" and stop[0] != "%":
            if whole == step:
                body("0", step)
            elif whole:
                nest.loop("0", str(whole), step, full)
            if extent > whole:
                body(str(whole), extent - whole)
            return
        if whole == extent:
            nest.loop(start, stop, step, full)
            return
        w = self._here()
        last = w.emit(f"icmp ugt i64 {stop}, {whole}")
        end = minimum(w, stop, whole)
        some = w.emit(f"icmp ult i64 {start}, {end}")
        if whole:
            nest.when(some, lambda: _ignore(nest.loop(start, end, step, full)))
        nest.when(last, lambda: body(str(whole), extent - whole))

    def _here(self) -> Writer:
        self.nest.w.lines = self.nest.levels[-1].block.lines
        return self.nest.w

    def _tile(self, u: str, rows: int, v: str, columns: int) -> None:
        """`rows` rows of the result from u on, `columns` columns from v on."""
        nest, lanes = self.nest, _power(columns)
        lines: dict[Load, list[str]] = {}

        def read() -> None:
            for x in self.form.loads:
                lines[x] = self._read(x, rows, columns)

        def compute() -> None:
            level = nest.levels[-1]
            for x in self.form.loads:
                self._here()
                name = nest.from_memory(lines[x][row], x.dtype, lanes)
                nest.memo[x] = Value(name, lanes)
                level.names.append(x)
            for s in self.kernel.stores:
                nest.value(s.value)
            for s in self.kernel.stores:
                nest.store(s.buffer, s.offset, s.value)

        nest.scope(self.u, u, lambda: nest.scope(self.v, v, read))
        mask = mask_text(columns, lanes)
        for row in range(rows):
            at = u if not row else _plus(self._here(), u, row)
            nest.scope(self.u, at, lambda: nest.scope(self.v, v, compute, lanes, mask))

    def _read(self, x: Load, rows: int, columns: int) -> list[str]:
        """The tile of `x`, a vector along v for each of its `rows` values of u."""
        nest, width, height = self.nest, _power(rows), _power(columns)
        first, step = nest.address(x.buffer, x.index[0]), nest.stride(x.index[0], self.v) or 0
        element = memory_type(x.dtype, 1)
        lines: list[str] = []
        for k in range(columns):
            place = first
            if k:
                place = self._here().emit(f"getelementptr {element}, ptr {first}, i64 {k * step}")
            lines.append(nest.read(x.dtype, place, width, mask_text(rows, width)))
        lines += ["poison"] * (height - columns)
        return _Square(self._here(), x.dtype).transposed(lines, width)[:rows]


class _Square:
    """Transposes in registers. Numbers of lines and lanes are powers of two."""

    def __init__(self, w: Writer, dtype: DType) -> None:
        self.w, self.dtype = w, dtype

    def transposed(self, lines: list[str], lanes: int) -> list[str]:
        """`lanes` vectors of `len(lines)` lanes each."""
        count = len(lines)
        if lanes == 1:
            return [self._gathered(lines)]
        if count == 1:
            kind = memory_type(self.dtype, lanes)
            return [self.w.emit(f"extractelement {kind} {lines[0]}, i64 {k}") for k in range(lanes)]
        size = min(count, lanes)
        if count > size:  # lines that are `size` apart share a vector
            lines = [self._joined(lines[k::size], lanes) for k in range(size)]
            lanes = count
        step = size // 2
        while step:
            for k in range(size):
                if not k & step:
                    a, b = lines[k], lines[k + step]
                    low = [n if not n & step else lanes + n - step for n in range(lanes)]
                    high = [lanes + n if n & step else n + step for n in range(lanes)]
                    lines[k] = self._mix(a, b, lanes, low)
                    lines[k + step] = self._mix(a, b, lanes, high)
            step //= 2
        if lanes == count:
            return lines
        parts = range(0, lanes, count)
        return [
            self._mix(line, "poison", lanes, list(range(first, first + count)))
            for first in parts
            for line in lines
        ]

    def _joined(self, lines: list[str], lanes: int) -> str:
        """All of `lines` in one vector, in order."""
        while len(lines) > 1:
            order = list(range(2 * lanes))
            pairs = zip(lines[::2], lines[1::2], strict=True)
            lines = [self._mix(a, b, lanes, order) for a, b in pairs]
            lanes *= 2
        return lines[0]

    def _mix(self, a: str, b: str, lanes: int, order: list[int]) -> str:
        kind = memory_type(self.dtype, lanes)
        text = ", ".join(f"i32 {n}" for n in order)
        return self.w.emit(f"shufflevector {kind} {a}, {kind} {b}, <{len(order)} x i32> <{text}>")

    def _gathered(self, elements: list[str]) -> str:
        if len(elements) == 1:
            return elements[0]
        line, kind = "poison", memory_type(self.dtype, len(elements))
        for k, x in enumerate(elements):
            if x != "poison":
                line = self.w.emit(
                    f"insertelement {kind} {line}, {memory_type(self.dtype, 1)} {x}, i64 {k}"
                )
        return line


def _power(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _plus(w: Writer, at: str, by: int) -> str:
    return w.emit(f"add nuw nsw i64 {at}, {by}") if at[0] == "%" else str(int(at) + by)


def _ignore(_: object) -> None:
    pass
