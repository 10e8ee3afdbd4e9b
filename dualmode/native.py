"""Native code for eager ops, made of the lower rules that compiled code uses.

- Elementwise ops, those that batch by broadcasting (`ops.batch.elementwise`), have kernels for any
  size, one for each dtype. They are called without any Python in between: `Op.native`.
- Other ops that compute, rather than move elements, are compiled for their attributes and their
  operands' shapes, as graphs of one node: the first `SHAPES` of these that a process meets. What
  comes later is left to NumPy, so that a program of ever new shapes does not compile for ever.

An op on given shapes is always computed by the same code, so equal calls give equal bits.
`Op.kernel` is the oracle, and computes what native code does not; with
`dm.config.update(kernels="numpy")`, all.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler.artifact import source_version
from dualmode_compiler.fingerprint import Catalogue
from dualmode_compiler.graph import Graph
from dualmode_compiler.runtime.layout import MISS, supported
from dualmode_compiler.spec import Spec

from . import config
from .op import Op
from .ops import OPS, batch
from .tensor import Tensor
from .variable import LAYOUT

SHAPES = 256  # ops on operands of given shapes that are compiled
RECENT = 4  # of one op that are tried one after the other
MOVES = 8  # shapes for which an op only moves elements, from which on it is left to NumPy
WORTH = 4  # additions for each element that are worth compiling

_lock = threading.RLock()
_ANY_TIME: list[None] = []  # nothing stands against native code


def make(op: Op, count: int) -> Callable[..., Any] | None:
    """What computes elementwise `op` on `count` operands, or gives `MISS`: while any thread traces,
    and where it does not take them. None for other ops."""
    kernels = _kernels(op, count)
    return None if kernels is None else kernels.builtin(config.interpreted)


def attempt(op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any]) -> Any:
    """`op` on eager tensors by native code, or `MISS`."""
    if op in _left_to_numpy or config.kernels == "numpy":
        return MISS
    if not attrs and op.batch is batch.elementwise:
        return _elementwise(op, args)
    key = (op, *attrs.items())
    code = _codes.get(key)
    if code is not None:
        for call in code.recent:
            out = call(*args)
            if out is not MISS:
                return out
        return code.compute(args)
    if op.lower is None or op.effect or not args or not supported(LAYOUT):
        _left_to_numpy.add(op)
        return MISS
    if not _left:
        return MISS
    code = _codes[key] = _Code(op, attrs)
    return code.compute(args)


# --- any size -------------------------------------------------------------------------------------


class _Kernels:
    """The kernels of an elementwise op by dtype; they are made when a dtype is first met."""

    def __init__(self, op: Op, count: int) -> None:
        from dualmode_compiler.runtime.eager import Table

        self.op = op
        self.table = Table(count)
        self.certain = self.builtin(_ANY_TIME)

    def builtin(self, obstacles: list[Any]) -> Callable[..., Any]:
        """A builtin that gives `MISS` while there is an obstacle."""
        from dualmode_compiler.runtime.eager import builtin

        return builtin(self.table, LAYOUT, obstacles, self._compute)

    def _compute(self, *operands: Any) -> Any:
        """The first call for a dtype: that of the last tensor, which numbers take as well."""
        from dualmode_compiler import generic
        from dualmode_compiler.runtime import jit

        with _lock:
            last = [x for x in operands if type(x) is Tensor][-1].dtype
            dtypes = [x.dtype if type(x) is Tensor else last for x in operands]
            try:
                self.table.add(last, generic.elementwise(self.op, dtypes, jit.host()))
            except TypeError:  # a DTypeError: they have to be promoted first; or too few operands
                return MISS
        return self.certain(*operands)


@cache
def _kernels(op: Op, count: int) -> _Kernels | None:
    from dualmode_compiler.runtime.eager_records import OPERANDS

    fits = op.batch is batch.elementwise and op.lower is not None and count <= OPERANDS
    return _Kernels(op, count) if fits and supported(LAYOUT) else None


def _elementwise(op: Op, args: tuple[Tensor, ...]) -> Any:
    """Also while other threads trace, and for operands of any strides."""
    kernels = _kernels(op, len(args))
    if kernels is None:
        return MISS
    out = kernels.certain(*args)
    if out is not MISS or all(x._value.flags.c_contiguous for x in args):
        return out
    return kernels.certain(*[Tensor._wrap(np.ascontiguousarray(x._value)) for x in args])


# --- given shapes ---------------------------------------------------------------------------------


class _Code:
    """An op with attributes: its machine code by the operands' specs.

    Attributes:
        recent: entries that were called lately; each gives `MISS` for other specs.
    """

    def __init__(self, op: Op, attrs: dict[str, Any]) -> None:
        self.op, self.attrs = op, attrs
        self.recent: tuple[Callable[..., Any], ...] = ()
        self._entries: dict[tuple[Spec, ...], Any] = {}

    def compute(self, args: tuple[Tensor, ...]) -> Any:
        """What no recent entry takes: of new specs, of other strides, or in another thread."""
        specs = tuple([x.spec for x in args])
        if specs not in self._entries:
            with _lock:
                if specs not in self._entries and _left:
                    self._entries[specs] = self._compile(specs)
        entry = self._entries.get(specs)
        if entry is None:
            return MISS
        others = [call for call in self.recent if call is not entry.call]
        self.recent = (entry.call, *others[: RECENT - 1])
        return Tensor._wrap(entry.run([x._value for x in args])[0])

    def _compile(self, specs: tuple[Spec, ...]) -> Any:
        """The entry for these specs; None where NumPy is to compute."""
        global _left
        _left -= 1
        if not self._computes(specs):
            self._moved()
            return None
        _moves[self.op] = MOVES  # it is asked for all shapes
        from dualmode_compiler import driver

        graph = Graph()
        params = [graph.param(s) for s in specs]
        graph.outputs = [graph.add(self.op, params, self.attrs)]
        executable = driver.compile(graph, self.op.name, catalogue=catalogue())
        return executable.bind(LAYOUT, list(range(len(params))), [], [], "single")

    def _moved(self) -> None:
        """Ops that move elements are not asked each time."""
        moves = _moves[self.op] = _moves.get(self.op, 0) + 1
        if moves == MOVES:
            _left_to_numpy.add(self.op)

    def _computes(self, specs: tuple[Spec, ...]) -> bool:
        """Whether native code does more than to move elements, which NumPy does as well."""
        from dualmode_compiler.cost import cost
        from dualmode_compiler.element import element
        from dualmode_compiler.expr import Buffer, Reduce, walk

        try:
            out = self.op.infer(*specs, **self.attrs)
        except Exception:  # the kernel fails as well, and is asked why
            return False
        if not out.size or any(not s.size for s in specs):
            return False
        with expr.fresh():
            operands = [Buffer(f"x{k}", s) for k, s in enumerate(specs)]
            _, value = element(self.op, out, operands, self.attrs)
            if value is None:
                return False
            reduces = any(isinstance(e, Reduce) for e in walk([value]))
            return reduces or cost(value, {})[0] > WORTH


_codes: dict[tuple[Any, ...], _Code] = {}
_left_to_numpy: set[Op] = set()  # without native code, whatever the shapes
_moves: dict[Op, int] = {}  # how often an op has turned out to move elements only
_left = SHAPES


@cache
def catalogue() -> Catalogue:
    """The ops that mean the same in every process."""
    return Catalogue(OPS, source_version(os.path.dirname(__file__)))
