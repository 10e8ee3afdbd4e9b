"""Functions that are derivatives of functions, in forward mode: `jvp`, `jacfwd`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .. import tree
from ..autograph.calls import converted_call
from ..errors import require_function
from ..forward import ForwardAccumulator, tangents_of
from ..jacobians import pullback_rows
from ..op import convert
from ..ops import shape
from ..tensor import Tensor
from .arguments import Argnums, differentiable, name_of, positions
from .reverse import require_sequence


def jvp(f: Callable[..., Any], primals: Any, tangents: Any) -> tuple[Any, Any]:
    """`f(*primals)`, and its derivative along `tangents`: J t.

    Args:
        f: a function with floating results.
        primals: a tuple or list of its arguments: floating tensors, arrays or numbers, also nested.
        tangents: the same structure and shapes.

    Returns:
        The result, and the derivative in its structure, shapes and dtypes; zeros where it does not
        depend on the primals.

    Raises:
        GradientError: `primals` is no tuple or list, the tangents are of another structure, or a
            primal or a result has no derivatives by its dtype.
        ShapeError: a tangent is not of its primal's shape.
    """
    require_function("jvp", f)
    what = f"jvp of {name_of(f)}"
    require_sequence("jvp", primals)
    xs = tuple(differentiable(x, f"{what}: primal {k}") for k, x in enumerate(primals))
    return _push(what, f, xs, tangents_of(xs, tuple(tangents), what))


def _push(what: str, f: Callable[..., Any], xs: Any, tangents: list[Tensor]) -> tuple[Any, Any]:
    with ForwardAccumulator(tree.leaves(xs), tangents) as acc:
        leaves, form = tree.flatten(converted_call(f, xs, None))
        leaves = [convert(y) for y in leaves]
    pushed = acc.jvp(leaves, unconnected_gradients="zero")
    return tree.unflatten(form, leaves), tree.unflatten(form, pushed)


def jacfwd(f: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """The Jacobian of `f` as a function, column by column in forward mode.

    Best where the arguments have fewer elements than the result; else see `jacobian`.

    Args:
        f: a function with floating results.
        argnums: the positional argument, or a tuple of those, to differentiate by.

    Returns:
        A function of the same arguments that gives what that of `jacobian` does: for a result y and
        an argument x dy/dx of shape [*y.shape, *x.shape].

    Raises:
        GradientError: when called, as for `jacobian`; or `f` has a custom gradient that is not
            linear.
    """
    require_function("jacfwd", f)

    @functools.wraps(f, updated=())
    def derivative(*args: Any, **kwargs: Any) -> Any:
        what = f"jacfwd of {name_of(f)}"
        chosen = positions(argnums, len(args), what)
        inputs = {k: differentiable(args[k], f"{what}: argument {k}") for k in chosen}
        sources = [inputs[k] for k in chosen]
        leaves, form = tree.flatten(sources[0] if isinstance(argnums, int) else tuple(sources))
        results: list[Any] = []

        def along(k: int, tangent: Tensor) -> list[Tensor]:
            """The derivative of the results where leaf `k` moves along `tangent`."""

            def at(x: Tensor) -> Any:
                moved = tree.unflatten(form, [*leaves[:k], x, *leaves[k + 1 :]])
                given = dict(
                    zip(chosen, [moved] if isinstance(argnums, int) else moved, strict=True)
                )
                inputs = tuple(given.get(i, arg) for i, arg in enumerate(args))
                return converted_call(f, inputs, kwargs)

            result, pushed = _push(what, at, (leaves[k],), [tangent])
            results[:] = [tree.flatten(result)[1]]
            return tree.leaves(pushed)

        columns = [
            [_last(y, x.ndim) for y in pullback_rows(functools.partial(along, k), x)]
            for k, x in enumerate(leaves)
        ]
        rows = [tree.unflatten(form, row) for row in zip(*columns, strict=True)]
        return tree.unflatten(results[0], rows)

    return derivative


def _last(y: Tensor, count: int) -> Tensor:
    """`y` with its first `count` axes moved behind the others."""
    return shape.permute_dims(y, (*range(count, y.ndim), *range(count)))
