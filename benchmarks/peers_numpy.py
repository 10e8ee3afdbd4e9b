"""The workloads in NumPy."""

from __future__ import annotations

import numpy as np

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
    raise TypeError(workload)


def _turned(x: Array, transposed: bool) -> Array:
    return x.T if transposed else x
