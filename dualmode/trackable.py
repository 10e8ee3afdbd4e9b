"""Objects that hold variables: how layers, optimizers, metrics and checkpoints find them by path.

A path names where a variable lives, by attributes and positions: `model/layers/0/kernel`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
        known = isinstance(x, (Trackable, Variable))
        if not (known or isinstance(x, (list, tuple, dict))) or id(x) in seen:
            continue
        seen.add(id(x))
        if known:
            yield where, x
        if not isinstance(x, Variable) and descend(x):
            below = [(f"{where}/{name}" if where else name, child) for name, child in children(x)]
            stack.extend(reversed(below))


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
