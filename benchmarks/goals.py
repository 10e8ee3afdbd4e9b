"""What the benchmarks have to show: each goal is a ratio of two measurements, or a time, and its
pass line. `python -m benchmarks check` prints them beside what was measured."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .contestants import COPY, FMA_PEAK, OUR_COMPILED, OUR_EAGER
from .fresh import Measured
from .measure import Result

COMPILED, EAGER, PEAK, BANDWIDTH = (c.label for c in (OUR_COMPILED, OUR_EAGER, FMA_PEAK, COPY))
ITSELF = "itself on one thread"
PEERS = ("numpy", "torch eager", "torch.compile", "jax.jit")


@dataclass(frozen=True)
class Goal:
    """A pass line of one or more cases of a benchmark.

    Attributes:
        name: what tables call it.
        benchmark: the workload, or what is measured in fresh processes.
        cases: a regular expression of whole names of cases or quantities.
        ours: the contestant whose goal it is.
        others: those that it is compared with: the best of those that were measured. With none,
            the line is in seconds.
        least: of how many times faster ours is. Where it is None, the line is `most`.
        most: of ours divided by the other.
        unit: of a line that is compared with nothing.
        threads: "one" and "all" the cores, or both.
    """

    name: str
    benchmark: str
    cases: str = ".*"
    ours: str = COMPILED
    others: tuple[str, ...] = PEERS
    least: float | None = None
    most: float = 1.0
    unit: str = ""
    threads: str = "both"

    @property
    def line(self) -> str:
        if self.least is not None:
            return f"at least {times(self.least)}"
        return f"at most {quantity(self.most, self.unit)}"

    @property
    def against(self) -> str:
        if not self.others:
            return ""
        return self.others[0] if len(self.others) == 1 else f"best of {', '.join(self.others)}"

    def reached(self, value: float) -> bool:
        return value >= self.least if self.least is not None else value <= self.most


@dataclass(frozen=True)
class Outcome:
    """What was measured for one case of a goal: the median over the rounds, and the quartiles.

    Attributes:
        other: the best of those that it was compared with.
    """

    goal: Goal
    case: str
    threads: int
    value: float
    low: float
    high: float
    other: str

    @property
    def passed(self) -> bool:
        return self.goal.reached(self.value)

    @property
    def sure(self) -> bool:
        """Whether the quartiles are on the same side of the line."""
        return self.goal.reached(self.low) == self.goal.reached(self.high)

    @property
    def verdict(self) -> str:
        return ("pass" if self.passed else "FAIL") + ("" if self.sure else " ~")

    @property
    def badness(self) -> float:
        """How far it is from the line, as a factor; above 1 on the wrong side."""
        if self.goal.least is not None:
            return self.goal.least / self.value if self.value else math.inf
        return self.value / self.goal.most if self.goal.most else self.value + 1.0

    @property
    def shown(self) -> str:
        g = self.goal
        texts = [
            times(v) if g.least is not None else quantity(v, g.unit)
            for v in (self.value, self.low, self.high)
        ]
        return f"{texts[0]} ({texts[1]} to {texts[2]})"


def times(value: float) -> str:
    return f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def quantity(value: float, unit: str) -> str:
    match unit:
        case "s":
            return f"{value * 1e9:.0f} ns" if value < 1e-6 else f"{value * 1e3:.1f} ms"
        case "":
            return f"{value:.2f}x"
    return f"{value:.0f} {unit}"


_LARGE_GEMM = r"(1024x1024x1024|2048x2048x2048|128x1024x512).*"
_CUBES = r"(64x64x64|128x128x128|256x256x256|512x512x512).*"
_BEST_COMPILED = ("jax.jit", "torch.compile", "tf XLA")
_STEPS = ("tiny", "iris", "mnist_mlp", "wide_mlp")
_DROPOUT = ("mnist_dropout", "wide_dropout")

GOALS: tuple[Goal, ...] = (
    Goal(
        "call of a compiled function", "dispatch", "x . y 4x4.*", others=(), most=150e-9, unit="s"
    ),
    Goal("tiny step beside jax.jit", "tiny", others=("jax.jit",), least=60),
    Goal("tiny step beside torch eager", "tiny", others=("torch eager",), least=400),
    Goal("eager add", "dispatch", "add 4x4", EAGER, ("torch eager",), most=0.5),
    Goal("eager add with a tape", "dispatch", "add 4x4, tape", EAGER, ("torch eager",)),
    Goal("eager functions", "eager", ours=EAGER, others=("torch eager",)),
    *(Goal(f"eager {name} step", name, ours=EAGER, others=("torch eager",)) for name in _STEPS),
    Goal("compiled mnist_mlp step", "mnist_mlp", others=_BEST_COMPILED, most=0.75),
    Goal("compiled wide_mlp step", "wide_mlp", others=_BEST_COMPILED, most=0.85),
    *(Goal(f"compiled {name} step", name, others=_BEST_COMPILED) for name in _DROPOUT),
    Goal("matrix products beside peers", "gemm"),
    Goal("FMA peak, 64 to 512", "gemm", _CUBES, others=(PEAK,), least=0.95, threads="one"),
    Goal("FMA peak, above", "gemm", _LARGE_GEMM, others=(PEAK,), least=0.9, threads="one"),
    Goal(
        "matrix products on two threads",
        "gemm",
        r"(128|256|512|1024|2048)x\1x\1.*",
        others=(ITSELF,),
        least=1.9,
        threads="all",
    ),
    Goal("products of long sums beside peers", "long_sums"),
    Goal("products of bfloat16 beside peers", "bfloat16"),
    Goal(
        "peak of bfloat16",
        "bfloat16",
        r"(256|512|1024)x.*",
        others=(PEAK,),
        least=0.85,
        threads="one",
    ),
    Goal("bandwidth: elementwise chain", "chain", ".*1e7", others=(BANDWIDTH,), least=0.85),
    *(
        Goal(f"bandwidth: {name}", name, name, others=(BANDWIDTH,), least=0.85)
        for name in ("softmax", "layer_norm", "cross_entropy", "adam")
    ),
    *(
        Goal(f"{name} beside peers", name)
        for name in ("chain", "softmax", "layer_norm", "cross_entropy", "adam")
    ),
    Goal("math functions", "math"),
    Goal("reductions", "reductions"),
    Goal("movement", "movement"),
    Goal("first call of mnist_mlp", "first_call", "mnist_mlp", others=("jax.jit",), most=1 / 6),
    Goal(
        "first call of a transformer", "first_call", "transformer", others=("jax.jit",), most=1 / 3
    ),
    Goal(
        "start from the disk cache",
        "disk_cache",
        "mnist_mlp, warm",
        others=(),
        most=0.015,
        unit="s",
    ),
    Goal(
        "no LLVM from the disk cache",
        "disk_cache",
        ".*, warm: modules of llvmlite",
        others=(),
        most=0,
        unit="modules",
    ),
    Goal(
        "peak memory",
        "peak_memory",
        "(wide_mlp|mlp24)( cold)?",
        others=("torch eager",),
        most=0.5,
    ),
    Goal(
        "peak memory of all processes",
        "peak_memory",
        "(wide_mlp|mlp24) cold, all processes, LLVM loaded",
        others=("torch eager",),
        most=0.5,
    ),
    Goal(
        "predicted peak, not above",
        "peak_memory",
        "(wide_mlp|mlp24) again",
        others=("dualmode predicted",),
        most=1.05,
    ),
    Goal(
        "predicted peak, not below",
        "peak_memory",
        "(wide_mlp|mlp24) again",
        others=("dualmode predicted",),
        least=1 / 1.05,
    ),
    Goal(
        "predicted time, not above",
        "cost_model",
        r"\w+",
        others=("cost model",),
        most=1.5,
    ),
    Goal(
        "predicted time, not below",
        "cost_model",
        r"\w+",
        others=("cost model",),
        least=1 / 1.5,
    ),
    Goal("import", "import", ours="dualmode", others=(), most=0.08, unit="s"),
)


def outcomes(
    results: Sequence[Result],
    measured: Sequence[Measured],
    goals: Sequence[Goal] = GOALS,
) -> list[Outcome]:
    """Of all goals and cases that were measured, in the order of the goals."""
    found: dict[tuple[str, str, int], dict[str, list[float]]] = {}
    for r in results:
        if r.blocks:
            found.setdefault((r.workload, r.case, r.threads), {})[r.contestant] = r.blocks
    for m in measured:
        found.setdefault((m.workload, m.quantity, m.threads), {})[m.contestant] = m.rounds
    return [outcome for goal in goals for outcome in _of(goal, found)]


def _of(goal: Goal, found: dict[tuple[str, str, int], dict[str, list[float]]]) -> Iterator[Outcome]:
    most = max((threads for _, _, threads in found), default=1)
    for (benchmark, case, threads), rounds in found.items():
        if benchmark != goal.benchmark or not re.fullmatch(goal.cases, case):
            continue
        if {"one": threads != 1, "all": threads != most or most == 1}.get(goal.threads, False):
            continue
        if goal.others == (ITSELF,):
            rounds = rounds | {ITSELF: found.get((benchmark, case, 1), {}).get(goal.ours, [])}
        own = rounds.get(goal.ours)
        others = {label: rounds[label] for label in goal.others if rounds.get(label)}
        if not own or (goal.others and not others):
            continue
        if not goal.others:
            yield _outcome(goal, case, threads, own, "")
            continue
        best = min(others, key=lambda label: statistics.median(others[label]))
        pairs = zip(others[best], own, strict=False)
        faster = goal.least is not None
        ratios = [theirs / mine if faster else mine / theirs for theirs, mine in pairs]
        yield _outcome(goal, case, threads, ratios, best)


def _outcome(goal: Goal, case: str, threads: int, values: Sequence[float], other: str) -> Outcome:
    low, value, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return Outcome(goal, case, threads, value, low, high, other)
