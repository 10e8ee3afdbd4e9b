"""The thread pool as text: what `pool` says, in LLVM IR."""

from __future__ import annotations

import platform
import sys

MOST_THREADS = 256
# The ticket: the job's generation, then how many of its chunks were claimed from the end, and how
# many from the start.
BITS = 20
MOST_CHUNKS = (1 << BITS) - 1
# Chunks from which workers begin at the end: so many have the jobs that go through much memory.
# Those of others may be of different sizes, and are better taken in order.
BOTH_ENDS = 32
# Turns of the wait loop before a worker sleeps; a turn is 10 to 140 cycles, by CPU.
SPINS = 1000
# Turns before a caller that waits for the last chunks yields its core to whoever holds them.
YIELD_AFTER = 2000

# Work, in additions, of about 0.1 ms: a job of less wakes nobody if it comes alone.
LONG_JOB = 3 << 20
# Ticks of the clock within which one job follows another: about 0.1 ms, or more by CPU.
SOON = 300_000

_SYSCALL_FUTEX = {"x86_64": 202, "aarch64": 98}
_PAUSE = {"x86_64": "@llvm.x86.sse2.pause()", "aarch64": "@llvm.aarch64.hint(i32 1)"}

# aarch64 lets no program read the cycle counter.
_CLOCK = {"x86_64": "@llvm.readcyclecounter()", "aarch64": "@llvm.readsteadycounter()"}

_SERIAL_LOOP = """
define internal void @serial(ptr %f, ptr %x, i64 %n) nounwind {
entry:
  br label %check
check:
  %i = phi i64 [ 0, %entry ], [ %j, %call ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %call, label %done
call:
  call void %f(ptr %x, i64 %i)
  %j = add i64 %i, 1
  br label %check
done:
  ret void
}
"""

_SERIAL = """
define void @dm_pool_run(ptr %f, ptr %x, i64 %n, i64 %work) nounwind {
  call void @serial(ptr %f, ptr %x, i64 %n)
  ret void
}
define void @dm_pool_resize(i64 %workers) {
  ret void
}
define void @dm_pool_reset() {
  ret void
}
"""

# What every thread reads while it waits shares a cache line; what each finisher writes has its own.
_THREADED = """
@ticket = internal global i64 0, align 128
@chunks = internal global i64 0
@fn = internal global ptr null
@ctx = internal global ptr null
@signal = internal global i32 0
@stop = internal global i32 0
@unfinished = internal global i64 0, align 128
@busy = internal global i64 0, align 128
@sleepers = internal global i64 0
@home = internal global i32 -1
@last = internal global i64 0
@wanted = internal global i64 0
@started = internal global i64 0
@threads = internal global [{most} x i64] zeroinitializer

declare i64 @syscall(i64, ...)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i32 @sched_yield()
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)

; Run one chunk of the current job, the first or the last that is left; false if there is none. A
; ticket read with the chunk count or the function of a later job is refused by the exchange: the
; ticket changes before they do.
define internal i1 @claim(i1 %caller) nounwind {{
entry:
  br label %read
read:
  %t = load atomic i64, ptr @ticket seq_cst, align 8
  %n = load atomic i64, ptr @chunks acquire, align 8
  %f = load atomic ptr, ptr @fn monotonic, align 8
  %x = load atomic ptr, ptr @ctx monotonic, align 8
  %before = and i64 %t, {most_chunks}
  %high = lshr i64 %t, {bits}
  %behind = and i64 %high, {most_chunks}
  %claimed = add i64 %before, %behind
  %left = icmp ult i64 %claimed, %n
  br i1 %left, label %take, label %none
take:
  %few = icmp ult i64 %n, {both_ends}
  %first = or i1 %caller, %few
  %step = select i1 %first, i64 1, i64 {one_behind}
  %u = add i64 %t, %step
  %end = sub i64 %n, %behind
  %last = sub i64 %end, 1
  %chunk = select i1 %first, i64 %before, i64 %last
  %pair = cmpxchg ptr @ticket, i64 %t, i64 %u seq_cst seq_cst
  %mine = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %mine, label %run, label %read
run:
  call void %f(ptr %x, i64 %chunk)
  %old = atomicrmw sub ptr @unfinished, i64 1 seq_cst
  ret i1 true
none:
  ret i1 false
}}

define internal void @wake() nounwind {{
  %one = atomicrmw add ptr @signal, i32 1 seq_cst
  %s = load atomic i64, ptr @sleepers seq_cst, align 8
  %asleep = icmp ne i64 %s, 0
  br i1 %asleep, label %call, label %done
call:
  %cpu = call i32 @sched_getcpu()
  store atomic i32 %cpu, ptr @home monotonic, align 4
  %w = call i64 (i64, ...) @syscall(i64 {futex}, ptr @signal, i32 129, i32 2147483647)
  br label %done
done:
  ret void
}}

; A virtual core that is halted does not pass for idle, so the system may wake a worker on the core
; of the caller, and leave it there for milliseconds while others idle: move to another one.
define internal void @leave_home() nounwind {{
entry:
  %allowed = alloca [128 x i8], align 8
  %home = load atomic i32, ptr @home monotonic, align 4
  %cpu = call i32 @sched_getcpu()
  %same = icmp eq i32 %cpu, %home
  %known = icmp ult i32 %cpu, 1024
  %shared = and i1 %same, %known
  br i1 %shared, label %ask, label %done
ask:
  %got = call i32 @sched_getaffinity(i32 0, i64 128, ptr %allowed)
  %ok = icmp eq i32 %got, 0
  br i1 %ok, label %move, label %done
move:
  %byte = lshr i32 %cpu, 3
  %low = and i32 %cpu, 7
  %shift = trunc i32 %low to i8
  %bit = shl i8 1, %shift
  %p = getelementptr i8, ptr %allowed, i32 %byte
  %old = load i8, ptr %p
  %without = xor i8 %old, %bit
  store i8 %without, ptr %p
  %e0 = call i32 @sched_setaffinity(i32 0, i64 128, ptr %allowed)
  store i8 %old, ptr %p
  %e1 = call i32 @sched_setaffinity(i32 0, i64 128, ptr %allowed)
  br label %done
done:
  ret void
}}

; Signals are left to the threads that Python knows.
define internal ptr @worker(ptr %arg) nounwind {{
entry:
  %signals = alloca [128 x i8], align 16
  %e0 = call i32 @sigfillset(ptr %signals)
  %e1 = call i32 @pthread_sigmask(i32 2, ptr %signals, ptr null)
  br label %look
look:
  %turns = phi i64 [ 0, %entry ], [ 0, %try ], [ %next, %pause ], [ 0, %sleep ]
  %seen = load atomic i32, ptr @signal seq_cst, align 4
  %over = load atomic i32, ptr @stop seq_cst, align 4
  %go = icmp eq i32 %over, 0
  br i1 %go, label %try, label %end
try:
  %did = call i1 @claim(i1 false)
  br i1 %did, label %look, label %idle
idle:
  %next = add i64 %turns, 1
  %tired = icmp ugt i64 %next, {spins}
  br i1 %tired, label %sleep, label %pause
pause:
  call void {pause}
  br label %look
sleep:
  %s0 = atomicrmw add ptr @sleepers, i64 1 seq_cst
  %w = call i64 (i64, ...) @syscall(i64 {futex}, ptr @signal, i32 128, i32 %seen, ptr null)
  %s1 = atomicrmw sub ptr @sleepers, i64 1 seq_cst
  call void @leave_home()
  br label %look
end:
  ret ptr null
}}

; Start the threads that are missing; where the system gives no more, do with those there are.
define internal void @start() nounwind {{
entry:
  %first = load i64, ptr @started
  %want = load i64, ptr @wanted
  br label %check
check:
  %i = phi i64 [ %first, %entry ], [ %j, %made ]
  %more = icmp ult i64 %i, %want
  br i1 %more, label %make, label %done
make:
  %slot = getelementptr i64, ptr @threads, i64 %i
  %e = call i32 @pthread_create(ptr %slot, ptr null, ptr @worker, ptr null)
  %ok = icmp eq i32 %e, 0
  br i1 %ok, label %made, label %refused
made:
  %j = add i64 %i, 1
  store atomic i64 %j, ptr @started monotonic, align 8
  br label %check
refused:
  store i64 %i, ptr @wanted
  br label %done
done:
  ret void
}}

define void @dm_pool_run(ptr %f, ptr %x, i64 %n, i64 %work) nounwind {{
entry:
  %want = load atomic i64, ptr @wanted monotonic, align 8
  %alone = icmp eq i64 %want, 0
  %few = icmp slt i64 %n, 2
  %many = icmp sgt i64 %n, {most_chunks}
  %odd = or i1 %few, %many
  %no = or i1 %alone, %odd
  br i1 %no, label %serial, label %look
look:
  %threads = load atomic i64, ptr @started monotonic, align 8
  %sleeping = load atomic i64, ptr @sleepers monotonic, align 8
  %awake = icmp sgt i64 %threads, %sleeping
  %long = icmp sge i64 %work, {long_job}
  %worth = or i1 %awake, %long
  br i1 %worth, label %lock, label %when
when:
  %now = call i64 {clock}
  %before = load atomic i64, ptr @last monotonic, align 8
  %since = sub i64 %now, %before
  %follows = icmp ult i64 %since, {soon}
  br i1 %follows, label %lock, label %by_itself
by_itself:
  call void @serial(ptr %f, ptr %x, i64 %n)
  br label %end
lock:
  %pair = cmpxchg ptr @busy, i64 0, i64 1 seq_cst seq_cst
  %mine = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %mine, label %publish, label %serial
publish:
  call void @start()
  store atomic i64 0, ptr @chunks seq_cst, align 8
  store atomic i64 %n, ptr @unfinished monotonic, align 8
  %t = load atomic i64, ptr @ticket monotonic, align 8
  %generation = and i64 %t, -{generation}
  %new = add i64 %generation, {generation}
  store atomic i64 %new, ptr @ticket seq_cst, align 8
  store atomic ptr %f, ptr @fn monotonic, align 8
  store atomic ptr %x, ptr @ctx monotonic, align 8
  store atomic i64 %n, ptr @chunks seq_cst, align 8
  call void @wake()
  br label %help
help:
  %did = call i1 @claim(i1 true)
  br i1 %did, label %help, label %wait
wait:
  %turns = phi i64 [ 0, %help ], [ %next, %pause ], [ 0, %yield ]
  %left = load atomic i64, ptr @unfinished seq_cst, align 8
  %done = icmp eq i64 %left, 0
  br i1 %done, label %unlock, label %idle
idle:
  %next = add i64 %turns, 1
  %tired = icmp ugt i64 %next, {yield_after}
  br i1 %tired, label %yield, label %pause
pause:
  call void {pause}
  br label %wait
yield:
  %y = call i32 @sched_yield()
  br label %wait
unlock:
  store atomic i64 0, ptr @busy seq_cst, align 8
  br label %end
end:
  %done_at = call i64 {clock}
  store atomic i64 %done_at, ptr @last monotonic, align 8
  ret void
serial:
  call void @serial(ptr %f, ptr %x, i64 %n)
  ret void
}}

; Join all workers; later jobs start `workers` of them.
define void @dm_pool_resize(i64 %workers) nounwind {{
entry:
  br label %lock
lock:
  %pair = cmpxchg ptr @busy, i64 0, i64 1 seq_cst seq_cst
  %mine = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %mine, label %stop, label %yield
yield:
  %y = call i32 @sched_yield()
  br label %lock
stop:
  store atomic i32 1, ptr @stop seq_cst, align 4
  call void @wake()
  %n = load i64, ptr @started
  br label %check
check:
  %i = phi i64 [ 0, %stop ], [ %j, %join ]
  %more = icmp ult i64 %i, %n
  br i1 %more, label %join, label %done
join:
  %slot = getelementptr i64, ptr @threads, i64 %i
  %id = load i64, ptr %slot
  %e = call i32 @pthread_join(i64 %id, ptr null)
  %j = add i64 %i, 1
  br label %check
done:
  store i64 0, ptr @started
  store atomic i64 %workers, ptr @wanted seq_cst, align 8
  store atomic i32 0, ptr @stop seq_cst, align 4
  store atomic i64 0, ptr @busy seq_cst, align 8
  ret void
}}

; In the child of a fork: the threads are gone, whatever they held with them.
define void @dm_pool_reset() nounwind {{
  store atomic i64 0, ptr @chunks seq_cst, align 8
  store atomic i64 0, ptr @sleepers seq_cst, align 8
  store atomic i32 0, ptr @stop seq_cst, align 4
  store i64 0, ptr @started
  store atomic i64 0, ptr @busy seq_cst, align 8
  ret void
}}
"""


def text() -> str:
    """The functions of the pool for this platform: serial where it has no futex."""
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in _PAUSE:
        return _SERIAL_LOOP + _SERIAL
    return _SERIAL_LOOP + _THREADED.format(
        most=MOST_THREADS,
        bits=BITS,
        both_ends=BOTH_ENDS,
        most_chunks=MOST_CHUNKS,
        one_behind=1 << BITS,
        generation=1 << 2 * BITS,
        spins=SPINS,
        yield_after=YIELD_AFTER,
        futex=_SYSCALL_FUTEX[machine],
        pause=_PAUSE[machine],
        clock=_CLOCK[machine],
        long_job=LONG_JOB,
        soon=SOON,
    )
