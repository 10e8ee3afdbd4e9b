"""A neural ordinary differential equation: the gradient through a solver of adaptive steps.

Chen et al., "Neural Ordinary Differential Equations", NeurIPS 2018. The solver is Heun's method
with Euler's inside to tell the error (Hairer, Norsett and Wanner, "Solving ODEs I", II.4); a
`while` on tensors, whose number of steps depends on the values.
Run `python examples/neural_ode.py --mode compiled`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

import dualmode as dm

END, TOLERANCE = 2.0, 1e-3


def velocity(w: Any, z: Any) -> Any:
    return dm.tanh(w @ z)


def solve(w: Any, z: Any) -> Any:
    """z(END) for dz/dt = tanh(w @ z), z(0) = `z`; and how many steps were tried."""
    t = dm.zeros((), dtype=z.dtype)
    h = t + 0.1
    steps = dm.asarray(0)
    while t < END:
        h = dm.minimum(h, END - t)
        slope = velocity(w, z)
        euler = z + h * slope
        heun = z + h / 2 * (slope + velocity(w, euler))
        error = dm.max(dm.abs(heun - euler))
        if error <= TOLERANCE:
            z = heun
            t = t + h
        h = h * dm.clip(0.9 * dm.sqrt(TOLERANCE / (error + 1e-12)), 0.2, 2.0)
        steps += 1
    return z, steps


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("eager", "compiled"), default="compiled")
    args = parser.parse_args(argv)

    rng = np.random.default_rng(0)
    w = dm.asarray(rng.normal(size=(3, 3)))
    z = dm.asarray(rng.normal(size=3))

    def loss(w: Any) -> Any:
        end, steps = solve(w, z)
        return dm.sum(end * end), steps

    gradient_of = dm.value_and_grad(loss, has_aux=True)
    if args.mode == "compiled":
        gradient_of = dm.function(gradient_of)
    (value, steps), gradient = gradient_of(w)
    print(f"loss = {float(value):.4f} after {int(steps)} steps")
    print(gradient.numpy())
    return {
        "loss": float(value),
        "steps": int(steps),
        "gradient": gradient.numpy(),
        "w": w.numpy(),
        "loss_of": lambda w: loss(w)[0],
    }


if __name__ == "__main__":
    main()
