"""Public functions that go straight to the native code of their ops.

A decorated function tries `Op.native` first and tells the tapes what that computed. What native
code does not take goes the way that is written down: the function's own body, which converts
operands and calls the op.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from dualmode_compiler.runtime.layout import MISS

from . import config
from .op import Op, promote, read_values, recording, state

if TYPE_CHECKING:
    from .tensor import Tensor


def unary(op: Op) -> Callable[[Callable[[Any], Tensor]], Callable[[Any], Tensor]]:
    """A public function of one operand that goes straight to the native code of `op`, and where
    that cannot take the operand, the way that is written down."""

    def decorate(general: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
        @wraps(general)
        def call(x: Any) -> Tensor:
            out = op.native(x)
            if out is MISS:
                return _missed(op, general, (x,))
            return _recorded(op, (x,), out) if recording else out

        return call

    return decorate


def binary(op: Op) -> Callable[[Callable[[Any, Any], Tensor]], Callable[[Any, Any], Tensor]]:
    """`unary`, for two operands."""

    def decorate(general: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
        @wraps(general)
        def call(x: Any, y: Any) -> Tensor:
            out = op.native(x, y)
            if out is MISS:
                return _missed(op, general, (x, y))
            return _recorded(op, (x, y), out) if recording else out

        return call

    return decorate


def rows(op: Op) -> Callable[[Callable[[Any, Any], Tensor]], Callable[[Any, Any], Tensor]]:
    """`binary`, for an op with `rows`: its operands keep dtypes of their own."""

    def decorate(general: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
        @wraps(general)
        def call(x: Any, y: Any) -> Tensor:
            out = op.native(x, y)
            if out is MISS:
                return general(x, y)
            for tape in state.tapes if recording else ():
                tape.record(op, (x, y), {}, out)
            return out

        return call

    return decorate


def product(op: Op) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """`binary`, for a function `(a, b, transpose_a=False, transpose_b=False)`."""

    def decorate(general: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(general)
        def call(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
            out = op.native(a, b, transpose_a, transpose_b)
            if out is MISS:
                a, b = _read((a, b))
                out = op.native(a, b, transpose_a, transpose_b)
                if out is MISS:
                    return general(a, b, transpose_a, transpose_b)
            if recording:
                attrs = {"transpose_a": transpose_a, "transpose_b": transpose_b}
                for tape in state.tapes:
                    tape.record(op, (a, b), attrs, out)
            return out

        return call

    return decorate


def moved(op: Op, *args: Any) -> Any:
    """What native code makes of an op that moves elements along an axis, told to the tapes; or
    `MISS`. `args` are operands and what `Op.arguments` names, of which the axis is the first."""
    out = op.native(*args)
    if out is not MISS and recording:
        count = len(args) - len(op.arguments)
        attrs = dict(zip(op.arguments, args[count:], strict=True))
        attrs["axis"] %= args[0].ndim
        for tape in state.tapes:
            tape.record(op, args[:count], attrs, out)
    return out


def view(op: Op) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """`unary`, for a function `(x, axes)` of an op that is a view; of tuples and lists."""

    def decorate(general: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(general)
        def call(x: Any, axes: Any) -> Tensor:
            if recording or type(axes) not in (tuple, list):
                return general(x, axes)
            out = op.native(x, axes)
            return general(x, axes) if out is MISS else out

        return call

    return decorate


def along(op: Op, default: Any, keepdims: bool = True) -> Callable[..., Any]:
    """`unary`, for a function `(x, axis=default, keepdims=False)`, or without `keepdims`; other
    arguments of it are not for native code."""

    def decorate(general: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(general)
        def reduce(
            x: Any, axis: Any = default, keepdims: bool = False, *rest: Any, **more: Any
        ) -> Tensor:
            out: Any = MISS if rest or more else op.native(x, axis, keepdims)
            if out is MISS:
                return general(x, axis, keepdims, *rest, **more)
            return _reduced(op, x, axis, out, keepdims=keepdims) if recording else out

        @wraps(general)
        def spread(x: Any, axis: Any = default) -> Tensor:
            out = op.native(x, axis)
            if out is MISS:
                return general(x, axis)
            return _reduced(op, x, axis, out) if recording else out

        return reduce if keepdims else spread

    return decorate


def _reduced(op: Op, x: Tensor, axis: Any, out: Tensor, **attrs: Any) -> Tensor:
    """`_recorded`, of an op along axes that the user gave."""
    tapes = state.tapes
    if tapes and op.vjp is not None:
        n = x.ndim
        axes = range(n) if axis is None else axis if type(axis) is tuple else (axis,)
        attrs = {"axis": tuple(sorted(k % n for k in axes)), **attrs}
        for tape in tapes:
            tape.record(op, (x,), attrs, out)
    return out


def _missed(op: Op, general: Callable[..., Tensor], args: tuple[Any, ...]) -> Tensor:
    """What native code did not take: it gets the values of variables before `general` is asked."""
    args = _read(args)
    out = op.native(*args)
    if out is not MISS:
        return _recorded(op, args, out) if recording else out
    return general(*args)


def _read(xs: tuple[Any, ...]) -> tuple[Any, ...]:
    """`read_values`, where native code may come next."""
    if config.interpreted:
        return xs
    # no thread traces, and without tapes nobody hears of a read
    return read_values(xs) if recording else tuple([getattr(x, "_tensor", x) for x in xs])


def _recorded(op: Op, args: tuple[Any, ...], out: Tensor) -> Tensor:
    """`out`, which `op` made of tensors and numbers, told to the tapes."""
    tapes = state.tapes
    if tapes and op.vjp is not None:
        if type(args[0]) is not type(args[-1]):  # a number; tensors were of one dtype
            args = promote(*args)
        for tape in tapes:
            tape.record(op, args, {}, out)
    return out
