"""Branches and loops: the graphs that nodes own, as blocks of the function around them."""

from __future__ import annotations

from ..expr import Buffer
from ..graph import LOOP
from ..loops import Control, Copy, HostCall, Kernel
from ..plan import Plan
from ..slots import INTERRUPTED, OUT_OF_MEMORY
from .function import Function, Stack
from .steps import Scope, copy, is_number

UNKNOWN = 1 << 20  # iterations, where nothing is known of their number: it may be a long run
FIRST = 1 << 10  # bytes of the first piece of a growing stack
PATIENCE = 1 << 22  # additions between two looks for signals


def emit_steps(scope: Scope, timed: bool = False) -> None:
    """All steps of `scope`, with the time of each if `timed`. A stack is freed after its last
    reader."""
    f = scope.function
    last = {
        b: k
        for k, step in enumerate(scope.plan.steps)
        for b in (*step.reads(), *step.writes())
        if b.spec.is_stack
    }
    for k, step in enumerate(scope.plan.steps):
        scope.step = k
        if timed or not isinstance(step, Kernel):
            scope.flush()
        if timed:
            f.stamp(k)
        if isinstance(step, Kernel):
            scope.kernel(step)
        elif isinstance(step, HostCall):
            scope.host(step)
        elif isinstance(step, Copy):
            scope.copy(step)
        elif step.node.op is LOOP:
            _Loop(scope, step).emit()
        else:
            _branch(scope, step)
        f.steps += 1
        for b in (b for b, end in last.items() if end == k):
            scope.flush()
            f.free(scope.stacks[b])
    scope.flush()
    if timed:
        f.stamp(len(scope.plan.steps))


def _inner(
    scope: Scope,
    step: Control,
    plan: Plan,
    params: list[str],
    outputs: list[str],
    weight: float = 1,
) -> None:
    """The steps of one of the graphs that `step` owns."""
    places = {"param": params, "output": outputs}
    arena = 0 if step.scratch is None else scope.offset(step.scratch)
    inner = Scope(
        scope.function, plan, lambda kind, k: places[kind][k], arena, scope.weight * weight
    )
    emit_steps(inner)


def _branch(scope: Scope, step: Control) -> None:
    """A call is a branch without a choice."""
    f = scope.function
    operands = [scope.address(b) for b in step.inputs]
    outputs = [scope.address(b) for b in step.outputs]
    if len(step.plans) == 1:
        params = operands[len(operands) - len(step.graphs[0].params) :]
        _inner(scope, step, step.plans[0], params, outputs)
        return
    number, *params = operands
    labels = [f.name("branch") for _ in step.plans]
    join = f.name("join")
    chosen = f.w.emit(f"load i32, ptr {number}")
    cases = " ".join(f"i32 {k}, label %{label}" for k, label in enumerate(labels[:-1]))
    f.w.line(f"  switch i32 {chosen}, label %{labels[-1]} [ {cases} ]")
    for label, plan in zip(labels, step.plans, strict=True):
        f.w.line(f"{label}:")
        _inner(scope, step, plan, params, outputs, 1 / len(labels))
        f.w.line(f"  br label %{join}")
    f.w.line(f"{join}:")


class _Loop:
    """One loop. `index` counts iterations; `entry` is the place of this one's entries."""

    def __init__(self, scope: Scope, step: Control) -> None:
        self.scope, self.step, self.f = scope, step, scope.function
        node, carried = step.node, step.carried
        self.cond: bool = node.attr("cond") is not None
        self.reverse: bool = node.attr("reverse")
        self.length: int | None = node.attr("length")
        self.scanned = step.inputs[carried : carried + step.scanned]
        self.stacked = step.outputs[carried:]
        self.fixed = [scope.address(b) for b in step.inputs[carried + step.scanned :]]
        self.limit = self._limit()
        self.bases = [self._first(b) for b in self.scanned]

    def _limit(self) -> str | None:
        """The greatest number of iterations, if there is one."""
        if self.length is not None:
            return str(self.length)
        if self.cond:
            return None
        stack = next(b for b in self.scanned if b.spec.is_stack)
        return self.f.w.emit(f"load i64, ptr {self.scope.stacks[stack].count}")

    def _first(self, b: Buffer) -> str:
        """The address of an array's first entry."""
        if b.spec.is_stack:
            return self.f.w.emit(f"load ptr, ptr {self.scope.stacks[b].first}")
        return self.scope.address(b)

    def emit(self) -> None:
        f, step = self.f, self.step
        states = self._states()
        targets = [self._target(b) for b in self.stacked]
        before, head, body, again, done = (
            f.name(stem) for stem in ("before", "loop", "body", "again", "done")
        )
        index, following = f.name("%i"), f.name("%i")
        f.body += [f"  br label %{before}", f"{before}:", f"  br label %{head}", f"{head}:"]
        f.w.line(f"  {index} = phi i64 [ 0, %{before} ], [ {following}, %{again} ]")
        self._leave_unless_more(index, states, done)
        f.body += [f"  br label %{body}", f"{body}:"]
        entry = self._entry(index)
        params = [self._at(p, entry, b) for p, b in zip(self.bases, self.scanned, strict=True)]
        outputs = [
            self._slot(t, entry, index, b) for t, b in zip(targets, self.stacked, strict=True)
        ]
        trips = UNKNOWN if self.length is None else max(self.length, 1)
        start = f.totals.work
        _inner(
            self.scope, step, step.plans[0], [*states, *params, *self.fixed], outputs, weight=trips
        )
        self._look_for_signals(index, trips, f.totals.work - start)
        f.body += [f"  br label %{again}", f"{again}:"]
        f.body += [f"  {following} = add nuw nsw i64 {index}, 1", f"  br label %{head}", f"{done}:"]
        self._finish(states, index)

    def _look_for_signals(self, index: str, trips: int, work: float) -> None:
        """Once in a while, if the loop may be a long one; `work` is that of all iterations."""
        f, each = self.f, max(work / (self.scope.weight * trips), 1)
        if self.length is not None and each * self.length < 16 * PATIENCE:
            return
        period = 1 << int(max(PATIENCE / each, 1)).bit_length() - 1
        look, on = f.name("look"), f.name("on")
        passed = f.w.emit(f"and i64 {index}, {period - 1}")
        now = f.w.emit(f"icmp eq i64 {passed}, {period - 1}")
        f.body += [f"  br i1 {now}, label %{look}, label %{on}", f"{look}:"]
        raised = f.w.emit("call i32 @dm_signal()")
        f.fail_if(f.w.emit(f"icmp ne i32 {raised}, 0"), INTERRUPTED)
        f.body += [f"  br label %{on}", f"{on}:"]
        f.signals = True

    def _states(self) -> list[str]:
        """Where carried values are, with their initial values."""
        f, states = self.f, list[str]()
        for source, b in zip(
            self.step.inputs, self.step.outputs[: self.step.carried], strict=False
        ):
            place = self.scope.address(b)
            if is_number(b.spec) and place not in f.variables:
                place = f.number(b.spec)
            start = self.scope.address(source)
            if start != place:
                copy(f, start, place, b.spec)
            states.append(place)
        return states

    def _finish(self, states: list[str], count: str) -> None:
        f, scope = self.f, self.scope
        for place, b in zip(states, self.step.outputs, strict=False):
            if place != scope.address(b):
                copy(f, place, scope.address(b), b.spec)
        for b in self.stacked:
            if b.spec.is_stack:
                stack = scope.stacks[b]
                first = f.w.emit(f"load ptr, ptr {stack.memory}")
                if self.cond and self.reverse:  # the room in front was not needed
                    skipped = f.w.emit(f"sub i64 {self.limit}, {count}")
                    skipped = f.w.emit(f"mul i64 {skipped}, {_entry_bytes(b)}")
                    first = f.w.emit(f"getelementptr i8, ptr {first}, i64 {skipped}")
                f.w.line(f"  store ptr {first}, ptr {stack.first}")
                f.w.line(f"  store i64 {count}, ptr {stack.count}")

    def _leave_unless_more(self, index: str, states: list[str], done: str) -> None:
        f = self.f
        if self.limit is not None:
            on = f.name("more")
            more = f.w.emit(f"icmp ult i64 {index}, {self.limit}")
            f.body += [f"  br i1 {more}, label %{on}, label %{done}", f"{on}:"]
        if self.cond:
            on, flag = f.name("more"), f.variable("i8")
            trips = UNKNOWN if self.length is None else max(self.length, 1)
            plan = self.step.plans[1]
            _inner(self.scope, self.step, plan, [*states, *self.fixed], [flag], weight=trips)
            byte = f.w.emit(f"load i8, ptr {flag}")
            more = f.w.emit(f"icmp ne i8 {byte}, 0")
            f.body += [f"  br i1 {more}, label %{on}, label %{done}", f"{on}:"]

    def _entry(self, index: str) -> str:
        if not self.reverse:
            return index
        assert self.limit is not None, "a loop in reverse needs to know where to start"
        left = self.f.w.emit(f"sub i64 {self.limit}, {index}")
        return self.f.w.emit(f"add i64 {left}, -1")

    def _at(self, base: str, entry: str, b: Buffer) -> str:
        """The address of an entry."""
        f = self.f
        at = f.w.emit(f"mul i64 {entry}, {_entry_bytes(b)}")
        place = f.w.emit(f"getelementptr i8, ptr {base}, i64 {at}")
        f.varying.add(place)
        return place

    # --- stacked results ----------------------------------------------------------------------

    def _target(self, b: Buffer) -> str | Stack:
        """Where entries go: an array's address, or a stack; with room for all, if it is known how
        many there can be and which will be the last."""
        if not b.spec.is_stack:
            return self.scope.address(b)
        f = self.f
        stack = self.scope.stacks[b] = f.stack()
        f.w.line(f"  store i64 0, ptr {stack.capacity}")
        if self.cond and not self.reverse:
            return stack
        assert self.limit is not None
        if _entry_bytes(b):
            _resize(f, stack, self.limit, b)
        return f.w.emit(f"load ptr, ptr {stack.memory}")

    def _slot(self, target: str | Stack, entry: str, index: str, b: Buffer) -> str:
        """The address of this iteration's entry."""
        if isinstance(target, str):
            return self._at(target, entry, b)
        f = self.f
        if _entry_bytes(b):
            full, room = f.name("full"), f.name("room")
            capacity = f.w.emit(f"load i64, ptr {target.capacity}")
            none = f.w.emit(f"icmp eq i64 {capacity}, {index}")
            f.body += [f"  br i1 {none}, label %{full}, label %{room}", f"{full}:"]
            first = max(FIRST // _entry_bytes(b), 1)
            doubled = f.w.emit(f"mul i64 {capacity}, 2")
            more = f.w.emit(f"call i64 @llvm.umax.i64(i64 {doubled}, i64 {first})")
            _resize(f, target, more, b)
            f.body += [f"  br label %{room}", f"{room}:"]
        memory = f.w.emit(f"load ptr, ptr {target.memory}")
        return self._at(memory, entry, b)


def _entry_bytes(b: Buffer) -> int:
    return b.spec.with_shape(b.spec.shape[1:]).nbytes


def _resize(f: Function, stack: Stack, capacity: str, b: Buffer) -> None:
    """Room for `capacity` entries."""
    size = f.w.emit(f"mul i64 {capacity}, {_entry_bytes(b)}")
    size = f.w.emit(f"or i64 {size}, 1")  # of no bytes, null would be a valid answer
    memory = f.w.emit(f"load ptr, ptr {stack.memory}")
    memory = f.w.emit(f"call ptr @realloc(ptr {memory}, i64 {size})")
    f.fail_if(f.w.emit(f"icmp eq ptr {memory}, null"), OUT_OF_MEMORY)
    f.w.line(f"  store ptr {memory}, ptr {stack.memory}")
    f.w.line(f"  store i64 {capacity}, ptr {stack.capacity}")
