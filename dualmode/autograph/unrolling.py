"""Loops that stay Python's while a function is traced: each iteration adds to the trace."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sized
from typing import Any

from .. import errors
from ..errors import ConversionError, UnrollingWarning
from . import native
from .statements import Variables, if_stmt

_MANY = 1_000  # iterations
_TOO_MANY = 100_000
_ENDLESS = 500  # of an iterator whose length is not known, each a branch
_MEND = (
    "loop over dm.range, a tensor or a dataset, or let the condition of `while` depend on a "
    "tensor, to have one loop of the compiled code"
)


class Rounds:
    """Counts the iterations of a loop that are traced."""

    def __init__(self) -> None:
        self.count = 0

    def another(self) -> None:
        """One more.

        Raises:
            ConversionError: there are too many.
        """
        self.count += 1
        if self.count == _MANY:
            site = errors.user_site() or ("<unknown>", 1)
            text = (
                f"a Python loop has been traced {_MANY} times, and each iteration adds to the "
                f"compiled code; {_MEND}"
            )
            warnings.warn_explicit(text, UnrollingWarning, *site)
        elif self.count > _TOO_MANY:
            raise errors.locate(
                ConversionError(
                    f"a Python loop has been traced {_TOO_MANY} times, and does not end; {_MEND}"
                )
            )


def unrolled(
    items: Iterable[Any],
    extra_test: Callable[[], Any] | None,
    body: Callable[[Any], Any],
    variables: Variables,
) -> None:
    """Python's own `for`. Where a break depends on a tensor, the iterations behind it are
    branches."""
    rounds = Rounds()
    if extra_test is None:
        for item in items:
            rounds.another()
            body(item)
        return
    goes_on = extra_test()
    if not native.is_unknown(goes_on) and not goes_on:
        return
    for item in items:
        rounds.another()
        if native.is_unknown(goes_on):
            if rounds.count > _ENDLESS and not isinstance(items, Sized):
                raise errors.locate(
                    ConversionError(
                        "whether this loop over a Python iterator ends depends on a tensor, and "
                        f"the iterator gives more than {_ENDLESS} items, all of which would be "
                        f"traced; {_MEND}"
                    )
                )
            run = lambda item=item: body(item)  # noqa: E731
            if_stmt(goes_on, run, lambda: None, *variables, outputs=len(variables.names))
        else:
            with native.unrolled():
                body(item)
        goes_on = extra_test()
        if not native.is_unknown(goes_on) and not goes_on:
            return
