"""The functions of a program as modules of some length, each given out as soon as it is complete:
so the first ones are compiled while the others are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from ..runtime.jit import QUICK

LEAST = 250  # lines of text that are worth a module of their own
MOST = 1000  # lines of the later ones of long programs, as each module takes some time itself
_NAMES = re.compile(r"[@!][\w.$-]+")
_FUNCTIONS = re.compile(r"^define .*?^}$", re.MULTILINE | re.DOTALL)


class Modules:
    """Modules under construction.

    Args:
        take: is given the text of each.

    Attributes:
        texts: of all that are complete.
    """

    def __init__(self, take: Callable[[str], object]) -> None:
        self.texts: list[str] = []
        self._take = take
        self._functions: list[str] = []  # of the module at hand
        self._outer: list[str] = []
        self._lines = self._written = 0
        self._known: dict[str, str] = {}  # what modules have besides functions, by the names

    def declare(self, texts: Iterable[str]) -> None:
        """What a module has where its functions use it: declarations, constants, metadata, and
        functions that are defined in each."""
        for text in texts:
            self._known.setdefault(_name(text), text)

    def add(self, text: str, quick: bool = False) -> None:
        """The definitions of some functions. They use these, and what was declared or added before
        the end of their module.

        Args:
            quick: they had better be compiled quickly than be quick.
        """
        for function in split(text):
            if quick:
                self._outer.append(function)
                self.declare([_declaration(function)])
                continue
            if self._lines >= min(max(LEAST, self._written // 8), MOST):
                self._cut(self._functions)
                self._functions, self._lines = [], 0
            self._functions.append(function)
            lines = function.count("\n")
            self._lines, self._written = self._lines + lines, self._written + lines
            self.declare([_declaration(function)])

    def finish(self, data: Sequence[str]) -> None:
        """The last module, with the constants `data`. Where it is the only one, its functions stay
        its own."""
        if self._outer:
            self._cut(self._outer, QUICK)
        self._cut(self._functions, data=data, alone=not self.texts)

    def _cut(
        self, functions: list[str], head: str = "", data: Sequence[str] = (), alone: bool = False
    ) -> None:
        if not alone:
            functions = [f.replace("define internal", "define", 1) for f in functions]
        text = head + "\n".join([*self._besides([*data, *functions]), *data, *functions])
        self.texts.append(text)
        self._take(text)

    def _besides(self, texts: list[str]) -> list[str]:
        """What these use, and what that uses."""
        seen = {_name(text) for text in texts}
        found: dict[str, str] = {}
        waiting = list(texts)
        while waiting:
            for name in set(_NAMES.findall(waiting.pop())) - seen:
                seen.add(name)
                if name in self._known:
                    found[name] = self._known[name]
                    waiting.append(found[name])
        return [found[name] for name in sorted(found)]


def cut(text: str) -> list[str]:
    """A module as several, which together are the same; itself alone where it is short, or has
    other parts than functions and declarations."""
    functions = _FUNCTIONS.findall(text)
    others = [x for x in _FUNCTIONS.sub("", text).splitlines() if x and not x.startswith(";")]
    if not all(x.startswith("declare ") for x in others):
        return [text]
    modules = Modules(lambda _: None)
    modules.declare(others)
    for function in functions:
        modules.add(function)
    modules.finish([])
    return modules.texts if len(modules.texts) > 1 else [text]


def _name(text: str) -> str:
    """What a definition or declaration is for: its first name."""
    found = _NAMES.search(text)
    assert found is not None
    return found[0]


def split(text: str) -> list[str]:
    """The functions that `text` defines, one by one."""
    return [f"{f}\n}}" for f in text.strip().removesuffix("\n}").split("\n}\n")]


def _declaration(function: str) -> str:
    head = function[: function.index(")") + 1]
    return head.replace("define internal", "define", 1).replace("define", "declare", 1)
