"""GradientTape: reverse-mode differentiation of what was executed, as in TensorFlow 2.

A tape keeps the ops that depend on what it watches, in order. `gradient` walks them backwards and
calls each op's `vjp`, which is written with ops: so outer tapes record it, for higher orders, and
inside a traced function it becomes part of the graph.

Griewank and Walther, "Evaluating Derivatives", 2nd edition, 2008, chapter 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from operator import is_
from typing import Any, Literal, Self

from dualmode_compiler.records import dataclass
from dualmode_compiler.spec import DType

from . import tree
from .errors import GradientError, ShapeError
from .op import Op, convert, state
from .ops import creation, elementwise
from .tensor import Operators, Tensor
from .variable import Variable

Value = Tensor | Variable
_VALUES = (Tensor, Variable)
CallVjp = Callable[[list[Tensor | None]], Sequence[Tensor | None]]


@dataclass(frozen=True)
class UserVjp:
    """A vjp that a rule of the user's is part of: it may not be linear.

    Attributes:
        pull_back: the vjp.
        name: of the rule, for messages.
        certain: False where the rule is only looked for, in a function that may not have one.
    """

    pull_back: CallVjp
    name: str
    certain: bool = True

    def __call__(self, grads: list[Tensor | None]) -> Sequence[Tensor | None]:
        return self.pull_back(grads)


# One step that was executed: inputs, outputs, and how gradients pass. An op with its attributes; or
# no op and the vjp of a call of a compiled function; or neither: a variable was read. A plain
# tuple, because one is made for each op that runs.
_Entry = tuple[Sequence[Value], Sequence[Tensor], Op | None, dict[str, Any] | None, CallVjp | None]


class GradientTape:
    """Records ops inside a `with` block, to differentiate them.

    Trainable variables are watched when they are read; tensors by `watch`.

        with dm.GradientTape() as tape:
            loss = dm.mean(dm.square(model(x) - y))
        grads = tape.gradient(loss, model.trainable_variables)

    Args:
        persistent: allows more than one call of `gradient`; otherwise the first one frees all.
        watch_accessed_variables: False watches only what `watch` names.
    """

    def __init__(self, persistent: bool = False, watch_accessed_variables: bool = True) -> None:
        self._persistent = persistent
        self._watch_accessed = watch_accessed_variables
        self._used = False
        self.reset()

    def __enter__(self) -> Self:
        if self in state.tapes:
            raise GradientError("GradientTape: this tape is recording already; make another one")
        state.tapes = (*state.tapes, self)
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        tapes = state.tapes
        if self in tapes:
            state.tapes = tuple([tape for tape in tapes if tape is not self])

    # --- recording ------------------------------------------------------------------------------

    def watch(self, value: Any) -> None:
        """Differentiate by `value`: a floating tensor or variable, or a nested structure of them.

        Raises:
            GradientError: a leaf is no tensor or variable, or its dtype has no gradients.
        """
        for leaf in differentiable_leaves(value, "watch"):
            self._live[id(leaf)] = leaf

    def watched_variables(self) -> tuple[Variable, ...]:
        """The variables that this tape watches, in the order of their first reading."""
        return tuple(x for x in self._live.values() if isinstance(x, Variable))

    def reset(self) -> None:
        """Forget all that was recorded and watched; go on recording."""
        self._entries: list[_Entry] = []
        # what depends on a watched value, by identity; holding it keeps its id from being reused
        self._live: dict[int, Value] = {}

    @contextmanager
    def stop_recording(self) -> Iterator[None]:
        """Record nothing inside the block."""
        saved = state.tapes
        self._leave()
        try:
            yield
        finally:
            state.tapes = saved

    def record(self, op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any], out: Tensor) -> None:
        if op.vjp is None:
            return
        live = self._live
        for x in args:
            if id(x) in live:
                self._entries.append((args, (out,), op, attrs, None))
                live[id(out)] = out
                return

    def follows(self, x: Tensor) -> bool:
        return id(x) in self._live

    def record_read(self, variable: Variable, out: Tensor) -> None:
        self._access(variable)
        if id(variable) in self._live:
            self._entries.append(((variable,), (out,), None, None, None))
            self._live[id(out)] = out

    def record_call(self, inputs: Sequence[Value], outputs: Sequence[Tensor], vjp: CallVjp) -> None:
        live = self._live
        for x in inputs:
            if isinstance(x, Variable):
                self._access(x)
        if outputs and any(id(x) in live for x in inputs):
            self._entries.append((inputs, outputs, None, None, vjp))
            live.update((id(x), x) for x in outputs)

    def _access(self, variable: Variable) -> None:
        if self._watch_accessed and variable.trainable and variable.dtype.is_inexact:
            self._live[id(variable)] = variable

    # --- differentiation ------------------------------------------------------------------------

    def gradient(
        self,
        target: Any,
        sources: Any,
        output_gradients: Any = None,
        unconnected_gradients: Literal["none", "zero"] = "none",
    ) -> Any:
        """The gradient of the sum of `target` with respect to each of `sources`.

        Args:
            target: a floating tensor, or a nested structure of them.
            sources: a tensor or variable that the tape watched, or a nested structure of them.
            output_gradients: weights of the target's elements, in the structure of `target`;
                ones unless given.
            unconnected_gradients: what to give for a source that the target does not depend on:
                None ("none") or zeros ("zero").

        Returns:
            Gradients in the structure of `sources`, each of its source's shape and dtype.

        Raises:
            GradientError: a second call on a tape that is not persistent; a target or source
                without gradients by its dtype.
            ShapeError: an output gradient that is not of its target's shape.
        """
        if unconnected_gradients not in ("none", "zero"):
            raise ValueError(
                f"gradient: unconnected_gradients is 'none' or 'zero', "
                f"not {unconnected_gradients!r}"
            )
        targets = differentiable_leaves(target, "gradient: the target")
        if not targets:
            raise GradientError(f"gradient: there is no tensor in the target, {target!r}")
        wanted = differentiable_leaves(sources, "gradient: a source")
        seeds = _seeds(target, targets, output_gradients)
        entries, live = self._use()
        watched = [x for x in wanted if id(x) in live]
        grads = _backward(list(entries), targets, seeds, watched)
        found = [grads.get(id(x)) for x in wanted]
        if unconnected_gradients == "zero":
            found = [
                creation.zeros(x.shape, dtype=x.dtype) if g is None else g
                for x, g in zip(wanted, found, strict=True)
            ]
        if isinstance(sources, _VALUES):
            return found[0]
        plain = type(sources) is list and len(sources) == len(wanted)
        if plain and all(map(is_, sources, wanted)):  # as of a model's variables
            return found
        return tree.unflatten(tree.flatten(sources)[1], found)

    def _use(self) -> tuple[list[_Entry], dict[int, Value]]:
        """What was recorded, and what is followed; a tape that is not persistent forgets that."""
        if self._used and not self._persistent:
            raise GradientError(
                "gradient: this tape is used up; a tape gives one gradient unless it is made with "
                "GradientTape(persistent=True)"
            )
        entries, live = self._entries, self._live
        if not self._persistent:
            self._used = True
            self._leave()
            self._entries = []
            self._live = {id(x): x for x in self.watched_variables()}
        return entries, live

    def jacobian(
        self,
        target: Any,
        sources: Any,
        unconnected_gradients: Literal["none", "zero"] = "none",
    ) -> Any:
        """The derivatives of every element of `target` by every element of each of `sources`.

        The backward pass is computed for all elements of the target at once. On a persistent tape
        that is still recording it is recorded as well.

        Args:
            target: a floating tensor.
            sources, unconnected_gradients: as for `gradient`.

        Returns:
            Jacobians in the structure of `sources`, of shape `target.shape + source.shape`.

        Raises:
            GradientError: as for `gradient`; or the target is no tensor.
        """
        from . import jacobians  # which is built on this module

        if not self._persistent:
            self._leave()
        return jacobians.jacobian(self, target, sources, unconnected_gradients)

    def batch_jacobian(
        self,
        target: Any,
        source: Any,
        unconnected_gradients: Literal["none", "zero"] = "none",
    ) -> Any:
        """The Jacobian of each entry of `target` by the same entry of `source`.

        Entries are counted by the first axes, which have one size. An entry of the target must not
        depend on other entries of the source, as is so for a batch of independent examples.

        Args:
            target: a floating tensor.
            source: a tensor or variable that the tape watched.
            unconnected_gradients: as for `gradient`.

        Returns:
            A tensor of shape `[n, *target.shape[1:], *source.shape[1:]]`, or None.

        Raises:
            GradientError: as for `jacobian`.
            ShapeError: the first axes differ in size, or there is none.
        """
        from . import jacobians  # which is built on this module

        if not self._persistent:
            self._leave()
        return jacobians.batch_jacobian(self, target, source, unconnected_gradients)


def differentiable_leaves(structure: Any, what: str) -> list[Value]:
    """The leaves of `structure`, which have gradients; `what` names it in messages.

    Raises:
        GradientError: a leaf is no tensor or variable, or its dtype has no gradients.
    """
    out: list[Value] = []
    for leaf in (structure,) if isinstance(structure, _VALUES) else tree.leaves(structure):
        if not isinstance(leaf, _VALUES):
            raise GradientError(
                f"{what} is a {type(leaf).__name__}; only tensors and variables have gradients"
            )
        if not leaf.dtype.is_inexact:
            raise GradientError(
                f"{what} is {leaf.spec}: {leaf.dtype} is non-differentiable; use a floating dtype"
            )
        out.append(leaf)
    return out


def _seeds(target: Any, targets: list[Value], output_gradients: Any) -> list[Tensor]:
    if output_gradients is None:
        return [_one(t) for t in targets]
    single = isinstance(target, Operators)  # then a list is an array, not a structure
    given = [output_gradients] if single else tree.leaves(output_gradients)
    if len(given) != len(targets):
        raise GradientError(
            f"gradient: {len(targets)} targets and {len(given)} output_gradients; give one for each"
        )
    seeds = [convert(g, t.dtype) for t, g in zip(targets, given, strict=True)]
    for t, g in zip(targets, seeds, strict=True):
        if g.shape != t.shape:
            raise ShapeError(f"gradient: output_gradients {g.spec} for a target {t.spec}")
    return seeds


def _one(target: Value) -> Tensor:
    """Ones of the shape of `target`; a loss, mostly, is one number."""
    if state.eager and not target.shape:
        return _number_one(target.dtype)
    return creation.ones(target.shape, dtype=target.dtype)


@cache
def _number_one(dtype: DType) -> Tensor:
    return creation.ones((), dtype=dtype)


def _backward(
    entries: list[_Entry], targets: list[Value], seeds: list[Tensor], sources: list[Value]
) -> dict[int, Tensor]:
    """The gradients of those of `sources` that the targets depend on, by id.

    One sweep forward finds what the sources reach, one back follows that only.
    """
    keep = {id(x) for x in sources}
    needed = set(keep)
    path: list[_Entry] = []
    for entry in entries:
        for x in entry[0]:
            if id(x) in needed:
                for y in entry[1]:
                    needed.add(id(y))
                path.append(entry)
                break
    grads: dict[int, Tensor] = {}
    for t, seed in zip(targets, seeds, strict=True):
        _accumulate(grads, id(t), seed)
    while path:
        inputs, outputs, op, attrs, vjp = path.pop()
        if len(outputs) == 1:  # as most have: spelled out, it costs half
            key = id(outputs[0])
            first = grads.get(key) if key in keep else grads.pop(key, None)
            if first is None:
                continue
            of_outputs: list[Tensor | None] = [first]
        else:
            of_outputs = [_take(grads, id(y), keep) for y in outputs]
            first = of_outputs[0]
            if first is None and all(g is None for g in of_outputs):
                continue
        of_inputs: Sequence[Any] = of_outputs
        if op is not None and op.vjp is not None:
            of_inputs = op.vjp(first, outputs[0], *inputs, **(attrs or {}))
        elif vjp is not None:
            of_inputs = vjp(of_outputs)
        for x, g in zip(inputs, of_inputs, strict=True):
            if g is None:
                continue
            key = id(x)
            if key in needed and x.dtype.is_inexact:
                g = g if type(g) is Tensor else g()
                known = grads.get(key)
                grads[key] = g if known is None else elementwise.add(known, g)
    return {key: g for key, g in grads.items() if key in keep}


def _take(grads: dict[int, Tensor], key: int, keep: set[int]) -> Tensor | None:
    """The gradient by `key`; dropped if nobody will ask for it again."""
    return grads.get(key) if key in keep else grads.pop(key, None)


def _accumulate(grads: dict[int, Tensor], key: int, g: Tensor) -> None:
    known = grads.get(key)
    grads[key] = g if known is None else elementwise.add(known, g)
