"""The command line: `python -m benchmarks run tiny mnist_mlp --peers torch,jax`."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from . import contestants, figures, report, results, suite
from .figures import Figures
from .suite import Settings

FOLDER = Path(__file__).parent
SAVED = FOLDER / "results.json"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list benchmarks, and peers that are installed")
    run = commands.add_parser("run", help="measure, and print tables")
    run.add_argument("--plot", metavar="FILE", help="draw the times; needs matplotlib")
    check = commands.add_parser("check", help="measure, and print goals beside figures")
    write = commands.add_parser(
        "report",
        help="measure, and write RESULTS.md, its pictures, and the results in the README; with"
        " names, the other figures stay as they were saved",
    )
    for command in (run, check, write):
        _add_options(command)
    for command in (check, write):
        command.add_argument(
            "--from",
            dest="saved",
            metavar="FILE",
            nargs="+",
            help="measure nothing, but take the figures from files that --json wrote",
        )
    write.add_argument(
        "--to", default=str(FOLDER), metavar="FOLDER", help="for RESULTS.md and pictures/"
    )
    write.add_argument("--readme", metavar="FILE", help="rewrite the results in this file, too")
    args = parser.parse_args(argv)
    if args.command == "list":
        return _list()
    if unknown := [name for name in args.names if name not in suite.NAMES]:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(suite.NAMES)}")
    try:
        settings = _settings(args)
    except ValueError as error:
        parser.error(str(error))
    return _run(args, settings)


def _add_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("names", nargs="*", metavar="NAME", help="benchmarks; all unless given")
    add("--cases", default="", help="only cases whose name has this text in it")
    add("--peers", help="comma-separated; all that are installed unless given")
    add("--threads", help="comma-separated; all cores and one unless given")
    add("--seconds", type=float, help="time of each contestant; 2, or 1 for a report")
    add("--rounds", type=int, default=7, help="blocks that this time is cut into")
    add(
        "--quantile",
        type=float,
        default=0.5,
        help="which of a block's samples counts; 0.1 on a machine that does other work too",
    )
    add("--quick", action="store_true", help="rough figures: 0.3 s in 3 rounds, on all cores")
    add("--json", metavar="FILE", help=f"save all figures; a report does, as {SAVED.name}")


def _list() -> int:
    for name, about in suite.ABOUT.items():
        print(f"{name:<13} {about}")
    print(f"peers: {', '.join(contestants.installed(contestants.PEERS))}")
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    seconds = args.seconds or (1.0 if args.command == "report" else 2.0)
    if args.quick:
        seconds, args.rounds = 0.3, 3
        args.threads = args.threads or str(suite.cores())
    return Settings(
        _peers(args.peers, args.command),
        _threads(args.threads),
        seconds,
        args.rounds,
        args.quantile,
        args.cases,
    )


def _peers(text: str | None, command: str) -> list[str]:
    if text is None:
        # torch.compile takes minutes of a run, and a C++ compiler
        everyone = command == "report" and shutil.which("c++")
        return contestants.installed(contestants.PEERS if everyone else contestants.DEFAULT_PEERS)
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in contestants.PEERS]:
        raise ValueError(f"no peer {unknown[0]!r}; there are {', '.join(contestants.PEERS)}")
    found = contestants.installed(names)
    if missing := [name for name in names if name not in found]:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
    return found


def _threads(text: str | None) -> list[int]:
    cores = suite.cores()
    if text is None:
        return sorted({cores, 1}, reverse=True)
    counts = [int(part) if part.isdigit() else 0 for part in text.split(",")]
    if not all(1 <= n <= cores for n in counts):
        raise ValueError(f"--threads: numbers from 1 to {cores}, the cores there are, not {text!r}")
    return counts


def _run(args: argparse.Namespace, settings: Settings) -> int:
    path = args.json or (str(SAVED) if args.command == "report" else "")
    if getattr(args, "saved", None):
        found = figures.load(args.saved)
    else:
        known = args.command == "report" and args.names and Path(path).exists()
        found = figures.load([path]) if known else Figures()
        for name in args.names or suite.NAMES:
            found.merge(suite.run(name, settings))
            if path:  # after each, as a long run may be cut off
                found.save(path)
    match args.command:
        case "run":
            print(report.tables(found.results, found.measured))
            if args.plot and found.results:
                from . import pictures

                pictures.draw(args.plot, found.results)
        case "check":
            print(report.goals(found.results, found.measured))
        case "report":
            results.write(found, Path(args.to))
            if args.readme:
                results.rewrite(found, Path(args.readme))
    return 1 if any(r.error for r in found.results) else 0


if __name__ == "__main__":
    sys.exit(main())
