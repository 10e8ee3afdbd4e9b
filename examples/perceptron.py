"""A 3-20-1 perceptron on random data that arrives as float64, as NumPy makes it.

Run `python examples/perceptron.py --mode compiled`.
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
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    args = parser.parse_args(argv)

    dm.random.set_seed(0)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(4, 3))  # float64: layers cast it to their own float32
    y = generator.normal(size=(4, 1))

    model = dm.nn.Sequential([dm.nn.Dense(20, activation="tanh"), dm.nn.Dense(1)])
    optimizer = dm.optim.SGD(learning_rate=0.1)
    loss_function = dm.losses.MeanSquaredError()

    def train_step(x: Any, y: Any) -> Any:
        with dm.GradientTape() as tape:
            loss = loss_function(y, model(x))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    if args.mode == "compiled":
        train_step = dm.function(train_step)

    losses = [float(train_step(x, y)) for _ in range(50 if args.quick else 500)]
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.6f} in {len(losses)} steps")
    return {"losses": losses, "dtype": str(model(x).dtype)}


if __name__ == "__main__":
    main()
