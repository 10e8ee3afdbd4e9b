"""No read and no write outside of any buffer, at any alignment, with any tail.

Each case runs in a process of its own, between guard pages (`guarded`), at lengths that leave every
number of elements in the last vector.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from graphs import hosts
from guarded import CASES

ALL = list(range(1, 71))
FEW = [*range(1, 18), 31, 32, 33, 47, 63, 64, 65, 70]
HOSTS = list(range(len(hosts())))


def _run(name: str, lengths: list[int], which: list[int]) -> None:
    program = Path(__file__).with_name("guarded.py")
    command = [sys.executable, str(program), name, repr(lengths), repr(which)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1:]
    assert done.returncode == 0, f"{name}, {last}: {done.returncode}\n{done.stderr}"


@pytest.mark.parametrize("name", CASES)
def test_buffers_between_guard_pages(name: str):
    _run(name, FEW, HOSTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_length_between_guard_pages(name: str):
    _run(name, ALL, HOSTS)


def test_guard_pages_guard():
    """A read past the end dies: the guard works."""
    code = "import guarded, ctypes; ctypes.string_at(guarded.Guarded(8).stop - 4, 8)"
    folder = str(Path(__file__).parent)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r}); {code}"]
    assert subprocess.run(command, check=False).returncode < 0
