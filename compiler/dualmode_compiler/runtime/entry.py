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
from typing import Any, Literal

import numpy as np

from ..spec import Spec, from_numpy
from . import entry_native
from .arena import shared
from .entry_records import WEAK
from .layout import MISS, Layout, supported, wrap

__all__ = ["MISS", "Entry", "Layout"]

Array = np.ndarray[Any, Any]


class Entry:
    """A Python callable around one executable `i32 run(ptr table)`.

    `table` is an array of pointers: inputs, states, outputs, the arena (null when `arena_bytes` is
    0), then `fixed`. `run` writes new values of states in place and returns 0, or another number
    when it fails.

    Args:
        run_address: address of `run`.
        inputs: what the arguments must be. A weak one is a Python float or int, for a float or int
            dtype of 32 or 64 bits; any other is a `layout.tensor` or an ndarray.
        states: variables that `run` reads or writes; kept alive.
        state_specs: what their values must be.
        state_written: which of them `run` writes.
        outputs: what `run` gives back, in fresh arrays.
        fixed: further pointers for the table.
        arena_bytes: size of the scratch memory, which starts on a 64-byte boundary.
        layout: the engine's classes.
        release_gil: run without the GIL.
        calls_back: `run` may call Python code.
        result: "single" gives the only output itself, "tuple" a tuple; no output gives None.
        on_error: raises for a non-zero code of `run`.
        keep_alive: whatever else must live as long as the callable.
        native: False goes through ctypes even where the native entry would work.

    Attributes:
        call: `call(*args)` runs the executable and gives tensors, or gives `MISS` when an argument
            or state is not exactly as declared (C-contiguous, aligned, native byte order), or when
            another call is under way; then nothing has been run.
        native: whether `call` is the native entry.

    Raises:
        ValueError: the arguments do not describe an executable.
    """

    call: Callable[..., Any]

    def __init__(
        self,
        *,
        run_address: int,
        inputs: Sequence[Spec],
        outputs: Sequence[Spec],
        layout: Layout,
        states: Sequence[Any] = (),
        state_specs: Sequence[Spec] = (),
        state_written: Sequence[bool] = (),
        fixed: Sequence[int] = (),
        arena_bytes: int = 0,
        release_gil: bool = False,
        calls_back: bool = False,
        result: Literal["single", "tuple"] = "tuple",
        on_error: Callable[[int], Any] | None = None,
        keep_alive: Any = None,
        native: bool = True,
    ) -> None:
        if result == "single" and len(outputs) > 1:
            raise ValueError(f"Entry: a single result cannot hold {len(outputs)} outputs")
        for spec in inputs:
            if spec.weak and (spec.dtype not in WEAK or spec.shape):
                raise ValueError(f"Entry: {spec} is no type for a Python number")
        self._inputs = tuple(inputs)
        self._states = tuple(zip(states, state_specs, state_written, strict=True))
        self._outputs = tuple(outputs)
        self._fixed = tuple(fixed)
        self._arena_bytes = arena_bytes
        self._layout = layout
        self._tuple = result == "tuple" and len(outputs) > 0
        self._fail = partial(_fail, on_error)
        self._keep_alive = keep_alive
        prototype = ctypes.CFUNCTYPE if release_gil else ctypes.PYFUNCTYPE
        self._run = prototype(ctypes.c_int32, ctypes.c_void_p)(run_address)
        self.native = native and supported(layout)
        lock: AbstractContextManager[Any] = threading.RLock()
        if self.native:
            record = entry_native.record(
                run_address=run_address,
                inputs=inputs,
                states=states,
                state_specs=state_specs,
                state_written=state_written,
                outputs=outputs,
                fixed=fixed,
                arena_bytes=arena_bytes,
                layout=layout,
                release_gil=release_gil,
                calls_back=calls_back,
                tuple_result=self._tuple,
                fail=self._fail,
                keep=keep_alive,
            )
            self.call = entry_native.builtin(record)
            lock = entry_native.Turn(record)
        else:
            self.call = self._call
        # Two threads must not update the same states at once; otherwise calls are independent.
        self._turn = lock if any(state_written) else nullcontext()

    def run(self, arrays: Sequence[Any]) -> list[Array]:
        """Runs the executable on `arrays`, whatever their memory layout, and gives its outputs.

        Waits while another thread updates the same states through this entry; any number of
        threads may run it otherwise.

        Raises:
            TypeError: a number, shape or dtype of arguments or states is not as declared.
        """
        if len(arrays) != len(self._inputs):
            raise TypeError(f"expected {len(self._inputs)} arguments, got {len(arrays)}")
        values = [
            _convert(x, spec, f"argument {k}")
            for k, (x, spec) in enumerate(zip(arrays, self._inputs, strict=True))
        ]
        return self._execute(values)

    def _execute(self, values: list[Array]) -> list[Array]:
        with self._turn:
            held = [
                _state(v, spec, written, self._layout, k)
                for k, (v, spec, written) in enumerate(self._states)
            ]
            outputs = [np.empty(s.shape, s.dtype.numpy) for s in self._outputs]
            pointers = [a.ctypes.data for a in (*values, *held, *outputs)]
            with shared.borrow(self._arena_bytes) as address:
                pointers += [address, *self._fixed]
                code = self._run((ctypes.c_void_p * len(pointers))(*pointers))
            if code:
                self._fail(code)
            slot = self._layout.variable_slot
            for (variable, _, written), value in zip(self._states, held, strict=True):
                if written:
                    object.__setattr__(variable, slot, wrap(self._layout, value))
        return outputs

    def _call(self, *args: Any) -> Any:
        if len(args) != len(self._inputs):
            return MISS
        values: list[Array] = []
        for x, spec in zip(args, self._inputs, strict=True):
            value = _number(x, spec) if spec.weak else _strict(x, spec, self._layout)
            if value is None:
                return MISS
            values.append(value)
        slot = self._layout.variable_slot
        for variable, spec, _ in self._states:
            if _strict(getattr(variable, slot, None), spec, self._layout) is None:
                return MISS
        outputs = [wrap(self._layout, a) for a in self._execute(values)]
        if self._tuple:
            return tuple(outputs)
        return outputs[0] if outputs else None


def _fail(on_error: Callable[[int], Any] | None, code: int) -> None:
    if on_error is not None:
        on_error(code)
    raise RuntimeError(f"compiled code failed with code {code}")


def _state(variable: Any, spec: Spec, written: bool, layout: Layout, k: int) -> Array:
    """The variable's value, or a copy to write into: others may hold the value itself."""
    tensor = getattr(variable, layout.variable_slot)
    value = _convert(getattr(tensor, layout.tensor_slot), spec, f"state {k}")
    return value.copy() if written else value


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
