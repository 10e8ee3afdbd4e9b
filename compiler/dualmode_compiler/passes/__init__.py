"""Graph passes, in the order in which they run: a valid graph in, a valid graph out."""

from __future__ import annotations

from collections.abc import Callable

from ..graph import Graph
from ..rewrite import owns_graphs
from .fold import fold
from .hoist import hoist
from .inline import inline
from .merge import merge
from .prune import prune
from .simplify import simplify

Pass = Callable[[Graph], Graph]
PIPELINE: tuple[Pass, ...] = (simplify, fold)
# once more after constants have moved inside; what is hoisted leaves operands that nobody reads
CONTROL: tuple[Pass, ...] = (
    *(merge, inline, *PIPELINE),
    *(inline, prune, *PIPELINE),
    *(hoist, prune),
)


def run(graph: Graph, check: Callable[[Graph], None] | None = None, optimization: int = 2) -> Graph:
    """All passes; `check` (the verifier, in tests) runs after each.

    Those that concern nodes that own graphs run only where there are some. At optimization 0, only
    what the meaning asks for does: a loop and its gradient's are one, so effects happen once.
    """
    if optimization == 0:
        steps: tuple[Pass, ...] = (merge,) if owns_graphs(graph) else ()
    else:
        steps = CONTROL if owns_graphs(graph) else PIPELINE
    for step in steps:
        graph = step(graph)
        if check is not None:
            check(graph)
    return graph
