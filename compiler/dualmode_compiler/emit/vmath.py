"""Vector math of our own: transcendental functions as expressions of core primitives.

The same expressions serve every vector width and every target, so the digits are the same on all.
Special values are selected; what few arguments need is computed apart (`rare.py`). Accuracy, over
all arguments: at most 2 ulp, and 4 ulp for pow.
"""

from __future__ import annotations

from collections.abc import Callable

from ..expr import Apply, Expr, cast
from ..spec import float32
from .vmath_exp import cosh, erf, exp, expm1, sigmoid, sinh, softplus, tanh
from .vmath_log import log, log1p, log2, log10
from .vmath_pow import power
from .vmath_trig import atan, atan2, cos, sin, tan

EXPANSIONS: dict[str, Callable[..., Expr]] = {
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "log2": log2,
    "log10": log10,
    "sin": sin,
    "cos": cos,
    "tan": tan,
    "sinh": sinh,
    "cosh": cosh,
    "tanh": tanh,
    "erf": erf,
    "pow": power,
    "atan": atan,
    "atan2": atan2,
    "sigmoid": sigmoid,
    "softplus": softplus,
}


def expand(x: Expr) -> Expr:
    """`x` itself, or what it is in core primitives if it applies one of `EXPANSIONS`.

    Arguments are left as they are. The half types are computed in float32.

    Raises:
        TypeError: the function is not defined on the argument's type.
    """
    expansion = EXPANSIONS.get(x.fn) if isinstance(x, Apply) else None
    if expansion is None:
        return x
    assert isinstance(x, Apply)
    if not (x.dtype.is_floating or (x.fn == "pow" and x.dtype.is_integer)):
        raise TypeError(f"{x.fn}({', '.join(a.dtype.name for a in x.args)}) is not defined")
    if x.dtype.is_floating and x.dtype.itemsize == 2:
        return cast(expansion(*(cast(a, float32) for a in x.args)), x.dtype)
    return expansion(*x.args)
