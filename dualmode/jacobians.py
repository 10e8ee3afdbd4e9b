"""Jacobians in reverse mode: the backward pass for one cotangent, computed for all at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from . import tree
from .errors import GradientError, ShapeError
from .ops import batch as rules
from .ops import creation, shape
from .tensor import Operators, Tensor
from .vmap import vmap


def pullback_rows(pullback: Callable[[Tensor], Any], target: Tensor) -> Any:
    """All rows of a Jacobian, from the function that gives a combination of them.

    The pullback is called once, and executed for all unit cotangents together by `vmap`. What it
    reads, such as values kept from the forward pass, is followed by active tapes, so that
    Jacobians have derivatives.

    Args:
        pullback: from a cotangent, of the shape and dtype of `target`, to the gradients of the
            sources: a nested structure of tensors, with None where there is no gradient.
        target: the result that was differentiated.

    Returns:
        That structure, with tensors of shape `target.shape + source.shape`.
    """
    seeds = _units(target.shape, target)
    rows = vmap(pullback)(seeds)
    return tree.map(lambda x: shape.reshape(x, (*target.shape, *x.shape[1:])), rows)


def batch_pullback_rows(pullback: Callable[[Tensor], Any], target: Tensor) -> Any:
    """As `pullback_rows`, for each entry along the first axis of `target` and of the sources.

    No entry of the target depends on another entry of the sources, so that one cotangent serves
    all of them.

    Returns:
        That structure, with tensors of shape `target.shape + source.shape[1:]`.
    """
    units = _units(target.shape[1:], target)
    seeds = rules.moved(rules.spread(units, target.shape[0]), 1, 0)

    def placed(x: Tensor) -> Tensor:
        return shape.reshape(rules.moved(x, 0, 1), (*target.shape, *x.shape[2:]))

    return tree.map(placed, vmap(pullback)(seeds))


def _units(sizes: tuple[int, ...], like: Tensor) -> Tensor:
    """The unit tensors of a shape, one after another, in the dtype of `like`."""
    n = math.prod(sizes)
    return shape.reshape(creation.eye(n, dtype=like.dtype), (n, *sizes))


def jacobian(tape: Any, target: Any, sources: Any, unconnected_gradients: Any) -> Any:
    """`GradientTape.jacobian`."""
    target = _tensor(target, "jacobian: the target")

    def pullback(seed: Tensor) -> Any:
        return tape.gradient(target, sources, seed, unconnected_gradients)

    return pullback_rows(pullback, target)


def batch_jacobian(tape: Any, target: Any, source: Any, unconnected_gradients: Any) -> Any:
    """`GradientTape.batch_jacobian`."""
    target = _tensor(target, "batch_jacobian: the target")
    x = _tensor(source, "batch_jacobian: the source")
    if not target.ndim or not x.ndim or target.shape[0] != x.shape[0]:
        raise ShapeError(
            f"batch_jacobian: the first axes of the target and the source count the same examples; "
            f"the target is {target.spec} and the source {x.spec}"
        )

    def pullback(seed: Tensor) -> Any:
        return tape.gradient(target, source, seed, unconnected_gradients)

    return batch_pullback_rows(pullback, target)


def _tensor(x: Any, what: str) -> Any:
    if not isinstance(x, Operators):
        raise GradientError(f"{what} is one tensor, not a {type(x).__name__}")
    return x
