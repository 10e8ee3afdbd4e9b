"""Pictures of what was measured; they need matplotlib."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .contestants import COPY, FMA_PEAK, OUR_COMPILED
from .measure import Result
from .report import LABELS

STEPS = ("tiny", "iris", "mnist_mlp", "wide_mlp")
COLOURS = {
    "dualmode compiled": "#d62728",
    "dualmode eager": "#ff9896",
    "numpy": "#7f7f7f",
    "torch eager": "#1f77b4",
    "torch.compile": "#aec7e8",
    "jax.jit": "#2ca02c",
    "tf eager": "#c49c94",
    "tf.function": "#8c564b",
    "tf XLA": "#9467bd",
    "FMA peak": "#b0b0b0",
    "copy": "#b0b0b0",
}


def all_of(results: Sequence[Result], folder: Path) -> list[str]:
    """Draw everything that there are figures for, as PNG files; their names without suffix."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    done = [r for r in results if r.blocks]
    drawn = []
    for name, draw_one in _PICTURES.items():
        with pyplot.rc_context(_STYLE):
            figure = draw_one(done, pyplot)
            if figure is None:
                continue
            figure.savefig(folder / f"{name}.png", dpi=110)
            pyplot.close(figure)
        drawn.append(name)
    return drawn


_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
}


def peak(results: Sequence[Result], dtype: str) -> float:
    """Operations a second of multiply-adds in registers; 0 where it was not measured."""
    mine = [
        r
        for r in results
        if r.contestant == FMA_PEAK.label
        and r.blocks
        and next((d for d in ("float64", "bfloat16") if d in r.case), "float32") == dtype
    ]
    return max((r.work / r.seconds for r in mine), default=0.0)


def bandwidth(results: Sequence[Result]) -> float:
    """Bytes a second, read and written, of copying; 0 where it was not measured."""
    mine = [r for r in results if r.contestant == COPY.label and r.blocks]
    return max((r.moved / r.seconds for r in mine), default=0.0)


def _training(results: Sequence[Result], pyplot: Any) -> Any:
    """Bars of each training step, all cores: times what the quickest takes."""
    threads = max((r.threads for r in results), default=1)
    groups = {n: [r for r in results if r.workload == n and r.threads == threads] for n in STEPS}
    groups = {name: found for name, found in groups.items() if found}
    if not groups:
        return None
    figure, axes = pyplot.subplots(1, len(groups), figsize=(3.1 * len(groups), 2.6), squeeze=False)
    for axis, (name, found) in zip(axes.flat, groups.items(), strict=True):
        found = sorted(found, key=lambda r: -LABELS.index(r.contestant))
        times = [r.seconds * 1e6 for r in found]
        bars = axis.barh(
            [r.contestant for r in found], times, color=[COLOURS[r.contestant] for r in found]
        )
        axis.bar_label(bars, [_three_digits(t) for t in times], padding=2, fontsize=7)
        axis.set(title=name, xscale="log", xlabel="µs a step")
        axis.set_xlim(min(times) / 2, max(times) * 4)
        axis.tick_params("y", labelsize=8)
    return figure


def _three_digits(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _gemm(results: Sequence[Result], pyplot: Any) -> Any:
    """Rates over the size of square products of float32, a panel for each number of threads."""
    sizes: dict[tuple[int, str], list[tuple[int, float]]] = {}
    for r in results:
        square = re.fullmatch(r"(\d+)x\1x\1", r.case)
        if r.workload == "gemm" and square:
            key = r.threads, r.contestant
            sizes.setdefault(key, []).append((int(square[1]), r.work / r.seconds / 1e9))
    counts = sorted({threads for threads, _ in sizes})
    if not counts:
        return None
    figure, axes = pyplot.subplots(1, len(counts), figsize=(4.6 * len(counts), 3.2), squeeze=False)
    for axis, threads in zip(axes.flat, counts, strict=True):
        for label in LABELS:
            points = sorted(sizes.get((threads, label), []))
            if not points:
                continue
            style = "--" if label == FMA_PEAK.label else "-"
            wide = 2.2 if label == OUR_COMPILED.label else 1.1
            axis.plot(
                *zip(*points, strict=True),
                style,
                marker="" if style == "--" else "o",
                markersize=3,
                linewidth=wide,
                color=COLOURS[label],
                label=label,
                zorder=3 if wide > 2 else 2,
            )
        axis.set(
            title=_threads(threads), xscale="log", xlabel="n, of n x n by n x n", ylim=(0, None)
        )
        axis.set_xticks([8, 16, 32, 64, 128, 256, 512, 1024, 2048])
        axis.set_xticklabels(["8", "16", "32", "64", "128", "256", "512", "1k", "2k"])
        axis.minorticks_off()
        axis.set_ylabel("GFLOP/s")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def _roofline(results: Sequence[Result], pyplot: Any) -> Any:
    """What is reached over the operations for each byte that has to move."""
    counts = [
        n
        for n in sorted({r.threads for r in results})
        if peak([r for r in results if r.threads == n], "float32")
    ]
    counts = [n for n in counts if bandwidth([r for r in results if r.threads == n])]
    if not counts:
        return None
    figure, axes = pyplot.subplots(1, len(counts), figsize=(5.2 * len(counts), 3.8), squeeze=False)
    for axis, threads in zip(axes.flat, counts, strict=True):
        mine = [r for r in results if r.threads == threads]
        top, slope = peak(mine, "float32") / 1e9, bandwidth(mine) / 1e9
        axis.plot([0.05, top / slope, 500], [0.05 * slope, top, top], color="#555555", zorder=1)
        axis.text(500, top * 1.1, f"multiply-adds, {top:.0f} GFLOP/s", ha="right", fontsize=8)
        _points(axis, mine)
        axis.set(title=_threads(threads), xscale="log", yscale="log")
        axis.set(xlabel="operations a byte", ylabel="GFLOP/s", xlim=(0.05, 500))
        axis.set_ylim(0.05 * slope * 0.5, top * 2)
        axis.text(
            0.12,
            0.12 * slope * 1.15,
            f"copying, {slope:.0f} GB/s",
            fontsize=8,
            rotation=math.degrees(math.atan(slope)),
            rotation_mode="anchor",
            transform_rotates_text=True,
        )
    axes.flat[0].legend(loc="lower right")
    return figure


def _points(axis: Any, results: Sequence[Result]) -> None:
    """Large products of float32, and what the bandwidth of memory limits."""
    shown: dict[str, list[tuple[float, float]]] = {}
    names: dict[float, list[str]] = {}  # by intensity, those that are too near for two labels
    for r in results:
        large = r.moved >= 32e6 or r.workload == "gemm"
        if not (r.work and r.moved and large) or "float64" in r.case or r.kind == "limit":
            continue
        if r.contestant not in (OUR_COMPILED.label, "torch eager", "jax.jit", "numpy"):
            continue
        intensity = r.work / r.moved
        shown.setdefault(r.contestant, []).append((intensity, r.work / r.seconds / 1e9))
        if r.workload != "gemm":
            name = r.case if " " in r.case else r.workload
            near = next((x for x in names if abs(x / intensity - 1) < 0.1), intensity)
            if name not in names.setdefault(near, []):
                names[near].append(name)
    for label in ("numpy", "torch eager", "jax.jit", OUR_COMPILED.label):
        if label in shown:
            ours = label == OUR_COMPILED.label
            axis.scatter(
                *zip(*shown[label], strict=True),
                s=26 if ours else 12,
                color=COLOURS[label],
                label=label,
                zorder=3 if ours else 2,
                linewidths=0,
                alpha=0.9,
            )
    low = axis.get_ylim()[0]
    for intensity, labels in names.items():
        axis.annotate(
            ", ".join(labels),
            (intensity, low),
            xycoords=("data", "axes fraction"),
            xytext=(intensity, 0.02),
            textcoords=("data", "axes fraction"),
            rotation=90,
            fontsize=6.5,
            color="#555555",
            ha="center",
            va="bottom",
        )


def _functions(results: Sequence[Result], pyplot: Any) -> Any:
    """How many times faster than the fastest peer each case is, on all cores."""
    from matplotlib import ticker

    threads = max((r.threads for r in results), default=1)
    chosen = ("math", "reductions", "movement")
    ratios: dict[str, list[tuple[str, float]]] = {}
    for own in results:
        if (
            own.workload not in chosen
            or own.threads != threads
            or own.contestant != OUR_COMPILED.label
        ):
            continue
        peers = [
            r
            for r in results
            if (r.workload, r.case, r.threads) == (own.workload, own.case, threads)
            and not r.contestant.startswith("dualmode")
            and r.kind != "limit"
        ]
        if peers:
            ratio = min(own.times_faster(r) for r in peers)
            ratios.setdefault(own.workload, []).append((own.case, ratio))
    if not ratios:
        return None
    longest = max(len({c.rpartition(" ")[0] for c, _ in found}) for found in ratios.values())
    figure, axes = pyplot.subplots(
        1, len(ratios), figsize=(4.2 * len(ratios), 1.2 + 0.26 * longest), squeeze=False
    )
    for axis, (workload, found) in zip(axes.flat, ratios.items(), strict=True):
        kinds = list(dict.fromkeys(case.rpartition(" ")[0] for case, _ in found))
        for size, marker in (("1e3", "o"), ("1e5", "s"), ("1e7", "D")):
            points = [
                (ratio, len(kinds) - kinds.index(case.rpartition(" ")[0]))
                for case, ratio in found
                if case.endswith(size)
            ]
            if points:
                axis.scatter(*zip(*points, strict=True), marker=marker, s=22, label=size, zorder=2)
        axis.axvline(1, color="#555555", linewidth=1)
        axis.set(title=f"{workload}, {_threads(threads)}", xscale="log", xlabel="times as fast")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.set_yticks(range(len(kinds), 0, -1), kinds, fontsize=8)
        axis.grid(axis="x", color="#eeeeee")
    axes.flat[0].legend(title="elements")
    return figure


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


_PICTURES: dict[str, Callable[[Sequence[Result], Any], Any]] = {
    "training": _training,
    "gemm": _gemm,
    "roofline": _roofline,
    "functions": _functions,
}


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
