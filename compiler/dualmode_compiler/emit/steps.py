"""The steps of a graph as text of the function that runs them, one graph inside another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..cost import BYTES, LARGE, kernel_cost
from ..expr import Buffer, Fold, Load, Reduce, walk
from ..folds import Scatter
from ..loops import Copy, HostCall, Kernel
from ..plan import Plan
from ..runtime.jit import Host
from ..slots import Slots
from ..spec import Spec
from ..split import split
from .kernel import Code, emit_kernel
from .nest import Nest
from .values import Writer, memory_type


@dataclass(frozen=True, slots=True)
class Stack:
    """Memory that a loop makes for entries: names of the variables that hold what is known of it.

    Attributes:
        memory: what was allocated, or null.
        first: its first entry, once the loop is done.
        count: how many there are.
        capacity: how many there is room for.
    """

    memory: str
    first: str
    count: str
    capacity: str


@dataclass(slots=True)
class Totals:
    """What is counted while a program is emitted: see `Program`."""

    calls: list[HostCall] = field(default_factory=list)
    chunked: int = 0
    kernels: int = 0
    work: float = 0


class Function:
    """The text of `run` under construction, and that of the kernels that it calls.

    Attributes:
        structured: it has branches or loops: single numbers then live in variables of the function,
            which LLVM keeps in registers, and a failure first frees all stacks.
        head: the start of the entry block: addresses and variables.
        w: writes what follows.
        varying: addresses that are not the same all the time.
        signals: it looks for signals.
    """

    def __init__(self, slots: Slots, host: Host, structured: bool) -> None:
        self.slots, self.host, self.structured = slots, host, structured
        self.head: list[str] = []
        self.w = Writer()
        self.body = self.w.lines
        self.varying: set[str] = set()
        self.variables: set[str] = set()
        self.stacks: list[Stack] = []
        self.bases: dict[int, str] = {}
        self.codes: dict[str, str] = {}  # text with its own name blanked -> name
        self.texts: list[str] = []
        self.helpers: dict[str, str] = {}
        self.declarations: set[str] = set()
        self.totals = Totals()
        self.steps = 0
        self.signals = False
        self._names = 0

    def name(self, stem: str) -> str:
        self._names += 1
        return f"{stem}{self._names}"

    def base(self, slot: int) -> str:
        """The pointer that the table holds there."""
        if slot not in self.bases:
            name = self.bases[slot] = f"%t{slot}"
            self.head.append(f"  {name}.p = getelementptr ptr, ptr %table, i64 {slot}")
            self.head.append(f"  {name} = load ptr, ptr {name}.p")
        return self.bases[slot]

    def variable(self, kind: str, start: str | None = None) -> str:
        """A new variable of the function."""
        name = self.name("%s")
        self.head.append(f"  {name} = alloca {kind}")
        if start is not None:
            self.head.append(f"  store {kind} {start}, ptr {name}")
        self.variables.add(name)
        return name

    def number(self, spec: Spec) -> str:
        """A variable for the one element of `spec`."""
        return self.variable(memory_type(spec.dtype, 1))

    def stack(self) -> Stack:
        names = (self.variable("ptr", "null"), self.variable("ptr", "null"))
        made = Stack(*names, self.variable("i64"), self.variable("i64"))
        self.stacks.append(made)
        return made

    def free(self, stack: Stack) -> None:
        memory = self.w.emit(f"load ptr, ptr {stack.memory}")
        self.w.line(f"  call void @free(ptr {memory})")
        self.w.line(f"  store ptr null, ptr {stack.memory}")

    def fail_if(self, condition: str, result: int) -> None:
        """Leave the function with `result` where the i1 `condition` holds."""
        fail, on = self.name("fail"), self.name("next")
        self.body += [f"  br i1 {condition}, label %{fail}, label %{on}", f"{fail}:"]
        if self.structured:
            self.body += [f"  store i32 {result}, ptr %result", "  br label %unwind"]
        else:
            self.body.append(f"  ret i32 {result}")
        self.body.append(f"{on}:")

    def define(self, name: str, code: Code) -> str:
        """Kernels of the same text are compiled once."""
        self.helpers.update(code.helpers)
        self.declarations |= code.declarations
        key = code.text.replace(f"@{name}(", "@(").replace(f"@{name}_", "@_")
        if key not in self.codes:
            self.codes[key] = name
            self.texts.append(code.text)
        return self.codes[key]

    def lines(self) -> list[str]:
        """The whole body of the function."""
        if not self.structured:
            return [*self.head, *self.body, "  ret i32 0"]
        self.body += ["  br label %unwind", "unwind:"]
        for stack in self.stacks:
            self.free(stack)
        self.body += ["  %code = load i32, ptr %result", "  ret i32 %code"]
        result = ["  %result = alloca i32", "  store i32 0, ptr %result"]
        return [*result, *self.head, "  br label %start", "start:", *self.body]


def is_number(spec: Spec) -> bool:
    """True for one element of a type that registers hold."""
    return spec.size == 1 and not spec.dtype.is_complex


class Scope:
    """One graph: where its buffers are, and the text of its steps.

    Attributes:
        pointer: the address of a place that is not in the arena: ("param", 2) -> "%p".
        arena: where this graph's part of the arena starts.
        weight: how often it is expected to run.
    """

    def __init__(
        self,
        function: Function,
        plan: Plan,
        pointer: Callable[[str, int], str],
        arena: int = 0,
        weight: float = 1,
    ) -> None:
        self.function, self.plan, self.pointer = function, plan, pointer
        self.arena, self.weight = arena, weight
        self.stacks: dict[Buffer, Stack] = {}
        self._addresses: dict[tuple[Buffer, int], str] = {}

    def offset(self, buffer: Buffer) -> int:
        """Where `buffer` lies in the arena."""
        return self.arena + self.plan.places[buffer].at

    def address(self, buffer: Buffer, offset: int = 0) -> str:
        key = (buffer, offset)
        found = self._addresses.get(key)
        if found is None:
            found = self._addresses[key] = self._address(buffer, offset)
        return found

    def _address(self, buffer: Buffer, offset: int) -> str:
        f, place = self.function, self.plan.places[buffer]
        if place.kind == "arena":
            if f.structured and offset == 0 and is_number(buffer.spec):
                return f.number(buffer.spec)
            base, offset = f.base(f.slots.arena), offset + self.offset(buffer)
        elif place.kind == "const":
            base = f.base(f.slots.constants[place.at])
        else:
            base = self.pointer(place.kind, place.at)
        if not offset:
            return base
        name = f.name("%a")
        lines = f.body if base in f.varying else f.head
        lines.append(f"  {name} = getelementptr i8, ptr {base}, i64 {offset}")
        if base in f.varying:
            f.varying.add(name)
        return name

    def array(self, pointers: list[str]) -> str:
        """An array that holds `pointers`."""
        f = self.function
        name = f.name("%b")
        f.head.append(f"  {name} = alloca [{max(len(pointers), 1)} x ptr]")
        once = f.structured and f.varying.isdisjoint(pointers)
        lines = f.head if once else f.body
        for k, p in enumerate(pointers):
            lines.append(f"  {name}.{k} = getelementptr ptr, ptr {name}, i64 {k}")
            lines.append(f"  store ptr {p}, ptr {name}.{k}")
        return name

    def kernel(self, step: Kernel) -> None:
        f, work = self.function, kernel_cost(step).work
        f.totals.work += work * self.weight
        if f.structured and _is_straight(step):
            self._straight(step)
        elif isinstance(step.fold, Scatter):
            self._update(step, step.fold, work)
        elif step.stores:
            parts = split(step)
            for part in parts:
                self._call(part, work if len(parts) == 1 else kernel_cost(part).work)

    def _update(self, step: Kernel, form: Scatter, work: float) -> None:
        """What is there before comes first, unless it is in place already."""
        first = form.before(step)
        value = first.stores[0].value
        if not (
            isinstance(value, Load)
            and value.index[0] is first.stores[0].offset
            and self.address(value.buffer) == self.address(first.stores[0].buffer)
        ):
            self._call(first, kernel_cost(first).work)
        self._call(form.each_once(step) or step, work)

    def _straight(self, step: Kernel) -> None:
        """Numbers are computed right here."""
        f = self.function
        buffers = dict.fromkeys([*step.writes(), *step.reads()])
        nest = Nest(f.host, {b: self.address(b) for b in buffers})
        nest.w, f.w.lines = f.w, nest.lines
        for s in step.stores:
            nest.value(s.value)
        for s in step.stores:
            nest.store(s.buffer, s.offset, s.value)
        f.body += nest.lines
        f.w.lines = f.body

    def _call(self, step: Kernel, work: float) -> None:
        f = self.function
        name = f"k{f.totals.kernels}"
        code = emit_kernel(step, name, f.host, work, self._streams(step, work))
        name = f.define(name, code)
        f.totals.kernels += 1
        pointers = [self.address(b, at * b.spec.dtype.itemsize) for b, at in code.buffers]
        array = self.array(pointers)
        if code.chunks > 1:
            f.totals.chunked += 1
            job = f"ptr @{name}, ptr {array}, i64 {code.chunks}, i64 {int(work)}"
            call = f"@dm_pool_run({job})"
        else:
            call = f"@{name}(ptr {array}, i64 0)"
        f.body.append(f"  call void {call}")

    def _streams(self, step: Kernel, work: float) -> frozenset[Buffer]:
        """Results that are best stored past the caches: none that `step` writes in place."""
        if work * BYTES < LARGE or kernel_cost(step).moved < LARGE:
            return frozenset()
        known = {self.plan.places[b] for b in step.reads()}
        return frozenset(b for b in step.writes() if self.plan.places[b] not in known)

    def host(self, step: HostCall) -> None:
        f = self.function
        on = None
        if step.guard is not None:
            call, on = f.name("call"), f.name("on")
            flag = f.w.emit(f"load i8, ptr {self.address(step.guard)}")
            wanted = f.w.emit(f"icmp ne i8 {flag}, 0")
            f.body += [f"  br i1 {wanted}, label %{call}, label %{on}", f"{call}:"]
        self._call_back(step)
        if on is not None:
            f.body += [f"  br label %{on}", f"{on}:"]

    def _call_back(self, step: HostCall) -> None:
        """The host has copies of numbers, so that they can stay in registers."""
        f = self.function
        places = [self.address(b) for b in (*step.inputs, step.output)]
        seen = list(places)
        for k, b in enumerate((*step.inputs, step.output)):
            if places[k] in f.variables:
                seen[k] = f.number(b.spec)
        for b, place, copied in zip(step.inputs, places, seen, strict=False):
            if copied != place:
                copy(f, place, copied, b.spec)
        array = self.array(seen)
        number = len(f.totals.calls)
        f.totals.calls.append(step)
        callback = f.base(f.slots.callback)
        code = f.w.emit(f"call i32 {callback}(i64 {number}, ptr {array})")
        f.fail_if(f.w.emit(f"icmp ne i32 {code}, 0"), number + 1)
        if seen[-1] != places[-1]:
            copy(f, seen[-1], places[-1], step.output.spec)

    def copy(self, step: Copy) -> None:
        copy(self.function, self.address(step.source), self.address(step.target), step.source.spec)
        self.function.totals.work += step.source.spec.size * self.weight


def copy(f: Function, source: str, target: str, spec: Spec) -> None:
    """`*target = *source`"""
    if f.structured and is_number(spec):
        kind, size = memory_type(spec.dtype, 1), spec.dtype.itemsize
        value = f.w.emit(f"load {kind}, ptr {source}, align {size}")
        f.body.append(f"  store {kind} {value}, ptr {target}, align {size}")
    elif spec.nbytes:
        args = f"ptr {target}, ptr {source}, i64 {spec.nbytes}, i1 0"
        f.body.append(f"  call void @llvm.memcpy.p0.p0.i64({args})")


def _is_straight(step: Kernel) -> bool:
    values = [s.value for s in step.stores]
    return not step.axes and not any(isinstance(e, Reduce | Fold) for e in walk(values))
