"""The definition of an operation, and the mode that executes it.

An `Op` is one record: what it infers, how NumPy computes it, its gradient, how it lowers to scalars and
how it simplifies. Calling one asks the current mode to execute it: `eager.Eager` computes at once,
`tracer.Tracer` adds a node to a graph. Tapes listen to both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dualmode_compiler import spec as specs
from dualmode_compiler.expr import LowerRule
from dualmode_compiler.graph import Rule
from dualmode_compiler.spec import DType, Spec

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
    """

    ulp: float = 0.0
    per_term: float = 0.0


EXACT = Agreement()


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    """One operation. Its inputs are tensors, its attributes static and hashable.

    Attributes:
        name: unique; what graphs print.
        infer: `(*specs, **attrs) -> Spec`. The only place where shape and dtype errors are raised.
        kernel: `(*arrays, **attrs) -> array`: NumPy. What eager mode computes, and the oracle.
        vjp: `(g, y, *inputs, **attrs) -> tuple of gradients`, one per input (None where there is
            none), written with ops, so that it works in both modes and to every order.
        lower: one element of the result as an expression of its index (`dualmode_compiler.expr`);
            None where compiled code calls `kernel` back.
        simplify: rewrite rules that this op owns.
        tolerance: how closely the two modes agree.
        effect: True where executing the op is visible from outside (print, assertion).
    """

    name: str
    infer: Callable[..., Spec]
    kernel: Callable[..., Any]
    vjp: Callable[..., tuple[Any, ...]] | None = None
    lower: LowerRule | None = None
    simplify: tuple[Rule, ...] = ()
    tolerance: Agreement = EXACT
    effect: bool = False

    def __call__(self, *args: Tensor, **attrs: Any) -> Tensor:
        out = state.mode.execute(self, args, attrs)
        for tape in state.tapes:
            tape.record(self, args, attrs, out)
        return out

    def __repr__(self) -> str:
        return f"<op {self.name}>"


class Mode(Protocol):
    """What can execute ops: `eager.Eager` or a `tracer.Tracer`."""

    def execute(self, op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any]) -> Tensor: ...

    def convert(self, x: Any, dtype: DType | None) -> Tensor:
        """`x` (a tensor, variable, array, number or nested list) as a tensor of `dtype`."""
        ...

    def read(self, variable: Variable) -> Tensor: ...

    def assign(self, variable: Variable, value: Tensor) -> None: ...


class Recorder(Protocol):
    """What listens to executed ops: a `tape.GradientTape`."""

    def record(self, op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any], out: Tensor) -> None: ...


class _State(threading.local):
    """The current mode and the active tapes of this thread. `eager` sets the default mode."""

    mode: Mode
    tapes: tuple[Recorder, ...] = ()


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
_ORDER = "biufc"


def _weak_type(kinds: list[str], strong: DType | None) -> DType:
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


def promote(*xs: Any) -> tuple[Tensor, ...]:
    """`xs` as tensors of one dtype: Python numbers take the tensors' type, tensors and arrays
    promote by the array API standard's table. Casts are ops, so gradients pass through them."""
    strong: DType | None = None
    weak: list[str] = []
    for x in xs:
        spec_weak = getattr(x, "weak", False)
        number = _NUMBERS.get(type(x))
        if number is not None:
            weak.append(number.kind)
        elif spec_weak:
            weak.append(x.dtype.kind)
        else:
            d = dtype_of(x)
            strong = d if strong is None or d is strong else specs.promote(strong, d)
    target = _weak_type(weak, strong) if weak else strong
    if strong is None and any(getattr(x, "weak", False) for x in xs):
        # only Python numbers, some of them traced: they keep Python's own precision
        target = {"i": specs.int64, "f": specs.float64}.get(target.kind, target)
    return tuple(convert(x, target) for x in xs)


def dtype_of(x: Any) -> DType:
    """The dtype that `x` has as a tensor."""
    d = getattr(x, "dtype", None)
    if isinstance(d, DType):
        return d
    if d is not None:
        return specs.from_numpy(np.dtype(d))
    if type(x) in _NUMBERS:
        return _NUMBERS[type(x)]
    return convert(x).dtype
