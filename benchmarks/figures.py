"""All that was measured, with where and how; kept as JSON, in slices that can be put together."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .fresh import Measured
from .measure import Result

PACKAGES = ("dualmode", "numpy", "llvmlite", "torch", "jax", "tensorflow-cpu")


@dataclass
class Figures:
    """Attributes:
    machine: where this ran, with which versions.
    settings: how long, how often, with whom.
    results: of workloads. measured: what only fresh processes show.
    """

    machine: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)

    def merge(self, later: Figures) -> None:
        """Take what is in `later`; of the same case and number of threads nothing else is left, as
        only what was measured in turns may be compared."""
        again = {(r.workload, r.case, r.threads) for r in later.results}
        kept = [r for r in self.results if (r.workload, r.case, r.threads) not in again]
        self.results = kept + later.results
        anew = {(m.workload, m.quantity, m.threads) for m in later.measured}
        known = [m for m in self.measured if (m.workload, m.quantity, m.threads) not in anew]
        self.measured = known + later.measured
        self.machine, self.settings = later.machine, later.settings

    def save(self, path: str | Path) -> None:
        content = {
            "machine": self.machine,
            "settings": self.settings,
            "results": [r.as_json() for r in self.results],
            "fresh": [m.as_json() for m in self.measured],
        }
        Path(path).write_text(json.dumps(content, separators=(",", ":")) + "\n")


def load(paths: Sequence[str | Path]) -> Figures:
    """The figures of these files, put together; later ones replace earlier ones."""
    figures = Figures()
    for path in paths:
        content = json.loads(Path(path).read_text())
        figures.merge(
            Figures(
                content["machine"],
                content["settings"],
                [_made(Result, r) for r in content["results"]],
                [_made(Measured, m) for m in content["fresh"]],
            )
        )
    return figures


def _made(kind: Any, values: dict[str, Any]) -> Any:
    names = {f.name for f in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})


def machine() -> dict[str, Any]:
    """Where this runs, with what."""
    versions: dict[str, str] = {}
    for package in PACKAGES:
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
