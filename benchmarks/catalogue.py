"""The named workloads: what `python -m benchmarks run NAME` measures."""

from __future__ import annotations

from dataclasses import replace

from . import functions
from .workloads import (
    Adam,
    Dispatch,
    Gemm,
    Loop,
    Nested,
    Recurrent,
    Training,
    Transformer,
    Workload,
)


def _gemm(
    m: int, n: int, k: int, transposed: str = "", dtype: str = "float32", batch: int = 0
) -> Gemm:
    name = (f"{batch} of " if batch else "") + f"{m}x{n}x{k}"
    name += f" {transposed.upper()}ᵀ" if transposed else ""
    return Gemm(
        name + (f" {dtype}" if dtype != "float32" else ""),
        without=("numpy",) if dtype == "bfloat16" else (),  # it computes element by element
        share=0.25 if m * n * k * max(batch, 1) < 1 << 30 else 0.5,
        m=m,
        n=n,
        k=k,
        transpose_a=transposed == "a",
        transpose_b=transposed == "b",
        dtype=dtype,
        batch=batch,
    )


TINY = Training("tiny", sizes=(3, 20, 1), batch=4, activation="tanh", optimizer="sgd", rate=0.01)
IRIS = Training("iris", sizes=(3, 32, 1), batch=10)
MNIST_MLP = Training("mnist_mlp", sizes=(784, 256, 128, 10), batch=64, loss="sparse_crossentropy")
WIDE_MLP = Training("wide_mlp", sizes=(512, 1024, 1024, 512), batch=128)
MNIST_DROPOUT, WIDE_DROPOUT = (
    replace(w, name=f"{w.name.removesuffix('_mlp')}_dropout", dropout=0.5)
    for w in (MNIST_MLP, WIDE_MLP)
)
MLP24 = Training("mlp24", sizes=(512,) * 25, batch=128)
TRANSFORMER = Transformer("transformer", kinds=("compiled",))

WORKLOADS: dict[str, tuple[Workload, ...]] = {
    "tiny": (TINY,),
    "iris": (IRIS,),
    "mnist_mlp": (MNIST_MLP,),
    "wide_mlp": (WIDE_MLP,),
    "mnist_dropout": (MNIST_DROPOUT,),
    "wide_dropout": (WIDE_DROPOUT,),
    # Adam divides small gradients by their size: after a few steps of so deep a model, libraries
    # that round otherwise have other results.
    "mlp24": (replace(MLP24, without=("torch",)),),
    "transformer": (TRANSFORMER,),
    "dispatch": (
        Dispatch("add 4x4", kinds=("eager",)),
        Dispatch("add 4x4, tape", kinds=("eager",), without=("numpy", "tensorflow"), tape=True),
        Dispatch("x + y 4x4", kinds=("compiled",)),
        Dispatch("x + y 4x4, arrays", kinds=("compiled",), arrays=True),
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
        _gemm(1, 1024, 1024),
        *(_gemm(n, n, n, t) for n in (64, 256, 1024) for t in "ab"),
        *(_gemm(n, n, n, dtype="float64") for n in (64, 256, 1024)),
        _gemm(512, 512, 512, "b", dtype="float64"),
        _gemm(64, 64, 64, batch=16),
        _gemm(64, 64, 64, "b", batch=16),
        _gemm(256, 256, 256, batch=8),
        _gemm(256, 256, 256, batch=4, dtype="float64"),
        _gemm(127, 129, 63),
        _gemm(128, 128, 64, "b", batch=64),
    ),
    "long_sums": (
        _gemm(10, 256, 65536, "a"),
        _gemm(256, 10, 65536, "a"),
        _gemm(64, 64, 100_000, "a"),
        _gemm(64, 64, 65536),
        _gemm(16, 16, 65536, "b"),
        _gemm(128, 128, 8192),
    ),
    "bfloat16": (
        *(_gemm(n, n, n, dtype="bfloat16") for n in (64, 128, 256, 512, 1024)),
        *(_gemm(n, n, n, t, dtype="bfloat16") for n in (256, 1024) for t in "ab"),
        _gemm(64, 256, 784, dtype="bfloat16"),
    ),
    "adam": (Adam("adam", kinds=("eager", "compiled")),),
    **functions.FUNCTIONS,
}

ABOUT = {
    "tiny": "training step, 3-20-1 with tanh, batch 4, SGD, mean squared error",
    "iris": "training step, 3-32-1 with relu, batch 10, Adam, mean squared error",
    "mnist_mlp": "training step, 784-256-128-10, batch 64, Adam, softmax cross-entropy",
    "wide_mlp": "training step, 512-1024-1024-512, batch 128, Adam, mean squared error",
    "mnist_dropout": "mnist_mlp with half of the hidden activations dropped",
    "wide_dropout": "wide_mlp with half of the hidden activations dropped",
    "mlp24": "training step, 24 layers of 512, batch 128, Adam, mean squared error",
    "transformer": "training step of a decoder of 12 layers, width 128, 8 x 64 tokens, Adam",
    "dispatch": "what a call costs: an eager add of 4x4, with a tape, compiled, of ten structures",
    "loops": "a million iterations over a scalar; a recurrent net of 64 steps, and its gradient",
    "gemm": "matrix products, m x n x k, of float32 and float64, transposed, in batches",
    "long_sums": "matrix products of few results, each the sum of many terms",
    "bfloat16": "matrix products of bfloat16",
    "adam": "Adam's update of 10 million parameters",
    **functions.ABOUT,
}
