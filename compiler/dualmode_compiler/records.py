"""Dataclasses that are quick to define.

The library's decorator compiles up to seven functions for each class, which takes 0.2 to 0.4 ms: a
hundred classes would be half of the time to import the engine, and those that lowering and emission
use a tenth of a first call. Here the functions are closures, and `__init__` is compiled once a
class has made some objects. `dataclasses.fields`, `replace`, `astuple` and `is_dataclass` know the
classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")
SOME = 32  # objects that are made in less time than it takes to compile `__init__`


@overload
def dataclass(cls: type[T], /) -> type[T]: ...
@overload
def dataclass(
    *, frozen: bool = False, eq: bool = True, slots: bool = False
) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(field_specifiers=(field,))
def dataclass(
    cls: type[Any] | None = None, /, *, frozen: bool = False, eq: bool = True, slots: bool = False
) -> Any:
    """What `dataclasses.dataclass` means with these of its arguments."""

    def define(cls: type[Any]) -> type[Any]:
        own = set(vars(cls))
        if cls.__doc__ is None:
            cls.__doc__ = cls.__name__  # else it would be made of the signature, which takes long
        made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
        methods = _methods(made, frozen, eq, slots)
        for name in methods.keys() - own:
            setattr(made, name, methods[name])
        return made

    return define if cls is None else define(cls)


def _methods(cls: type[Any], frozen: bool, eq: bool, slots: bool) -> dict[str, Any]:
    shown = [f.name for f in fields(cls) if f.repr]
    values = _getter([f.name for f in fields(cls) if f.compare])

    left = SOME
    names = [f.name for f in fields(cls) if f.init]
    defaults = {f.name: f.default for f in fields(cls) if f.default is not MISSING}
    makers = {f.name: f.default_factory for f in fields(cls) if f.default_factory is not MISSING}
    allowed = frozenset(names)
    needed = allowed - defaults.keys() - makers.keys()

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal left
        left -= 1
        values = dict(zip(names, args, strict=False)) | kwargs
        right = len(values) == len(args) + len(kwargs) and needed <= values.keys() <= allowed
        if not (right and left):  # what is wrong is told by the call
            cls.__init__ = _init(cls, frozen)
            cls.__init__(self, *args, **kwargs)
            return
        values = defaults | values
        for name, make in makers.items():
            if name not in values:
                values[name] = make()
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if hasattr(cls, "__post_init__"):
            self.__post_init__()

    def represent(self: Any) -> str:
        said = ", ".join([f"{name}={getattr(self, name)!r}" for name in shown])
        return f"{type(self).__qualname__}({said})"

    def equal(self: Any, other: object) -> Any:
        if other.__class__ is self.__class__:
            return values(self) == values(other)
        return NotImplemented

    def hashed(self: Any) -> int:
        return hash(values(self))

    methods: dict[str, Any] = {"__init__": init, "__repr__": represent}
    if eq:
        methods |= {"__eq__": equal, "__hash__": hashed if frozen else None}
    if frozen:
        methods |= {"__setattr__": _refuse_to_set, "__delattr__": _refuse_to_delete}
        if slots:
            methods |= {"__getstate__": _state, "__setstate__": _set_state}
    return methods


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """What gives the attributes `names` of an object."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda x: tuple([getattr(x, name) for name in names])


def _init(cls: type[Any], frozen: bool) -> Callable[..., None]:
    """The `__init__` of a class, written out."""
    known: dict[str, Any] = {"_set": object.__setattr__, "_missing": MISSING}
    arguments, body = ["self"], []
    for f in fields(cls):
        value = f.name
        if f.default is not MISSING:
            known[f"_{f.name}"] = f.default
            default = f"_{f.name}"
        elif f.default_factory is not MISSING:
            known[f"_{f.name}"] = f.default_factory
            default = "_missing"
            value = f"_{f.name}() if {f.name} is _missing else {f.name}"
        else:
            default = ""
        if f.init:
            arguments.append(f"{f.name}={default}" if default else f.name)
        elif default:
            value = f"_{f.name}()" if default == "_missing" else default
        else:
            continue
        body.append(f"_set(self, {f.name!r}, {value})" if frozen else f"self.{f.name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    text = f"def __init__({', '.join(arguments)}):\n " + "\n ".join(body or ["pass"])
    exec(text, known)
    made = known["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _refuse_to_set(self: Any, name: str, value: Any) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, f.name) for f in fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for f, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, f.name, value)
