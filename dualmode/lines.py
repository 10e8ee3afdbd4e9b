"""The line of the user's code that makes a change, found in its bytecode."""

from __future__ import annotations

import dis
from collections.abc import Iterable
from functools import lru_cache
from types import CodeType

from .errors import Site

_STORES = {
    "attribute": ("STORE_ATTR", "DELETE_ATTR"),
    "global": ("STORE_GLOBAL", "DELETE_GLOBAL"),
    "nonlocal": ("STORE_DEREF", "DELETE_DEREF"),
}
_METHODS = {
    *("append", "appendleft", "extend", "extendleft", "insert", "pop", "popleft", "popitem"),
    *("remove", "clear", "sort", "reverse", "rotate", "update", "setdefault", "add", "discard"),
    *("difference_update", "intersection_update", "symmetric_difference_update"),
    *("fill", "put", "resize", "partition", "__setitem__", "__delitem__"),
}
_STEPS = ("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE")


def find(codes: Iterable[CodeType], kind: str, name: str) -> Site | None:
    """The first line that can make a change; None where no code can.

    Args:
        codes: where to look.
        kind: of an "attribute", a "global" or "nonlocal" variable of that `name`, of the "content"
            of a container, the state of a "random" generator or the position of an "iterator" that
            is known by it.
    """
    other: Site | None = None
    # what has changed was made before: its own `__init__` did not change it
    made = [c for c in codes if c.co_name == "__init__"]
    codes = [c for c in codes if c.co_name != "__init__"]
    for code in codes if kind == "attribute" else [*codes, *made]:
        for line, steps in _by_line(code):
            names = {argval for _, argval in steps}
            if kind in _STORES:
                hit = any(op in _STORES[kind] and argval == name for op, argval in steps)
                hit |= kind == "attribute" and {"setattr", name} <= names
            elif kind == "iterator":
                hit = {"next", name} <= names
                other = other or ((code.co_filename, line) if name in names else None)
            elif kind == "random":
                hit = name in names
            elif hit := _changes_content(steps):
                hit = name in names
                other = other or (code.co_filename, line)
            if hit:
                return code.co_filename, line
    return other


def _changes_content(steps: tuple[tuple[str, object], ...]) -> bool:
    return any(
        op in _STEPS
        or (op in ("LOAD_METHOD", "LOAD_ATTR") and argval in _METHODS)
        or (op == "BINARY_OP" and argval == "inplace")
        for op, argval in steps
    )


@lru_cache(1024)
def _by_line(code: CodeType) -> list[tuple[int, tuple[tuple[str, object], ...]]]:
    """The lines of `code` in order, with the names of instructions and their arguments."""
    found: dict[int, list[tuple[str, object]]] = {}
    for step in dis.get_instructions(code):
        line = step.positions.lineno if step.positions else None
        if line is not None:
            inplace = step.opname == "BINARY_OP" and str(step.argrepr).endswith("=")
            value = "inplace" if inplace else step.argval
            found.setdefault(line, []).append((step.opname, value))
    return [(line, tuple(steps)) for line, steps in sorted(found.items())]
