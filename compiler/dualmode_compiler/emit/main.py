"""The native function of a whole graph: `i32 run(ptr %table)` calls its kernels in order."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..expr import Buffer
from ..loops import Copy, HostCall, Kernel
from ..lower import cost
from ..plan import Place, Plan
from ..runtime.jit import Host
from .kernel import Code, attributes, emit_kernel

SHARE = 500  # lines of text that are worth a module of their own


@dataclass(slots=True)
class Slots:
    """Where the table of `run` holds parameter k, output k, the arena, constants, the callback."""

    params: list[int]
    outputs: list[int]
    arena: int
    constants: list[int]
    callback: int


@dataclass(slots=True)
class Program:
    """The text of a graph's code, of which `@run` is the entry.

    Attributes:
        declarations: of intrinsics and the pool.
        functions: definitions, `@run` last.
        calls: host calls by number, as the callback gets it.
        chunked: kernels that may run in parallel.
        work: estimated cost of one run, in additions.
    """

    calls: list[HostCall]
    declarations: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    chunked: int = 0
    kernels: int = 0
    work: float = 0

    @property
    def text(self) -> str:
        """All of it as one module."""
        return "\n".join([*self.declarations, *self.functions])

    def modules(self) -> list[str]:
        """The same as modules of about equal length, which can be compiled at the same time."""
        functions = [f for text in self.functions for f in _split(text)]
        if sum(f.count("\n") for f in functions) < 2 * SHARE:
            return [self.text]
        parts: list[list[str]] = [[], []]
        lengths = [0, 0]
        for function in sorted(functions, key=len, reverse=True):
            k = lengths.index(min(lengths))
            parts[k].append(function.replace("define internal", "define", 1))
            lengths[k] += len(function)
        return [
            "\n".join([*self.declarations, *map(_declare, other), *part])
            for part, other in (parts, parts[::-1])
        ]


def _split(text: str) -> list[str]:
    """The functions that `text` defines, one by one."""
    return [f"{f}\n}}" for f in text.strip().removesuffix("\n}").split("\n}\n")]


def _declare(function: str) -> str:
    """The declaration of a function, from its definition."""
    head = function[: function.index(")") + 1]
    return head.replace("define", "declare", 1)


class _Main:
    def __init__(self, plan: Plan, slots: Slots, host: Host) -> None:
        self.plan, self.slots, self.host = plan, slots, host
        self.head: list[str] = []
        self.body: list[str] = []
        self.bases: dict[int, str] = {}
        self.addresses: dict[tuple[Buffer, int], str] = {}
        self.codes: dict[str, str] = {}  # text with its own name blanked -> name
        self.texts: list[str] = []
        self.helpers: dict[str, str] = {}
        self.declarations: set[str] = set()
        self.program = Program([])

    def emit(self) -> Program:
        for k, step in enumerate(self.plan.steps):
            if isinstance(step, Kernel):
                self._kernel(k, step)
            elif isinstance(step, HostCall):
                self._host(k, step)
            else:
                self._copy(step)
        self.program.declarations = [
            "declare void @dm_pool_run(ptr, ptr, i64)",
            "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)",
            *sorted(self.declarations),
        ]
        self.program.functions = [*self.helpers.values(), *self.texts, self._run()]
        return self.program

    def _run(self) -> str:
        head = f"define i32 @run(ptr %table) {attributes(self.host)} {{"
        return "\n".join([head, "entry:", *self.head, *self.body, "  ret i32 0", "}"])

    def _base(self, slot: int) -> str:
        if slot not in self.bases:
            name = self.bases[slot] = f"%t{slot}"
            self.head.append(f"  {name}.p = getelementptr ptr, ptr %table, i64 {slot}")
            self.head.append(f"  {name} = load ptr, ptr {name}.p")
        return self.bases[slot]

    def address(self, buffer: Buffer, offset: int = 0) -> str:
        key = (buffer, offset)
        if key in self.addresses:
            return self.addresses[key]
        place: Place = self.plan.places[buffer]
        kinds = {"param": self.slots.params, "output": self.slots.outputs}
        kinds["const"] = self.slots.constants
        if place.kind == "arena":
            base, offset = self._base(self.slots.arena), offset + place.at
        else:
            base = self._base(kinds[place.kind][place.at])
        if offset:
            name = f"%a{len(self.addresses)}"
            self.head.append(f"  {name} = getelementptr i8, ptr {base}, i64 {offset}")
            base = name
        self.addresses[key] = base
        return base

    def _array(self, stem: str, pointers: list[str]) -> str:
        name = f"%{stem}"
        self.head.append(f"  {name} = alloca [{max(len(pointers), 1)} x ptr]")
        for k, p in enumerate(pointers):
            self.body.append(f"  {name}.{k} = getelementptr ptr, ptr {name}, i64 {k}")
            self.body.append(f"  store ptr {p}, ptr {name}.{k}")
        return name

    def _kernel(self, k: int, step: Kernel) -> None:
        if not step.stores:
            return
        work = kernel_work(step)
        code = emit_kernel(step, f"k{k}", self.host, work)
        name = self._define(f"k{k}", code)
        self.program.kernels += 1
        self.program.work += work
        pointers = [self.address(b, at * b.spec.dtype.itemsize) for b, at in code.buffers]
        array = self._array(f"b{k}", pointers)
        if code.chunks > 1:
            self.program.chunked += 1
            call = f"@dm_pool_run(ptr @{name}, ptr {array}, i64 {code.chunks})"
        else:
            call = f"@{name}(ptr {array}, i64 0)"
        self.body.append(f"  call void {call}")

    def _define(self, name: str, code: Code) -> str:
        """Kernels of the same text are compiled once."""
        self.helpers.update(code.helpers)
        self.declarations |= code.declarations
        key = code.text.replace(f"@{name}(", "@(").replace(f"@{name}_", "@_")
        if key not in self.codes:
            self.codes[key] = name
            self.texts.append(code.text)
        return self.codes[key]

    def _host(self, k: int, step: HostCall) -> None:
        array = self._array(f"b{k}", [self.address(b) for b in (*step.inputs, step.output)])
        number = len(self.program.calls)
        self.program.calls.append(step)
        callback = self._base(self.slots.callback)
        self.body += [
            f"  %c{k} = call i32 {callback}(i64 {number}, ptr {array})",
            f"  %f{k} = icmp ne i32 %c{k}, 0",
            f"  br i1 %f{k}, label %fail{k}, label %next{k}",
            f"fail{k}:",
            f"  ret i32 {number + 1}",
            f"next{k}:",
        ]

    def _copy(self, step: Copy) -> None:
        size = step.source.spec.nbytes
        source, target = self.address(step.source), self.address(step.target)
        if size:
            self.body.append(
                f"  call void @llvm.memcpy.p0.p0.i64(ptr {target}, ptr {source}, i64 {size}, i1 0)"
            )
            self.program.work += step.source.spec.size


def kernel_work(kernel: Kernel) -> float:
    """Estimated cost of a kernel, in additions."""
    if kernel.contraction is not None:
        return 2.0 * kernel.contraction.gemm.macs
    memo: dict = {}
    total = 0.0
    for s in kernel.stores:
        size = 1
        for a in kernel.axes[: s.depth]:
            size *= a.extent
        total += size * (1 + cost(s.value, memo)[0])
    return total


def emit_main(plan: Plan, slots: Slots, host: Host) -> Program:
    return _Main(plan, slots, host).emit()
