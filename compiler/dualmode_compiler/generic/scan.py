"""The kernel of a prefix sum, or what is like it, along a row of any size.

`void @kernel(ptr result, ptr operand, i64 n)`, n at least one. Each vector is scanned in registers;
what it adds up to is carried to the next one. So only one addition of each vector waits for the one
before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import expr
from ..cost import CHUNK
from ..element import element
from ..emit.gemm import attributes
from ..emit.instructions import register_type, splat
from ..emit.scan import Prefix
from ..expr import Axis, Buffer
from ..folds import Scan, recognise
from ..graph import OpDef
from ..loops import Kernel, Store
from ..runtime.jit import Host
from ..spec import DType, Spec
from . import Generic
from .elementwise import ANY
from .loops import SizedNest


def row(op: OpDef, dtype: DType, attrs: Mapping[str, Any], host: Host) -> Generic | None:
    """The kernel of `op` with the attribute `axis` and `attrs`; None where it is no scan that is
    computed in this dtype."""
    with expr.fresh():
        x = Buffer("x", Spec((ANY,), dtype))
        try:
            result = op.infer(x.spec, axis=0, **attrs)
        except TypeError:  # it does not take this dtype
            return None
        (axis,), value = element(op, result, [x], {"axis": 0, **attrs})
        if value is None or not isinstance(axis, Axis):
            return None
        kernel = Kernel("scan", (axis,), [Store(Buffer("y", result), axis, value, 1)])
        form = recognise(kernel)
        if not isinstance(form, Scan) or not form.fold.dtype is result.dtype is dtype:
            return None
        return Generic(_text(kernel, form, x, host), (dtype,), dtype, CHUNK // 4)


def _text(kernel: Kernel, form: Scan, x: Buffer, host: Host) -> str:
    (store,) = kernel.stores
    nest = SizedNest(host, {store.buffer: "%result", x: "%operand"}, "%n")
    _Row(nest, kernel, form).emit()
    head = f"define void @kernel(ptr %result, ptr %operand, i64 %n) {attributes(host)} {{"
    lines = [*nest.lines, "  ret void", "}", ""]
    return "\n".join([*sorted(nest.w.declarations), head, "entry:", *lines])


class _Row(Prefix):
    """Whole vectors from the start, or from the end in reverse; then what is left."""

    nest: SizedNest

    def emit(self) -> int:
        nest, lanes, reverse = self.nest, self.lanes, self.form.reverse
        kind = register_type(self.dtype, lanes)
        start = splat(self._here(), self._start(), self.dtype, lanes)
        whole = nest.emit(f"and i64 %n, {-lanes}")
        left = nest.emit(f"sub i64 %n, {whole}")

        def vector(index: str, phis: list[str]) -> list[str]:
            at = index
            if reverse:
                at = nest.emit(f"sub i64 {nest.emit(f'sub i64 %n, {index}')}, {lanes}")
            return [self._step(at, phis[0], lanes)]

        (carry,) = nest.turns("0", whole, lanes, vector, [(kind, start)])

        def rest() -> None:
            end = left if reverse else "%n"
            at = "0" if reverse else whole
            self._step(at, carry, lanes, nest.active(at, end, lanes))

        nest.when(nest.emit(f"icmp ne i64 {left}, 0"), rest)
        return 1
