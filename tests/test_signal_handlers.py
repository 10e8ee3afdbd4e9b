"""Handlers of signals may compile and run functions, whatever they come amidst."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import gc, os, signal
import dualmode as dm
from dualmode_compiler.runtime import jit

dm.config.cache = False
x, load, functions = dm.ones((30, 30)), jit.load, []

def handler(*_):
    k = float(len(functions))
    functions.append(dm.function(lambda x: dm.tanh(x @ x + k)))
    functions[-1](x)
    dm.tanh(x) @ x

def loading(*args):
    if len(functions) < 4:
        os.kill(os.getpid(), signal.SIGUSR1)
    return load(*args)

signal.signal(signal.SIGUSR1, handler)
jit.load = loading  # the code of the entry from Python, of the pool, of builtins, of functions
functions.append(dm.function(lambda x: dm.softmax(x @ x)))
functions[0](x)
jit.load = load
gc.collect()
for f in functions * 3:
    f(x)
for _ in range(50):
    dm.tanh(x) @ x
assert len(functions) >= 4
print("done")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal")
def test_a_handler_comes_while_code_is_loaded() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr[-2000:]
