"""Copies that need not be made: what is only computed to be copied is stored in the copy's place.

b[i] = ...; c[i] = b[i], and nothing else reads b  -->  c[i] = ...

A reshape of what a kernel of its own computes, as writes at indices are, is such a copy.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

from .expr import Buffer, Load
from .loops import Kernel, Step


def forwarded(steps: Sequence[Step], kept: Collection[Buffer]) -> list[Step]:
    """`steps` without copies of buffers that the copy alone reads and that are not in `kept`."""
    readers = Counter(b for step in steps for b in step.reads())
    writers = Counter(b for step in steps for b in step.writes())
    kernels: dict[Buffer, Kernel] = {}
    out: list[Step] = []
    for step in steps:
        if isinstance(step, Kernel) and len(step.stores) == 1:
            source, target = _copied(step), step.stores[0].buffer
            if source in kernels and source not in kept and readers[source] == writers[source] == 1:
                kernel = kernels[target] = kernels[source]
                kernel.stores[0].buffer = target
                kernel.nodes.extend(step.nodes)
                continue
            if step.contraction is None:
                kernels[target] = step
        out.append(step)
    return out


def _copied(kernel: Kernel) -> Buffer | None:
    """The buffer that `kernel` copies, element by element in order, if that is all that it does."""
    (s,) = kernel.stores
    if not isinstance(s.value, Load) or s.value.index[0] is not s.offset:
        return None
    source, size = s.value.buffer, math.prod(a.extent for a in kernel.axes)
    whole = size == source.spec.size == s.buffer.spec.size
    return source if whole and source.spec.dtype is s.buffer.spec.dtype else None
