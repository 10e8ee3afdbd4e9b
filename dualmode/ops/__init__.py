"""The op set. Each module holds the records of its ops with their public functions beside them."""

from __future__ import annotations

from ..op import Op
from . import (
    conversion,
    creation,
    crossentropy,
    cumulative,
    effects,
    elementwise,
    gather,
    joining,
    limits,
    linalg,
    logic,
    math,
    normalization,
    parts,
    random,
    reduction,
    shape,
    softmax,
)

_MODULES = (
    *(elementwise, limits, logic, conversion, math, parts, reduction, cumulative, softmax),
    *(crossentropy, normalization),
    *(shape, joining, gather, creation, linalg, random, effects),
)

# every op by its name, for the text form of graphs and for the tests
OPS: dict[str, Op] = {
    op.name: op for module in _MODULES for op in vars(module).values() if isinstance(op, Op)
}
