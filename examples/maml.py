"""Learning to learn: the gradient of a loss after some steps of training, through these steps.

Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning", ICML 2017, on sine waves of different
phases. The steps are a loop of their own function, compiled by itself; the gradient with respect to
where they start goes through their gradients, so it is one of second order.
Run `python examples/maml.py --mode compiled`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

import dualmode as dm

HIDDEN = 16
RATE = 0.1


def predict(params: dict[str, Any], x: Any) -> Any:
    return dm.tanh(x @ params["w1"] + params["b1"]) @ params["w2"]


def loss_of(params: dict[str, Any], x: Any, y: Any) -> Any:
    return dm.mean(dm.square(predict(params, x) - y))


def adapt(params: dict[str, Any], x: Any, y: Any, steps: Any) -> dict[str, Any]:
    """The parameters after `steps` steps of gradient descent on one task."""
    for _ in dm.range(steps):
        gradients = dm.grad(loss_of)(params, x, y)
        params = {name: p - RATE * gradients[name] for name, p in params.items()}
    return params


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("eager", "compiled"), default="compiled")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    args = parser.parse_args(argv)

    inner = dm.function(adapt) if args.mode == "compiled" else adapt

    def meta_loss(params: dict[str, Any], train: Any, test: Any, steps: Any) -> Any:
        return loss_of(inner(params, train[0], train[1], steps), test[0], test[1])

    meta_step = dm.value_and_grad(meta_loss)
    if args.mode == "compiled":
        meta_step = dm.function(meta_step)

    rng = np.random.default_rng(0)

    def task() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        phase = rng.uniform(0, np.pi)
        x = rng.uniform(-3, 3, (2, 20, 1)).astype(np.float32)
        y = np.sin(x + phase).astype(np.float32)
        train, test = zip(dm.asarray(x), dm.asarray(y), strict=True)
        return train, test

    params = {
        "w1": dm.asarray(rng.normal(size=(1, HIDDEN)).astype(np.float32)),
        "b1": dm.zeros((HIDDEN,)),
        "w2": dm.asarray(rng.normal(size=(HIDDEN, 1)).astype(np.float32) * 0.25),
    }
    steps = dm.asarray(3)
    losses = []
    for _ in range(10 if args.quick else 300):
        loss, gradients = meta_step(params, *task(), steps)
        params = {name: p - 0.2 * gradients[name] for name, p in params.items()}
        losses.append(float(loss))
    print(
        f"loss after {int(steps)} steps on a new task: {np.mean(losses[:10]):.3f} at first, "
        f"{np.mean(losses[-10:]):.3f} in the end"
    )
    return {"losses": losses}


if __name__ == "__main__":
    main()
