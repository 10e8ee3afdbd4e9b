"""Sizes of this machine's data caches, by which blocks of matrix products are cut."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ..records import dataclass

_CPU = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True, slots=True)
class Caches:
    """Bytes of the first and second level that one core has; the defaults where nobody says."""

    first: int = 32 << 10
    second: int = 512 << 10


@cache
def caches(root: Path = _CPU) -> Caches:
    """What the system says of its first core."""
    found: dict[int, int] = {}
    for entry in sorted(root.glob("index*")):
        try:
            kind = (entry / "type").read_text().strip()
            level = int((entry / "level").read_text())
            size = _bytes((entry / "size").read_text())
        except (OSError, ValueError):
            continue
        if kind in ("Data", "Unified") and size > 0:
            found[level] = size
    usual = Caches()
    return Caches(found.get(1, usual.first), found.get(2, usual.second))


def _bytes(text: str) -> int:
    """A number of bytes, such as 32K or 1M."""
    text = text.strip()
    unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
    return int(text.rstrip("KM")) * unit
