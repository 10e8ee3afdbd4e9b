"""Calls of kernels, in jobs for the thread pool: as instructions, or many in a row as data.

Each call as instructions of its own takes LLVM longer to compile than the kernels do, of which
equal ones are compiled once. So `run` goes through a table where there are many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..records import dataclass
from .values import Writer
from .writer import LoopWriter

if TYPE_CHECKING:
    from .function import Function

# Calls for which a table is worth it, and work of each, in additions, of which fewer will do:
# instructions are some nanoseconds faster at each.
LEAST, FEW, MUCH = 24, 6, 1 << 15
MOST = 1024  # calls in a table: the addresses that they take are on the stack at the same time

# What `dm_sweep` gets is a list of these: kernel, what it gets, the first chunk that is its own and
# the first that is not. They come in order of their first chunks; the last one has no chunk.
ENTRY = "{ ptr, ptr, i64, i64 }"
_SWEEP = f"""
define internal void @dm_sweep(ptr %table, i64 %chunk) nounwind {{
entry:
  br label %look
look:
  %at = phi ptr [ %table, %entry ], [ %following, %next ]
  %first.p = getelementptr {ENTRY}, ptr %at, i64 0, i32 2
  %first = load i64, ptr %first.p
  %past = icmp ugt i64 %first, %chunk
  br i1 %past, label %done, label %compare
compare:
  %stop.p = getelementptr {ENTRY}, ptr %at, i64 0, i32 3
  %stop = load i64, ptr %stop.p
  %inside = icmp ult i64 %chunk, %stop
  br i1 %inside, label %run, label %next
run:
  %function = load ptr, ptr %at
  %bufs.p = getelementptr {ENTRY}, ptr %at, i64 0, i32 1
  %bufs = load ptr, ptr %bufs.p
  %own = sub i64 %chunk, %first
  call void %function(ptr %bufs, i64 %own)
  br label %next
next:
  %following = getelementptr {ENTRY}, ptr %at, i64 1
  br label %look
done:
  ret void
}}
"""

Place = tuple[int, int] | str  # a slot of the table of `run`, and a byte offset; or an address


@dataclass(frozen=True, slots=True)
class Part:
    """A kernel in a job.

    Attributes:
        name: its function.
        places: the addresses that it gets.
        first, stop: the chunks of the job that are its own.
    """

    name: str
    places: tuple[Place, ...]
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class Job:
    """One kernel, or several that do not depend on each other.

    Attributes:
        chunks: how many there are; more than 1 may run in parallel.
        work: in additions.
    """

    parts: tuple[Part, ...]
    chunks: int
    work: int

    @property
    def fixed(self) -> bool:
        """Whether it takes nothing but addresses that the table of `run` gives."""
        return all(isinstance(place, tuple) for part in self.parts for place in part.places)


def write(f: Function, jobs: Sequence[Job]) -> None:
    """Run `jobs`, one after the other."""
    if any(len(job.parts) > 1 for job in jobs):
        f.help("dm_sweep", _SWEEP)
    count = sum(len(job.parts) for job in jobs)
    least = FEW if sum(job.work for job in jobs) >= MUCH * count else LEAST
    if count >= least and all(job.fixed for job in jobs):
        for some in _tables(jobs):
            _as_data(f, some)
    else:
        for job in jobs:
            _as_instructions(f, job)


def _as_instructions(f: Function, job: Job) -> None:
    arrays = [
        f.array([p if isinstance(p, str) else f.at(*p) for p in part.places]) for part in job.parts
    ]
    if len(job.parts) == 1:
        name, argument = job.parts[0].name, arrays[0]
    else:
        name, argument = "dm_sweep", _entries(f, job, arrays)
    if job.chunks > 1:
        call = f"@dm_pool_run(ptr @{name}, ptr {argument}, i64 {job.chunks}, i64 {job.work})"
    else:
        call = f"@{name}(ptr {argument}, i64 0)"
    f.body.append(f"  call void {call}")


def _entries(f: Function, job: Job, arrays: Sequence[str]) -> str:
    name = f.name("%sweep")
    f.head.append(f"  {name} = alloca [{len(arrays) + 1} x {ENTRY}]")
    rows = [(f"@{p.name}", a, p.first, p.stop) for p, a in zip(job.parts, arrays, strict=True)]
    for k, row in enumerate([*rows, ("null", "null", -1, -1)]):
        entry = f.w.emit(f"getelementptr {ENTRY}, ptr {name}, i64 {k}")
        _store(f.w, entry, *row)
    return name


def _store(
    w: Writer, entry: str, kernel: str, array: str, first: int | str, stop: int | str
) -> None:
    fields = (("ptr", kernel), ("ptr", array), ("i64", first), ("i64", stop))
    for k, (kind, value) in enumerate(fields):
        place = w.emit(f"getelementptr {ENTRY}, ptr {entry}, i64 0, i32 {k}")
        w.line(f"  store {kind} {value}, ptr {place}")


# --- as data --------------------------------------------------------------------------------------

# What `dm_jobs` takes: the table of `run`; arrays of int64 with a slot and an offset for each
# address, of what is known of each kernel and each job, and of the kernels themselves; how many of
# each there are; and the functions that it calls, or null where no job needs them.
_ARGUMENTS = (
    *("ptr %table", "ptr %places", "ptr %codes", "ptr %parts", "ptr %jobs"),
    *("i64 %addresses", "i64 %kernels", "i64 %count", "i64 %entries"),
    *("ptr %sweep", "ptr %pool"),
)


def _interpreter() -> str:
    """The function that runs the jobs of a table.

    It goes over all addresses; over all kernels, whose entries for `dm_sweep` these are put in; and
    over the jobs. A kernel that is a job of its own finds in its entry what it gets.
    """
    w = LoopWriter()

    def row(table: str, k: str, size: int) -> list[str]:
        first = w.at(table, f"[{size} x i64]", k)
        return [w.emit(f"load i64, ptr {w.at(first, 'i64', n)}") for n in range(size)]

    buffers = w.emit("alloca ptr, i64 %addresses")
    entries = w.emit(f"alloca {ENTRY}, i64 %entries")
    with w.loop(0, "%addresses") as k:
        slot, offset = row("%places", k, 2)
        base = w.emit(f"load ptr, ptr {w.at('%table', 'ptr', slot)}")
        w.do(f"store ptr {w.at(base, 'i8', offset)}, ptr {w.at(buffers, 'ptr', k)}")
    with w.loop(0, "%kernels") as k:
        at, own, first, stop = row("%parts", k, 4)
        code = w.emit(f"load ptr, ptr {w.at('%codes', 'ptr', k)}")
        entry = w.at(entries, ENTRY, at)
        _store(w, entry, code, w.at(buffers, "ptr", own), first, stop)
        end = w.emit(f"getelementptr {ENTRY}, ptr {entry}, i64 1, i32 2")
        w.do(f"store i64 -1, ptr {end}")
    with w.loop(0, "%count") as k:
        at, chunks, work, several = row("%jobs", k, 4)
        entry = w.at(entries, ENTRY, at)
        kernel = w.emit(f"load ptr, ptr {entry}")
        array = w.emit(f"getelementptr {ENTRY}, ptr {entry}, i64 0, i32 1")
        array = w.emit(f"load ptr, ptr {array}")
        swept = w.emit(f"icmp ne i64 {several}, 0")
        function = w.emit(f"select i1 {swept}, ptr %sweep, ptr {kernel}")
        argument = w.emit(f"select i1 {swept}, ptr {entry}, ptr {array}")
        _call(w, function, argument, chunks, work)
    w.do("ret void")
    head = f"define internal void @dm_jobs({', '.join(_ARGUMENTS)}) nounwind {{"
    return "\n".join([head, "entry:", w.text(), "}"])


def _call(w: LoopWriter, function: str, argument: str, chunks: str, work: str) -> None:
    """Run a job: the only chunk here, or several by the pool."""
    alone, shared, done = w.name("alone"), w.name("shared"), w.name("done")
    whole = w.emit(f"icmp eq i64 {chunks}, 1")
    w.do(f"br i1 {whole}, label %{alone}, label %{shared}")
    w.block(alone)
    w.do(f"call void {function}(ptr {argument}, i64 0)")
    w.do(f"br label %{done}")
    w.block(shared)
    w.do(f"call void %pool(ptr {function}, ptr {argument}, i64 {chunks}, i64 {work})")
    w.do(f"br label %{done}")
    w.block(done)


def _tables(jobs: Iterable[Job]) -> list[list[Job]]:
    out: list[list[Job]] = []
    room = 0
    for job in jobs:
        if len(job.parts) > room:
            out.append([])
            room = MOST
        out[-1].append(job)
        room -= len(job.parts)
    return out


def _as_data(f: Function, jobs: Sequence[Job]) -> None:
    f.help("dm_jobs", _interpreter())
    name = f.name("@jobs")
    codes: list[str] = []
    parts: list[int] = []  # of each: its entry, its first place, its first chunk and the last one's
    places: list[int] = []
    rows: list[int] = []  # of each job: its first entry, chunks, work, whether it has several parts
    entries = 0
    for job in jobs:
        rows += (entries, job.chunks, job.work, len(job.parts) > 1)
        for part in job.parts:
            codes.append(f"ptr @{part.name}")
            parts += (entries, len(places) // 2, part.first, part.stop)
            places += (n for place in part.places if isinstance(place, tuple) for n in place)
            entries += 1
        entries += 1
    f.data.append(_constant(f"{name}.codes", codes))
    for kind, numbers in (("parts", parts), ("places", places), ("jobs", rows)):
        f.data.append(_constant(f"{name}.{kind}", [f"i64 {int(n)}" for n in numbers]))
    sweep = "@dm_sweep" if any(len(job.parts) > 1 for job in jobs) else "null"
    pool = "@dm_pool_run" if any(job.chunks > 1 for job in jobs) else "null"
    tables = ["%table", *(f"{name}.{kind}" for kind in ("places", "codes", "parts", "jobs"))]
    given = [f"ptr {table}" for table in tables]
    given += [f"i64 {n}" for n in (len(places) // 2, len(codes), len(jobs), entries)]
    f.w.line(f"  call void @dm_jobs({', '.join(given)}, ptr {sweep}, ptr {pool})")


def _constant(name: str, items: Sequence[str]) -> str:
    kind = items[0].split()[0]
    return f"{name} = internal constant [{len(items)} x {kind}] [{', '.join(items)}]"
