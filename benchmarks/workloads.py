"""What is computed: sizes, data and first weights, the same for every library.

A new workload is a row in `catalogue`; a new kind of workload is a class here and a `case` in the
`build` function of `ours` and of each `peers_*` module that can run it. Pure functions of arrays
are in `functions`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Kind = Literal["eager", "compiled", "limit"]
BOTH: tuple[Kind, ...] = ("eager", "compiled")


@dataclass(frozen=True)
class Step:
    """A workload, ready to run in one library.

    Attributes:
        call: runs it once; its result converts to a NumPy array.
        args: what `call` takes.
        sync: waits for all that `call` has started.
        snapshot: remembers the state that `call` changes, and gives what restores it.
        repeats: how often one call does what is measured.
        predicted: bytes that one call takes at its peak, where the library can tell after a call.
        shown: what of the result, or the state, is compared between libraries.
    """

    call: Callable[..., Any]
    args: tuple[Any, ...] = ()
    sync: Callable[[], Any] = lambda: None
    snapshot: Callable[[], Callable[[], Any]] = lambda: lambda: None
    repeats: float = 1
    predicted: Callable[[], int] | None = None
    shown: Callable[[Any], Any] = lambda result: result


@dataclass(frozen=True)
class Workload:
    """Attributes:
    name: what it is called in tables.
    kinds: the modes in which it says something.
    share: its part of the time that a workload is given.
    without: peers that have no such function.
    """

    name: str
    kinds: tuple[Kind, ...] = BOTH
    share: float = 1.0
    without: tuple[str, ...] = ()

    @property
    def work(self) -> float:
        """Floating-point operations of a call, where a rate is worth reporting; else 0."""
        return 0.0

    @property
    def moved(self) -> float:
        """Bytes that have to be read and written once, where that is what takes time; else 0."""
        return 0.0

    @property
    def constant(self) -> bool:
        """Whether every call has the same result."""
        return False


@dataclass(frozen=True)
class Training(Workload):
    """One training step of a perceptron: forward, backward, update; the result is the loss.

    Attributes:
        dropout: the part of the hidden activations that is taken away, at random.
    """

    sizes: tuple[int, ...] = ()
    batch: int = 1
    activation: Literal["relu", "tanh"] = "relu"
    loss: Literal["mse", "sparse_crossentropy"] = "mse"
    optimizer: Literal["sgd", "adam"] = "adam"
    rate: float = 1e-3
    epsilon: float = 1e-7
    dropout: float = 0.0

    def shown(self, loss: Any) -> Any:
        """What is compared: the loss; where libraries draw other masks, that it is a number."""
        return np.isfinite(np.asarray(loss)) if self.dropout else loss

    def data(self) -> tuple[Array, Array]:
        """x: float32[batch, sizes[0]]; y: float32[batch, sizes[-1]], or int32[batch] of classes."""
        random = np.random.default_rng(0)
        x = random.standard_normal((self.batch, self.sizes[0]), np.float32)
        if self.loss == "sparse_crossentropy":
            return x, random.integers(0, self.sizes[-1], self.batch, dtype=np.int32)
        return x, random.standard_normal((self.batch, self.sizes[-1]), np.float32)

    def weights(self) -> list[tuple[Array, Array]]:
        """(kernel, bias) of each layer: Glorot and Bengio's uniform kernels, zero biases."""
        random = np.random.default_rng(1)
        out = []
        for n, m in itertools.pairwise(self.sizes):
            limit = np.float32(np.sqrt(6 / (n + m)))
            kernel = random.random((n, m), np.float32)  # in place: peaks of memory are measured
            kernel *= 2 * limit
            kernel -= limit
            out.append((kernel, np.zeros(m, np.float32)))
        return out


@dataclass(frozen=True)
class Transformer(Workload):
    """One training step of a decoder-only transformer with Adam; the result is the loss."""

    layers: int = 12
    width: int = 128
    heads: int = 4
    length: int = 64
    batch: int = 8
    vocabulary: int = 256
    rate: float = 1e-3
    epsilon: float = 1e-7

    def data(self) -> tuple[Array, Array]:
        """Tokens and the next ones: int32[batch, length]."""
        random = np.random.default_rng(0)
        text = random.integers(0, self.vocabulary, (self.batch, self.length + 1), dtype=np.int32)
        return np.array(text[:, :-1]), np.array(text[:, 1:])


def _dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


@dataclass(frozen=True)
class Gemm(Workload):
    """One product of matrices, m x k by k x n, or of a batch of them."""

    m: int = 1
    n: int = 1
    k: int = 1
    transpose_a: bool = False
    transpose_b: bool = False
    dtype: str = "float32"
    batch: int = 0

    def data(self) -> tuple[Array, Array]:
        """The operands, as they lie in memory: transposed ones are."""
        random = np.random.default_rng(0)
        shapes = (
            (self.k, self.m) if self.transpose_a else (self.m, self.k),
            (self.n, self.k) if self.transpose_b else (self.k, self.n),
        )
        batch = (self.batch,) if self.batch else ()
        dtype = _dtype(self.dtype)
        if self.dtype == "bfloat16" or self.k > 4096:  # exact in any order, to be compared
            a, b = (random.integers(-4, 5, batch + shape).astype(dtype) for shape in shapes)
        else:
            a, b = (random.normal(size=batch + shape).astype(dtype) for shape in shapes)
        return a, b

    @property
    def work(self) -> float:
        return 2.0 * self.m * self.n * self.k * max(self.batch, 1)

    @property
    def moved(self) -> float:
        elements = self.m * self.k + self.k * self.n + self.m * self.n
        return float(elements * max(self.batch, 1) * _dtype(self.dtype).itemsize)


@dataclass(frozen=True)
class Adam(Workload):
    """An update of many parameters by Adam, from gradients that stay the same."""

    count: int = 10
    shape: tuple[int, ...] = (1000, 1000)
    rate: float = 1e-3
    epsilon: float = 1e-7

    def data(self) -> list[tuple[Array, Array]]:
        """(parameter, gradient) pairs."""
        random = np.random.default_rng(0)
        pairs = random.standard_normal((self.count, 2, *self.shape), np.float32)
        return [(np.array(p), np.array(g)) for p, g in pairs]

    @property
    def work(self) -> float:
        return 12.0 * self.count * np.prod(self.shape)

    @property
    def moved(self) -> float:
        """Parameter, gradient and two moments are read; all but the gradient are written."""
        return 7.0 * 4 * self.count * np.prod(self.shape)


@dataclass(frozen=True)
class Dispatch(Workload):
    """What a call costs that computes next to nothing, on 4x4 tensors.

    Attributes:
        tape: gradients of the operands are wanted.
        arrays: what comes in are NumPy arrays.
    """

    tape: bool = False
    arrays: bool = False

    def data(self) -> tuple[Array, Array]:
        x = np.arange(16, dtype=np.float32).reshape(4, 4)
        return x, x + 1


@dataclass(frozen=True)
class Nested(Workload):
    """The same with ten arguments, each of them a structure of tensors."""

    def data(self) -> list[Any]:
        """Dicts, lists and tuples of float32[4, 4]; the first holds "w", the last "b"."""
        x = np.arange(16, dtype=np.float32).reshape(4, 4)
        trees: list[Any] = [{"w": x, "b": x}, [x, x], (x, {"k": x}), ((x, x), x), {"a": [x]}]
        trees += [[[x], (x,)], {"q": {"r": x, "s": x}}, (x, x, x), [x, [x, [x]]], {"b": x + 1}]
        return trees


@dataclass(frozen=True)
class Loop(Workload):
    """A loop over one number: x = x * decay + 1, from 0."""

    iterations: int = 1_000_000
    decay: float = 0.999

    def data(self) -> tuple[Array]:
        return (np.zeros((), np.float32),)


@dataclass(frozen=True)
class Recurrent(Workload):
    """Elman's network, h = tanh(x[t] @ w + h @ u + b), scanned over time: the mean square of its
    last state, or the gradient of that by u."""

    steps: int = 64
    batch: int = 16
    features: int = 32
    units: int = 64
    gradient: bool = False

    def data(self) -> tuple[Array, ...]:
        """x: float32[steps, batch, features]; w, u and b."""
        random = np.random.default_rng(0)
        x = random.normal(size=(self.steps, self.batch, self.features))
        # small enough that tanh does not saturate, where gradients vanish and numbers are denormal
        w, u = (
            random.normal(size=(n, self.units)) / np.sqrt(n) for n in (self.features, self.units)
        )
        return *(a.astype(np.float32) for a in (x, w, u)), np.zeros(self.units, np.float32)
