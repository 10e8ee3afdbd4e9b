"""No read and no write outside of any buffer, at any alignment, with any tail.

Each case runs in a process of its own, between guard pages (`guarded`), at lengths that leave every
number of elements in the last vector. The ops of the op table share processes (`guarded_ops`); when
one dies, the op that it ran is reported, and another goes on with the rest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphs import hosts
from guarded import CASES
from op_table import rows

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


OPS = sorted(name for name, row in rows().items() if not row.op.effect)


def _failures(level: int, examples: int, sizes: str, names: list[str]) -> list[str]:
    """What went wrong, op by op."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    program = [sys.executable, str(here / "guarded_ops.py"), str(level), str(examples), sizes]
    found: list[str] = []
    while names:
        done = subprocess.run(
            [*program, *names],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
        if done.returncode == 0:
            break
        *_, last = ["no op", *done.stdout.splitlines()]
        name = last.split()[0]
        assert name in names, f"{program}: {done.returncode}\n{done.stderr}"
        how = f"signal {-done.returncode}" if done.returncode < 0 else done.stderr[-2000:]
        found.append(f"{last} at level {level}: {how}")
        names = names[names.index(name) + 1 :]
    return found


@pytest.mark.parametrize("part", range(4))
def test_ops_between_guard_pages(part: int):
    """Every op at one of the levels."""
    found = [
        problem
        for k, level in enumerate((0, 2))
        for problem in _failures(level, 2, "tail", OPS[part::4][k::2])
    ]
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("part", range(4))
def test_many_shapes_of_ops_between_guard_pages(part: int, level: int):
    found = _failures(level, 10, "both", OPS[part::4])
    assert not found, "\n".join(found)


def test_guard_pages_guard():
    """A read past the end dies: the guard works."""
    code = "import guarded, ctypes; ctypes.string_at(guarded.Guarded(8).stop - 4, 8)"
    folder = str(Path(__file__).parent)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r}); {code}"]
    assert subprocess.run(command, check=False).returncode < 0
