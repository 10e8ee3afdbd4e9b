"""How many cores this process may use."""

from __future__ import annotations

import math
import os


def cores() -> int:
    """Whole cores that this process may use, by affinity and by cgroup quota; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        n = len(os.sched_getaffinity(0))
    else:
        n = os.cpu_count() or 1
    return max(1, math.floor(min(n, _quota())))


def _quota() -> float:
    """Cores that the cgroup grants (version 2, then 1), or infinity."""
    try:
        quota, period = _read("/sys/fs/cgroup/cpu.max").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or "max"
        pass
    try:
        granted = int(_read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
        period = int(_read("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
    except (OSError, ValueError):
        return math.inf
    return granted / period if granted > 0 else math.inf


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
