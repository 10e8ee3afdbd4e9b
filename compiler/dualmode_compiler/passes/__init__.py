"""Graph passes, in the order in which they run: a valid graph in, a valid graph out."""

from __future__ import annotations

from collections.abc import Callable

from ..graph import Graph
from .fold import fold
from .simplify import simplify

PIPELINE: tuple[Callable[[Graph], Graph], ...] = (simplify, fold)


def run(graph: Graph, check: Callable[[Graph], None] | None = None) -> Graph:
    """All passes; `check` (the verifier, in tests) runs after each."""
    for step in PIPELINE:
        graph = step(graph)
        if check is not None:
            check(graph)
    return graph
