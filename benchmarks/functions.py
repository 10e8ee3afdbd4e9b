"""Pure functions of arrays: inputs, what they have to move, and the cases that are measured.

Each library has a table of the same functions, `FUNCTIONS` in `functions_*.py`, by the names that
are used here. They take the arrays and the options as keywords.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from .workloads import Array, Workload


class Input(NamedTuple):
    """An array to be made. "positive" numbers are at least 0.1; "index" is of int32 below `bound`;
    "ones" are for parameters whose first value that is."""

    shape: tuple[int, ...]
    kind: Literal["normal", "positive", "index", "ones", "zeros"] = "normal"
    bound: int = 0
    dtype: str = "float32"

    def make(self, random: np.random.Generator) -> Array:
        match self.kind:
            case "normal":
                return random.standard_normal(self.shape, np.float32).astype(self.dtype)
            case "positive":
                return (random.random(self.shape, np.float32) * 4 + 0.1).astype(self.dtype)
            case "index":
                return random.integers(0, self.bound, self.shape, dtype=np.int32)
            case "ones":
                return np.ones(self.shape, self.dtype)
            case "zeros":
                return np.zeros(self.shape, self.dtype)

    @property
    def nbytes(self) -> int:
        return (
            math.prod(self.shape) * np.dtype(self.dtype if self.kind != "index" else "i4").itemsize
        )


@dataclass(frozen=True)
class Pure(Workload):
    """One call of a function on arrays.

    Attributes:
        op: its name in the tables `FUNCTIONS`.
        inputs: its arguments.
        options: keywords, as pairs.
        result: bytes of its results.
        flops: arithmetic operations for each element of the first input; exp counts as one. 0
            where arithmetic is not what it does.
        reads: bytes that have to be read; those of the inputs unless it needs other ones.
    """

    op: str = ""
    inputs: tuple[Input, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    result: int = 0
    flops: float = 0.0
    reads: int = -1

    def data(self) -> tuple[Array, ...]:
        random = np.random.default_rng(0)
        return tuple(i.make(random) for i in self.inputs)

    @property
    def work(self) -> float:
        return self.flops * math.prod(self.inputs[0].shape)

    @property
    def constant(self) -> bool:
        return True

    @property
    def moved(self) -> float:
        """Bytes: every input read once, every result written once."""
        return self.result + (sum(i.nbytes for i in self.inputs) if self.reads < 0 else self.reads)


class _Along(NamedTuple):
    """A vector along an axis of a matrix; indices are of its columns."""

    axis: int
    kind: Literal["index", "ones", "zeros"]

    def of(self, shape: tuple[int, int]) -> Input:
        return Input((shape[self.axis],), self.kind, shape[1])


def with_options(function: Callable[..., Any], workload: Pure) -> Callable[..., Any]:
    """`function` of exactly the arrays, as a user would write it."""
    options = dict(workload.options)
    match len(workload.inputs):
        case 1:
            return lambda x: function(x, **options)
        case 2:
            return lambda x, y: function(x, y, **options)
        case 3:
            return lambda x, y, z: function(x, y, z, **options)
    raise TypeError(workload)


SIZES = {"1e3": 1_000, "1e5": 100_000, "1e7": 10_000_000}
# rows x columns, and cubes, of about as many elements
PLANES = {"1e3": (25, 40), "1e5": (250, 400), "1e7": (2500, 4000)}
CUBES = {"1e3": (10, 10, 10), "1e5": (40, 50, 50), "1e7": (200, 250, 200)}
MATH = ("exp", "log", "tanh", "sigmoid", "erf", "sin", "cos", "pow")
ROWS = (16_384, 1024)  # 64 MiB: more than the caches hold
FEW_ROWS = (256, 128)
EAGER_SHAPES = ((4, 4), (64, 256), (1000, 1000))


def _math(op: str, size: str) -> Pure:
    n = SIZES[size]
    kind = "positive" if op in ("log", "pow") else "normal"
    inputs = (Input((n,), kind), Input((n,))) if op == "pow" else (Input((n,), kind),)
    without = ("numpy",) if op == "erf" else ()
    return Pure(f"{op} {size}", share=0.1, without=without, op=op, inputs=inputs, result=4 * n)


def _reductions(size: str) -> tuple[Pure, ...]:
    shape, axes = CUBES[size], {"all": None, "first": 0, "middle": 1, "last": 2}
    n = math.prod(shape)
    return tuple(
        Pure(
            f"{op} {label} {size}",
            share=0.1,
            op=op,
            inputs=(Input(shape),),
            options=(("axis", axis),),
            result=4 if axis is None else 4 * n // shape[axis],
        )
        for op, axes_of in (("sum", axes), ("max", {"last": 2}), ("argmax", {"last": 2}))
        for label, axis in axes_of.items()
    )


def _movements(size: str) -> tuple[Pure, ...]:
    n, (rows, columns) = SIZES[size], PLANES[size]
    plane, half, picks = Input((rows, columns)), Input((rows, columns // 2)), max(rows // 2, 1)
    index = Input((picks,), "index", rows)
    cube = Input(CUBES[size])

    def case(
        label: str, op: str, *inputs: Input, reads: int = -1, result: int = 4 * n, **options: Any
    ) -> Pure:
        return Pure(
            f"{label} {size}", share=0.1, op=op, inputs=inputs, options=tuple(options.items()),
            reads=reads, result=result,
        )  # fmt: skip

    taken = 4 * picks * columns
    return (
        case("transpose", "transpose", plane, axes=(1, 0)),
        case("transpose 0213", "transpose", Input((4, *_split(rows, columns))), axes=(0, 2, 1, 3)),
        case("concat last", "concat", half, half, axis=1),
        case("concat first", "concat", half, half, axis=0),
        case("gather rows", "gather", plane, index, reads=taken + 4 * picks, result=taken),
        case("gather elements", "gather", Input((n,)), Input((n,), "index", n)),
        case("scatter-add rows", "scatter_add", plane, index, Input((picks, columns))),
        case(
            "scatter-add elements",
            "scatter_add",
            Input((n // 10,)),
            Input((n,), "index", n // 10),
            Input((n,)),
            result=4 * n // 10,
        ),
        case("cumsum last", "cumsum", plane, axis=1),
        case("cumsum first", "cumsum", plane, axis=0),
        case("cumsum one axis", "cumsum", Input((n,)), axis=0),
        case("flip cube", "transpose", cube, axes=(2, 1, 0)),
    )


def _split(rows: int, columns: int) -> tuple[int, int, int]:
    """As many elements as a quarter of rows x columns, as for attention heads: t, heads, width."""
    width = 32 if rows * columns >= 100_000 else 10
    return max(rows * columns // (4 * 5 * width), 1), 5, width


def _rows(op: str, flops: int, *others: _Along, extra: int = 0) -> tuple[Pure, ...]:
    """Over rows of a matrix that is larger than the caches, and of one that is not."""
    cases = (op, ROWS, 0.5), ("in cache", FEW_ROWS, 0.25)
    return tuple(
        Pure(
            name,
            share=share,
            op=op,
            inputs=(Input(shape), *(i.of(shape) for i in others)),
            result=4 * math.prod(shape) + extra,
            flops=flops,
        )
        for name, shape, share in cases
    )


def _eager(rows: int, columns: int) -> tuple[Pure, ...]:
    """What is fast enough only where neither dispatch nor kernels take long."""
    plane, n = Input((rows, columns)), rows * columns

    def case(label: str, op: str, *others: Input, result: int = n, **options: Any) -> Pure:
        return Pure(
            f"{label} {rows}x{columns}", kinds=("eager",), share=0.1, op=op,
            inputs=(plane, *others), options=tuple(options.items()), result=4 * result,
        )  # fmt: skip

    scale, offset = Input((columns,), "ones"), Input((columns,), "zeros")
    labels = Input((rows,), "index", columns)
    return (
        case("sum all", "sum", result=1, axis=None),
        case("sum first", "sum", result=columns, axis=0),
        case("sum last", "sum", result=rows, axis=1),
        case("max last", "max", result=rows, axis=1),
        case("softmax", "softmax"),
        case("layer_norm", "layer_norm", scale, offset),
        case("cross_entropy", "cross_entropy", labels, result=n + 1),
        case("matmul", "matmul", Input((columns, rows)), result=rows * rows),
    )


FUNCTIONS: dict[str, tuple[Pure, ...]] = {
    "chain": (
        *(
            Pure(size, share=0.25, op="chain", inputs=(Input((n,)),) * 2, result=4 * n, flops=5)
            for size, n in SIZES.items()
        ),
        Pure(
            "a * x + b, 1e7",
            share=0.25,
            op="axpy",
            inputs=(Input((10**7,)),),
            result=4 * 10**7,
            flops=2,
        ),
    ),
    "softmax": _rows("softmax", 5),
    "layer_norm": _rows("layer_norm", 8, _Along(1, "ones"), _Along(1, "zeros")),
    "cross_entropy": _rows("cross_entropy", 6, _Along(0, "index"), extra=4),
    "math": tuple(_math(op, size) for op in MATH for size in SIZES),
    "reductions": tuple(case for size in SIZES for case in _reductions(size)),
    "movement": tuple(case for size in SIZES for case in _movements(size)),
    "eager": tuple(case for shape in EAGER_SHAPES for case in _eager(*shape)),
}

ABOUT = {
    "chain": "relu(x * y + 0.5) * x - y, elementwise; a * x + b over 1e7",
    "softmax": "softmax of rows, float32[16384, 1024] and one that fits in a cache",
    "layer_norm": "layer normalisation of rows with scale and offset, the same sizes",
    "cross_entropy": "softmax cross-entropy of integer labels: the mean, and its gradient",
    "math": f"{', '.join(MATH)} over 1e3, 1e5 and 1e7 numbers of float32",
    "reductions": "sum over all axes, the first, a middle and the last one; max and argmax",
    "eager": "eager sums, softmax, normalization, loss and product of 4x4, 64x256 and 1000x1000",
    "movement": "transposes, concatenation, gather, scatter-add and cumulative sums",
}
