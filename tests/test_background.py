"""`@dm.function(background=True)`: op by op until the native code is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import dualmode as dm
from dualmode import callable

pytestmark = pytest.mark.skipif(dm.config.backend != "compile", reason="nothing is compiled")


@pytest.fixture
def gate(monkeypatch) -> threading.Event:
    """Compilation waits until this is set."""
    gate = threading.Event()
    made = callable.compile_graph

    def slow(graph, name):
        if threading.current_thread() is not threading.main_thread():
            assert gate.wait(30)
        return made(graph, name)

    monkeypatch.setattr(callable, "compile_graph", slow)
    yield gate
    gate.set()


def finish(fn, *args) -> None:
    concrete = fn.get_concrete_function(*args)
    concrete._compilation.wait()
    assert concrete.ready


def test_runs_op_by_op_and_then_natively(gate):
    count, traces = dm.Variable(0.0), []

    @dm.function(background=True)
    def step(x):
        traces.append(1)
        count.assign_add(1.0)
        return dm.tanh(x) * count

    x = dm.asarray(np.linspace(-1, 1, 5, dtype=np.float32))
    with pytest.warns(dm.errors.SideEffectWarning):
        results = [step(x).numpy() for _ in range(3)]
    concrete = step.get_concrete_function(x)
    assert not concrete.ready and concrete._entry is None
    gate.set()
    finish(step, x)
    results += [step(x).numpy() for _ in range(3)]
    assert concrete._entry is not None and len(traces) == 1
    for k, found in enumerate(results, 1):
        np.testing.assert_allclose(found, np.tanh(x.numpy()) * k, rtol=1e-6)
    assert float(count) == 6


def test_under_a_tape_it_waits(gate):
    fn = dm.function(lambda x: x * x, background=True)
    x = dm.asarray(3.0)
    assert float(fn(x)) == 9
    gate.set()
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = fn(x)
    assert float(tape.gradient(y, x)) == 6


def test_failures_are_raised_by_calls(monkeypatch):
    def fail(*_):
        raise RuntimeError("no code today")

    monkeypatch.setattr("dualmode.callable.compile_graph", fail)
    fn = dm.function(lambda x: x + 1, background=True)
    x = dm.asarray(1.0)
    concrete = fn.get_concrete_function(x)
    assert concrete.ready in (False, True)  # asked for, it begins
    concrete._compilation.wait()
    with pytest.raises(RuntimeError, match="no code today"):
        fn(x)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forks_wait_for_it():
    fn = dm.function(lambda x: dm.exp(x) + 1, background=True)
    x = dm.asarray(0.0)
    assert float(fn(x)) == 2
    child = os.fork()
    if child == 0:
        os._exit(0 if float(fn(x)) == 2 and float(dm.function(lambda x: x * 2)(x)) == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_compile_budget_is_reported():
    fn = dm.function(lambda x: dm.exp(x) + 1, name="costly")
    with (
        dm.config.override(compile_budget=1e-6),
        pytest.warns(dm.errors.CompilationWarning, match=r"costly: compiling took .* s, more than"),
    ):
        fn(dm.asarray(1.0))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
def test_a_fork_waits_for_what_other_threads_trace_and_compile():
    tracing = threading.Event()

    def slow(x):
        tracing.set()
        time.sleep(0.2)
        return x + 1

    thread = threading.Thread(target=dm.function(slow), args=(dm.asarray(1.0),))
    thread.start()
    tracing.wait()
    pid = os.fork()
    if not pid:
        signal.alarm(20)  # not for ever
        right = float(dm.function(lambda x: x * 3)(dm.asarray(2.0))) == 6
        os._exit(0 if right else 1)
    assert os.waitpid(pid, 0)[1] == 0
    thread.join()


FORK = """
import os, sys, threading, time
import numpy as np, dualmode as dm
x = np.ones((64, 64), np.float32)
def work():
    y = dm.asarray(x)
    return float(dm.function(lambda y: dm.sum(y @ y))(y + y))
thread = threading.Thread(target=work)
thread.start()
while "dualmode_compiler.runtime.ahead" not in sys.modules:
    time.sleep(0.001)
time.sleep(float(sys.argv[1]))
pid = os.fork()
if not pid:
    os._exit(0 if work() == 4 * 64**3 else 1)
end = time.monotonic() + 30
while True:
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended or time.monotonic() > end:
        break
    time.sleep(0.01)
if not ended:
    os.kill(pid, 9)
thread.join()
print(ended == pid, status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
@pytest.mark.parametrize("later", [0.01, 0.03])
def test_a_fork_amidst_the_first_operation_of_another_thread_goes_on(later):
    """Its parent's other thread was importing what the child needs."""
    environment = os.environ | {"DUALMODE_CACHE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(later)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True 0\n"
