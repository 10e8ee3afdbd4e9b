"""LLVM in a process of its own: what it takes of memory is then not this process's.

The library alone is some 65 MiB of a process that has used it. The other process starts while this
one traces, makes code as soon as there is text of a part of a program, and ends when nothing was
asked of it for a while or this process ends. It imports nothing of the user's, neither their main
module nor their site packages. Where it cannot be had, whoever asks does the work here.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Literal

from ..records import dataclass
from . import ahead, llvm
from .cores import cores
from .worker import ANSWERS, receive, send, serve

# at the end of the path, so that nothing beside this package is taken for the standard library's
_START = "import sys; sys.path.append({path!a}); from {module} import serve; serve{arguments!a}"
_ROOM = 1 << 20  # bytes of requests that wait while the process starts
_SHOWN = 1000  # characters of what it said when it failed


@dataclass(slots=True)
class Settings:
    """`codegen`: "apart" uses a process of its own wherever that can be had, "here" does not, and
    "auto" does where there is a second core, on which it starts while this process traces."""

    codegen: Literal["auto", "here", "apart"] = "auto"

    @property
    def wanted(self) -> bool:
        return self.codegen == "apart" or (self.codegen == "auto" and _several_cores())


@cache
def _several_cores() -> bool:
    return cores() > 1


settings = Settings()


class Unavailable(Exception):
    """There is no such process, and none could be started, or it was ended."""


class Request:
    """What was asked of the other process.

    Attributes:
        what: the name of a method of `llvm.Library`, and arguments.
        process: which was asked.
        answer: whether it worked, and the result; None until it is there.
    """

    __slots__ = ("answer", "process", "what")

    def __init__(self, what: tuple[Any, ...]) -> None:
        self.what = what
        self.process: _Process | None = None
        self.answer: tuple[bool, Any] | None = None


class _Process:
    """The other process. Any number of threads may ask it, and wait for answers, at a time."""

    def __init__(self) -> None:
        files: list[int] = []
        try:
            for file in (*_pipe(), *_pipe(), _memory()):
                files.append(file)
            requests, self._to, self._back, answers, self._said = files
            self._first = _spawn(requests, answers, self._said)
        except BaseException:
            _close(files)
            raise
        _close([requests, answers])
        self.pid = 0  # of the one that serves, known with the first message
        self.ended = False
        self._make_locks()
        self._asked: dict[int, Request] = {}
        self._count = 0
        self._close = weakref.finalize(self, _close, [self._to, self._back, self._said])
        self._close.atexit = False  # then they are closed anyway
        _all.add(self)

    def _make_locks(self) -> None:
        self._sending = threading.Lock()
        self._change = threading.Condition()
        self._reading = False

    def leave(self) -> None:
        """In a fork: who made the process is the one whose requests it answers."""
        self._make_locks()  # threads that do not exist here may hold the others
        self.ended = True
        self._close()  # a daemon closes all files itself, and opens others under their numbers
        self._to = self._back = self._said = -1

    def last_words(self) -> str:
        """What the process said as it failed; nothing if it goes on, or was ended from outside."""
        if not (self.ended and self.pid):
            return ""
        with suppress(OSError):
            said = os.pread(self._said, _SHOWN, 0).decode(errors="replace")
            return said.strip().partition("\n\n")[0]  # where it was in Python comes after that
        return ""

    def ask(self, request: Request) -> None:
        with self._sending:
            self._count += 1
            self._asked[self._count] = request
            request.process = self
            try:
                self._send((self._count, *request.what))
            except BaseException as error:  # Ctrl-C may leave half a message
                self._end(error)

    def wait(self, request: Request) -> None:
        """Until the request is answered or the process has ended. One of those that wait reads, for
        all of them."""
        while True:
            with self._change:
                while request.answer is None and not self.ended and self._reading:
                    self._change.wait()
                if request.answer is not None or self.ended:
                    return
                self._reading = True
            try:
                with self._sending:
                    self._send(None)
                while not self._is_there() and ahead.step():
                    pass
                self._read()
            except BaseException as error:  # Ctrl-C may come amidst a message
                self._end(error)
            finally:
                with self._change:
                    self._reading = False
                    self._change.notify_all()

    def _send(self, message: Any) -> None:
        """The process may have ended. SIGPIPE, which would tell so, ends programs that have set it
        to what it does by default."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
        try:
            send(self._to, message)
        except BrokenPipeError:
            if signal.SIGPIPE not in before:
                signal.sigtimedwait([signal.SIGPIPE], 0)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _is_there(self) -> bool:
        """Whether there is a message, or the process has ended."""
        poll = select.poll()  # `select.select` takes no numbers of files above 1023
        poll.register(self._back, select.POLLIN)
        return bool(poll.poll(0))

    def _read(self) -> None:
        message = receive(self._back)
        if not self.pid:
            self.pid = message
            self._reap(0)
            return
        number, *answer = message
        self._asked.pop(number).answer = tuple(answer)

    def _reap(self, options: int) -> None:
        """Let the system forget the process that has been started, which ends as soon as it has
        made the one that serves."""
        with suppress(ChildProcessError):
            os.waitpid(self._first, options)

    def _end(self, error: BaseException) -> None:
        """Nothing more is asked of the process, which has ended itself, or else `error` is raised
        on."""
        gone = isinstance(error, (OSError, EOFError))
        with self._change:
            self.ended = True
            self._change.notify_all()
        if not self.pid:
            self._reap(0 if gone else os.WNOHANG)
        if not gone:
            raise error


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    return _high(ends[0]), _high(ends[1])


def _memory() -> int:
    """A file in memory, for what is printed when nobody reads."""
    with suppress(AttributeError, OSError):  # not on all systems, and some forbid it
        return _high(os.memfd_create("dualmode-llvm"))
    return _high(os.open(os.devnull, os.O_RDWR))


def _high(file: int) -> int:
    """`file` under a number that is none of those which it is to have in the other process, as it
    would be in programs that have closed their standard streams."""
    if file > ANSWERS:
        return file
    import fcntl

    try:
        return fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, ANSWERS + 1)
    finally:
        os.close(file)


def _spawn(requests: int, answers: int, said: int) -> int:
    """The id of a new process that serves, with these ends of pipes, and prints to `said`."""
    file = llvm.file()
    name = os.path.basename(sys.executable or "").lower()
    # programs that embed Python, or are frozen, are no interpreters
    if file is None or not name.startswith("python") or not hasattr(os, "posix_spawn"):
        raise OSError("no interpreter that could be started")
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(requests, fcntl.F_SETPIPE_SZ, _ROOM)
    path = os.path.abspath(__file__)
    for _ in __name__.split("."):
        path = os.path.dirname(path)
    arguments = (os.path.abspath(file), llvm.OPTIONS, max(1, cores() - 1), os.getpid())
    code = _START.format(path=path, module=serve.__module__, arguments=arguments)
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", *_byte_code(), "-c", code],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, requests, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, said, 2),
            (os.POSIX_SPAWN_DUP2, answers, ANSWERS),
        ],
        setsigmask=[signal.SIGINT],  # Ctrl-C is for the process that asks
    )


def _byte_code() -> list[str]:
    """Options for byte code to be written where this process writes it, or not at all."""
    prefix = sys.pycache_prefix
    where = [] if prefix is None else ["-X", f"pycache_prefix={prefix}"]
    return ["-B", *where] if sys.dont_write_bytecode else where


def _close(files: list[int]) -> None:
    """The process ends when nobody can ask it any more."""
    for file in files:
        with suppress(OSError):
            os.close(file)


_lock = threading.Lock()
_process: _Process | None = None
_all: weakref.WeakSet[_Process] = weakref.WeakSet()


def _forget() -> None:
    """After a fork, for which the processes of its parent do not work."""
    global _lock, _process
    for process in list(_all):
        process.leave()
    _lock, _process = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


_thread = threading.local()


@contextmanager
def _once() -> Iterator[None]:
    """A thread asks for one thing at a time. The handler of a signal may compile as well: it would
    wait for what the thread, which goes on after it, holds.

    Raises:
        Unavailable: the thread is amidst another question.
    """
    if getattr(_thread, "asks", False):
        raise Unavailable
    _thread.asks = True
    try:
        yield
    finally:
        _thread.asks = False


@_once()
def start() -> None:
    """Start the process, so that it is there when something is asked of it.

    Raises:
        Unavailable: it could not be started.
    """
    _running()


def processes() -> list[int]:
    """The ids of the processes that this one uses LLVM in: one, or none."""
    return [_process.pid] if _process is not None and _process.pid else []


def rest() -> None:
    """Nothing more is to be asked for now: the process gives back what it can of its memory."""
    process = _process
    if process is not None and process.pid and not process.ended:
        with suppress(Unavailable), _once():
            process.ask(Request(("rest",)))


@_once()
def ask(*what: Any) -> Request:
    """Ask for what the method `what[0]` of `llvm.Library` gives with the other arguments.

    Raises:
        Unavailable: there is no process for this thread.
    """
    request = Request(what)
    _running().ask(request)
    return request


@_once()
def result(request: Request) -> Any:
    """What came of it, as soon as that is there.

    Raises:
        Unavailable: the process was ended again and again, or the thread is amidst a question.
        RuntimeError: what was raised there, or what a process said that failed over this alone.
    """
    alone = False
    for left in (2, 1, 0):
        process = request.process
        assert process is not None
        process.wait(request)
        if request.answer is not None:
            break
        failed = process.last_words()
        if failed and alone:
            raise RuntimeError(failed)
        if not left:
            raise Unavailable
        # it may have ended as nothing was asked of it for long, or failed over another request
        alone = bool(failed)
        (_new() if alone else _running()).ask(request)
    assert request.answer is not None
    worked, answer = request.answer
    if not worked:
        raise RuntimeError(answer)
    return answer


def _running() -> _Process:
    global _process
    with _lock:
        if _process is not None and not _process.ended:
            return _process
        if _process is not None and not _process.pid:  # it could not even start
            raise Unavailable
        _process = _new()
        return _process


def _new() -> _Process:
    try:
        return _Process()
    except OSError:
        raise Unavailable from None
