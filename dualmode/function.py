"""`@function`: Python functions of tensors, compiled.

The first call with a signature runs the Python code once to trace it into a graph, which is
compiled to one native function. Later calls with that signature run that, without Python.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, overload

from dualmode_compiler.runtime.layout import MISS
from dualmode_compiler.runtime.vectorcall import Routable

from . import config, tree
from .background import kernels
from .concrete import LAYOUT, ConcreteFunction, updating
from .config import detours
from .inputs import InputSignature
from .op import state
from .signature import Arguments
from .traces import Options, Traces

if TYPE_CHECKING:  # imported where it is used, to keep `import dualmode` short
    from .memory import Memory
    from .retraces import Retrace, Specialization


def _straight() -> bool:
    """Whether calls from this thread may go straight to native code."""
    return config.jit and state.plain and not updating


def _miss(*_: Any) -> Any:
    return MISS


@functools.cache
def _load() -> None:
    """Load what first calls need, when there is a function to be called: programs that only compute
    eagerly do without."""
    with kernels:
        from dualmode_compiler import driver  # noqa: F401

        from . import guard  # noqa: F401

        tree.load()


@functools.cache
def _start() -> None:
    """What first calls need begins while they are traced."""
    with kernels:
        from dualmode_compiler import driver

        if config.backend == "compile":
            driver.begin()


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
        donated = self._arguments.numbered(donate_argnums, "donate_argnums")
        self._inputs = (
            None
            if input_signature is None
            else InputSignature(self.name, self._arguments, input_signature)
        )
        options = Options(reduce_retracing, strict, autograph, background, donated)
        self._traces = Traces(self.name, self._arguments, self._inputs, options)
        self.retraces: list[Retrace] = self._traces.retraces
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
        _start()
        concrete = self._traces.find(self._arguments.key(form, leaves), leaves, self._python)
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
    def trace_count(self) -> int:
        """How many signatures have been traced."""
        return self._traces.count

    @property
    def specializations(self) -> list[Specialization]:
        """The signatures that were derived from traces at other sizes, and what each has cost."""
        return self._traces.specializations()

    def get_concrete_function(self, *args: Any, **kwargs: Any) -> ConcreteFunction:
        """The trace for these arguments, made if need be. `TensorSpec`s may stand for tensors."""
        leaves, form = self._flatten(args, kwargs)
        return self._traces.find(self._arguments.key(form, leaves), leaves, self._python)

    def memory(self, *args: Any, **kwargs: Any) -> Memory:
        """The planned memory of a call with these arguments, see `Memory`; `print` it. Without
        arguments, of the only trace.

        Raises:
            ValueError: there are no arguments, and not one trace.
        """
        if args or kwargs:
            return self.get_concrete_function(*args, **kwargs).memory()
        traces = self._traces.all()
        if len(traces) != 1:
            raise ValueError(
                f"{self.name}.memory(): there are {len(traces)} traces; say for which arguments, "
                f"as in {self.name}.memory(x)"
            )
        return traces[0].memory()

    def _flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], Any]:
        leaves, form = tree.flatten(self._arguments.bind(args, kwargs))
        return leaves if self._inputs is None else self._inputs.take(leaves, form), form

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
        self._traces.reported = function._traces.reported
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
