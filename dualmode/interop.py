"""How other libraries read tensors: NumPy's protocols, DLPack, the array API's namespace."""

from __future__ import annotations

from typing import Any

import numpy as np

from dualmode_compiler.spec import Spec, from_numpy


class Interop:
    """What has an array, which other libraries may read but not write to."""

    __slots__ = ()
    __array_priority__ = 100  # makes `ndarray + tensor` come here

    def numpy(self) -> np.ndarray[Any, Any]:
        """The value as a read-only array that shares its memory and never changes."""
        raise AssertionError("defined by Operators")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        value = self.numpy()
        if copy or (dtype is not None and np.dtype(dtype) != value.dtype):
            if copy is False:
                spec = Spec(value.shape, from_numpy(value.dtype))
                raise ValueError(f"a copy is needed to make {dtype} of {spec}")
            return np.array(value, dtype)
        return value

    def __array_function__(
        self, function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """NumPy's functions compute with the arrays and give arrays."""
        return function(*_arrays(args), **{k: _arrays(v) for k, v in kwargs.items()})

    def __dlpack__(self, **options: Any) -> Any:
        value = self.numpy()
        version = options.get("max_version")
        if version is None or version < (1, 0):  # only version 1 can say "read-only"
            value = value.copy()
        return value.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # kDLCPU

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        import dualmode

        return dualmode


def _arrays(x: Any) -> Any:
    """`x` with NumPy arrays in place of tensors, also in lists and tuples."""
    if isinstance(x, Interop):
        return x.numpy()
    return type(x)(_arrays(v) for v in x) if type(x) in (list, tuple) else x
