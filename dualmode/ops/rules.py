"""What op records share: helpers for inference, gradients, lowering and rewriting.

A lower rule that returns None declines: compiled code then calls the op's NumPy kernel back. All
rules here decline complex types. Half types are computed in float32 and rounded once per op, in
kernels (`in_float32`) and in lower rules (`pointwise`, `reduced`) alike, so that both modes agree.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler import spec as specs
from dualmode_compiler.expr import Axis, Expr, Reader
from dualmode_compiler.graph import CONST, Graph, Node
from dualmode_compiler.index import broadcast_index
from dualmode_compiler.spec import DType, Spec

from ..errors import DTypeError, ShapeError
from ..op import convert, promote, state

if TYPE_CHECKING:
    from ..op import Op
    from ..tensor import Tensor

Lower = Callable[..., Any]
_KINDS = {"b": "bool", "i": "integer", "u": "unsigned", "f": "floating", "c": "complex"}


# --- arguments of the public functions ----------------------------------------------------------


def inexact(x: Any) -> Tensor:
    """`x` as a floating or complex tensor: bool, integers and Python numbers become float32."""
    x = convert(x)
    if x.dtype.kind in "fc" and not x.weak:
        return x
    return convert(x, specs.complex64 if x.dtype.is_complex else specs.float32)


def floating(x: Any, name: str) -> Tensor:
    """`x` as a floating tensor, for the op `name`.

    Raises:
        DTypeError: `x` is complex.
    """
    x = inexact(x)
    if x.dtype.is_complex:
        require_kinds(name, "f", Spec(x.shape, x.dtype))
    return x


def inexacts(*xs: Any) -> tuple[Tensor, ...]:
    """`xs` promoted to one floating or complex type: integers become float32."""
    xs = promote(*xs)
    if xs[0].dtype.is_inexact:
        return xs
    if any(x.weak for x in xs):  # traced Python integers divide like Python's
        return tuple(state.mode.weak(x, specs.float64) for x in xs)
    return tuple(convert(x, specs.float32) for x in xs)


def numeric(*xs: Any) -> tuple[Tensor, ...]:
    """`xs` promoted to one numeric type: bool becomes int32."""
    xs = promote(*xs)
    return tuple(convert(x, specs.int32) for x in xs) if xs[0].dtype.kind == "b" else xs


def normalize_axes(axis: int | Sequence[int] | None, ndim: int, name: str) -> tuple[int, ...]:
    """`axis` as non-negative axes of an array of rank `ndim`, in the order given; None means all.

    Raises:
        ShapeError: an axis is out of range or given twice.
    """
    if axis is None:
        return tuple(range(ndim))
    if type(axis) is int and -ndim <= axis < ndim:
        return (axis % ndim,)
    wanted = [operator.index(a) for a in (axis if isinstance(axis, Sequence) else (axis,))]
    for a in wanted:
        if not -ndim <= a < ndim:
            valid = f"valid are {-ndim} to {ndim - 1}" if ndim else "a scalar has no axes"
            raise ShapeError(f"{name}: axis {a} is out of range for rank {ndim} ({valid})")
    out = tuple(a % ndim for a in wanted)
    if len(set(out)) < len(out):
        raise ShapeError(f"{name}: axis={axis!r} names an axis twice")
    return out


# --- inference ----------------------------------------------------------------------------------


def listed(xs: Sequence[Spec]) -> str:
    """`float32[3], float32[4] and int32[2]`."""
    words = [repr(x) for x in xs]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def index_types(dtype: DType, size: int) -> tuple[DType, DType]:
    """The signed and the unsigned type in which indices of `dtype` into an axis of `size` are
    wrapped and compared: the narrow ones where they will do, as a vector holds twice as many."""
    narrow = dtype.itemsize <= 4 and size < 1 << 31
    return (specs.int32, specs.uint32) if narrow else (specs.int64, specs.uint64)


def require_kinds(name: str, kinds: str, *xs: Spec) -> None:
    """Raise DTypeError unless the dtype of every spec is of one of `kinds` ("biufc")."""
    for x in xs:
        if x.dtype.kind not in kinds:
            allowed = [w for k, w in _KINDS.items() if k in kinds]
            raise DTypeError(
                f"{name}: {x.dtype} is not supported, it takes {' or '.join(allowed)} tensors; "
                f"got {listed(xs)} (convert with dm.astype)"
            )


def require_one_dtype(name: str, *xs: Spec) -> None:
    """Raise DTypeError unless all specs have the same dtype."""
    if any(x.dtype is not xs[0].dtype for x in xs):
        raise DTypeError(f"{name}: dtypes differ: {listed(xs)} (convert with dm.astype)")


def broadcast_shapes(name: str, *xs: Spec) -> tuple[int, ...]:
    """The shape that all specs broadcast to (NumPy's rule).

    Raises:
        ShapeError: they do not broadcast.
    """
    ndim = max((x.ndim for x in xs), default=0)
    out = [1] * ndim
    for x in xs:
        for k in range(1, x.ndim + 1):
            n = x.shape[-k]
            if n == 1 or n == out[-k]:
                continue
            if out[-k] != 1:
                raise ShapeError(
                    f"{name}: shapes do not broadcast: {listed(xs)} "
                    f"(sizes {out[-k]} and {n} on axis {-k})"
                )
            out[-k] = n
    return tuple(out)


def broadcasting(
    name: str, kinds: str = "biufc", result: DType | None = None
) -> Callable[..., Spec]:
    """Inference for an elementwise op: inputs of one dtype broadcast; `result` overrides it."""

    def infer(x: Spec, *others: Spec, **attrs: Any) -> Spec:
        xs = (x, *others)
        require_kinds(name, kinds, *xs)
        require_one_dtype(name, *xs)
        # promotion casts a traced Python number that meets a tensor: what is left is numbers only
        weak = result is None and any(x.weak for x in xs)
        return Spec(broadcast_shapes(name, *xs), result or x.dtype, weak)

    return infer


def reduced_shape(shape: Sequence[int], axis: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """`shape` without the axes `axis`, or with them of size 1."""
    if keepdims:
        return tuple(1 if k in axis else n for k, n in enumerate(shape))
    return tuple(n for k, n in enumerate(shape) if k not in axis)


# --- kernels ------------------------------------------------------------------------------------


def in_float32(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """`kernel` with half types computed in float32 and rounded once at the end."""

    @wraps(kernel)
    def wrapped(*xs: Any, **attrs: Any) -> Any:
        dtype = xs[0].dtype
        if dtype.itemsize != 2 or dtype.kind in "iub":
            return kernel(*xs, **attrs)
        return kernel(*(x.astype(np.float32) for x in xs), **attrs).astype(dtype)

    return wrapped


# --- gradients ----------------------------------------------------------------------------------


def no_gradient(g: Any, y: Any, *xs: Any, **attrs: Any) -> tuple[None, ...]:
    """The gradient rule of piecewise constant functions."""
    return (None,) * len(xs)


def unbroadcast(g: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`g` summed to `shape`, that of an operand that was broadcast to the shape of `g`."""
    have = g.shape
    if have == shape:
        return g
    total, _ = _later()
    extra = len(have) - len(shape)
    if extra:
        g = total(g, axis=tuple(range(extra)), keepdims=False)
    ones = [k for k, n in enumerate(shape) if n == 1 and have[extra + k] != 1]
    return total(g, axis=tuple(ones), keepdims=True) if ones else g


@cache
def _later() -> tuple[Op, Op]:
    """Ops of modules that are built on this one; an import statement in every call would cost more
    than they do."""
    from .reduction import SUM
    from .shape import RESHAPE

    return SUM, RESHAPE


def keep_axes(g: Tensor, axis: tuple[int, ...], keepdims: bool) -> Tensor:
    """`g`, the shape of a reduction over `axis`, with those axes put back with size 1."""
    if keepdims or not axis:
        return g
    shape = list(g.shape)
    for k in sorted(axis):
        shape.insert(k, 1)
    return _later()[1](g, shape=tuple(shape))


# --- lowering -----------------------------------------------------------------------------------


def widen(x: Expr) -> Expr:
    """`x` in the type that it is computed in: float32 for half types."""
    return expr.cast(x, expr.accumulator(x.dtype))


def pointwise(fn: Callable[..., Expr | None]) -> Lower:
    """A lower rule: `fn` of the broadcast operands' scalars and the attributes."""

    def lower(i: Sequence[Expr], out: Spec, *xs: Reader, **attrs: Any) -> Expr | None:
        if out.dtype.is_complex or any(x.spec.dtype.is_complex for x in xs):
            return None
        args = [widen(x(broadcast_index(i, x.spec.shape))) for x in xs]
        y = fn(*args, **attrs)
        return None if y is None else expr.cast(y, out.dtype)

    return lower


def function(name: str) -> Lower:
    """A lower rule that applies one scalar function of the expression language."""
    return pointwise(lambda *xs: expr.apply(name, *xs))


def either(combine: Callable[[Expr, Expr], Expr], for_bool: str) -> Lower:
    """A lower rule: `combine`, or the function `for_bool` where the operands are bool."""
    return pointwise(
        lambda a, b: expr.apply(for_bool, a, b) if a.dtype.kind == "b" else combine(a, b)
    )


def reduction_axes(
    i: Sequence[Expr], shape: Sequence[int], axis: tuple[int, ...], keepdims: bool
) -> tuple[list[Axis], tuple[Expr, ...]]:
    """Fresh axes that run over `axis` of `shape`, and the index of an element there, for the
    element `i` of the reduced result."""
    bound = {k: Axis(shape[k]) for k in axis}
    rest = iter(i[k] for k in range(len(i)) if not (keepdims and k in bound))
    index = tuple(bound[k] if k in bound else next(rest) for k in range(len(shape)))
    return list(bound.values()), index


def reduced(kind: str) -> Lower:
    """A lower rule: the input combined by `kind` over the attribute `axis`."""

    def lower(
        i: Sequence[Expr], out: Spec, x: Reader, *, axis: tuple[int, ...], keepdims: bool
    ) -> Expr | None:
        if x.spec.dtype.is_complex:
            return None
        bound, index = reduction_axes(i, x.spec.shape, axis, keepdims)
        return expr.cast(expr.reduce(kind, bound, widen(x(index))), out.dtype)

    return lower


# --- rewriting ----------------------------------------------------------------------------------


def is_const(node: Node, value: Any) -> bool:
    """Whether `node` is a literal all of whose elements are `value`; 0.0 and -0.0 differ."""
    if node.op is not CONST:
        return False
    array = node.attr("value").array
    if array.size == 0 or not (array == value).all():
        return False
    if value != 0 or array.dtype.kind in "biu":
        return True
    return array.dtype.kind != "c" and bool((np.signbit(array) == np.signbit(value)).all())


def keeps(x: Node, node: Node) -> Node | None:
    """`x` if it can stand for `node`: it has the same shape and dtype."""
    return x if x.spec is node.spec else None


def neutral(value: Any, commutes: bool) -> Callable[[Node, Graph], Node | None]:
    """The rule `x op value --> x`, and `value op x --> x` where the op commutes."""

    def rule(node: Node, graph: Graph) -> Node | None:
        x, y = node.inputs
        if is_const(y, value):
            return keeps(x, node)
        if commutes and is_const(x, value):
            return keeps(y, node)
        return None

    rule.__name__ = f"neutral {value:g}"
    return rule


def idempotent(node: Node, graph: Graph) -> Node | None:
    """`op(x, x) --> x`."""
    x, y = node.inputs
    return keeps(x, node) if x is y else None
