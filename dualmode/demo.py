"""What `dualmode demo` does: train two small models on real data in both modes, and compare."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any

import numpy as np

import dualmode as dm
from dualmode_compiler.records import dataclass

from .table import text_table

Step = Callable[[Any, Any], Any]
_REFRESH = 0.1  # seconds between updates of the progress line


@dataclass
class Task:
    """A model and the data to train it on.

    Attributes:
        dataset: batches (x, y) of one epoch.
        epochs: how many to train.
    """

    name: str
    model: dm.nn.Model
    optimizer: dm.optim.Optimizer
    loss_function: dm.losses.Loss
    dataset: dm.data.Dataset
    epochs: int

    def train_step(self, x: Any, y: Any) -> Any:
        with dm.GradientTape() as tape:
            loss = self.loss_function(y, self.model(x, training=True))
        variables = self.model.trainable_variables
        gradients = tape.gradient(loss, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss


@dataclass
class Run:
    """What training a task in one mode gave.

    Attributes:
        first: seconds of the first step, which compiles.
        times: seconds of each later step.
        losses: of each step.
    """

    task: str
    mode: str
    first: float = 0.0
    times: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def step_time(self) -> float:
        """Seconds per step, the median of all but the first."""
        return statistics.median(self.times)


def iris_task(quick: bool) -> Task:
    """Sepal width from the other three measures: 3-32-1, batches of 10, Adam."""
    table = dm.datasets.iris()
    x, y = np.delete(table.data, 1, axis=1)[:120], table.data[:120, 1:2]
    dataset = dm.data.Dataset.from_tensor_slices((x, y)).shuffle(120, seed=0)
    model = dm.nn.Sequential(
        [dm.nn.Dense(32, activation="relu"), dm.nn.Dropout(0.5), dm.nn.Dense(1)]
    )
    loss = dm.losses.MeanSquaredError()
    return Task("iris", model, dm.optim.Adam(), loss, dataset.batch(10), 3 if quick else 40)


def digits_task(quick: bool) -> Task:
    """Handwritten digits: 64-64-10, batches of 32, Adam."""
    table = dm.datasets.digits()
    dataset = dm.data.Dataset.from_tensor_slices((table.data / 16, table.target))
    batches = dataset.shuffle(len(table.data), seed=0).batch(32, drop_remainder=True)
    model = dm.nn.Sequential([dm.nn.Dense(64, activation="relu"), dm.nn.Dense(10)])
    loss = dm.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Task("digits", model, dm.optim.Adam(), loss, batches, 1 if quick else 20)


TASKS: tuple[Callable[[bool], Task], ...] = (iris_task, digits_task)


def train(task: Task, mode: str) -> Run:
    """Train `task` in `mode` ("eager" or "compiled"), with a progress line."""
    step: Step = dm.function(task.train_step) if mode == "compiled" else task.train_step
    run = Run(task.name, mode)
    total = task.epochs * len(task.dataset)
    shown = 0.0
    for x, y in task.dataset.repeat(task.epochs):
        start = time.perf_counter()
        loss = step(x, y)
        end = time.perf_counter()
        run.losses.append(float(loss))
        if len(run.losses) == 1:
            run.first = end - start
            continue
        run.times.append(end - start)
        if end - shown > _REFRESH and sys.stdout.isatty():
            print(_progress(run, total), end="", flush=True)
            shown = end
    print(_progress(run, total))
    return run


def main(quick: bool = False, plot: str | None = None) -> list[Run]:
    """Train every task in both modes and print the comparison.

    Args:
        quick: fewer epochs.
        plot: a file for the loss curves, its format by its suffix; needs matplotlib.
    """
    runs: list[Run] = []
    rows: list[tuple[str, ...]] = []
    for make_task in TASKS:
        pair = []
        for mode in ("eager", "compiled"):
            dm.random.set_seed(0)  # so that both modes start from the same weights
            pair.append(train(make_task(quick), mode))
        runs += pair
        rows.append(_compare(*pair))
    print()
    header = ("task", "steps", "eager steps/s", "compiled steps/s", "speed-up", "compile time")
    print("\n".join(text_table((*header, "largest loss difference"), rows)))
    if plot is not None:
        _draw(runs, plot)
        print(f"loss curves: {plot}")
    return runs


def _progress(run: Run, total: int) -> str:
    label = f"{run.task} {run.mode}"
    first = "compile" if run.mode == "compiled" else "first step"
    start = "\r" if sys.stdout.isatty() else ""
    return (
        f"{start}{label:<16} {len(run.losses):>5}/{total}  {run.step_time * 1e6:>8.1f} us/step  "
        f"loss {run.losses[-1]:.4f}  ({first} {run.first * 1e3:.0f} ms)"
    )


def _compare(eager: Run, compiled: Run) -> tuple[str, ...]:
    difference = np.abs(np.subtract(eager.losses, compiled.losses)).max()
    return (
        eager.task,
        str(len(eager.losses)),
        f"{1 / eager.step_time:,.0f}",
        f"{1 / compiled.step_time:,.0f}",
        f"{eager.step_time / compiled.step_time:.1f}x",
        f"{compiled.first:.2f} s",
        f"{difference:.1e}",
    )


def _draw(runs: Sequence[Run], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(run.task for run in runs))
    figure, axes = pyplot.subplots(1, len(names), figsize=(5 * len(names), 3.5), squeeze=False)
    for run in runs:
        axis = axes[0, names.index(run.task)]
        dashed = "--" if run.mode == "compiled" else "-"
        axis.plot(run.losses, dashed, label=run.mode, linewidth=1)
        axis.set(title=run.task, xlabel="step", ylabel="loss", yscale="log")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
