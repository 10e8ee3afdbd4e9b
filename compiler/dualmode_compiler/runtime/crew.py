"""Threads that do jobs, which end when there are none. It imports little: see `worker`."""

from __future__ import annotations

from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Job:
    """One call of a crew's work, and what came of it."""

    __slots__ = ("_answer", "_done", "_error", "_over", "request", "size")

    def __init__(
        self, request: tuple[Any, ...], size: int, done: Callable[[Job], None] | None
    ) -> None:
        self.request, self.size = request, size
        self._done = done
        self._answer: Any = None
        self._error: Exception | None = None
        self._over = allocate_lock()
        self._over.acquire()

    def run(self, work: Callable[..., Any]) -> None:
        try:
            self._answer = work(*self.request)
        except Exception as error:
            self._error = error
        self._over.release()
        if self._done is not None:
            self._done(self)

    @property
    def over(self) -> bool:
        return not self._over.locked()

    def result(self) -> Any:
        """What the work gave, or raised, as soon as it is done."""
        with self._over:
            pass
        if self._error is not None:
            raise self._error
        return self._answer


class Crew:
    """Does `work` for each job that it is given, of those that wait the largest first, so that
    all threads have something to do until the end.

    Args:
        threads: the most that work while whoever gives the jobs goes on.
        start: runs a function in a new thread.
    """

    def __init__(
        self,
        work: Callable[..., Any],
        threads: int,
        start: Callable[[Callable[[], None]], Any],
    ) -> None:
        self._work, self._threads, self._start = work, threads, start
        self._waiting: list[Job] = []
        self._lock = allocate_lock()
        self.busy = 0  # threads

    def submit(
        self, *request: Any, size: int = 0, done: Callable[[Job], None] | None = None
    ) -> Job:
        """The job `work(*request)`, begun as soon as a thread is free for it.

        Args:
            size: how much work it is, beside others.
            done: called with the job once it is over, by the thread that did it.
        """
        job = Job(request, size, done)
        with self._lock:
            self._waiting.append(job)
        self._engage(self._threads)
        return job

    def hurry(self) -> None:
        """One more thread may work: whoever gives the jobs waits."""
        self._engage(self._threads + 1)

    def wait(self, job: Job) -> Any:
        """The result of `job`. The caller works as well until that is there. Where Ctrl-C ends
        that, the job at hand waits again."""
        other = self._take(job)
        while other is not None:
            try:
                other.run(self._work)
            except BaseException:
                if not other.over:
                    with self._lock:
                        self._waiting.append(other)
                raise
            other = None if job.over else self._take(job)
        return job.result()

    def _engage(self, most: int) -> None:
        """Start another thread if there is something to do for it."""
        with self._lock:
            if not self._waiting or self.busy >= most:
                return
            self.busy += 1
        try:
            self._start(self._run)
        except RuntimeError:  # no more threads: those that there are will do it, or `wait`
            with self._lock:
                self.busy -= 1

    def _take(self, wanted: Job) -> Job | None:
        with self._lock:
            if wanted in self._waiting:
                self._waiting.remove(wanted)
                return wanted
            return self._next()

    def _run(self) -> None:
        while True:
            with self._lock:
                job = self._next()
                if job is None:
                    self.busy -= 1
                    return
            job.run(self._work)

    def _next(self) -> Job | None:
        if not self._waiting:
            return None
        job = max(self._waiting, key=lambda job: job.size)
        self._waiting.remove(job)
        return job
