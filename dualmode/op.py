"""The definition of an operation, and the mode that executes it.

An `Op` is one record: what it infers, how NumPy computes it, its gradient, how it lowers to scalars
and how it simplifies. Calling one asks the current mode to execute it: `eager.Eager` computes at
once, `tracer.Tracer` adds a node to a graph. Tapes listen to both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from dualmode_compiler import spec as specs
from dualmode_compiler.expr import LowerRule
from dualmode_compiler.graph import Rule
from dualmode_compiler.records import dataclass
from dualmode_compiler.runtime.layout import MISS
from dualmode_compiler.spec import DType, Spec

from . import config, sizes

if TYPE_CHECKING:
    from .tensor import Tensor
    from .variable import Variable


@dataclass(frozen=True, slots=True)
class Agreement:
    """How closely eager and compiled results must agree, as a bound on their difference.

    Attributes:
        ulp: units in the last place of the larger magnitude; 0 means the same bits (any NaN equals
            any NaN, and -0.0 equals 0.0).
        per_term: further ulp of the sum of magnitudes for each term of a reduction.
        underflow: a further difference for each term of a reduction of bfloat16: CPUs that multiply
            that type take subnormal numbers on the way as zeros.
    """

    ulp: float = 0.0
    per_term: float = 0.0
    underflow: float = 0.0


EXACT = Agreement()


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    """One operation. Its inputs are tensors, its attributes static and hashable.

    Attributes:
        name: unique; what graphs print.
        infer: `(*specs, **attrs) -> Spec`. The only place where shape and dtype errors are raised.
        kernel: `(*arrays, **attrs) -> array`: NumPy. What eager mode computes, and the oracle.
        vjp: `(g, y, *inputs, **attrs) -> tuple of gradients`, one per input (None where there is
            none), written with ops, so that it works in both modes and to every order. In place of
            a gradient that costs much it may give a function of no arguments that computes it: a
            tape calls only those that it needs. None: no gradient flows through the op.
        lower: one element of the result as an expression of its index (`dualmode_compiler.expr`);
            None where compiled code calls `kernel` back.
        simplify: rewrite rules that this op owns.
        tolerance: how closely the two modes agree.
        effect: True where executing the op is visible from outside (print, assertion).
        batch: how it acts on arrays of examples, a rule of `ops.batch`, for `vmap`. None: it is
            executed for one example after another.
        arguments: attributes that `native` takes after the operands, in this order.
        along: of an op of one operand along the attribute `axis` whose result is a reduction, or
            made of some: the kinds of dtypes that its public function does not convert. `native`
            takes axes as users name them.
        rows: of an op along the last axis of its first operand: what each operand has for each of
            its rows, a "row" or "one" element, or the one row "shared" by all; then the same of the
            result.
        moves: of an op that moves whole elements along the attribute `axis`: "take" is for operands
            (x, indices), "scatter" for (x, indices, updates), "join" for any number; "scan" is for
            sums so far and their like, with the attribute `reverse`.
        combines: the op by which a scatter or scan combines old elements with new ones; None
            replaces them.
        view: True where the kernel gives a view of its one operand and computes nothing.
        pieces: `(compute, *arrays, **attrs) -> array`: the kernel's result, put together of results
            for shapes of its own choice, a few in all: native code is compiled for these.
            `compute` takes what the kernel does.
        native: computes eager tensors without Python, or gives `MISS` where it cannot; it tells
            no tape.
    """

    name: str
    infer: Callable[..., Spec]
    kernel: Callable[..., Any]
    vjp: Callable[..., tuple[Any, ...]] | None = None
    lower: LowerRule | None = None
    simplify: tuple[Rule, ...] = ()
    tolerance: Agreement = EXACT
    effect: bool = False
    batch: Callable[..., Tensor] | None = None
    arguments: tuple[str, ...] = ()
    along: str = ""
    rows: tuple[str, ...] = ()
    moves: str = ""
    combines: Op | None = None
    view: bool = False
    pieces: Callable[..., Any] | None = None
    native: Callable[..., Any] = field(init=False)
    # what makes `native`, for a number of operands; `eager` sets it
    make_native: ClassVar[Callable[[Op, int], Callable[..., Any] | None]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "native", partial(_first, self))

    def __call__(self, *args: Tensor, **attrs: Any) -> Tensor:
        out: Any = MISS
        if not attrs:
            out = self.native(*args)
        elif self.arguments:
            out = self.native(*args, *[attrs[name] for name in self.arguments])
        if out is MISS:
            out = state.mode.execute(self, args, attrs)
        if recording:
            for tape in state.tapes:
                tape.record(self, args, attrs, out)
        return out

    def __repr__(self) -> str:
        return f"<op {self.name}>"


def _first(op: Op, *args: Any) -> Any:
    """The first call of an op's `native` that suits it makes it: that takes imports."""
    if config.interpreted or not args:
        return MISS
    native = op.make_native(op, len(args))
    out = MISS if native is None else native(*args)
    if native is None or out is not MISS:
        object.__setattr__(op, "native", native or _miss)
    return out


def _miss(*_: Any) -> Any:
    return MISS


class Mode(Protocol):
    """What can execute ops: `eager.Eager` or a `tracer.Tracer`."""

    def execute(self, op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any]) -> Tensor: ...

    def convert(self, x: Any, dtype: DType | None) -> Tensor:
        """`x` (a tensor, variable, array, number or nested list) as a tensor of `dtype`."""
        ...

    def weak(self, x: Any, dtype: DType) -> Tensor:
        """A Python number, traced or not, as a weak tensor of `dtype` where it is traced."""
        ...

    def whole(self, rows: Sequence[Tensor]) -> Tensor | None:
        """The array that `rows` are known to be all the entries of, in order."""
        ...

    def read(self, variable: Variable) -> Tensor:
        """The current value. Only `Variable.read_value` calls this: it tells the tapes as well."""
        ...

    def assign(self, variable: Variable, value: Tensor) -> None:
        """Make `value`, of the variable's own shape and dtype, its value."""
        ...

    def initial_value(self, x: Tensor) -> Tensor:
        """The eager value of `x`, for a variable that is created from it.

        Raises:
            VariableError: it has none yet, as it depends on an argument of a traced function.
        """
        ...

    def variable_created(self, variable: Variable) -> None:
        """A variable was made; `variable._tensor` holds its eager initial value already."""
        ...

    def value_needed(self, x: Tensor, use: str) -> np.ndarray[Any, Any]:
        """The value of traced tensor `x`, which `use` (as in "bool()") cannot do without.

        Raises:
            TracedValueError: there is none.
        """
        ...


class Recorder(Protocol):
    """What listens to executed ops: a `tape.GradientTape`."""

    def record(
        self, op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any], out: Tensor
    ) -> None: ...

    def follows(self, x: Tensor) -> bool:
        """Whether ops on `x` are recorded."""
        ...

    def record_read(self, variable: Variable, out: Tensor) -> None:
        """`out`, a tensor object of its own, was read from `variable`."""
        ...

    def record_call(
        self,
        inputs: Sequence[Tensor | Variable],
        outputs: Sequence[Tensor],
        vjp: Callable[[list[Tensor | None]], Sequence[Tensor | None]],
    ) -> None:
        """`outputs` were computed from `inputs`; `vjp` maps gradients of those to these."""
        ...


_set = threading.local.__setattr__


class _State(threading.local):
    """The current mode and the active tapes of this thread.

    `eager` sets the class attribute: the mode in which every thread starts.
    """

    mode: Mode
    tapes: tuple[Recorder, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        taped = bool(self.tapes)
        if name == "tapes":  # which come and go in every step
            _set(self, name, value)
            tapes = bool(value)
            if taped is not tapes:
                _count(recording, taped, tapes)
                if self.mode is _State.mode:
                    _count(config.detours, taped, tapes)
            return
        traced = self.mode is not _State.mode
        _set(self, name, value)
        traces = self.mode is not _State.mode
        _count(config.interpreted, traced, traces)
        _count(config.detours, traced or taped, traces or taped)

    @property
    def plain(self) -> bool:
        """Whether this thread neither traces nor records."""
        return self.eager and not self.tapes

    @property
    def eager(self) -> bool:
        """Whether this thread is in the mode in which it started."""
        return self.mode is _State.mode


def _count(reasons: list[Any], before: bool, now: bool) -> None:
    """Entries are alike, and so any thread may remove any."""
    if before != now:
        reasons.append(None) if now else reasons.pop()


recording: list[None] = []  # an entry for each thread that has active tapes
state = _State()


@contextmanager
def mode(new: Mode) -> Iterator[None]:
    """Execute ops by `new` inside the block; tapes that were active outside stay outside."""
    saved = state.mode, state.tapes
    state.mode, state.tapes = new, ()
    try:
        yield
    finally:
        state.mode, state.tapes = saved


def eagerly() -> AbstractContextManager[None]:
    """Execute ops at once inside the block, also while a function is traced; record nothing."""
    return mode(_State.mode)


@contextmanager
def no_tapes() -> Iterator[None]:
    """Record nothing inside the block."""
    saved, state.tapes = state.tapes, ()
    try:
        yield
    finally:
        state.tapes = saved


def convert(x: Any, dtype: DType | None = None) -> Tensor:
    """`x` as a tensor. Python numbers become float32, int32 or bool; arrays keep their dtype."""
    return state.mode.convert(x, dtype)


_NUMBERS = {bool: specs.bool_, int: specs.int32, float: specs.float32, complex: specs.complex64}
_NUMBERS |= {kind: _NUMBERS[python] for kind, python in sizes.PYTHON.items()}
# operands that take the tensors' type: float64 scalars of NumPy are Python floats by their class
_WEAK = {**_NUMBERS, np.float64: specs.float32, np.complex128: specs.complex64}
_PYTHON = {"i": specs.int64, "f": specs.float64, "c": specs.complex128}
_ORDER = "biufc"


@cache
def _weak_type(kinds: str, strong: DType | None) -> DType:
    """The type of a mix of Python numbers of these `kinds` with tensors of type `strong`."""
    kind = max(kinds, key=_ORDER.index)
    default = {"b": specs.bool_, "i": specs.int32, "f": specs.float32, "c": specs.complex64}[kind]
    if strong is None:
        return default
    if kind == "c" and strong.kind == "f":
        return specs.complex128 if strong is specs.float64 else specs.complex64
    if _ORDER.index("i" if strong.kind == "u" else strong.kind) >= _ORDER.index(kind):
        return strong
    return default


def read_values(xs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Variables are read; all else is as it was."""
    return tuple([x.read_value() if hasattr(x, "read_value") else x for x in xs])


def alike(xs: tuple[Any, ...]) -> bool:
    """True for eager tensors of one dtype, as in most calls: there is nothing to promote."""
    first = getattr(getattr(xs[0], "_value", None), "dtype", None)
    if first is None:
        return False
    for x in xs:
        if getattr(getattr(x, "_value", None), "dtype", None) is not first:
            return False
    return True


def promote(*xs: Any) -> tuple[Tensor, ...]:
    """`xs` as tensors of one dtype: Python numbers (and NumPy's float64 scalars, as from
    `np.sqrt(n)`) take the tensors' type; tensors and arrays promote by the array API standard's
    table. Casts are ops, so gradients pass through them."""
    if alike(xs):
        return xs
    xs = read_values(xs)
    if alike(xs):
        return xs
    strong: DType | None = None
    weak = ""
    traced = False
    operands: list[tuple[Any, DType | None]] = []  # with the dtype of those that are tensors
    for x in xs:
        number = _WEAK.get(type(x))
        if number is not None:
            weak += number.kind
            operands.append((x, None))
            continue
        x = x if hasattr(x, "_value") else convert(x)
        d = x.dtype
        if x.weak:
            weak += d.kind
            traced = True
            operands.append((x, None))
        else:
            strong = d if strong is None or d is strong else specs.promote(strong, d)
            operands.append((x, d))
    target = _weak_type(weak, strong) if weak else strong
    if traced and strong is None and target is not None:
        # only Python numbers, some of them traced: they keep Python's own precision
        exact = _PYTHON.get(target.kind, target)
        return tuple([state.mode.weak(x, exact) for x in xs])
    return tuple([x if d is target else convert(x, target) for x, d in operands])


def dtype_of(x: Any) -> DType:
    """The dtype that `x` has as a tensor."""
    d = getattr(x, "dtype", None)
    if type(d) is DType:
        return d
    if isinstance(d, np.dtype):
        return specs.from_numpy(d)
    return _NUMBERS[type(x)] if type(x) in _NUMBERS else convert(x).dtype
