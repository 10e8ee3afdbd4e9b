"""A whole training run, all epochs and batches, as one compiled function.

Run `python examples/training_loop.py --mode compiled`.
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
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args(argv)

    dm.random.set_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 4)).astype(np.float32)
    y = np.sin(x @ np.array([1.0, -2.0, 0.5, 0.0], np.float32))[:, None]
    dataset = dm.data.Dataset.from_tensor_slices((x, y)).batch(64)  # the last one is smaller

    model = dm.nn.Sequential([dm.nn.Dense(32, activation="tanh"), dm.nn.Dense(1)])
    optimizer = dm.optim.Adam(learning_rate=0.03)

    def train(epochs: Any) -> Any:
        last = dm.asarray(0.0)
        for epoch in dm.range(epochs):
            total = dm.asarray(0.0)
            for inputs, targets in dataset:
                with dm.GradientTape() as tape:
                    loss = dm.mean(dm.square(model(inputs) - targets))
                variables = model.trainable_variables
                gradients = tape.gradient(loss, variables)
                optimizer.apply_gradients(zip(gradients, variables, strict=True))
                total += loss * inputs.shape[0]
            last = total / 500
            if epoch % 2 == 0:
                dm.print("epoch", epoch, "loss", dm.round(last * 1000) / 1000)
        return last

    if args.mode == "compiled":
        train = dm.function(train)
    loss = float(train(dm.asarray(args.epochs)))
    print(f"loss = {loss:.3f}")
    return {"loss": loss, "weights": [v.numpy() for v in model.trainable_variables]}


if __name__ == "__main__":
    main()
