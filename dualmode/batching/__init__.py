"""Graphs computed for many examples at once: what `vmap` and Jacobians are made of."""

from __future__ import annotations

from .trace import batched
from .walk import Batch, Value

__all__ = ["Batch", "Value", "batched"]
