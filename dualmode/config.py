"""Settings of the engine: read and set them as `dm.config.jit`, or with `update` and `override`.

Each has an environment variable, read when the package is imported: `DUALMODE_NUM_THREADS=2`,
`DUALMODE_JIT=0`, `DUALMODE_FULL_TRACEBACKS=1`, `DUALMODE_ENTRY=ctypes`,
`DUALMODE_BACKEND=interpret`. `DUALMODE_DISABLE_JIT=1` is another spelling of `DUALMODE_JIT=0`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal

num_threads: int = 0
"""Threads that compiled code may use; 0 stands for all cores that this process may run on."""

jit: bool = True
"""False runs the body of every `@dm.function` eagerly, to debug it."""

full_tracebacks: bool = False
"""True shows the engine's own frames in the traceback of an error."""

entry: Literal["native", "ctypes"] = "native"
"""How Python calls compiled code: through a generated CPython function, or through ctypes."""

backend: Literal["compile", "interpret"] = "compile"
"""What runs the graphs of functions: compiled code, or NumPy kernels one by one, to compare."""

detours: list[object] = []
"""Not a setting. One entry for each reason why calls of functions may have to take another way than
straight to compiled code: traces and tapes in progress in any thread, and `jit` being False."""

_NAMES = ("num_threads", "jit", "full_tracebacks", "entry", "backend")
_CHOICES = {"entry": ("native", "ctypes"), "backend": ("compile", "interpret")}
_WORDS = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}


def update(**settings: Any) -> None:
    """Change settings, for all threads, from now on.

    Raises:
        AttributeError: a name is not that of a setting.
        ValueError: a value does not suit its setting. Nothing is changed then.
    """
    before, compiled = num_threads, jit
    globals().update({name: _checked(name, value) for name, value in settings.items()})
    if jit != compiled:
        detours.pop() if jit else detours.append(None)
    if num_threads != before:
        from dualmode_compiler.runtime import pool  # only here: it loads what compiled code needs

        pool.set_threads(num_threads or pool.cores())


@contextmanager
def override(**settings: Any) -> Iterator[None]:
    """Change settings inside the block; they have their former values after it."""
    saved = {name: globals()[name] for name in settings if name in _NAMES}
    update(**settings)
    try:
        yield
    finally:
        update(**saved)


class _Config(ModuleType):
    """The type of this module: `dm.config.jit = False` is `dm.config.update(jit=False)`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):  # what the import system sets
            super().__setattr__(name, value)
        else:
            update(**{name: value})


def _checked(name: str, value: Any) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"config has no setting {name!r}; it has {', '.join(_NAMES)}")
    if name == "num_threads":
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"config: num_threads is a number of threads or 0, not {value!r}")
    elif name in _CHOICES:
        first, second = _CHOICES[name]
        if value not in _CHOICES[name]:
            raise ValueError(f"config: {name} is {first!r} or {second!r}, not {value!r}")
    elif not isinstance(value, bool):
        raise ValueError(f"config: {name} is True or False, not {value!r}")
    return value


def _from_environment() -> None:
    for name in _NAMES:
        variable = f"DUALMODE_{name.upper()}"
        text = os.environ.get(variable)
        if text is None:
            continue
        value: Any = text
        if name == "num_threads":
            value = int(text) if text.isdigit() else text
        elif name not in _CHOICES:
            value = _WORDS.get(text.lower(), text)
        try:
            update(**{name: value})
        except ValueError as error:
            raise ValueError(f"environment variable {variable}: {error}") from None
    if _WORDS.get(os.environ.get("DUALMODE_DISABLE_JIT", "").lower()):
        update(jit=False)


sys.modules[__name__].__class__ = _Config
_from_environment()
