"""What is alive in the arena while the steps of a plan run, and whose values that are."""

from __future__ import annotations

from .explain import headline
from .expr import Buffer
from .graph import Node
from .loops import Control, Step
from .plan import Plan, aligned
from .records import dataclass


@dataclass(frozen=True, slots=True)
class Moment:
    """One step of a plan.

    Attributes:
        step: what it does.
        node: the last of the nodes that it computes; None for a copy.
        alive: bytes of the arena that are in use while it runs.
    """

    step: str
    node: Node | None
    alive: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """The steps of a plan, one after the other.

    Attributes:
        moments: one for each step.
        held: the values that are alive in the step where most is: their bytes and nodes, the
            largest first.
    """

    moments: list[Moment]
    held: list[tuple[int, Node]]

    @property
    def peak(self) -> int:
        """The step in which most is alive."""
        return max(range(len(self.moments)), key=lambda k: self.moments[k].alive, default=0)


def timeline(plan: Plan) -> Timeline:
    """The timeline of `plan`."""
    last: dict[Buffer, int] = {}
    for k, step in enumerate(plan.steps):
        last.update(dict.fromkeys([*step.reads(), *step.writes()], k))
    blocks: dict[int, Buffer] = {}  # by their offset: a value may take the block of another
    moments: list[Moment] = []
    most, held = -1, {}
    for k, step in enumerate(plan.steps):
        for b in step.writes():
            place = plan.places[b]
            if place.kind == "arena":
                blocks[place.at] = b
        alive = sum(map(aligned, blocks.values()))
        moments.append(Moment(headline(step), _node(step), alive))
        if alive > most:
            most, held = alive, dict.fromkeys(blocks.values(), step)
        blocks = {at: b for at, b in blocks.items() if last[b] > k}
    found = [pair for b, step in held.items() for pair in _owners(b, step, plan)]
    return Timeline(moments, sorted(found, key=lambda pair: -pair[0]))


def _owners(b: Buffer, step: Step, plan: Plan) -> list[tuple[int, Node]]:
    """The values in `b`; if it is the memory for graphs that `step` owns, those in the largest."""
    if isinstance(step, Control) and b is step.scratch:
        return timeline(max(step.plans, key=lambda p: p.arena)).held
    node = plan.nodes.get(b) or _node(step)
    return [] if node is None else [(aligned(b), node)]


def _node(step: Step) -> Node | None:
    nodes = getattr(step, "nodes", None) or [getattr(step, "node", None)]
    return nodes[-1]
