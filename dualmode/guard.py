"""Side effects of Python code that happen once, when a function is traced, instead of on each call.

What the traced code can reach is compared before and after tracing: lists, dicts, sets, attributes,
globals, variables of closures, states of random generators. What has changed, and has a line in the
user's code that does it, is reported. Prints, clocks, `open` and `input` are seen when they are
called. What is done once on purpose is left alone: values that were missing, None, False or empty
before, variables and layers, and new entries of dicts and sets, as in a cache; unless a traced
tensor is kept, which has no value afterwards.
"""

from __future__ import annotations

import builtins
import datetime
import io
import itertools
import operator
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType, GeneratorType
from typing import Any, NamedTuple

import numpy as np

from . import errors, lines
from .errors import CONVERSION, SideEffectError, SideEffectWarning, Site, is_foreign
from .reach import CONTAINERS, ITERATORS, PLAIN, Reach, is_engine, is_generator, namespace
from .tensor import Operators, is_eager
from .tracer import current_tracer

_MISSING = object()
_KEPT = "return it from the function, or keep it in a dm.Variable"
_RETURNED = "callers do not see that: change a copy, and return it"
_COUNTED = "keep what changes in a dm.Variable, or change it outside of the function"
_RANDOM = "use dm.random, which draws anew on each call"
_TAKEN = "pass the item as an argument, or loop over a dm.data.Dataset"
_CLOCK = "use dm.py_function to call it each time"

_CALLS: dict[int, tuple[str, str]] = {
    id(builtins.print): ("prints", "use dm.print"),
    id(builtins.input): ("waits for input", "ask outside of the function"),
    id(io.open): ("opens a file", "do it outside, or each time by dm.py_function"),
    **{
        id(clock): ("reads the clock", _CLOCK)
        for clock in (
            *(time.time, time.time_ns, time.perf_counter, time.perf_counter_ns),
            *(time.monotonic, time.monotonic_ns, time.process_time, time.process_time_ns),
        )
    },
}
_CALL_NAMES = {"print", "input", "open", "time", "now", "today", "utcnow"}
_LARGE = 100_000  # items and bytes above which a container's or array's content is not compared


class Finding(NamedTuple):
    """A side effect: what the line does, and what to do instead."""

    what: str
    instead: str
    site: Site


class Change(NamedTuple):
    """A difference between before and after.

    Attributes:
        kind: how code makes it: "attribute", "global", "nonlocal", "content", "random" or
            "iterator".
        name: the attribute or variable to look for in the code.
    """

    kind: str
    name: str
    what: str
    instead: str


# --- comparing ------------------------------------------------------------------------------------


def _traced(x: Any, depth: int = 3) -> bool:
    """Whether `x` is, or holds, a traced tensor."""
    if isinstance(x, Operators):
        value = getattr(x, "_value", None)
        return value is not None and not is_eager(x)  # type: ignore[arg-type]
    if depth and isinstance(x, dict):
        return any(_traced(v, depth - 1) for v in list(x.values()))
    if depth and isinstance(x, list | tuple | set | frozenset):
        return any(_traced(v, depth - 1) for v in list(x))
    return False


def _same(old: Any, new: Any) -> bool:
    if old is new:
        return True
    return type(old) is type(new) and isinstance(old, PLAIN) and bool(old == new)


def _first(old: Any, new: Any) -> bool:
    """Whether to put `new` in the place of `old` is what code does once on purpose."""
    unset = old is _MISSING or old is None or (old is False and new is True)
    empty = isinstance(old, list | tuple | dict | set | str) and not old
    return unset or empty or is_engine(new)


class _Names:
    """Variables of a scope or attributes of an object.

    Args:
        label: `{}` stands for the name.
    """

    def __init__(self, kind: str, label: str, read: Callable[[], dict[str, Any]]) -> None:
        self.kind = kind
        self.label = label
        self.read = read
        self.before = dict(read())

    def changes(self) -> Iterator[Change]:
        after = self.read()
        for name in {**self.before, **after}:
            old, new = self.before.get(name, _MISSING), after.get(name, _MISSING)
            if _same(old, new):
                continue
            label = self.label.format(name)
            if _traced(new):
                yield Change(self.kind, name, f"keeps a traced tensor in {label}", _KEPT)
            elif not _first(old, new):
                yield Change(self.kind, name, f"changes {label}", _COUNTED)


class _Content:
    """The content of a list, deque, dict, set or small array."""

    def __init__(self, path: str, x: Any) -> None:
        self.path = path
        self.x = x
        self.before = x.copy()

    def changes(self) -> Iterator[Change]:
        added, changed = self._compare()
        if any(map(_traced, added)):
            yield Change("content", self.path, f"keeps a traced tensor in `{self.path}`", _KEPT)
        elif changed:
            yield Change("content", self.path, f"changes `{self.path}`", _COUNTED)

    def _compare(self) -> tuple[list[Any], bool]:
        """New items, and whether there is a change beyond what is done once on purpose."""
        old, new = self.before, self.x
        if isinstance(old, np.ndarray):
            return [], not np.array_equal(old, new, equal_nan=old.dtype.kind in "fc")
        if isinstance(old, set):
            return list(new - old), not old <= new
        if isinstance(old, dict):
            added = [v for k, v in new.items() if not _same(old.get(k, _MISSING), v)]
            kept = all(k in new and (_same(v, new[k]) or _first(v, new[k])) for k, v in old.items())
            return added, not kept
        old, new = list(old), list(new)
        if len(old) == len(new) and all(map(_same, old, new)):
            return [], False
        added = new[len(old) :] if len(new) > len(old) else new
        grown = len(new) > len(old) and all(map(_same, old, new))
        return added, not (grown and all(map(is_engine, added)))


class _Random:
    """The state of a generator of random numbers, or of the one that a module has."""

    def __init__(self, name: str, generator: Any) -> None:
        self.name = name
        self.generator = generator
        self.before = self._state()

    def _state(self) -> str:
        x = self.generator
        if hasattr(x, "getstate"):  # Python's
            return repr(x.getstate())
        with np.printoptions(threshold=sys.maxsize):
            legacy = hasattr(x, "get_state")
            return repr(x.get_state(legacy=False) if legacy else x.bit_generator.state)

    def changes(self) -> Iterator[Change]:
        if self._state() != self.before:
            yield Change("random", self.name, "draws random numbers outside of dm", _RANDOM)


class _Position:
    """How far an iterator has come."""

    def __init__(self, name: str, x: Any) -> None:
        self.name = name
        self.x = x
        self.before = _position(x)

    def changes(self) -> Iterator[Change]:
        if _position(self.x) != self.before:
            yield Change(
                "iterator", self.name, f"takes items of the iterator `{self.name}`", _TAKEN
            )


def _position(x: Any) -> Any:
    if isinstance(x, GeneratorType):
        frame = x.gi_frame
        if frame is None:
            return None
        local = {k: v for k, v in frame.f_locals.items() if isinstance(v, PLAIN)}
        return frame.f_lasti, local, _position(x.gi_yieldfrom)
    if isinstance(x, enumerate | zip | map):
        return [_position(part) for part in x.__reduce__()[1]]
    if isinstance(x, itertools.count):
        return repr(x)
    return operator.length_hint(x, -1) if type(x) in ITERATORS else None


_Watched = _Names | _Content | _Random | _Position


def _watch(path: str, x: Any) -> _Watched | None:
    if is_generator(x):
        return _Random(path, x)
    if type(x) in (GeneratorType, *ITERATORS):
        return _Position(path, x)
    if isinstance(x, np.ndarray):
        small = x.nbytes <= _LARGE and x.dtype.kind in "biufc"
        return _Content(path, x) if small else None
    if type(x) in CONTAINERS:
        return _Content(path, x) if len(x) <= _LARGE else None
    owner = x.__name__ if isinstance(x, type) or hasattr(x, "__file__") else path
    return _Names("attribute", f"the attribute `{owner}.{{}}`", lambda: namespace(x))


def _cell(cell: Any, name: str) -> dict[str, Any]:
    try:
        return {name: cell.cell_contents}
    except ValueError:
        return {}


# --- a trace under watch --------------------------------------------------------------------------


class Unwatched:
    """A trace within one that is watched."""

    ignore = False

    def changed(self, arguments: Sequence[str]) -> None:
        """Note the arguments that the code has changed."""


class Watch(Unwatched):
    """What a trace is compared with, and what was seen meanwhile.

    Attributes:
        ignore: set to True where the trace is not the one that later calls run.
    """

    def __init__(self, function: Any, leaves: Sequence[Any]) -> None:
        self.ignore = False
        self.findings: list[Finding] = []
        self._reach = Reach([("the function", function), *(("an argument", x) for x in leaves)])
        self._watched = list(self._before())

    def _before(self) -> Iterator[_Watched]:
        reach = self._reach
        for path, x in reach.found:
            watched = _watch(path, x)
            if watched is not None:
                yield watched
        for name, cell in reach.cells:
            yield _Names("nonlocal", "`{}`", lambda c=cell, n=name: _cell(c, n))
        for name, held in reach.globals:
            yield _Names(
                "global",
                "the global `{}`",
                lambda h=held, n=name: {n: h[n]} if n in h else {},
            )
        if "random" in reach.names:
            yield from (_Random("random", import_module(m)) for m in ("numpy.random", "random"))

    @property
    def calls(self) -> bool:
        """Whether the code may call what is only seen when it is called."""
        reach = self._reach
        clocks = {n for n in reach.names if n.startswith(("perf_counter", "monotonic", "process_"))}
        named = reach.names & _CALL_NAMES or clocks
        return bool(named) or not reach.values.keys().isdisjoint(_CALLS)

    def profile(self, frame: FrameType, event: str, arg: Any) -> None:
        """The profiler's callback: sees the calls of builtin functions."""
        if event != "c_call":
            return
        found = _CALLS.get(id(arg))
        if found is None and getattr(arg, "__name__", "") in ("now", "today", "utcnow"):
            owner = getattr(arg, "__self__", None)
            if isinstance(owner, type) and issubclass(owner, datetime.date):
                found = "reads the clock", _CLOCK
        if found is None or current_tracer() is None:
            return
        file = frame.f_code.co_filename
        site = errors.user_site()
        direct = not is_foreign(file) or file.startswith(CONVERSION)
        if site and direct and not is_foreign(site[0]):
            self.findings.append(Finding(*found, site))

    def changed(self, arguments: Sequence[str]) -> None:
        for name in arguments:
            site = lines.find(self._reach.codes, "content", name)
            if site is not None:
                self.findings.append(Finding(f"changes the argument `{name}`", _RETURNED, site))

    def compare(self) -> Iterator[Finding]:
        for watched in self._watched:
            for change in watched.changes():
                site = lines.find(self._reach.codes, change.kind, change.name)
                if site is not None:
                    yield Finding(change.what, change.instead, site)


_active = threading.local()


@contextmanager
def watch(
    name: str, function: Any, leaves: Sequence[Any], known: set[Site], strict: bool
) -> Iterator[Unwatched]:
    """Report the side effects of Python code that runs inside the block, a trace of `function`.

    A trace within another is left to that one's watch, unless it is strict.

    Args:
        leaves: the arguments of the function.
        known: the lines that were reported before, which are added to.
        strict: raise instead of warn.

    Raises:
        SideEffectError: `strict`, and there is one.
    """
    if getattr(_active, "watch", None) is not None and not strict:
        yield Unwatched()
        return
    outer = getattr(_active, "watch", None)
    seen = Watch(function, leaves)
    profiled = seen.calls and sys.getprofile() is None
    _active.watch = seen
    if profiled:
        sys.setprofile(seen.profile)
    try:
        yield seen
    finally:
        if profiled:
            sys.setprofile(None)
        _active.watch = outer
    if not seen.ignore:
        _report(name, [*seen.findings, *seen.compare()], known, strict)


def _report(name: str, findings: list[Finding], known: set[Site], strict: bool) -> None:
    for found in findings:
        if found.site in known and not strict:
            continue
        error = SideEffectError(
            f"{name}: a line {found.what}, which happens once, when the function is traced, not on "
            f"each call; {found.instead}",
            found.site,
        )
        if strict:
            raise error
        warnings.warn_explicit(SideEffectWarning(str(error)), None, *found.site)
        known.add(found.site)
