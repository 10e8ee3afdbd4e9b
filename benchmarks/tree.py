"""Memory of a process and of all that it has started, over time.

Run as a script, in a process of its own, it samples the members of a process group: what they hold
at the same moment, where a page that several processes have counts as a part in each (the
"proportional set size" of proc_pid_smaps(5)). So the peak of the sum is measured, which is less
than the sum of peaks that come at different times.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time

PAUSE = 0.001  # seconds between two samples
LOOK = 0.01  # between two looks for new processes


class Tree:
    """Samples this process and those that it starts from now on, but for the sampler."""

    def __enter__(self) -> Tree:
        if os.getpgrp() != os.getpid():
            os.setpgid(0, 0)
        self._sampler = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.peak()  # as soon as it answers
        return self

    def __exit__(self, *_: object) -> None:
        self._sampler.communicate()

    def peak(self) -> int:
        """Bytes of all processes at their common peak since this was last asked for; a sample taken
        now begins and ends the time."""
        answers = self._sampler.stdout
        assert self._sampler.stdin is not None and answers is not None
        self._sampler.stdin.write(b"\n")
        self._sampler.stdin.flush()
        return int(answers.readline())


def _sample(group: int) -> None:
    """Print the peak for each line of the standard input, until that ends."""
    members: list[str] = []
    looked = peak = 0.0
    while True:
        asked = bool(select.select([0], [], [], PAUSE)[0])
        if asked and not os.read(0, 1):
            return
        if asked or time.monotonic() > looked + LOOK:
            members, looked = _members(group), time.monotonic()
        now = sum(map(_held, members))
        peak = max(peak, now)
        if asked:
            print(int(peak), flush=True)
            peak = now


def _members(group: int) -> list[str]:
    """The processes of a group, the fifth field of proc_pid_stat(5)."""
    found: list[str] = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/stat") as file:
                if int(file.read().rpartition(")")[2].split()[2]) == group:
                    found.append(process)
        except OSError:  # it has ended
            pass
    return found


def _held(process: str) -> int:
    try:
        with open(f"/proc/{process}/smaps_rollup") as file:
            return next((int(x.split()[1]) * 1024 for x in file if x.startswith("Pss:")), 0)
    except OSError:
        return 0


if __name__ == "__main__":
    _sample(int(sys.argv[1]))
