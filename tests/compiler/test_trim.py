"""Memory that goes back to the system: of the heap, and of a library that is not used for now."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dualmode_compiler.runtime import trim
from dualmode_compiler.runtime.layout import standard

FILE = "/lib/that one.so"
REGION = """7f{k}000-7f{k}800 {access} 00000000 00:1d 42    {file}
Size:                  8 kB
Rss:                   4 kB
Anonymous:    {anonymous:>8} kB
Swap:         {swapped:>8} kB
VmFlags: rd ex mr mw me sd
"""


def _found(tmp_path: Path, *regions: tuple[str, str, int, int]) -> list[int]:
    """Which of the regions are found, of one mapping each: file, access, and what is not as in the
    file, in memory and swapped out."""
    text = "".join(
        REGION.format(k=k, file=file, access=access, anonymous=anonymous, swapped=swapped)
        for k, (file, access, anonymous, swapped) in enumerate(regions)
    )
    maps = tmp_path / "smaps"
    maps.write_bytes(text.encode("latin-1"))
    starts = {int(f"7f{k}000", 16): k for k in range(len(regions))}
    found = list(trim._unwritten(FILE, str(maps)))
    assert all(size == 0x800 for _, size in found)
    return [starts[address] for address, _ in found]


def test_only_pages_that_are_as_on_disk_are_given_back(tmp_path: Path) -> None:
    regions = [
        (FILE, "r-xp", 0, 0),
        (FILE, "r--p", 4, 0),  # relocated
        (FILE, "r--p", 0, 4),  # relocated, and swapped out since
        (FILE, "rw-p", 0, 0),
        (FILE + " (deleted)", "r-xp", 0, 0),
        ("/lib/another one.so", "r-xp", 0, 0),
        ("/lib/donn\xe9es", "r--p", 0, 0),  # no UTF-8
        (FILE, "r--p", 0, 0),
    ]
    assert _found(tmp_path, *regions) == [0, 7]


def test_without_the_systems_account_nothing_is(tmp_path: Path) -> None:
    assert list(trim._unwritten(FILE, str(tmp_path / "none"))) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of mappings")
def test_other_files_may_have_any_name(tmp_path: Path) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"donn\xe9es")
    with open(name, "wb+") as file:
        file.write(b"some")
        file.flush()
        with mmap.mmap(file.fileno(), 4, prot=mmap.PROT_READ):
            trim.trim(FILE)


BLOCKS = """
import numpy as np
import dualmode as dm
from dualmode_compiler.runtime import aligned

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

x = np.ones(3 << 20)  # once it is free, the C library takes as much from its heap
del x
x, pins, results = dm.zeros(1 << 20), [], []
for k in range(8):
    results.append(dm.add(x, float(k)))
    pins.append(bytes(100_000))
results.clear()
before = resident()
aligned.give_back()
assert before - resident() > 30 << 20, (before, resident())
"""


@pytest.mark.skipif(sys.platform != "linux" or not standard(), reason="NumPy's memory elsewhere")
def test_blocks_that_no_array_needs_go_back_to_the_system() -> None:
    result = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
