"""The native function of a whole graph: `i32 run(ptr %table)` calls its kernels in order.

Graphs that nodes own are blocks of the same function.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..loops import Control, HostCall
from ..plan import Plan
from ..runtime import signals
from ..runtime.jit import Host
from ..slots import Slots
from .control import emit_steps
from .function import Function
from .kernel import attributes
from .steps import Scope

SHARE = 500  # lines of text that are worth a module of their own
MODULES = 4  # the most: more than cores, so that none waits long for the last one


@dataclass(slots=True)
class Program:
    """The text of a graph's code, of which `@run` is the entry.

    Attributes:
        declarations: of intrinsics and the pool.
        functions: definitions, `@run` last.
        data: constants that `@run` reads.
        calls: host calls by number, as the callback gets it.
        chunked: kernels that may run in parallel.
        work: estimated cost of one run, in additions.
        structured: `@run` has branches or loops.
        signals: `@run` looks for signals.
        jobs: the steps that are handed to the pool together, by number.
    """

    calls: list[HostCall]
    declarations: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    chunked: int = 0
    kernels: int = 0
    work: float = 0
    structured: bool = False
    signals: bool = False
    jobs: list[list[int]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it as one module."""
        return "\n".join([*self.declarations, *self.data, *self.functions])

    def modules(self) -> list[str]:
        """The same as modules of about equal length, which can be compiled at the same time."""
        functions = [f for text in self.functions for f in _split(text)]
        count = min(MODULES, sum(f.count("\n") for f in functions) // SHARE)
        if count < 2:
            return [self.text]
        parts: list[list[str]] = [[] for _ in range(count)]
        lengths = [0] * count
        for function in sorted(functions, key=len, reverse=True):
            k = lengths.index(min(lengths))
            parts[k].append(function.replace("define internal", "define", 1))
            lengths[k] += len(function)
        run = functions[-1]
        declared = [[_declare(f) for f in part] for part in parts]
        return [
            "\n".join(
                [
                    *self.declarations,
                    *(self.data if run in part else ()),
                    *(d for other, there in enumerate(declared) if other != k for d in there),
                    *part,
                ]
            )
            for k, part in enumerate(parts)
        ]


def _split(text: str) -> list[str]:
    """The functions that `text` defines, one by one."""
    return [f"{f}\n}}" for f in text.strip().removesuffix("\n}").split("\n}\n")]


def _declare(function: str) -> str:
    """The declaration of a function, from its definition."""
    head = function[: function.index(")") + 1]
    return head.replace("define", "declare", 1)


def emit_main(plan: Plan, slots: Slots, host: Host, timed: bool = False) -> Program:
    """The program of `plan`. Where it is `timed`, it takes the time before and after each step."""
    structured = any(isinstance(s, Control) for s in plan.steps)
    f = Function(slots, host, structured)
    tables = {"param": slots.params, "output": slots.outputs}
    scope = Scope(f, plan, lambda kind, k: f.base(tables[kind][k]), outermost=True)
    emit_steps(scope, timed)
    head = f"define i32 @run(ptr %table) {attributes(host)} {{"
    run = "\n".join([head, "entry:", *f.lines(), "}"])
    declarations = [
        "declare void @dm_pool_run(ptr, ptr, i64, i64)",
        "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)",
        *sorted(f.declarations | f.w.declarations),
    ]
    if f.stacks:
        declarations += [
            "declare i64 @llvm.umax.i64(i64, i64)",
            "declare ptr @realloc(ptr, i64)",
            "declare void @free(ptr)",
        ]
    t = f.totals
    functions = [*f.helpers.values(), *f.texts, run]
    if f.signals:
        declarations += signals.DECLARATIONS
        functions.insert(0, signals.CHECK)
    return Program(
        calls=t.calls,
        declarations=declarations,
        functions=functions,
        data=f.data,
        chunked=t.chunked,
        kernels=t.kernels,
        work=t.work,
        structured=structured,
        signals=f.signals,
        jobs=scope.sweep.jobs,
    )
