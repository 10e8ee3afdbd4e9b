"""The workloads in dualmode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dualmode as dm

from . import transformer
from .functions import Pure, with_options
from .functions_dualmode import FUNCTIONS
from .workloads import (
    Adam,
    Dispatch,
    Gemm,
    Loop,
    Nested,
    Recurrent,
    Step,
    Training,
    Transformer,
    Workload,
)


def build(workload: Workload, mode: str, threads: int) -> Step:
    match workload:
        case Training():
            return _training(workload, mode)
        case Gemm():
            return _gemm(workload, mode)
        case Dispatch():
            return _dispatch(workload, mode)
        case Transformer():
            return _transformer(workload, mode)
        case Adam():
            return _adam(workload, mode)
        case Nested():
            trees = dm.tree.map(dm.asarray, workload.data())
            return Step(_mode(_of_trees, mode), tuple(trees))
        case Loop():
            return _loop(workload, mode)
        case Recurrent():
            return _recurrent(workload, mode)
        case Pure():
            call = with_options(FUNCTIONS[workload.op], workload)
            return Step(_mode(call, mode), tuple(map(dm.asarray, workload.data())))
    raise TypeError(workload)


def processes() -> list[int]:
    """Processes that dualmode has started: the one that LLVM runs in."""
    from dualmode_compiler.runtime import apart

    return apart.processes()


def load() -> None:
    """Load what dualmode compiles with, and wait until that could compile."""
    from dualmode_compiler.runtime import apart

    apart.result(apart.ask("describe"))


def _dispatch(workload: Dispatch, mode: str) -> Step:
    x, y = workload.data()
    if not workload.arrays:
        x, y = dm.asarray(x), dm.asarray(y)
    if not workload.tape:
        return Step(_mode(dm.add, mode), (x, y))

    def adds(x: dm.Tensor, y: dm.Tensor) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(x)
            for _ in range(99):
                dm.add(x, y)
            return dm.add(x, y)

    return Step(adds, (x, y), repeats=100)


def _adam(workload: Adam, mode: str) -> Step:
    data = workload.data()
    variables = [dm.Variable(p) for p, _ in data]
    optimizer = dm.optim.Adam(workload.rate, epsilon=workload.epsilon)

    def step(gradients: list[dm.Tensor]) -> None:
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    gradients = [dm.asarray(g) for _, g in data]
    return Step(_mode(step, mode), (gradients,), shown=lambda _: variables[0].numpy())


def _transformer(workload: Transformer, mode: str) -> Step:
    library = transformer.Library(dm, dm.softmax, dm.rsqrt, dm.erf)
    variables = [dm.Variable(w) for w in transformer.weights(workload)]
    mask = dm.asarray(transformer.mask(workload))
    optimizer = dm.optim.Adam(workload.rate, epsilon=workload.epsilon)
    loss_function = dm.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(tokens: dm.Tensor, following: dm.Tensor) -> dm.Tensor:
        with dm.GradientTape() as tape:
            loss = loss_function(
                following, transformer.logits(library, workload, variables, tokens, mask)
            )
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    return Step(_mode(step, mode), tuple(map(dm.asarray, workload.data())))


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
    kernels = [kernel for kernel, _ in reversed(weights)]  # each is let go when its layer has it
    layers: list[dm.nn.Layer] = []
    for k, (_, bias) in enumerate(weights):
        last = k == len(weights) - 1
        activation = None if last else workload.activation
        layers.append(
            dm.nn.Dense(
                len(bias), activation=activation, kernel_initializer=lambda _: kernels.pop()
            )
        )
        if workload.dropout and not last:
            layers.append(dm.nn.Dropout(workload.dropout))
    model = dm.nn.Sequential(layers)
    model(dm.zeros((1, workload.sizes[0])))  # makes its variables, as the peers' models do theirs
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

    call = _mode(step, mode)
    return Step(
        call,
        tuple(map(dm.asarray, workload.data())),
        snapshot=snapshot,
        predicted=(lambda: call.memory().peak) if mode == "compiled" else None,
        shown=workload.shown,
    )
