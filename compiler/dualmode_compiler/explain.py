"""What compiled code does, as text to read: each kernel, what it costs, and why it is one."""

from __future__ import annotations

from collections.abc import Sequence

from .contraction import LEFT, RIGHT
from .cost import CHUNK, PARALLEL
from .epilogues import mixing
from .graph import COND, Graph
from .loops import Control, HostCall, Kernel, Step
from .machine import Machine
from .plan import Plan
from .split import split_cost


def explain(
    name: str,
    graph: Graph,
    plan: Plan,
    machine: Machine | None = None,
    jobs: Sequence[Sequence[int]] = (),
) -> str:
    """The kernels of `plan`, what each fuses, and host callbacks.

    Args:
        machine: predict by it how long each kernel takes, and say what it moves and computes, and
            what it was not fused with.
        jobs: steps that run together.
    """
    lines = [f"{name}: {len(graph.nodes())} nodes"]
    for k, step in enumerate(plan.steps):
        lines += _explain(step, f"  {k}: ", machine)
    lines.append(f"  arena: {plan.arena} bytes")
    if jobs:
        lines.append(f"  in one job each: {', '.join(f'{job[0]} to {job[-1]}' for job in jobs)}")
    if machine is not None:
        lines.append(
            f"  measured: {machine.additions / 1e9:.0f} Gflop/s in additions, "
            f"{machine.cache / 1e9:.0f} GB/s in cache, {machine.memory / 1e9:.0f} GB/s in memory "
            f"({machine.memory_all / 1e9:.0f} GB/s with {machine.threads} threads)"
        )
    return "\n".join(lines)


def _kernel(kernel: Kernel, head: str, machine: Machine | None) -> list[str]:
    fused = ", ".join(n.op.name for n in kernel.nodes)
    kind = "contraction" if kernel.contraction else "loops"
    sums = kernel.contraction is not None and kernel.contraction.sums is not None
    axes = kernel.axes[::-1] if sums else kernel.axes
    sizes = " x ".join(str(a.extent) for a in axes) or "scalar"
    lines = [f"{head}{kind} over {sizes}: {fused}"]
    if kernel.contraction is not None and kernel.contraction.choice is not None:
        lines.append(f"{' ' * len(head)}{kernel.contraction.choice}")
    if machine is None:
        return lines
    cost, indent = split_cost(kernel), " " * len(head)
    seconds, bound = _seconds(kernel, machine)
    lines.append(
        f"{indent}reads {_amount(cost.read, 'B')}, writes {_amount(cost.written, 'B')}, "
        f"{_amount(cost.flops, 'flop')}: {_amount(seconds, 's')}, by {bound}"
    )
    if how := mixing(kernel):
        lines.append(f"{indent}{how}")
    if c := kernel.contraction:
        lines += [
            f"{indent}{how}" for x, how in ((c.left, LEFT), (c.right, RIGHT)) if x is not None
        ]
    if kernel.apart:
        lines.append(f"{indent}apart from {kernel.apart}")
    return lines


def _seconds(kernel: Kernel, machine: Machine) -> tuple[float, str]:
    """How long `kernel` should take, and what it is bound by."""
    cost = split_cost(kernel)
    chunks = max(1, int(cost.work // CHUNK)) if cost.work >= PARALLEL and kernel.axes else 1
    return machine.seconds(cost, chunks)


def predicted(step: Step, machine: Machine) -> float | None:
    """Seconds that `step` should take; None where the cost model says nothing of it."""
    return _seconds(step, machine)[0] if isinstance(step, Kernel) else None


def _amount(x: float, unit: str) -> str:
    """`x` with the prefix that leaves one to three digits: (1500, "B") -> "1.5 kB"."""
    prefixes = "num kMGT" if unit == "s" else " kMGT"
    x, k = x * (1e9 if unit == "s" else 1), 0
    while x >= 999.5 and k + 1 < len(prefixes):
        x, k = x / 1000, k + 1
    return f"{x:.3g} {prefixes[k].strip()}{unit}"


def _explain(step: Step, head: str, machine: Machine | None = None) -> list[str]:
    if isinstance(step, Kernel):
        return _kernel(step, head, machine)
    if isinstance(step, HostCall):
        when = "" if step.guard is None else ", where it has something to do"
        return [f"{head}host callback: {step.node.op.name}{when}"]
    if not isinstance(step, Control):
        return [f"{head}copy {step.source.spec}"]
    lines = [f"{head}{step.node.op.name}"]
    indent = " " * (len(head) - len(head.lstrip()) + 2)
    for label, inside in zip(_labels(step), step.plans, strict=True):
        lines.append(f"{indent}{label}:")
        for k, inner in enumerate(inside.steps):
            lines += _explain(inner, f"{indent}  {k}: ", machine)
    return lines


def _labels(step: Control) -> list[str]:
    """What each of the graphs that `step` owns is to it."""
    if step.node.op is COND:
        return [f"branch {k}" for k in range(len(step.plans))]
    return ["body", "condition"][: len(step.plans)]


def headline(step: Step) -> str:
    """What `step` does, in one line."""
    return _explain(step, "")[0]
