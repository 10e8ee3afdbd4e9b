"""Settings of the engine: read and set them as `dm.config.jit`, or with `update` and `override`.

Each has an environment variable, read when the package is imported: `DUALMODE_NUM_THREADS=2`,
`DUALMODE_JIT=0`, `DUALMODE_CACHE_DIR=/fast/disk`, and so on for the others.
`DUALMODE_DISABLE_JIT=1` is another spelling of `DUALMODE_JIT=0`.
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

optimization: Literal[0, 1, 2] = 2
"""How far functions that are compiled from now on are optimised, to find out whether that is at
fault: 2: all; 1: without fusion, each operation by itself; 0: besides, the graph as it was traced,
and no value stored over another."""

cache: bool = True
"""False neither reads nor writes compiled code on disk."""

cache_dir: str = ""
"""Where compiled code is kept; by default in `$XDG_CACHE_HOME/dualmode` or `~/.cache/dualmode`."""

cache_mb: int = 512
"""The most that compiled code may take on disk, in MiB; the least recently used is dropped."""

codegen: Literal["auto", "here", "apart"] = "auto"
"""Where LLVM makes machine code: in this process, of which it then takes some 70 MiB; or in one of
its own, which starts while a function is traced, and ends when it has not been needed for some
seconds; "auto" is the latter where this process may use two cores. Where another process cannot be
had, code is made here."""

tune: Literal["model", "measure"] = "model"
"""How matrix products of functions that are compiled from now on are cut into blocks: by a model of
the machine, or as measured on it. A measurement takes some tens of milliseconds for each product
that is new to this machine; its outcome is kept with the compiled code. Results do not change."""

compile_budget: float = 30.0
"""Seconds that compiling one function may take before a warning says where they went; 0: any."""

log: str = ""
"""What to report on the standard error stream, separated by commas: "cache" gives each hit and miss
of the cache on disk, with the reason."""

detours: list[object] = []
"""Not a setting. One entry for each reason why calls of functions may have to take another way than
straight to compiled code: traces and tapes in progress in any thread, and `jit` being False."""

kernels: Literal["native", "numpy"] = "native"
"""What computes the ops of eager code: native kernels where there are some, or NumPy everywhere."""

interpreted: list[object] = []
"""Not a setting. One entry for each reason why ops may not go straight to native kernels: traces in
progress in any thread, `kernels` being "numpy", and a check of every op's result."""

_TOPICS = ("cache",)
# what a setting may be: a type, or one of some words
_KINDS: dict[str, type | tuple[str | int, ...]] = {
    "num_threads": int,
    "jit": bool,
    "full_tracebacks": bool,
    "entry": ("native", "ctypes"),
    "backend": ("compile", "interpret"),
    "kernels": ("native", "numpy"),
    "optimization": (0, 1, 2),
    "codegen": ("auto", "here", "apart"),
    "tune": ("model", "measure"),
    "cache": bool,
    "cache_dir": str,
    "cache_mb": int,
    "compile_budget": float,
    "log": str,
}
_NAMES = tuple(_KINDS)
_CACHE = {"cache", "cache_dir", "cache_mb", "log"}
_WORDS = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}


def update(**settings: Any) -> None:
    """Change settings, for all threads, from now on.

    Raises:
        AttributeError: a name is not that of a setting.
        ValueError: a value does not suit its setting. Nothing is changed then.
    """
    before, compiled, computed = num_threads, jit, kernels
    globals().update({name: _checked(name, value) for name, value in settings.items()})
    if jit != compiled:
        detours.pop() if jit else detours.append(None)
    if kernels != computed:
        interpreted.pop() if kernels == "native" else interpreted.append(None)
    if num_threads != before:
        from dualmode_compiler.runtime import pool  # only here: it loads what compiled code needs

        pool.set_threads(num_threads or pool.cores())
    if "codegen" in settings:
        from dualmode_compiler.runtime import apart

        apart.settings.codegen = codegen
    if not _CACHE.isdisjoint(settings):
        from dualmode_compiler.runtime import cache as store

        store.configure(
            enabled=cache, directory=cache_dir, limit=cache_mb << 20, log="cache" in _topics(log)
        )


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
    kind = _KINDS[name]
    if isinstance(kind, tuple):
        if value not in kind or isinstance(value, bool):
            raise ValueError(f"config: {name} is {' or '.join(map(repr, kind))}, not {value!r}")
    elif kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"config: {name} is True or False, not {value!r}")
    elif kind is str:
        if not isinstance(value, str):
            raise ValueError(f"config: {name} is text, not {value!r}")
        if name == "log" and not _topics(value) <= set(_TOPICS):
            raise ValueError(f"config: log is a list of {', '.join(_TOPICS)}, not {value!r}")
    elif isinstance(value, bool) or not isinstance(value, (int, kind)) or value < 0:
        what = {
            "num_threads": "a number of threads or 0",
            "cache_mb": "a whole number of MiB",
            "compile_budget": "a number of seconds or 0",
        }
        raise ValueError(f"config: {name} is {what[name]}, not {value!r}")
    return value


def _topics(text: str) -> set[str]:
    return {topic.strip() for topic in text.split(",") if topic.strip()}


def _parsed(name: str, text: str) -> Any:
    """The text of an environment variable as a value of the setting `name`, or as it is."""
    kind = _KINDS[name]
    if kind is bool:
        return _WORDS.get(text.lower(), text)
    if kind in (int, float) or name == "optimization":
        try:
            return float(text) if kind is float else int(text)
        except ValueError:
            return text
    return text


def _from_environment() -> None:
    for name in _NAMES:
        variable = f"DUALMODE_{name.upper()}"
        text = os.environ.get(variable)
        if text is None:
            continue
        try:
            update(**{name: _parsed(name, text)})
        except ValueError as error:
            raise ValueError(f"environment variable {variable}: {error}") from None
    if _WORDS.get(os.environ.get("DUALMODE_DISABLE_JIT", "").lower()):
        update(jit=False)


sys.modules[__name__].__class__ = _Config
_from_environment()
