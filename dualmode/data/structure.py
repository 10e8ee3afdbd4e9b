"""Elements of a dataset are structures: tuples, named tuples and dicts around arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import op


def map_leaves(fn: Callable[..., Any], first: Any, *rest: Any) -> Any:
    """`fn` over the leaves of structures that are alike; lists are leaves, as in TensorFlow 2.

    Raises:
        ValueError: the structures differ.
    """
    if isinstance(first, dict):
        if any(not isinstance(r, dict) or r.keys() != first.keys() for r in rest):
            raise ValueError(f"elements differ in structure: {describe((first, *rest))}")
        return {k: map_leaves(fn, v, *(r[k] for r in rest)) for k, v in first.items()}
    if isinstance(first, tuple):
        if any(not isinstance(r, tuple) or len(r) != len(first) for r in rest):
            raise ValueError(f"elements differ in structure: {describe((first, *rest))}")
        parts = [map_leaves(fn, *part) for part in zip(first, *rest, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    return fn(first, *rest)


def leaves(structure: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves with their paths, e.g. `("[0]['x']", leaf)`."""
    if isinstance(structure, dict):
        for key, value in structure.items():
            yield from leaves(value, f"{path}[{key!r}]")
    elif isinstance(structure, tuple):
        for i, value in enumerate(structure):
            yield from leaves(value, f"{path}[{i}]")
    else:
        yield path, structure


def describe(structures: tuple[Any, ...]) -> str:
    """The kinds of up to three structures, for messages."""
    kinds: list[str] = []
    for s in structures:
        kind = f"dict of {list(s)}" if isinstance(s, dict) else type(s).__name__
        kind = f"tuple of {len(s)}" if isinstance(s, tuple) else kind
        if kind not in kinds:
            kinds.append(kind)
    return ", ".join(kinds[:3])


def as_array(leaf: Any) -> np.ndarray[Any, Any]:
    """A leaf as a NumPy array; Python numbers get the dtypes that tensors give them."""
    if isinstance(leaf, np.ndarray):
        return leaf
    return np.asarray(op.convert(leaf))


def stack(elements: list[Any]) -> Any:
    """Elements of one structure stacked along a new first axis.

    Raises:
        ValueError: structures or shapes differ.
    """

    def stack_leaf(*parts: Any) -> np.ndarray[Any, Any]:
        arrays = [as_array(p) for p in parts]
        for i, a in enumerate(arrays):
            if a.shape != arrays[0].shape:
                raise ValueError(
                    f"batch: elements differ in shape: element 0 of the batch has "
                    f"{arrays[0].shape}, element {i} has {a.shape}"
                )
        return np.stack(arrays)

    return map_leaves(stack_leaf, elements[0], *elements[1:])
