"""`@function`: Python functions of tensors, compiled.

The first call with a signature runs the Python code once to trace it into a graph, which is
compiled to one native function. Later calls with that signature run that, without Python.
"""

from __future__ import annotations

import functools
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, overload

from dualmode_compiler.runtime.layout import MISS
from dualmode_compiler.runtime.vectorcall import Routable

from . import config, tree
from .autograph import calls
from .callable import lock
from .concrete import LAYOUT, ConcreteFunction, updating
from .config import detours
from .errors import Site
from .families import Families, probes
from .inputs import InputSignature
from .op import state
from .signature import Arguments, Key
from .trace import Needs, Trace, trace
from .tracer import current_tracer

if TYPE_CHECKING:  # imported where it is used, to keep `import dualmode` short
    from .memory import Memory
    from .retraces import Retrace, Specialization

DERIVED = 64  # signatures that are kept though they were not traced; the others are made again
_RETRACES = 1000  # the latest are kept


def _straight() -> bool:
    """Whether calls from this thread may go straight to native code."""
    return config.jit and state.plain and not updating


def _miss(*_: Any) -> Any:
    return MISS


@functools.cache
def _load() -> None:
    """Load what first calls need, when there is a function to be called: programs that only compute
    eagerly do without."""
    from dualmode_compiler import driver  # noqa: F401

    from . import guard  # noqa: F401

    tree.load()


class Function(Routable):
    """A compiled function; what `@function` makes. Call it like the Python function.

    Tensors, arrays and Python numbers are traced: a new shape or dtype makes a new trace, a new
    value does not. All other arguments, such as bool, str and None, count by their value, objects
    and variables by their identity. Where the code needs the value of a Python number (as a size,
    in `range`, in `if`), that number counts by its value as well.

    Attributes:
        python_function: the function as it was written.
        name: for messages.
        retraces: why it was traced again, each time; the latest last.
    """

    __slots__ = ("__dict__", "__weakref__", "_route")

    def __init__(
        self,
        python_function: Callable[..., Any],
        name: str | None = None,
        skip: int = 0,
        input_signature: Any = None,
        reduce_retracing: bool = False,
        strict: bool = False,
        autograph: bool = True,
        background: bool = False,
        donate_argnums: int | Sequence[int] = (),
    ) -> None:
        _load()
        functools.update_wrapper(self, python_function)
        self.python_function = python_function
        self.name = name or getattr(python_function, "__name__", type(python_function).__name__)
        self._arguments = Arguments(python_function, skip)
        self._options = {
            "input_signature": input_signature,
            "reduce_retracing": reduce_retracing,
            "strict": strict,
            "autograph": autograph,
            "background": background,
            "donate_argnums": donate_argnums,
        }
        self._background = background
        self._donate = self._arguments.numbered(donate_argnums, "donate_argnums")
        self._strict = strict
        self._effects: set[Site] = set()  # lines with side effects that were reported
        self._autograph = autograph
        self._inputs = (
            None
            if input_signature is None
            else InputSignature(self.name, self._arguments, input_signature)
        )
        self.retraces: list[Retrace] = []
        self._warned = False
        # a signature's trace, or which numbers it lacks the values of
        self._traces: dict[Key, ConcreteFunction | Needs] = {}
        self._tracing: dict[Key, Needs] = {}
        # signatures that differ from traced ones in sizes only, the latest used last
        self._derived: OrderedDict[Key, ConcreteFunction] = OrderedDict()
        self._families = Families(2 if reduce_retracing or input_signature is not None else 3)
        self._count = 0
        # of the latest eager call: its trace, and its native entry if that takes arguments as given
        self._recent: ConcreteFunction | None = None
        self._fast: Callable[..., Any] = _miss
        self._methods: dict[int, _Method] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs and (not detours or _straight()):
            out = self._fast(*args)
            if out is not MISS:
                return out
        return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not config.jit:
            return self._python(*args, **kwargs)
        leaves, form = self._flatten(args, kwargs)
        eager = state.plain
        if eager and self._recent is not None:
            out = self._recent.attempt(leaves, form)
            if out is not MISS:
                return out
        concrete = self._concrete(self._arguments.key(form, leaves), leaves)
        out = concrete.run(leaves)
        if eager and concrete.ready:
            self._recent = concrete
            self._go(concrete.direct(len(args)) or _miss)
        return out

    def _go(self, fast: Callable[..., Any]) -> None:
        """Try `fast` first in later calls. Where the interpreter allows that, such calls do not
        come to `__call__` unless it misses."""
        if fast is self._fast:
            return
        self._fast = fast
        if config.entry == "native" and type(self) in _SKIPPED:
            _router(type(self)).connect(self, fast)

    @property
    def _python(self) -> Callable[..., Any]:
        """What runs without compilation."""
        return self.python_function

    @property
    def _converted(self) -> Callable[..., Any]:
        """What a trace runs."""
        return (calls.entry if self._autograph else calls.keep)(self._python)

    @property
    def trace_count(self) -> int:
        """How many signatures have been traced."""
        return self._count

    @property
    def specializations(self) -> list[Specialization]:
        """The signatures that were derived from traces at other sizes, and what each has cost."""
        from .retraces import Specialization

        return [
            Specialization(self._arguments.describe(key), concrete.cost)
            for key, concrete in self._derived.copy().items()
        ]

    def get_concrete_function(self, *args: Any, **kwargs: Any) -> ConcreteFunction:
        """The trace for these arguments, made if need be. `TensorSpec`s may stand for tensors."""
        leaves, form = self._flatten(args, kwargs)
        return self._concrete(self._arguments.key(form, leaves), leaves)

    def memory(self, *args: Any, **kwargs: Any) -> Memory:
        """The planned memory of a call with these arguments, see `Memory`; `print` it. Without
        arguments, of the only trace.

        Raises:
            ValueError: there are no arguments, and not one trace.
        """
        if args or kwargs:
            return self.get_concrete_function(*args, **kwargs).memory()
        known = [*self._traces.values(), *self._derived.values()]
        traces = [c for c in known if isinstance(c, ConcreteFunction)]
        if len(traces) != 1:
            raise ValueError(
                f"{self.name}.memory(): there are {len(traces)} traces; say for which arguments, "
                f"as in {self.name}.memory(x)"
            )
        return traces[0].memory()

    def _flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], Any]:
        leaves, form = tree.flatten(self._arguments.bind(args, kwargs))
        return leaves if self._inputs is None else self._inputs.take(leaves, form), form

    # --- traces -----------------------------------------------------------------------------------

    def _concrete(self, key: Key, leaves: list[Any]) -> ConcreteFunction:
        needs: Needs = {}
        while True:
            found = self._find(key) or self._derive(key) or self._trace(key, leaves, needs)
            if isinstance(found, ConcreteFunction):
                return found
            needs = found
            key = key.given(sorted(needs), leaves)

    def _find(self, key: Key) -> ConcreteFunction | Needs | None:
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
        return ConcreteFunction(self.name, self._arguments, made, self._background, self._donate)

    def _trace(self, key: Key, leaves: list[Any], needs: Needs) -> ConcreteFunction | Needs:
        with lock:
            found = self._find(key)
            if found is not None:  # another thread was faster
                return found
            if key in self._tracing:
                return self._recursion(key)
            needs = self._tracing[key] = dict(needs)
            try:
                made = self._run_trace(key, leaves, needs)
                concrete = self._bound(made)
                family = self._families.add(made)
                if not family.learned:
                    self._probe(key, made, leaves)
            finally:
                del self._tracing[key]
            self._keep(key, concrete, family.why)
            return concrete

    def _run_trace(self, key: Key, leaves: list[Any], needs: Needs) -> Trace:
        from . import guard  # when first used, to keep `import dualmode` short

        run = functools.partial(trace, self._arguments, key, self._converted, leaves, needs)
        watched = functools.partial(
            guard.watch, self.name, self._python, leaves, self._effects, self._strict
        )
        with watched() as watch:
            made = run(creates=not self._count)
            watch.ignore = made.creates
            watch.changed(made.changed)
        if not made.creates:
            return made
        # once more without the first call's initialisation: this is what later calls do
        with watched() as watch:
            made = run(creates=False)
            watch.changed(made.changed)
            return made

    def _probe(self, key: Key, made: Trace, leaves: list[Any]) -> None:
        """Trace at other sizes, where the input signature has None, to learn what depends on them.

        What they are derived for need not be right for a probe, so its errors say nothing.
        """
        axes = [] if self._inputs is None else self._inputs.symbolic()
        for probe in probes(key, axes):
            try:
                other = trace(
                    self._arguments, probe, self._converted, leaves, dict(made.needs), False
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
        self._count += 1
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

    # --- as a method ------------------------------------------------------------------------------

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        method = self._methods.get(id(instance))
        if method is None:
            method = self._methods[id(instance)] = _Method(self, instance)
        return MethodType(method, instance)

    # --- like a Python function, it is copied and pickled by reference --------------------------

    def __copy__(self) -> Function:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Function:
        return self

    def __reduce__(self) -> str:
        return getattr(self, "__qualname__", self.name)

    def __repr__(self) -> str:
        traces = f"{self.trace_count} trace{'' if self.trace_count == 1 else 's'}"
        return f"<dm.Function {self.name}({', '.join(self._arguments.names)}): {traces}>"


class _Method(Function):
    """A `Function` of a class, for one instance, which it does not keep alive."""

    def __init__(self, function: Function, instance: Any) -> None:
        super().__init__(function.python_function, function.name, 1, **function._options)
        self._effects = function._effects
        methods, key = function._methods, id(instance)
        try:
            self._instance = weakref.ref(instance, lambda _: methods.pop(key, None))
        except TypeError:
            raise TypeError(
                f"{type(instance).__name__} has a @dm.function and __slots__ without "
                "'__weakref__'; add it, so that the traces end with the instance"
            ) from None

    @property
    def _python(self) -> Callable[..., Any]:
        return MethodType(self.python_function, self._instance())

    def __call__(self, instance: Any, *args: Any, **kwargs: Any) -> Any:
        if not kwargs and (not detours or _straight()):
            out = self._fast(*args)
            if out is not MISS:
                return out
        return self._call(args, kwargs)


_SKIPPED = {Function: 0, _Method: 1}  # arguments that compiled code does not get


@functools.cache
def _router(owner: type[Function]) -> Any:
    from dualmode_compiler.runtime.entry_native import Router  # it loads what compiles code

    return Router(owner, LAYOUT, detours, _SKIPPED[owner])


@overload
def function(python_function: Callable[..., Any], /) -> Function: ...
@overload
def function(
    *,
    name: str | None = None,
    input_signature: Any = None,
    reduce_retracing: bool = False,
    autograph: bool = True,
    strict: bool = False,
    background: bool = False,
    donate_argnums: int | Sequence[int] = (),
    jit_compile: bool | None = None,
) -> Callable[[Callable[..., Any]], Function]: ...


def function(
    python_function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    input_signature: Any = None,
    reduce_retracing: bool = False,
    autograph: bool = True,
    strict: bool = False,
    background: bool = False,
    donate_argnums: int | Sequence[int] = (),
    jit_compile: bool | None = None,
) -> Any:
    """Compile a function of tensors: `@dm.function`, or `@dm.function(name="step")`.

    Args:
        python_function: a function or method. Arguments and results are tensors, arrays, numbers
            and other values, also nested in lists, tuples, dicts and dataclasses.
        name: for messages; that of the Python function unless given.
        input_signature: one entry for each of the first parameters, a `TensorSpec` or a structure
            of them; calls with anything else are refused. Sizes that are None may be any: the first
            call traces twice to learn what depends on them, and no size is traced again, other than
            0 and 1, and sizes for which the Python code goes another way.
        reduce_retracing: learn already from the first new size, not from the second, what depends
            on it.
        strict: raise a SideEffectError, rather than warn, where the code does something that runs
            once, when it is traced, and not on each call: prints, appends to an outer list, draws
            random numbers by NumPy.
        autograph: convert the control flow of the code, and of what it calls, so that it may
            depend on tensors: see `dm.autograph`.
        background: compile in another thread. Until that is done, calls compute what was traced op
            by op, as eager mode does; Python's side effects do not come again. Calls under a tape
            or within another function wait.
        donate_argnums: the numbers of parameters (after `self`, in a method) whose tensors a call
            uses up, as in JAX: results of the same shape and dtype take their memory. Any later use
            of these tensors raises a DonatedError. Arrays that share memory with others are
            copied, and NumPy arrays stay as they are. Nothing is donated under a tape, inside
            another function, or without compilation.
        jit_compile: accepted as in TensorFlow 2; every function is compiled.

    Returns:
        A `Function`, which is called like `python_function`.

    Raises:
        TracedValueError: when called, where the code needs the value of a tensor (as in `float`).
        VariableError: when called, where a variable is created on a later call than the first.
        ValueError: a number in `donate_argnums` is not that of a parameter.
    """
    make = functools.partial(
        Function,
        name=name,
        input_signature=input_signature,
        reduce_retracing=reduce_retracing,
        strict=strict,
        autograph=autograph,
        background=background,
        donate_argnums=donate_argnums,
    )
    return make if python_function is None else make(python_function)


def run_functions_eagerly(run_eagerly: bool) -> None:
    """Run the bodies of all `@function`s as plain Python to debug them, or stop that."""
    config.update(jit=not run_eagerly)
