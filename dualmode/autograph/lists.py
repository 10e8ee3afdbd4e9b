"""Lists that native loops append to: each iteration's entries become rows of stacked results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, SupportsIndex

from .. import tree
from ..errors import ShapeError, locate
from ..tracer import current_tracer


class Growing(list[Any]):
    """A list within the body of a native loop.

    Attributes:
        name: of the variable.
        before: how many entries it had before this iteration; None where that differs between
            iterations, as these append: then they cannot be read.
        added: what this iteration appended.
    """

    def __init__(self, name: str, entries: Sequence[Any] | None) -> None:
        super().__init__(() if entries is None else entries)
        self.name = name
        self.readable = entries is not None
        self.added: list[Any] = []

    def fork(self) -> Growing:
        """A copy, for a branch."""
        new = Growing(self.name, list(self) if self.readable else None)
        new.added = list(self.added)
        return new

    def append(self, x: Any, /) -> None:
        self.added.append(x)
        super().append(x)

    def _refuse(self, how: str) -> NoReturn:
        raise locate(
            TypeError(
                f"{self.name}: a list that a native loop appends to cannot be {how} in the loop; "
                "carry what is needed from one iteration to the next in a variable"
            )
        )

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index) if self.readable else self._refuse("read")

    def __iter__(self) -> Any:
        return super().__iter__() if self.readable else self._refuse("read")

    def __len__(self) -> int:
        return super().__len__() if self.readable else self._refuse("measured")

    def __bool__(self) -> bool:
        return bool(len(self))

    def pop(self, index: SupportsIndex = -1) -> Any:
        return super().pop(index) if self.readable else self._refuse("popped from")


def fork(x: Any) -> Any:
    """`x` for one of several branches: a list is copied."""
    if isinstance(x, Growing):
        return x.fork()
    return list(x) if type(x) is list else x


def grow_alike(values: Sequence[Any]) -> bool:
    """Whether a variable with these values behind branches is a list that a loop appends to.

    Raises:
        ShapeError: not as many entries in all of them.
    """
    growing = [x for x in values if isinstance(x, Growing)]
    if not growing:
        return False
    if len(growing) < len(values) or len({len(x.added) for x in growing}) > 1:
        raise locate(
            ShapeError(
                f"{growing[0].name}: a list that a native loop appends to grows in one branch "
                "only; append in every iteration, a value chosen by `if` or dm.where"
            )
        )
    return True


def joined(before: Any, value: Any) -> Any:
    """A variable behind branches, which was `before` them: a loop's list has `value` added."""
    if not isinstance(before, Growing) or not isinstance(value, list):
        return value
    return extended(before, value[len(before.added) :])


def extended(before: Any, entries: Sequence[Any]) -> Any:
    """The list `before` with further `entries`."""
    new = before.fork() if isinstance(before, Growing) else list(before)
    for x in entries:
        new.append(x)
    return new


def watched(name: str, x: Any) -> Any:
    """Variable `name`, of value `x`, in the body of a loop: notes appends if it is a list."""
    if isinstance(x, Growing):
        return Growing(name, list(x) if x.readable else None)
    return Growing(name, x) if type(x) is list else x


def list_append(target: Any, x: Any) -> Any:
    """`target.append(x)`; the list."""
    target.append(x)
    return target


def plain(x: Any) -> Any:
    """`x`, with a plain list in the place of one that was watched."""
    return list(x) if isinstance(x, Growing) and x.readable else x


def unstacked(stacked: Sequence[Any], length: int) -> list[Any]:
    """The entries that `length` iterations appended, in order: `stacked` holds the rows of each
    append of an iteration."""
    tracer = current_tracer()
    assert tracer is not None, "native loops are traced"
    forms = [tree.flatten(x)[1] for x in stacked]
    columns = [[tracer.entries(t) for t in tree.leaves(x)] for x in stacked]
    return [
        tree.unflatten(form, [entries[k] for entries in leaves])
        for k in range(length)
        for form, leaves in zip(forms, columns, strict=True)
    ]


def growth_error(name: str) -> ShapeError:
    """A list grows in a loop whose number of iterations is not known."""
    return ShapeError(
        f"{name}: the loop appends to a list, and its number of iterations is not known while "
        "tracing, so neither is the length of the list; loop over dm.range of a Python int or over "
        "a tensor, without break; or write to a tensor by x = x.at[i].set(y)"
    )
