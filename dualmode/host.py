"""Python functions as ops: `py_function` and `numpy_function` call them when the code runs.

A call is an effect: it runs once per execution, in program order, in compiled code by a callback.
One op computes all results. A single result is the op's own value; several are packed, as bytes, in
one array, and taken out of it by ops without effects. So nothing outlives a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from dualmode_compiler.graph import running
from dualmode_compiler.records import dataclass
from dualmode_compiler.spec import Spec, uint8
from dualmode_compiler.spec import dtype as as_dtype

from . import errors, op
from .eager import to_array
from .errors import DTypeError, ShapeError
from .op import Op, convert
from .ops.conversion import strong
from .ops.rules import broadcast_shapes
from .tape import GradientTape
from .tensor import Operators, Tensor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, slots=True)
class HostCall:
    """What the ops of one `py_function` or `numpy_function` share.

    Attributes:
        kind: the name of the public function, for messages.
        func: the user's function.
        outs: shapes and dtypes of its results.
        single: True where `func` gives its one result rather than a list of results.
        tensors: True where `func` takes tensors, and is differentiable; False: arrays.
    """

    kind: str
    func: Callable[..., Any]
    outs: tuple[Spec, ...]
    single: bool
    tensors: bool

    @property
    def name(self) -> str:
        return f"{self.kind}: {getattr(self.func, '__name__', type(self.func).__name__)}"

    def offsets(self) -> list[int]:
        """Where each packed result starts; then, where the last one ends."""
        return [0, *accumulate(s.nbytes for s in self.outs)]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The results of `func`, checked. The arrays that it gets are its own."""
        copies = [a.copy() for a in arrays]
        with op.eagerly():
            given = [Tensor._wrap(a) for a in copies] if self.tensors else copies
            out = self._call(given)
        if not self.outs:
            return []
        results = [out] if self.single else self._several(out)
        return [
            self._result(x, spec, k)
            for k, (x, spec) in enumerate(zip(results, self.outs, strict=True))
        ]

    def _call(self, args: Sequence[Any]) -> Any:
        site = errors.user_site()
        saved, running.site = running.site, None  # errors inside `func` have lines of their own
        try:
            return self.func(*args)
        except Exception as error:
            error.add_note(f"  in {self.name}, called at {errors.describe_site(site)}")
            if getattr(error, "site", None) is None:
                error.site = site  # type: ignore[attr-defined]
            raise
        finally:
            running.site = saved

    def _several(self, out: Any) -> Sequence[Any]:
        count = len(out) if isinstance(out, list | tuple) else None
        if count != len(self.outs):
            came = f"{count}" if count is not None else f"a {type(out).__name__}"
            raise errors.locate(
                ValueError(f"{self.name} returned {came}; {len(self.outs)} results were declared")
            )
        return out

    def _result(self, x: Any, spec: Spec, index: int) -> Array:
        if isinstance(x, Operators):
            array = x.numpy()
        elif isinstance(x, np.ndarray | np.generic):
            array = np.asarray(x)
        else:
            array = self._plain(x, spec, index)
        what = self.name if self.single else f"{self.name}: result {index}"
        if array.dtype != spec.dtype.numpy:
            raise DTypeError(
                f"{what} is of {array.dtype}, but {spec} was declared; "
                f"return it as {spec.dtype} (as by .astype), or declare Tout={array.dtype}"
            )
        if array.shape != spec.shape:
            raise ShapeError(
                f"{what} is of shape {list(array.shape)}, but {spec} was declared; declare it by "
                f"Tout=dm.TensorSpec({list(array.shape)}, {spec.dtype.name!r})"
            )
        return array

    def _plain(self, x: Any, spec: Spec, index: int) -> Array:
        """A Python number, or nested lists of them, in the declared dtype if that can hold it."""
        if x is None:
            raise DTypeError(f"{self.name}: result {index} is None, but {spec} was declared")
        try:
            array = to_array(x)
        except DTypeError:  # too large for what it becomes by itself
            return to_array(x, spec.dtype)
        kinds = "biufc"
        fits = kinds.index(array.dtype.kind) <= kinds.index(spec.dtype.kind)
        return to_array(x, spec.dtype) if fits else array


# --- the ops --------------------------------------------------------------------------------------


def _infer(*_: Spec, call: HostCall) -> Spec:
    return call.outs[0] if len(call.outs) == 1 else Spec((call.offsets()[-1],), uint8)


def _kernel(*arrays: Array, call: HostCall) -> Array:
    results = call.run(arrays)
    if len(call.outs) == 1:
        return results[0].copy()
    return np.frombuffer(b"".join(a.tobytes() for a in results), np.uint8)


def _vjp(g: Tensor, y: Tensor, *xs: Tensor, call: HostCall) -> tuple[Tensor | None, ...]:
    return _pull_back(call, 0, g, xs)


def _result_infer(*_: Spec, call: HostCall, index: int) -> Spec:
    return call.outs[index]


def _result_kernel(packed: Array, *_: Array, call: HostCall, index: int) -> Array:
    offsets, spec = call.offsets(), call.outs[index]
    part = packed[offsets[index] : offsets[index + 1]]
    return part.copy().view(spec.dtype.numpy).reshape(spec.shape)


def _result_vjp(
    g: Tensor, y: Tensor, packed: Tensor, *xs: Tensor, call: HostCall, index: int
) -> tuple[Tensor | None, ...]:
    return None, *_pull_back(call, index, g, xs)


HOST = Op("host_call", infer=_infer, kernel=_kernel, vjp=_vjp, effect=True)
# one of several results; reads the inputs of the call as well, for its gradient
RESULT = Op("host_result", infer=_result_infer, kernel=_result_kernel, vjp=_result_vjp)


def _pull_back(
    call: HostCall, index: int, g: Tensor, xs: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Gradients of result `index`: a call that runs `func` once more, under a tape."""
    wanted = [k for k, x in enumerate(xs) if x.dtype.is_inexact]
    if not (call.tensors and wanted):
        return (None,) * len(xs)

    def gradient(g: Tensor, *xs: Tensor) -> list[Tensor]:
        sources = [xs[k] for k in wanted]
        with GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            out = call.func(*xs)
            target = convert(out if call.single else out[index])
        return tape.gradient(target, sources, g, unconnected_gradients="zero")

    back = HostCall(call.name, gradient, tuple(xs[k].spec for k in wanted), False, True)
    found = iter(_apply(back, [g, *xs]))
    return tuple(next(found) if k in wanted else None for k in range(len(xs)))


def _apply(call: HostCall, xs: Sequence[Tensor]) -> list[Tensor]:
    out = HOST(*xs, call=call)
    if len(call.outs) == 1:
        return [out]
    return [RESULT(out, *xs, call=call, index=k) for k in range(len(call.outs))]


# --- the public functions -------------------------------------------------------------------------


def py_function(func: Callable[..., Any], inp: Sequence[Any], Tout: Any, name: Any = None) -> Any:  # noqa: N803
    """Call `func` with eager tensors each time the code runs, in a `@dm.function` as well.

    It runs once per execution, in the order of the program. It sees only the tensors that are
    passed to it change: what it reads of variables inside a `@dm.function` are their values before
    the call of that function.

    Gradients go through the inputs, to every order: `func` is run again under a tape. It should
    compute with ops of `dm`. A loop of an unknown number of iterations, in a branch, a `remat` or
    another loop, is run again as well, and so is a call in there; one without inputs is an error
    then.

    Args:
        func: takes one eager tensor per input; gives a tensor, array or number, or a list of them.
        inp: the inputs, a list of what converts to tensors.
        Tout: what `func` returns: a `dm.TensorSpec`; or a dtype, which stands for a result of the
            shape that the inputs broadcast to; or a list of these, where `func` returns a list.
            `[]` where the result is not wanted.
        name: not used; for TensorFlow's signature.

    Returns:
        A tensor, or a list of them, as `Tout`.

    Raises:
        DTypeError, ShapeError: when run: a result is of another dtype or shape than declared.
        ValueError: the sizes of a result are not known, or it returned another number of results.
    """
    return _host("py_function", func, inp, Tout, tensors=True)


def numpy_function(
    func: Callable[..., Any],
    inp: Sequence[Any],
    Tout: Any,  # noqa: N803
    name: Any = None,
) -> Any:
    """Call `func` with NumPy arrays each time the code runs; no gradients go through it.

    Arguments, result and errors are those of `py_function`, but that `func` takes one array per
    input. The arrays are copies: `func` may write to them.
    """
    return _host("numpy_function", func, inp, Tout, tensors=False)


def _host(kind: str, func: Any, inp: Any, result: Any, tensors: bool) -> Any:
    if not callable(func):
        raise errors.locate(TypeError(f"{kind}: func is not callable: {func!r}"))
    if not isinstance(inp, list | tuple):
        raise errors.locate(
            TypeError(f"{kind}: inp is a list of tensors, not a {type(inp).__name__}; write [x]")
        )
    xs = [strong(x) for x in inp]
    single = not isinstance(result, list | tuple)
    declared = [result] if single else result
    outs = tuple(_declared(kind, d, xs) for d in declared)
    found = _apply(HostCall(kind, func, outs, single, tensors), xs)
    return found[0] if single else type(result)(found)


def _declared(kind: str, given: Any, xs: Sequence[Tensor]) -> Spec:
    shape = getattr(given, "shape", None)
    if isinstance(shape, tuple | list) and hasattr(given, "dtype"):  # no dtype of NumPy's
        if None in shape:
            raise errors.locate(
                ValueError(
                    f"{kind}: Tout={given} leaves a size open; compiled code has to know the sizes "
                    "of results: give numbers, as from x.shape"
                )
            )
        return Spec(tuple(shape), as_dtype(given.dtype))
    return Spec(broadcast_shapes(kind, *(x.spec for x in xs)), as_dtype(given))
