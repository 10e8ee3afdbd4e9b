"""Times contestants in turns: A B C, A B C, ...

Each contestant lives in a process of its own, which has been told before its imports how many
threads and cores it may use. The processes take turns: a block of calls, then the library's threads
are let come to rest, before the next one starts. So no library's spinning threads take a core from
another's turn, and a disturbance from outside meets neighbours in time, whose ratio is taken.

Calls are made as a program makes them, one after the other: what a library does asynchronously is
waited for once, at the end of a sample. Garbage is collected as usual.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import multiprocessing
import os
import statistics
import sys
import time
import timeit
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from .contestants import Contestant
from .workloads import Step, Workload

SAMPLE = 0.002  # seconds of a sample: short ones mostly escape what else the machine does
STEPS_CHECKED = 5  # the results of the first calls, which must agree between contestants
AGREEMENT = 1e-2
PATIENCE = 600  # seconds after which a contestant that does not answer is killed


@dataclass
class Result:
    """What was measured of one contestant in one workload.

    Attributes:
        blocks: seconds per call in each block, in the order of the rounds.
        first: seconds of the first call, which traces and compiles.
        started: seconds from the start of the process to the end of its first call.
        work, moved: the workload's floating-point operations and bytes of a call.
        values: of the results of the first calls: the mean, and some elements of large ones.
        error: why there is nothing else.
    """

    workload: str
    case: str
    threads: int
    contestant: str
    kind: str
    work: float = 0.0
    moved: float = 0.0
    blocks: list[float] = field(default_factory=list)
    first: float = 0.0
    started: float = 0.0
    values: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def seconds(self) -> float:
        """Per call: the median over the blocks."""
        return statistics.median(self.blocks)

    def times_faster(self, other: Result) -> float:
        """How many times `other` takes the time of this: the median over the rounds."""
        return statistics.median(
            theirs / own for theirs, own in zip(other.blocks, self.blocks, strict=True)
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | ({"seconds": self.seconds} if self.blocks else {})


# --- in the process of a contestant ---------------------------------------------------------------


class _Running:
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


def resident() -> int:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _serve(connection: Connection, contestant: Contestant, threads: int) -> None:
    """Answer requests until the other end closes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries print when they are imported
    if hasattr(os, "sched_setaffinity"):  # the only setting that all libraries obey
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    steps: dict[str, _Running] = {}
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
) -> tuple[_Running, dict[str, Any]]:
    module = importlib.import_module(f"{__package__}.{contestant.module}")
    step: Step = module.build(workload, contestant.mode, threads)
    start = time.monotonic()
    result = step.call(*step.args)
    step.sync()
    end = time.monotonic()
    values = _values(step.shown(result))
    if not workload.constant:
        for _ in range(STEPS_CHECKED - 1):
            values += _values(step.shown(step.call(*step.args)))
    return _Running(step), {"first": end - start, "ended": end, "values": values}


def _values(result: Any) -> list[float]:
    """The mean of every array, and ten elements of those that have more."""
    if isinstance(result, (tuple, list)):
        return [value for part in result for value in _values(part)]
    x = np.asarray(result)
    if x.dtype.name == "bfloat16":
        x = x.astype(np.float32)
    values = [float(np.mean(x, dtype=np.float64))]
    if x.size > 10:
        values += x.ravel()[:: x.size // 10][:10].tolist()
    return values


@dataclass(frozen=True)
class Peak:
    """Bytes of resident memory that building a workload and some calls take at the peak.

    Attributes:
        first: above what the imports take: with all that the library loads, traces and compiles.
        again: the same once more in the same process, after all of it was let go: what the arrays
            take, and what tracing and compiling leave behind each time.
        predicted: what the library says of `again`, where it can tell.
        beside: what another process, which the library has started to compile, has at its peak.
    """

    first: int
    again: int
    predicted: int | None
    beside: int = 0


def _peak(contestant: Contestant, workload: Workload, threads: int, calls: int) -> Peak:
    module = importlib.import_module(f"{__package__}.{contestant.module}")
    importlib.import_module("numpy.random")  # what makes the data is no contestant's own
    first, _ = _peak_of(module, workload, contestant.mode, threads, calls)
    beside = sum(_high_water(process) for process in getattr(module, "processes", list)())
    again, predicted = _peak_of(module, workload, contestant.mode, threads, calls)
    return Peak(first, again, predicted, beside)


def _peak_of(
    module: Any, workload: Workload, mode: str, threads: int, calls: int
) -> tuple[int, int | None]:
    """Bytes above what is resident before, and what the library predicts."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system
    before = resident()
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


def _growth(running: _Running, calls: int) -> int:
    """Bytes by which resident memory grows in `calls` calls, after a tenth as many."""
    running.run(calls // 10)
    before = resident()
    running.run(calls)
    return resident() - before


# --- in the process that controls -----------------------------------------------------------------


class Worker:
    """A contestant's process. Requests raise RuntimeError with what went wrong there.

    Args:
        cache: the folder in which dualmode keeps compiled code; none is kept without it.
        codegen: dualmode's setting of that name.
    """

    def __init__(
        self, contestant: Contestant, threads: int, cache: str = "", codegen: str = "auto"
    ) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._started = time.monotonic()
        self._process = context.Process(
            target=_serve, args=(theirs, contestant, threads), daemon=True
        )
        with _environment(threads, cache, codegen):
            self._process.start()
        theirs.close()

    def build(self, workload: Workload) -> dict[str, Any]:
        """Import the library, prepare the workload, call it: `first`, `started`, `values`."""
        answer = self._ask("build", workload)
        answer["started"] = answer.pop("ended") - self._started
        return answer

    def block(self, case: str, seconds: float, quantile: float) -> float:
        """Seconds per call."""
        return self._ask("block", case, seconds, quantile)

    def growth(self, case: str, calls: int) -> int:
        """Bytes by which `calls` calls make the process grow."""
        return self._ask("growth", case, calls)

    def peak(self, workload: Workload, calls: int) -> Peak:
        """What building the workload and some calls take at the peak."""
        return self._ask("peak", workload, calls)

    def modules(self, package: str) -> int:
        """How many modules of a package are imported there."""
        return self._ask("modules", package)

    def _ask(self, *request: Any) -> Any:
        try:
            self._connection.send(request)
            if not self._connection.poll(PATIENCE):
                self._process.kill()
            status, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise RuntimeError(f"its process ended with {self._process.exitcode}") from None
        if status == "error":
            raise RuntimeError(answer)
        return answer

    def close(self) -> None:
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextlib.contextmanager
def _environment(threads: int, cache: str, codegen: str) -> Iterator[None]:
    """What libraries read when they are imported, for processes started inside the block."""
    names = ("OMP", "OPENBLAS", "MKL", "DUALMODE")
    wanted: dict[str, str | None] = {f"{name}_NUM_THREADS": str(threads) for name in names}
    wanted |= {"DUALMODE_CACHE": str(int(bool(cache))), "DUALMODE_CACHE_DIR": cache or None}
    wanted |= {"DUALMODE_CODEGEN": codegen}
    wanted |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    wanted["PYTHONDONTWRITEBYTECODE"] = None  # first calls import, from byte code as installed
    saved = {name: os.environ.get(name) for name in wanted}
    _set(wanted)
    try:
        yield
    finally:
        _set(saved)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def run(
    name: str,
    cases: Sequence[Workload],
    contestants: Sequence[Contestant],
    threads: int,
    seconds: float,
    rounds: int,
    quantile: float = 0.5,
) -> list[Result]:
    """Measure every contestant in every case, each for `seconds` in all, spread over `rounds`.

    Args:
        quantile: which of the samples of a block stands for it; less than 0.5 leaves out what
            other processes of a busy machine disturb.
    """
    workers: dict[Contestant, Worker] = {}
    results: list[Result] = []
    try:
        for case in cases:
            found = _start(name, case, contestants, workers, threads)
            _measure(found, case, workers, seconds * case.share, rounds, quantile)
            results += found.values()
    finally:
        for worker in workers.values():
            worker.close()
    return results


def _start(
    name: str,
    case: Workload,
    contestants: Sequence[Contestant],
    workers: dict[Contestant, Worker],
    threads: int,
) -> dict[Contestant, Result]:
    """The first calls of a case, each in a process of its own; the processes are kept."""
    results: dict[Contestant, Result] = {}
    for c in contestants:
        if not c.takes(case):
            continue
        progress(f"{name} {case.name}, {threads} thread(s): starting {c.label}")
        result = results[c] = Result(
            name, case.name, threads, c.label, c.kind, case.work, case.moved
        )
        if c not in workers:
            workers[c] = Worker(c, threads)
        with _failing_alone(result):
            for key, value in workers[c].build(case).items():
                setattr(result, key, value)
    _compare(list(results.values()))
    return results


def _measure(
    results: dict[Contestant, Result],
    case: Workload,
    workers: dict[Contestant, Worker],
    seconds: float,
    rounds: int,
    quantile: float,
) -> None:
    for turn in range(rounds):
        for c, result in results.items():
            if result.error:
                continue
            progress(f"{result.workload} {case.name}: round {turn + 1} of {rounds}, {c.label}")
            with _failing_alone(result):
                result.blocks.append(workers[c].block(case.name, seconds / rounds, quantile))
    progress("")


@contextlib.contextmanager
def _failing_alone(result: Result) -> Iterator[None]:
    """A contestant that cannot run is reported; the others go on."""
    try:
        yield
    except RuntimeError as error:
        result.error = str(error)
        result.blocks = []


def _compare(results: Sequence[Result]) -> None:
    """Mark those whose first results are not those of the first contestant: they compute
    something else, and their times say nothing."""
    computing = [r for r in results if r.values and r.kind != "limit"]
    known = computing[0].values if computing else []
    for r in computing:
        if not _agree(r.values, known):
            r.error = f"its results {r.values} are not {known}"


def _agree(values: Sequence[float], known: Sequence[float]) -> bool:
    return len(values) == len(known) and np.allclose(values, known, rtol=AGREEMENT, atol=1e-5)


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text[:100]:<100}\r", end="", file=sys.stderr, flush=True)
