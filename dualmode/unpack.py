"""Generated Python that takes a call's nested arguments apart, for one signature.

Flattening structures in general costs more than many a compiled function. Once a signature has come
twice, this code checks that arguments nest as they did, and passes their leaves on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from dualmode_compiler.runtime.layout import MISS

from .signature import Identity, Static, static_key

_LIMIT = 200  # leaves and nodes; beyond, the code would be long


class Unsupported(Exception):
    """A kind of structure that is left to the general way."""


class _Code:
    """The body of the function, and the objects that it names."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {"MISS": MISS, "static_key": static_key}
        self.leaves: list[str] = []
        self._count = 0

    def name(self, value: Any) -> str:
        """A name for an object that the code uses."""
        found = f"k{len(self.names)}"
        self.names[found] = value
        return found

    def variables(self, n: int) -> list[str]:
        self._count += n
        return [f"v{k}" for k in range(self._count - n, self._count)]

    def require(self, condition: str) -> None:
        self.lines.append(f"if not ({condition}): return MISS")

    def take_apart(self, form: Any, source: str) -> None:
        """Code for the structure `form` in the variable `source`."""
        if form.is_leaf():
            self.leaves.append(source)
            return
        kind, children = form.type, form.children()
        if kind is type(None):
            self.require(f"{source} is None")
            return
        parts = self.variables(len(children))
        typed = f"type({source}) is {self.name(kind)}"
        if kind in (list, tuple) or issubclass(kind, tuple):
            self.require(f"{typed} and len({source}) == {len(parts)}")
            if parts:
                self.lines.append(f"{', '.join(parts)}, = {source}")
        elif kind is dict:
            self.require(f"{typed} and len({source}) == {len(parts)}")
            for key, part in zip(form.entries(), parts, strict=True):
                text = repr(key) if type(key) in (str, int) else self.name(key)
                self.lines.append(f"{part} = {source}[{text}]")
        elif dataclasses.is_dataclass(kind):
            self.require(typed)
            for name, part in zip(form.entries(), parts, strict=True):
                self.lines.append(f"{part} = {source}.{name}")
        else:
            raise Unsupported(kind)
        for child, part in zip(children, parts, strict=True):
            self.take_apart(child, part)

    def check(self, source: str, known: Static | Identity) -> None:
        """Code that an argument which is not traced is the known one."""
        if isinstance(known, Identity):
            self.require(f"{self.name(known.reference)}() is {source}")
        else:
            value, key = self.name(known.value), self.name(known)
            self.require(f"{source} is {value} or static_key({source}) == {key}")


def caller(
    form: Any,
    defaults: Sequence[Any],
    static: Sequence[tuple[int, Static | Identity]],
    traced: Sequence[int],
    call: Callable[..., Any],
    build: Callable[[Any], Any] | None,
) -> Callable[..., Any] | None:
    """A function of positional arguments that gives what `call` gives for the traced leaves among
    them, after `build`; or `MISS` where they are not of this signature.

    Args:
        form: how `(args, kwargs)` nest.
        defaults: the last of the positional arguments, which the caller leaves out.
        static: what other leaves must be.
        traced: the leaves that `call` takes.

    Returns:
        None where there is a structure that it does not know, or none to take apart.
    """
    args, named = form.children()
    if named.num_children or form.num_nodes > _LIMIT:
        return None
    code = _Code()
    children = args.children()
    given = len(children) - len(defaults)
    sources = code.variables(given) + [code.name(x) for x in defaults]
    try:
        for child, source in zip(children, sources, strict=True):
            code.take_apart(child, source)
    except Unsupported:
        return None
    for k, known in static:
        code.check(code.leaves[k], known)
    passed = ", ".join(code.leaves[k] for k in traced)
    body = [f"if len(args) != {given}: return MISS"]
    if given:
        body.append(f"{', '.join(sources[:given])}, = args")
    body.append("try:")
    body += [f"    {line}" for line in code.lines or ["pass"]]
    body.append("except (KeyError, AttributeError, TypeError): return MISS")
    code.names |= {"call": call, "build": build}
    if build is None:
        body.append(f"return call({passed})")
    else:
        body.append(f"out = call({passed})")
        body.append("return out if out is MISS else build(out)")
    text = "def unpack(*args):\n" + "\n".join(f"    {line}" for line in body)
    exec(compile(text, __file__, "exec"), code.names)
    return code.names["unpack"]
