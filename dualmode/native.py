"""Native code for eager ops, made of the lower rules that compiled code uses, for any size.

- Elementwise ops, those that batch by broadcasting (`ops.batch.elementwise`), have a kernel for
  each dtype.
- Ops along an axis (`Op.along`), such as sums and softmax, have two: for axes at the end, and for
  others. Those that say what they have for each row (`Op.rows`), such as losses, have one.
- Ops that move elements along an axis (`Op.moves`) have code for every dtype.
- The product of matrices, which batches as `ops.batch.matmul` does, has one.

They are called without any Python in between: `Op.native`. What only looks at its operand in
another way (`Op.view`) is a view of NumPy's. An op whose result can be put together of results for
a few shapes (`Op.pieces`) is compiled for these. All other ops are computed by NumPy.

Which code computes an op is decided by the op, dtypes and shapes alone, so equal calls give equal
bits. `Op.kernel` is the oracle; with `dm.config.update(kernels="numpy")` it computes all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from dualmode_compiler.runtime.layout import MISS, supported
from dualmode_compiler.spec import Spec, spec_of

from . import config
from .kernels import Along, Elementwise, Family, Moves, Product, Rows, catalogue, lock
from .op import Op
from .ops import batch
from .tensor import Tensor
from .variable import LAYOUT


def make(op: Op, count: int) -> Callable[..., Any] | None:
    """What computes `op` of `count` operands and `Op.arguments`, or gives `MISS`: while any thread
    traces, and where it does not take them. None for ops without native code."""
    if op.view:
        return _view(op)
    family = _family(op, count, ())
    return None if family is None else family.builtin(config.interpreted, op.along)


def attempt(op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any]) -> Any:
    """`op` on eager tensors by native code, or `MISS`; also while other threads trace, and for
    operands of any strides."""
    if op in _left_to_numpy or config.kernels == "numpy":
        return MISS
    if op.pieces is not None:
        return _put_together(op, args, attrs) if supported(LAYOUT) else MISS
    given: tuple[Any, ...] = args
    if op.arguments:
        given = (*args, *[attrs[name] for name in op.arguments])
        attrs = {}
    family = _family(op, len(given), tuple(attrs.items()) if attrs else ())
    if family is None:
        _left_to_numpy.add(op)
        return MISS
    out = family.certain(*given)
    return out if out is not MISS else family.otherwise(*given)


_left_to_numpy: set[Op] = set()


@cache
def _family(op: Op, count: int, attrs: tuple[tuple[str, Any], ...]) -> Family | None:
    """The kernels of `op` with `count` arguments; None where it has none."""
    with lock:
        from dualmode_compiler.runtime.eager_records import OPERANDS

        if op.lower is None or op.effect or not supported(LAYOUT):
            return None
        if op.moves:
            return Moves(op)
        if op.along:
            return Along(op) if count == 1 + len(op.arguments) else None
        if op.rows:
            return Rows(op, attrs) if count == len(op.rows) - 1 else None
        if op.batch is batch.matmul:
            return Product(op) if count == 4 else None
        if op.batch is batch.elementwise and not attrs and count <= OPERANDS:
            return Elementwise(op, count)
        return None


# --- views ----------------------------------------------------------------------------------------


def _view(op: Op) -> Callable[..., Any]:
    """NumPy's own view, without what stands around the kernels that compute."""
    kernel, obstacles, wrap = op.kernel, config.interpreted, Tensor._wrap

    def view(x: Any, *attrs: Any) -> Any:
        if obstacles or type(x) is not Tensor or type(x._value) is not np.ndarray:
            return MISS
        try:
            return wrap(kernel(x._value, *attrs))
        except (TypeError, ValueError):  # the op says what is wrong
            return MISS

    return view


# --- pieces ---------------------------------------------------------------------------------------


def _put_together(op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any]) -> Tensor:
    """What `op`, which has `pieces`, makes of them."""

    def compute(*arrays: Any, **piece: Any) -> Any:
        specs = tuple([spec_of(a) for a in arrays])
        return _compiled(op, specs, tuple(piece.items())).run(list(arrays))[0]

    assert op.pieces is not None
    return Tensor._wrap(op.pieces(compute, *[x._value for x in args], **attrs))


@cache
def _compiled(op: Op, specs: tuple[Spec, ...], attrs: tuple[tuple[str, Any], ...]) -> Any:
    """An entry for operands of these specs."""
    from dualmode_compiler import driver
    from dualmode_compiler.graph import Graph

    with lock:
        graph = Graph()
        params = [graph.param(s) for s in specs]
        graph.outputs = [graph.add(op, params, dict(attrs))]
        executable = driver.compile(graph, op.name, catalogue=catalogue())
        return executable.bind(LAYOUT, range(len(params)), (), (), single=True)
