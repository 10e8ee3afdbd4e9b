"""Objects that hold variables: how layers, optimizers, metrics and checkpoints find them by path.

A path names where a variable lives, by attributes and positions: `model/layers/0/kernel`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any

from .variable import Variable


class Pending:
    """Restored values that wait for their variables to be created.

    Attributes:
        values: by path; each leaves once it is used.
        apply: gives a variable its value, or raises if it does not fit.
    """

    def __init__(self, values: dict[str, Any], apply: Callable[[str, Variable, Any], None]) -> None:
        self.values = values
        self.apply = apply

    def settle(self, root: Any, path: str) -> None:
        """Apply what waits at or below `path` to the variables of `root`, now or when they come."""
        for where, found in walk(root, path):
            if isinstance(found, Trackable):
                object.__setattr__(found, "_pending", (self, where))
            elif where in self.values:
                self.apply(where, found, self.values[where])
                del self.values[where]


class Trackable:
    """Base of what holds variables. An attribute that is a variable, a trackable, or a list, tuple
    or dict of them is found by its name; no registration and no `super().__init__()` is needed."""

    _pending: tuple[Pending, str] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        self._settle(name, value)

    def _settle(self, name: str, value: Any) -> None:
        """A restored value that waits for `value`, stored under `name`, is applied to it."""
        if self._pending is not None and self._pending[0].values:
            pending, path = self._pending
            pending.settle(value, f"{path}/{_public(name)}")


_HOLDERS = (Trackable, Variable, list, tuple, dict)
_PLAIN = frozenset((bool, int, float, str, type(None), FunctionType))  # most attributes are these


def _public(name: str) -> str:
    """The name in paths: a leading underscore is no part of what a checkpoint promises to keep."""
    return name.removeprefix("_")


def children(x: Any) -> Iterator[tuple[str, Any]]:
    """What `x` holds by name: attributes in order of definition, positions, or keys."""
    if isinstance(x, Trackable):
        for name, value in vars(x).items():
            if name != "_pending":
                yield _public(name), value
    elif isinstance(x, (list, tuple)):
        for i, value in enumerate(x):
            yield str(i), value
    elif isinstance(x, dict):
        for key, value in x.items():
            yield str(key), value


def walk(
    root: Any, path: str = "", descend: Callable[[Any], bool] = lambda _: True
) -> Iterator[tuple[str, Any]]:
    """Every trackable and variable at or below `root` once, depth first, with its path.

    Args:
        root: a variable, a trackable, or a list, tuple or dict of them.
        path: the path of `root` itself.
        descend: False for a trackable leaves out what it holds.
    """
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [(path, root)]
    while stack:
        where, x = stack.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, Variable):
            yield where, x
            continue
        if isinstance(x, Trackable):
            yield where, x
        if descend(x):
            prefix = f"{where}/" if where else ""
            below = [(prefix + name, y) for name, y in children(x) if isinstance(y, _HOLDERS)]
            stack += reversed(below)


def named_variables(root: Any, path: str = "") -> dict[str, Variable]:
    """The variables at or below `root` by path, in order of definition, each once.

    Raises:
        ValueError: two variables have the same path, such as `self.w` and `self._w`.
    """
    found: dict[str, Variable] = {}
    for where, x in walk(root, path):
        if isinstance(x, Variable):
            if where in found:
                raise ValueError(f"two variables have the path {where!r}: rename an attribute")
            found[where] = x
    return found


def variables_of(root: Trackable, trainable: bool = False) -> list[Variable]:
    """The variables at or below `root`, as `named_variables`, but fast enough for every step.

    Args:
        root: what holds them.
        trainable: only those to train, outside of trackables that are frozen (`trainable` False).
    """
    found: list[Variable] = []
    if not trainable or getattr(root, "trainable", True):
        _gather(vars(root).values(), found, {id(root)}, trainable)
    return found


def _gather(values: Iterable[Any], found: list[Variable], seen: set[int], trainable: bool) -> None:
    for x in values:
        if type(x) in _PLAIN or not isinstance(x, _HOLDERS) or id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, Variable):
            if x.trainable or not trainable:
                found.append(x)
        elif isinstance(x, Trackable):
            if not trainable or getattr(x, "trainable", True):
                _gather(vars(x).values(), found, seen, trainable)
        else:
            _gather(x.values() if isinstance(x, dict) else x, found, seen, trainable)
