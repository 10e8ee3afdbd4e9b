"""Functions that are derivatives of functions, in reverse mode: `grad`, `vjp`, `jacobian`, ...

They look at arguments only: Variables and tensors that a function finds elsewhere are constants to
it. Each works in both modes and inside the others, to every order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .. import tree
from ..autograph.calls import converted_call
from ..errors import GradientError, ShapeError, require_function
from ..forward import tangents_of
from ..jacobians import pullback_rows
from ..op import convert
from ..ops import elementwise, reduction
from ..tape import GradientTape, differentiable_leaves
from ..tensor import Tensor
from .arguments import Argnums, differentiable, name_of, positions


class _Recorded:
    """One call of a function, recorded.

    Attributes:
        sources: the arguments to differentiate by.
        result, aux: what the function gave.
    """

    def __init__(
        self,
        what: str,
        f: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        argnums: Argnums,
        has_aux: bool = False,
        persistent: bool = False,
    ) -> None:
        self.name = f"{what} of {name_of(f)}"
        chosen = positions(argnums, len(args), self.name)
        inputs = list(args)
        for k in chosen:
            inputs[k] = differentiable(args[k], f"{self.name}: argument {k}")
        found = tuple(inputs[k] for k in chosen)
        self.sources: Any = found[0] if isinstance(argnums, int) else found
        self.aux: Any = None
        self._tape = GradientTape(persistent=persistent, watch_accessed_variables=False)
        with self._tape:
            self._tape.watch(self.sources)
            self.result = converted_call(f, tuple(inputs), kwargs)
            if has_aux:
                self.result, self.aux = self._pair(self.result)
            if type(self.result) is not Tensor:
                leaves, form = tree.flatten(self.result)
                self.result = tree.unflatten(form, [convert(x) for x in leaves])

    def _pair(self, result: Any) -> tuple[Any, Any]:
        if not isinstance(result, tuple) or len(result) != 2:
            raise GradientError(
                f"{self.name}: with has_aux=True the function returns a pair "
                f"(result, auxiliary values), not a {type(result).__name__}"
            )
        return result

    def scalar(self) -> Tensor:
        """The result, which has to be one floating number.

        Raises:
            GradientError: it is none, or a nested structure.
            ShapeError: it has more than one element.
        """
        y = self.result
        if not isinstance(y, Tensor):
            raise GradientError(
                f"{self.name}: the function returns a {type(y).__name__}, not one tensor; where "
                "the rest are auxiliary values, return (result, rest) and give has_aux=True"
            )
        if y.shape != ():
            raise ShapeError(
                f"{self.name}: the function returns {y.spec}, not a scalar; sum it (dm.sum), or "
                "use dm.vjp or dm.jacobian"
            )
        if y.dtype.kind != "f":
            raise GradientError(
                f"{self.name}: the function returns {y.spec}, which has no gradient; it has to be "
                "floating"
            )
        return y

    def pull_back(self, target: Any, cotangents: Any) -> Any:
        """The gradients of the sources, zeros where the target does not depend on them."""
        return self._tape.gradient(
            target, self.sources, output_gradients=cotangents, unconnected_gradients="zero"
        )


def value_and_grad(
    f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """The function `(*args) -> (f(*args), gradient)`.

    Args:
        f: a function with a scalar floating result.
        argnums: the positional argument, or a tuple of those, to differentiate by: floating
            tensors, arrays or numbers, also nested.
        has_aux: `f` returns a pair, a scalar and anything else; so the new function gives
            `((scalar, anything), gradient)`.

    Returns:
        A function of the same arguments. The gradient is of the argument's structure, shapes and
        dtypes, a tuple of gradients for a tuple `argnums`; zeros where `f` does not depend on it.

    Raises:
        GradientError: when called: an argument or the result has no derivatives by its dtype, or
            argnums is out of range.
        ShapeError: when called: the result is not a scalar.
    """
    return _value_and_grad("value_and_grad", f, argnums, has_aux)


def _value_and_grad(
    what: str, f: Callable[..., Any], argnums: Argnums, has_aux: bool
) -> Callable[..., Any]:
    require_function(what, f)

    @functools.wraps(f, updated=())
    def derivative(*args: Any, **kwargs: Any) -> Any:
        run = _Recorded(what, f, args, kwargs, argnums, has_aux)
        y = run.scalar()
        gradient = run.pull_back(y, None)
        return ((y, run.aux) if has_aux else y), gradient

    return derivative


def grad(f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The gradient of `f` as a function; see `value_and_grad`.

    Returns:
        A function of the same arguments that gives the gradient; with `has_aux` the pair of the
        gradient and the auxiliary values.
    """
    return _grad("grad", f, argnums, has_aux)


def _grad(
    what: str, f: Callable[..., Any], argnums: Argnums, has_aux: bool = False
) -> Callable[..., Any]:
    both = _value_and_grad(what, f, argnums, has_aux)

    @functools.wraps(f, updated=())
    def derivative(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return derivative


def vjp(f: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """`f(*primals)`, and the function that maps cotangents u of it to u^T J.

    Args:
        f: a function with floating results.
        primals: its arguments: floating tensors, arrays or numbers, also nested.
        has_aux: `f` returns a pair of its results and anything else.

    Returns:
        `(result, pullback)`, with `has_aux` `(result, pullback, aux)`. `pullback` takes cotangents
        in the structure and shapes of the result, any number of times, and returns a tuple with the
        gradient of each primal, zeros where there is no dependence.

    Raises:
        GradientError: a primal or a result has no derivatives by its dtype.
    """
    require_function("vjp", f)
    run = _Recorded("vjp", f, primals, {}, range(len(primals)), has_aux, persistent=True)
    differentiable_leaves(run.result, f"{run.name}: the result")

    def pullback(cotangents: Any) -> Any:
        seeds = tangents_of(run.result, cotangents, run.name, ("cotangent", "result"))
        return run.pull_back(tree.leaves(run.result), seeds)

    return (run.result, pullback, run.aux) if has_aux else (run.result, pullback)


def jacobian(f: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """The Jacobian of `f` as a function, row by row in reverse mode.

    Best where the result has fewer elements than the arguments; else see `jacfwd`.

    Args:
        f: a function with floating results.
        argnums: the positional argument, or a tuple of those, to differentiate by.

    Returns:
        A function of the same arguments. For a result y and an argument x it gives dy/dx of shape
        [*y.shape, *x.shape]; the structure of the result, and in each of its places that of the
        arguments.

    Raises:
        GradientError: when called: an argument or a result has no derivatives by its dtype, or
            argnums is out of range.
    """
    return _jacobian("jacobian", f, argnums)


jacrev = jacobian


def _jacobian(what: str, f: Callable[..., Any], argnums: Argnums) -> Any:
    require_function(what, f)

    @functools.wraps(f, updated=())
    def derivative(*args: Any, **kwargs: Any) -> Any:
        run = _Recorded(what, f, args, kwargs, argnums, persistent=True)
        differentiable_leaves(run.result, f"{run.name}: the result")
        return tree.map(lambda y: pullback_rows(lambda u: run.pull_back(y, u), y), run.result)

    return derivative


def hessian(f: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """The matrix of second derivatives of `f` as a function: the Jacobian of its gradient.

    Args:
        f: a function with a scalar floating result.
        argnums: the positional argument, or a tuple of those, to differentiate by.

    Returns:
        A function of the same arguments. For an argument x it gives a tensor
        [*x.shape, *x.shape]; for nested or several arguments their structure, and in each of its
        places that structure again.

    Raises:
        GradientError, ShapeError: when called, as of `grad`.
    """
    return _jacobian("hessian", _grad("hessian", f, argnums), argnums)


def hvp(f: Callable[..., Any], primals: Any, tangents: Any) -> Any:
    """The product of the Hessian of `f` at `primals` with `tangents`, without the Hessian.

    The gradient of the gradient's product with the tangents: a small multiple of the cost of `f`
    (B. Pearlmutter, "Fast exact multiplication by the Hessian", 1994).

    Args:
        f: a function with a scalar floating result.
        primals: a tuple or list of its arguments: floating tensors, arrays or numbers, also nested.
        tangents: the same structure and shapes.

    Returns:
        A tuple of the products, in the structure of the primals.

    Raises:
        GradientError: `primals` is no tuple or list, the tangents are of another structure, or an
            argument has no derivatives by its dtype.
        ShapeError: the result is not a scalar, or a tangent is not of its primal's shape.
    """
    require_sequence("hvp", primals)
    every = range(len(primals))
    xs = tuple(differentiable(x, f"hvp: primal {k}") for k, x in enumerate(primals))
    ts = tangents_of(xs, tuple(tangents), "hvp")

    def slope(*args: Any) -> Any:
        grads = tree.leaves(_grad("hvp", f, every)(*args))
        terms = [reduction.sum(elementwise.multiply(g, t)) for g, t in zip(grads, ts, strict=True)]
        return functools.reduce(elementwise.add, terms)

    return _grad("hvp", slope, every)(*xs)


def require_sequence(what: str, primals: Any) -> None:
    """Raise GradientError unless `primals` is a tuple or list with something in it."""
    if not isinstance(primals, tuple | list) or not primals:
        raise GradientError(
            f"{what}: primals is a tuple with one entry for each argument of the function, as in "
            f"dm.{what}(f, (x,), (t,)); got a {type(primals).__name__}"
            + (" without entries" if isinstance(primals, tuple | list) else "")
        )
