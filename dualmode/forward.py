"""ForwardAccumulator: forward-mode differentiation of what is executed, as in TensorFlow 2.

Every op brings its vjp, u -> J^T u, which is linear in u. Differentiating its results by u, with
the tangents t of the inputs as weights, gives J t: so no op needs a rule of its own for the forward
mode, nor do branches, loops and compiled calls. What the vjp computes of u itself is never used; in
compiled code it vanishes.

The transposition is that of J. Townsend, "A new trick for calculating Jacobian vector products",
2017; for the forward mode see Griewank and Walther, "Evaluating Derivatives", 2nd edition, 2008,
chapter 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from . import tree
from .dependence import dependent
from .errors import GradientError, ShapeError, TracedValueError
from .op import Op, convert, state
from .op import mode as op_mode
from .ops import creation, elementwise
from .tape import CallVjp, GradientTape, UserVjp, Value, differentiable_leaves
from .tensor import Tensor
from .tracer import Tracer
from .variable import Variable


class ForwardAccumulator:
    """Computes Jacobian-vector products beside the ops inside a `with` block.

        with dm.ForwardAccumulator(primals=x, tangents=t) as acc:
            y = f(x)
        jvp = acc.jvp(y)  # the derivative of y along t, of y's shape

    It nests with tapes and other accumulators, in either order: an accumulator around a tape gives
    products with the Hessian. A `custom_gradient` counts, where it is linear in the gradient that
    it is given, as that of a function is; others, such as clipping, have no forward mode: an error.

    Args:
        primals: a floating tensor or variable, or a nested structure of them.
        tangents: directions, in the structure of `primals`, each of its primal's shape.

    Raises:
        GradientError: a primal has no derivatives by its dtype or is given twice, or the tangents
            are of another structure.
        ShapeError: a tangent is not of its primal's shape.
    """

    def __init__(self, primals: Any, tangents: Any) -> None:
        # by identity; holding the tensor keeps its id from being reused
        self._tangents: dict[int, tuple[Value, Tensor]] = {}
        watched = differentiable_leaves(primals, "ForwardAccumulator: a primal")
        for x, t in zip(watched, tangents_of(primals, tangents, "ForwardAccumulator"), strict=True):
            if id(x) in self._tangents:
                raise GradientError(
                    f"ForwardAccumulator: a primal {x.spec} is given twice; add up its tangents"
                )
            self._tangents[id(x)] = x, t

    def __enter__(self) -> Self:
        if self in state.tapes:
            raise GradientError("ForwardAccumulator: this accumulator is recording already")
        state.tapes = (*state.tapes, self)
        return self

    def __exit__(self, *_: object) -> None:
        state.tapes = tuple(tape for tape in state.tapes if tape is not self)

    def jvp(self, target: Any, unconnected_gradients: Literal["none", "zero"] = "none") -> Any:
        """The derivatives of `target` along the tangents of the primals.

        Args:
            target: a floating tensor that was computed inside the block, or a nested structure.
            unconnected_gradients: what to give for a tensor that does not depend on the primals:
                None ("none") or zeros ("zero").

        Returns:
            Tensors in the structure of `target`, each of its tensor's shape and dtype.

        Raises:
            GradientError: a leaf is no tensor, or its dtype has no derivatives.
        """
        if unconnected_gradients not in ("none", "zero"):
            raise ValueError(
                f"jvp: unconnected_gradients is 'none' or 'zero', not {unconnected_gradients!r}"
            )
        found: list[Tensor | None] = []
        for x in differentiable_leaves(target, "jvp: the target"):
            _, tangent = self._tangents.get(id(x), (None, None))
            if tangent is None and unconnected_gradients == "zero":
                tangent = creation.zeros(x.shape, dtype=x.dtype)
            found.append(tangent)
        return tree.unflatten(tree.flatten(target)[1], found)

    # --- recording ------------------------------------------------------------------------------

    def record(self, op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any], out: Tensor) -> None:
        if op.vjp is None or not out.dtype.is_inexact:
            return
        for x in args:
            if id(x) in self._tangents:
                self._push(args, (out,), lambda g: op.vjp(g[0], out, *args, **attrs))  # type: ignore[misc]
                return

    def follows(self, x: Tensor) -> bool:
        return id(x) in self._tangents

    def record_read(self, variable: Variable, out: Tensor) -> None:
        found = self._tangents.get(id(variable))
        if found is not None:
            self._tangents[id(out)] = out, found[1]

    def record_call(self, inputs: Sequence[Value], outputs: Sequence[Tensor], vjp: CallVjp) -> None:
        if any(id(x) in self._tangents for x in inputs):
            self._push(inputs, outputs, vjp)

    def _push(self, inputs: Sequence[Value], outputs: Sequence[Tensor], vjp: Any) -> None:
        """Tangents of `outputs` from those of `inputs`: the transpose of `vjp`."""
        if isinstance(vjp, UserVjp):
            self._check(inputs, outputs, vjp)
        saved = state.tapes
        # what was entered later has not heard of the outputs yet, and would take them for constants
        state.tapes = saved[: saved.index(self)]
        try:
            self._tangents.update(self._pushed(inputs, outputs, vjp))
        finally:
            state.tapes = saved

    def _check(self, inputs: Sequence[Value], outputs: Sequence[Tensor], vjp: UserVjp) -> None:
        """The transpose of `vjp`, traced, must not depend on its cotangents.

        Raises:
            GradientError: it does, so `vjp` is not linear.
        """
        tracer = Tracer(state.mode, creates=False)
        try:
            with op_mode(tracer):
                dummies = [tracer.param(y.spec) for y in outputs if y.dtype.is_inexact]
                given = iter(dummies)
                cotangents = [next(given) if y.dtype.is_inexact else None for y in outputs]
                pushed = self._transpose(inputs, cotangents, vjp)
                graph = tracer.finish([tracer.node(t) for t in pushed if t is not None])
        except TracedValueError:
            linear = not vjp.certain  # it asks for the value of a cotangent
        else:
            linear = not any(dependent(graph, range(len(dummies))))
        if not linear:
            raise GradientError(
                f"{vjp.name}: its grad_fn is not linear in the gradient that it is given, as that "
                "of a function is, so there is no derivative in forward mode (dm.jvp, dm.jacfwd, "
                "dm.ForwardAccumulator); use reverse mode (dm.grad, dm.vjp, dm.GradientTape), or "
                "return the gradient times factors that do not depend on it"
            )

    def _pushed(
        self, inputs: Sequence[Value], outputs: Sequence[Tensor], vjp: Any
    ) -> dict[int, tuple[Tensor, Tensor]]:
        dummies = [_dummy(y) if y.dtype.is_inexact else None for y in outputs]
        pushed = self._transpose(inputs, dummies, vjp)
        return {id(y): (y, t) for y, t in zip(outputs, pushed, strict=True) if t is not None}

    def _transpose(
        self, inputs: Sequence[Value], cotangents: list[Tensor | None], vjp: Any
    ) -> list[Tensor | None]:
        """The transpose of `vjp` for the tangents of `inputs`: one tangent for each cotangent."""
        pulled: list[Tensor] = []
        tangents: list[Tensor] = []
        dummies = [u for u in cotangents if u is not None]
        with GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(dummies)
            grads = vjp(cotangents)
            for x, g in zip(inputs, grads, strict=True):
                found = self._tangents.get(id(x))
                if found is not None and g is not None:
                    pulled.append(g if isinstance(g, Tensor) else g())
                    tangents.append(found[1])
        if not pulled:
            return [None] * len(cotangents)
        pushed = iter(tape.gradient(pulled, dummies, output_gradients=tangents))
        return [None if u is None else next(pushed) for u in cotangents]


def _dummy(y: Tensor) -> Tensor:
    """A tensor like `y`, whose value does not matter."""
    if y.spec.is_stack:  # of a length that is not known here
        return elementwise.subtract(y, y)
    return creation.zeros(y.shape, dtype=y.dtype)


def tangents_of(
    primals: Any, tangents: Any, what: str, names: tuple[str, str] = ("tangent", "primal")
) -> list[Tensor]:
    """A tensor for each leaf of `primals`, from `tangents`, which are nested in the same way.

    Args:
        what: the function that asks, for messages.
        names: what messages call the two.

    Raises:
        GradientError: the structures differ.
        ShapeError: a tangent is not of its primal's shape.
    """
    xs, form = tree.flatten(primals)
    tangent, primal = names
    try:
        given = form.flatten_up_to(tangents)
    except ValueError:
        found = tree.flatten(tangents)[1]
        raise GradientError(
            f"{what}: the {tangent}s are not nested like the {primal}s: {found} and {form}; "
            f"give one {tangent} for each {primal}"
        ) from None
    out: list[Tensor] = []
    for path, x, t in zip(tree.paths(form), xs, given, strict=True):
        t = convert(t, x.dtype)
        if t.shape != x.shape:
            raise ShapeError(f"{what}: the {tangent}{path} is {t.spec} for a {primal} {x.spec}")
        out.append(t)
    return out
