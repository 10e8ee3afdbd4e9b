"""A graph in, an executable out: passes, lowering, plan, text, machine code."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any, Literal

import numpy as np

from . import expr, passes
from .emit.main import Program, emit_main
from .emit.steps import INTERRUPTED, OUT_OF_MEMORY, Slots
from .graph import COND, Graph, running
from .loops import Control, HostCall, Kernel, Step
from .lower import lower
from .plan import Plan, plan
from .runtime import entry_native, jit, pool, signals
from .runtime.entry import Entry
from .runtime.layout import Layout

Array = np.ndarray[Any, Any]
RELEASE = 1 << 20  # work, in additions, from which the GIL is released
_Callback = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p)


class Executable:
    """One native function for a graph.

    Attributes:
        graph: the graph after all passes.
        seconds: time spent in each stage of compilation.
        arena: bytes of scratch memory of one run.
    """

    def __init__(self, graph: Graph, name: str, host: jit.Host | None = None) -> None:
        self.name = name
        self.host = host or jit.host()
        self.seconds: dict[str, float] = {}
        self._stage("passes", lambda: setattr(self, "graph", passes.run(graph)))
        self.graph: Graph
        self._native: _Native | None = None
        self._lock = threading.RLock()

    def _stage(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        out = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return out

    def native(self, slots: Slots | None = None) -> _Native:
        """The machine code, whose table has the layout `slots` (or any, by default)."""
        with self._lock:
            if self._native is None or (slots is not None and slots != self._native.slots):
                self._native = _Native(self, slots or _slots(self.graph))
                _prepare().join()  # so that no thread of ours runs when the process forks later
            return self._native

    @property
    def arena(self) -> int:
        return self.native().arena

    def bind(
        self,
        layout: Layout,
        inputs: Sequence[int],
        states: Sequence[tuple[int, Any]],
        constants: Sequence[tuple[int, Array]],
        result: Literal["single", "tuple", "none"],
        native: bool = True,
    ) -> Entry:
        """A callable from Python.

        Args:
            inputs: the parameters that are arguments, in the order of the call.
            states: (parameter, variable) of the parameters that live in variables.
            constants: (parameter, array) of the parameters that never change.
        """
        graph = self.graph
        order = [*inputs, *(k for k, _ in states)]
        code = self.native(_slots(graph, order))
        held = [np.ascontiguousarray(a).reshape(a.shape) for _, a in constants]
        fixed = [0] * (len(graph.params) - len(order))
        for (k, _), array in zip(constants, held, strict=True):
            fixed[code.slots.params[k] - code.slots.arena - 1] = array.ctypes.data
        fixed += code.fixed()
        written = {k for k, node in graph.updates if node is not graph.params[k]}
        return Entry(
            run_address=code.address,
            inputs=[graph.params[k].spec for k in inputs],
            outputs=[n.spec for n in graph.outputs],
            layout=layout,
            states=[v for _, v in states],
            state_specs=[graph.params[k].spec for k, _ in states],
            state_written=[k in written for k, _ in states],
            fixed=fixed,
            arena_bytes=code.arena,
            release_gil=not written and not code.program.calls and code.program.work >= RELEASE,
            result="tuple" if result == "none" else result,
            on_error=code.fail,
            keep_alive=(code, held),
            native=native,
        )

    def run(self, arrays: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Outputs and new values of the updated states, in fresh arrays.

        Args:
            arrays: one per parameter, of its shape and dtype; left as they are.
        """
        graph, code = self.graph, self.native()
        updated = [k for k, _ in graph.updates]
        values = [
            np.array(a, n.spec.dtype.numpy, order="C", copy=True if k in updated else None)
            for k, (a, n) in enumerate(zip(arrays, graph.params, strict=True))
        ]
        outputs = [np.empty(n.spec.shape, n.spec.dtype.numpy) for n in graph.outputs]
        code.run(values, outputs)
        return outputs, [values[k] for k in updated]

    def __repr__(self) -> str:
        return f"<Executable {self.name}: {len(self.graph.params)} parameters>"


def _slots(graph: Graph, order: Sequence[int] | None = None) -> Slots:
    """The table: parameters in `order`, outputs, arena, other parameters, constants, callback."""
    count = len(graph.params)
    first = list(range(count)) if order is None else list(order)
    params = [0] * count
    for slot, k in enumerate(first):
        params[k] = slot
    arena = len(first) + len(graph.outputs)
    for slot, k in enumerate(sorted(set(range(count)) - set(first)), arena + 1):
        params[k] = slot
    after = arena + 1 + count - len(first)
    outputs = list(range(len(first), arena))
    return Slots(params, outputs, arena, [], after)


class _Native:
    """Loaded machine code for one layout of the table, and all that it points to."""

    def __init__(self, owner: Executable, slots: Slots) -> None:
        self.slots = slots
        self.graph = owner.graph
        with expr.fresh():
            steps, lowering = owner._stage("lower", lambda: lower(owner.graph))
            self.plan: Plan = owner._stage("plan", lambda: plan(owner.graph, steps, lowering))
            self.constants = [np.ascontiguousarray(c.array) for c in self.plan.constants]
            first = slots.callback + 1
            table = Slots(
                slots.params,
                slots.outputs,
                slots.arena,
                list(range(first, first + len(self.constants))),
                slots.callback,
            )
            self.program: Program = owner._stage(
                "emit", lambda: emit_main(self.plan, table, owner.host)
            )
        self.size = first + len(self.constants)
        self.arena = self.plan.arena
        machine = owner._stage(
            "codegen",
            lambda: jit.compile_texts(
                self.program.modules(), owner.host, "run" if self.program.structured else ""
            ),
        )
        self._library = owner._stage("load", lambda: jit.load(machine, ["run"], self._imports()))
        self.address = self._library["run"]
        self._errors = threading.local()
        self._callback = _Callback(self._call)
        self._run = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(self.address)

    def _imports(self) -> dict[str, int]:
        """Addresses of what the code calls."""
        pooled = pool.symbols() if self.program.chunked else {}
        return {**pooled, **(signals.symbols() if self.program.signals else {})}

    def fixed(self) -> list[int]:
        """The table from the callback on."""
        callback = ctypes.cast(self._callback, ctypes.c_void_p).value or 0
        return [callback, *(a.ctypes.data for a in self.constants)]

    def run(self, params: Sequence[Array], outputs: Sequence[Array]) -> None:
        table = np.zeros(self.size, np.uintp)
        for slot, a in zip(self.slots.params, params, strict=True):
            table[slot] = a.ctypes.data
        for slot, a in zip(self.slots.outputs, outputs, strict=True):
            table[slot] = a.ctypes.data
        arena = np.empty(self.arena + 64, np.uint8)
        table[self.slots.arena] = -(-arena.ctypes.data // 64) * 64
        table[self.slots.callback :] = self.fixed()
        code = self._run(table.ctypes.data)
        if code:
            self.fail(code)

    def fail(self, code: int) -> None:
        """Raise what the host call number `code - 1` or a signal's handler raised, or that there is
        no memory."""
        if code == INTERRUPTED:
            signals.reraise()
        if code == OUT_OF_MEMORY:
            raise MemoryError("no memory left for the values that a loop saves in each iteration")
        error = self._errors.raised
        self._errors.raised = None
        raise error

    def _call(self, number: int, pointers: int) -> int:
        """The C callback: node `number` computed by its NumPy kernel."""
        call: HostCall = self.program.calls[number]
        try:
            *inputs, out = (
                _view(address, b.spec)
                for address, b in zip(
                    (ctypes.c_void_p * (len(call.inputs) + 1)).from_address(pointers),
                    (*call.inputs, call.output),
                    strict=True,
                )
            )
            running.site = call.node.site
            # an effect may run the user's own code, which keeps the user's settings
            with nullcontext() if call.node.op.effect else np.errstate(all="ignore"):
                out[...] = call.node.op.kernel(*inputs, **dict(call.node.attrs))
        except BaseException as error:
            self._errors.raised = error
            return 1
        finally:
            running.site = None
        return 0


def _view(address: int | None, spec: Any) -> Array:
    """The memory at `address` as an array."""
    if spec.nbytes == 0:
        return np.empty(spec.shape, spec.dtype.numpy)
    memory = (ctypes.c_char * spec.nbytes).from_address(address or 0)
    return np.frombuffer(memory, spec.dtype.numpy).reshape(spec.shape)


def compile(graph: Graph, name: str = "graph", host: jit.Host | None = None) -> Executable:
    """Compile `graph` for this machine, or for a CPU of which it has all features.

    Machine code is made at the first `bind` or `run`.
    """
    _prepare()
    return Executable(graph, name, host)


@cache
def _prepare() -> threading.Thread:
    """The thread that makes the code that all executables share, while the others go on."""

    def make() -> None:
        entry_native.prepare()
        pool.symbols()

    thread = threading.Thread(target=make, name="dualmode-prepare", daemon=True)
    thread.start()
    return thread


def explain(executable: Executable) -> str:
    """What the executable does, step by step: its kernels, what each fuses, and host callbacks."""
    lines = [f"{executable.name}: {len(executable.graph.nodes())} nodes"]
    code = executable.native()
    for k, step in enumerate(code.plan.steps):
        lines += _explain(step, f"  {k}: ")
    lines.append(f"  arena: {code.arena} bytes")
    return "\n".join(lines)


def _explain(step: Step, head: str) -> list[str]:
    if isinstance(step, Kernel):
        fused = ", ".join(n.op.name for n in step.nodes)
        kind = "contraction" if step.contraction else "loops"
        sizes = " x ".join(str(a.extent) for a in step.axes) or "scalar"
        return [f"{head}{kind} over {sizes}: {fused}"]
    if isinstance(step, HostCall):
        when = "" if step.guard is None else ", where it has something to do"
        return [f"{head}host callback: {step.node.op.name}{when}"]
    if not isinstance(step, Control):
        return [f"{head}copy {step.source.spec}"]
    lines = [f"{head}{step.node.op.name}"]
    indent = " " * (len(head) - len(head.lstrip()) + 2)
    for label, inside in zip(_labels(step), step.plans, strict=True):
        lines.append(f"{indent}{label}:")
        for k, inner in enumerate(inside.steps):
            lines += _explain(inner, f"{indent}  {k}: ")
    return lines


def _labels(step: Control) -> list[str]:
    """What each of the graphs that `step` owns is to it."""
    if step.node.op is COND:
        return [f"branch {k}" for k in range(len(step.plans))]
    return ["body", "condition"][: len(step.plans)]
