"""The native function of a whole graph: `i32 run(ptr %table)` calls its kernels in order.

Graphs that nodes own are blocks of the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

from ..loops import Control, HostCall
from ..plan import Plan
from ..records import dataclass
from ..runtime import signals, workspace
from ..runtime.jit import Host
from ..slots import Slots
from .control import emit_steps
from .function import Function
from .kernel import attributes
from .modules import Modules
from .steps import Scope


@dataclass(slots=True)
class Program:
    """The text of a graph's code, of which `@run` is the entry.

    Attributes:
        declarations: of intrinsics and the pool.
        functions: definitions, `@run` last.
        data: constants that `@run` reads.
        modules: the same as several modules, which can be compiled at the same time.
        calls: host calls by number, as the callback gets it.
        chunked: kernels that may run in parallel.
        work: estimated cost of one run, in additions.
        structured: `@run` has branches or loops.
        signals: `@run` looks for signals.
        workspace: some kernels compute in their threads' workspace (`runtime.workspace`).
        jobs: the steps that are handed to the pool together, by number.
    """

    calls: list[HostCall]
    declarations: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    chunked: int = 0
    kernels: int = 0
    work: float = 0
    structured: bool = False
    signals: bool = False
    workspace: bool = False
    jobs: list[list[int]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it as one module."""
        return "\n".join([*self.declarations, *self.data, *self.functions])


def emit_main(
    plan: Plan,
    slots: Slots,
    host: Host,
    timed: bool = False,
    take: Callable[[str, str], object] | None = None,
) -> Program:
    """The program of `plan`. Where it is `timed`, it takes the time before and after each step.

    Args:
        take: is given each module as soon as it is complete, and the function whose variables LLVM
            has to put in registers, or nothing.
    """
    structured = any(isinstance(s, Control) for s in plan.steps)
    promote = "run" if structured else ""
    modules = Modules(lambda text: take and take(text, promote))
    modules.declare([workspace.DECLARATION])
    f = Function(slots, host, structured, modules, len(plan.steps) > 1)
    tables = {"param": slots.params, "output": slots.outputs}
    scope = Scope(f, plan, lambda kind, k: f.base(tables[kind][k]), outermost=True)
    emit_steps(scope, timed)
    head = f"define i32 @run(ptr %table) {attributes(host)} {{"
    run = "\n".join([head, "entry:", *f.lines(), "}"])
    if f.signals:
        f.help("dm_signals", signals.CHECK)
    declarations = _declarations(f)
    modules.declare(declarations)
    modules.add(run)
    modules.finish(f.data)
    return Program(
        calls=f.totals.calls,
        declarations=declarations,
        functions=[*f.helpers.values(), *f.texts, run],
        data=f.data,
        modules=modules.texts,
        chunked=f.totals.chunked,
        kernels=f.totals.kernels,
        work=f.totals.work,
        structured=structured,
        signals=f.signals,
        workspace=f.workspace,
        jobs=scope.sweep.jobs,
    )


def _declarations(f: Function) -> list[str]:
    """What the functions of the program may use besides each other."""
    found = [
        "declare void @dm_pool_run(ptr, ptr, i64, i64)",
        workspace.DECLARATION,
        "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)",
        *sorted(f.declarations | f.w.declarations),
    ]
    if f.stacks:
        found += [
            "declare i64 @llvm.umax.i64(i64, i64)",
            "declare ptr @realloc(ptr, i64)",
            "declare void @free(ptr)",
        ]
    return [*found, *signals.DECLARATIONS] if f.signals else found
