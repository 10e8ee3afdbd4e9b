"""LLVM in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from dualmode_compiler.runtime import apart, jit

TEXT = "define i32 @{name}(i32 %x) {{\n  %y = add i32 %x, {step}\n  ret i32 %y\n}}\n"
ONE, TWO = TEXT.format(name="one", step=1), TEXT.format(name="two", step=2)

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="processes start otherwise")


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart.settings, "wanted", True)
    monkeypatch.setattr(apart, "_process", None)
    monkeypatch.setattr(jit.store.settings, "enabled", False)


def test_the_code_is_what_is_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    made = jit.compile_texts([ONE, TWO])
    assert apart._process is not None
    monkeypatch.setattr(apart.settings, "wanted", False)
    assert made == jit.compile_texts([ONE, TWO])


def test_errors_of_llvm_are_raised_here() -> None:
    with pytest.raises(RuntimeError, match="parsing error"):
        jit.compile_text("nonsense")
    assert jit.compile_text(ONE)


def test_one_that_has_ended_is_started_anew() -> None:
    jit.compile_text(ONE)
    assert apart._process is not None
    first = apart._process.pid
    os.kill(first, signal.SIGKILL)
    assert jit.compile_text(TWO)
    assert apart._process is not None and apart._process.pid != first


def test_an_answer_that_nobody_waited_for_is_not_taken_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(apart, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            jit.compile_text(ONE)
    found = jit.compile_text(TWO)
    monkeypatch.setattr(apart.settings, "wanted", False)
    assert found == jit.compile_text(TWO) != jit.compile_text(ONE)


def test_where_none_can_be_started_code_is_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(apart.Unavailable):
        apart.start()
    assert jit.compile_text(ONE)


def test_a_fork_has_one_of_its_own() -> None:
    jit.compile_text(ONE)
    pid = os.fork()
    if not pid:
        own = False
        try:
            own = apart._process is None and bool(jit.compile_text(TWO))
        finally:
            os._exit(0 if own and apart._process is not None else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert jit.compile_text(ONE)


WHOLE = """
import numpy as np, dualmode as dm
from dualmode_compiler.runtime import apart
x = dm.asarray(np.ones((4, 4), np.float32))
y = dm.function(lambda x: dm.tanh(x @ x))(x) + dm.add(x, x)
assert abs(float(y[0, 0]) - (np.tanh(4) + 2)) < 1e-5
maps = open("/proc/self/maps").read()
print("libllvmlite" in maps, apart._process is not None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_process_has_no_llvm() -> None:
    environment = {**os.environ, "DUALMODE_CODEGEN": "apart", "DUALMODE_CACHE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", WHOLE], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"] and not done.stderr
