"""The command `dualmode`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec

from . import __version__
from .table import text_table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own). Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="dualmode", description="A tensor engine with one op set and two modes."
    )
    parser.add_argument("--version", action="version", version=f"dualmode {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    demo = commands.add_parser("demo", help="train two models in both modes and compare them")
    demo.add_argument("--quick", action="store_true", help="fewer epochs")
    demo.add_argument("--plot", metavar="FILE.png", help="draw the loss curves to this file")
    cache = commands.add_parser("cache", help="compiled code that is kept on disk")
    cache.add_argument(
        "action",
        choices=["list", "clear", "path"],
        help="show its entries, the latest used first; remove them all; say where it is",
    )
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        status = _cache(args.action) if args.command == "cache" else _demo(args.quick, args.plot)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _cache(action: str) -> int:
    from dualmode_compiler.runtime import cache

    if action == "path":
        print(cache.path())
    elif action == "clear":
        print(f"{_entries(cache.clear())} removed from {cache.path()}")
    else:
        entries = cache.entries()
        rows = [(e.key, f"{e.size:,}", _when(e.used)) for e in entries]
        if rows:
            print("\n".join(text_table(("entry", "bytes", "last used"), rows)))
        total = sum(e.size for e in entries)
        print(f"{_entries(len(entries))}, {total / 2**20:.1f} MiB, in {cache.path()}")
    return 0


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _demo(quick: bool, plot: str | None) -> int:
    from . import demo

    problem = None if plot is None else _cannot_plot(plot)
    if problem is not None:
        print(f"dualmode demo: {problem}", file=sys.stderr)
        return 1
    demo.main(quick, plot)
    return 0


def _cannot_plot(path: str) -> str | None:
    """Why no plot can be written, asked before the training rather than after it."""
    if find_spec("matplotlib") is None:
        return "--plot needs matplotlib: pip install matplotlib"
    directory = os.path.dirname(path) or "."
    return None if os.path.isdir(directory) else f"--plot: there is no directory {directory}"


if __name__ == "__main__":
    sys.exit(main())
