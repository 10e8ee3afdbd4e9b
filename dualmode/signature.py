"""What a call of a compiled function is known by: the specs of its tensors and its other values."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dualmode_compiler import spec as specs
from dualmode_compiler.records import dataclass
from dualmode_compiler.spec import Spec, spec_of
from dualmode_compiler.spec import dtype as as_dtype

from . import sizes, tree
from .errors import DTypeError, ShapeError, locate
from .op import state
from .ops.shape import to_shape
from .tensor import Tensor
from .variable import Variable

_WEAK = {
    int: Spec((), specs.int64, weak=True),
    float: Spec((), specs.float64, weak=True),
    np.float64: Spec((), specs.float64, weak=True),  # by its class a Python float
}
_INT64 = range(-(1 << 63), 1 << 63)


class TensorSpec:
    """The shape and dtype of a tensor, to ask for a concrete function without one, or to say what
    a function takes (`input_signature`).

    Args:
        shape: sizes of the axes; None for an axis that may have any.
        dtype: a DType, its name, or what NumPy takes for one.

    Raises:
        DTypeError: a size is no integer.
        ShapeError: a size is negative.
    """

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: Any, dtype: Any = specs.float32) -> None:
        axes = shape if isinstance(shape, list | tuple) else to_shape(shape)
        self.shape = tuple(None if n is None else int(to_shape(n)[0]) for n in axes)
        self.dtype = as_dtype(dtype)
        if any(n is not None and n < 0 for n in self.shape):
            raise ShapeError(f"TensorSpec: {self} has a negative size; None stands for any size")

    @property
    def spec(self) -> Spec:
        """As a `Spec`, which knows all sizes.

        Raises:
            ShapeError: one is None.
        """
        if None in self.shape:
            raise ShapeError(f"{self}: all sizes have to be known here, None is none")
        return Spec([n for n in self.shape if n is not None], self.dtype)

    def admits(self, spec: Spec) -> bool:
        """Whether an array of that spec is as this says."""
        return (
            spec.dtype is self.dtype
            and spec.ndim == len(self.shape)
            and all(n in (None, m) for n, m in zip(self.shape, spec.shape, strict=True))
        )

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, TensorSpec)
        return same and (self.shape, self.dtype) == (other.shape, other.dtype)

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype))

    def __repr__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Identity:
    """An argument known by being this very object, which is not kept alive."""

    __slots__ = ("_id", "_ref")

    def __init__(self, x: Any) -> None:
        self._id = id(x)
        self._ref = weakref.ref(x)

    @property
    def alive(self) -> bool:
        return self._ref() is not None

    @property
    def reference(self) -> Callable[[], Any]:
        """Gives the object while it is alive, then None."""
        return self._ref

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Identity)
            and self._id == other._id
            and self._ref() is other._ref()
            and self.alive
        )

    def __hash__(self) -> int:
        return self._id

    def __repr__(self) -> str:
        return repr(self._ref())


@dataclass(frozen=True, slots=True)
class Static:
    """An argument known by its value. The type counts: True, 1 and 1.0 are different values."""

    kind: type
    value: Any

    def __repr__(self) -> str:
        return self.value if self.kind is float else repr(self.value)


LeafKey = Spec | Static | Identity


def static_key(x: Any) -> Static | Identity:
    """What a value that is not traced is known by.

    Raises:
        TypeError: `x` can neither be hashed nor be referred to weakly.
    """
    kind = type(x)
    if kind is float:  # hex tells -0.0 from 0.0, and NaN is NaN
        return Static(kind, x.hex())
    try:
        if kind.__hash__ is object.__hash__ or isinstance(x, Variable):
            return Identity(x)
        hash(x)
    except TypeError:
        if kind.__hash__ is None and kind.__module__ != "builtins":
            return Identity(x)
        if kind.__hash__ is not object.__hash__:
            raise TypeError(
                f"a {kind.__name__} can neither be traced nor hashed, {x!r}; "
                "pass tensors, numbers, or lists, tuples, dicts and dataclasses of them"
            ) from None
    return Static(kind, x)


def leaf_key(x: Any) -> LeafKey:
    """What an argument is known by: its Spec where it is traced, else its value or identity."""
    if isinstance(x, Tensor):
        return x.spec
    if isinstance(x, Spec):
        return x
    if isinstance(x, TensorSpec):
        return x.spec
    kind = sizes.PYTHON.get(type(x), type(x))
    if kind in _WEAK and (kind is not int or sizes.plain(x) in _INT64):
        return _WEAK[kind]
    if isinstance(x, np.ndarray):
        return spec_of(x)
    if isinstance(x, np.generic):
        return Spec((), specs.from_numpy(x.dtype))
    return static_key(x)


def number_value(x: Any) -> Any:
    """The value of a Python number, or of one that a trace in progress stands for."""
    if isinstance(x, Tensor):
        return state.mode.value_needed(x, "an argument's value").item()
    return sizes.need_value(x) if type(x) is sizes.Size else x


class Key(NamedTuple):
    """What one call is known by.

    Attributes:
        form: how arguments nest, from `tree.flatten`.
        leaves: what each argument is known by.
        values: the values of those Python numbers that the function needs them of, by position.
    """

    form: Any
    leaves: tuple[LeafKey, ...]
    values: tuple[tuple[int, Static | Identity], ...] = ()

    @classmethod
    def of(cls, form: Any, leaves: Sequence[Any]) -> Key:
        return cls(form, tuple(map(leaf_key, leaves)))

    def given(self, positions: Iterable[int], leaves: Sequence[Any]) -> Key:
        """The same, with the values of the numbers at `positions`."""
        values = tuple((k, static_key(number_value(leaves[k]))) for k in positions)
        return self._replace(values=values)

    def spec(self, k: int) -> Spec:
        """The spec of argument `k`, which is traced."""
        spec = self.leaves[k]
        assert isinstance(spec, Spec)
        return spec

    @property
    def stale(self) -> bool:
        """True where an argument known by identity is gone, so that no call can match again."""
        return any(isinstance(k, Identity) and not k.alive for k in self.leaves)


class Arguments:
    """The parameters of a Python function, and how a call's arguments line up with them."""

    def __init__(self, function: Callable[..., Any], skip: int = 0) -> None:
        self._name = getattr(function, "__name__", type(function).__name__)
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[skip:]
        self._signature = signature.replace(parameters=parameters)
        self.names = [p.name for p in parameters]
        kinds = [p.kind for p in parameters]
        ordinary = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
        self._ordinary = ordinary.issuperset(kinds)
        self.positional = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self._defaults = {p.name: p.default for p in parameters if p.default is not p.empty}

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Positional and keyword arguments in the one form that all equal calls share.

        Raises:
            TypeError: the arguments do not fit the function's parameters.
        """
        if self._ordinary:
            count, names = len(args), self.names
            if count == len(names) and not kwargs:
                return args, kwargs
            # the common case without inspect, which is slow; it explains what does not fit
            named = {**self._defaults, **kwargs}
            if count <= self.positional and kwargs.keys().isdisjoint(names[:count]):
                rest = names[count:]
                if all(n in named for n in rest) and kwargs.keys() <= set(rest):
                    split = self.positional
                    return (
                        (*args, *(named[n] for n in names[count:split])),
                        {n: named[n] for n in names[split:]},
                    )
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise locate(TypeError(f"{self._name}(): {error}")) from None
        bound.apply_defaults()
        return bound.args, bound.kwargs

    def numbered(self, numbers: int | Sequence[int], what: str) -> frozenset[int]:
        """`numbers` of positional parameters, those from the end being negative.

        Raises:
            ValueError: there is no such parameter.
        """
        given = [numbers] if isinstance(numbers, int) else list(numbers)
        for n in given:
            if not -self.positional <= n < self.positional:
                raise ValueError(
                    f"{self._name}(): {what}: there is no positional parameter {n}; it has "
                    f"{self.positional}: {', '.join(self.names[: self.positional])}"
                )
        return frozenset(n % self.positional for n in given)

    def defaults(self, count: int) -> list[Any] | None:
        """What a call with `count` positional arguments leaves out of the ordinary ones; None where
        it does not fit them."""
        if not self._ordinary or count > self.positional:
            return None
        missing = self.names[count : self.positional]
        if any(n not in self._defaults for n in missing):
            return None
        return [self._defaults[n] for n in missing]

    def key(self, form: Any, leaves: Sequence[Any]) -> Key:
        """What the call with these arguments is known by.

        Raises:
            DTypeError: an argument can neither be traced nor hashed.
        """
        try:
            return Key.of(form, leaves)
        except TypeError:
            pass
        for path, x in zip(self.paths(form), leaves, strict=True):
            try:
                leaf_key(x)
            except TypeError as error:
                raise DTypeError(f"{self._name}: argument {path}: {error}") from None
        raise AssertionError("one of the arguments has no key")

    def paths(self, form: Any) -> list[str]:
        """Where each leaf of `(args, kwargs)` stands, by the parameter's name: `params['w'][0]`."""
        found = []
        for path, text in zip(form.paths(), tree.paths(form), strict=True):
            if path[0] == 1:  # "[1]['name']..."
                name = str(path[1])
                rest = text[len(f"[1][{path[1]!r}]") :]
            elif path[1] < len(self.names):  # "[0][position]..."
                name = self.names[path[1]]
                rest = text[len(f"[0][{path[1]}]") :]
            else:
                name, rest = "args", text[len("[0]") :]
            found.append(name + rest)
        return found

    def describe(self, key: Key) -> str:
        """`x: float32[3,4], n=2`: the arguments of a call known by `key`."""
        values = dict(key.values)
        words = []
        for k, (path, leaf) in enumerate(zip(self.paths(key.form), key.leaves, strict=True)):
            known = values.get(k, leaf)
            words.append(f"{path}: {known}" if isinstance(known, Spec) else f"{path}={known!r}")
        return ", ".join(words)
