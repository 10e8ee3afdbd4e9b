"""What the user's functions can reach: their code, and the objects that their code names.

A walk over functions, closures, globals, instances and containers, which runs none of the user's
code. Libraries, and the engine itself, are not the user's.
"""

from __future__ import annotations

import dis
import functools
import itertools
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from types import (
    BuiltinMethodType,
    CodeType,
    FunctionType,
    GeneratorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np

from .errors import is_foreign
from .tensor import Operators

_LIMIT = 5000  # objects
_ITEMS = 256  # of one container that are visited
PLAIN = (bool, int, float, complex, str, bytes, type(None))
CONTAINERS = (list, dict, set, deque, Counter, OrderedDict, defaultdict)
ITERATORS = (  # built in, of which it can be told how far they have come
    *(type(iter(x)) for x in ([], (), {}, set(), "", range(0))),
    *(itertools.count, enumerate, zip, map),
)
# of random numbers; by name, as their modules are slow to import and may not be needed
_GENERATORS = {
    ("numpy.random._generator", "Generator"),
    ("numpy.random.mtrand", "RandomState"),
    ("random", "Random"),
}


@functools.cache
def _user_module(name: str) -> bool:
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if file:
        return not is_foreign(file)
    return name == "__main__" or name not in sys.builtin_module_names


def is_engine(x: Any) -> bool:
    """Whether `x` is one of the engine's objects: a variable, a layer, an optimizer."""
    return any(c.__module__.partition(".")[0] == "dualmode" for c in type(x).__mro__)


def is_generator(x: Any) -> bool:
    """Whether `x` is a generator of random numbers, NumPy's or Python's."""
    return any((c.__module__, c.__name__) in _GENERATORS for c in type(x).__mro__)


class Reach:
    """All that is reachable from some objects.

    Attributes:
        codes: code of the user's functions, and what is nested in them.
        names: the attributes and globals that they name.
        found: (path, object) of containers, instances, modules, classes and generators of random
            numbers that code may change.
        cells: (name, cell) of the closures.
        globals: (name, module's namespace) of global variables that code assigns.
        values: the ids of all that was visited.
    """

    def __init__(self, roots: Iterable[tuple[str, Any]]) -> None:
        self.codes: list[CodeType] = []
        self.names: set[str] = set()
        self.found: list[tuple[str, Any]] = []
        self.cells: list[tuple[str, Any]] = []
        self.globals: list[tuple[str, dict[str, Any]]] = []
        self.values: dict[int, Any] = {}
        self._modules: list[tuple[str, ModuleType]] = []
        self._work = deque(roots)
        while self._work or self._enter_modules():
            path, x = self._work.popleft()
            if id(x) not in self.values and not isinstance(x, PLAIN):
                self.values[id(x)] = x
                self._visit(path, x)
            if len(self.values) > _LIMIT:
                break

    def _visit(self, path: str, x: Any) -> None:
        add, kind = self._work.append, type(x)
        if kind is FunctionType:
            self._function(x)
        elif kind is MethodType or kind is BuiltinMethodType:
            owner = x.__self__
            if kind is MethodType:
                add((path, x.__func__))
            add((path if is_generator(owner) else "self", owner))
        elif kind is functools.partial:
            self._work.extend((path, v) for v in (x.func, *x.args, *x.keywords.values()))
        elif kind is ModuleType:
            if _user_module(x.__name__):
                self._modules.append((path, x))
        elif isinstance(x, type):
            if _user_module(x.__module__):
                self.found.append((path, x))
                self._methods(x)
        elif kind in CONTAINERS or kind is tuple:
            self._container(path, x)
        elif kind is np.ndarray or kind in (GeneratorType, *ITERATORS) or is_generator(x):
            self.found.append((path, x))
        elif isinstance(x, Operators):
            pass
        else:
            self._instance(path, x)

    def _function(self, function: FunctionType) -> None:
        code = function.__code__
        wrapped = vars(function).get("__wrapped__")
        if wrapped is not None:
            self._work.append((function.__name__, wrapped))
        if is_foreign(code.co_filename):
            return
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self.cells.append((name, cell))
            try:
                self._work.append((name, cell.cell_contents))
            except ValueError:  # not assigned yet
                continue
        for part in nested(code):
            self.codes.append(part)
            self.names.update(part.co_names)
            for name in part.co_names:
                if name in function.__globals__:
                    self._work.append((name, function.__globals__[name]))
            self.globals.extend((name, function.__globals__) for name in _assigned(part))
        given = function.__defaults__ or ()
        names = code.co_varnames[code.co_argcount - len(given) : code.co_argcount]
        self._work.extend(zip(names, given, strict=True))
        self._work.extend((function.__kwdefaults__ or {}).items())

    def _container(self, path: str, x: Any) -> None:
        if type(x) is not tuple:
            self.found.append((path, x))
        if len(x) <= _ITEMS:
            items = list(x.values()) if isinstance(x, dict) else list(x)
            self._work.extend((path, v) for v in items)

    def _instance(self, path: str, x: Any) -> None:
        kind = type(x)
        mine = _user_module(kind.__module__)
        if mine:
            self.found.append((path, x))
            self._methods(kind)
        if mine or is_engine(x):
            held = namespace(x)
            self._work.extend((name, v) for name, v in held.items())

    def _methods(self, kind: type) -> None:
        for base in kind.__mro__:
            if _user_module(base.__module__) and id(base) not in self.values:
                self.values[id(base)] = base
                self.found.append((base.__name__, base))
            if _user_module(base.__module__):
                for x in vars(base).values():
                    for function in _functions(x):
                        self._work.append((function.__name__, function))

    def _enter_modules(self) -> bool:
        """What code names of the user's modules."""
        for path, module in self._modules:
            self.found.append((path, module))
            held = vars(module)
            self._work.extend((n, held[n]) for n in self.names & held.keys())
        self._modules = []
        return bool(self._work)


def namespace(x: Any) -> dict[str, Any]:
    """The attributes of an instance, class or module, by name; runs no code of theirs."""
    held = dict(getattr(x, "__dict__", None) or {})
    for base in type(x).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            member = vars(base).get(name)
            if isinstance(member, MemberDescriptorType):
                try:
                    held[name] = member.__get__(x)
                except AttributeError:
                    continue
    return held


def _functions(x: Any) -> Iterator[Callable[..., Any]]:
    """The Python functions that a class attribute is made of."""
    if isinstance(x, staticmethod | classmethod):
        x = x.__func__
    if isinstance(x, property):
        yield from (f for f in (x.fget, x.fset) if isinstance(f, FunctionType))
    inner = vars(x).get("python_function") if is_engine(x) and hasattr(x, "__dict__") else x
    if isinstance(inner, FunctionType):
        yield inner


def nested(code: CodeType) -> Iterator[CodeType]:
    """`code` and the code of all that is defined in it."""
    yield code
    for x in code.co_consts:
        if isinstance(x, CodeType):
            yield from nested(x)


@functools.lru_cache(1024)
def _assigned(code: CodeType) -> tuple[str, ...]:
    """The global variables that `code` assigns."""
    steps = dis.get_instructions(code)
    return tuple({s.argval for s in steps if s.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")})
