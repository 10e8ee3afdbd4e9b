"""Kernels that do not depend on each other, run as one job of the thread pool.

Each job ends with all threads waiting for the last of them, and a kernel too small to be cut keeps
one thread busy and the others idle. So neighbours that neither read nor write what the others write
are handed out together: the chunks of all, with small kernels put together to make one. That is
how, say, the new values of all parameters of a model are computed in one sweep.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from typing import TYPE_CHECKING

from ..cost import CHUNK, PARALLEL
from ..records import dataclass
from .jobs import Job, Part, Place

if TYPE_CHECKING:
    from .function import Function

MOST = 256  # kernels in a job: it is looked through for each chunk
Range = tuple[str, int, int]  # a space of addresses, and bytes of it: start and stop


@dataclass(frozen=True, slots=True)
class Call:
    """A kernel about to be called.

    Attributes:
        name, places: its function and the addresses that it gets.
        work: in additions.
        step: of which step it is a part; parts of one step are independent.
    """

    name: str
    places: tuple[Place, ...]
    chunks: int
    work: float
    step: int
    reads: tuple[Range, ...]
    writes: tuple[Range, ...]


@dataclass(slots=True)
class Sweep:
    """Calls that wait, all independent of each other.

    Attributes:
        jobs: the steps of each job of several, by number.
    """

    function: Function
    waiting: list[Call] = field(default_factory=list)
    jobs: list[list[int]] = field(default_factory=list)

    def add(self, call: Call) -> None:
        """Call a kernel, now or later."""
        if len(self.waiting) == MOST or any(_depend(c, call) for c in self.waiting):
            self.flush()
        self.waiting.append(call)

    def flush(self) -> None:
        """Run what waits."""
        calls, self.waiting = self.waiting, []
        entries, chunks = _chunks(calls)
        work = sum(c.work for c in calls)
        if len(calls) == 1 or chunks < 2 or work < PARALLEL:
            for c in calls:
                self._job([(c, 0, c.chunks)], c.chunks, c.work)
        else:
            steps = list(dict.fromkeys(c.step for c in calls))
            if len(steps) > 1:
                self.jobs.append(steps)
            self._job(entries, chunks, work)

    def _job(self, entries: list[tuple[Call, int, int]], chunks: int, work: float) -> None:
        parts = tuple(Part(c.name, c.places, first, stop) for c, first, stop in entries)
        self.function.later(Job(parts, chunks, int(work)))


def _chunks(calls: Iterable[Call]) -> tuple[list[tuple[Call, int, int]], int]:
    """The chunks of a job that each of `calls` has, first and stop, and how many there are.

    Kernels that are not cut share one, until that is worth it.
    """
    out: list[tuple[Call, int, int]] = []
    next_chunk, gathered = 0, 0.0
    for call in calls:
        if call.chunks > 1 and gathered:
            next_chunk, gathered = next_chunk + 1, 0.0
        out.append((call, next_chunk, next_chunk + call.chunks))
        if call.chunks > 1:
            next_chunk += call.chunks
            continue
        gathered += max(call.work, 1.0)
        if gathered >= CHUNK:
            next_chunk, gathered = next_chunk + 1, 0.0
    return out, next_chunk + (gathered > 0)


def _depend(a: Call, b: Call) -> bool:
    """True if `b` has to wait for `a`."""
    if a.step == b.step:
        return False
    return _meet(a.writes, (*b.reads, *b.writes)) or _meet(a.reads, b.writes)


def _meet(some: Iterable[Range], others: Iterable[Range]) -> bool:
    return any(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a in some for b in others)
