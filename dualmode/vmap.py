"""`vmap`: a function of one example as a function of many."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from . import tree
from .autograph.calls import converted_call
from .batching import Batch, Value, batched
from .errors import DTypeError, ShapeError, require_function
from .op import convert
from .ops import batch as rules
from .tensor import Operators, Tensor


def vmap(f: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """`f`, a function of one example, as a function of many that computes all at once.

    Arguments get one axis more, over which `f` is mapped; so do results. `f` is called once for
    each call of the result, with traced tensors of one example; its ops are then executed on all
    examples together, in the mode of the caller. Tapes, `jvp` and other `vmap`s work inside and
    around it. Branches and loops of `f`, Python's own included, may depend on the example: then
    every branch is computed and each example takes its own, and a loop runs for as long as any
    example needs.

    What `f` reads of its surroundings, Variables included, is the same for all examples. So are
    random numbers: a draw inside `f` gives all examples the same ones. For others, draw them
    outside and pass them in. Effects of `f` that depend on the example, such as `dm.print`, take
    place for one example after another.

    Args:
        f: takes and returns nested structures of tensors.
        in_axes: for each positional argument the axis that counts its examples, or None for an
            argument that is the same for all; an axis for each part of a nested argument; or one
            axis for all arguments. Negative axes count from the end.
        out_axes: where results have that axis, in the same manner. None: the result does not
            differ between examples.

    Returns:
        A function of the arguments of `f`. Keyword arguments that are tensors or arrays with axes
        are mapped over axis 0, others are passed on as they are.

    Raises:
        ShapeError: no argument is mapped, sizes differ, or an axis does not fit its argument.
        VariableError: `f` assigns a variable a value that differs between examples.
    """
    require_function("vmap", f)

    @functools.wraps(f, updated=())
    def over_examples(*args: Any, **kwargs: Any) -> Any:
        leaves, form = tree.flatten((args, kwargs))
        names = [_name(path) for path in tree.paths(form)]
        axes = [*_axes_of(in_axes, args), *map(_keyword_axis, tree.leaves(kwargs))]
        mapped = {
            k: _leading(x, axis, name)
            for k, (x, axis, name) in enumerate(zip(leaves, axes, names, strict=True))
            if axis is not None
        }
        batch = Batch(_size({names[k]: x for k, x in mapped.items()}))
        forms: list[Any] = []

        def run(xs: list[Tensor]) -> list[Tensor]:
            inputs = dict(zip(mapped, xs, strict=True))
            own_args, own_kwargs = tree.unflatten(
                form, [inputs.get(k, x) for k, x in enumerate(leaves)]
            )
            found, out_form = tree.flatten(converted_call(f, own_args, own_kwargs))
            forms.append(out_form)
            return [convert(x) for x in found]

        values = [Value(x, True) for x in mapped.values()]
        found = batched(run, values, batch, [names[k] for k in mapped])
        return _results(batch, found, forms[0], out_axes)

    return over_examples


def vectorized_map(fn: Callable[..., Any], elems: Any) -> Any:
    """`fn` of every entry of `elems` along the first axis, all at once: `vmap(fn)(elems)`.

    Args:
        elems: a tensor or a nested structure of tensors with first axes of one size; `fn` gets one
            entry of each, in that structure.
    """
    return vmap(fn)(elems)


def _name(path: str) -> str:
    """`[0][2]['w']` of (args, kwargs) as `argument 2['w']`, `[1]['x']` as `argument x`."""
    if path.startswith("[0]["):
        number, _, rest = path[4:].partition("]")
        return f"argument {number}{rest}"
    name, _, rest = path[5:].partition("']")
    return f"argument {name}{rest}"


# --- arguments ----------------------------------------------------------------------------------


def _axes_of(in_axes: Any, args: tuple[Any, ...]) -> list[int | None]:
    """The mapped axis of each leaf of `args`."""
    if isinstance(in_axes, list):
        in_axes = tuple(in_axes)
    if isinstance(in_axes, tuple) and len(in_axes) != len(args):
        raise ShapeError(
            f"vmap: in_axes={in_axes!r} has {len(in_axes)} entries for {len(args)} positional "
            "arguments; give one for each, or one axis for all"
        )
    return _spread(in_axes, args, "in_axes", "arguments")


def _spread(axes: Any, structure: Any, what: str, of: str) -> list[int | None]:
    try:
        found = tree.spread(axes, structure)
    except ValueError as error:
        why = str(error).rsplit("; ", 1)[0]  # without the values themselves
        raise ShapeError(
            f"vmap: {what}={axes!r} is not of the structure of the {of}: {why}"
        ) from None
    for axis in found:
        if axis is not None and type(axis) is not int:
            raise DTypeError(f"vmap: an axis in {what} is an integer or None, not {axis!r}")
    return found


def _keyword_axis(x: Any) -> int | None:
    return 0 if isinstance(x, Operators | np.ndarray) and x.ndim else None


def _leading(x: Any, axis: int, name: str) -> Tensor:
    """`x` with its mapped axis in front."""
    if not hasattr(x, "__array__") and not isinstance(x, Operators | int | float | complex):
        raise DTypeError(
            f"vmap: {name} is {x!r}, which is no tensor, so it cannot be mapped; give it the axis "
            "None in in_axes"
        )
    x = convert(x)
    if not x.ndim:
        raise ShapeError(
            f"vmap: {name} is a scalar, {x.spec}, so it has no axis to map; give it the axis None "
            "in in_axes"
        )
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"vmap: axis {axis} in in_axes is out of range for {name}, {x.spec}")
    return rules.moved(x, axis % x.ndim, 0)


def _size(mapped: dict[str, Tensor]) -> int:
    """The number of examples."""
    if not mapped:
        raise ShapeError(
            "vmap: no argument is mapped; in_axes gives at least one tensor an axis other than None"
        )
    (first, x), *others = mapped.items()
    for name, y in others:
        if y.shape[0] != x.shape[0]:
            raise ShapeError(
                f"vmap: the numbers of examples differ: {x.shape[0]} in {first}, {y.shape[0]} in "
                f"{name}; an argument that is the same for all examples has the axis None in "
                "in_axes"
            )
    return x.shape[0]


# --- results ------------------------------------------------------------------------------------


def _results(batch: Batch, found: list[Value | None], form: Any, out_axes: Any) -> Any:
    values = [v for v in found if v is not None]
    axes = _spread(
        out_axes, tree.unflatten(form, [v.tensor for v in values]), "out_axes", "results"
    )
    names = tree.paths(form, "result")
    placed = [_placed(batch, *x) for x in zip(values, axes, names, strict=True)]
    return tree.unflatten(form, placed)


def _placed(batch: Batch, value: Value, axis: int | None, name: str) -> Tensor:
    """`value` with its examples along `axis`."""
    if axis is None:
        if value.mapped:
            raise ShapeError(
                f"vmap: out_axes is None for {name}, but that differs between the examples"
            )
        return value.tensor
    x = batch.spread(value).tensor
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(f"vmap: axis {axis} in out_axes is out of range for {name}, {x.spec}")
    return rules.moved(x, 0, axis % x.ndim)
