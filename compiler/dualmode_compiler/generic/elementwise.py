"""Kernels of ops whose results are computed element by element.

`runtime/eager_text.py` takes operands that broadcast, of any strides, apart into rows for them:
`void @kernel(ptr pointers, ptr masks, i64 start, i64 stop)`. `pointers` holds the addresses of the
result's row and of each operand's; elements from start to stop (at least one) are computed. An
operand's mask is -1; or 0, then it is one value, repeated to fill 64 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import expr, walks
from ..cost import CHUNK, cost
from ..element import element
from ..emit.gemm import attributes
from ..emit.instructions import memory_type
from ..emit.levels import iota
from ..emit.nest import Nest
from ..expr import Axis, Buffer, Expr, Load, Reduce
from ..graph import OpDef
from ..runtime.jit import Host
from ..spec import DType, Spec
from ..walks import walk
from . import Generic

ANY = 1 << 40  # elements that a row may have


def elementwise(op: OpDef, dtypes: Sequence[DType], host: Host) -> Generic | None:
    """The kernel of `op` on operands of these dtypes; None where its lowering is not one expression
    of the operands' elements at the result's own index.

    Raises:
        TypeError: the op does not take these dtypes.
    """
    with expr.fresh():
        buffers = [Buffer(f"x{k}", Spec((ANY,), d)) for k, d in enumerate(dtypes)]
        result = op.infer(*(b.spec for b in buffers))
        (axis,), value = element(op, result, buffers, {})
        if value is None or not isinstance(axis, Axis) or not _pointwise(value, axis):
            return None
        text = _Loop(axis, Buffer("y", result), buffers, value, host).text()
        work = 1 + cost(value, {})[0]
    return Generic(text, tuple(dtypes), result.dtype, max(1024, int(CHUNK // work)) & -1024)


def _pointwise(value: Expr, axis: Axis) -> bool:
    """Whether `value` depends on `axis` only by what lies there in the operands."""
    for e in walk([value]):
        if isinstance(e, Load):
            if e.index != (axis,):
                return False
        elif isinstance(e, Reduce) or (e is not axis and axis in walks.operands(e)):
            return False
    return value is not axis


class _Nest(Nest):
    """A nest that reads operands by the masks that the caller gives."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, {})
        self.masks: dict[Buffer, str] = {}

    def address(self, buffer: Buffer, index: Expr) -> str:
        if buffer not in self.masks:
            return super().address(buffer, index)
        self._to(self._level(index))
        at = self.w.emit(f"and i64 {self.base(index)}, {self.masks[buffer]}")
        kind = memory_type(buffer.spec.dtype, 1)
        return self.w.emit(f"getelementptr inbounds {kind}, ptr {self.pointers[buffer]}, i64 {at}")


class _Loop:
    def __init__(
        self, axis: Axis, result: Buffer, operands: Sequence[Buffer], value: Expr, host: Host
    ) -> None:
        self.axis, self.result, self.operands, self.value = axis, result, operands, value
        self.nest = _Nest(host)
        widest = max(b.spec.dtype.itemsize for b in (result, *operands))
        self.lanes = host.vector_bytes // max(widest, 4)

    def text(self) -> str:
        nest, w = self.nest, self.nest.w
        w.lines = nest.lines
        for k, b in enumerate((self.result, *self.operands)):
            nest.pointers[b] = w.emit(f"load ptr, ptr {self._entry('ptr', '%pointers', k)}")
        for k, b in enumerate(self.operands):
            nest.masks[b] = w.emit(f"load i64, ptr {self._entry('i64', '%masks', k)}")
        self._range()
        arguments = "ptr noalias %pointers, ptr noalias %masks, i64 %start, i64 %stop"
        head = f"define void @kernel({arguments}) {attributes(nest.host)} {{"
        return "\n".join([*sorted(w.declarations), head, "entry:", *nest.lines, "  ret void", "}"])

    def _entry(self, kind: str, base: str, k: int) -> str:
        return self.nest.w.emit(f"getelementptr {kind}, ptr {base}, i64 {k}")

    def _range(self) -> None:
        """Whole vectors, then what is left under a mask."""
        nest, w, lanes = self.nest, self.nest.w, self.lanes
        length = w.emit("sub i64 %stop, %start")
        most = w.emit(f"and i64 {length}, {-lanes}")
        whole = w.emit(f"add i64 %start, {most}")
        some = w.emit(f"icmp ne i64 {most}, 0")

        def vector(index: str, _: list[str]) -> list[str]:
            nest.scope(self.axis, index, self._store, lanes, None)
            return []

        def vectors() -> None:
            nest.loop("%start", whole, lanes, vector)

        nest.when(some, vectors)
        w.lines = nest.lines
        left = w.emit(f"icmp ult i64 {whole}, %stop")
        nest.when(left, lambda: self._tail(whole))

    def _tail(self, start: str) -> None:
        nest, w, lanes = self.nest, self.nest.w, self.lanes
        w.lines = nest.levels[-1].block.lines
        count = w.emit(f"sub i64 %stop, {start}")
        kind = f"<{lanes} x i64>"
        first = w.emit(f"insertelement {kind} poison, i64 {count}, i64 0")
        zeros = f"<{lanes} x i32> zeroinitializer"
        every = w.emit(f"shufflevector {kind} {first}, {kind} poison, {zeros}")
        mask = w.emit(f"icmp ult {kind} {iota(lanes)}, {every}")
        nest.scope(self.axis, start, self._store, lanes, mask)

    def _store(self) -> None:
        self.nest.store(self.result, self.axis, self.value)
