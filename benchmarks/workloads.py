"""What is computed: sizes, data and first weights, the same for every library.

A new workload is a row in `WORKLOADS`; a new kind of workload is a class here and a `case` in the
`build` function of `ours` and of each `peers_*` module that can run it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Kind = Literal["eager", "compiled"]
BOTH: tuple[Kind, ...] = ("eager", "compiled")


@dataclass(frozen=True)
class Step:
    """A workload, ready to run in one library.

    Attributes:
        call: runs it once; its result converts to a NumPy array.
        args: what `call` takes.
        sync: waits for all that `call` has started.
        snapshot: remembers the state that `call` changes, and gives what restores it.
    """

    call: Callable[..., Any]
    args: tuple[Any, ...] = ()
    sync: Callable[[], Any] = lambda: None
    snapshot: Callable[[], Callable[[], Any]] = lambda: lambda: None


@dataclass(frozen=True)
class Workload:
    """Attributes:
    name: what it is called in tables.
    kinds: the modes in which it says something.
    share: its part of the time that a workload is given.
    """

    name: str
    kinds: tuple[Kind, ...] = BOTH
    share: float = 1.0

    @property
    def work(self) -> float:
        """Floating-point operations of a call, where a rate is worth reporting; else 0."""
        return 0.0


@dataclass(frozen=True)
class Training(Workload):
    """One training step of a perceptron: forward, backward, update; the result is the loss."""

    sizes: tuple[int, ...] = ()
    batch: int = 1
    activation: Literal["relu", "tanh"] = "relu"
    loss: Literal["mse", "sparse_crossentropy"] = "mse"
    optimizer: Literal["sgd", "adam"] = "adam"
    rate: float = 1e-3
    epsilon: float = 1e-7

    def data(self) -> tuple[Array, Array]:
        """x: float32[batch, sizes[0]]; y: float32[batch, sizes[-1]], or int32[batch] of classes."""
        random = np.random.default_rng(0)
        x = random.normal(size=(self.batch, self.sizes[0])).astype(np.float32)
        if self.loss == "sparse_crossentropy":
            return x, random.integers(0, self.sizes[-1], self.batch, dtype=np.int32)
        return x, random.normal(size=(self.batch, self.sizes[-1])).astype(np.float32)

    def weights(self) -> list[tuple[Array, Array]]:
        """(kernel, bias) of each layer: Glorot and Bengio's uniform kernels, zero biases."""
        random = np.random.default_rng(1)
        out = []
        for n, m in itertools.pairwise(self.sizes):
            limit = np.sqrt(6 / (n + m))
            kernel = random.uniform(-limit, limit, (n, m)).astype(np.float32)
            out.append((kernel, np.zeros(m, np.float32)))
        return out


@dataclass(frozen=True)
class Gemm(Workload):
    """One product of float32 matrices, m x k by k x n."""

    m: int = 1
    n: int = 1
    k: int = 1
    transpose_a: bool = False
    transpose_b: bool = False

    def data(self) -> tuple[Array, Array]:
        """The operands, as they lie in memory: transposed ones are."""
        random = np.random.default_rng(0)
        shapes = (
            (self.k, self.m) if self.transpose_a else (self.m, self.k),
            (self.n, self.k) if self.transpose_b else (self.k, self.n),
        )
        a, b = (random.normal(size=shape).astype(np.float32) for shape in shapes)
        return a, b

    @property
    def work(self) -> float:
        return 2.0 * self.m * self.n * self.k


@dataclass(frozen=True)
class Dispatch(Workload):
    """What a call costs that computes next to nothing, on 4x4 tensors."""

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


def _gemm(m: int, n: int, k: int, transposed: str = "") -> Gemm:
    name = f"{m}x{n}x{k}" + (f" {transposed.upper()}ᵀ" if transposed else "")
    return Gemm(
        name,
        share=0.25,
        m=m,
        n=n,
        k=k,
        transpose_a=transposed == "a",
        transpose_b=transposed == "b",
    )


TINY = Training("tiny", sizes=(3, 20, 1), batch=4, activation="tanh", optimizer="sgd", rate=0.01)
IRIS = Training("iris", sizes=(3, 32, 1), batch=10)
MNIST_MLP = Training("mnist_mlp", sizes=(784, 256, 128, 10), batch=64, loss="sparse_crossentropy")
WIDE_MLP = Training("wide_mlp", sizes=(512, 1024, 1024, 512), batch=128)

WORKLOADS: dict[str, tuple[Workload, ...]] = {
    "tiny": (TINY,),
    "iris": (IRIS,),
    "mnist_mlp": (MNIST_MLP,),
    "wide_mlp": (WIDE_MLP,),
    "dispatch": (
        Dispatch("add 4x4", kinds=("eager",)),
        Dispatch("x + y 4x4", kinds=("compiled",)),
        Nested("x + y of ten trees", kinds=("compiled",)),
    ),
    "loops": (
        Loop("a million iterations", kinds=("compiled",)),
        Recurrent("scan", kinds=("compiled",)),
        Recurrent("scan, gradient", kinds=("compiled",), gradient=True),
    ),
    "gemm": (
        *(_gemm(n, n, n) for n in (8, 16, 32, 64, 128, 256, 512, 1024, 2048)),
        _gemm(64, 256, 784),
        _gemm(784, 256, 64, "a"),
        _gemm(64, 784, 256, "b"),
        _gemm(128, 1024, 512),
        _gemm(64, 10, 256),
        _gemm(8, 1024, 1024),
    ),
}

ABOUT = {
    "tiny": "training step, 3-20-1 with tanh, batch 4, SGD, mean squared error",
    "iris": "training step, 3-32-1 with relu, batch 10, Adam, mean squared error",
    "mnist_mlp": "training step, 784-256-128-10, batch 64, Adam, softmax cross-entropy",
    "wide_mlp": "training step, 512-1024-1024-512, batch 128, Adam, mean squared error",
    "dispatch": "what a call costs: an eager add of 4x4, a compiled one, one of ten structures",
    "loops": "a million iterations over a scalar; a recurrent net of 64 steps, and its gradient",
    "gemm": "float32 matrix products, m x n x k",
}
