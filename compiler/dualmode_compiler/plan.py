"""Where every buffer lives: parameters, outputs and states in place, all else in one arena."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import field
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import TypeGuard

from .expr import Buffer, Load
from .graph import PARAM, Graph, Literal, Node
from .loops import Control, Copy, HostCall, Kernel, Step, may_fail
from .lower import Lowering, lower
from .records import dataclass
from .spec import Spec, uint8
from .walks import walk

ALIGN = 64


@dataclass(frozen=True, slots=True)
class Place:
    """`kind` is "param", "output" or "const" with its number, or "arena" with a byte offset; or
    "stack": memory of its own, whose size only the run knows."""

    kind: str
    at: int


@dataclass(slots=True)
class Plan:
    """Steps in their final order, and the place of every buffer that they touch.

    Attributes:
        arena: bytes of scratch memory, the largest sum of what is alive at once.
        constants: arrays that "const" places stand for, here and in the graphs that nodes own.
        nodes: whose value a buffer holds.
    """

    steps: list[Step]
    places: dict[Buffer, Place]
    arena: int
    constants: list[Literal] = field(default_factory=list)
    nodes: dict[Buffer, Node] = field(default_factory=dict)


def plan(
    graph: Graph,
    steps: list[Step],
    lowering: Lowering,
    constants: dict[Literal, int] | None = None,
) -> Plan:
    """Order `steps` and place their buffers; `constants` are those known so far, with numbers."""
    numbers = {} if constants is None else constants
    for step in steps:
        if isinstance(step, Control):
            _plan_owned(step, numbers, lowering.optimization)
    order = _Order(steps, lasting=constants is None, over=lowering.optimization > 0)
    places = _Places(graph, lowering, order).assign()
    for b, node in lowering.constants.items():
        number = numbers.setdefault(node.attr("value"), len(numbers))
        places[b] = Place("const", number)
    orders = (_arranged(order, places, early) for early in (False, True))
    found = min(orders, key=lambda made: made.arena)
    found.constants = list(numbers)
    found.nodes = {known.buffer: node for node, known in lowering.lowered.items()}
    for node, items in lowering.items.items():
        found.nodes |= dict.fromkeys(items.values(), node)
    return found


def _arranged(order: _Order, places: dict[Buffer, Place], early: bool) -> Plan:
    """The plan of one order of the steps."""
    numbers = order.sort(places, early)
    steps, reads = [order.steps[k] for k in numbers], [order.reads[k] for k in numbers]
    found = dict(places)
    return Plan(steps, found, _arena(steps, reads, found, order.over))


def _plan_owned(step: Control, constants: dict[Literal, int], optimization: int) -> None:
    """Plan the graphs of `step`, which gets the memory that the largest of them needs."""
    for graph in step.graphs:
        step.plans.append(plan(graph, *lower(graph, optimization), constants))
    size = max(p.arena for p in step.plans)
    if size:
        step.scratch = Buffer("scratch", Spec((size,), uint8))


class _Order:
    """A partial order of steps: data first, then what in-place updates ask for.

    Attributes:
        lasting: states outlive a run that fails; those of a loop's body do not.
        over: values may be stored over others that are read by the same step.
    """

    def __init__(self, steps: list[Step], lasting: bool, over: bool) -> None:
        self.steps = list(steps)
        self.lasting = lasting
        self.over = over
        self.after: list[set[int]] = [set() for _ in steps]  # step -> steps that must follow
        self.writer: dict[Buffer, int] = {}
        self.readers: dict[Buffer, list[int]] = {}
        self.reads: list[list[Buffer]] = []  # of each step, every buffer once
        for k, step in enumerate(steps):
            for b in step.writes():
                self.writer[b] = k
        for k, step in enumerate(steps):
            self._link(k, step)
        self.calls = {s.node.uid: k for k, s in enumerate(steps) if _may_not_return(s)}
        self._order_calls()

    def _order_calls(self) -> None:
        """Effects run in program order; what may fail or not end comes after the effects before it,
        which may be checks of its operands, unless those need its result."""
        effects = [u for u, k in sorted(self.calls.items()) if _is_effect(self.steps[k])]
        for a, b in pairwise(effects):
            self.after[self.calls[a]].add(self.calls[b])
        for uid, call in self.calls.items():
            for u in effects:
                if u < uid and uid not in effects and not self.reaches(call, self.calls[u]):
                    self.after[self.calls[u]].add(call)

    def before_write(self, state: Buffer) -> set[int]:
        """What must run before `state` changes: its readers, and all that may fail, for then
        lasting states have to be as they were."""
        readers = self.readers.get(state, ())
        return {*readers, *self.calls.values()} if self.lasting else {*readers}

    def _link(self, k: int, step: Step) -> None:
        self.reads.append(list(dict.fromkeys(step.reads())))
        for b in self.reads[k]:
            self.readers.setdefault(b, []).append(k)
            if b in self.writer and self.writer[b] != k:
                self.after[self.writer[b]].add(k)

    def append(self, step: Step, before: Iterable[int] = ()) -> None:
        """Add `step` after its data and after the steps `before`."""
        k = len(self.steps)
        self.steps.append(step)
        self.after.append(set())
        self._link(k, step)
        for b in before:
            self.after[b].add(k)

    def reaches(self, a: int, b: int) -> bool:
        seen, stack = {a}, [a]
        while stack:
            k = stack.pop()
            if k == b:
                return True
            stack.extend(self.after[k] - seen)
            seen |= self.after[k]
        return False

    def sort(self, placed: Collection[Buffer], early: bool) -> list[int]:
        """The steps by number, in program order. With `early`, steps come as soon as they can which
        leave no more memory alive than there was before; buffers in `placed` take none."""
        alive = _Alive(self, placed)

        def entry(k: int) -> tuple[int, int]:
            return (min(alive.change[k], 0) if early else 0), k

        waiting = [0] * len(self.steps)
        for follow in self.after:
            for k in follow:
                waiting[k] += 1
        ready = [entry(k) for k, n in enumerate(waiting) if n == 0]
        heapify(ready)
        out: dict[int, None] = {}
        while ready:
            _, k = heappop(ready)
            if k in out:  # it was there twice, because it came to free more
                continue
            out[k] = None
            changed = alive.run(k)
            for f in self.after[k]:
                waiting[f] -= 1
                if waiting[f] == 0:
                    changed.append(f)
            for f in changed:
                if waiting[f] == 0:
                    heappush(ready, entry(f))
        assert len(out) == len(self.steps), "the steps depend on each other in a circle"
        return list(out)


class _Alive:
    """Which buffers are alive while steps run one after the other.

    Attributes:
        change: of each step, by how many bytes it would change what is alive, if it came next.
    """

    def __init__(self, order: _Order, placed: Collection[Buffer]) -> None:
        self.reads = order.reads
        self.left = {b: dict.fromkeys(ks) for b, ks in order.readers.items() if b not in placed}
        # what nobody reads, such as scratch memory of a step, is only alive while the step runs
        self.change = [
            sum(aligned(b) for b in step.writes() if b in self.left) for step in order.steps
        ]
        for b in self.left:
            self._last(b)

    def _last(self, b: Buffer) -> list[int]:
        """The only reader that is left, which makes `b` free."""
        left = list(self.left[b])
        if len(left) == 1:
            self.change[left[0]] -= aligned(b)
            return left
        return []

    def run(self, k: int) -> list[int]:
        """Step `k` runs; gives the steps that have come to free more by that."""
        found: list[int] = []
        for b in self.reads[k]:
            if b in self.left:
                del self.left[b][k]
                found += self._last(b)
        return found


def _may_not_return(step: Step) -> TypeGuard[HostCall | Control]:
    return may_fail(step) or (isinstance(step, Control) and step.may_hang)


def _is_effect(step: Step) -> bool:
    return isinstance(step, HostCall | Control) and step.node.effect


def in_place(step: Step, source: Buffer, target: Buffer) -> bool:
    """True if `step` can store `target` over `source`: it reads that only where it is about to
    store, or, a loop, as the initial value of the result `target`."""
    if isinstance(step, Kernel):
        return same_element(step, source, target)
    if source not in step.reads():
        return True
    return (
        isinstance(step, Control)
        and target in step.outputs[: step.carried]
        and step.inputs.count(source) == 1
        and step.inputs[step.outputs.index(target)] is source
    )


def same_element(kernel: Kernel, source: Buffer, target: Buffer) -> bool:
    """True if `kernel` reads `source` only at the element of `target` that it is about to store."""
    (offset,) = {s.offset for s in kernel.stores if s.buffer is target}
    return all(
        e.index[0] is offset
        for e in walk([s.value for s in kernel.stores])
        if isinstance(e, Load) and e.buffer is source
    )


class _Places:
    """Where results go: each output and each state's new value, without a copy where it can be."""

    def __init__(self, graph: Graph, lowering: Lowering, order: _Order) -> None:
        self.graph, self.lowering, self.order = graph, lowering, order
        self.states = {k for k, node in graph.updates if node is not graph.params[k]}
        self.places: dict[Buffer, Place] = {}
        self.params = [self._param(k, node) for k, node in enumerate(graph.params)]
        self.snapshots: list[tuple[int, int]] = []  # (state, step that reads its old value)
        self.overwrites: dict[int, int] = {}  # state -> step that stores its new value

    def _param(self, k: int, node: Node) -> Buffer:
        known = self.lowering.lowered.get(node)
        buffer = known.buffer if known else Buffer(f"p{k}", node.spec)
        self.places[buffer] = Place("param", k)
        return buffer

    def assign(self) -> dict[Buffer, Place]:
        for b in self.order.writer:
            if b.spec.is_stack:
                self.places[b] = Place("stack", 0)
        late = [
            (k, n) for k, n in self.graph.updates if k in self.states and not self._direct(k, n)
        ]
        for k, node in late:
            self._copy_update(k, self.lowering.lowered[node].buffer)
        for k, node in enumerate(self.graph.outputs):
            self._output(k, node)
        for state, reader in self.snapshots:
            self.order.after[reader].add(self.overwrites[state])
        return self.places

    def _direct(self, k: int, node: Node) -> bool:
        """Store the new value over the old one, if every reader of that can come before."""
        order, state, value = self.order, self.params[k], self.lowering.lowered[node].buffer
        if not order.over or value in self.places or value not in order.writer:
            return False
        writer = order.writer[value]
        step = order.steps[writer]
        if (order.lasting and may_fail(step)) or not in_place(step, state, value):
            return False
        before = order.before_write(state) - {writer}
        if any(order.reaches(writer, b) for b in before):
            return False
        for b in before:
            order.after[b].add(writer)
        self.places[value] = self.places[state]
        self.overwrites[k] = writer
        return True

    def _copy_update(self, k: int, value: Buffer) -> None:
        """Copy the new value over the old one once nobody reads that any more."""
        order, place = self.order, self.places.get(value)
        if place and place.kind == "param" and place.at in self.states and value in self.params:
            saved = Buffer(f"s{k}", value.spec)
            order.append(Copy(value, saved))
            order.writer[saved] = len(order.steps) - 1
            self.snapshots.append((place.at, order.writer[saved]))
            value = saved
        state = self.params[k]
        order.append(Copy(value, state), before=order.before_write(state))
        self.overwrites[k] = len(order.steps) - 1

    def _output(self, k: int, node: Node) -> None:
        value = self.lowering.lowered[node].buffer
        if value not in self.places:
            self.places[value] = Place("output", k)
            return
        target = Buffer(f"o{k}", node.spec)
        self.places[target] = Place("output", k)
        self.order.append(Copy(value, target))
        place = self.places[value]
        if node.op is PARAM and place.at in self.states:
            self.snapshots.append((place.at, len(self.order.steps) - 1))


def _arena(
    steps: list[Step], reads: list[list[Buffer]], places: dict[Buffer, Place], over: bool
) -> int:
    """Give the buffers without a place offsets in the arena; returns its size."""
    last: dict[Buffer, int] = {}
    for k, step in enumerate(steps):
        for b in (*reads[k], *step.writes()):
            last[b] = k
    free: list[tuple[int, int]] = []  # (offset, size), in order of offset
    size = 0
    held: dict[Buffer, tuple[int, int]] = {}
    for k, step in enumerate(steps):
        dying = [b for b in reads[k] if last[b] == k]
        for b in step.writes():
            if b in places:
                continue
            block = _reuse(step, b, dying, held) if over else None
            if block is None:
                block, size = _take(free, aligned(b), size)
            held[b] = block
            places[b] = Place("arena", block[0])
        for b in [b for b in held if last[b] == k]:
            _release(free, held.pop(b))
    return size


def aligned(b: Buffer) -> int:
    """The bytes that `b` takes in the arena."""
    return max(-(-b.spec.nbytes // ALIGN) * ALIGN, ALIGN)


def _reuse(
    step: Step, b: Buffer, dying: list[Buffer], held: dict[Buffer, tuple[int, int]]
) -> tuple[int, int] | None:
    """The block of an operand that dies here and over which `b` can be stored."""
    for source in dying:
        fits = source in held and held[source][1] == aligned(b)
        if fits and source.spec.nbytes == b.spec.nbytes and in_place(step, source, b):
            return held.pop(source)
    return None


def _take(free: list[tuple[int, int]], need: int, size: int) -> tuple[tuple[int, int], int]:
    """Best fit, or the end of the arena (growing a free block there)."""
    fitting = [f for f in free if f[1] >= need]
    if fitting:
        offset, length = best = min(fitting, key=lambda f: f[1])
        free.remove(best)
        if length > need:
            free.append((offset + need, length - need))
            free.sort()
        return (offset, need), size
    if free and sum(free[-1]) == size:
        offset, _ = free.pop()
        return (offset, need), offset + need
    return (size, need), size + need


def _release(free: list[tuple[int, int]], block: tuple[int, int]) -> None:
    free.append(block)
    free.sort()
    merged: list[tuple[int, int]] = []
    for offset, length in free:
        if merged and sum(merged[-1]) == offset:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        else:
            merged.append((offset, length))
    free[:] = merged
