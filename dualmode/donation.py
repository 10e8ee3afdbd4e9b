"""Donated arguments: tensors that a call uses up, so that results may take their memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from dualmode_compiler.graph import PARAM, Graph
from dualmode_compiler.runtime.layout import MISS

from .callable import GraphFunction
from .errors import DonatedError, locate
from .tensor import Tensor
from .variable import Variable

_new = object.__new__


class Donated:
    """In the place of the value of a tensor that was donated; any use raises a `DonatedError`."""

    def __init__(self, function: str, argument: str) -> None:
        self.__dict__["_said"] = (
            f"the tensor was donated to {function}() as its argument {argument}, which may have "
            "stored a result in its memory; compute with the result, or call without donate_argnums"
        )

    def _raise(self, *_: Any, **__: Any) -> NoReturn:
        raise locate(DonatedError(self.__dict__["_said"]))

    __getattr__ = __array__ = __array_ufunc__ = __array_function__ = _raise


def _updating(graph: Graph, pairs: Sequence[tuple[int, int]]) -> Graph:
    """`graph` with the outputs in `pairs` as new values of their parameters instead."""
    taken = {k for _, k in pairs}
    return Graph(
        params=graph.params,
        outputs=[n for k, n in enumerate(graph.outputs) if k not in taken],
        updates=[*graph.updates, *((p, graph.outputs[k]) for p, k in pairs)],
        effects=graph.effects,
        _interned=graph._interned,
    )


class Donation:
    """Runs a graph whose donated arguments are variables for the time of the call.

    So compiled code treats them as it does variables: it stores new values over the old ones if
    nobody else holds their memory, else in a copy, and if it fails they are as before.

    Args:
        name: the name of the function.
        graph: what it computes.
        places: the parameters of the graph that its inputs are.
        donated: which inputs are donated, with their names.

    Attributes:
        function: computes the graph; results that take the memory of an input are new values of it.
        params: the parameters that are these inputs.
        cells: the variables in which they are.
        entry: of `function`, once it is bound.
    """

    def __init__(
        self, name: str, graph: Graph, places: Sequence[int], donated: dict[int, str]
    ) -> None:
        inputs = {places[k]: k for k in donated}
        pairs = _pairs(graph, list(inputs))
        self.function = GraphFunction(_updating(graph, pairs), name)
        self.params = [p for p, _ in pairs]
        self.cells = [_new(Variable) for _ in pairs]
        self.entry: Any = None
        self._taken = [inputs[p] for p in self.params]
        self._results = [k for _, k in pairs]
        self._marks = {k: Donated(name, argument) for k, argument in donated.items()}
        self._lock = threading.Lock()

    def run(self, inputs: Sequence[Any]) -> list[Any] | None:
        """All results for `inputs`, which are used up; None where nothing was done: an input has no
        value, or this is in use already, by another thread or further up."""
        if not all(isinstance(_value(inputs[k]), np.ndarray) for k in self._taken):
            return None
        if not self._lock.acquire(blocking=False):
            return None
        try:
            for k, cell in zip(self._taken, self.cells, strict=True):
                cell._tensor = Tensor._wrap(_value(inputs[k]))
            try:
                results = self._call(inputs)
            except BaseException:
                for k, cell in zip(self._taken, self.cells, strict=True):
                    _set(inputs[k], cell._tensor._value)
                raise
            self.use_up(inputs)
            return results
        finally:
            for cell in self.cells:
                del cell._tensor
            self._lock.release()

    def use_up(self, inputs: Sequence[Any]) -> None:
        """From now on any use of the donated tensors among `inputs` raises."""
        for k, mark in self._marks.items():
            _set(inputs[k], mark)

    def _call(self, inputs: Sequence[Any]) -> list[Any]:
        given = {id(inputs[k]) for k in self._taken}
        rest = [x for k, x in enumerate(inputs) if k not in self._taken]
        # a tensor that is there twice shares its memory, and so is copied
        rest = [Tensor._wrap(_value(x)) if id(x) in given else x for x in rest]
        for k in self._taken:
            _set(inputs[k], self._marks[k])  # so that the cell alone holds the memory
        out = self.entry.call(*rest)
        if out is MISS:
            out = [Tensor._wrap(a) for a in self.entry.run([_value(x) for x in rest])]
        results = list(out or ())
        for number, cell in sorted(zip(self._results, self.cells, strict=True), key=_first):
            results.insert(number, cell._tensor)
        return results


def _pairs(graph: Graph, donated: Sequence[int]) -> list[tuple[int, int]]:
    """A parameter among `donated` and the output that takes its memory, of the same spec."""
    left = {k: n for k, n in enumerate(graph.outputs) if n.op is not PARAM}
    pairs: list[tuple[int, int]] = []
    for p in donated:
        spec = graph.params[p].spec
        k = next((k for k, n in left.items() if n.spec == spec and not spec.weak), None)
        if k is not None:
            del left[k]
            pairs.append((p, k))
    return pairs


def _first(pair: tuple[int, Any]) -> int:
    return pair[0]


def _value(x: Any) -> Any:
    return x._value if isinstance(x, Tensor) else x


def _set(x: Any, value: Any) -> None:
    if isinstance(x, Tensor):  # arrays and numbers stay the caller's
        x._value = value
