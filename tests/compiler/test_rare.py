"""Values that few arguments need, in compiled loops: the same bits as a scalar computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode_compiler import driver
from dualmode_compiler.expr import apply
from dualmode_compiler.runtime.jit import Host
from dualmode_compiler.spec import DTYPES
from graphs import check, on_every_host, trace
from scalar_harness import kernel

USUAL = {"sin": 0.7, "cos": 0.7, "tan": 0.7, "log": 3.0, "log2": 3.0, "log10": 3.0, "log1p": 3.0}
RARE = [1e9, -3e7, np.inf, -np.inf, np.nan, 1e-41, 0.0, -0.0]


def run(fn: Any, host: Host, *x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    graph = trace(fn, *(f"{a.dtype}[{','.join(map(str, a.shape))}]" for a in x))
    return driver.compile(graph, host=host).run(list(x))[0][0]


@on_every_host
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", USUAL)
def test_a_rare_argument_in_every_lane(name: str, dtype: str, host: Host) -> None:
    scalar = kernel(lambda a: apply(name, a), [DTYPES[dtype]], 1)
    for value in RARE:
        x = np.full((35, 35), USUAL[name], dtype)
        np.fill_diagonal(x, value)
        with np.errstate(all="ignore"):
            x = x.ravel()
            np.testing.assert_array_equal(run(getattr(dm, name), host, x), scalar(x))


@on_every_host
@pytest.mark.parametrize("y", [-3.0, -2.5, 0.0, 0.5, 3.0, 1e30, np.inf, np.nan])
def test_bases_of_powers(y: float, host: Host) -> None:
    scalar = kernel(lambda a, b: apply("pow", a, b), [DTYPES["float32"]] * 2, 1)
    x = np.full((37, 37), 1.5, np.float32)
    np.fill_diagonal(x, [*RARE, -1.0, 1.0, -2.5, 1e-30, 3e38, *[2.0] * 24])
    x, power = x.ravel(), np.full(37 * 37, y, np.float32)
    np.testing.assert_array_equal(run(dm.pow, host, x, power), scalar(x, power))


@on_every_host
def test_several_in_one_kernel_within_reductions_and_products(host: Host) -> None:
    """Each leaves the loop in another basic block than it found."""

    def several(x: Any, w: Any) -> list[Any]:
        waves = dm.sin(x) + dm.cos(dm.tan(x)) * dm.log(x)
        rows = dm.sum(dm.sin(x), 1) / dm.max(dm.cos(x), 1)
        return [waves, rows, dm.sin(x @ w), dm.softmax(dm.log2(dm.abs(x)), 1), dm.sin(rows[0])]

    for n in (3, 16, 37):
        check(trace(several, f"float32[{n},33]", f"float32[33,{n}]"), host=host, ulp=64)
