"""Optimizers, by Keras's names and formulas, made of small pure update rules that compose.

A rule is a pair of functions, as in Optax: `init(param)` gives the slots that it keeps for a
parameter, `update(delta, slots, param, step)` turns a gradient into the change of the parameter and
gives the new slots. `Optimizer` keeps the slots in Variables and applies a rule to all parameters.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import dualmode as dm

from . import config
from .eager import EAGER
from .errors import ShapeError
from .op import no_tapes, state
from .tracer import init_scope
from .trackable import Trackable, variables_of
from .variable import Variable

Slots = dict[str, Any]
Update = Callable[[list[Variable], list[Any]], None]
Rate = float | Variable | Callable[[Any], Any]


class Rule(NamedTuple):
    """How a gradient becomes the change of one parameter.

    Attributes:
        init: `param -> slots`: arrays by name, the first values of what the rule remembers.
        update: `(delta, slots, param, step) -> (delta, slots)`, written with ops: `delta` is the
            gradient or what an earlier rule made of it, `step` an int64 scalar, 1 at first.
    """

    init: Callable[[Any], Slots]
    update: Callable[[Any, Slots, Any, Any], tuple[Any, Slots]]


def chain(*rules: Rule) -> Rule:
    """The rules one after the other: each takes the delta of the one before.

    Raises:
        ValueError: when applied, if two rules name a slot alike.
    """

    def init(param: Any) -> Slots:
        slots: Slots = {}
        for rule in rules:
            for name, value in rule.init(param).items():
                if name in slots:
                    raise ValueError(f"chain: two rules keep a slot named {name!r}")
                slots[name] = value
        return slots

    def update(delta: Any, slots: Slots, param: Any, step: Any) -> tuple[Any, Slots]:
        changed: Slots = {}
        for rule in rules:
            delta, new = rule.update(delta, slots, param, step)
            changed |= new
        return delta, changed

    return Rule(init, update)


def scale_by_learning_rate(learning_rate: Rate) -> Rule:
    """delta <- -learning_rate * delta."""

    def update(delta: Any, slots: Slots, param: Any, step: Any) -> tuple[Any, Slots]:
        return -_rate(learning_rate, step, delta.dtype) * delta, {}

    return Rule(lambda param: {}, update)


def trace(momentum: float, nesterov: bool = False) -> Rule:
    """velocity <- momentum * velocity + delta (Polyak 1964); delta <- velocity, or for `nesterov`
    delta <- momentum * velocity + delta (Sutskever et al. 2013)."""

    def update(delta: Any, slots: Slots, param: Any, step: Any) -> tuple[Any, Slots]:
        velocity = momentum * slots["velocity"] + delta
        ahead = momentum * velocity + delta if nesterov else velocity
        return ahead, {"velocity": velocity}

    return Rule(lambda param: {"velocity": _zeros(param)}, update)


def sgd(learning_rate: Rate = 0.01, momentum: float = 0.0, nesterov: bool = False) -> Rule:
    """Gradient descent, with momentum if that is not 0."""
    descent = scale_by_learning_rate(learning_rate)
    return chain(descent, trace(momentum, nesterov)) if momentum else descent


def adam(
    learning_rate: Rate = 1e-3, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7
) -> Rule:
    """Adam (Kingma and Ba 2015), in the form before their section 2.1 that Keras computes: epsilon
    is added to the root of the uncorrected second moment.

    The corrections 1 - beta^t are computed as -expm1(t log beta), which keeps all digits for
    small t.
    """

    def init(param: Any) -> Slots:
        return {"m": _zeros(param), "v": _zeros(param)}

    def update(delta: Any, slots: Slots, param: Any, step: Any) -> tuple[Any, Slots]:
        t = dm.astype(step, delta.dtype)
        rate = _rate(learning_rate, step, delta.dtype)
        alpha = rate * dm.sqrt(_one_minus_power(beta_2, t)) / _one_minus_power(beta_1, t)
        m = slots["m"] + (delta - slots["m"]) * (1 - beta_1)
        v = slots["v"] + (dm.square(delta) - slots["v"]) * (1 - beta_2)
        return -alpha * m / (dm.sqrt(v) + epsilon), {"m": m, "v": v}

    return Rule(init, update)


class Optimizer(Trackable):
    """Applies a rule to parameters. Its state is found by checkpoints: `iterations`, the learning
    rate, and the slots by the order in which their parameters first appeared.

    Args:
        rule: what to do with each gradient, e.g. `chain(...)` or `adam(...)`.
        learning_rate: what the rule uses, if it is to be seen and set as `learning_rate`.
        name: for messages.

    Attributes:
        iterations: int64 scalar Variable, the number of updates so far.
        slots: the slots of each parameter, by name.
    """

    def __init__(self, rule: Rule, learning_rate: Rate | None = None, name: str = "") -> None:
        self.name = name or type(self).__name__
        counter = f"{self.name}/iterations"
        self.iterations = Variable(0, trainable=False, name=counter, dtype="int64")
        self._learning_rate = learning_rate
        self.slots: list[dict[str, Variable]] = []
        self._rule = rule
        self._known = _Known()

    @property
    def learning_rate(self) -> Any:
        """The learning rate: a Variable, or the schedule. Set it to a number to change it."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if not isinstance(self._learning_rate, Variable):
            raise TypeError(
                f"{self.name}: the learning rate is not a Variable but "
                f"{type(self._learning_rate).__name__}; create the optimizer with a number"
            )
        self._learning_rate.assign(value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, {len(self.slots)} variables>"

    @property
    def variables(self) -> list[Variable]:
        """The state, in order of creation."""
        return variables_of(self)

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Variable]]) -> Variable:
        """Update each variable by its gradient; pairs whose gradient is None are left out.

        Returns:
            `iterations`.

        Raises:
            ValueError: there is no pair, or no gradient at all.
            ShapeError: a gradient has not the shape of its variable.
            TypeError: a pair holds no Variable.
        """
        grads, variables = _checked(self.name, grads_and_vars)
        self.build(variables)
        with no_tapes():
            if config.jit and state.mode is EAGER:
                self._known.function(variables, self._apply)(grads)
            else:
                self._apply(variables, grads)
        return self.iterations

    def build(self, variables: Iterable[Variable]) -> None:
        """Create the slots of variables that have none yet."""
        for variable in variables:
            if not self._known.add(variable):
                continue
            with init_scope():
                slots = {
                    slot: Variable(value, trainable=False, name=f"{variable.name}/{slot}")
                    for slot, value in self._rule.init(variable).items()
                }
            self.slots = [*self.slots, slots]

    def _apply(self, variables: list[Variable], grads: list[Any]) -> None:
        """One update, with ops: what runs in plain eager mode and what is compiled."""
        step = self.iterations.assign_add(1).read_value()
        for variable, grad in zip(variables, grads, strict=True):
            kept = self.slots[self._known.number(variable)]
            work = _working_dtype(variable)
            slots = {name: slot.read_value() for name, slot in kept.items()}
            delta, new = self._rule.update(dm.astype(grad, work), slots, variable, step)
            variable.assign(dm.astype(dm.astype(variable, work) + delta, variable.dtype))
            for name, value in new.items():
                kept[name].assign(value)


class SGD(Optimizer):
    """Gradient descent: w <- w - learning_rate g.

    With momentum (Polyak 1964): velocity <- momentum velocity - learning_rate g;
    w <- w + velocity, or for Nesterov's form w <- w + momentum velocity - learning_rate g.

    Args:
        learning_rate: a number, a scalar Variable, or a schedule: a function of `iterations`.
        momentum: in [0, 1].
        nesterov: whether momentum is Nesterov's.
        name: for messages.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        learning_rate: Rate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        name: str = "SGD",
    ) -> None:
        if not 0 <= momentum <= 1:
            raise ValueError(f"SGD: momentum must be in [0, 1], got {momentum!r}")
        rate = _rate_holder(learning_rate, name)
        super().__init__(sgd(rate, momentum, nesterov), rate, name)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): steps scaled by running means of the gradient and its square.

    Args:
        learning_rate: a number, a scalar Variable, or a schedule: a function of `iterations`.
        beta_1: decay of the mean of gradients, in [0, 1).
        beta_2: decay of the mean of their squares, in [0, 1).
        epsilon: keeps the divisor away from 0.
        name: for messages.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str = "Adam",
    ) -> None:
        for label, beta in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= beta < 1:
                raise ValueError(f"Adam: {label} must be in [0, 1), got {beta!r}")
        rate = _rate_holder(learning_rate, name)
        super().__init__(adam(rate, beta_1, beta_2, epsilon), rate, name)


class _Known:
    """The parameters seen so far, by identity, and the compiled updates of sets of them. Being no
    Trackable, it hides from checkpoints that the optimizer refers to the model's variables."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._variables: list[Variable] = []  # kept alive, so that an id is never used again
        self._functions: dict[tuple[int, ...], Callable[[list[Any]], None]] = {}

    def add(self, variable: Variable) -> bool:
        """True the first time."""
        if id(variable) in self._numbers:
            return False
        self._numbers[id(variable)] = len(self._variables)
        self._variables.append(variable)
        return True

    def number(self, variable: Variable) -> int:
        return self._numbers[id(variable)]

    def function(self, variables: list[Variable], apply: Update) -> Callable[[list[Any]], None]:
        """`apply(variables, grads)` as one compiled function of the gradients."""
        key = tuple(map(id, variables))
        if key not in self._functions:
            self._functions[key] = dm.function(lambda grads: apply(variables, grads))
        return self._functions[key]


def _checked(
    name: str, grads_and_vars: Iterable[tuple[Any, Variable]]
) -> tuple[list[Any], list[Variable]]:
    """The gradients that are not None and their variables."""
    pairs = list(grads_and_vars)
    if not pairs:
        raise ValueError(f"{name}.apply_gradients: no variables; were the layers called yet?")
    missing: list[str] = []
    grads: list[Any] = []
    variables: list[Variable] = []
    for grad, variable in pairs:
        if not isinstance(variable, Variable):
            raise TypeError(
                f"{name}.apply_gradients: expected pairs (gradient, Variable), the second is a "
                f"{type(variable).__name__}"
            )
        if grad is None:
            missing.append(variable.name)
            continue
        if tuple(grad.shape) != variable.shape:
            raise ShapeError(
                f"{name}.apply_gradients: the gradient of {variable.name} has shape "
                f"{list(grad.shape)}, the variable {list(variable.shape)}"
            )
        grads.append(grad)
        variables.append(variable)
    if not grads:
        raise ValueError(
            f"{name}.apply_gradients: no variable has a gradient: {', '.join(missing)}; is the "
            "loss computed from them, inside of the tape?"
        )
    if missing:
        warnings.warn(f"{name}: no gradient for {', '.join(missing)}: left as is", stacklevel=3)
    return grads, variables


def _rate_holder(learning_rate: Rate, name: str) -> Rate:
    """A number as a float64 Variable, so that compiled steps see it change; others as they are."""
    if isinstance(learning_rate, Variable) or callable(learning_rate):
        return learning_rate
    if isinstance(learning_rate, str) or not learning_rate >= 0:
        raise ValueError(f"{name}: learning_rate is a number of at least 0, got {learning_rate!r}")
    full = f"{name}/learning_rate"
    return Variable(float(learning_rate), trainable=False, name=full, dtype="float64")


def _rate(learning_rate: Rate, step: Any, dtype: Any) -> Any:
    """The learning rate for this update; schedules count from 0, as in Keras."""
    if callable(learning_rate) and not isinstance(learning_rate, Variable):
        learning_rate = learning_rate(step - 1)
    return dm.astype(dm.asarray(learning_rate), dtype)


def _one_minus_power(beta: float, t: Any) -> Any:
    return -dm.expm1(t * (math.log(beta) if beta else -math.inf))


def _working_dtype(param: Any) -> Any:
    """Half precision parameters are updated in float32."""
    return dm.float32 if param.dtype.itemsize < 4 else param.dtype


def _zeros(param: Any) -> Any:
    return dm.zeros(param.shape, dtype=_working_dtype(param))
