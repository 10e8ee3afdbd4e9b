"""Runs graphs node by node with the ops' NumPy kernels: the oracle for compiled code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .graph import CONST, PARAM, Graph, Node, running

Array = np.ndarray[Any, Any]


class Interpreter:
    """`graph` as a callable on arrays; the same results as compiled code, slowly.

    Nodes run in the order in which they were made, so effects keep theirs. A value is dropped as
    soon as its last reader has run.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes = sorted(graph.nodes(), key=lambda n: n.uid)
        kept = set(graph.roots())
        last: dict[Node, Node] = {}
        for node in self._nodes:
            last.update(dict.fromkeys(node.inputs, node))
        self._dead: dict[Node, list[Node]] = {}
        for node, reader in last.items():
            if node not in kept:
                self._dead.setdefault(reader, []).append(node)

    def run(self, arrays: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """The outputs and the new values of updated states, for one array per parameter.

        Never writes to `arrays`; a result may be one of them.

        Raises:
            ValueError: the number of arrays is not the number of parameters.
        """
        values: dict[Node, Array] = dict(zip(self._graph.params, arrays, strict=True))
        with np.errstate(all="ignore"):  # as compiled code and eager mode have it
            try:
                self._compute(values)
            finally:
                running.site = None
        outputs = [values[n] for n in self._graph.outputs]
        return outputs, [values[n] for _, n in self._graph.updates]

    def _compute(self, values: dict[Node, Array]) -> None:
        for node in self._nodes:
            if node.op is CONST:
                values[node] = node.attr("value").array
            elif node.op is not PARAM:
                inputs = [values[n] for n in node.inputs]
                running.site = node.site
                values[node] = np.asarray(node.op.kernel(*inputs, **dict(node.attrs)))
                for dead in self._dead.get(node, ()):
                    del values[dead]
