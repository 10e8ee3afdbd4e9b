"""The process of a contestant: a library in one of its modes, asked through a pipe.

Calls are made as a program makes them, one after the other: what a library does asynchronously is
waited for once, at the end of a sample. Garbage is collected as usual.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import sys
import time
import timeit
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from .contestants import Contestant
from .tree import Tree
from .workloads import Step, Workload

SAMPLE = 0.002  # seconds of a sample: short ones mostly escape what else the machine does
STEPS_CHECKED = 5  # the results of the first calls, which must agree between contestants


@dataclass(frozen=True)
class Peak:
    """Bytes of memory that building a workload and some calls take at the peak; resident ones of
    this process, where nothing else is said.

    Attributes:
        first: above what the imports take: with all that the library loads, traces and compiles.
        again: the same once more in the same process, after all of it was let go: what the arrays
            take, and what tracing and compiling leave behind each time.
        predicted: what the library says of `again`, where it can tell.
        beside: what another process, which the library has started to compile, has at its peak.
        together: what all processes have at the same moment, above what this one has before.
    """

    first: int
    again: int
    predicted: int | None
    beside: int
    together: int


class Running:
    """A step that is called in blocks."""

    def __init__(self, step: Step) -> None:
        names = {f"x{k}": x for k, x in enumerate(step.args)}
        # collections of garbage are part of what a mode costs
        self._timer = timeit.Timer(
            f"call({', '.join(names)})",
            "gc.enable()",
            globals={"call": step.call, "gc": gc, **names},
        )
        self._sync = step.sync
        self._restore = step.snapshot()
        self._repeats = step.repeats
        self._calls = 1

    def sample(self) -> float:
        """Seconds per call of some calls in a row.

        Each sample trains on from the same state. Otherwise quick libraries would come much further
        than slow ones, to where gradients vanish, and with denormal numbers each step is slower.
        """
        self._restore()
        self.run(1)  # the caches hold what they hold in a program that calls it again and again
        start = time.perf_counter()
        self._timer.timeit(self._calls)
        self._sync()
        return (time.perf_counter() - start) / (self._calls * self._repeats)

    def block(self, seconds: float, quantile: float) -> float:
        """Seconds per call: that quantile of the samples that fit in `seconds`."""
        end = time.perf_counter() + seconds
        for _ in range(2):  # once more, now that it is warm
            self._calls = max(1, int(SAMPLE / (self.sample() * self._repeats)))
        samples = [self.sample()]
        while time.perf_counter() < end:
            samples.append(self.sample())
        return float(np.quantile(samples, quantile))

    def run(self, calls: int) -> None:
        """Calls that are not timed."""
        self._timer.timeit(calls)
        self._sync()


def _rest() -> None:
    """Wait until the threads of this process sleep: pools spin for a while after their last job."""
    for _ in range(100):
        used = time.process_time()
        time.sleep(0.01)
        if time.process_time() - used < 5e-4:
            return


def _resident() -> int:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def serve(connection: Connection, contestant: Contestant, threads: int) -> None:
    """Answer requests until the other end closes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries print when they are imported
    if hasattr(os, "sched_setaffinity"):  # the only setting that all libraries obey
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    steps: dict[str, Running] = {}
    with contextlib.suppress(EOFError):
        while True:
            request, *args = connection.recv()
            try:
                match request:
                    case "build":
                        workload: Workload = args[0]
                        steps[workload.name], answer = _build(contestant, workload, threads)
                    case "block":
                        answer = steps[args[0]].block(*args[1:])
                    case "growth":
                        answer = _growth(steps[args[0]], args[1])
                    case "peak":
                        answer = _peak(contestant, args[0], threads, args[1])
                    case "loaded":
                        answer = _loaded(contestant)
                    case "modules":
                        answer = sum(name.split(".")[0] == args[0] for name in sys.modules)
                    case _:
                        raise ValueError(request)
                _rest()
            except Exception as error:
                connection.send(("error", repr(error)[:500]))
            else:
                connection.send(("ok", answer))


def _build(
    contestant: Contestant, workload: Workload, threads: int
) -> tuple[Running, dict[str, Any]]:
    module = importlib.import_module(f"{__package__}.{contestant.module}")
    step: Step = module.build(workload, contestant.mode, threads)
    start = time.monotonic()
    result = step.call(*step.args)
    step.sync()
    end = time.monotonic()
    values = values_of(step.shown(result))
    if not workload.constant:
        for _ in range(STEPS_CHECKED - 1):
            values += values_of(step.shown(step.call(*step.args)))
    return Running(step), {"first": end - start, "ended": end, "values": values}


def values_of(result: Any) -> list[float]:
    """The mean of every array, and ten elements of those that have more."""
    if isinstance(result, (tuple, list)):
        return [value for part in result for value in values_of(part)]
    x = np.asarray(result)
    if x.dtype.name == "bfloat16":
        x = x.astype(np.float32)
    values = [float(np.mean(x, dtype=np.float64))]
    if x.size > 10:
        values += x.ravel()[:: x.size // 10][:10].tolist()
    return values


def _peak(contestant: Contestant, workload: Workload, threads: int, calls: int) -> Peak:
    module = _imported(contestant)
    with Tree() as tree:
        before = tree.peak()
        first, _ = _peak_of(module, workload, contestant.mode, threads, calls)
        together = tree.peak() - before
    beside = sum(_high_water(process) for process in getattr(module, "processes", list)())
    again, predicted = _peak_of(module, workload, contestant.mode, threads, calls)
    return Peak(first, again, predicted, beside, together)


def _loaded(contestant: Contestant) -> int:
    """Bytes that all processes have when whatever the library compiles with is loaded, has compiled
    nothing, and has come to rest, above what this one has before."""
    module = _imported(contestant)
    if not hasattr(module, "load"):
        return 0
    with Tree() as tree:
        before = tree.peak()
        module.load()
        time.sleep(0.2)
        tree.peak()  # while it was loaded
        return tree.peak() - before


def _imported(contestant: Contestant) -> Any:
    module = importlib.import_module(f"{__package__}.{contestant.module}")
    importlib.import_module("numpy.random")  # what makes the data is no contestant's own
    _settle()
    return module


def _settle() -> None:
    """What is free goes back to the system."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _peak_of(
    module: Any, workload: Workload, mode: str, threads: int, calls: int
) -> tuple[int, int | None]:
    """Bytes above what is resident before, and what the library predicts."""
    _settle()
    before = _resident()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts at what is resident now
    step: Step = module.build(workload, mode, threads)
    for _ in range(calls):
        step.call(*step.args)
    step.sync()
    peak = _high_water(os.getpid())
    return peak - before, step.predicted() if step.predicted else None


def _high_water(process: int) -> int:
    """Bytes of resident memory that a process has had at its peak; 0 where it has ended."""
    try:
        with open(f"/proc/{process}/status") as file:
            lines = [line.split()[1] for line in file if line.startswith("VmHWM")]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(lines[0]) * 1024 if lines else 0


def _growth(running: Running, calls: int) -> int:
    """Bytes by which resident memory grows in `calls` calls, after a tenth as many."""
    running.run(calls // 10)
    before = _resident()
    running.run(calls)
    return _resident() - before
