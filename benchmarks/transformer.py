"""A training step of a decoder-only transformer, written once over the functions that libraries
share: pre-normalised blocks (Xiong et al., 2020) of causal attention and a perceptron with GELU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .workloads import Array, Transformer

BLOCK = 10  # arrays of parameters in each block


class Library(NamedTuple):
    """What libraries call otherwise."""

    xp: Any
    softmax: Any
    rsqrt: Any
    erf: Any


def weights(workload: Transformer) -> list[Array]:
    """The embedding, the parameters of each block, then the last norm and the output layer."""
    random = np.random.default_rng(1)
    width, vocabulary = workload.width, workload.vocabulary

    def dense(n: int, m: int) -> Array:
        return (random.normal(size=(n, m)) / math.sqrt(n)).astype(np.float32)

    def norm() -> list[Array]:
        return [np.ones(width, np.float32), np.zeros(width, np.float32)]

    out = [dense(vocabulary, width)]
    for _ in range(workload.layers):
        out += [*norm(), dense(width, 3 * width), dense(width, width)]
        out += [*norm(), dense(width, 4 * width), np.zeros(4 * width, np.float32)]
        out += [dense(4 * width, width), np.zeros(width, np.float32)]
    return [*out, *norm(), dense(width, vocabulary)]


def mask(workload: Transformer) -> Array:
    """float32[length, length]: what is added to scores so that nobody sees what comes later."""
    n = workload.length
    return np.triu(np.full((n, n), -1e9, np.float32), 1)


def logits(
    library: Library, workload: Transformer, params: Sequence[Any], tokens: Any, mask: Any
) -> Any:
    """float32[batch, length, vocabulary] from int32[batch, length]."""
    embedding, *blocks = params
    *blocks, scale, offset, head = blocks
    x = library.xp.take(embedding, tokens, axis=0)
    for k in range(0, len(blocks), BLOCK):
        x = _block(library, workload, blocks[k : k + BLOCK], x, mask)
    return _norm(library, x, scale, offset) @ head


def _block(
    library: Library, workload: Transformer, params: Sequence[Any], x: Any, mask: Any
) -> Any:
    scale, offset, qkv, projection, *rest = params
    x = x + _attention(library, workload, _norm(library, x, scale, offset) @ qkv, mask) @ projection
    scale, offset, up, up_bias, down, down_bias = rest
    hidden = _norm(library, x, scale, offset) @ up + up_bias
    hidden = 0.5 * hidden * (1.0 + library.erf(hidden * math.sqrt(0.5)))
    return x + hidden @ down + down_bias


def _attention(library: Library, workload: Transformer, qkv: Any, mask: Any) -> Any:
    batch, length, heads = workload.batch, workload.length, workload.heads
    size = workload.width // heads
    qkv = library.xp.reshape(qkv, (batch, length, 3, heads, size))
    q, k, v = (library.xp.permute_dims(qkv[:, :, i], (0, 2, 1, 3)) for i in range(3))
    scores = q @ library.xp.permute_dims(k, (0, 1, 3, 2)) * (1 / math.sqrt(size)) + mask
    seen = library.softmax(scores, axis=-1) @ v
    return library.xp.reshape(
        library.xp.permute_dims(seen, (0, 2, 1, 3)), (batch, length, workload.width)
    )


def _norm(library: Library, x: Any, scale: Any, offset: Any) -> Any:
    centred = x - library.xp.mean(x, axis=-1, keepdims=True)
    variance = library.xp.mean(centred * centred, axis=-1, keepdims=True)
    return centred * library.rsqrt(variance + 1e-5) * scale + offset
