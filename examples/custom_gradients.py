"""Gradients of one's own: a clipped one, one that does not overflow, and one through a search.

Run `python examples/custom_gradients.py --mode compiled`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import dualmode as dm


@dm.custom_gradient
def clip_gradient_by_norm(y: Any, norm: float) -> Any:
    """`y`; its gradient is scaled down to at most `norm`."""

    def backward(upstream: Any) -> Any:
        length = dm.sqrt(dm.sum(upstream * upstream))
        return upstream * dm.where(length > norm, norm / length, 1.0), None

    return y, backward


def naive_log1pexp(x: Any) -> Any:
    """log(1 + exp(x)); its gradient is NaN where exp(x) overflows."""
    return dm.log(1 + dm.exp(x))


@dm.custom_gradient
def log1pexp(x: Any) -> Any:
    """log(1 + exp(x)), whose gradient is 1 - 1 / (1 + exp(x)) everywhere."""
    e = dm.exp(x)

    def backward(upstream: Any) -> Any:
        return upstream * (1 - 1 / (1 + e))

    return dm.log(1 + e), backward


def bowl(x: Any) -> Any:
    """A long valley with its lowest point in the origin."""
    return dm.sum(dm.asarray([1.0, 10.0]) * x * x) + 0.1 * dm.sum(x**4)


@dm.custom_gradient
def line_search_step(x: Any) -> Any:
    """A step downhill, of the largest length 1, 1/2, 1/4, ... that goes down far enough.

    The length is a step function of `x`: its derivative is 0, and the gradient that of a step of
    fixed length. Armijo, Pacific J. Math. 16, 1966.
    """
    init, gradient = dm.value_and_grad(bowl)(x)
    grad_norm = dm.sum(gradient * gradient)
    rate = dm.asarray(1.0)
    value = bowl(x - rate * gradient)
    while value > init - 0.5 * rate * grad_norm:
        rate = rate / 2
        value = bowl(x - rate * gradient)

    def backward(upstream: Any) -> Any:
        _, pullback = dm.vjp(lambda x: x - rate * dm.grad(bowl)(x), x)
        return pullback(upstream)

    return x - rate * gradient, backward


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("eager", "compiled"), default="compiled")
    args = parser.parse_args(argv)
    compiled = dm.function if args.mode == "compiled" else lambda fn: fn

    clipped = compiled(dm.grad(lambda x: dm.sum(clip_gradient_by_norm(x * x, 0.5))))
    stable = compiled(dm.grad(log1pexp))
    naive = compiled(dm.grad(naive_log1pexp))
    search = compiled(line_search_step)
    through = compiled(dm.value_and_grad(lambda x: bowl(line_search_step(line_search_step(x)))))

    x = dm.asarray([2.0, 1.0])
    path = [x]
    for _ in range(10):
        path.append(search(path[-1]))
    value, gradient = through(x)
    results = {
        "clipped": clipped(dm.asarray([3.0, 4.0])).numpy(),
        "stable": float(stable(dm.asarray(100.0))),
        "naive": float(naive(dm.asarray(100.0))),
        "values": [float(bowl(x)) for x in path],
        "through": (float(value), gradient.numpy()),
    }
    for name, result in results.items():
        print(f"{name}: {result}")
    return results


if __name__ == "__main__":
    main()
