"""One element of an op's result, by the op's own `lower` rule, with operands read from memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import expr
from .expr import Axis, Buffer, Expr
from .graph import OpDef
from .spec import Spec, int64


class _FromMemory:
    """What a rule reads an operand with: a load."""

    def __init__(self, buffer: Buffer) -> None:
        self.spec = buffer.spec
        self._buffer = buffer

    def __call__(self, index: Sequence[Expr]) -> Expr:
        zero = expr.const(0, int64)
        sizes = zip(index, self.spec.shape, strict=True)
        return expr.load(self._buffer, [zero if n == 1 else i for i, n in sizes])


def element(
    op: OpDef, result: Spec, operands: Sequence[Buffer], attrs: Mapping[str, Any]
) -> tuple[list[Expr], Expr | None]:
    """The index of an element, an axis for each size but 1, and the element; None where `op` has no
    rule or that declines."""
    index: list[Expr] = [Axis(n) if n != 1 else expr.const(0, int64) for n in result.shape]
    if op.lower is None:
        return index, None
    return index, op.lower(index, result, *map(_FromMemory, operands), **attrs)
