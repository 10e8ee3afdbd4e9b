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


def test_every_example_is_under_test():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"linear_regression", "iris_regression", "perceptron", "digits"}
