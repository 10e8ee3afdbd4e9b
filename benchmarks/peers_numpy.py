"""The workloads in NumPy."""

from __future__ import annotations

import numpy as np

from .functions import Pure, with_options
from .functions_numpy import FUNCTIONS
from .workloads import Array, Dispatch, Gemm, Step, Workload


def build(workload: Workload, mode: str, threads: int) -> Step:
    match workload:
        case Gemm():
            a, b = workload.data()
            return Step(
                np.matmul,
                (_turned(a, workload.transpose_a), _turned(b, workload.transpose_b)),
            )
        case Dispatch():
            return Step(np.add, workload.data())
        case Pure():
            call = with_options(FUNCTIONS[workload.op], workload)
            return Step(call, tuple(map(_array, workload.data())))
    raise TypeError(workload)


def _array(x: Array) -> Array:
    """Indices are of the type that NumPy takes them in."""
    return x.astype(np.intp) if x.dtype == np.int32 else x


def _turned(x: Array, transposed: bool) -> Array:
    return x.mT if transposed else x
