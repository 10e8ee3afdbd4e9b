"""`@function`: Python functions of tensors, compiled.

The first call with a signature runs the Python code once to trace it into a graph, which is
compiled to one native function. Later calls with that signature run that, without Python.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, overload

from dualmode_compiler.runtime.layout import MISS

from . import config, tree
from .callable import lock
from .concrete import ConcreteFunction, Needs
from .eager import EAGER
from .op import state
from .signature import Arguments, Key
from .tracer import current_tracer


def _miss(*_: Any) -> Any:
    return MISS


class Function:
    """A compiled function; what `@function` makes. Call it like the Python function.

    Tensors, arrays and Python numbers are traced: a new shape or dtype makes a new trace, a new
    value does not. All other arguments, such as bool, str and None, count by their value, objects
    and variables by their identity. Where the code needs the value of a Python number (as a size,
    in `range`, in `if`), that number counts by its value as well.

    Attributes:
        python_function: the function as it was written.
        name: for messages.
    """

    def __init__(
        self, python_function: Callable[..., Any], name: str | None = None, skip: int = 0
    ) -> None:
        functools.update_wrapper(self, python_function)
        self.python_function = python_function
        self.name = name or getattr(python_function, "__name__", type(python_function).__name__)
        self._arguments = Arguments(python_function, skip)
        # a signature's trace, or which numbers it lacks the values of
        self._traces: dict[Key, ConcreteFunction | Needs] = {}
        self._tracing: dict[Key, Needs] = {}
        self._count = 0
        # of the latest eager call: its trace, and its native entry if that takes arguments as given
        self._recent: ConcreteFunction | None = None
        self._fast: Callable[..., Any] = _miss
        self._methods: dict[int, _Method] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if config.jit and not kwargs and not state.tapes and state.mode is EAGER:
            out = self._fast(*args)
            if out is not MISS:
                return out
        return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not config.jit:
            return self._python(*args, **kwargs)
        leaves, form = tree.flatten(self._arguments.bind(args, kwargs))
        eager = state.mode is EAGER and not state.tapes
        if eager and self._recent is not None:
            out = self._recent.attempt(leaves, form)
            if out is not MISS:
                return out
        concrete = self._concrete(self._arguments.key(form, leaves), leaves)
        out = concrete.run(leaves)
        if eager:
            self._recent = concrete
            self._fast = concrete.direct(len(args)) or _miss
        return out

    @property
    def _python(self) -> Callable[..., Any]:
        """What a trace runs."""
        return self.python_function

    @property
    def trace_count(self) -> int:
        """How many signatures have been traced."""
        return self._count

    def get_concrete_function(self, *args: Any, **kwargs: Any) -> ConcreteFunction:
        """The trace for these arguments, made if need be. `TensorSpec`s may stand for tensors."""
        leaves, form = tree.flatten(self._arguments.bind(args, kwargs))
        return self._concrete(self._arguments.key(form, leaves), leaves)

    # --- traces -----------------------------------------------------------------------------------

    def _concrete(self, key: Key, leaves: list[Any]) -> ConcreteFunction:
        needs: Needs = {}
        while True:
            found = self._find(key) or self._trace(key, leaves, needs)
            if isinstance(found, ConcreteFunction):
                return found
            needs = found
            key = key.given(sorted(needs), leaves)

    def _find(self, key: Key) -> ConcreteFunction | Needs | None:
        found = self._traces.get(key)
        if found is None:
            tracer = current_tracer()
            if tracer is not None:
                return tracer.local.get((self, key))
        return found

    def _trace(self, key: Key, leaves: list[Any], needs: Needs) -> ConcreteFunction | Needs:
        with lock:
            found = self._find(key)
            if found is not None:  # another thread was faster
                return found
            if key in self._tracing:
                return self._recursion(key)
            needs = self._tracing[key] = dict(needs)
            try:
                concrete = self._run_trace(key, leaves, needs)
            finally:
                del self._tracing[key]
            self._keep(key, concrete)
            return concrete

    def _run_trace(self, key: Key, leaves: list[Any], needs: Needs) -> ConcreteFunction:
        trace = functools.partial(
            ConcreteFunction, self.name, self._arguments, key, self._python, leaves, needs
        )
        concrete = trace(creates=not self._count)
        # once more without the first call's initialisation: this is what later calls do
        return trace(creates=False) if concrete.creates else concrete

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

    def _keep(self, asked: Key, concrete: ConcreteFunction) -> None:
        """Remember a trace that was made because of the call known by `asked`."""
        for stale in [k for k in self._traces if k.stale]:
            del self._traces[stale]
        self._count += 1
        key = concrete.key
        if key != asked:
            self._traces[asked] = concrete.needs
        tracer = current_tracer()
        if tracer is not None and concrete.captures:  # it ends with the trace around it
            tracer.local[self, key] = concrete
        else:
            self._traces[key] = concrete

    # --- as a method ------------------------------------------------------------------------------

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        method = self._methods.get(id(instance))
        if method is None:
            method = self._methods[id(instance)] = _Method(self, instance)
        return MethodType(method, instance)

    def __repr__(self) -> str:
        traces = f"{self.trace_count} trace{'' if self.trace_count == 1 else 's'}"
        return f"<dm.Function {self.name}({', '.join(self._arguments.names)}): {traces}>"


class _Method(Function):
    """A `Function` of a class, for one instance, which it does not keep alive."""

    def __init__(self, function: Function, instance: Any) -> None:
        super().__init__(function.python_function, function.name, skip=1)
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
        if config.jit and not kwargs and not state.tapes and state.mode is EAGER:
            out = self._fast(*args)
            if out is not MISS:
                return out
        return self._call(args, kwargs)


@overload
def function(python_function: Callable[..., Any], /) -> Function: ...
@overload
def function(
    *, name: str | None = None, autograph: bool = True, jit_compile: bool | None = None
) -> Callable[[Callable[..., Any]], Function]: ...


def function(
    python_function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    autograph: bool = True,
    jit_compile: bool | None = None,
) -> Any:
    """Compile a function of tensors: `@dm.function`, or `@dm.function(name="step")`.

    Args:
        python_function: a function or method. Arguments and results are tensors, arrays, numbers
            and other values, also nested in lists, tuples, dicts and dataclasses.
        name: for messages; that of the Python function unless given.
        autograph, jit_compile: accepted as in TensorFlow 2; every function is compiled.

    Returns:
        A `Function`, which is called like `python_function`.

    Raises:
        TracedValueError: when called, where the code needs the value of a tensor (as in `if`).
        VariableError: when called, where a variable is created on a later call than the first.
    """
    if python_function is None:
        return lambda fn: Function(fn, name)
    return Function(python_function, name)


def run_functions_eagerly(run_eagerly: bool) -> None:
    """Run the bodies of all `@function`s as plain Python to debug them, or stop that."""
    config.update(jit=not run_eagerly)


def functions_run_eagerly() -> bool:
    """Whether `run_functions_eagerly(True)` or `DUALMODE_DISABLE_JIT=1` is in force."""
    return not config.jit
