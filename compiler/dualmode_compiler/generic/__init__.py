"""Kernels for any size, of eager ops: the op's own `lower` rule, in loops whose ends are known only
when they run.

- `elementwise`: each element of the result from the elements at its own place.
- `reduced`: along an axis, with what the loops around are in `rows` or `columns`.

This module is imported wherever eager ops run; what makes kernels only where one is not in the
cache on disk.
"""

from __future__ import annotations

from ..records import dataclass
from ..spec import DType


@dataclass(frozen=True, slots=True)
class Generic:
    """A kernel for any size; `runtime.eager_records` says how each kind is called.

    Attributes:
        text: a module that defines `@kernel`.
        operands: the dtypes of the operands.
        result: the dtype of the result.
        grain: elements that are worth a thread's while.
        splits: whether it may be computed in parts, of which it then gives the same.
    """

    text: str
    operands: tuple[DType, ...]
    result: DType
    grain: int
    splits: bool = False
