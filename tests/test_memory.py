"""What functions say of their memory, and what the process really takes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import dualmode as dm

compiled = pytest.mark.skipif(dm.config.backend != "compile", reason="nothing is planned here")


def ones(*shape: int) -> dm.Tensor:
    return dm.asarray(np.ones(shape, np.float32))


@dm.function
def layers(x, w):
    first = dm.tanh(x @ w)
    second = dm.tanh(first @ w)
    return dm.sum(second @ w + first)


X, W = ones(64, 256), ones(256, 256)
VALUE, WEIGHTS = 64 * 256 * 4, 256 * 256 * 4


@compiled
def test_what_is_planned() -> None:
    layers(X, W)
    memory = layers.memory()
    assert memory.arguments == VALUE + WEIGHTS and memory.results == 4
    assert memory.peak == memory.arguments + memory.results + memory.scratch
    assert 2 * VALUE <= memory.scratch <= 3 * VALUE
    steps = memory.timeline
    assert max(alive for _, alive in steps) <= memory.scratch
    assert [alive // VALUE for _, alive in steps][:2] == [1, 2]
    assert "matmul" in steps[0][0]


@compiled
def test_the_source_lines_that_hold_the_most() -> None:
    start = layers.python_function.__code__.co_firstlineno
    lines = layers.memory(X, W).lines
    assert {at for at, _ in lines[:2]} == {f"{__file__}:{start + k}" for k in (2, 3)}
    assert all(size >= VALUE for _, size in lines[:2])


@compiled
def test_it_is_printed() -> None:
    text = str(layers.memory(X, W))
    assert "kB at the peak" in text.splitlines()[0] and "layers" in text
    assert f"{__file__}:" in text and "step by step" in text and "##" in text
    assert len(text.splitlines()) < 50
    simple = dm.function(lambda x: x + 1.0)
    assert "values in between" in str(simple.memory(X))


@compiled
def test_weights_are_updated_as_soon_as_their_gradients_are_known() -> None:
    depth = 8
    weights = [dm.Variable(np.full((256, 256), 0.01, np.float32)) for _ in range(depth)]

    @dm.function
    def step(x):
        with dm.GradientTape() as tape:
            for w in weights:
                x = dm.relu(x @ w)
            loss = dm.sum(x)
        for w, g in zip(weights, tape.gradient(loss, weights), strict=True):
            w.assign_sub(0.1 * g)
        return loss

    # one value for each layer, and a gradient that comes and one that goes
    assert depth * VALUE <= step.memory(X).scratch <= (depth + 2) * VALUE
    before = [w.numpy().copy() for w in weights]
    with dm.config.override(jit=False):
        step(X)
    eager = [w.numpy().copy() for w in weights]
    for w, value in zip(weights, before, strict=True):
        w.assign(value)
    step(X)
    for w, value in zip(weights, eager, strict=True):
        np.testing.assert_allclose(w.numpy(), value, rtol=1e-4, atol=1e-6)


@compiled
def test_loops_count_what_their_bodies_hold() -> None:
    @dm.function
    def fn(x):
        for _ in dm.range(4):
            y = dm.tanh(x @ W)
            x = dm.tanh(y @ W) + y
        return x

    memory = fn.memory(X)
    assert memory.scratch >= VALUE
    assert sum(size for _, size in memory.lines) >= VALUE


def test_which_trace_is_meant() -> None:
    fn = dm.function(lambda x: x * 2.0)
    with pytest.raises(ValueError, match="0 traces; say for which arguments"):
        fn.memory()
    fn(ones(2))
    assert fn.memory().results == 8
    fn(ones(3))
    with pytest.raises(ValueError, match="2 traces"):
        fn.memory()
    assert fn.memory(ones(3)).results == 12


GROWTH = """
import numpy as np, dualmode as dm

dm.config.update(cache=False)

def resident(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

def training(width, depth, batch):
    weights = [dm.Variable(np.full((width, width), 1e-3, np.float32)) for _ in range(depth)]
    optimizer = dm.optim.Adam(1e-3)

    @dm.function
    def step(x):
        with dm.GradientTape() as tape:
            y = x
            for w in weights:
                y = dm.relu(y @ w)
            loss = dm.mean(y * y)
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        return loss

    x = dm.asarray(np.ones((batch, width), np.float32))
    for _ in range(2):
        step(x)
    return step.memory().peak

training(64, 4, 64)  # loads and starts all that does not depend on the sizes
before = resident("VmRSS")
predicted = training(128, 4, 65536)
print(predicted, resident("VmHWM") - before)
"""


@compiled
@pytest.mark.skipif(dm.config.entry != "native", reason="states are copied")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_predicted_peak_is_what_the_process_takes() -> None:
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    predicted, measured = map(int, done.stdout.split())
    assert predicted > 200e6
    assert abs(measured - predicted) < 0.05 * predicted, (predicted, measured)


ZEROS = """
import dualmode as dm

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

first = dm.Variable(dm.zeros((2, 3)))
before = resident()
slots = [dm.Variable(dm.zeros((1024, 1024))) for _ in range(32)]
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_zeros_take_no_memory_before_something_is_written_there() -> None:
    done = subprocess.run([sys.executable, "-c", ZEROS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16e6  # of 134e6 bytes
