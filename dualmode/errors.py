"""Exceptions, and the place in the user's own code that they point to.

A message says what is wrong, where, and how to mend it:

    matmul: inner sizes differ: float32[3,7] @ float32[4,5] (7 vs 4)
      at train.py:12: y = x @ w

Frames of the engine itself are left out of the tracebacks that the interpreter prints, unless
`dm.config.full_tracebacks` is set, or it was the engine that failed.
"""

from __future__ import annotations

import linecache
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from opcode import opmap
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, TypeVar

import dualmode_compiler
from dualmode_compiler.graph import PARAM, running

from . import config

if TYPE_CHECKING:
    from dualmode_compiler.graph import Node

Site = tuple[str, int]
E = TypeVar("E", bound=BaseException)

ENGINE = tuple(
    os.path.dirname(os.path.abspath(path)) + os.sep
    for path in (__file__, dualmode_compiler.__file__)
)
CONVERSION = ENGINE[0] + "autograph" + os.sep  # between the user's code and what it calls
_WRAPPERS = CONVERSION, ENGINE[0] + "dispatch.py"  # files of functions that stand for others
_RAISE = (opmap["RAISE_VARARGS"], opmap["RERAISE"])


def is_internal(file: str) -> bool:
    """Whether `file` is of the engine, and does not run in the name of the user's code."""
    return file.startswith(ENGINE) and not file.startswith(CONVERSION)


@cache
def is_foreign(file: str) -> bool:
    """Whether code in `file` is the engine's, Python's own or an installed package's."""
    return file.startswith(("<frozen", *ENGINE, *_libraries()))


@cache
def _libraries() -> tuple[str, ...]:
    import site  # `sysconfig` knows too, but takes longer

    folders = [os.path.dirname(os.__file__), *site.getsitepackages()]
    return tuple({os.path.abspath(folder) + os.sep for folder in folders})


def user_code() -> CodeType | None:
    """The code of the innermost running frame outside the engine's own packages."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(ENGINE):
        frame = frame.f_back
    return frame.f_code if frame is not None else None


def user_site() -> Site | None:
    """(file, line) of the innermost running frame outside the engine's own packages.

    While compiled code runs, that of the op which it computes: where the user's code made it.
    """
    if running.site is not None:
        return running.site
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(ENGINE):
            return file, frame.f_lineno
        frame = frame.f_back
    return None


def describe_site(site: Site | None) -> str:
    """`train.py:12: y = x @ w`; without the text where the source is not at hand."""
    if site is None:
        return "an unknown line"
    file, line = site
    text = linecache.getline(file, line).strip()
    return f"{_short(file)}:{line}" + (f": {text}" if text else "")


def _short(file: str) -> str:
    """`file` as seen from the current directory, where that is shorter."""
    try:
        near = os.path.relpath(file)
    except (ValueError, OSError):  # another drive, or the directory is gone
        return file
    return near if len(near) < len(file) and not near.startswith("..") else file


class Error(Exception):
    """Base of the engine's exceptions. The message ends with the user's own line.

    Attributes:
        site: the user's (file, line), or None where no frame is the user's.
    """

    site: Site | None

    def __init__(self, message: str = "", site: Site | None = None) -> None:
        super().__init__(message)
        locate(self, site)


class ShapeError(Error, ValueError):
    """Shapes that do not fit each other or the operation."""


class DTypeError(Error, TypeError):
    """Element types that the operation does not take, or a value that is no tensor."""


class TracedValueError(Error, TypeError):
    """The value of a tensor is needed while its function is still being traced."""


class OutOfRangeError(Error, IndexError):
    """An index beyond the end of its axis."""


class AssertionFailed(Error, AssertionError):
    """A condition on the values of tensors that does not hold."""


class GradientError(Error, RuntimeError):
    """A gradient that cannot be computed: a tape used up, a target that is not differentiable."""


class VariableError(Error, ValueError):
    """A variable that is created or changed where or how it cannot be."""


class DonatedError(Error, RuntimeError):
    """A tensor is used that was given away to a function, by `donate_argnums`."""


class UndefinedError(Error, UnboundLocalError):
    """A variable that only one branch, or only a loop's body, assigns, and that is read behind."""


class ConversionError(Error, RuntimeError):
    """Code whose control flow cannot be converted."""


class SideEffectError(Error, RuntimeError):
    """What `SideEffectWarning` warns of, in a function made with `strict=True`."""


class SideEffectWarning(UserWarning):
    """Python code has an effect that happens once, when it is traced, not on each call."""


class UnrollingWarning(UserWarning):
    """A Python loop makes a trace very long."""


class RetracingWarning(UserWarning):
    """A function is traced again and again; the message says why, and how to mend it."""


class CompilationWarning(UserWarning):
    """Compiling a function took longer than `dm.config.compile_budget`."""


def locate(error: E, site: Site | None = None) -> E:
    """`error` with the user's line added to its message, once. Returns the same object."""
    if getattr(error, "site", None) is None:
        site = site or user_site()
        error.site = site  # type: ignore[attr-defined]
        if site is not None and len(error.args) <= 1:
            message = str(error.args[0]) if error.args else type(error).__name__
            error.args = (f"{message}\n  at {describe_site(site)}",)
    return error


_STATIC = (
    "pass it as a Python int, whose value is known, or take it from a shape, as x.shape[0]; a loop "
    "counts by dm.range"
)
# why the control flow of a function's code is not converted, as the end of a sentence, or None;
# where functions are converted, that is asked here
why_unconverted: Callable[[CodeType], str | None] = lambda code: None  # noqa: E731

_INSTEAD = {
    "bool()": "use dm.where to choose between results, dm.logical_and for `and`, dm.logical_not "
    "for `not`",
    "numpy()": "use the functions of dm in the place of NumPy's",
    "an index or size": _STATIC,
    "a boolean mask": "use dm.where: the shape of a result cannot depend on values",
}


def traced_value_error(node: Node, use: str, name: str | None = None) -> TracedValueError:
    """Why `use` (as in "bool()") cannot have the value of the traced tensor at `node`.

    Args:
        name: what the node is, where it is no result of an op: "argument x", "variable w".
    """
    instead = _INSTEAD.get(use, "compute with the tensor itself, its shape or its dtype")
    code = user_code()
    why = why_unconverted(code) if use == "bool()" and code is not None else None
    function = _engine_function()
    if code is not None and why is not None:
        instead = (
            f"use dm.where, dm.cond or dm.while_loop, or mend this: the control flow of "
            f"{code.co_name} is "
            f"not converted, because {why}"
        )
    elif function is not None:  # which asks for it, rather than the user's own code
        instead = _INSTEAD.get(use, _STATIC) if use != "bool()" else _STATIC
        use = f"{function}: {use}"
    return TracedValueError(
        f"{use} needs the value of TracedTensor({node.spec}), which has none yet: "
        "a function is traced before it runs.\n"
        f"  {_origin(node, name)}\n"
        f"  Instead, {instead}; or move this line out of the @dm.function; "
        "or debug with dm.run_functions_eagerly(True)."
    )


def _engine_function() -> str | None:
    """The name of the engine's function that the user's code has called, operators aside."""
    name: str | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(ENGINE):
        if not frame.f_code.co_filename.startswith(_WRAPPERS):
            name = frame.f_code.co_name
        frame = frame.f_back
    return None if name is None or name.startswith(("_", "<")) else name.removesuffix("_")


def leaked_error(node: Node, use: str) -> TracedValueError:
    """A traced tensor was kept and used after the trace of its function had ended."""
    return TracedValueError(
        f"{use}: TracedTensor({node.spec}) is used outside of the function that it was traced in, "
        "where it has no value.\n"
        f"  {_origin(node)}\n"
        "  Return it from the function, or assign it to a dm.Variable."
    )


def _origin(node: Node, name: str | None = None) -> str:
    if node.op is PARAM:
        return f"It is {name or 'an argument or a variable of that function'}."
    return f"It was made by {node.op.name} at {describe_site(node.site)}"


def strip(traceback: TracebackType | None) -> TracebackType | None:
    """`traceback` without the engine's own frames; None where nothing is left."""
    kept: list[TracebackType] = []
    step = traceback
    while step is not None:
        if not step.tb_frame.f_code.co_filename.startswith(ENGINE):
            kept.append(step)
        step = step.tb_next
    shown: TracebackType | None = None
    for t in reversed(kept):
        shown = TracebackType(shown, t.tb_frame, t.tb_lasti, t.tb_lineno)
    return shown


def hide_frames(error: BaseException) -> None:
    """Take the engine's own frames out of the tracebacks of `error` and of what led to it.

    They stay where all are the engine's, and where the engine itself has failed.
    """
    traceback = error.__traceback__
    located = getattr(error, "site", None) is not None
    if traceback is None or not (located or _on_purpose(traceback)):
        return
    error.__traceback__ = strip(traceback) or traceback
    seen = {id(error)}
    step: BaseException | None = error
    while (step := _cause(step)) is not None and id(step) not in seen:
        seen.add(id(step))
        step.__traceback__ = strip(step.__traceback__)


def _on_purpose(traceback: TracebackType) -> bool:
    """False where the engine's own code has failed without a `raise`: a bug, or close to one."""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    return not code.co_filename.startswith(ENGINE) or code.co_code[traceback.tb_lasti] in _RAISE


def _cause(error: BaseException) -> BaseException | None:
    """What a printed traceback of `error` shows as having led to it."""
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def install_hook() -> None:
    """Make the interpreter print tracebacks, those of threads as well, by `hide_frames`."""
    previous, previous_thread = sys.excepthook, threading.excepthook

    def hook(kind: type[BaseException], error: BaseException, tb: TracebackType | None) -> None:
        if not config.full_tracebacks:
            hide_frames(error)
            tb = error.__traceback__
        previous(kind, error, tb)

    def thread_hook(args: threading.ExceptHookArgs) -> None:
        error = args.exc_value
        if error is not None and not config.full_tracebacks:
            hide_frames(error)
            args = threading.ExceptHookArgs(
                (args.exc_type, error, error.__traceback__, args.thread)
            )
        previous_thread(args)

    sys.excepthook, threading.excepthook = hook, thread_hook


def require_function(what: str, f: object) -> None:
    """Check that the transform `what` got a function.

    Raises:
        TypeError: it is none.
    """
    if not callable(f):
        raise locate(
            TypeError(
                f"{what}: takes a function, and gives another one; got {type(f).__name__} {f!r}"
            )
        )
