"""Kernels of ops along an axis: reductions, softmax, normalizations, losses.

Operands and result are contiguous. Seen along the axis, an array has three sizes: (outer, n, m).

- `rows`, m = 1: an element or a row of the result for each row of the operands. Rows lie across the
  lanes of vectors.
- `columns`: the lanes hold columns, each of them reduced by itself.

Both are `void @kernel(ptr pointers, ptr steps, ptr sizes, i64 first, i64 last)`. `pointers` holds
the addresses of the result and of each operand; `sizes` holds n and m. The kernel computes the rows
from first to last (at least one), each of them `steps` bytes after the one before; or the columns
from first to last of one of the outer slices, which is where the pointers point.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import expr
from ..cost import CHUNK, operations
from ..emit.combine import identity
from ..emit.gemm import attributes
from ..emit.levels import Block, Level
from ..emit.resident import resident_rows
from ..expr import Axis, Expr, Load, Reduce
from ..graph import OpDef
from ..runtime.jit import Host
from ..spec import DType
from ..walks import walk
from . import Generic
from .loops import Fold, SizedNest, lanes_for
from .sized import Shape, Sized, lower

FOLDS = ("add", "mul", "maximum", "minimum")
POSITIONS = ("argmax", "argmin")
TOGETHER = 8  # rows that are combined with a row of results at once
UNROLL = 4  # vectors of columns that are reduced at once
SHORT = 1 << 12  # bytes of a row up to which rows are combined one by one
AHEAD = 1 << 11  # bytes ahead of where they are read that such rows are prefetched
LIGHT = 8  # additions for each element up to which they are


def rows(
    op: OpDef, operands: Sequence[tuple[DType, Shape]], attrs: Mapping[str, Any], host: Host
) -> Generic | None:
    """The kernel of `op` for rows: shapes are ("n",), or () for what has one element for each row.
    None where the op has none."""
    return _make(op, operands, attrs, host, _Rows)


def columns(
    op: OpDef, operands: Sequence[tuple[DType, Shape]], attrs: Mapping[str, Any], host: Host
) -> Generic | None:
    """The kernel of `op` for columns: shapes are ("n", "m") or ("m",)."""
    return _make(op, operands, attrs, host, _Columns)


def _make(
    op: OpDef,
    operands: Sequence[tuple[DType, Shape]],
    attrs: Mapping[str, Any],
    host: Host,
    kind: Callable[[Sized, Host], _Kernel],
) -> Generic | None:
    with expr.fresh():
        try:
            sized = lower(op, operands, attrs)
        except TypeError:  # it does not take these dtypes
            return None
        if sized is None or not any(isinstance(e, Reduce) for e in walk([sized.value])):
            return None
        text = kind(sized, host).text()
        grain = max(1024, int(CHUNK // _work(sized)))
        dtypes = tuple(d for d, _ in operands)
        return Generic(text, dtypes, sized.result.spec.dtype, grain, _splits(sized.value))


def _splits(x: Expr) -> bool:
    """A reduction of what is in memory, as it is: of its parts' results it makes the whole's. Of
    positions it does not."""
    return (
        isinstance(x, Reduce)
        and x.kind not in POSITIONS
        and isinstance(x.body, Load)
        and x.dtype is x.body.dtype
    )


def _work(sized: Sized) -> float:
    """Additions for each element of the largest operand."""
    elements = max(b.spec.size for b in sized.operands)
    return 1 + operations([sized.value], sized.axes[::-1]) / elements


class _Kernel(ABC):
    """A kernel being written. The nest's own block is the body of a loop, or of the function."""

    def __init__(self, sized: Sized, host: Host) -> None:
        self.sized = sized
        self.nest = SizedNest(host, {sized.sizes: "%sizes"}, "%n")
        self.buffers = [sized.result, *sized.operands]
        self.head = ["  %n = load i64, ptr %sizes"]
        for k, _ in enumerate(self.buffers):
            self._entry("ptr", f"%base{k}", "%pointers", k)

    def _entry(self, kind: str, name: str, table: str, k: int) -> None:
        at = f"{name}.at"
        self.head.append(f"  {at} = getelementptr {kind}, ptr {table}, i64 {k}")
        self.head.append(f"  {name} = load {kind}, ptr {at}")

    def text(self) -> str:
        self.body()
        nest = self.nest
        arguments = "ptr noalias %pointers, ptr noalias %steps, ptr noalias %sizes"
        head = f"define void @kernel({arguments}, i64 %first, i64 %last) {attributes(nest.host)} {{"
        end = self.end()
        lines = [*self.head, *nest.lines, *end]
        return "\n".join([*sorted(nest.w.declarations), head, "entry:", *lines, "}", ""])

    @abstractmethod
    def body(self) -> None:
        """Write what is between the head and the end."""

    def end(self) -> list[str]:
        return ["  ret void"]

    def store(self) -> None:
        self.nest.store(self.sized.result, self.sized.place, self.sized.value)


class _Rows(_Kernel):
    def body(self) -> None:
        nest, sized = self.nest, self.sized
        for k, buffer in enumerate(self.buffers):
            self._entry("i64", f"%step{k}", "%steps", k)
            nest.pointers[buffer] = f"%row{k}"
        self.head.extend(["  br label %row", "row:"])
        self.start = len(self.head)  # of the loop
        nest.levels[0] = Level(Block([], "row"))
        for k, _ in enumerate(self.buffers):
            self.head.append(f"  %far{k} = mul i64 %i, %step{k}")
            self.head.append(f"  %row{k} = getelementptr i8, ptr %base{k}, i64 %far{k}")
        if not sized.axes:
            self.store()
            return
        (axis,) = sized.axes
        self._keep(axis)
        lanes = lanes_for([sized.value], nest.host, sized.result.spec.dtype)
        nest.along(axis, "0", nest.count, self.store, [lanes])

    def _keep(self, axis: Axis) -> None:
        """What a reduction computes of each element on its way, and the result is made of, waits in
        the result's row."""
        nest, sized = self.nest, self.sized
        for row in resident_rows([sized.value], axis, 1):
            if row.value.dtype is sized.result.spec.dtype:
                nest.kept[row.value] = nest.pointers[sized.result], 1
                nest.rows[row.reuse] = nest.pointers[sized.result], axis, 1
                nest.value(row.total)
                return

    def end(self) -> list[str]:
        last = self.nest.levels[0].block.label
        self.head.insert(self.start, f"  %i = phi i64 [ %first, %entry ], [ %i.next, %{last} ]")
        return [
            "  %i.next = add nuw nsw i64 %i, 1",
            "  %more = icmp ult i64 %i.next, %last",
            "  br i1 %more, label %row, label %done",
            "done:",
            "  ret void",
        ]


class _Columns(_Kernel):
    def body(self) -> None:
        nest, sized = self.nest, self.sized
        for k, buffer in enumerate(self.buffers):
            nest.pointers[buffer] = f"%base{k}"
        *down, axis = sized.axes
        lanes = lanes_for([sized.value], nest.host, sized.result.spec.dtype)
        wide = [UNROLL * lanes] if _work(sized) <= LIGHT else []

        def body() -> None:
            if not down:
                self.store()
                return

            def element(index: str, _: list[str]) -> list[str]:
                nest.scope(down[0], index, self.store)
                return []

            nest.loop("0", nest.count, 1, element)

        def down_columns() -> None:
            nest.along(axis, "%first", "%last", body, [*wide, lanes])

        x = sized.value
        if not (isinstance(x, Reduce) and _splits(x) and x.kind in FOLDS):
            down_columns()
            return
        count = nest.emit("sub nuw nsw i64 %last, %first")
        few = nest.emit(f"icmp ult i64 {count}, {lanes}")
        many = nest.emit(f"xor i1 {few}, true")
        nest.when(few, down_columns)
        nest.when(many, lambda: self._sweep(x, axis, lanes))

    def _sweep(self, x: Reduce, axis: Axis, lanes: int) -> None:
        """Whole rows are combined with the result: memory is read in order. A few at a time; but
        short ones that lie one after the other by themselves, as prefetchers do not follow many of
        those."""
        nest, sized = self.nest, self.sized
        neutral = expr.const(identity(x.kind, x.dtype), x.dtype)

        def rows(first: str, count: int) -> list[str]:
            def add() -> None:
                level = nest.levels[-1]
                place = nest.address(sized.result, axis)
                acc = nest.read(x.dtype, place, level.lanes, level.mask)
                fold = Fold(nest, x, level.lanes)
                for k in range(count):
                    at = nest.emit(f"add nuw nsw i64 {first}, {k}") if k else first
                    acc = fold.at(at, acc)
                nest.w.lines = nest.levels[-1].block.lines
                nest.write(acc, x.dtype, place, level.lanes, level.mask)

            nest.along(axis, "%first", "%last", add, [lanes])
            return []

        def clear() -> None:
            nest.store(sized.result, axis, neutral)

        nest.along(axis, "%first", "%last", clear, [lanes])
        assert isinstance(x.body, Load)
        size = x.dtype.itemsize
        self._entry("i64", "%m", "%sizes", 1)
        width = nest.emit("sub nuw nsw i64 %last, %first")
        apart = nest.emit(f"icmp ult i64 {width}, %m")
        long = nest.emit(f"icmp ugt i64 {width}, {SHORT // size}")
        either = nest.emit(f"or i1 {apart}, {long}")
        several = nest.emit(f"select i1 {either}, i64 {nest.count}, i64 0")
        whole = nest.emit(f"and i64 {several}, {-TOGETHER}")
        nest.turns("0", whole, TOGETHER, lambda index, _: rows(index, TOGETHER))
        nest.ahead[x.body] = AHEAD // size
        nest.turns(whole, nest.count, 1, lambda index, _: rows(index, 1))
        del nest.ahead[x.body]
