"""The gradient of a loop: another loop, through its iterations from last to first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dualmode_compiler.graph import Graph
from dualmode_compiler.spec import Spec, int64

from . import op
from .graphs import Gradient, Grads, Loop, extract, loop, replay
from .ops import creation, elementwise
from .tensor import Tensor
from .tracer import Tracer


class LoopGradient:
    """One call of a loop's vjp.

    The loop runs backwards over what was saved of each iteration. It carries the gradients of the
    carried values and sums those of the fixed values; it stacks those of the scanned entries.

    Attributes:
        moving: the carried values that have gradients: all with a floating dtype.
        fixed, scanned: the parameters of the body, of either kind, that get a gradient.
        saved: the body's nodes that are saved of each iteration.
        entries, constants: the scanned and the fixed parameters that the gradient reads.
    """

    def __init__(self, what: Loop, inputs: Sequence[Tensor], grads: Grads) -> None:
        self.what, self.inputs, self.body = what, inputs, what.body
        ends = what.carried + what.scanned
        self.moving = [k for k in range(what.carried) if inputs[k].dtype.is_inexact]
        self.of_carried = [grads[k] for k in self.moving]
        self.of_stacked = [g for g in grads[what.carried :] if g is not None]
        given = [k in self.moving for k in range(what.carried)]
        self.gradient = Gradient(self.body, [*given, *(g is not None for g in grads[len(given) :])])
        found = [k for k, g in enumerate(self.gradient.grads) if g is not None]
        self.scanned = [k for k in found if what.carried <= k < ends]
        self.fixed = [k for k in found if k >= ends]
        params = self.body.params
        reads = self.gradient.reads()
        self.entries = [n for n in params[what.carried : ends] if n in reads]
        self.constants = [n for n in params[ends:] if n in reads]
        kept = {*self.entries, *self.constants}
        self.saved = [n for n in reads if n not in kept]
        if what.cond is not None and not self.saved:  # a stack tells the number of iterations
            self.saved = [self.body.const(np.empty(0, np.uint8))]
        if what.cond is None and what.length is None and not self.saved:
            counting = next(k for k, x in enumerate(inputs) if x.spec.is_stack)
            if params[counting] not in self.entries:
                self.entries.append(params[counting])

    def run(self) -> Grads:
        what, inputs = self.what, self.inputs
        start = [
            _zeros(inputs[k]) if g is None else g
            for k, g in zip(self.moving, self.of_carried, strict=True)
        ]
        start += [_zeros(inputs[k]) for k in self.fixed]
        arrays = [*self._stacks(), *(inputs[n.attr("index")] for n in self.entries)]
        arrays += self.of_stacked
        results = loop(
            Loop(
                body=self._backward(),
                carried=len(start),
                scanned=len(arrays),
                length=what.length if what.cond is None else None,
                reverse=not what.reverse,
            ),
            [*start, *arrays, *(inputs[n.attr("index")] for n in self.constants)],
        )
        found = dict(zip([*self.moving, *self.fixed, *self.scanned], results, strict=True))
        for k in self.scanned:  # the loop may have ended before it took all entries of an array
            if found[k].spec.is_stack and not inputs[k].spec.is_stack:
                found[k] = _padded(found[k], inputs[k])
        return [found.get(k) for k in range(len(inputs))]

    def _stacks(self) -> list[Tensor]:
        """What is saved, of all iterations."""
        if not self.saved:
            return []
        longer = replace(self.what, body=self.body.extended(self.saved))
        return loop(longer, self.inputs)[len(self.body.outputs) :]

    def _backward(self) -> Graph:
        """The gradient of one iteration."""
        gradient, params = self.gradient, self.body.params
        grads = gradient.grads
        moving = gradient.cotangents[: len(self.moving)]
        stacked = gradient.cotangents[len(self.moving) :]
        image = [gradient.image.get(n, n) for n in (*self.saved, *self.entries)]
        constants = [gradient.image[n] for n in self.constants]
        wanted = [*self.moving, *self.fixed, *self.scanned]
        roots = [g for g in (grads[k] for k in wanted) if g is not None]
        inner, used = extract(roots, [*moving, *image, *stacked, *constants], gradient.effects)
        tracer = Tracer()
        with op.mode(tracer):
            of_moving = [tracer.param(n.spec) for n in moving]
            sums = [tracer.param(params[k].spec) for k in self.fixed]
            rest = [tracer.param(n.spec) for n in (*image, *stacked, *constants)]
            feeds = dict(
                zip([*moving, *image, *stacked, *constants], of_moving + rest, strict=True)
            )
            values = replay(inner, [feeds[n] for n in used])
            found = iter(inner.outputs)
            of = {k: values[next(found)] for k in wanted if grads[k] is not None}
            pairs = zip(self.moving, of_moving, strict=True)
            outputs = [of[k] if k in of else _zeros(x) for k, x in pairs]
            outputs += [elementwise.add(x, of[k]) for k, x in zip(self.fixed, sums, strict=True)]
            outputs += [of[k] for k in self.scanned]
            return tracer.finish([tracer.node(x) for x in outputs])


def _padded(stack: Tensor, like: Tensor) -> Tensor:
    """An array of the shape of `like` that starts with the entries of `stack`, and goes on with
    zeros."""
    tracer = Tracer()
    with op.mode(tracer):
        out, at = tracer.param(like.spec), tracer.param(Spec((), int64))
        entry = tracer.param(Spec(like.shape[1:], like.dtype))
        outputs = [out.at[at].set(entry), at + 1]
        body = tracer.finish([tracer.node(x) for x in outputs])
    start = [_zeros(like), creation.zeros((), dtype=int64)]
    return loop(Loop(body=body, carried=2, scanned=1), [*start, stack])[0]


def _zeros(x: Tensor) -> Tensor:
    return creation.zeros(x.shape, dtype=x.dtype)
