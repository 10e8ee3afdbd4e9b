"""`RESULTS.md`, and the results in the README, from figures."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import pictures, report, suite
from .figures import Figures
from .goals import GOALS, Goal, Outcome, outcomes, times
from .measure import Result

BLOCK = re.compile(r"(<!-- results[^>]*-->\n).*?(<!-- end of results -->)", re.S)
# workload, case, and what to call it where its description is too long
README_ROWS = (
    *((name, name, "") for name in ("tiny", "iris", "mnist_mlp", "wide_mlp")),
    ("loops", "a million iterations", "a million iterations of a scalar `while`"),
    ("loops", "scan, gradient", "gradient of a recurrent net, 64 steps"),
)
CAPTIONS = {
    "training": "Time of a training step: forward, backward, update",
    "gemm": "Square matrix products of float32; grey: the peak of multiply-adds in registers",
    "roofline": "What memory and multiply-adds allow, and what is reached",
    "functions": "Compiled functions beside the fastest peer; right of 1 they are faster",
}


def write(figures: Figures, folder: Path) -> None:
    """`RESULTS.md` and `pictures/` in this folder. Without matplotlib there are no pictures."""
    drawn = pictures.all_of(figures.results, folder / "pictures")
    text = "\n".join(_page(figures, drawn))
    (folder / "RESULTS.md").write_text(text.rstrip() + "\n")


def rewrite(figures: Figures, readme: Path) -> None:
    """The block between `<!-- results -->` and `<!-- end of results -->`.

    Raises:
        ValueError: the file has no such block.
    """
    text = readme.read_text()
    if not BLOCK.search(text):
        raise ValueError(f"{readme}: no block from <!-- results --> to <!-- end of results -->")
    block = "\n".join(_short(figures))
    readme.write_text(BLOCK.sub(lambda m: f"{m[1]}{block}\n{m[2]}", text))


def _page(figures: Figures, drawn: Sequence[str]) -> Iterator[str]:
    yield from ("# Results", "")
    yield "Written by `python -m benchmarks report`; do not edit. " + " ".join(
        (
            "Contestants run in processes of their own that take turns; every ratio is the median",
            "of the ratios of the rounds, with the quartiles in parentheses. Absolute times say",
            "little about another machine.",
        )
    )
    yield from ("", *_machine(figures), "")
    reached = outcomes(figures.results, figures.measured)
    passed = sum(o.passed for o in reached)
    yield from ("## Goals", "")
    yield f"{passed} of {len(reached)} cases pass. With ~ the line lies between the quartiles. Each"
    yield from ("row shows the case that is farthest from its line.", "")
    yield from _goals(reached)
    yield ""
    for name in drawn:
        yield from (f"![{CAPTIONS[name]}](pictures/{name}.png)", "", f"*{CAPTIONS[name]}*", "")
    yield from ("## Every case", "")
    for name in suite.NAMES:
        yield from _benchmark(name, figures, reached)


def _machine(figures: Figures) -> Iterator[str]:
    m, s = figures.machine, figures.settings
    if not m:
        return
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    yield f"- {m['cpu']}, {m['cores']} cores; {m['platform']}; Python {m['python']}"
    yield f"- {versions}"
    yield (
        f"- {s['seconds']} s of each contestant in each benchmark, in {s['rounds']} rounds; the"
        f" cases of one benchmark share this time"
    )
    for label, unit, value in _limits(figures.results):
        yield f"- {label}: {value} {unit}"


def _limits(results: Sequence[Result]) -> Iterator[tuple[str, str, str]]:
    for threads in sorted({r.threads for r in results}):
        mine = [r for r in results if r.threads == threads]
        on = f"{threads} thread{'s' * (threads > 1)}"
        for dtype in ("float32", "float64", "bfloat16"):
            if peak := pictures.peak(mine, dtype):
                yield f"peak of multiply-adds, {dtype}, {on}", "GFLOP/s", f"{peak / 1e9:.0f}"
        if speed := pictures.bandwidth(mine):
            yield f"copying memory, read and written, {on}", "GB/s", f"{speed / 1e9:.1f}"


def _goals(reached: Sequence[Outcome]) -> Iterator[str]:
    rows = []
    for goal in GOALS:
        own = [o for o in reached if o.goal == goal]
        if not own:
            rows.append((goal.name, goal.against, goal.line, "not measured", "", ""))
            continue
        worst = max(own, key=lambda o: o.badness)
        passed = sum(o.passed for o in own)
        count = worst.verdict if len(own) == 1 else f"{passed} of {len(own)} pass"
        where = worst.case + (f", {worst.threads} thr." if worst.threads else "")
        rows.append((goal.name, worst.other, goal.line, worst.shown, where, count))
    header = ("goal", "beside", "line", "measured (quartiles)", "worst case", "verdict")
    yield from _markdown(header, rows)


def _benchmark(name: str, figures: Figures, reached: Sequence[Outcome]) -> Iterator[str]:
    results = [r for r in figures.results if r.workload == name]
    measured = [m for m in figures.measured if m.workload == name]
    if not results and not measured:
        return
    yield from (f"### {name}", "", f"{_sentence(suite.ABOUT[name])}.", "")
    if results:
        labels = [x for x in report.LABELS if any(r.contestant == x and r.blocks for r in results)]
        groups: dict[tuple[str, int], dict[str, Result]] = {}
        for r in results:
            groups.setdefault((r.case, r.threads), {})[r.contestant] = r
        rows = []
        for (case, threads), found in groups.items():
            missed = [o.goal for o in reached if _is(o, name, case, threads) and not o.passed]
            cells = [_cell(found.get(label)) for label in labels]
            ratios = report.ratio_cells(found)[:2]
            rows.append((case, str(threads), *cells, *ratios, _names(missed)))
        header = ("case", "threads", *labels, "compiled vs best", "eager vs best eager", "missed")
        yield from _markdown(header, rows)
        yield from (f"- {r.case}, {r.contestant}: {r.error}" for r in results if r.error)
    if measured:
        rows = [
            (m.quantity, m.contestant, str(m.threads or ""), report.amount(m.value, m.unit))
            for m in measured
        ]
        yield from _markdown(("quantity", "of", "threads", "median"), rows)
    yield ""


def _is(outcome: Outcome, benchmark: str, case: str, threads: int) -> bool:
    known = outcome.goal.benchmark, outcome.case, outcome.threads
    return known == (benchmark, case, threads)


def _cell(r: Result | None) -> str:
    if r is None:
        return ""
    return f"{report.duration(r.seconds)} {report.rate(r)}".strip() if r.blocks else "failed"


def _names(goals: Sequence[Goal]) -> str:
    return ", ".join(g.name for g in goals)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _short(figures: Figures) -> Iterator[str]:
    """The part for the README: training steps, loops and first calls, on all cores."""
    m = figures.machine
    threads = max((r.threads for r in figures.results), default=1)
    yield "Median times on all cores; training steps are forward, backward, update. In parentheses:"
    yield "how many times as long as dualmode, compiled."
    yield f"{m['cpu']}, {threads} threads, Python {m['python']};"
    yield "[benchmarks/RESULTS.md](benchmarks/RESULTS.md) has all figures, and the goals."
    yield ""
    table = list(_chosen(figures, threads))
    labels = [x for x in report.LABELS if any(x in cells for _, cells in table)]
    rows = []
    for name, cells in table:
        own = cells.get(report.OUR_COMPILED.label, [])
        rows.append((name, *(_beside(cells.get(label, []), own) for label in labels)))
    yield from _markdown(("workload", *labels), rows)


def _chosen(figures: Figures, threads: int) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Rows of the README: a name, and seconds in each round by contestant."""
    for workload, case, name in README_ROWS:
        mine = [r for r in figures.results if (r.workload, r.case) == (workload, case)]
        cells = {r.contestant: r.blocks for r in mine if r.threads == threads and r.blocks}
        if cells:
            yield name or f"`{case}`: {suite.ABOUT[case].removeprefix('training step, ')}", cells
    first = [m for m in figures.measured if m.workload == "first_call"]
    if cells := {m.contestant: m.rounds for m in first if m.quantity == "mnist_mlp"}:
        yield "first call of the `mnist_mlp` step", cells


def _beside(rounds: Sequence[float], own: Sequence[float]) -> str:
    if not rounds:
        return ""
    time = report.duration(statistics.median(rounds))
    if rounds is own or not own:
        return time
    ratio = statistics.median(a / b for a, b in zip(rounds, own, strict=False))
    return f"{time} ({times(ratio)})"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
