"""Datasets in native loops: each iteration calls back for the next element.

What is known of the elements while tracing are their shapes. Where a last batch may be smaller, the
body is traced for both sizes, and every iteration runs the one that fits.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dualmode_compiler.spec import Spec, from_numpy, int32

from .. import tree
from ..errors import ShapeError, describe_site, user_site
from ..host import numpy_function
from ..op import convert
from ..tensor import Tensor

_NUMBER = Spec((), int32)
_END = object()
# passes that were begun to see the first element; the next run goes on with them
_begun: weakref.WeakKeyDictionary[Any, Iterator[Any]] = weakref.WeakKeyDictionary()


def is_dataset(x: Any) -> bool:
    """Whether `x` is a dataset, by its methods."""
    kind = type(x)
    return hasattr(kind, "as_numpy_iterator") and hasattr(kind, "cardinality")


class Elements:
    """The elements of a dataset, in a native loop.

    Attributes:
        count: how many, or None where that is not known.
        kinds: the shapes and dtypes that an element's leaves may have.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._site = user_site()
        size = int(dataset.cardinality())
        self.count = size if size >= 0 else None
        self.kinds: list[list[Spec]] = []
        self._form: Any = None
        self._iterator: Iterator[Any] = iter(())
        self._current: list[np.ndarray[Any, Any]] = []
        first = self._peek()
        if first is not _END:
            leaves, self._form = _flatten(first)
            self.kinds = _kinds(leaves, getattr(dataset, "batch_sizes", ()))

    def _peek(self) -> Any:
        passing = _begun.pop(self._dataset, None) or self._dataset.as_numpy_iterator()
        first = next(passing, _END)
        if first is not _END:
            _begun[self._dataset] = itertools.chain([first], passing)
        return first

    # --- in the trace -------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a pass, each time the code runs."""
        numpy_function(self._start, [], [])

    def advance(self) -> Tensor:
        """Go to the next element: its kind, or -1 behind the last one."""
        return numpy_function(self._advance, [], _NUMBER)

    def get(self, kind: int) -> Any:
        """The present element, of that kind."""
        found = numpy_function(lambda: self._current, [], self.kinds[kind])
        return tree.unflatten(self._form, found)

    # --- when it runs -------------------------------------------------------------------------

    def _start(self) -> None:
        self._iterator = _begun.pop(self._dataset, None) or self._dataset.as_numpy_iterator()

    def _advance(self) -> np.ndarray[Any, Any]:
        element = next(self._iterator, _END)
        if element is _END:
            return np.asarray(-1, np.int32)
        self._current, form = _flatten(element)
        specs = [Spec(a.shape, from_numpy(a.dtype)) for a in self._current]
        if form != self._form or specs not in self.kinds:
            raise ShapeError(
                f"the dataset looped over at {describe_site(self._site)} gives an element "
                f"{_shown(specs)}, unlike those that the loop was traced for: "
                f"{' and '.join(map(_shown, self.kinds))}; give all elements one shape, as by "
                "batch(..., drop_remainder=True)"
            )
        return np.asarray(self.kinds.index(specs), np.int32)


def choose(
    elements: Elements,
    kind: Tensor,
    body: Callable[[Any], Any],
    branch: Callable[[Any, Callable[[], Any], Callable[[], Any]], None],
) -> None:
    """Run `body` on the present element, whose number among the kinds is `kind`.

    Args:
        branch: `branch(test, if_true, if_false)` is an `if` over the loop's variables.
    """
    if len(elements.kinds) == 1:
        body(elements.get(0))
    else:
        branch(kind == 0, lambda: body(elements.get(0)), lambda: body(elements.get(1)))


def _flatten(element: Any) -> tuple[list[np.ndarray[Any, Any]], Any]:
    leaves, form = tree.flatten(element)
    return [np.asarray(convert(x)) for x in leaves], form


def _kinds(leaves: Sequence[np.ndarray[Any, Any]], sizes: Sequence[int]) -> list[list[Spec]]:
    """The specs of elements whose first one has these leaves, and batches have one of `sizes`."""
    first = [Spec(a.shape, from_numpy(a.dtype)) for a in leaves]
    if len(sizes) < 2 or any(s.shape[:1] != (sizes[0],) for s in first):
        return [first]
    return [[Spec((n, *s.shape[1:]), s.dtype) for s in first] for n in sizes]


def _shown(specs: Sequence[Spec]) -> str:
    return f"({', '.join(map(str, specs))})"
