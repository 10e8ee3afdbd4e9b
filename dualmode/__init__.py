"""dualmode: one op set, two modes. Import as `import dualmode as dm`.

The same code runs eagerly or, under `@dm.function`, compiled. The main namespace follows the Python
array API standard (2024.12); the rest has TensorFlow 2's and Keras' names.
"""

from __future__ import annotations

import sys as _sys
from builtins import bool as _bool
from importlib import import_module as _import_module
from math import e, inf, nan, pi
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from dualmode_compiler.spec import (
    DType,
    bfloat16,
    bool_,
    complex64,
    complex128,
    dtype,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)

from . import autograph, config, errors
from .autograph.iterables import Range as range  # noqa: N813 - called like the array API's
from .control import cond, fori_loop, map_fn, scan, switch_case, while_loop
from .eager import Eager as _Eager
from .forward import ForwardAccumulator
from .function import function, run_functions_eagerly
from .host import numpy_function, py_function
from .op import state as _state
from .ops.conversion import astype, cast, identity, stop_gradient
from .ops.creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    full,
    full_like,
    linspace,
    meshgrid,
    ones,
    ones_like,
    tri,
    tril,
    triu,
    zeros,
    zeros_like,
)
from .ops.cumulative import cumulative_sum
from .ops.effects import print_ as print
from .ops.elementwise import (
    abs,
    add,
    divide,
    floor_divide,
    multiply,
    negative,
    positive,
    pow,
    remainder,
    sign,
    square,
    subtract,
)
from .ops.indexing import (
    gather,
    nonzero,
    one_hot,
    take,
    take_along_axis,
)
from .ops.joining import concat, repeat, roll, split, stack, tile, unstack
from .ops.limits import clip, maximum, minimum
from .ops.linalg import matmul, outer, tensordot, vecdot
from .ops.logic import (
    bitwise_and,
    bitwise_invert,
    bitwise_left_shift,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    equal,
    greater,
    greater_equal,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    not_equal,
    where,
)
from .ops.math import (
    atan,
    atan2,
    ceil,
    cos,
    cosh,
    erf,
    exp,
    expm1,
    floor,
    gelu,
    leaky_relu,
    log,
    log1p,
    log2,
    log10,
    reciprocal,
    relu,
    round,
    rsqrt,
    sigmoid,
    silu,
    sin,
    sinh,
    softplus,
    sqrt,
    tan,
    tanh,
    trunc,
)
from .ops.normalization import layer_norm
from .ops.parts import conj, imag, real
from .ops.reduction import (
    all,
    any,
    argmax,
    argmin,
    max,
    mean,
    min,
    prod,
    std,
    sum,
    var,
)
from .ops.shape import (
    broadcast_arrays,
    broadcast_to,
    expand_dims,
    flatten,
    matrix_transpose,
    moveaxis,
    permute_dims,
    reshape,
    squeeze,
    swapaxes,
    transpose,
)
from .ops.slicing import flip, pad
from .ops.softmax import log_softmax, logsumexp, softmax
from .signature import TensorSpec
from .tape import GradientTape
from .tensor import Tensor
from .tracer import init_scope
from .transforms import (
    custom_gradient,
    grad,
    hessian,
    hvp,
    jacfwd,
    jacobian,
    jacrev,
    jvp,
    remat,
    value_and_grad,
    vjp,
)
from .variable import Variable
from .vmap import vectorized_map, vmap

if _TYPE_CHECKING:
    from . import data, datasets, debugging, losses, metrics, nn, optim, random, train

__all__ = [
    "DType",
    "ForwardAccumulator",
    "GradientTape",
    "Tensor",
    "TensorSpec",
    "Variable",
    "abs",
    "add",
    "all",
    "any",
    "arange",
    "argmax",
    "argmin",
    "asarray",
    "astype",
    "atan",
    "atan2",
    "autograph",
    "bfloat16",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "bool",
    "bool_",
    "broadcast_arrays",
    "broadcast_to",
    "cast",
    "ceil",
    "clip",
    "complex64",
    "complex128",
    "concat",
    "cond",
    "config",
    "conj",
    "constant",
    "cos",
    "cosh",
    "cumulative_sum",
    "custom_gradient",
    "data",
    "datasets",
    "debugging",
    "divide",
    "dtype",
    "e",
    "empty",
    "empty_like",
    "equal",
    "erf",
    "errors",
    "executing_eagerly",
    "exp",
    "expand_dims",
    "expm1",
    "eye",
    "flatten",
    "flip",
    "float16",
    "float32",
    "float64",
    "floor",
    "floor_divide",
    "fori_loop",
    "full",
    "full_like",
    "function",
    "gather",
    "gelu",
    "grad",
    "greater",
    "greater_equal",
    "hessian",
    "hvp",
    "identity",
    "imag",
    "inf",
    "init_scope",
    "int8",
    "int16",
    "int32",
    "int64",
    "isfinite",
    "isinf",
    "isnan",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jvp",
    "layer_norm",
    "leaky_relu",
    "less",
    "less_equal",
    "linspace",
    "log",
    "log1p",
    "log2",
    "log10",
    "log_softmax",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "logsumexp",
    "losses",
    "map_fn",
    "matmul",
    "matrix_transpose",
    "max",
    "maximum",
    "mean",
    "meshgrid",
    "metrics",
    "min",
    "minimum",
    "moveaxis",
    "multiply",
    "nan",
    "negative",
    "newaxis",
    "nn",
    "nonzero",
    "not_equal",
    "numpy_function",
    "one_hot",
    "ones",
    "ones_like",
    "optim",
    "outer",
    "pad",
    "permute_dims",
    "pi",
    "positive",
    "pow",
    "power",
    "print",
    "prod",
    "py_function",
    "random",
    "range",
    "real",
    "reciprocal",
    "relu",
    "remainder",
    "remat",
    "repeat",
    "reshape",
    "roll",
    "round",
    "rsqrt",
    "run_functions_eagerly",
    "scan",
    "sigmoid",
    "sign",
    "silu",
    "sin",
    "sinh",
    "softmax",
    "softplus",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "stop_gradient",
    "subtract",
    "sum",
    "swapaxes",
    "switch_case",
    "take",
    "take_along_axis",
    "tan",
    "tanh",
    "tensor",
    "tensordot",
    "tile",
    "train",
    "transpose",
    "tri",
    "tril",
    "triu",
    "trunc",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "unstack",
    "value_and_grad",
    "var",
    "vecdot",
    "vectorized_map",
    "vjp",
    "vmap",
    "where",
    "while_loop",
    "zeros",
    "zeros_like",
]

__version__ = "0.1.0"

bool = bool_
constant = tensor = asarray
newaxis = None
power = pow

# modules that are imported when they are first used, to keep `import dualmode` short
_LAZY_MODULES = frozenset(
    ("data", "datasets", "debugging", "losses", "metrics", "nn", "optim", "random", "train")
)

# names in NumPy, TensorFlow, PyTorch and JAX of what has another name here, for messages
_ELSEWHERE = {
    **{f"reduce_{name}": name for name in ("sum", "mean", "max", "min", "prod", "any", "all")},
    **dict.fromkeys(("array", "convert_to_tensor", "from_numpy", "as_tensor"), "asarray"),
    **dict.fromkeys(("concatenate", "cat"), "concat"),
    **dict.fromkeys(("jit", "compile"), "function"),
    "absolute": "abs",
    "arctan": "atan",
    "arctan2": "atan2",
    "cumsum": "cumulative_sum",
    "keras": "nn",
    "mod": "remainder",
    "optimizers": "optim",
    "permute": "permute_dims",
    "reduce_logsumexp": "logsumexp",
    "reduce_std": "std",
    "reduce_variance": "var",
    "unsqueeze": "expand_dims",
}


def executing_eagerly() -> _bool:
    """True where ops are computed at once, False inside a function that is being traced."""
    return isinstance(_state.mode, _Eager)


def __dir__() -> list[str]:
    return sorted({*__all__, *(n for n in globals() if n.startswith("__"))})


def __getattr__(name: str) -> _Any:
    if name in _LAZY_MODULES:
        return _import_module(f".{name}", __name__)
    here = _ELSEWHERE.get(name)
    hint = "" if here is None else f"; it is dm.{here} here"
    message = f"module {__name__!r} has no attribute {name!r}{hint}"
    raise AttributeError(message, name=name, obj=_sys.modules[__name__])


errors.install_hook()
