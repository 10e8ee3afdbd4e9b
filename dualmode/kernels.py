"""Families of native kernels of eager ops: how an op's kernels are made, for which dtypes, and what
becomes of operands that they do not take as they are.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from dualmode_compiler.artifact import source_version
from dualmode_compiler.fingerprint import Catalogue
from dualmode_compiler.runtime.layout import MISS
from dualmode_compiler.spec import DTYPES, DType, Spec, bfloat16

from .background import kernels as lock
from .op import Op, recording
from .ops import OPS
from .tensor import Tensor
from .variable import LAYOUT

_ANY_TIME: list[None] = []  # nothing stands against native code
# of operands of ops along an axis
_COMPUTED = frozenset(d for d in DTYPES.values() if not d.is_complex and d is not bfloat16)
_PLAIN = (bool, int, float, str, type(None))  # attributes that mean the same in every process


@cache
def catalogue() -> Catalogue:
    """The ops that mean the same in every process."""
    return Catalogue(OPS, source_version(os.path.dirname(__file__)))


class Family(ABC):
    """The kernels of an op, by dtype; they are made when a dtype is first met.

    Attributes:
        certain: computes, or gives `MISS`, also while there are obstacles.
    """

    op: Op
    certain: Callable[..., Any]

    @abstractmethod
    def builtin(self, obstacles: list[Any], kinds: str) -> Callable[..., Any]:
        """A builtin that gives `MISS` while there is an obstacle, and where it is one along an
        axis, unless the operand's dtype is of one of `kinds`."""

    def otherwise(self, *args: Any) -> Any:
        """What `certain` gives `MISS` for: operands that are not contiguous are copied."""
        if all(x._value.flags.c_contiguous for x in args):
            return MISS
        return self.certain(*map(_contiguous, args))

    def kernel(self, form: str, dtypes: Sequence[DType], attrs: dict[str, Any]) -> Any:
        """The kernel of this form (`runtime.eager.loaded`), from the cache if it is there."""
        from dualmode_compiler.runtime import eager

        said = None
        known = catalogue()
        if known.ops.get(self.op.name) is self.op and all(
            type(v) in _PLAIN for v in attrs.values()
        ):
            said = [known.version, self.op.name, form, repr(dtypes), repr(sorted(attrs.items()))]
        return eager.loaded(said, lambda: self.make(form, dtypes, attrs))

    @abstractmethod
    def make(self, form: str, dtypes: Sequence[DType], attrs: dict[str, Any]) -> Any:
        """What `kernel` loads."""


def _contiguous(x: Tensor) -> Tensor:
    return Tensor._wrap(np.asarray(x._value, order="C"))


# --- elementwise ----------------------------------------------------------------------------------


class Elementwise(Family):
    """Of the dtype of the last tensor, which numbers take as well."""

    def __init__(self, op: Op, count: int) -> None:
        from dualmode_compiler.runtime.eager import Table

        self.op = op
        self.table = Table(count)
        self.certain = self.builtin(_ANY_TIME, "")

    def builtin(self, obstacles: list[Any], kinds: str) -> Callable[..., Any]:
        from dualmode_compiler.runtime import eager

        return eager.builtin(self.table, LAYOUT, obstacles, self._first, recording)

    def _first(self, *operands: Any) -> Any:
        """The first call for a dtype."""
        operands = tuple([getattr(x, "_tensor", x) for x in operands])  # the values of variables
        with lock:
            last = [x for x in operands if type(x) is Tensor][-1].dtype
            dtypes = [x.dtype if type(x) is Tensor else last for x in operands]
            try:
                self.op.infer(*[Spec((1,), d) for d in dtypes])
            except TypeError:  # a DTypeError: they have to be promoted first; or too few operands
                return MISS
            self.table.add(last, self.kernel("elementwise", dtypes, {}))
        return self.certain(*operands)

    def make(self, form: str, dtypes: Sequence[DType], attrs: dict[str, Any]) -> Any:
        from dualmode_compiler.generic.elementwise import elementwise
        from dualmode_compiler.runtime import jit

        return elementwise(self.op, dtypes, jit.host())


# --- along an axis --------------------------------------------------------------------------------


class Along(Family):
    """Called as `(x, axis)` or `(x, axis, keepdims)`."""

    def __init__(self, op: Op) -> None:
        from dualmode_compiler.runtime.eager import AlongTable

        self.op = op
        self.whole = "keepdims" not in op.arguments  # then the result has the operand's shape
        self.attrs: dict[str, Any] = {} if self.whole else {"keepdims": False}
        self.table = AlongTable()
        self.certain = self.builtin(_ANY_TIME, "biufc")

    def builtin(self, obstacles: list[Any], kinds: str) -> Callable[..., Any]:
        from dualmode_compiler.runtime import eager

        return eager.along(
            "along",
            self.table,
            LAYOUT,
            obstacles,
            self._first,
            count=1 + len(self.op.arguments),
            kinds=sum(1 << d.numpy.num for d in _COMPUTED if d.kind in kinds),
            whole=self.whole,
        )

    def _first(self, x: Tensor, axis: Any, *keepdims: Any) -> Any:
        """The first call for a dtype, with axes at the end or with others."""
        with lock:
            axes = range(x.ndim) if axis is None else axis if type(axis) is tuple else (axis,)
            last = max((k % x.ndim for k in axes if x.shape[k] != 1), default=-1)
            rows = all(n == 1 for n in x.shape[last + 1 :])
            form = "rows" if rows else "columns"
            code = self.kernel(form, [x.dtype], self.attrs)
            self.table.add(x.dtype.numpy.num, int(not rows), code, [0])
        return self.certain(x, axis, *keepdims)

    def make(self, form: str, dtypes: Sequence[DType], attrs: dict[str, Any]) -> Any:
        from dualmode_compiler.generic import reduced
        from dualmode_compiler.runtime import jit

        attrs = {**attrs, "axis": (0,)}
        if form == "rows":
            return reduced.rows(self.op, [(dtypes[0], ("n",))], attrs, jit.host())
        return reduced.columns(self.op, [(dtypes[0], ("n", "m"))], attrs, jit.host())

    def otherwise(self, *args: Any) -> Any:
        """The reduced axes go to the end."""
        x, axis, *keepdims = args
        if not x.size or x.dtype not in _COMPUTED:
            return MISS
        out = MISS
        if not x._value.flags.c_contiguous:
            x = _contiguous(x)
            out = self.certain(x, axis, *keepdims)
        order = (*(k for k in range(x.ndim) if k not in axis), *axis)
        if out is not MISS or order == tuple(range(x.ndim)):
            return out
        moved = Tensor._wrap(np.ascontiguousarray(x._value.transpose(order)))
        last = tuple(range(x.ndim - len(axis), x.ndim))
        out = self.certain(moved, last, *keepdims)
        if out is MISS or keepdims == [False]:
            return out
        return Tensor._wrap(out._value.transpose(np.argsort(order)))


# --- with rows ------------------------------------------------------------------------------------


class Rows(Family):
    """Called with operands; the attributes are part of the kernels."""

    def __init__(self, op: Op, attrs: tuple[tuple[str, Any], ...]) -> None:
        from dualmode_compiler.runtime.eager import AlongTable

        self.op, self.attrs = op, dict(attrs)
        self.table = AlongTable()
        self.certain = self.builtin(_ANY_TIME, "")

    def builtin(self, obstacles: list[Any], kinds: str) -> Callable[..., Any]:
        from dualmode_compiler.runtime import eager

        return eager.along(
            "rows",
            self.table,
            LAYOUT,
            obstacles,
            self._first,
            count=len(self.op.rows) - 1,
            kinds=-1,
            whole=self.op.rows[-1] == "row",
        )

    def _first(self, *operands: Any) -> Any:
        """The first call for a pair of dtypes."""
        from dualmode_compiler.runtime.eager_records import ROLES

        with lock:
            dtypes = [x.dtype for x in operands]
            code = self.kernel("rows", dtypes, self.attrs)
            roles = [ROLES[name] for name in self.op.rows[:-1]]
            first, last = dtypes[0].numpy.num, dtypes[-1].numpy.num
            self.table.add(first, last, code, roles)
        return self.certain(*operands)

    def make(self, form: str, dtypes: Sequence[DType], attrs: dict[str, Any]) -> Any:
        from dualmode_compiler.generic import reduced
        from dualmode_compiler.runtime import jit

        shapes = [() if role == "one" else ("n",) for role in self.op.rows]
        operands = list(zip(dtypes, shapes, strict=False))
        return reduced.rows(self.op, operands, attrs, jit.host())


# --- moves along an axis --------------------------------------------------------------------------


class Moves(Family):
    """Called with operands and `Op.arguments`, of which the axis is the first. There is nothing to
    make but for what `Op.combines`, and for a scan."""

    def __init__(self, op: Op) -> None:
        from dualmode_compiler.runtime.eager import Table

        self.op = op
        self.combine = None if op.combines is None else Elementwise(op.combines, 2)
        self.rows = [Table(1), Table(1)] if op.moves == "scan" else []
        self.certain = self.builtin(_ANY_TIME, "")

    def builtin(self, obstacles: list[Any], kinds: str) -> Callable[..., Any]:
        from dualmode_compiler.runtime import eager

        table = None if self.combine is None else self.combine.table
        return eager.moves(self.op.moves, table, self.rows, LAYOUT, obstacles, self._first)

    def _first(self, *args: Any) -> Any:
        """The first call for a dtype."""
        assert self.combine is not None
        dtype = args[0].dtype
        one = Tensor._wrap(np.zeros(1, dtype.numpy))
        with lock:
            along = [
                self.kernel("scan", [dtype], {"reverse": k == 1})
                for k in range(2 if self.rows else 0)
            ]
            for table, code in zip(self.rows, along, strict=True):
                table.add(dtype, code)
            if None in along or self.combine.certain(one, one) is MISS:
                self.combine.table.add(dtype, None)
                return MISS
        return self.certain(*args)

    def make(self, form: str, dtypes: Sequence[DType], attrs: dict[str, Any]) -> Any:
        from dualmode_compiler.generic.scan import row
        from dualmode_compiler.runtime import jit

        return row(self.op, dtypes[0], attrs, jit.host())

    def otherwise(self, *args: Any) -> Any:
        count = len(args) - len(self.op.arguments)
        if all(x._value.flags.c_contiguous for x in args[:count]):
            return MISS
        return self.certain(*map(_contiguous, args[:count]), *args[count:])


# --- matrix products ------------------------------------------------------------------------------


class Product(Family):
    """Called as `(a, b, transpose_a, transpose_b)`."""

    def __init__(self, op: Op) -> None:
        from dualmode_compiler.runtime.eager import ProductTable

        self.op = op
        self.table = ProductTable()
        self.certain = self.builtin(_ANY_TIME, "")

    def builtin(self, obstacles: list[Any], kinds: str) -> Callable[..., Any]:
        from dualmode_compiler.runtime import eager

        return eager.matmul(self.table, LAYOUT, obstacles, self._first)

    def _first(self, a: Tensor, *others: Any) -> Any:
        """The first call for a dtype."""
        self._add(a.dtype)
        return self.certain(a, *others)

    def _add(self, dtype: DType) -> None:
        with lock:
            self.table.add(dtype, self.kernel("product", [dtype], {}))

    def make(self, form: str, dtypes: Sequence[DType], attrs: dict[str, Any]) -> Any:
        from dualmode_compiler.generic.product import product
        from dualmode_compiler.runtime import jit

        return product(dtypes[0], jit.host())

    def otherwise(self, *args: Any) -> Any:
        """Matrices that lie transposed in memory are taken as such."""
        a, b, turned_a, turned_b = args
        if not self.table.has(a.dtype):  # bfloat16, of a type number that was not known
            self._add(a.dtype)
        operands = [_laid_out(a, turned_a), _laid_out(b, turned_b)]
        return self.certain(*[x for x, _ in operands], *[t for _, t in operands])


def _laid_out(x: Tensor, turned: bool) -> tuple[Tensor, bool]:
    """A contiguous tensor, and whether it is the transposed matrix."""
    value = x._value
    if value.flags.c_contiguous:
        return x, turned
    if value.swapaxes(-1, -2).flags.c_contiguous:
        return Tensor._wrap(value.swapaxes(-1, -2)), not turned
    return _contiguous(x), turned
