"""The cost model beside the clock: how long each step of a compiled program should take, by what
`explain` says, and how long it does.

`python -m benchmarks.predictions NAME THREADS RUNS` prints the figures of one workload as JSON.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from .catalogue import MNIST_MLP, TRANSFORMER, WIDE_MLP
from .contestants import OUR_COMPILED
from .fresh import Measured
from .measure import progress

PREDICTED = "cost model"
WORKLOADS = {w.name: w for w in (MNIST_MLP, WIDE_MLP, TRANSFORMER)}
ABOUT = "time of a training step by the cost model, and measured; and how far steps are from it"


def measured(threads: Sequence[int], rounds: int) -> list[Measured]:
    """Seconds of all steps of a program, predicted and measured; and the factor between the two
    within which the steps are that take half of the time."""
    found: dict[tuple[str, int, str], Measured] = {}
    for name in WORKLOADS:
        for n in threads:
            for _ in range(rounds):
                progress(f"cost_model {name}")
                for quantity, contestant, unit, value in _figures(name, n):
                    key = (quantity, n, contestant)
                    if key not in found:
                        found[key] = Measured("cost_model", quantity, n, contestant, unit)
                    found[key].rounds.append(value)
    progress("")
    return list(found.values())


def _figures(name: str, threads: int) -> Iterator[tuple[str, str, str, float]]:
    command = [sys.executable, "-m", "benchmarks.predictions", name, str(threads), "30"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    yield name, OUR_COMPILED.label, "s", answer["seconds"]
    yield name, PREDICTED, "s", answer["predicted"]
    yield f"{name}: half of the time within", OUR_COMPILED.label, "percent", answer["percent"]


def main(name: str, threads: int, runs: int) -> None:
    import dualmode as dm

    from . import ours

    dm.config.update(num_threads=threads)
    step = ours.build(WORKLOADS[name], "compiled", threads)
    call: Any = step.call
    call(*step.args)
    concrete = call.get_concrete_function(*step.args)
    found = concrete.profile(*step.args, runs=runs)
    timed = [(t.seconds, t.predicted) for t in found if t.predicted and t.seconds]
    seconds, predicted = (sum(column) for column in zip(*timed, strict=True))
    off = sorted((max(s / p, p / s), s) for s, p in timed)
    shares = itertools.accumulate(s for _, s in off)
    factor = next(f for (f, _), reached in zip(off, shares, strict=True) if reached >= seconds / 2)
    figures = {"seconds": seconds, "predicted": predicted, "percent": 100 * (factor - 1)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
