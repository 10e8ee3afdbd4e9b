"""The workloads in dualmode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dualmode as dm

from .workloads import Dispatch, Gemm, Loop, Nested, Recurrent, Step, Training, Workload


def build(workload: Workload, mode: str, threads: int) -> Step:
    match workload:
        case Training():
            return _training(workload, mode)
        case Gemm():
            return _gemm(workload, mode)
        case Dispatch():
            x, y = map(dm.asarray, workload.data())
            return Step(_mode(dm.add, mode), (x, y))
        case Nested():
            trees = dm.tree.map(dm.asarray, workload.data())
            return Step(_mode(_of_trees, mode), tuple(trees))
        case Loop():
            return _loop(workload, mode)
        case Recurrent():
            return _recurrent(workload, mode)
    raise TypeError(workload)


def _loop(workload: Loop, mode: str) -> Step:
    def run(x: dm.Tensor) -> dm.Tensor:
        return dm.fori_loop(0, workload.iterations, lambda _, x: x * workload.decay + 1, x)

    return Step(_mode(run, mode), tuple(map(dm.asarray, workload.data())))


def _recurrent(workload: Recurrent, mode: str) -> Step:
    def loss(x: Any, w: Any, u: Any, b: Any) -> Any:
        def cell(h: Any, entry: Any) -> tuple[Any, None]:
            return dm.tanh(entry @ w + h @ u + b), None

        last, _ = dm.scan(cell, dm.zeros((workload.batch, workload.units)), x)
        return dm.mean(last * last)

    run = dm.grad(loss, argnums=2) if workload.gradient else loss
    return Step(_mode(run, mode), tuple(map(dm.asarray, workload.data())))


def _of_trees(
    a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any, i: Any, j: Any
) -> Any:
    return a["w"] + j["b"]


def _mode(call: Any, mode: str) -> Any:
    return dm.function(call) if mode == "compiled" else call


def _gemm(workload: Gemm, mode: str) -> Step:
    transposes = {"transpose_a": workload.transpose_a, "transpose_b": workload.transpose_b}

    def product(a: dm.Tensor, b: dm.Tensor) -> dm.Tensor:
        return dm.matmul(a, b, **transposes)

    return Step(_mode(product, mode), tuple(map(dm.asarray, workload.data())))


def _training(workload: Training, mode: str) -> Step:
    weights = workload.weights()
    model = dm.nn.Sequential(
        [
            dm.nn.Dense(
                len(bias),
                activation=workload.activation if k < len(weights) - 1 else None,
                kernel_initializer=lambda _, kernel=kernel: kernel,
            )
            for k, (kernel, bias) in enumerate(weights)
        ]
    )
    if workload.optimizer == "adam":
        optimizer = dm.optim.Adam(workload.rate, epsilon=workload.epsilon)
    else:
        optimizer = dm.optim.SGD(workload.rate)
    loss_function: dm.losses.Loss = dm.losses.MeanSquaredError()
    if workload.loss == "sparse_crossentropy":
        loss_function = dm.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(x: dm.Tensor, y: dm.Tensor) -> dm.Tensor:
        with dm.GradientTape() as tape:
            loss = loss_function(y, model(x, training=True))
        variables = model.trainable_variables
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    def snapshot() -> Callable[[], None]:
        state = [*model.variables, *optimizer.variables]
        values = [v.numpy().copy() for v in state]

        def restore() -> None:
            for variable, value in zip(state, values, strict=True):
                variable.assign(value)

        return restore

    return Step(_mode(step, mode), tuple(map(dm.asarray, workload.data())), snapshot=snapshot)
