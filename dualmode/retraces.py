"""Why a function was traced again, for the user to read."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import field
from typing import Any

from dualmode_compiler.records import dataclass
from dualmode_compiler.spec import Spec

from . import errors
from .concrete import Cost
from .signature import Arguments, Identity, Key
from .trace import Needs
from .tree import Text

WARN_AFTER = 5
_SHOWN = 3


@dataclass(frozen=True)
class Specialization:
    """A signature whose graph was derived from those for other sizes."""

    arguments: str
    cost: Cost

    @property
    def ms(self) -> float:
        """What it has cost so far, in milliseconds: almost all of it is compilation."""
        return self.cost.ms

    def __repr__(self) -> str:
        return f"<Specialization: {self.arguments}: {self.ms:.1f} ms>"


@dataclass(frozen=True)
class Change:
    """One argument that was not as on an earlier call.

    Attributes:
        argument: its path, as in `params['w'][0]`.
        kind: "shape", "dtype", "value", "structure", "identity", or "type".
        old, new: what it was, and what it is now.
        why: the user's line that needs its value, where a number's value is what counts.
    """

    argument: str
    kind: str
    old: Any
    new: Any
    why: str = ""

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        return f"{self.kind} of {self.argument}: {self.old!r} -> {self.new!r}{why}"


@dataclass
class Retrace:
    """A trace after the first, and the call that it was made for.

    Attributes:
        changes: the arguments that differ from the closest earlier signature.
        reason: why sizes could not be symbolic, where that is what differs.
    """

    changes: tuple[Change, ...]
    reason: str = ""
    cost: Cost = field(default_factory=Cost)

    @property
    def argument(self) -> str:
        return self.changes[0].argument

    @property
    def kind(self) -> str:
        return self.changes[0].kind

    @property
    def old(self) -> Any:
        return self.changes[0].old

    @property
    def new(self) -> Any:
        return self.changes[0].new

    @property
    def ms(self) -> float:
        """What it has cost so far, in milliseconds: tracing, and compiling once it has run."""
        return self.cost.ms

    def __str__(self) -> str:
        shown = f"{'; '.join(map(str, self.changes))}: {self.ms:.1f} ms"
        first = self.changes[0]
        if self.reason and all(c.kind == "shape" for c in self.changes):
            sizes = zip(first.old.shape, first.new.shape, strict=False)
            axis = next((k for k, (n, m) in enumerate(sizes) if n != m), 0)
            shown += f"; axis {axis} of {first.argument} cannot be symbolic: {self.reason}"
        return shown

    def __repr__(self) -> str:
        return f"<Retrace: {self}>"


def compare(arguments: Arguments, new: Key, needs: Needs, known: Sequence[Key]) -> list[Change]:
    """What tells `new` from the closest of the `known` signatures; of equals, the latest."""
    found: list[Change] = []
    for old in reversed(known):
        changes = _changes(arguments, old, new, needs)
        if changes and (not found or len(changes) < len(found)):
            found = changes
    return found


def _changes(arguments: Arguments, old: Key, new: Key, needs: Needs) -> list[Change]:
    if old.form != new.form:
        before, after = set(arguments.paths(old.form)), set(arguments.paths(new.form))
        gone, come = sorted(before - after), sorted(after - before)
        if gone or come:
            return [Change(_root([*come, *gone]), "structure", _listed(gone), _listed(come))]
        name = ", ".join(arguments.names)
        return [Change(name, "structure", Text(old.form), Text(new.form))]
    found = []
    values = dict(old.values), dict(new.values)
    rows = zip(arguments.paths(new.form), old.leaves, new.leaves, strict=True)
    for k, (path, a, b) in enumerate(rows):
        why = f"its value is needed for {needs[k]}" if k in needs else ""
        if a != b:
            found.append(Change(path, _kind(a, b), _shown(a), _shown(b)))
        elif k in values[1] and values[0].get(k) != values[1][k]:
            before = values[0].get(k)
            shown = _shown(a if before is None else before)
            found.append(Change(path, "value", shown, _shown(values[1][k]), why))
    return found


def _root(paths: Sequence[str]) -> str:
    path = paths[0]
    ends = [path.find(c) for c in "[." if c in path]
    return path[: min(ends)] if ends else path


def _listed(paths: Sequence[str]) -> Any:
    return Text(f"with {', '.join(paths)}" if paths else "without")


def _shown(x: Any) -> Any:
    return Text(repr(x)) if not isinstance(x, Spec) else x


def _kind(a: Any, b: Any) -> str:
    if isinstance(a, Spec) and isinstance(b, Spec):
        return "shape" if (a.dtype, a.weak) == (b.dtype, b.weak) else "dtype"
    if isinstance(a, Identity) and isinstance(b, Identity):
        return "identity"
    return "value" if type(a) is type(b) else "type"


_MEND = {
    "shape": "sizes: give input_signature=[dm.TensorSpec([None, ...])] or reduce_retracing=True, "
    "or pad to few sizes",
    "dtype": "dtypes: convert the argument, x.astype(dm.float32), before the call",
    "value": "values: pass a tensor, dm.asarray(n), in the place of a Python value, or compute "
    "without its value",
    "type": "types: pass the same kind of value on each call",
    "structure": "structures: pass the same keys and lengths on each call",
    "identity": "objects: pass the same object again, or the tensors in it",
}


def explain(name: str, retraces: Sequence[Retrace]) -> str:
    """The text of the warning."""
    ms = sum(r.ms for r in retraces)
    lines = [
        f"{name} has been traced again {len(retraces)} times ({ms:.0f} ms): tracing runs its "
        "Python code and compiles; the latest:"
    ]
    lines += [f"  {r}" for r in retraces[-_SHOWN:]]
    kinds = dict.fromkeys(c.kind for r in retraces for c in r.changes)
    lines += [f"  {_MEND[k]}" for k in kinds]
    lines.append(f"  All of them are in {name}.retraces.")
    return "\n".join(lines)


def warn(name: str, retraces: Sequence[Retrace]) -> None:
    """Issue the warning, at the user's line."""
    site = errors.user_site() or ("<unknown>", 1)
    warnings.warn_explicit(explain(name, retraces), errors.RetracingWarning, *site)
