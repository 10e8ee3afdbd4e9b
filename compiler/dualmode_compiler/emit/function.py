"""The function that runs a program, under construction, and the code of kernels that it calls."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import field

from ..alike import Forms
from ..cost import Cost, kernel_cost
from ..expr import Buffer
from ..loops import HostCall, Kernel
from ..records import dataclass
from ..runtime.jit import Host
from ..slots import Slots
from ..spec import Spec
from ..split import split, split_cost
from .jobs import Job, write
from .kernel import Code, emit_kernel
from .modules import Modules
from .modules import split as functions
from .values import Writer, memory_type

MONOTONIC = 1  # the number of the clock that never jumps
_NAME = re.compile(r"@([\w.]+)\(")
_FACTOR = re.compile(r"(= mul (?:nuw |nsw )*i64 %[\w.]+, )(\d+)$", re.MULTILINE)
FACTORS = 6  # the most that a function takes as arguments


def _generic(function: str) -> tuple[str, str]:
    """A function whose last arguments are the factors by which this one multiplies indices, and
    these as arguments of a call."""
    factors: list[str] = []

    def argument(found: re.Match[str]) -> str:
        factors.append(found[2])
        return f"{found[1]}%by{len(factors)}"

    text = _FACTOR.sub(argument, function)
    if not 0 < len(factors) <= FACTORS:
        return function, ""
    end = text.index(")")
    taken = "".join([f", i64 %by{k}" for k in range(1, len(factors) + 1)])
    return f"{text[:end]}{taken}{text[end:]}", "".join([f", i64 {n}" for n in factors])


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


@dataclass(slots=True)
class Called:
    """Code of a kernel that is defined.

    Attributes:
        places: the buffers whose addresses it takes, and byte offsets in them.
    """

    name: str
    places: list[tuple[Buffer, int]]
    chunks: int


@dataclass(slots=True)
class Piece:
    """A kernel, or a part of one, and its code by the results that are stored past the caches."""

    kernel: Kernel
    cost: Cost
    work: float
    codes: dict[frozenset[Buffer], Called] = field(default_factory=dict)

    def code(self, f: Function, streams: frozenset[Buffer]) -> Called:
        found = self.codes.get(streams)
        if found is None:
            name = f"k{f.totals.kernels}"
            code = emit_kernel(self.kernel, name, f.host, self.work, streams)
            places = [(b, at * b.spec.dtype.itemsize) for b, at in code.buffers]
            found = self.codes[streams] = Called(f.define(name, code), places, code.chunks)
        return found


@dataclass(slots=True)
class Known:
    """What is found out about one of several equal kernels.

    Attributes:
        parts: see `split`.
        buffers: of the kernel at hand, by those of the one that was looked at.
    """

    whole: Piece
    parts: list[Piece]
    buffers: dict[Buffer, Buffer]

    @classmethod
    def of(cls, kernel: Kernel, buffers: list[Buffer]) -> Known:
        cuts = split(kernel)
        cost = split_cost(kernel, cuts)
        parts = [Piece(k, c, c.work) for k in cuts for c in [kernel_cost(k)]]
        whole = Piece(kernel, cost, cost.work)
        return cls(whole, parts, dict(zip(buffers, buffers, strict=True)))

    @property
    def cost(self) -> Cost:
        return self.whole.cost

    def at(self, buffers: list[Buffer]) -> Known:
        """The same for an equal kernel."""
        return Known(self.whole, self.parts, dict(zip(self.buffers, buffers, strict=True)))


class Function:
    """The text of `run` under construction, and that of the kernels that it calls.

    Attributes:
        structured: it has branches or loops: single numbers then live in variables of the function,
            which LLVM keeps in registers, and a failure first frees all stacks.
        head: the start of the entry block: addresses and variables.
        w: writes what follows.
        varying: addresses that are not the same all the time.
        data: constants of the module.
        modules: where the functions go.
        several: the program has more than one step. What a kernel alone saves, though little, is
            worth the time to compile it well.
        signals: it looks for signals.
        workspace: some kernels compute in their threads' workspace.
    """

    def __init__(
        self, slots: Slots, host: Host, structured: bool, modules: Modules, several: bool
    ) -> None:
        self.slots, self.host, self.structured = slots, host, structured
        self.modules, self.several = modules, several
        self.head: list[str] = []
        self.w = Writer()
        self.body = self.w.lines
        self.varying: set[str] = set()
        self.variables: set[str] = set()
        self.stacks: list[Stack] = []
        self.bases: dict[int, str] = {}
        self.codes: dict[str, str] = {}  # text with its own name blanked -> name
        self._forms = Forms()
        self._known: dict[Hashable, Known] = {}
        self._jobs: list[Job] = []
        self._addresses: dict[tuple[int, int], str] = {}
        self.texts: list[str] = []
        self.helpers: dict[str, str] = {}
        self.declarations: set[str] = set()
        self.data: list[str] = []
        self.totals = Totals()
        self.steps = 0
        self.signals = self.workspace = False
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

    def at(self, slot: int, offset: int) -> str:
        """An address `offset` bytes from the pointer that the table holds there."""
        if not offset:
            return self.base(slot)
        if (slot, offset) not in self._addresses:
            name, base = self.name("%a"), self.base(slot)
            self.head.append(f"  {name} = getelementptr i8, ptr {base}, i64 {offset}")
            self._addresses[slot, offset] = name
        return self._addresses[slot, offset]

    def array(self, pointers: list[str]) -> str:
        """An array that holds `pointers`."""
        name = self.name("%b")
        self.head.append(f"  {name} = alloca [{max(len(pointers), 1)} x ptr]")
        once = self.structured and self.varying.isdisjoint(pointers)
        lines = self.head if once else self.body
        for k, p in enumerate(pointers):
            lines.append(f"  {name}.{k} = getelementptr ptr, ptr {name}, i64 {k}")
            lines.append(f"  store ptr {p}, ptr {name}.{k}")
        return name

    def later(self, job: Job) -> None:
        """Run `job` before the next instruction that is written after `flush`."""
        self.totals.chunked += len(job.parts) if job.chunks > 1 else 0
        if not job.fixed:
            self.flush()
            write(self, [job])
        else:
            self._jobs.append(job)

    def flush(self) -> None:
        """Write the jobs that wait to be written together."""
        jobs, self._jobs = self._jobs, []
        write(self, jobs)

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

    def stamp(self, number: int) -> None:
        """Note the time at which the outermost step `number` begins, or the last one has ended."""
        self.declarations.add("declare i32 @clock_gettime(i32, ptr)")
        times = self.base(self.slots.clock)
        at = self.w.emit(f"getelementptr [2 x i64], ptr {times}, i64 {number}")
        self.w.emit(f"call i32 @clock_gettime(i32 {MONOTONIC}, ptr {at})")

    def fail_if(self, condition: str, result: int) -> None:
        """Leave the function with `result` where the i1 `condition` holds."""
        fail, on = self.name("fail"), self.name("next")
        self.body += [f"  br i1 {condition}, label %{fail}, label %{on}", f"{fail}:"]
        if self.structured:
            self.body += [f"  store i32 {result}, ptr %result", "  br label %unwind"]
        else:
            self.body.append(f"  ret i32 {result}")
        self.body.append(f"{on}:")

    def known(self, step: Kernel) -> Known:
        """What is known of the kernel; equal ones are looked at once."""
        key, buffers = self._forms.of(step)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Known.of(step, buffers)
        return found.at(buffers)

    def define(self, name: str, code: Code) -> str:
        """Kernels of the same text are compiled once."""
        self.workspace |= code.workspace > 0
        self.declarations |= code.declarations
        self.modules.declare(code.declarations)
        for helper, text in code.helpers.items():
            self.help(helper, text)
        key = code.text.replace(f"@{name}(", "@(").replace(f"@{name}_", "@_")
        if key not in self.codes:
            self.codes[key] = name
            *others, own = self._shared(name, code.text)
            self.texts += [*others, own]
            for other in others:
                self.modules.add(other)
            self.modules.add(own, code.quick and self.several)
        return self.codes[key]

    def _shared(self, name: str, text: str) -> list[str]:
        """The functions of `text`, of which the last one is the kernel `name`, without those that
        differ from others of the program by no more than factors of indices, such as the distance
        of rows. They take these as arguments."""
        parts = functions(text)
        kept: list[str] = []
        for k, part in enumerate(parts):
            own = _NAME.search(part)
            assert own is not None
            if own[1] == name:
                kept.append(part)
                continue
            generic, factors = _generic(part)
            known = self.codes.setdefault(generic.replace(f"@{own[1]}(", "@("), own[1])
            if known == own[1]:
                kept.append(generic)
            call = re.compile(rf"(call void )@{own[1]}\(([^)]*)\)")
            for n in range(k + 1, len(parts)):
                parts[n] = call.sub(rf"\1@{known}(\2{factors})", parts[n])
        return kept

    def help(self, name: str, text: str) -> None:
        """Define a function that several others may call."""
        if name not in self.helpers:
            self.helpers[name] = text
            self.modules.add(text)

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
