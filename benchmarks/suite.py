"""Measures named benchmarks, whatever their kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from . import catalogue, contestants, fresh, measure, predictions
from .figures import Figures, machine

ABOUT = catalogue.ABOUT | fresh.ABOUT | {"cost_model": predictions.ABOUT}
NAMES = (*catalogue.WORKLOADS, *fresh.ABOUT, "cost_model")


@dataclass(frozen=True)
class Settings:
    """Attributes:
    peers: who takes part besides dualmode, by the names in `contestants.PEERS`.
    threads: numbers of threads to measure with.
    seconds: of each contestant in each workload, cut into `rounds` blocks.
    quantile: which of a block's samples counts.
    cases: only cases whose name has this text in it.
    """

    peers: Sequence[str]
    threads: Sequence[int]
    seconds: float = 2.0
    rounds: int = 7
    quantile: float = 0.5
    cases: str = ""


def run(name: str, settings: Settings) -> Figures:
    """Everything of one benchmark."""
    taking_part = contestants.selected(settings.peers)
    kept = {k: v for k, v in vars(settings).items() if k != "cases"}
    figures = Figures(
        machine(), {k: list(v) if isinstance(v, list | tuple) else v for k, v in kept.items()}
    )
    most, rounds = max(settings.threads), settings.rounds
    match name:
        case "import":
            figures.measured = fresh.imports(taking_part, rounds)
        case "first_call":
            figures.measured = fresh.first_calls(taking_part, most, rounds)
        case "disk_cache":
            figures.measured = fresh.disk_cache(most, rounds)
        case "peak_memory":
            figures.measured = fresh.peak_memory(taking_part, most, min(rounds, 3))
        case "cost_model":
            figures.measured = predictions.measured(settings.threads, min(rounds, 3))
        case "memory":
            figures.measured = fresh.memory(most, min(rounds, 3))
        case _:
            cases = [c for c in catalogue.WORKLOADS[name] if settings.cases in c.name]
            for threads in settings.threads:
                figures.results += measure.run(
                    name,
                    cases,
                    taking_part,
                    threads,
                    settings.seconds,
                    rounds,
                    settings.quantile,
                )
    return figures


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
