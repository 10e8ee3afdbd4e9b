"""Nested structures of tensors: lists, tuples, dicts, named tuples, dataclasses and None.

A thin layer over optree, imported on first use. Dataclasses need no registration: the first time
that one appears, its fields become children.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

_NAMESPACE = "dualmode"
_whole: set[type[Any]] = set()  # types whose instances are leaves
_registered: set[type[Any]] = set()
_lock = threading.Lock()


@cache
def _optree() -> Any:
    import optree

    return optree


def load() -> None:
    """Import optree now."""
    _optree()


def flatten(structure: Any) -> tuple[list[Any], Any]:
    """The leaves of `structure`, and its form: hashable, comparable, given to `unflatten`.

    None has no leaves; dict keys are visited in sorted order.
    """
    leaves, form = _optree().tree_flatten(structure, namespace=_NAMESPACE)
    for x in leaves:
        cls = type(x)
        if cls not in _whole:
            if dataclasses.is_dataclass(cls):
                _register(cls)
                return flatten(structure)
            _whole.add(cls)
    return leaves, form


def unflatten(form: Any, leaves: Iterable[Any]) -> Any:
    """The structure of the given `form` with these `leaves`."""
    return form.unflatten(leaves)


def map(fn: Callable[..., Any], structure: Any, *rest: Any) -> Any:
    """`structure` with `fn(leaf, *leaves at the same place in rest)` for each leaf.

    Raises:
        ValueError: the structures differ in form.
    """
    leaves, form = flatten(structure)
    others = []
    for k, other in enumerate(rest):
        values, found = flatten(other)
        if found != form:
            raise ValueError(f"tree.map: structure {k + 2} has another form: {found} vs {form}")
        others.append(values)
    return unflatten(form, [fn(*xs) for xs in zip(leaves, *others, strict=True)])


def leaves(structure: Any) -> list[Any]:
    """The leaves of `structure`, in order."""
    return flatten(structure)[0]


def paths(form: Any, name: str = "") -> list[str]:
    """Where each leaf stands, as source text: `params['w'][0]`."""
    return [accessor.codify(name) for accessor in form.accessors()]


class Text(str):
    """Words that print without quotation marks, in the place of a leaf."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def describe(form: Any, words: Iterable[str]) -> str:
    """A structure as text, with one of `words` for each leaf: `(float32[2], {'n': 3})`."""
    return str(unflatten(form, [Text(x) for x in words]))


def spread(prefix: Any, structure: Any) -> list[Any]:
    """For each leaf of `structure` the value of `prefix`, a structure that is cut off higher up,
    above it. None is a value.

    Raises:
        ValueError: `prefix` has parts that `structure` has not.
    """
    flatten(structure)  # registers what is in both
    values, form = _optree().tree_flatten(prefix, none_is_leaf=True, namespace=_NAMESPACE)
    parts = form.flatten_up_to(structure)
    return [v for v, part in zip(values, parts, strict=True) for _ in leaves(part)]


def _register(cls: type[Any]) -> None:
    names = tuple(f.name for f in dataclasses.fields(cls))

    def children(x: Any) -> tuple[Any, ...]:
        return tuple(getattr(x, n) for n in names), None, names

    def rebuild(_: Any, values: Iterable[Any]) -> Any:
        # not through __init__: it may check or convert values, and these may be placeholders
        out = object.__new__(cls)
        for n, v in zip(names, values, strict=True):
            object.__setattr__(out, n, v)
        return out

    optree = _optree()
    with _lock:
        if cls not in _registered:
            optree.register_pytree_node(
                cls,
                children,
                rebuild,
                path_entry_type=optree.GetAttrEntry,
                namespace=_NAMESPACE,
            )
            _registered.add(cls)
