"""A graph in, an executable out; compiled code is kept on disk for the next process."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from . import artifact
from .artifact import Artifact
from .fingerprint import Catalogue, nodes
from .graph import Graph, Node, running
from .lazy import lazy
from .runtime import cache as store
from .runtime import entry_native, jit, pool, signals
from .runtime.arena import shared
from .runtime.entry import Entry, State, Target
from .runtime.layout import Layout, unseen
from .slots import INTERRUPTED, OUT_OF_MEMORY, Slots

if TYPE_CHECKING:  # what is in the cache needs none of the stages
    from .build import Build
    from .emit.main import Program
    from .plan import Plan

Array = np.ndarray[Any, Any]
RELEASE = 1 << 20  # work, in additions, from which the GIL is released
_Callback = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p)


class Executable:
    """One native function for a graph.

    Attributes:
        traced: the graph as it was given.
        optimization, tune: see `compile`.
        seconds: time spent in each stage of compilation.
        arena: bytes of scratch memory of one run.
    """

    def __init__(
        self,
        graph: Graph,
        name: str,
        host: jit.Host | None,
        catalogue: Catalogue | None,
        report: Callable[[Executable], None] | None,
        optimization: int,
        tune: bool,
    ) -> None:
        self.traced = graph
        self.optimization = optimization
        self.tune = tune
        self.name = name
        self.host = host or jit.host()
        self.seconds: dict[str, float] = {}
        self._catalogue = catalogue
        self._report = report
        self._native: _Native | None = None
        self._lock = threading.RLock()

    def native(self, slots: Slots | None = None) -> _Native:
        """The machine code, whose table has the layout `slots` (or any, by default)."""
        with self._lock:
            if self._native is None or (slots is not None and slots != self._native.asked):
                self._native = _Native(self, slots or Slots.of(self.traced), self._catalogue)
                if self._report is not None:
                    self._report(self)
            return self._native

    @property
    def graph(self) -> Graph:
        """The graph after all passes."""
        return self.native().build.graph

    @property
    def arena(self) -> int:
        return self.native().arena

    def prepare(self, order: Sequence[int]) -> None:
        """Make the code that `bind` will need for the parameters `order`, inputs and states."""
        self.native(Slots.of(self.traced, order))

    def bind(
        self,
        layout: Layout,
        inputs: Sequence[int],
        states: Sequence[tuple[int, Any]],
        constants: Sequence[tuple[int, Array]],
        single: bool = False,
        native: bool = True,
    ) -> Entry:
        """A callable from Python.

        Args:
            inputs: the parameters that are arguments, in the order of the call.
            states: (parameter, variable) of the parameters that live in variables.
            constants: (parameter, array) of the parameters that never change.
            single: see `Target`.
            native: see `Entry`.
        """
        graph = self.traced
        order = [*inputs, *(k for k, _ in states)]
        code = self.native(Slots.of(graph, order))
        held = [np.ascontiguousarray(a).reshape(a.shape) for _, a in constants]
        fixed = [0] * (len(graph.params) - len(order))
        for (k, _), array in zip(constants, held, strict=True):
            fixed[code.slots.params[k] - code.slots.arena - 1] = array.ctypes.data
        fixed += code.fixed()
        written = set(code.artifact.written)
        target = Target(
            address=code.address,
            inputs=tuple([graph.params[k].spec for k in inputs]),
            outputs=tuple([n.spec for n in graph.outputs]),
            single=single,
            states=tuple([State(v, graph.params[k].spec, k in written) for k, v in states]),
            fixed=tuple(fixed),
            arena_bytes=code.arena,
            release_gil=not (written or code.artifact.calls) and code.artifact.work >= RELEASE,
            calls_back=bool(code.artifact.calls) or code.artifact.signals,
            keep=(code, held),
        )
        return Entry(target, layout, code.fail, native)

    def run(self, arrays: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """Outputs and new values of the updated states, in fresh arrays.

        Args:
            arrays: one per parameter, of its shape and dtype; left as they are.
        """
        graph, code = self.traced, self.native()
        updated = [k for k, _ in graph.updates]
        values = [
            np.array(a, n.spec.dtype.numpy, order="C", copy=True if k in updated else None)
            for k, (a, n) in enumerate(zip(arrays, graph.params, strict=True))
        ]
        outputs = [np.empty(n.spec.shape, n.spec.dtype.numpy) for n in graph.outputs]
        code.run(values, outputs)
        return outputs, [values[k] for k in updated]

    def __repr__(self) -> str:
        return f"<Executable {self.name}: {len(self.traced.params)} parameters>"


class _Native:
    """Loaded machine code for one layout of the table, and all that it points to.

    Attributes:
        artifact: what was loaded, from the cache or as `build` has made it.
        asked: the layout, but for the constants.
        slots: the layout with them.
        build: the way from the graph to the code; gone through again, as far as it is asked for,
            where the code comes from the cache.
    """

    def __init__(self, owner: Executable, slots: Slots, catalogue: Catalogue | None) -> None:
        self._owner = owner
        self.asked = slots
        self.artifact = self._find(catalogue)
        self.constants = self.artifact.constants
        self.slots = slots.with_constants(len(self.constants))
        self.size = self.slots.callback + 1 + len(self.constants)
        self.arena = self.artifact.arena
        start = time.perf_counter()
        self._library = jit.load(self.artifact.objects, ["run"], self._imports())
        owner.seconds["load"] = time.perf_counter() - start
        self._code = unseen(self._library)
        self.address = self._library["run"]
        self._errors = threading.local()
        self._callback = _Callback(self._call)
        self._run = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)(self.address)

    def _find(self, catalogue: Catalogue | None) -> Artifact:
        """From the cache, or compiled and put there."""
        owner = self._owner
        start = time.perf_counter()
        key = None
        if catalogue is not None and store.settings.enabled:
            tuned = pool.num_threads() if owner.tune else 0
            how = (owner.optimization, tuned)
            key = artifact.key(owner.traced, self.asked, owner.host, catalogue, *how)
        kept = None if key is None else store.get(key, owner.name)
        owner.seconds["cache"] = time.perf_counter() - start
        if kept is not None:
            return Artifact.unpack(kept)
        begin()
        with _no_collections():
            self.build.begin(key is not None)
            entry_native.prepare()
            made = self.build.artifact()
        jit.rest()
        if key is None or None in made.calls:  # another process would not find it
            self.build.keep()
        else:
            store.put(key, made.pack(), owner.name)
        return made

    @lazy
    def build(self) -> Build:
        from .build import Build

        owner = self._owner
        how = (owner.optimization, owner.tune)
        return Build(owner.traced, self.asked, owner.host, owner.seconds, *how)

    @lazy
    def _callees(self) -> list[Node]:
        """The nodes that the code calls back for, by number."""
        places = [k for k in self.artifact.calls if k is not None]
        if len(places) < len(self.artifact.calls):
            return [call.node for call in self.build.calls]
        traced = nodes(self._owner.traced)
        return [traced[k] for k in places]

    @property
    def plan(self) -> Plan:
        return self.build.plan

    @property
    def program(self) -> Program:
        return self.build.program

    def _imports(self) -> dict[str, int]:
        """Addresses of what the code calls."""
        pooled = pool.symbols() if self.artifact.pooled else {}
        return {**pooled, **(signals.symbols() if self.artifact.signals else {})}

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
        table[self.slots.callback :] = self.fixed()
        with shared.borrow(self.arena) as table[self.slots.arena]:
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
        node = self._callees[number]
        specs = [*(n.spec for n in node.inputs), node.spec]
        try:
            *inputs, out = (
                _view(address, spec)
                for address, spec in zip(
                    (ctypes.c_void_p * len(specs)).from_address(pointers), specs, strict=True
                )
            )
            running.site = node.site
            # an effect may run the user's own code, which keeps the user's settings
            with nullcontext() if node.op.effect else np.errstate(all="ignore"):
                out[...] = node.op.kernel(*inputs, **dict(node.attrs))
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


def compile(
    graph: Graph,
    name: str = "graph",
    host: jit.Host | None = None,
    catalogue: Catalogue | None = None,
    report: Callable[[Executable], None] | None = None,
    optimization: int = 2,
    tune: bool = False,
) -> Executable:
    """Compile `graph` for this machine, or for a CPU of which it has all features.

    Machine code is made, or found in the cache on disk, at the first `bind` or `run`.

    Args:
        catalogue: the ops that mean the same in every process; whole graphs of these are kept in
            the cache. Without it only machine code is, by its text.
        report: called when the machine code is there, and `seconds` says what it took.
        optimization: 2 for all of it; 1 without fusion: every operation but constants has its own
            kernel, and its result is stored; 0 also without passes and without storing values over
            others. The levels tell which part is at fault where results are wrong.
        tune: measure how matrix products are best cut, or use what was measured before.
    """
    return Executable(graph, name, host, catalogue, report, optimization, tune)


@contextmanager
def _no_collections() -> Iterator[None]:
    """The garbage collector waits: a compilation makes many objects and little garbage, and to go
    through all that a process holds takes as long as to lower a small graph."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@cache
def begin() -> None:
    """Begin what every first call needs, while it is traced: the code of the entry from Python, or,
    on a machine on which nothing was ever compiled, what compiles."""
    if jit.start():
        entry_native.begin()


def explain(executable: Executable, costs: bool = False) -> str:
    """What the executable does, step by step: its kernels, what each fuses, and host callbacks.

    Args:
        costs: say too what each kernel moves and computes, what it was not fused with, and how long
            it should take on this machine, which is measured for that.
    """
    from .explain import explain
    from .machine import measure

    native = executable.native()
    machine = measure(pool.num_threads()) if costs else None
    jobs = native.program.jobs if costs else ()
    return explain(executable.name, executable.graph, native.plan, machine, jobs)
