"""Rows in flight: what a kernel does to a row in several passes, it does to several rows in one.

for i: a = max(x[i, r] for r); b = sum(f(x[i, r], a) for r); for j: y[i, j] = f(x[i, j], a) / b
-->
for t: for j: a' = max(a', x[t, j]); b' += f(x[t - 1, j], a); y[t - 2, j] = f(x[t - 2, j], a) / b

So the memory is busy while the processor computes: the last pass of one row stores while the first
pass of a later one loads. Two passes with little to compute keep it busier one after the other, as
hardware prefetchers follow those best.

A total is passed on from one turn of the loop to the next, as are rows of values that are kept for
a later pass. At both ends of the rows, passes go over a row that is not theirs: what the last one
stores then goes to a row of scratch memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..cost import operations
from ..expr import Axis, Expr, Fold, Reduce
from ..loops import Kernel, Store, loads
from ..spec import DType
from ..walks import substitute, walk
from .chunks import minimum
from .levels import Value
from .nest import Nest
from .reduce import Fold as Accumulation
from .resident import Row
from .streams import Stream
from .values import Writer, literal, memory_type, register_type

AHEAD, FAR = 2048, 8192  # bytes ahead that the first pass asks for: from a cache, from memory
LARGEST = 1 << 15  # bytes of a row: those in flight should stay in the second level of the caches
APART = 1344  # bytes, modulo 4096, from one row of kept values to the next
LEAST = 16  # rows of a chunk from which it pays
MANY = 3  # passes from which it pays: one after the other, all but one leave the memory idle
HEAVY = 12  # additions for each element, in all passes, from which it pays for two
SLACK = 16  # elements before and after the scratch row that masked vectors may span


def passes(kernel: Kernel) -> dict[Reduce, int] | None:
    """In which pass over a row each reduction can be computed; None if they are not all of rows."""
    if len(kernel.axes) != 2:
        return None
    row, column = kernel.axes
    found: dict[Reduce, int] = {}
    for e in walk([s.value for s in kernel.stores]):
        if isinstance(e, Fold) or (isinstance(e, Reduce) and e.kind in ("argmax", "argmin")):
            return None
        if isinstance(e, Reduce):
            if e.axes != {row} or [a.extent for a in e.bound] != [column.extent]:
                return None
            before = [k for r, k in found.items() if r in walk([e.body])]
            found[e] = 1 + max(before, default=-1)
    return found or None


def fits(nest: Nest, kernel: Kernel, lanes: int, stores: Sequence[Store], rows: int) -> bool:
    """Whether `rows` rows of `kernel`, which stores past the caches, can be in flight and gain by
    it."""
    found = passes(kernel)
    if found is None or len(stores) != 1 or sum(s.depth == 2 for s in kernel.stores) > 1:
        return False
    column = kernel.axes[1]
    size = column.extent * stores[0].buffer.spec.dtype.itemsize
    folds = [Accumulation(nest, e, 1) for e in found]
    alike = all(f.across and (f.lanes, f.count) == (lanes, folds[0].count) for f in folds)
    work = operations([s.value for s in kernel.stores], kernel.axes)
    heavy = work >= HEAVY * kernel.axes[0].extent * column.extent
    pays = heavy or 2 + max(found.values()) >= MANY
    long = column.extent >= 8 * lanes and size <= LARGEST
    return alike and pays and long and rows >= LEAST


class Pipeline:
    """The loops over the rows and columns of `kernel`.

    Args:
        store: of single elements, past the caches.
        kept: values that a later pass finds in a row.
    """

    def __init__(
        self, nest: Nest, kernel: Kernel, lanes: int, store: Store, kept: Sequence[Row]
    ) -> None:
        found = passes(kernel)
        assert found is not None
        self.nest, self.lanes, self.store = nest, lanes, store
        self.row, self.column = kernel.axes
        self.sums = [s for s in kernel.stores if s.depth == 1]
        self.last = 1 + max(found.values())
        # the row that each pass is at
        self.at = [Axis(self.row.extent) for _ in range(self.last)] + [self.row]
        self.totals, self.kept = found, kept
        dtype = store.buffer.spec.dtype
        room = nest.room(self.column.extent + 2 * SLACK, dtype)
        self.scratch = self._here().emit(
            f"getelementptr {memory_type(dtype, 1)}, ptr {room}, i64 {SLACK}"
        )

    def emit(self, start: str, stop: str) -> None:
        """The rows from `start` to `stop`."""
        nest, w = self.nest, self._here()
        end = w.emit(f"add i64 {stop}, {self.last}")
        most = w.emit(f"sub i64 {stop}, 1")

        def turn(t: str, phis: list[str]) -> list[str]:
            early = self._open(t, start, most)
            later = self._turn(early, phis)
            for _ in self.at:
                nest.close()
            return later

        nest.loop(start, end, 1, turn, self._carried())

    def _here(self) -> Writer:
        self.nest.w.lines = self.nest.levels[-1].block.lines
        return self.nest.w

    def _carried(self) -> list[tuple[str, str]]:
        """What one turn passes on to the next: each total for the passes after its own, and the
        rows of kept values, one for each pass from where they are computed to the last one."""
        carried: list[tuple[str, str]] = []
        for e, k in self.totals.items():
            kind = register_type(e.dtype, 1)
            carried += [(kind, literal(0, e.dtype, 1))] * (self.last - k)
        for row in self.kept:
            count = self.last - self.totals[row.total] + 1
            carried += [("ptr", r) for r in self._rooms(count, row.value.dtype)]
        return carried

    def _rooms(self, count: int, dtype: DType) -> list[str]:
        """Rows whose addresses differ in their lower bits, see `_columns`."""
        size = self.column.extent * dtype.itemsize
        size += (APART - size) % 4096
        room = self.nest.room(count * size // dtype.itemsize, dtype)
        w = self._here()
        return [w.emit(f"getelementptr i8, ptr {room}, i64 {k * size}") for k in range(count)]

    def _open(self, t: str, start: str, most: str) -> str:
        """Bind the row of each pass; gives whether the last one has none yet."""
        nest, w = self.nest, self._here()
        early = "false"
        for k, axis in enumerate(self.at):
            at = t
            if k:
                begin = w.emit(f"add i64 {start}, {k}")
                early = w.emit(f"icmp ult i64 {t}, {begin}")
                back = w.emit(f"sub i64 {t}, {k}")
                at = w.emit(f"select i1 {early}, i64 {start}, i64 {back}")
            nest.open(nest.inherit(nest.levels[-1].block), axis, minimum(w, at, most))
        return early

    def _turn(self, early: str, phis: list[str]) -> list[str]:
        """One pass over each of the rows in flight."""
        nest = self.nest
        left = iter(phis)
        values = {e: [next(left) for _ in self.at[k + 1 :]] for e, k in self.totals.items()}
        rooms = [[next(left) for _ in self.at[self.totals[r.total] :]] for r in self.kept]
        for e, names in values.items():
            for axis, name in zip(self.at[self.totals[e] + 1 :], names, strict=True):
                self._know(substitute(e, {self.row: axis}), axis, name)
        for row, (new, *_, old) in zip(self.kept, rooms, strict=True):
            axis = self.at[self.totals[row.total]]
            nest.kept[substitute(row.value, {self.row: axis})] = new, 1
            nest.rows[row.reuse] = old, self.column, 1
        folds = {e: self._accumulation(e, k) for e, k in self.totals.items()}
        real = nest.pointers[self.store.buffer]
        nest.pointers[self.store.buffer] = self._target(early)
        totals = self._columns(folds)
        nest.pointers[self.store.buffer] = real
        if self.sums:
            there = self._here().emit(f"xor i1 {early}, true")
            nest.when(there, self._sums)
        later: list[str] = []
        for e, names in values.items():
            later += [totals[e], *names[:-1]]
        for pointers in rooms:
            later += [pointers[-1], *pointers[:-1]]
        return later

    def _know(self, e: Expr, axis: Axis, name: str) -> None:
        """Let `e` have the value `name` while `axis` is bound."""
        self.nest.memo[e] = Value(name, 1)
        self.nest.levels[self.nest.depth[axis]].names.append(e)

    def _accumulation(self, e: Reduce, k: int) -> Accumulation:
        """`e` over the row that its pass is at; the first pass asks for memory ahead."""
        nest, of_row = self.nest, substitute(e, {self.row: self.at[k]})
        assert isinstance(of_row, Reduce)
        if k == 0:
            for x in loads(of_row.body):
                if nest.stride(x.index[0], of_row.bound[0]) == 1:
                    nest.ahead[x] = AHEAD // x.dtype.itemsize
                    nest.far_ahead[x] = FAR // x.dtype.itemsize
        return Accumulation(nest, of_row, 1)

    def _target(self, early: str) -> str:
        """Where the stored buffer would begin: itself, or such that its row is the scratch row."""
        nest, buffer = self.nest, self.store.buffer
        offset: list[str] = []
        nest.scope(self.column, "0", lambda: offset.append(nest.base(self.store.offset)))
        w = self._here()
        back = w.emit(f"sub i64 0, {offset[0]}")
        kind = memory_type(buffer.spec.dtype, 1)
        begin = w.emit(f"getelementptr {kind}, ptr {self.scratch}, i64 {back}")
        return w.emit(f"select i1 {early}, ptr {begin}, ptr {nest.pointers[buffer]}")

    def _columns(self, folds: dict[Reduce, Accumulation]) -> dict[Reduce, str]:
        """All passes, column by column; gives the totals.

        What is stored is some columns behind what is loaded: where both have the same address but
        for its upper bits, as in rows of 4 KiB, a load takes a store just before it for its own.
        """
        nest, lanes, extent = self.nest, self.lanes, self.column.extent
        stream = Stream(nest, [self.store], self.column, lanes, self._store)
        head = stream.head("0")
        stream.first("0", head)
        size = next(iter(folds.values())).count * lanes
        whole = extent // size * size

        def folded(index: str, phis: list[str]) -> list[str]:
            left, later = iter(phis), list[str]()
            for f in folds.values():
                later += f.group(f.x.bound[0], index, [next(left) for _ in f.kinds])
            return later

        def group(index: str, phis: list[str]) -> list[str]:
            at = self._here().emit(f"add i64 {index}, {head}")
            stream.vectors(self._here().emit(f"sub i64 {at}, {size}"), size)
            return folded(index, phis)

        first = folded("0", [v for f in folds.values() for v in f.start()])
        kinds = [k for f in folds.values() for k in f.kinds]
        carried = list(zip(kinds, first, strict=True))
        left = iter(nest.loop(str(size), str(whole), size, group, carried))
        totals: dict[Reduce, str] = {}
        for e, f in folds.items():
            state = f.rest(f.x.bound[0], whole, [next(left) for _ in f.kinds])
            totals[e] = f.total(state).name
        stream.rest(self._here().emit(f"add i64 {head}, {whole - size}"), str(extent))
        return totals

    def _store(self) -> None:
        self.nest.store(self.store.buffer, self.store.offset, self.store.value)

    def _sums(self) -> None:
        for s in self.sums:
            self.nest.value(s.value)
        for s in self.sums:
            self.nest.store(s.buffer, s.offset, s.value)
