"""The table of pointers that compiled code gets, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence

from .graph import Graph
from .records import dataclass

# results of `run` that are not the number of a host call that failed, plus one
OUT_OF_MEMORY = -1
INTERRUPTED = -2  # a signal's handler has raised


@dataclass(slots=True)
class Slots:
    """Where the table of `run` holds parameter k, output k, the arena, constants, the callback."""

    params: list[int]
    outputs: list[int]
    arena: int
    constants: list[int]
    callback: int

    @classmethod
    def of(cls, graph: Graph, order: Sequence[int] | None = None) -> Slots:
        """Parameters in `order` (or all), outputs, arena, other parameters, callback, constants.

        The number of constants is known later.
        """
        count = len(graph.params)
        first = list(range(count)) if order is None else list(order)
        params = [0] * count
        for slot, k in enumerate(first):
            params[k] = slot
        arena = len(first) + len(graph.outputs)
        for slot, k in enumerate(sorted(set(range(count)) - set(first)), arena + 1):
            params[k] = slot
        after = arena + 1 + count - len(first)
        return cls(params, list(range(len(first), arena)), arena, [], after)

    @property
    def clock(self) -> int:
        """Where a timed program finds room for the times of its steps: after all else."""
        return self.callback + 1 + len(self.constants)

    def with_constants(self, count: int) -> Slots:
        """The same, with `count` constants at the end."""
        first = self.callback + 1
        constants = list(range(first, first + count))
        return Slots(self.params, self.outputs, self.arena, constants, self.callback)
