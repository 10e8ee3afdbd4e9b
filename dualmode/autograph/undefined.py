"""Names without a value: as variables that only one branch, or only a loop's body, assigns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ..errors import UndefinedError


class Undefined:
    """Stands for the value of a variable that has none.

    Attributes:
        name: the variable's.
        why: what the error says when it is read; None before any assignment, as in plain Python.
    """

    def __init__(self, name: str, why: str | None = None) -> None:
        self.name = name
        self.why = why

    def error(self) -> UnboundLocalError:
        if self.why is None:
            return UnboundLocalError(
                f"cannot access local variable {self.name!r} where it is not associated with a "
                "value"
            )
        return UndefinedError(f"{self.name}: {self.why}")

    def __repr__(self) -> str:
        return f"<undefined {self.name}>"


class UndefinedReturnValue(Undefined):
    """What a function returns as long as no `return` has been met."""

    def __init__(self) -> None:
        super().__init__("the result")


def caught() -> BaseException | None:
    """The exception that is being handled."""
    return sys.exc_info()[1]


def ld(value: Any) -> Any:
    """The value of a variable.

    Raises:
        UnboundLocalError: it has none.
    """
    if isinstance(value, Undefined):
        raise value.error() from None
    return value


def ldu(load: Callable[[], Any], name: str) -> Any:
    """The value of an attribute or item that need not exist."""
    try:
        return load()
    except (KeyError, AttributeError, NameError, IndexError):
        return Undefined(name)
