"""Every example, in both modes: it reaches what it promises, and the losses are the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import dualmode as dm

EXAMPLES = Path(__file__).parent.parent / "examples"
both = pytest.mark.parametrize("mode", ["eager", "compiled"])


def run(name, *argv):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(argv)


@both
def test_linear_regression(mode):
    result = run("linear_regression", "--mode", mode)
    assert abs(result["w"] - 3) < 0.1 and abs(result["b"] - 2) < 0.1
    assert abs(result["losses"][-1] - 1) < 0.1 and len(result["losses"]) == 300


@both
def test_iris_regression(mode, tmp_path):
    result = run("iris_regression", "--mode", mode, "--directory", str(tmp_path))
    assert len(result["losses"]) == 120
    assert np.mean(result["losses"][-12:]) < np.mean(result["losses"][:12])
    assert result["restored_predicts_the_same"]
    assert dm.train.latest_checkpoint(tmp_path) == str(tmp_path / "iris-10.safetensors")


@both
def test_perceptron(mode):
    result = run("perceptron", "--mode", mode)
    assert result["losses"][-1] < 1e-3 * result["losses"][0]
    assert result["dtype"] == "float32"


@both
def test_digits(mode):
    result = run("digits", "--mode", mode)
    assert result["test_accuracy"] >= 0.95


@pytest.mark.parametrize("name", ["linear_regression", "iris_regression", "perceptron", "digits"])
def test_both_modes_give_the_same_losses(name):
    eager, compiled = (run(name, "--quick", "--mode", m)["losses"] for m in ("eager", "compiled"))
    np.testing.assert_allclose(eager, compiled, rtol=1e-3, atol=1e-4)


def in_both_modes(name, capsys, *argv):
    """The example's result in both modes, which print the same."""
    results, prints = [], []
    for mode in ("eager", "compiled"):
        results.append(run(name, "--mode", mode, *argv))
        prints.append(capsys.readouterr().out)
    return *results, *prints


def test_fizzbuzz(capsys):
    eager, compiled, said, repeated = in_both_modes("fizzbuzz", capsys)
    assert eager == compiled == {"numbers": 8}
    assert said == repeated
    assert said.split()[:5] == ["1", "2", "Fizz", "4", "Buzz"] and "FizzBuzz" in said


def test_custom_gradients(capsys):
    eager, compiled, *_ = in_both_modes("custom_gradients", capsys)
    for result in (eager, compiled):
        assert result["stable"] == 1.0 and np.isnan(result["naive"])
        # the norm of the clipped gradient, before the square's factor 2 x
        np.testing.assert_allclose(np.linalg.norm(result["clipped"] / [6, 8]), 0.5, rtol=1e-5)
        assert result["values"][-1] < 1e-3 * result["values"][0]
        assert all(b < a for a, b in zip(result["values"], result["values"][1:], strict=False))
        value, gradient = result["through"]
        assert 0 < value < result["values"][1] and np.isfinite(gradient).all()
    np.testing.assert_allclose(eager["values"], compiled["values"], rtol=1e-4)
    np.testing.assert_allclose(eager["through"][1], compiled["through"][1], rtol=1e-3)


def test_training_loop(capsys):
    eager, compiled, said, repeated = in_both_modes("training_loop", capsys)
    assert said == repeated and said.count("epoch") == 3
    assert eager["loss"] < 0.3
    np.testing.assert_allclose(eager["loss"], compiled["loss"], rtol=1e-3)
    for a, b in zip(eager["weights"], compiled["weights"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)


def test_newton(capsys):
    for result in in_both_modes("newton", capsys)[:2]:
        np.testing.assert_allclose(result["x"], [1, 1], rtol=1e-9)
        assert result["steps"] == 7


def test_maml(capsys):
    eager, compiled, *_ = in_both_modes("maml", capsys, "--quick")
    np.testing.assert_allclose(eager["losses"], compiled["losses"], rtol=1e-3)
    learned = run("maml", "--mode", "compiled")["losses"]
    assert np.mean(learned[-20:]) < 0.7 * np.mean(learned[:20])


def test_neural_ode(capsys):
    eager, compiled, *_ = in_both_modes("neural_ode", capsys)
    assert eager["steps"] == compiled["steps"] > 5
    np.testing.assert_allclose(eager["gradient"], compiled["gradient"], rtol=1e-9)
    w, expected = eager["w"], np.zeros((3, 3))
    for at in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[at] = 1e-6
        up, down = (eager["loss_of"](dm.asarray(w + s)) for s in (step, -step))
        expected[at] = (float(up) - float(down)) / 2e-6
    np.testing.assert_allclose(eager["gradient"], expected, rtol=1e-5)


def test_every_example_is_under_test():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {
        "custom_gradients",
        "digits",
        "fizzbuzz",
        "iris_regression",
        "linear_regression",
        "maml",
        "neural_ode",
        "newton",
        "perceptron",
        "training_loop",
    }
