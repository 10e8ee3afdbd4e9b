"""From Python into generated code: checks arguments, runs an executable, wraps its results.

`Entry.call` is the fast way: on CPython a builtin function without any Python in it, elsewhere the
same in Python through ctypes. `Entry.run` is the general way, which also converts layouts.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from ..spec import Spec, from_numpy
from . import entry_native
from .arena import shared
from .entry_records import WEAK
from .entry_target import State, Target
from .layout import MISS, Layout, supported, wrap

__all__ = ["MISS", "Entry", "Layout", "State", "Target"]

Array = np.ndarray[Any, Any]


class Entry:
    """A Python callable around one executable.

    Args:
        layout: the engine's classes.
        on_error: raises for a non-zero result of the executable.
        native: False goes through ctypes even where the native entry would work.

    Attributes:
        call: `call(*args)` runs the executable and gives tensors, or gives `MISS` when an argument
            or state is not exactly as declared (C-contiguous, aligned, native byte order), or when
            another call is under way; then nothing has been run.
        native: whether `call` is the native entry.

    Raises:
        ValueError: `target` describes no executable.
    """

    call: Callable[..., Any]

    def __init__(
        self,
        target: Target,
        layout: Layout,
        on_error: Callable[[int], Any] | None = None,
        native: bool = True,
    ) -> None:
        if target.single and len(target.outputs) > 1:
            raise ValueError(f"Entry: a single result cannot hold {len(target.outputs)} outputs")
        for spec in target.inputs:
            if spec.weak and (spec.dtype not in WEAK or spec.shape):
                raise ValueError(f"Entry: {spec} is no type for a Python number")
        self._target, self._layout = target, layout
        self._fail = partial(_fail, on_error)
        prototype = ctypes.CFUNCTYPE if target.release_gil else ctypes.PYFUNCTYPE
        self._run = prototype(ctypes.c_int32, ctypes.c_void_p)(target.address)
        self.native = native and supported(layout)
        lock: AbstractContextManager[Any] = threading.RLock()
        if self.native:
            record = entry_native.record(target, layout, self._fail)
            self.call = entry_native.builtin(record)
            lock = entry_native.Turn(record)
        else:
            self.call = self._call
        # Two threads must not update the same states at once; otherwise calls are independent.
        self._turn = lock if target.writes else nullcontext()

    def run(self, arrays: Sequence[Any]) -> list[Array]:
        """Runs the executable on `arrays`, whatever their memory layout, and gives its outputs.

        Waits while another thread updates the same states through this entry; any number of
        threads may run it otherwise.

        Raises:
            TypeError: a number, shape or dtype of arguments or states is not as declared.
        """
        inputs = self._target.inputs
        if len(arrays) != len(inputs):
            raise TypeError(f"expected {len(inputs)} arguments, got {len(arrays)}")
        values = [
            _convert(x, spec, f"argument {k}")
            for k, (x, spec) in enumerate(zip(arrays, inputs, strict=True))
        ]
        return self._execute(values)

    def _execute(self, values: list[Array]) -> list[Array]:
        target = self._target
        with self._turn:
            held = [_value(s, self._layout, k) for k, s in enumerate(target.states)]
            outputs = [np.empty(s.shape, s.dtype.numpy) for s in target.outputs]
            pointers = [a.ctypes.data for a in (*values, *held, *outputs)]
            with shared.borrow(target.arena_bytes) as address:
                pointers += [address, *target.fixed]
                code = self._run((ctypes.c_void_p * len(pointers))(*pointers))
            if code:
                self._fail(code)
            slot = self._layout.variable_slot
            for state, value in zip(target.states, held, strict=True):
                if state.written:
                    object.__setattr__(state.variable, slot, wrap(self._layout, value))
        return outputs

    def _call(self, *args: Any) -> Any:
        target = self._target
        if len(args) != len(target.inputs):
            return MISS
        values: list[Array] = []
        for x, spec in zip(args, target.inputs, strict=True):
            value = _number(x, spec) if spec.weak else _strict(x, spec, self._layout)
            if value is None:
                return MISS
            values.append(value)
        slot = self._layout.variable_slot
        for state in target.states:
            if _strict(getattr(state.variable, slot, None), state.spec, self._layout) is None:
                return MISS
        outputs = [wrap(self._layout, a) for a in self._execute(values)]
        if outputs and not target.single:
            return tuple(outputs)
        return outputs[0] if outputs else None


def _fail(on_error: Callable[[int], Any] | None, code: int) -> None:
    if on_error is not None:
        on_error(code)
    raise RuntimeError(f"compiled code failed with code {code}")


def _value(state: State, layout: Layout, k: int) -> Array:
    """The variable's value, or a copy to write into: others may hold the value itself."""
    tensor = getattr(state.variable, layout.variable_slot)
    value = _convert(getattr(tensor, layout.tensor_slot), state.spec, f"state {k}")
    return value.copy() if state.written else value


def _convert(x: Any, spec: Spec, what: str) -> Array:
    """`x` as a C-contiguous aligned array in native byte order; values stay as they are."""
    if spec.weak:
        with np.errstate(over="ignore"):
            return np.asarray(x, spec.dtype.numpy)
    x = np.asarray(x)
    if x.shape != spec.shape or from_numpy(x.dtype) is not spec.dtype:
        raise TypeError(f"{what}: expected {spec}, got {Spec(x.shape, from_numpy(x.dtype))}")
    return np.require(x, spec.dtype.numpy, ["C", "A"])


def _strict(x: Any, spec: Spec, layout: Layout) -> Array | None:
    """The array in `x` if it is exactly what `spec` says."""
    if type(x) is layout.tensor:
        x = getattr(x, layout.tensor_slot, None)
    if type(x) is not np.ndarray or x.shape != spec.shape:
        return None
    same = x.dtype.num == spec.dtype.numpy.num and x.dtype.isnative
    return x if same and x.flags.c_contiguous and x.flags.aligned else None


def _number(x: Any, spec: Spec) -> Array | None:
    """The Python number `x` as an array, if it is one of the kind and range that `spec` says."""
    if type(x) is not (float if spec.dtype.is_floating else int):
        return None
    try:
        return _convert(x, spec, "number")
    except OverflowError:
        return None
