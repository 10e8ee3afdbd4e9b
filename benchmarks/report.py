"""What was measured, as plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .contestants import CONTESTANTS, OUR_COMPILED, OUR_EAGER
from .fresh import Measured
from .goals import Outcome, outcomes
from .measure import Result

LABELS = [c.label for c in CONTESTANTS]


def tables(results: Sequence[Result], measured: Sequence[Measured]) -> str:
    """All that was measured, as plain text."""
    parts: list[str] = []
    if results:
        parts += ["Time of a call", *_times(results)]
        parts += ["", "Time of the first call", *_by_case(results, _first)]
        parts += [
            f"failed: {r.workload} {r.case} ({r.threads}), {r.contestant}: {r.error}"
            for r in results
            if r.error
        ]
    if measured:
        parts += ["", "In fresh processes (median)", *_fresh(measured)]
    if reached := outcomes(results, measured):
        parts += ["", "Goals", *_goals(reached)]
    return "\n".join(parts).strip("\n")


def goals(results: Sequence[Result], measured: Sequence[Measured]) -> str:
    """Every goal that can be told: its line, what was measured with its quartiles, the verdict. A
    verdict with ~ is one whose line lies between the quartiles."""
    reached = outcomes(results, measured)
    passed = sum(outcome.passed for outcome in reached)
    return "\n".join([*_goals(reached), f"{passed} of {len(reached)} pass"])


def _goals(reached: Sequence[Outcome]) -> list[str]:
    header = ("goal", "case", "threads", "beside", "line", "measured (quartiles)", "verdict")
    rows = [
        (
            o.goal.name,
            o.case,
            str(o.threads or ""),
            o.other,
            o.goal.line,
            o.shown,
            o.verdict,
        )
        for o in reached
    ]
    return _table(header, rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    # not at the top: the processes of contestants import this module too, and are timed
    from dualmode.table import text_table

    return text_table(header, rows)


def duration(seconds: float) -> str:
    """`1.23 us` and the like: three digits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        if seconds >= scale or unit == "ns":
            value = seconds / scale
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    raise AssertionError


def amount(value: float, unit: str) -> str:
    """A time, an amount of memory, or a number of things."""
    if unit == "KiB" and value >= 10_000:
        return f"{value / 1024:.1f} MiB"
    return duration(value) if unit == "s" else f"{value:.0f} {unit}"


def rate(r: Result) -> str:
    """Giga-operations a second, or gigabytes for what does few operations on a byte."""
    if r.work > 2 * r.moved:
        return f"{r.work / r.seconds / 1e9:.0f}G"
    return f"{r.moved / r.seconds / 1e9:.0f}GB" if r.moved else ""


def _times(results: Sequence[Result]) -> list[str]:
    def cell(r: Result) -> str:
        return f"{duration(r.seconds)} {rate(r)}".rstrip()

    return _by_case(results, cell, ratios=True)


def _first(r: Result) -> str:
    return duration(r.first)


def _by_case(
    results: Sequence[Result], cell: Callable[[Result], str], ratios: bool = False
) -> list[str]:
    """A row for each case and number of threads, a column for each contestant."""
    labels = [label for label in LABELS if any(r.contestant == label for r in results)]
    groups: dict[tuple[str, str, int], dict[str, Result]] = {}
    for r in results:
        groups.setdefault((r.workload, r.case, r.threads), {})[r.contestant] = r
    header = ["workload", "threads", *labels]
    if ratios:
        header += ["compiled vs best", "eager vs best", "compiled vs eager"]
    rows = []
    for (workload, case, threads), found in groups.items():
        name = workload if workload == case else f"{workload} {case}"
        row = [name, str(threads)]
        for label in labels:
            r = found.get(label)
            row.append("" if r is None else "failed" if r.error else cell(r))
        rows.append(row + (ratio_cells(found) if ratios else []))
    return _table(header, rows)


def ratio_cells(found: dict[str, Result]) -> list[str]:
    """How many times faster dualmode is than the best peer of each kind, and than its own eager."""
    done = {label: r for label, r in found.items() if r.blocks and r.kind != "limit"}
    compiled, eager = done.pop(OUR_COMPILED.label, None), done.pop(OUR_EAGER.label, None)
    peers = list(done.values())

    def against(own: Result | None, others: Sequence[Result]) -> str:
        if own is None or not others:
            return ""
        return f"{min(own.times_faster(r) for r in others):.2f}x"

    return [
        against(compiled, peers),
        against(eager, [r for r in peers if r.kind == "eager"]),
        against(compiled, [eager] if eager else []),
    ]


def _fresh(measured: Sequence[Measured]) -> list[str]:
    rows = [
        (
            f"{m.workload}: {m.quantity}" if m.quantity != m.workload else m.workload,
            m.contestant,
            str(m.threads or ""),
            amount(m.value, m.unit),
        )
        for m in measured
    ]
    return _table(("measure", "of", "threads", "median"), rows)
