"""Tables, JSON and a plot of what was measured."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dualmode.table import text_table

from .contestants import CONTESTANTS, OUR_COMPILED, OUR_EAGER
from .fresh import Measured
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
    return "\n".join(parts).strip("\n")


def duration(seconds: float) -> str:
    """`1.23 us` and the like: three digits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        if seconds >= scale or unit == "ns":
            value = seconds / scale
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    raise AssertionError


def _times(results: Sequence[Result]) -> list[str]:
    def cell(r: Result) -> str:
        rate = f" {r.work / r.seconds / 1e9:.0f}G" if r.work else ""
        return duration(r.seconds) + rate

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
    return text_table(header, rows)


def ratio_cells(found: dict[str, Result]) -> list[str]:
    """How many times faster dualmode is than the best peer of each kind, and than its own eager."""
    done = {label: r for label, r in found.items() if not r.error}
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
            duration(m.value) if m.unit == "s" else f"{m.value:.0f} {m.unit}",
        )
        for m in measured
    ]
    return text_table(("measure", "of", "threads", "median"), rows)


def machine() -> dict[str, Any]:
    """Where this ran, with what."""
    versions: dict[str, str] = {}
    for package in ("dualmode", "numpy", "llvmlite", "torch", "jax", "tensorflow-cpu"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")


def save(
    path: str, settings: dict[str, Any], results: Sequence[Result], measured: Sequence[Measured]
) -> None:
    """All figures, every block of them, as JSON."""
    content = {
        "machine": machine(),
        "settings": settings,
        "results": [r.as_json() for r in results],
        "fresh": [m.as_json() for m in measured],
    }
    Path(path).write_text(json.dumps(content, indent=1) + "\n")


def draw(path: str, results: Sequence[Result]) -> None:
    """Time of a call, on a logarithmic axis: a panel for each workload and number of threads."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups: dict[tuple[str, int], list[Result]] = {}
    for r in results:
        if r.blocks:
            groups.setdefault((r.workload, r.threads), []).append(r)
    across = min(len(groups), 2)
    down = -(-len(groups) // across)
    figure, axes = pyplot.subplots(down, across, figsize=(7 * across, 3.2 * down), squeeze=False)
    for axis in axes.flat[len(groups) :]:
        axis.remove()
    for axis, ((workload, threads), found) in zip(axes.flat, groups.items(), strict=False):
        _panel(axis, found)
        axis.set(title=f"{workload}, {threads} thread{'s' * (threads > 1)}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _panel(axis: Any, found: Sequence[Result]) -> None:
    """Bars of one case, or a line for each contestant over many cases."""
    cases = list(dict.fromkeys(r.case for r in found))
    labels = [label for label in LABELS if any(r.contestant == label for r in found)]
    if len(cases) < 3:
        rows = sorted(found, key=lambda r: -r.seconds)
        names = [f"{r.contestant}, {r.case}" if len(cases) > 1 else r.contestant for r in rows]
        colours = ["C1" if r.contestant.startswith("dualmode") else "C0" for r in rows]
        axis.barh(names, [r.seconds * 1e6 for r in rows], color=colours)
        axis.set(xscale="log", xlabel="us per call", xlim=(rows[-1].seconds * 1e6 / 2, None))
        return
    for label in labels:
        mine = {r.case: r for r in found if r.contestant == label}
        style = "o-" if label.startswith("dualmode") else ".--"
        rates = [mine[c].work / mine[c].seconds / 1e9 if c in mine else None for c in cases]
        axis.plot(cases, rates, style, label=label, linewidth=1)
    axis.set(ylabel="GFLOP/s")
    axis.tick_params("x", rotation=60, labelsize=7)
    axis.legend(fontsize=7)
