"""Traced branches: functions of which one runs, as one node of the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dualmode_compiler.graph import Node
from dualmode_compiler.spec import Spec, bool_, default, float64, int64

from . import graphs, op, tree
from .errors import DTypeError, ShapeError
from .op import convert, promote
from .ops.conversion import CAST
from .subtrace import Subtrace, assign, assigned, describe, operand, subtrace, union
from .subtrace import labels as labels_of
from .tensor import Operators, Tensor

# the dtypes of traced Python numbers, by the kind of their values
PRECISION = {"b": bool_, "i": int64, "f": float64}


def branch(
    index: Tensor,
    fns: Sequence[Callable[..., Any]],
    operands: Sequence[Any],
    labels: Sequence[str],
    names: Sequence[str] | None = None,
    adapt: Callable[[Sequence[Subtrace]], None] | None = None,
) -> Any:
    """The result of `fns[index](*operands)`; `labels` name the branches in messages.

    Args:
        adapt: changes what the traced functions gave before that is compared.
    """
    traces = [subtrace(lambda fn=fn: fn(*operands), (), lambda _: ()) for fn in fns]
    if adapt is not None:
        adapt(traces)
    _check_forms(traces, labels)
    paths = labels_of(traces[0].form, names, "the result")
    columns = [
        _join(traces, [t.leaves[k] for t in traces], path, labels) for k, path in enumerate(paths)
    ]
    variables = assigned(traces)
    captures = [*union(traces, variables), *variables]
    closed = []
    for k, trace in enumerate(traces):
        outputs = [column[k] for column in columns if column is not None]
        outputs += [trace.value(v) for v in variables]
        closed.append(trace.close(outputs, captures))
    found = graphs.cond(closed, index, [operand(x) for x in captures])
    count = len(found) - len(variables)
    assign(variables, found[count:])
    values = iter(found[:count])
    first = traces[0].leaves
    leaves = [x if c is None else next(values) for x, c in zip(first, columns, strict=True)]
    return tree.unflatten(traces[0].form, leaves)


def _check_forms(traces: Sequence[Subtrace], labels: Sequence[str]) -> None:
    first = traces[0]
    for trace, label in zip(traces[1:], labels[1:], strict=False):
        if trace.form != first.form:
            raise ShapeError(
                f"cond: the branches give different structures: {labels[0]} gives "
                f"{describe(first.form, first.leaves)} and {label} "
                f"{describe(trace.form, trace.leaves)}; "
                "let them return the same nesting of tensors"
            )


def _join(
    traces: Sequence[Subtrace], values: list[Any], path: str, labels: Sequence[str]
) -> list[Node] | None:
    """The nodes of one result over all branches; None where it is the same value in all.

    Raises:
        ShapeError, DTypeError: they cannot be one tensor.
    """
    if not any(isinstance(x, Operators) for x in values) and all(
        _same(x, values[0]) for x in values
    ):
        return None
    tensors = _as_tensors(traces, values, path, labels)
    wanted = tensors[0].spec
    for tensor, label in zip(tensors, labels, strict=False):
        if tensor.shape != wanted.shape:
            raise ShapeError(
                _differ(path, labels[0], wanted, label, tensor.spec)
                + "; give it one shape in both, as by padding or dm.where"
            )
        if tensor.dtype is not wanted.dtype:
            raise DTypeError(
                _differ(path, labels[0], wanted, label, tensor.spec)
                + "; convert one with dm.astype"
            )
    return [trace.tracer.node(x) for trace, x in zip(traces, tensors, strict=True)]


def _differ(path: str, label: str, spec: Spec, other: str, found: Spec) -> str:
    return (
        f"cond: the branches give different values for {path}: {spec} where {label}, "
        f"{found} where {other}"
    )


def _same(x: Any, y: Any) -> bool:
    return x is y or (type(x) is type(y) and not hasattr(x, "__array__") and bool(x == y))


def _as_tensors(
    traces: Sequence[Subtrace], values: list[Any], path: str, labels: Sequence[str]
) -> list[Tensor]:
    """The values as tensors; Python numbers take the dtype of the tensors among them, and stay
    Python numbers where there are none."""
    strong = [x for x in values if _is_strong(x)]
    numbers = [x for x in values if not _is_strong(x)]
    out = []
    for trace, x, label in zip(traces, values, labels, strict=False):
        with op.mode(trace.tracer):
            if not isinstance(x, Operators | int | float | complex) and not hasattr(x, "__array__"):
                raise DTypeError(
                    f"cond: {path} is {x!r} where {label}, which is no tensor, and differs "
                    "in the other branches; tell the cases apart by a number or a bool"
                )
            if _is_strong(x):
                out.append(convert(x))
                continue
            wanted = common(numbers, strong)
            if not strong and wanted.kind in PRECISION:
                out.append(op.state.mode.weak(x, PRECISION[wanted.kind]))
            else:
                out.append(CAST(x, dtype=wanted) if isinstance(x, Tensor) else convert(x, wanted))
    return out


def _is_strong(x: Any) -> bool:
    return hasattr(x, "dtype") and not getattr(x, "weak", False)


def common(numbers: Sequence[Any], strong: Sequence[Any]) -> Any:
    """The dtype of a mix of Python numbers (some of them traced) with tensors."""
    plain = [zero_number(x) for x in numbers]
    with op.eagerly():
        found = promote(*plain, *(_example(x) for x in strong))
    return found[0].dtype


def zero_number(x: Any) -> Any:
    """The Python number 0 of the kind of `x`, which is one or stands for one in a trace."""
    if isinstance(x, Tensor):
        return {"i": 0, "f": 0.0, "c": 0j, "b": False}[default(x.dtype).kind]
    return type(x)(0)


def _example(x: Any) -> Any:
    return np.zeros((), x.dtype.numpy if hasattr(x.dtype, "numpy") else x.dtype)
