"""What the transforms of functions share: which arguments they are about, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dualmode_compiler.graph import Node

from .. import tree
from ..errors import GradientError
from ..op import convert, state
from ..ops.conversion import IDENTITY, strong
from ..tensor import Tensor
from ..tracer import current_tracer

Argnums = int | Sequence[int]


def name_of(f: Callable[..., Any]) -> str:
    """What messages call `f`."""
    return getattr(f, "__name__", type(f).__name__)


def positions(argnums: Argnums, count: int, what: str) -> list[int]:
    """`argnums` as non-negative positions among `count` arguments, for the transform `what`.

    Raises:
        GradientError: one is no integer, out of range or given twice.
    """
    wanted = [argnums] if isinstance(argnums, int) else list(argnums)
    for k in wanted:
        if not isinstance(k, int) or isinstance(k, bool):
            raise GradientError(
                f"{what}: argnums is an integer or a tuple of them, not {argnums!r}"
            )
        if not -count <= k < count:
            raise GradientError(
                f"{what}: argnums={argnums!r} for a call with {count} positional "
                f"argument{'' if count == 1 else 's'}; count from 0, and pass the arguments to "
                "differentiate by position"
            )
    found = [k % count for k in wanted]
    if len(set(found)) < len(found):
        raise GradientError(f"{what}: argnums={argnums!r} names an argument twice")
    return found


def differentiable(x: Any, where: str) -> Any:
    """A nested structure like `x` of tensors of their own, which active tapes follow as copies.

    Raises:
        GradientError: a leaf is no floating tensor, array or number; `where` names it.
    """
    if type(x) is Tensor:
        return _source(x, where)
    leaves, form = tree.flatten(x)
    return tree.unflatten(form, [_source(v, where) for v in leaves])


def _source(x: Any, where: str) -> Tensor:
    try:
        found = convert(x)
    except TypeError as error:
        raise GradientError(f"{where}: {error}") from None
    if not found.dtype.is_inexact:
        raise GradientError(
            f"{where} is {found.spec}, which has no derivatives; make it floating, as by "
            "dm.cast(x, 'float32'), or choose other arguments with argnums="
        )
    return copy(strong(found))


def copy(x: Tensor) -> Tensor:
    """A tensor of its own with the value of `x`, which active tapes follow as they do `x`.

    In a trace its node is its own as well, as parts of the trace know what they read by its node.
    """
    y, tracer = Tensor._wrap(x._value), current_tracer()
    if tracer is not None and isinstance(x._value, Node):
        node = tracer.node(x)
        y = tracer._own(Node(IDENTITY, (node,), (), node.spec, node.site))
    for tape in state.tapes:
        tape.record_call([x], [y], list)
    return y
