"""Traces of one function that differ in the sizes of their arguments only, and what they teach."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dualmode_compiler.spec import Spec

from .signature import Identity, Key
from .trace import Trace

if TYPE_CHECKING:  # slow to import, and needed only when sizes change
    from .relax import Learned

_KEPT = 4  # of the latest traces, and of what was learned: one for each way the code goes
SMALLEST = 2  # the smallest size that may be symbolic


class Family:
    """What is known of one signature but for sizes.

    Attributes:
        why: why the latest trace had to be made, where sizes were symbolic or could have been.
    """

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._traces: list[Trace] = []
        self._learned: list[Learned] = []
        self._seen = 0
        self.why = ""

    @property
    def learned(self) -> bool:
        """Whether other sizes may follow from what is known."""
        return bool(self._learned)

    def derive(self, key: Key) -> Trace | None:
        """The trace for `key`, where it follows from others."""
        self.why = ""
        if not self._learned:
            return None
        from .fit import Unfit

        for learned in self._learned:
            try:
                return learned.trace(key)
            except Unfit as error:
                self.why = self.why or str(error)
        return None

    def add(self, trace: Trace) -> None:
        """Learn from a trace that had to be made."""
        self._seen += 1
        self._traces = [trace, *self._traces[: _KEPT - 1]]
        if self._seen < self._enough:
            return
        from .relax import Learned

        for k, one in enumerate(self._traces):
            alike, why = self._alike(one, self._traces[k + 1 :])
            if len(alike) > 1:
                self._learned = [Learned(alike), *self._learned[: _KEPT - 1]]
            elif k == 0:
                self.why = why or self.why
            if self._learned:
                return

    def _alike(self, trace: Trace, others: Sequence[Trace]) -> tuple[list[Trace], str]:
        """`trace`, and those of `others` that it can be learned from together; why not the rest."""
        from .relax import Learned, NotAlike, varying

        found, why = [trace], ""
        for other in others:
            keys = [t.key for t in (*found, other)]
            axes = varying(keys)
            if len(varying([trace.key, other.key])) == 0 or _special(keys, axes):
                continue
            try:
                Learned([*found, other])
            except NotAlike as error:
                why = why or str(error)
            else:
                found.append(other)
        return found, why


def _special(keys: Sequence[Key], axes: Sequence[tuple[int, int]]) -> bool:
    """Whether one of the sizes is too small to tell what others do."""
    return any(key.spec(k).shape[axis] < SMALLEST for key in keys for k, axis in axes)


class Families:
    """All traces of a function.

    Args:
        enough: how many sizes have to be traced before the next one may be derived.
    """

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._families: dict[Any, Family] = {}
        self._needs: dict[Any, Any] = {}

    def of(self, key: Key) -> Family:
        return self._families.setdefault(_pattern(key), Family(self._enough))

    def needs(self, key: Key) -> Any:
        """The Python numbers whose values the code needs, for other sizes at least."""
        return None if key.values else self._needs.get(_pattern(key))

    def add(self, trace: Trace) -> Family:
        for stale in [p for p in self._families if _stale(p)]:
            del self._families[stale]
        family = self.of(trace.key)
        if not trace.captures:
            family.add(trace)
        if trace.key.values:
            self._needs[_pattern(trace.key._replace(values=()))] = trace.needs
        return family

    def derive(self, key: Key) -> Trace | None:
        family = self._families.get(_pattern(key))
        return None if family is None else family.derive(key)


def _pattern(key: Key) -> Any:
    """A signature without the sizes of its arrays."""
    leaves = tuple((x.dtype, x.ndim, x.weak) if isinstance(x, Spec) else x for x in key.leaves)
    return key.form, leaves, key.values


def _stale(pattern: Any) -> bool:
    return any(isinstance(x, Identity) and not x.alive for x in pattern[1])


def probes(key: Key, axes: Sequence[tuple[int, int]]) -> Iterator[Key]:
    """Signatures with other sizes along `axes`, to learn from; equal sizes stay equal."""
    sizes = sorted({key.spec(k).shape[a] for k, a in axes})
    if not sizes or sizes[0] < SMALLEST:
        return
    for change in _CHANGES:
        others = {n: change(n) + 2 * place for place, n in enumerate(sizes)}
        yield key._replace(
            leaves=tuple(_changed(key, k, axes, others) for k in range(len(key.leaves)))
        )


_CHANGES: tuple[Callable[[int], int], ...] = (
    lambda n: 2 * n,
    lambda n: n + 2,
    lambda n: n + 1,
)


def _changed(key: Key, k: int, axes: Sequence[tuple[int, int]], others: dict[int, int]) -> Any:
    mine = {a for leaf, a in axes if leaf == k}
    if not mine:
        return key.leaves[k]
    spec = key.spec(k)
    shape = (others[n] if a in mine else n for a, n in enumerate(spec.shape))
    return Spec(shape, spec.dtype, spec.weak)
