"""Calls of kernels, in jobs for the thread pool: as instructions, or many in a row as data.

Each call as instructions of its own takes LLVM longer to compile than the kernels do, of which
equal ones are compiled once. So `run` goes through a table where there are many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..records import dataclass

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
    for k, (kernel, array, first, stop) in enumerate([*rows, ("null", "null", -1, -1)]):
        fields = (("ptr", kernel), ("ptr", array), ("i64", first), ("i64", stop))
        for n, (kind, value) in enumerate(fields):
            place = f"{name}.{k}.{n}"
            at = f"getelementptr {ENTRY}, ptr {name}, i64 {k}, i32 {n}"
            f.body += [f"  {place} = {at}", f"  store {kind} {value}, ptr {place}"]
    return name


# --- as data --------------------------------------------------------------------------------------

# Three loops: over all addresses, over all kernels, whose entries for `dm_sweep` these are put in,
# and over the jobs. A kernel that is a job of its own finds in its entry what it gets.
_LOOPS = f"""\
  br label %N.start
N.start:
  br label %N.place
N.place:
  %N.p = phi i64 [ 0, %N.start ], [ %N.p1, %N.place ]
  %N.slot.p = getelementptr [2 x i64], ptr @N.places, i64 %N.p
  %N.slot = load i64, ptr %N.slot.p
  %N.offset.p = getelementptr i64, ptr %N.slot.p, i64 1
  %N.offset = load i64, ptr %N.offset.p
  %N.base.p = getelementptr ptr, ptr %table, i64 %N.slot
  %N.base = load ptr, ptr %N.base.p
  %N.address = getelementptr i8, ptr %N.base, i64 %N.offset
  %N.buffer = getelementptr ptr, ptr %N.buffers, i64 %N.p
  store ptr %N.address, ptr %N.buffer
  %N.p1 = add nuw nsw i64 %N.p, 1
  %N.p2 = icmp ult i64 %N.p1, PLACES
  br i1 %N.p2, label %N.place, label %N.middle
N.middle:
  br label %N.part
N.part:
  %N.q = phi i64 [ 0, %N.middle ], [ %N.q1, %N.part ]
  %N.code.p = getelementptr ptr, ptr @N.codes, i64 %N.q
  %N.code = load ptr, ptr %N.code.p
  %N.at.p = getelementptr [4 x i64], ptr @N.parts, i64 %N.q
  %N.at = load i64, ptr %N.at.p
  %N.own.p = getelementptr i64, ptr %N.at.p, i64 1
  %N.own = load i64, ptr %N.own.p
  %N.first.p = getelementptr i64, ptr %N.at.p, i64 2
  %N.first = load i64, ptr %N.first.p
  %N.stop.p = getelementptr i64, ptr %N.at.p, i64 3
  %N.stop = load i64, ptr %N.stop.p
  %N.array = getelementptr ptr, ptr %N.buffers, i64 %N.own
  %N.e0 = getelementptr {ENTRY}, ptr %N.entries, i64 %N.at
  store ptr %N.code, ptr %N.e0
  %N.e1 = getelementptr {ENTRY}, ptr %N.e0, i64 0, i32 1
  store ptr %N.array, ptr %N.e1
  %N.e2 = getelementptr {ENTRY}, ptr %N.e0, i64 0, i32 2
  store i64 %N.first, ptr %N.e2
  %N.e3 = getelementptr {ENTRY}, ptr %N.e0, i64 0, i32 3
  store i64 %N.stop, ptr %N.e3
  %N.e6 = getelementptr {ENTRY}, ptr %N.e0, i64 1, i32 2
  store i64 -1, ptr %N.e6
  %N.q1 = add nuw nsw i64 %N.q, 1
  %N.q2 = icmp ult i64 %N.q1, PARTS
  br i1 %N.q2, label %N.part, label %N.last
N.last:
  br label %N.job
N.job:
  %N.j = phi i64 [ 0, %N.last ], [ %N.j1, %N.again ]
  %N.entry.p = getelementptr [4 x i64], ptr @N.jobs, i64 %N.j
  %N.entry = load i64, ptr %N.entry.p
  %N.chunks.p = getelementptr i64, ptr %N.entry.p, i64 1
  %N.chunks = load i64, ptr %N.chunks.p
  %N.work.p = getelementptr i64, ptr %N.entry.p, i64 2
  %N.work = load i64, ptr %N.work.p
  %N.several.p = getelementptr i64, ptr %N.entry.p, i64 3
  %N.several = load i64, ptr %N.several.p
  %N.list = getelementptr {ENTRY}, ptr %N.entries, i64 %N.entry
  %N.kernel = load ptr, ptr %N.list
  %N.arg.p = getelementptr {ENTRY}, ptr %N.list, i64 0, i32 1
  %N.arg = load ptr, ptr %N.arg.p
  %N.one = icmp eq i64 %N.several, 0
  %N.function = select i1 %N.one, ptr %N.kernel, ptr SWEEP
  %N.argument = select i1 %N.one, ptr %N.arg, ptr %N.list
  %N.whole = icmp eq i64 %N.chunks, 1
  br i1 %N.whole, label %N.alone, label %N.shared
N.alone:
  call void %N.function(ptr %N.argument, i64 0)
  br label %N.again
N.shared:
  call void @dm_pool_run(ptr %N.function, ptr %N.argument, i64 %N.chunks, i64 %N.work)
  br label %N.again
N.again:
  %N.j1 = add nuw nsw i64 %N.j, 1
  %N.j2 = icmp ult i64 %N.j1, JOBS
  br i1 %N.j2, label %N.job, label %N.done
N.done:"""
_POOL = "  call void @dm_pool_run"


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
    name = f.name("jobs")
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
    f.head.append(f"  %{name}.buffers = alloca [{len(places) // 2} x ptr]")
    f.head.append(f"  %{name}.entries = alloca [{entries} x {ENTRY}]")
    text = _LOOPS.replace("N.", f"{name}.")
    text = text.replace("SWEEP", "@dm_sweep" if any(len(j.parts) > 1 for j in jobs) else "null")
    for what, count in (("PLACES", len(places) // 2), ("PARTS", len(codes)), ("JOBS", len(jobs))):
        text = text.replace(what, str(count))
    lines = text.split("\n")
    if all(job.chunks == 1 for job in jobs):  # there may be no pool
        lines = [line for line in lines if not line.startswith(_POOL)]
    f.body += lines


def _constant(name: str, items: Sequence[str]) -> str:
    kind = items[0].split()[0]
    return f"@{name} = internal constant [{len(items)} x {kind}] [{', '.join(items)}]"
