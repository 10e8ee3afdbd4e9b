"""The parts of complex numbers: real, imag, conj.

The gradient of a real loss by a complex z = x + iy is dL/dx + i dL/dy, so that the gradient of a
holomorphic function is multiplied by the conjugate of its derivative, as in TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import spec as specs
from dualmode_compiler.spec import Spec

from ..op import Op, convert
from . import batch
from .rules import require_kinds

if TYPE_CHECKING:
    from ..tensor import Tensor


def _part_infer(x: Spec) -> Spec:
    require_kinds("real or imag", "c", x)
    return Spec(x.shape, specs.complex_part(x.dtype))


def _conj_infer(x: Spec) -> Spec:
    require_kinds("conj", "c", x)
    return x


def _as_complex(g: Tensor, x: Tensor, factor: complex) -> Tensor:
    from .elementwise import multiply  # the arithmetic is built on this module

    return multiply(g, convert(factor, x.dtype))


REAL = Op(
    "real",
    infer=_part_infer,
    kernel=lambda x: x.real.copy(),
    vjp=lambda g, y, x: (_as_complex(g, x, 1),),
    batch=batch.elementwise,
)


def real(x: Any) -> Tensor:
    """The real part of `x`; `x` itself where it is not complex."""
    x = convert(x)
    return REAL(x) if x.dtype.is_complex else x


IMAG = Op(
    "imag",
    infer=_part_infer,
    kernel=lambda x: x.imag.copy(),
    vjp=lambda g, y, x: (_as_complex(g, x, 1j),),
    batch=batch.elementwise,
)


def imag(x: Any) -> Tensor:
    """The imaginary part of complex `x`.

    Raises:
        DTypeError: `x` is not complex.
    """
    return IMAG(convert(x))


CONJ = Op(
    "conj",
    infer=_conj_infer,
    kernel=np.conj,
    vjp=lambda g, y, x: (CONJ(g),),
    batch=batch.elementwise,
)


def conj(x: Any) -> Tensor:
    """`x` with the imaginary part negated; `x` itself where it is not complex."""
    x = x if hasattr(x, "_value") else convert(x)
    return CONJ(x) if x.dtype.is_complex else x
