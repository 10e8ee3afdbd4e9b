"""Predict the sepal width of irises from their other three measures; save, restore and predict.

Run `python examples/iris_regression.py --mode compiled`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

import dualmode as dm


class Regressor(dm.nn.Model):
    """3 measures -> 32 hidden units -> 1 width."""

    def __init__(self) -> None:
        self.hidden = dm.nn.Dense(32, activation="relu")
        self.dropout = dm.nn.Dropout(0.5)
        self.out = dm.nn.Dense(1)

    def __call__(self, x: Any, training: bool = False) -> Any:
        return self.out(self.dropout(self.hidden(x), training=training))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("eager", "compiled"), default="compiled")
    parser.add_argument("--quick", action="store_true", help="2 epochs instead of 10")
    parser.add_argument("--directory", help="where checkpoints go; a temporary one if not given")
    args = parser.parse_args(argv)

    dm.random.set_seed(0)
    iris = dm.datasets.iris()
    width = iris.feature_names.index("sepal_width")
    x, y = np.delete(iris.data, width, axis=1), iris.data[:, width : width + 1]
    dataset = dm.data.Dataset.from_tensor_slices((x[:120], y[:120])).shuffle(120, seed=0).batch(10)

    model = Regressor()
    optimizer = dm.optim.Adam()
    loss_function = dm.losses.MeanSquaredError()

    def train_step(x: Any, y: Any) -> Any:
        with dm.GradientTape() as tape:
            loss = loss_function(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    if args.mode == "compiled":
        train_step = dm.function(train_step)

    directory = args.directory or tempfile.mkdtemp(prefix="iris_")
    checkpoint = dm.train.Checkpoint(model=model, optimizer=optimizer)
    losses: list[float] = []
    for epoch in range(2 if args.quick else 10):
        epoch_losses = [float(train_step(*batch)) for batch in dataset]
        losses += epoch_losses
        path = checkpoint.save(f"{directory}/iris")
        print(f"epoch {epoch + 1}: loss {np.mean(epoch_losses):.4f}, saved {path}")

    restored = Regressor()
    dm.train.Checkpoint(model=restored).restore(dm.train.latest_checkpoint(directory))
    predicted = restored(x[120:]).numpy()
    error = float(np.mean((predicted - y[120:]) ** 2))
    print(f"mean squared error on {len(predicted)} other irises: {error:.4f}")
    same = bool((predicted == model(x[120:]).numpy()).all())
    return {"losses": losses, "test_error": error, "restored_predicts_the_same": same}


if __name__ == "__main__":
    main()
