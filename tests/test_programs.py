"""Random programs give the same in both modes: values, gradients and Variables.

Compiled ones do so at every optimisation level, with the same bits for any number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dualmode as dm
from levels import LEVELS, THREADS, cut_finely
from programs import Program, programs

Run = Callable[[], list[np.ndarray]]


def runner(program: Program, compiled: bool) -> Run:
    """Two calls, so that the second reads what the first assigned."""
    arrays = program.arrays()
    variables = [dm.Variable(a) for a in arrays[program.inputs :]]
    body: Any = program.body(variables)
    if compiled:
        body = dm.function(body)

    def run() -> list[np.ndarray]:
        for v, a in zip(variables, arrays[program.inputs :], strict=True):
            v.assign(a)
        results: list[Any] = []
        for _ in range(2):
            results += body(*(dm.asarray(a) for a in arrays[: program.inputs]))
            results += [v.numpy() for v in variables]
        return [np.array(r) for r in results]

    return run


def run_compiled(program: Program, level: int) -> list[np.ndarray]:
    """The results at one level; they do not depend on threads, among which all work is shared."""
    run = runner(program, True)
    with dm.config.override(optimization=level, cache=False):
        with cut_finely():
            run()
        found: list[list[np.ndarray]] = []
        for n in THREADS:
            with dm.config.override(num_threads=n):
                found.append(run())
    for n, other in zip(THREADS, found, strict=True):
        for k, (a, b) in enumerate(zip(other, found[0], strict=True)):
            assert a.tobytes() == b.tobytes(), f"v{k} with {n} threads"
    return found[0]


def check(program: Program, level: int) -> None:
    """Compare the modes; rounding may grow along a program, but only so far."""
    eager, compiled = runner(program, False)(), run_compiled(program, level)
    relative = 1e-7 if program.dtype == "float64" else 2e-2
    for k, (a, b) in enumerate(zip(eager, compiled, strict=True)):
        assert a.shape == b.shape and a.dtype == b.dtype, f"result {k}: {a.dtype} {b.dtype}"
        finite = np.isfinite(a)
        size = max(1.0, float(np.max(np.abs(a), initial=0.0, where=finite)))
        np.testing.assert_allclose(b, a, rtol=relative, atol=relative * size, err_msg=f"v{k}")


LONG = int(os.environ.get("DUALMODE_TEST_PROGRAMS", "3000"))  # programs of the slow test
SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@settings(SETTINGS, max_examples=25)
@given(programs(), st.sampled_from(LEVELS))
def test_modes_agree(program: Program, level: int):
    check(program, level)


@pytest.mark.slow
@settings(SETTINGS, max_examples=LONG, derandomize=False)
@given(programs(), st.sampled_from(LEVELS))
def test_modes_agree_at_length(program: Program, level: int):
    check(program, level)
