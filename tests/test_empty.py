"""Arrays without elements beside axes of millions: nothing is computed, and nothing is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dualmode as dm
from levels import LEVELS

MANY = 2_000_000
NONE = np.zeros(0, np.int32)


def empty(*shape: int) -> dm.Tensor:
    return dm.asarray(np.zeros(shape, np.float32))


def gradient(x: Any) -> Any:
    return dm.grad(lambda x: dm.sum(dm.tanh(dm.broadcast_to(x, (0, MANY)))))(x)


WIDE = empty(0, MANY)  # not one row of it
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "broadcast": (lambda x: [dm.broadcast_to(x, (0, MANY)), x + WIDE, gradient(x)], (empty(1),)),
    "broadcast in the middle": (lambda x: dm.broadcast_to(x, (3, MANY, 0)), (empty(3, 1, 0),)),
    "elementwise": (lambda x: [x + 1.0, dm.exp(x) * x, dm.where(x > 0, x, -x)], (WIDE,)),
    "rows": (
        lambda x: [dm.softmax(x), dm.sum(x, 1), dm.argmax(x, 1), x - dm.mean(x, -1, True)],
        (WIDE,),
    ),
    "columns": (
        lambda x: [dm.sum(x, 0)[:5], dm.softmax(x, 0), dm.cumulative_sum(x, axis=0)],
        (WIDE,),
    ),
    "moved": (
        lambda x: [dm.transpose(x) * 2.0, dm.flip(x), dm.roll(x, 3, 1), dm.reshape(x, (MANY, 0))],
        (WIDE,),
    ),
    "joined": (
        lambda x: [dm.concat([x, x], 0), dm.concat([x, x + 1.0], 1), dm.stack([x, x], 1)],
        (WIDE,),
    ),
    "padded": (lambda x: [dm.pad(x, ((0, 0), (1, 1))), dm.repeat(x, 3, axis=0)], (WIDE,)),
    "prefix": (lambda x: dm.cumulative_sum(x, axis=1), (WIDE,)),
    "no indices": (
        lambda x, i, u: [dm.take(x, i, axis=0), x.at[i].add(u)],
        (empty(500, 400), dm.asarray(NONE), empty(0, 400)),
    ),
    "indices into nothing": (
        lambda x, i, u: [dm.take(x, i, axis=1), x.at[:, i].add(u)],
        (WIDE, dm.asarray(np.arange(1000)), empty(0, 1000)),
    ),
    "products": (
        lambda x, y, z: [x @ y, dm.relu(x @ y + 1.0), z @ x],
        (empty(300, 0), empty(0, 500), empty(0, 300)),
    ),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_modes_agree(name: str, level: int):
    fn, args = FUNCTIONS[name]
    expected = fn(*args)
    with dm.config.override(optimization=level, num_threads=2):
        actual = dm.function(fn)(*args)
    for a, b in zip(dm.tree.flatten(expected)[0], dm.tree.flatten(actual)[0], strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a, b)
