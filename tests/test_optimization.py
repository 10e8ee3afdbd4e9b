"""The setting `optimization`: what it turns off, and that meaning does not depend on it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from levels import LEVELS


@pytest.mark.parametrize("value", [3, -1, True, "2", None])
def test_other_values_are_refused(value: Any):
    with pytest.raises(ValueError, match="optimization is 0 or 1 or 2"):
        dm.config.update(optimization=value)


@pytest.mark.parametrize(("text", "shown"), [("0", "0"), ("2", "2"), ("fast", "optimization is 0")])
def test_environment(text: str, shown: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DUALMODE_OPTIMIZATION", text)
    code = "import dualmode as dm; print(dm.config.optimization)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown in done.stdout + done.stderr


def _kernels(level: int) -> int:
    with dm.config.override(optimization=level):
        f = dm.function(lambda x: dm.softmax(dm.tanh(x) + x * 1.0) * 2.0)
        text = f.get_concrete_function(dm.ones((7, 9))).explain()
    return sum(line.lstrip()[:1].isdigit() for line in text.splitlines())


@pytest.mark.skipif(dm.config.backend != "compile", reason="about compiled code")
def test_levels_differ():
    """Level 2 fuses all; level 1 still drops the product with 1."""
    zero, one, two = (_kernels(level) for level in LEVELS)
    assert zero > one > two


@pytest.mark.parametrize("level", LEVELS)
def test_effects_of_a_loop_and_its_gradients_happen_once(level: int, capfd: Any):
    def f(x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = x
            for k in dm.range(2):
                dm.print("turn", k)
                y = y * y
        return y, tape.gradient(y, x)

    with dm.config.override(optimization=level):
        assert [float(v) for v in dm.function(f)(dm.asarray(3.0))] == [3.0**4, 4 * 3.0**3]
    assert capfd.readouterr().out.split() == ["turn", "0", "turn", "1"]


@pytest.mark.parametrize("level", LEVELS)
def test_calls_of_python_in_a_loop_happen_once_with_its_gradient(level: int):
    """The gradient's loop needs what they gave, and must not ask for it again."""
    seen: list[float] = []

    def double(v: Any) -> Any:
        seen.append(float(v))
        return v * np.float32(2)

    def f(x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = x
            for _ in dm.range(3):
                y = y * dm.numpy_function(
                    double, [dm.stop_gradient(y)], dm.TensorSpec((), "float32")
                )
        return y, tape.gradient(y, x)

    with dm.config.override(optimization=level):
        y, _ = dm.function(f)(dm.asarray(0.5))
    assert float(y) == 0.5 and seen == [0.5, 0.5, 0.5]


@pytest.mark.skipif(dm.config.backend != "compile", reason="about compiled code")
def test_cached_code_is_of_its_own_level():
    """What one level has put in the cache is not taken for another's."""
    for level in (0, 2, 0, 2):
        with dm.config.override(optimization=level):
            f = dm.function(lambda x: dm.tanh(x + 0.5) * x - 0.25)
            np.testing.assert_allclose(f(dm.ones(5)), np.full(5, np.tanh(1.5) - 0.25), rtol=1e-6)
            arena = f.get_concrete_function(dm.ones(5))._function.executable.arena
        assert (arena == 0) == (level == 2)


@pytest.mark.parametrize("level", LEVELS)
def test_equal_effects_are_not_merged(level: int, capfd: Any):
    def f(x: Any) -> Any:
        dm.print("here", x)
        dm.print("here", x)
        return x

    with dm.config.override(optimization=level):
        dm.function(f)(dm.asarray(1.0))
    assert capfd.readouterr().out.count("here") == 2
