"""Control flow on the values of tensors: `cond`, `while_loop`, `scan` and what is made of them.

Eagerly these are Python's own branches and loops. Inside a `@dm.function` they become branches and
loops of the compiled code. Functions given to them may read whatever is around them, and assign
variables. Names and arguments are those of TensorFlow 2 and, for `scan` and `fori_loop`, of JAX.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np

from dualmode_compiler import spec as specs
from dualmode_compiler.graph import LOOP, Node, topological
from dualmode_compiler.spec import Spec

from . import branches, loops, sizes, tree
from .errors import ShapeError, TracedValueError
from .op import convert
from .ops import conversion, joining, logic
from .tensor import Operators, Tensor
from .tracer import current_tracer

Names = Sequence[str] | None


def cond(
    pred: Any,
    true_fn: Callable[..., Any],
    false_fn: Callable[..., Any] | None = None,
    *operands: Any,
    names: Names = None,
) -> Any:
    """`true_fn(*operands)` where `pred` holds, else `false_fn(*operands)`.

    Only one of them runs. In a traced function both are traced, and must give results of the same
    structure, shapes and dtypes.

    Args:
        pred: a bool or number, or a tensor of one element.
        false_fn: by default gives None.
        names: what messages call the results.

    Raises:
        ShapeError: `pred` is not a scalar, or the branches' results differ in shape or structure.
        DTypeError: the branches' results differ in dtype.
    """
    false_fn = false_fn or _nothing
    known = known_scalar(pred, "cond: the condition")
    if known is not None:
        return (true_fn if known else false_fn)(*operands)
    index = conversion.cast(conversion.cast(convert(pred), specs.bool_), specs.int32)
    return branches.branch(index, [false_fn, true_fn], operands, ("False", "True"), names)


def _nothing(*operands: Any) -> None:
    return None


def switch_case(
    branch_index: Any,
    branch_fns: Sequence[Callable[..., Any]] | Mapping[int, Callable[..., Any]],
    *operands: Any,
    default: Callable[..., Any] | None = None,
    names: Names = None,
) -> Any:
    """The result of branch number `branch_index`.

    Args:
        branch_index: an integer, or an integer tensor of one element.
        branch_fns: a list of functions, or a dict of them by number.
        operands: arguments for the function.
        default: stands for all other numbers; the last branch (of the largest number) by default.

    Raises:
        ValueError: there are no branches.
        ShapeError, DTypeError: as for `cond`.
    """
    by_number = dict(branch_fns) if isinstance(branch_fns, Mapping) else dict(enumerate(branch_fns))
    if not by_number:
        raise ValueError("switch_case: needs at least one branch")
    numbers = sorted(by_number)
    fallback = default or by_number[numbers[-1]]
    known = known_scalar(branch_index, "switch_case: the index")
    if known is not None:
        return by_number.get(int(known), fallback)(*operands)
    index = conversion.cast(convert(branch_index), specs.int32)
    if numbers != list(range(len(numbers))):
        found = Tensor._wrap(np.asarray(len(numbers), np.int32))
        for place, number in enumerate(numbers):
            found = logic.where(logic.equal(index, number), np.int32(place), found)
        index = found
    fns = [*(by_number[k] for k in numbers), fallback]
    if default is None and numbers == list(range(len(numbers))):
        fns.pop()
    labels = [str(k) for k in numbers] + ["default"]
    return branches.branch(index, fns, operands, labels, names)


def while_loop(
    cond: Callable[..., Any],
    body: Callable[..., Any],
    loop_vars: Any,
    maximum_iterations: Any = None,
    *,
    names: Names = None,
) -> Any:
    """Repeat `loop_vars = body(*loop_vars)` while `cond(*loop_vars)` holds.

    Args:
        cond: gives a bool, or a tensor of one element.
        body: gives new values, of the same structure, shapes and dtypes. A Python number among the
            first values takes the dtype that the body gives it.
        loop_vars: a list or tuple of the first values, which may be nested; or one value.
        maximum_iterations: stop after as many, if not before.
        names: what messages call the loop variables.

    Returns:
        The last values, in the structure of `loop_vars`.

    Raises:
        ShapeError, DTypeError: the condition is no scalar, or a loop variable changes its shape,
            dtype or structure.
    """
    single = not isinstance(loop_vars, list | tuple)
    first = (loop_vars,) if single else tuple(loop_vars)
    if current_tracer() is not None:
        last = loops.repeat(cond, body, first, maximum_iterations, names)
    else:
        last = _while_eagerly(cond, body, first, maximum_iterations, names)
    if single:
        return last[0]
    kind = type(loop_vars)
    return kind(*last) if hasattr(kind, "_fields") else kind(last)


def _while_eagerly(
    cond: Callable[..., Any],
    body: Callable[..., Any],
    first: tuple[Any, ...],
    limit: Any,
    names: Names,
) -> tuple[Any, ...]:
    limit = None if limit is None else int(limit)
    state = loops.State(first, names)
    values, ran = state.first(), False
    for _ in count() if limit is None else range(limit):
        if not truth(cond(*values), "while_loop: the condition"):
            break
        values, ran = state.following(values, loops.as_tuple(body(*values), len(first))), True
    if not ran and state.has_numbers:
        loops.settle(state, lambda x: (loops.as_tuple(body(*x), len(first)), None), [])
        return state.first()
    return values


def fori_loop(lower: Any, upper: Any, body: Callable[..., Any], init: Any) -> Any:
    """`for i in range(lower, upper): init = body(i, init)`; the last value.

    Args:
        lower, upper: integers, or integer tensors of one element.
        body: gives a value of the structure, shapes and dtypes of `init`.

    Raises:
        ShapeError, DTypeError: as for `while_loop`.
    """
    low, high = (known_scalar(x, "fori_loop: a bound") for x in (lower, upper))
    names = ("i", "the value")
    if current_tracer() is None or low is None or high is None:
        start = convert(lower, specs.int32)
        end = convert(upper, specs.int32)
        _, out = while_loop(
            lambda i, _: i < end, lambda i, x: (i + 1, body(i, x)), (start, init), names=names
        )
        return out

    def step(carry: tuple[Any, Any], _: None) -> tuple[Any, None]:
        i, x = carry
        return (i + 1, body(i, x)), None

    start = convert(sizes.whole(low), specs.int32)
    trips = max(sizes.whole(high) - sizes.whole(low), 0)
    (_, out), _ = scan(step, (start, init), length=trips, names=names)
    return out


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    *,
    names: Names = None,
) -> tuple[Any, Any]:
    """`for x in xs: carry, y = f(carry, x)`; the last carry, and all `y` stacked.

    Args:
        f: gives the next carry, of the structure, shapes and dtypes of `init`, and a value.
        init: the first carry.
        xs: tensors to take one entry of, along their first axis, in each step; may be nested. None
            where there are none.
        length: the number of steps; that of `xs` unless given.
        reverse: take entries, and place the stacked ones, from the last to the first.

    Returns:
        The last carry; and the values stacked along a new first axis.

    Raises:
        ValueError: neither `xs` nor `length` is given, or the sizes differ.
        ShapeError, DTypeError: the carry changes its shape, dtype or structure.
    """
    leaves, form = tree.flatten(xs)
    entries = [convert(x) for x in leaves]
    length = _length(entries, length)
    if current_tracer() is not None:
        return loops.scan(f, init, entries, form, length, reverse, names)
    state = loops.State(init, names)
    carry = state.first()
    stacked: list[Any] = []
    for k in reversed(range(length)) if reverse else range(length):
        after, y = loops.pair(f(carry, tree.unflatten(form, [x[k] for x in entries])))
        carry = state.following(carry, after)
        stacked.append(tree.map(convert, y))
    if not stacked:
        specs = [Spec(x.shape[1:], x.dtype) for x in entries]
        ys = loops.settle(state, lambda c, *x: loops.pair(f(c, tree.unflatten(form, x))), specs)
        return state.first(), ys
    return carry, tree.map(lambda *ys: joining.stack(ys), *(stacked[::-1] if reverse else stacked))


def _length(entries: Sequence[Tensor], length: int | None) -> int:
    found = [] if length is None else [sizes.whole(length)]
    for x in entries:
        if not x.ndim:
            raise ShapeError(f"scan: {x.spec} has no axis to take entries along")
        found.append(x.shape[0])
    if not found:
        raise ValueError("scan: give xs, or the number of steps as length=")
    if any(n != found[0] for n in found):
        raise ValueError(f"scan: the sizes of the first axes (and length) differ: {found}")
    return found[0]


def map_fn(fn: Callable[[Any], Any], elems: Any) -> Any:
    """`fn` of each entry of `elems` along the first axis; the results stacked.

    Args:
        fn: takes entries in the structure of `elems`.
        elems: a tensor, or a nested structure of them with equal first sizes.

    Returns:
        The results in the structure that `fn` gives, each with a new first axis.

    Raises:
        ValueError: the first sizes differ.
        ShapeError: a tensor is a scalar.
    """
    return scan(lambda _, x: ((), fn(x)), (), elems)[1]


# --- conditions -----------------------------------------------------------------------------------


def known_scalar(x: Any, what: str) -> Any:
    """The value of a number, or of a tensor whose value is known; None where it is traced.

    Raises:
        ShapeError: `x` has more than one element, or none.
    """
    if not isinstance(x, Operators | np.ndarray):
        return x
    tensor = convert(x)
    if tensor.size != 1 or tensor.ndim > 0:
        raise ShapeError(
            f"{what} is {tensor.spec}, not a scalar; reduce it by dm.all, dm.any or an index"
        )
    if not isinstance(tensor._value, Node):
        return tensor._value.item()
    if current_tracer() is None:  # this mode runs loops itself, within a trace that knows the value
        return tensor.item()
    return _number(tensor) if tensor.weak else None


def _number(x: Tensor) -> Any:
    """The value of a traced Python number; None where it is not known, or made by a loop."""
    if any(n.op is LOOP for n in topological([x._value])):
        return None  # to find it here would be to run the loop
    try:
        return x.item()
    except TracedValueError:
        return None


def truth(x: Any, what: str) -> bool:
    """The truth of a condition whose value is known."""
    return builtins.bool(known_scalar(x, what))
