"""The workloads in TensorFlow with Keras: eagerly, by `tf.function`, and by XLA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from .workloads import Dispatch, Gemm, Step, Training, Workload


def build(workload: Workload, mode: str, threads: int) -> Step:
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    match workload:
        case Training():
            return _training(workload, mode)
        case Gemm():
            return _gemm(workload, mode)
        case Dispatch():
            data = workload.data()
            args = data if workload.arrays else tuple(map(tf.constant, data))
            return Step(_mode(tf.add, mode), args)
    raise TypeError(workload)


def _mode(call: Any, mode: str) -> Any:
    return call if mode == "eager" else tf.function(call, jit_compile=mode == "xla")


def _gemm(workload: Gemm, mode: str) -> Step:
    def product(a: Any, b: Any) -> Any:
        return tf.linalg.matmul(
            a, b, transpose_a=workload.transpose_a, transpose_b=workload.transpose_b
        )

    return Step(_mode(product, mode), tuple(map(tf.constant, workload.data())))


def _training(workload: Training, mode: str) -> Step:
    weights = workload.weights()
    activations = [workload.activation] * (len(weights) - 1) + [None]
    layers: list[Any] = []
    for (_, b), a in zip(weights, activations, strict=True):
        layers.append(tf.keras.layers.Dense(len(b), activation=a))
        if workload.dropout and a:
            layers.append(tf.keras.layers.Dropout(workload.dropout))
    model = tf.keras.Sequential(layers)
    model.build((workload.batch, workload.sizes[0]))
    model.set_weights([array for pair in weights for array in pair])
    if workload.optimizer == "adam":
        optimizer = tf.keras.optimizers.Adam(workload.rate, epsilon=workload.epsilon)
    else:
        optimizer = tf.keras.optimizers.SGD(workload.rate)
    optimizer.build(model.trainable_variables)
    loss_function: Any = tf.keras.losses.MeanSquaredError()
    if workload.loss == "sparse_crossentropy":
        loss_function = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
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

    data = tuple(map(tf.constant, workload.data()))
    return Step(_mode(step, mode), data, snapshot=snapshot, shown=workload.shown)
