"""Fit a line to 2,000 noisy points around y = 3x + 2, with nothing but Variables and a tape.

Run `python examples/linear_regression.py --mode compiled`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import dualmode as dm


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("eager", "compiled"), default="compiled")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    args = parser.parse_args(argv)

    dm.random.set_seed(0)
    x = dm.random.normal((2000,))
    y = 3 * x + 2 + dm.random.normal((2000,))

    w = dm.Variable(0.0, name="w")
    b = dm.Variable(0.0, name="b")
    optimizer = dm.optim.SGD(learning_rate=0.01)

    def train_step() -> Any:
        with dm.GradientTape() as tape:
            loss = dm.mean(dm.square(w * x + b - y))
        gradients = tape.gradient(loss, [w, b])
        optimizer.apply_gradients(zip(gradients, [w, b], strict=True))
        return loss

    if args.mode == "compiled":
        train_step = dm.function(train_step)  # the only difference between the modes

    losses = [float(train_step()) for _ in range(50 if args.quick else 300)]
    print(f"w = {float(w):.3f}, b = {float(b):.3f}, loss = {losses[-1]:.3f}")
    return {"w": float(w), "b": float(b), "losses": losses}


if __name__ == "__main__":
    main()
