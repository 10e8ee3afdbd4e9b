"""The process that `apart` starts: LLVM, and as many threads as there are cores.

It takes requests and gives answers as they are ready. Its start is on the way to the first compiled
call, so all that it imports is `llvm` and `crew`, which import little themselves.
"""

from __future__ import annotations

import faulthandler
import marshal
import os
import select
from _thread import allocate_lock, get_native_id, start_new_thread

from .crew import Crew, Job
from .llvm import Library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ANSWERS = 3  # the file that takes answers; requests come from the standard input
REST = 0.012  # seconds without a request after which it gives back what it can of its memory
PATIENCE = 3.0  # those after which the process ends
_HEAD = 8  # bytes of a message that say how many follow


def serve(file: str, options: tuple[str, ...], threads: int, asker: int) -> None:
    """Answer requests from the standard input until there are no more, or none comes for a while.

    The first message is the id of this process. Each request is a number, the name of a method of
    `llvm.Library`, and its arguments; an answer is that number, whether it worked, and the result
    or what went wrong. A request that is None says that who asks waits. What is printed on the
    standard error stream says why the process has failed: LLVM aborts, or exits, where it finds
    itself at fault.

    Args:
        file, options: see `llvm.Library`.
        threads: how many may work while who asks goes on; one more while it waits.
        asker: the id of the process that asks.
    """
    global _asker
    _asker = asker
    if os.fork():  # nobody has to wait for the end of a process whose parent has ended
        os._exit(0)
    faulthandler.enable(2, all_threads=False)
    _let_go()
    try:
        library = Library(file, options)
        send(ANSWERS, os.getpid())
        _answer(library, threads, 0, ANSWERS)
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)  # whatever the threads are at


def _let_go() -> None:
    """What else came from who asks: a pipe, which others wait to see closed; its directory."""
    os.chdir("/")
    try:
        files = os.listdir("/dev/fd")
    except OSError:
        return
    os.closerange(ANSWERS + 1, max(map(int, files)) + 1)


def _answer(library: Library, threads: int, asked: int, answers: int) -> None:
    crew = Crew(lambda number, name, *args: getattr(library, name)(*args), threads, _start)
    sending = allocate_lock()

    def done(job: Job) -> None:
        try:
            answer = True, job.result()
        except Exception as error:
            answer = False, str(error)
        try:
            with sending:
                send(answers, (job.request[0], *answer))
        except OSError:  # who asked has ended
            os._exit(0)

    patience = REST
    fresh = True
    while True:
        if select.select([asked], [], [], patience)[0]:
            patience = REST
            request = receive(asked)
            if request is None:
                crew.hurry()
            else:
                crew.submit(*request, size=sum(len(str(x)) for x in request), done=done)
                if fresh:  # meanwhile, what it took to start LLVM goes back
                    library.rest()
                fresh = False
        elif not crew.busy:
            if patience == PATIENCE:
                return
            library.rest()
            patience = PATIENCE


def _start(run: Callable[[], None]) -> None:
    def placed() -> None:
        own = get_native_id()
        _find_core()
        _busy.add(own)
        run()
        _busy.discard(own)

    try:
        start_new_thread(placed, ())
    except RuntimeError:  # no more threads
        if not _busy:
            os._exit(0)  # who asks sees to it
        raise


_asker = 0  # the process that asks
_busy: set[int] = set()  # threads that work


def _find_core() -> None:
    """Move to a core where no other thread works, nor whoever asks if that can be had. Left to
    itself, the system may have two of these share one core for as long as a program takes to
    compile."""
    if not hasattr(os, "sched_setaffinity"):
        return
    try:
        allowed = os.sched_getaffinity(0)
        free = allowed - {_core(os.getpid(), thread) for thread in list(_busy)}
        free = (free - {_core(_asker, _asker)}) or free
        if free:
            os.sched_setaffinity(0, free)
            os.sched_setaffinity(0, allowed)
    except OSError:  # one of them has ended
        pass


def _core(process: int, thread: int) -> int:
    """Where a thread runs, or ran last: field 39 of proc_pid_stat(5)."""
    with open(f"/proc/{process}/task/{thread}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[36])


def send(end: int, message: Any) -> None:
    """`message`, of plain data, into a pipe."""
    data = marshal.dumps(message)
    left = memoryview(len(data).to_bytes(_HEAD, "little") + data)
    while left:
        left = left[os.write(end, left) :]


def receive(end: int) -> Any:
    """The next message from a pipe.

    Raises:
        EOFError: there will be none.
    """
    return marshal.loads(_read(end, int.from_bytes(_read(end, _HEAD), "little")))


def _read(end: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = os.read(end, size)
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
