"""Rewriting by the algebraic rules that ops own."""

from __future__ import annotations

from ..graph import Graph
from ..rewrite import apply_rules, rebuild


def simplify(graph: Graph) -> Graph:
    """Algebraic rules, owned by the ops: x * 1 --> x. Dead nodes are left behind."""
    return rebuild(graph, apply_rules)
