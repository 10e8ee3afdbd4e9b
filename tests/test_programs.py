"""Random programs give the same in both modes: values, gradients and Variables."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import dualmode as dm
from programs import Program, programs


def run(program: Program, compiled: bool) -> list[np.ndarray]:
    """Two calls, so that the second reads what the first assigned."""
    arrays = program.arrays()
    variables = [dm.Variable(a) for a in arrays[program.inputs :]]
    body: Any = program.body(variables)
    if compiled:
        body = dm.function(body)
    results: list[Any] = []
    for _ in range(2):
        results += body(*(dm.asarray(a) for a in arrays[: program.inputs]))
        results += [v.numpy() for v in variables]
    return [np.array(r) for r in results]


def check(program: Program) -> None:
    """Compare the modes; rounding may grow along a program, but only so far."""
    eager, compiled = run(program, False), run(program, True)
    relative = 1e-7 if program.dtype == "float64" else 2e-2
    for k, (a, b) in enumerate(zip(eager, compiled, strict=True)):
        assert a.shape == b.shape and a.dtype == b.dtype, f"result {k}: {a.dtype} {b.dtype}"
        finite = np.isfinite(a)
        size = max(1.0, float(np.max(np.abs(a), initial=0.0, where=finite)))
        np.testing.assert_allclose(b, a, rtol=relative, atol=relative * size, err_msg=f"v{k}")


LONG = int(os.environ.get("DUALMODE_TEST_PROGRAMS", "3000"))  # programs of the slow test
SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@settings(SETTINGS, max_examples=60)
@given(programs())
def test_modes_agree(program: Program):
    check(program)


@pytest.mark.slow
@settings(SETTINGS, max_examples=LONG, derandomize=False)
@given(programs())
def test_modes_agree_at_length(program: Program):
    check(program)
