"""A graph through all stages of compilation: passes, lowering, plan, text, machine code."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from . import expr, passes
from .artifact import Artifact
from .emit.main import Program, emit_main
from .fingerprint import numbers
from .graph import Graph
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

    def stage(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        out = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return out

    @cached_property
    def graph(self) -> Graph:
        """The graph after all passes."""
        return self.stage(
            "passes", lambda: passes.run(self._traced, optimization=self.optimization)
        )

    @cached_property
    def _planned(self) -> tuple[Plan, Program]:
        graph = self.graph
        with expr.fresh():
            steps, lowering = self.stage("lower", lambda: lower(graph, self.optimization))
            planned: Plan = self.stage("plan", lambda: plan(graph, steps, lowering))
            if self.tune:
                from .tuner import tune

                self.stage("tune", lambda: tune(planned.steps, self._host))
            table = self._slots.with_constants(len(planned.constants))
            program = self.stage("emit", lambda: emit_main(planned, table, self._host))
        return planned, program

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

    def artifact(self) -> Artifact:
        program, graph = self.program, self.graph
        return Artifact(
            objects=self.stage(
                "codegen",
                lambda: jit.compile_texts(
                    program.modules(), self._host, "run" if program.structured else ""
                ),
            ),
            constants=[np.ascontiguousarray(c.array) for c in self.plan.constants],
            arena=self.plan.arena,
            written=[k for k, node in graph.updates if node is not graph.params[k]],
            chunked=bool(program.chunked),
            signals=program.signals,
            calls=numbers(self._traced, [c.node for c in program.calls]),
            work=program.work,
        )
