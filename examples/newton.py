"""Newton's method on Rosenbrock's function, with exact Hessians.

Rosenbrock, Computer Journal 3, 1960. Run `python examples/newton.py --mode compiled`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import dualmode as dm


def rosenbrock(x: Any) -> Any:
    return 100.0 * (x[1] - x[0] ** 2) ** 2 + (1.0 - x[0]) ** 2


def solve(a: Any, b: Any) -> Any:
    """The solution of a @ x = b for a 2 x 2 matrix, by Cramer's rule."""
    determinant = a[0, 0] * a[1, 1] - a[0, 1] * a[1, 0]
    x = b[0] * a[1, 1] - b[1] * a[0, 1]
    y = b[1] * a[0, 0] - b[0] * a[1, 0]
    return dm.stack([x, y]) / determinant


def minimize(x: Any, tolerance: float) -> Any:
    """Newton steps until the gradient is as good as zero: the point, and how many there were."""
    steps = dm.asarray(0)
    gradient = dm.grad(rosenbrock)(x)
    while dm.sum(gradient * gradient) > tolerance**2:
        x = x - solve(dm.hessian(rosenbrock)(x), gradient)
        gradient = dm.grad(rosenbrock)(x)
        steps += 1
    return x, steps


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("eager", "compiled"), default="compiled")
    args = parser.parse_args(argv)

    run = dm.function(minimize) if args.mode == "compiled" else minimize
    x, steps = run(dm.asarray([-1.2, 1.0], dtype="float64"), 1e-9)
    print(f"x = {x.numpy()} after {int(steps)} steps")
    return {"x": x.numpy(), "steps": int(steps)}


if __name__ == "__main__":
    main()
