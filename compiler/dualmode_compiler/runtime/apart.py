"""LLVM in a process of its own, on request: what it takes of memory is then not this process's.

The library alone is some 65 MiB of a process that has used it. The other process is started by the
first request, in which it is told where modules are, and ends when nothing was asked of it for a
while or this process ends. Where it cannot be had, whoever asks does the work here.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_PATIENCE = 10.0  # seconds without a request after which the process ends
_HEAD = 8  # bytes of a message that say how many follow
_START = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve()"


@dataclass(slots=True)
class Settings:
    """`wanted`: LLVM is used in a process of its own."""

    wanted: bool = False


settings = Settings()


class Unavailable(Exception):
    """There is no such process, and none could be started, or it ended."""


class _Process:
    """The other process."""

    def __init__(self) -> None:
        code = _START.format(path=sys.path, module=__name__)
        theirs, to = os.pipe()
        back, answer = os.pipe()
        try:
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-c", code],
                {**os.environ, "DUALMODE_CACHE": "0"},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs, 0),
                    (os.POSIX_SPAWN_DUP2, answer, 1),
                ],
            )
        except BaseException:
            for end in (to, back):
                os.close(end)
            raise
        finally:
            for end in (theirs, answer):
                os.close(end)
        self._to, self._back = to, back
        # not at exit, which closes our ends anyway
        weakref.finalize(self, _end, os.getpid(), self.pid, (to, back)).atexit = False

    def ask(self, *request: Any) -> tuple[str, Any]:
        _send(self._to, request)
        return _receive(self._back)


def _end(owner: int, pid: int, ends: tuple[int, int]) -> None:
    """End it, whatever it is at, and let the system forget it; in a fork, only let go of it."""
    for end in ends:
        with suppress(OSError):
            os.close(end)
    if os.getpid() == owner:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


_lock = threading.Lock()
_process: _Process | None = None


def _forget() -> None:
    """After a fork, for which the process of its parent does not work."""
    global _lock, _process
    _lock, _process = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def start() -> None:
    """Start the process, so that it is there when something is asked of it.

    Raises:
        Unavailable: it could not be started.
    """
    global _process
    with _lock:
        _process = _running()


def ask(*request: Any) -> Any:
    """What `request`, a name among `jit.WORK` and plain data, gives in the other process.

    Raises:
        Unavailable: there is none.
        RuntimeError: what was raised there.
    """
    global _process
    with _lock:
        for _ in range(2):  # it may have ended, as nothing was asked of it for long
            process, _process = _running(), None  # until it has answered: Ctrl-C may come first
            try:
                status, answer = process.ask(*request)
            except (OSError, EOFError):
                continue
            _process = process
            if status == "error":
                raise RuntimeError(answer)
            return answer
    raise Unavailable


def _running() -> _Process:
    if _process is not None:
        return _process
    if not sys.executable or not hasattr(os, "posix_spawn"):
        raise Unavailable
    try:
        return _Process()
    except OSError:
        raise Unavailable from None


def _send(end: int, message: Any) -> None:
    data = marshal.dumps(message)
    left = memoryview(len(data).to_bytes(_HEAD, "little") + data)
    while left:
        left = left[os.write(end, left) :]


def _receive(end: int) -> Any:
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


def serve() -> None:
    """In the other process: answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    asked, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # what LLVM prints is no answer
    from . import jit

    jit.load_compiler()
    work: dict[str, Callable[..., Any]] = jit.WORK
    with suppress(EOFError, BrokenPipeError):
        while select.select([asked], [], [], _PATIENCE)[0]:
            name, *args = _receive(asked)
            try:
                answer = "ok", work[name](*args)
            except Exception as error:
                answer = "error", str(error)
            _send(answers, answer)
