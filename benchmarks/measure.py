"""Times contestants in turns: A B C, A B C, ...

Each contestant lives in a process of its own (`process`), which has been told before its imports
how many threads and cores it may use. The processes take turns: a block of calls, then the
library's threads are let come to rest, before the next one starts. So no library's spinning threads
take a core from another's turn, and a disturbance from outside meets neighbours in time, whose
ratio is taken.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .contestants import Contestant
from .process import Peak, serve
from .workloads import Workload

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
            target=serve, args=(theirs, contestant, threads), daemon=True
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

    def loaded(self) -> int:
        """Bytes that whatever the library compiles with takes before it compiles."""
        return self._ask("loaded")

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
        if not agree(r.values, known):
            r.error = f"its results {r.values} are not {known}"


def agree(values: Sequence[float], known: Sequence[float]) -> bool:
    """Whether `values_of` two results are the same but for rounding."""
    return len(values) == len(known) and np.allclose(values, known, rtol=AGREEMENT, atol=1e-5)


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text[:100]:<100}\r", end="", file=sys.stderr, flush=True)
