"""Classify handwritten digits with a 64-64-10 perceptron.

Run `python examples/digits.py --mode compiled`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

import dualmode as dm


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("eager", "compiled"), default="compiled")
    parser.add_argument("--quick", action="store_true", help="3 epochs instead of 20")
    args = parser.parse_args(argv)

    dm.random.set_seed(0)
    digits = dm.datasets.digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    x, y = digits.data[order] / 16, digits.target[order]
    train = dm.data.Dataset.from_tensor_slices((x[:1437], y[:1437])).shuffle(1437, seed=0).batch(32)
    test = dm.data.Dataset.from_tensor_slices((x[1437:], y[1437:])).batch(32)

    model = dm.nn.Sequential([dm.nn.Dense(64, activation="relu"), dm.nn.Dense(10)])
    optimizer = dm.optim.Adam(learning_rate=1e-3)
    loss_function = dm.losses.SparseCategoricalCrossentropy(from_logits=True)
    train_loss = dm.metrics.Mean()
    accuracy = dm.metrics.SparseCategoricalAccuracy()

    def train_step(x: Any, y: Any) -> Any:
        with dm.GradientTape() as tape:
            loss = loss_function(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        train_loss.update_state(loss)
        return loss

    def test_step(x: Any, y: Any) -> None:
        accuracy.update_state(y, model(x))

    if args.mode == "compiled":
        train_step, test_step = dm.function(train_step), dm.function(test_step)

    losses: list[float] = []
    for epoch in range(3 if args.quick else 20):
        train_loss.reset_state()
        accuracy.reset_state()
        losses += [float(train_step(*batch)) for batch in train]
        for batch in test:
            test_step(*batch)
        print(
            f"epoch {epoch + 1}: loss {float(train_loss.result()):.4f}, "
            f"test accuracy {float(accuracy.result()):.4f}"
        )
    return {"losses": losses, "test_accuracy": float(accuracy.result())}


if __name__ == "__main__":
    main()
