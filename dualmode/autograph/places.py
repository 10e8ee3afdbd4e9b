"""What called functions write outside of themselves, in native branches and loops.

Attributes, items, and variables of functions around: the variables that a block assigns itself are
known from its text; these are seen when they are written while the block is traced. They become
results of the block like its own variables.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from dualmode_compiler.graph import Node

from .. import tree
from ..errors import is_foreign, locate
from ..tensor import Operators, Tensor
from ..tracer import Tracer, current_tracer
from . import native
from .undefined import Undefined


class _Missing:
    """In the place of a value that there is not."""


_MISSING = _Missing()
_PROBE = object()


class Place:
    """Something that holds a value, and outlives the function that writes it.

    Attributes:
        name: for messages.
        key: the same for the same place.
        before: its value before the block that is traced.
    """

    def __init__(
        self, name: str, key: Any, owner: Any, get: Callable[[], Any], put: Callable[[Any], None]
    ) -> None:
        self.name = name
        self.key = key
        self._owner = owner  # alive, so that the key stays its own
        self._get = get
        self.put = put
        self.before = self.get()

    def get(self) -> Any:
        try:
            return self._get()
        except (AttributeError, LookupError, NameError, TypeError, ValueError):
            return _MISSING

    def position(self, get: Callable[[], Sequence[Any]]) -> int | None:
        """Where this place is among those that `get()` reads; None if it is not."""
        value = self.get()
        try:
            self.put(_PROBE)
            found = [k for k, x in enumerate(get()) if x is _PROBE]
            self.put(value)
        except Exception:  # the user's code refuses such a value
            return None
        return found[0] if found else None

    def is_done_once(self, created: bool) -> bool:
        """Whether the write is meant to happen while tracing only: the place had no value, or the
        block made variables, and keeps them there."""
        if self.before is _MISSING or any(map(_is_new, tree.leaves(self.before))):
            return True  # also for what was made within the block
        value = self.get()
        if any(isinstance(x, Operators) and native.is_traced(x) for x in _tensors(value)):
            return False
        return self.before is None or (created and self.before is False) or value is self.before


def _is_new(x: Any) -> bool:
    """Whether `x` is a tensor of the block that is being traced, or of one in it."""
    if not isinstance(x, Tensor) or not isinstance(x._value, Node):
        return False
    tracer = current_tracer()
    mode = tracer.outer if tracer is not None else None
    while isinstance(mode, Tracer):
        if mode.owns(x._value):
            return False
        mode = mode.outer
    return True


def _tensors(x: Any) -> list[Any]:
    return [leaf for leaf in tree.leaves(x) if not hasattr(leaf, "assign")]


class Written:
    """The places that are written while a block is traced. An exception takes that back."""

    def __init__(self) -> None:
        tracer = current_tracer()
        self._created = tracer.created if tracer is not None else []
        self._count = len(self._created)
        self._around = [(block, set(block.places)) for block in _open.blocks]
        self.places: dict[Any, Place] = {}

    def __enter__(self) -> Written:
        self._held = _collections()
        _open.blocks.append(self)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        _open.blocks.remove(self)
        if kind is not None:
            self.take_back()
            return
        for name, x, size in self._held:
            if len(x) != size:
                raise locate(
                    TypeError(
                        f"{name}: a {type(x).__name__} is changed in place where it depends on a "
                        "tensor whether, or how often, that happens; assign a new one, as in "
                        f"{name} = {type(x).__name__}(...), or keep what changes in tensors"
                    )
                )

    def take_back(self) -> bool:
        """Undo what was written; whether there was anything."""
        written = [p for p in self.places.values() if p.before is not _MISSING]
        for place in written:
            place.put(place.before)
        return bool(written)

    def found(self, get: Callable[[], Sequence[Any]], entry: Sequence[Any]) -> list[Place]:
        """The places that are results of the block, but for those that `get` reads: these had the
        values `entry` before it."""
        created = len(self._created) > self._count
        out = []
        for key, place in self.places.items():
            position = place.position(get)
            if position is not None:
                self._correct(key, entry[position])
            elif not place.is_done_once(created):
                out.append(place)
        return out

    def _correct(self, key: Any, before: Any) -> None:
        """The blocks around this one saw a place first when this one had written it already."""
        for block, known in self._around:
            if key not in known:
                missing = isinstance(before, Undefined)
                block.places[key].before = _MISSING if missing else before


class _Open(threading.local):
    def __init__(self) -> None:
        self.blocks: list[Written] = []


_open = _Open()


def _collections() -> list[tuple[str, Any, int]]:
    """The collections among the variables of the user's function, and their sizes."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_foreign(frame.f_code.co_filename):
        frame = frame.f_back
    found = () if frame is None else frame.f_locals.items()
    return [(name, x, len(x)) for name, x in found if type(x) in (list, set, deque)]


def _note(key: Any, make: Callable[[], Place]) -> None:
    for block in _open.blocks:
        if key not in block.places:
            block.places[key] = make()


def attribute(owner: Any, name: str) -> None:
    """`owner.name` is about to be written."""
    key = id(owner), name
    _note(
        key,
        lambda: Place(
            f"{type(owner).__name__}.{name}",
            key,
            owner,
            lambda: getattr(owner, name),
            lambda x: setattr(owner, name, x),
        ),
    )


def item(owner: Any, index: Any) -> None:
    """`owner[index]` is about to be written."""
    if not isinstance(owner, dict | list) or not isinstance(index, str | int):
        return
    holder: Any = owner
    key = id(owner), index, "item"
    _note(
        key,
        lambda: Place(
            f"{type(owner).__name__}[{index!r}]",
            key,
            owner,
            lambda: holder[index],
            lambda x: holder.__setitem__(index, x),
        ),
    )


def variable(read: Any, name: str) -> None:
    """The global or outer variable `name`, which the function `read` reads, may be written."""
    if not _open.blocks:
        return
    if name in read.__code__.co_freevars:
        cell = read.__closure__[read.__code__.co_freevars.index(name)]
        key: Any = id(cell)
        place = lambda: Place(  # noqa: E731
            name, key, cell, read, lambda x: setattr(cell, "cell_contents", x)
        )
    else:
        around = read.__globals__
        key = id(around), name
        place = lambda: Place(  # noqa: E731
            name, key, around, lambda: around[name], lambda x: around.__setitem__(name, x)
        )
    _note(key, place)
