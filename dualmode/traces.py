"""The traces of one function: found by signature, derived from those for other sizes, or made."""

from __future__ import annotations

import functools
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dualmode_compiler.records import dataclass

from .autograph import calls
from .callable import lock
from .concrete import ConcreteFunction
from .errors import Site
from .families import Families, probes
from .inputs import InputSignature
from .signature import Arguments, Key
from .trace import Needs, Trace, trace
from .tracer import current_tracer

if TYPE_CHECKING:  # imported where it is used, to keep `import dualmode` short
    from .retraces import Retrace, Specialization

DERIVED = 64  # signatures that are kept though they were not traced; the others are made again
_RETRACES = 1000  # the latest are kept

Code = Callable[..., Any]  # what is traced


@dataclass(frozen=True, slots=True)
class Options:
    """How a function is traced, as `dm.function` takes it; `donated` are numbers of parameters."""

    reduce_retracing: bool
    strict: bool
    autograph: bool
    background: bool
    donated: frozenset[int]


class Traces:
    """The traces of one function, which its caller has: methods get the code to be traced.

    Attributes:
        name: of the function, for messages.
        count: how many signatures have been traced.
        retraces: why it was traced again, each time; the latest last.
        reported: lines with side effects that were reported.
    """

    def __init__(
        self, name: str, arguments: Arguments, inputs: InputSignature | None, options: Options
    ) -> None:
        self.name, self._arguments, self._inputs = name, arguments, inputs
        self._options = options
        self.count = 0
        self.retraces: list[Retrace] = []
        self.reported: set[Site] = set()
        self._warned = False
        # a signature's trace, or which numbers it lacks the values of
        self._traces: dict[Key, ConcreteFunction | Needs] = {}
        self._tracing: dict[Key, Needs] = {}
        # signatures that differ from traced ones in sizes only, the latest used last
        self._derived: OrderedDict[Key, ConcreteFunction] = OrderedDict()
        early = options.reduce_retracing or inputs is not None
        self._families = Families(2 if early else 3)

    def all(self) -> list[ConcreteFunction]:
        """Those that are known, the derived ones last."""
        known = [*self._traces.values(), *self._derived.values()]
        return [c for c in known if isinstance(c, ConcreteFunction)]

    def specializations(self) -> list[Specialization]:
        """The signatures that were derived, and what each has cost."""
        from .retraces import Specialization

        return [
            Specialization(self._arguments.describe(key), concrete.cost)
            for key, concrete in self._derived.copy().items()
        ]

    def _converted(self, code: Code) -> Code:
        """What a trace runs."""
        return (calls.entry if self._options.autograph else calls.keep)(code)

    def find(self, key: Key, leaves: list[Any], code: Code) -> ConcreteFunction:
        """The trace for the signature `key` of a call with `leaves`; if need be made of `code`."""
        needs: Needs = {}
        while True:
            found = self._known(key) or self._derive(key) or self._trace(key, leaves, needs, code)
            if isinstance(found, ConcreteFunction):
                return found
            needs = found
            key = key.given(sorted(needs), leaves)

    def _known(self, key: Key) -> ConcreteFunction | Needs | None:
        found = self._traces.get(key)
        if found is None:
            tracer = current_tracer()
            if tracer is not None:
                found = tracer.local.get((self, key))
        if found is None:
            found = self._derived.get(key)
            if found is not None:
                with lock:  # another thread may have let it go
                    self._derived[key] = found
                    self._derived.move_to_end(key)
        return found

    def _derive(self, key: Key) -> ConcreteFunction | Needs | None:
        """What is known of the signature from traces for other sizes."""
        with lock:
            start = time.perf_counter()
            made = self._families.derive(key)
            if made is None:
                return self._families.needs(key)
            made.seconds = time.perf_counter() - start
            concrete = self._derived[key] = self._bound(made)
            if len(self._derived) > DERIVED:
                self._derived.popitem(last=False)
            return concrete

    def _bound(self, made: Trace) -> ConcreteFunction:
        o = self._options
        return ConcreteFunction(self.name, self._arguments, made, o.background, o.donated)

    def _trace(
        self, key: Key, leaves: list[Any], needs: Needs, code: Code
    ) -> ConcreteFunction | Needs:
        with lock:
            found = self._known(key)
            if found is not None:  # another thread was faster
                return found
            if key in self._tracing:
                return self._recursion(key)
            needs = self._tracing[key] = dict(needs)
            try:
                made = self._run(key, leaves, needs, code)
                concrete = self._bound(made)
                family = self._families.add(made)
                if not family.learned:
                    self._probe(key, made, leaves, code)
            finally:
                del self._tracing[key]
            self._keep(key, concrete, family.why)
            return concrete

    def _run(self, key: Key, leaves: list[Any], needs: Needs, code: Code) -> Trace:
        from . import guard  # when first used, to keep `import dualmode` short

        converted = self._converted(code)
        run = functools.partial(trace, self._arguments, key, converted, leaves, needs)
        watched = functools.partial(
            guard.watch, self.name, code, leaves, self.reported, self._options.strict
        )
        with watched() as watch:
            made = run(creates=not self.count)
            watch.ignore = made.creates
            watch.changed(made.changed)
        if not made.creates:
            return made
        # once more without the first call's initialisation: this is what later calls do
        with watched() as watch:
            made = run(creates=False)
            watch.changed(made.changed)
            return made

    def _probe(self, key: Key, made: Trace, leaves: list[Any], code: Code) -> None:
        """Trace at other sizes, where the input signature has None, to learn what depends on them.

        What they are derived for need not be right for a probe, so its errors say nothing.
        """
        axes = [] if self._inputs is None else self._inputs.symbolic()
        for probe in probes(key, axes):
            try:
                other = trace(
                    self._arguments, probe, self._converted(code), leaves, dict(made.needs), False
                )
            except Exception:
                continue
            if self._families.add(other).learned:
                return

    def _recursion(self, key: Key) -> Needs:
        """The numbers that a call of itself, within the trace for `key`, depends on."""
        needs = self._tracing[key]
        if needs.keys() <= {k for k, _ in key.values}:
            raise RecursionError(
                f"{self.name}: calls itself with the signature that is being traced, "
                f"({self._arguments.describe(key)}), so tracing would not end; let the "
                "recursion depend on a bool or on a Python number that the code tests"
            )
        return needs

    def _keep(self, asked: Key, concrete: ConcreteFunction, reason: str) -> None:
        """Remember a trace that was made because of the call known by `asked`."""
        for stale in [k for k in self._traces if k.stale]:
            del self._traces[stale]
        for stale in [k for k in self._derived if k.stale]:
            del self._derived[stale]
        self.count += 1
        key = concrete.key
        if key != asked:
            self._traces[asked] = concrete.needs
        tracer = current_tracer()
        if tracer is not None and concrete.captures:  # it ends with the trace around it
            tracer.local[self, key] = concrete
        else:
            self._traces[key] = concrete
        self._explain(concrete, reason)

    def _explain(self, concrete: ConcreteFunction, reason: str) -> None:
        """Record why there is a new trace."""
        known = [
            c.key
            for c in self._traces.values()
            if isinstance(c, ConcreteFunction) and c is not concrete
        ]
        if not known:
            return
        from . import retraces

        changes = retraces.compare(self._arguments, concrete.key, concrete.needs, known)
        if not changes:
            return
        self.retraces.append(retraces.Retrace(tuple(changes), reason, concrete.cost))
        del self.retraces[:-_RETRACES]
        if len(self.retraces) == retraces.WARN_AFTER and not self._warned:
            self._warned = True
            retraces.warn(self.name, self.retraces)
