"""A graph through all stages of compilation: passes, lowering, plan, text, machine code."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import expr, passes
from .artifact import Artifact
from .emit.main import Program, emit_main
from .fingerprint import numbers
from .graph import Graph
from .lazy import lazy
from .loops import HostCall
from .lower import lower
from .plan import Plan, plan
from .runtime import jit
from .slots import Slots


class Build:
    """What compiling `traced` comes by on its way, each part made when it is first asked for.

    Attributes:
        seconds: time spent in each stage.
        optimization, tune: see `driver.compile`.
    """

    def __init__(
        self,
        traced: Graph,
        slots: Slots,
        host: jit.Host,
        seconds: dict[str, float],
        optimization: int,
        tune: bool = False,
    ) -> None:
        self._traced, self._slots, self._host = traced, slots, host
        self.seconds = seconds
        self.optimization = optimization
        self.tune = tune
        self._code: list[jit.Making] | None = None
        self._whole = False

    def stage(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        out = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return out

    @lazy
    def graph(self) -> Graph:
        """The graph after all passes."""
        return self.stage(
            "passes", lambda: passes.run(self._traced, optimization=self.optimization)
        )

    @lazy
    def _planned(self) -> tuple[Plan, Program]:
        graph = self.graph
        with expr.fresh():
            steps, lowering = self.stage("lower", lambda: lower(graph, self.optimization))
            planned: Plan = self.stage("plan", lambda: plan(graph, steps, lowering))
            if self.tune:
                from .tuner import tune

                self.stage("tune", lambda: tune(planned.steps, self._host))
            table = self._slots.with_constants(len(planned.constants))
            program: Program = self.stage(
                "emit", lambda: emit_main(planned, table, self._host, take=self._begin)
            )
        return planned, program

    def _begin(self, text: str, promote: str) -> None:
        """Begin to make machine code of a module, if that is wanted."""
        if self._code is not None:
            self._code.append(jit.begin(text, self._host, promote, look=not self._whole))

    @property
    def plan(self) -> Plan:
        return self._planned[0]

    @property
    def program(self) -> Program:
        return self._planned[1]

    @property
    def calls(self) -> Sequence[HostCall]:
        """Calls back to NumPy kernels, by the number that the callback gets."""
        return self.program.calls

    def begin(self, whole: bool) -> None:
        """Write the program; machine code is made of each part as soon as that is written.

        Args:
            whole: the program is kept as a whole, so its modules are not looked for in the cache.
        """
        self._code, self._whole = [], whole
        _ = self.program

    def artifact(self) -> Artifact:
        """What has been begun."""
        program, graph, code = self.program, self.graph, self._code
        assert code, "the program was written before it was begun"
        return Artifact(
            objects=self.stage("codegen", lambda: [making.result() for making in code]),
            constants=[np.ascontiguousarray(c.array) for c in self.plan.constants],
            arena=self.plan.arena,
            written=[k for k, node in graph.updates if node is not graph.params[k]],
            pooled=program.chunked > 0 or program.workspace,
            signals=program.signals,
            calls=numbers(self._traced, [c.node for c in program.calls]),
            work=program.work,
        )

    def keep(self) -> None:
        """Put the machine code of the modules into the cache: for programs that are not kept as a
        whole."""
        for making in self._code or ():
            making.keep()
