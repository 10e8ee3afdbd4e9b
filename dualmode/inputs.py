"""`input_signature`: what a function says that it takes, checked on each call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from dualmode_compiler.spec import Spec, promote

from . import tree
from .errors import DTypeError, ShapeError, locate
from .op import convert
from .signature import Arguments, TensorSpec, leaf_key
from .tensor import Tensor
from .variable import Variable

_NUMBERS = (bool, int, float, complex)


class InputSignature:
    """The structures of `TensorSpec`s that a function's first parameters take.

    Args:
        name: the function's.
        entries: one for each parameter.

    Raises:
        TypeError: it holds something else, or more entries than there are parameters.
    """

    def __init__(self, name: str, arguments: Arguments, entries: Any) -> None:
        self._name = name
        self._arguments = arguments
        if not isinstance(entries, list | tuple):
            raise TypeError(
                f"{name}: input_signature has one entry for each parameter, in a list; got "
                f"{entries!r}"
            )
        if len(entries) > arguments.positional:
            raise TypeError(
                f"{name}: input_signature has {len(entries)} entries for "
                f"{arguments.positional} positional parameters"
            )
        self._specs: list[TensorSpec] = []
        self._forms: list[Any] = []
        for entry in entries:
            specs, form = tree.flatten(entry)
            self._specs += map(self._spec, specs)
            self._forms.append(form)

    def _spec(self, x: Any) -> TensorSpec:
        if isinstance(x, Spec):
            return TensorSpec(x.shape, x.dtype)
        if not isinstance(x, TensorSpec):
            raise TypeError(f"{self._name}: input_signature holds dm.TensorSpecs, not {x!r}")
        return x

    def take(self, leaves: Sequence[Any], form: Any) -> list[Any]:
        """The arguments' leaves, Python numbers among them as tensors.

        Raises:
            TypeError: an argument has another structure.
            ShapeError, DTypeError: or another shape or dtype.
        """
        args = form.child(0)
        for k, expected in enumerate(self._forms):
            found = args.child(k) if k < args.num_children else None
            if found != expected:
                raise self._other_structure(k, expected, found)
        given = list(leaves)
        for k, spec in enumerate(self._specs):
            x = given[k]
            if isinstance(x, Variable):
                x = given[k] = x.read_value()
            if type(x) in _NUMBERS:
                given[k] = self._number(x, spec, k, form)
            elif not isinstance(x, TensorSpec | Spec | Tensor | np.ndarray | np.generic):
                raise self._refuse(k, spec, f"{type(x).__name__} {x!r}", form)
            elif not spec.admits(_as_spec(x)):
                raise self._refuse(k, spec, _as_spec(x), form)
        return given

    def symbolic(self) -> list[tuple[int, int]]:
        """(leaf, axis) of all sizes that may be any."""
        return [
            (k, axis)
            for k, spec in enumerate(self._specs)
            for axis, n in enumerate(spec.shape)
            if n is None
        ]

    def _number(self, x: Any, spec: TensorSpec, k: int, form: Any) -> Any:
        """A Python number as a tensor, unless that loses what it says."""
        own = convert(x).dtype
        if spec.shape or (
            spec.dtype.kind != own.kind and promote(own, spec.dtype) is not spec.dtype
        ):
            raise self._refuse(k, spec, f"{type(x).__name__} {x!r}", form)
        return convert(x, spec.dtype)

    def _refuse(self, k: int, spec: TensorSpec, found: Any, form: Any) -> Exception:
        path = self._arguments.paths(form)[k]
        message = f"{self._name}: argument {path}: expected {spec} by input_signature, got {found}"
        if not isinstance(found, Spec):
            return DTypeError(f"{message}; pass a tensor")
        if found.dtype is not spec.dtype:
            return DTypeError(f"{message} (convert with dm.astype(x, dm.{spec.dtype}))")
        if found.ndim != len(spec.shape):
            return ShapeError(f"{message} ({found.ndim} axes, not {len(spec.shape)})")
        pairs = enumerate(zip(spec.shape, found.shape, strict=True))
        axis, n, m = next((a, n, m) for a, (n, m) in pairs if n not in (None, m))
        return ShapeError(f"{message} (axis {axis} has {m}, not {n})")

    def _other_structure(self, k: int, expected: Any, found: Any) -> Exception:
        names = self._arguments.names
        wanted = _outline(expected)
        if found is None:
            return locate(TypeError(f"{self._name}: argument {names[k]} is missing: {wanted}"))
        return locate(
            TypeError(
                f"{self._name}: argument {names[k]}: expected {wanted} by input_signature, "
                f"got {_outline(found)}"
            )
        )


def _as_spec(x: Any) -> Spec:
    spec = leaf_key(x)
    assert isinstance(spec, Spec)
    return spec


def _outline(form: Any) -> str:
    """A structure in words, with `*` in the place of its tensors."""
    text = re.sub(r"PyTreeSpec\((.*?)(, NoneIsLeaf|, namespace=.*)?\)", r"\1", str(form))
    return "a tensor" if text == "*" else f"tensors nested as {text}"
