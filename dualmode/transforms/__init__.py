"""Functions of functions: derivatives, custom derivatives, recomputation."""

from .custom import custom_gradient
from .pushforward import jacfwd, jvp
from .recompute import remat
from .reverse import grad, hessian, hvp, jacobian, jacrev, value_and_grad, vjp

__all__ = [
    "custom_gradient",
    "grad",
    "hessian",
    "hvp",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jvp",
    "remat",
    "value_and_grad",
    "vjp",
]
