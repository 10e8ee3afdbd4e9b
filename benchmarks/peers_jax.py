"""The workloads in JAX: one jitted function of the whole step, its old state donated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from . import transformer
from .functions import Pure, with_options
from .functions_jax import FUNCTIONS
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
            return _training(workload)
        case Gemm():
            return _gemm(workload)
        case Dispatch():
            data = workload.data()
            return _call(jnp.add, *(data if workload.arrays else map(jnp.asarray, data)))
        case Transformer():
            return _transformer(workload)
        case Adam():
            return _adam_alone(workload)
        case Nested():
            trees = jax.tree.map(jnp.asarray, workload.data())
            return _call(lambda *trees: trees[0]["w"] + trees[-1]["b"], *trees)
        case Loop():
            return _loop(workload)
        case Recurrent():
            return _recurrent(workload)
        case Pure():
            call = with_options(FUNCTIONS[workload.op], workload)
            return _call(call, *map(jnp.asarray, workload.data()))
    raise TypeError(workload)


def _loop(workload: Loop) -> Step:
    def run(x: Any) -> Any:
        return jax.lax.fori_loop(0, workload.iterations, lambda _, x: x * workload.decay + 1, x)

    return _call(run, *map(jnp.asarray, workload.data()))


def _recurrent(workload: Recurrent) -> Step:
    def loss(x: Any, w: Any, u: Any, b: Any) -> Any:
        def cell(h: Any, entry: Any) -> tuple[Any, None]:
            return jnp.tanh(entry @ w + h @ u + b), None

        last, _ = jax.lax.scan(cell, jnp.zeros((workload.batch, workload.units)), x)
        return jnp.mean(last * last)

    run = jax.grad(loss, argnums=2) if workload.gradient else loss
    return _call(run, *map(jnp.asarray, workload.data()))


def _call(function: Any, *args: Any) -> Step:
    """A pure function; its latest result is waited for."""
    compiled = jax.jit(function)
    result = args[0]

    def call(*args: Any) -> Any:
        nonlocal result
        result = compiled(*args)
        return result

    return Step(call, args, lambda: jax.block_until_ready(result))


def _gemm(workload: Gemm) -> Step:
    if workload.dtype == "float64":
        jax.config.update("jax_enable_x64", True)

    def product(a: Any, b: Any) -> Any:
        return (a.mT if workload.transpose_a else a) @ (b.mT if workload.transpose_b else b)

    return _call(product, *map(jnp.asarray, workload.data()))


def _training(workload: Training) -> Step:
    activation = jax.nn.relu if workload.activation == "relu" else jnp.tanh

    def loss_function(params: Any, x: Any, y: Any, key: Any) -> Any:
        *hidden, (kernel, bias) = params
        for k, b in hidden:
            x = activation(x @ k + b)
            if workload.dropout:
                key, own = jax.random.split(key)
                kept = jax.random.bernoulli(own, 1 - workload.dropout, x.shape)
                x = jnp.where(kept, x / (1 - workload.dropout), 0.0)
        out = x @ kernel + bias
        if workload.loss == "mse":
            return jnp.mean(jnp.square(out - y))
        scores = jax.nn.log_softmax(out)
        return -jnp.mean(jnp.take_along_axis(scores, y[:, None], axis=1))

    update = _adam(workload) if workload.optimizer == "adam" else _sgd(workload)

    def train(state: Any, x: Any, y: Any) -> Any:
        (params, slots), key = state
        key, own = jax.random.split(key) if workload.dropout else (key, key)
        loss, grads = jax.value_and_grad(loss_function)(params, x, y, own)
        return (update(params, slots, grads), key), loss

    train = jax.jit(train, donate_argnums=0)
    params = jax.tree.map(jnp.asarray, workload.weights())
    zeros = jax.tree.map(jnp.zeros_like, params)
    adam = workload.optimizer == "adam"
    slots = (zeros, jax.tree.map(jnp.zeros_like, params), jnp.zeros(())) if adam else ()
    state = (params, slots), jax.random.PRNGKey(0) if workload.dropout else ()

    def step(x: Any, y: Any) -> Any:
        nonlocal state
        state, loss = train(state, x, y)
        return loss

    def snapshot() -> Callable[[], None]:
        saved = jax.tree.map(jnp.copy, state)

        def restore() -> None:
            nonlocal state
            state = jax.tree.map(jnp.copy, saved)

        return restore

    data = tuple(map(jnp.asarray, workload.data()))
    return Step(step, data, lambda: jax.block_until_ready(state), snapshot, shown=workload.shown)


def _adam_alone(workload: Adam) -> Step:
    pairs = [(jnp.asarray(p), jnp.asarray(g)) for p, g in workload.data()]
    params, gradients = [p for p, _ in pairs], [g for _, g in pairs]
    update = jax.jit(_adam(workload), donate_argnums=(0, 1))
    zeros = [[jnp.zeros_like(p) for p in params] for _ in range(2)]
    state = params, (*zeros, jnp.zeros(()))

    def step(gradients: Any) -> None:
        nonlocal state
        state = update(*state, gradients)

    return Step(
        step, (gradients,), lambda: jax.block_until_ready(state), shown=lambda _: state[0][0]
    )


def _transformer(workload: Transformer) -> Step:
    library = transformer.Library(jnp, jax.nn.softmax, jax.lax.rsqrt, jax.lax.erf)
    mask = jnp.asarray(transformer.mask(workload))
    update = _adam(workload)

    def loss_function(params: Any, tokens: Any, following: Any) -> Any:
        out = transformer.logits(library, workload, params, tokens, mask)
        scores = jax.nn.log_softmax(out)
        return -jnp.mean(jnp.take_along_axis(scores, following[..., None], axis=-1))

    def train(state: Any, tokens: Any, following: Any) -> Any:
        params, slots = state
        loss, grads = jax.value_and_grad(loss_function)(params, tokens, following)
        return update(params, slots, grads), loss

    train = jax.jit(train, donate_argnums=0)
    params = list(map(jnp.asarray, transformer.weights(workload)))
    state = params, (*([jnp.zeros_like(p) for p in params] for _ in range(2)), jnp.zeros(()))

    def step(tokens: Any, following: Any) -> Any:
        nonlocal state
        state, loss = train(state, tokens, following)
        return loss

    data = tuple(map(jnp.asarray, workload.data()))
    return Step(step, data, lambda: jax.block_until_ready(state))


def _sgd(workload: Training) -> Any:
    def update(params: Any, slots: Any, grads: Any) -> Any:
        return jax.tree.map(lambda p, g: p - workload.rate * g, params, grads), slots

    return update


def _adam(
    workload: Training | Transformer | Adam, beta_1: float = 0.9, beta_2: float = 0.999
) -> Any:
    def update(params: Any, slots: Any, grads: Any) -> Any:
        m, v, t = slots
        t = t + 1
        m = jax.tree.map(lambda m, g: beta_1 * m + (1 - beta_1) * g, m, grads)
        v = jax.tree.map(lambda v, g: beta_2 * v + (1 - beta_2) * g * g, v, grads)
        rate = workload.rate * jnp.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        params = jax.tree.map(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v) + workload.epsilon), params, m, v
        )
        return params, (m, v, t)

    return update
