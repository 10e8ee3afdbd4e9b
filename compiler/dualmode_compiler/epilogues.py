"""How what follows a product is computed: what the cost model says of its finished panels.

An epilogue goes over each panel of C while that is in the cache. But the arrays that it reads, such
as an optimizer's state, may come from far: so a panel waits, and is gone over between the
multiply-adds of the next one, which the core does while it waits for memory. That pays where much
is read and little is computed: divisions and square roots share the multipliers, and what takes
many registers, as polynomials do, would take those of the sums. Then the panel is gone over by
itself, and what it will read is asked for between the multiply-adds before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .cost import own_cost
from .expr import Expr, Fold, Load, Reduce
from .loops import Kernel, Store
from .walks import operands

FAR = 1 << 18  # bytes that are not in the nearest cache when they are needed
# Most additions that a step of an epilogue which is computed between multiply-adds takes, and all
# of its steps together.
SHORT, WORK = 4, 32
WAITS = "its panels wait, and are gone over between the multiply-adds of the next ones"
ASKS = "what it reads for its panels is asked for between the multiply-adds"


def outside(stores: Sequence[Store], stop: Collection[Expr | None]) -> list[Expr]:
    """What `stores` need, as far as that is reached without passing through those of `stop`."""
    seen: dict[Expr, None] = {}
    stack = [s.value for s in stores]
    while stack:
        e = stack.pop()
        if e not in stop and e not in seen:
            seen[e] = None
            stack.extend(operands(e))
    return list(seen)


def far(kernel: Kernel) -> list[Load]:
    """What the epilogue reads of arrays of C's size."""
    c = kernel.contraction
    assert c is not None
    both = {c.m, c.n}
    after = outside(kernel.products(), {c.reduce})
    return [e for e in after if isinstance(e, Load) and both <= e.axes]


def mixing(kernel: Kernel) -> str:
    """`WAITS` or `ASKS`; empty where panels are best gone over by themselves."""
    c = kernel.contraction
    if c is None or sum(b.spec.nbytes for b in {x.buffer for x in far(kernel)}) < FAR:
        return ""
    after = outside(kernel.products(), {c.reduce})
    costs = [own_cost(e) for e in after]
    loops = any(isinstance(e, Reduce | Fold) for e in after)
    return ASKS if loops or max(costs) > SHORT or sum(costs) > WORK else WAITS
