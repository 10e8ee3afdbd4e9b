"""What loops ask memory for before they read it: prefetches of what a load will read later.

Hardware sees by itself that a loop reads on and on, but late, how late depends on the physical
addresses of the pages; and a loop that computes much leaves the memory idle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..cost import LARGE, operations
from ..expr import Axis, Buffer, Load, Reduce
from ..loops import Kernel, loads
from ..walks import walk
from .nest import Nest

FAR = 2048  # bytes ahead that the second level of the caches is asked for, in long runs
LONG = 1 << 16  # bytes of such a run
ROW = 1 << 17  # bytes of a row up to which the next one is prefetched
CACHE = 1 << 20  # bytes of a buffer from which that is
LIGHT = 4  # additions per element up to which a loop waits for memory anyway


def is_light(e: Reduce) -> bool:
    """Whether the terms of `e` are little work."""
    terms = math.prod(a.extent for a in e.bound)
    return operations([e]) <= (LIGHT + 1) * terms


def next_rows(nest: Nest, kernel: Kernel, outer: Sequence[Axis]) -> dict[Load, int]:
    """Loads that ask for the next row, one step of the last of the `outer` axes on, and how many
    elements that is.

    Where a loop over a row computes much, the second loop over that row asks for the next one. The
    first one waits for memory anyway.
    """
    if not outer:
        return {}
    readers: dict[Buffer, list[Load]] = {}
    wanted: set[Buffer] = set()
    for e in walk([s.value for s in kernel.stores]):
        if isinstance(e, Load):
            readers.setdefault(e.buffer, []).append(e)
        elif isinstance(e, Reduce) and not is_light(e):
            wanted |= {x.buffer for x in loads(e.body) if x.buffer.spec.nbytes >= CACHE}
    found: dict[Load, int] = {}
    for buffer in wanted:
        _, *later = readers[buffer]
        row = nest.stride(later[0].index[0], outer[-1]) or 0 if later else 0
        if 1 < row <= ROW // buffer.spec.dtype.itemsize:
            found[later[0]] = row
    return found


def long_runs(nest: Nest, kernel: Kernel) -> dict[Load, int]:
    """Loads of reductions that read long runs of what is in memory, and how many elements ahead
    they ask for.

    A row after the other is such a run if it is read only once: else the first of the loops over a
    row does well without, and the others find it in a cache.
    """
    every = walk([s.value for s in kernel.stores])
    once: dict[Buffer, bool] = {}
    for e in every:
        if isinstance(e, Load):
            once[e.buffer] = e.buffer not in once
    found: dict[Load, int] = {}
    for e in every:
        if isinstance(e, Reduce):
            for x in loads(e.body):
                size, around = x.dtype.itemsize, kernel.axes[::-1] if once[x.buffer] else ()
                run = _run(nest, x, (*reversed(e.bound), *around))
                if x.buffer.spec.nbytes >= LARGE and run * size >= LONG:
                    found[x] = FAR // size
    return found


def _run(nest: Nest, x: Load, axes: Sequence[Axis]) -> int:
    """How many elements lie side by side in the order in which loops over `axes`, the innermost
    first, read `x`."""
    run = 1
    for axis in axes:
        if nest.stride(x.index[0], axis) != run:
            break
        run *= axis.extent
    return run
