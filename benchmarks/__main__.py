"""The command line: `python -m benchmarks run tiny mnist_mlp --peers torch,jax`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import contestants, fresh, measure, report, workloads

NAMES = (*workloads.WORKLOADS, *fresh.ABOUT)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list workloads, and peers that are installed")
    run = commands.add_parser("run", help="measure, and print a table")
    run.add_argument("names", nargs="*", metavar="NAME", help="workloads; all unless given")
    run.add_argument("--peers", help="comma-separated; all that are installed unless given")
    run.add_argument("--threads", help="comma-separated; all cores and one unless given")
    run.add_argument("--seconds", type=float, default=2.0, help="time of each contestant")
    run.add_argument("--rounds", type=int, default=7, help="blocks that this time is cut into")
    run.add_argument(
        "--quantile",
        type=float,
        default=0.5,
        help="which of a block's samples counts; 0.1 on a machine that does other work too",
    )
    run.add_argument("--quick", action="store_true", help="rough figures: 0.3 s in 3 rounds")
    run.add_argument("--json", metavar="FILE", help="save all figures")
    run.add_argument("--plot", metavar="FILE", help="draw them; needs matplotlib")
    args = parser.parse_args(argv)
    if args.command == "list":
        return _list()
    if unknown := [name for name in args.names if name not in NAMES]:
        parser.error(f"no workload {unknown[0]!r}; there are {', '.join(NAMES)}")
    try:
        peers = _peers(args.peers)
        threads = _threads(args.threads)
    except ValueError as error:
        parser.error(str(error))
    return _run(args, peers, threads)


def _list() -> int:
    for name, about in (workloads.ABOUT | fresh.ABOUT).items():
        print(f"{name:<12} {about}")
    print(f"peers: {', '.join(contestants.installed(contestants.PEERS))}")
    return 0


def _peers(text: str | None) -> list[str]:
    if text is None:
        return contestants.installed(contestants.DEFAULT_PEERS)
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in contestants.PEERS]:
        raise ValueError(f"no peer {unknown[0]!r}; there are {', '.join(contestants.PEERS)}")
    found = contestants.installed(names)
    if missing := [name for name in names if name not in found]:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
    return found


def _threads(text: str | None) -> list[int]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if text is None:
        return sorted({cores or 1, 1}, reverse=True)
    counts = [int(part) if part.isdigit() else 0 for part in text.split(",")]
    if not all(1 <= n <= (cores or 1) for n in counts):
        raise ValueError(f"--threads: numbers from 1 to {cores}, the cores there are, not {text!r}")
    return counts


def _run(args: argparse.Namespace, peers: Sequence[str], threads: Sequence[int]) -> int:
    seconds, rounds = (0.3, 3) if args.quick else (args.seconds, args.rounds)
    names = args.names or NAMES
    taking_part = contestants.selected(peers)
    results: list[measure.Result] = []
    measured: list[fresh.Measured] = []
    for name in names:
        if name in workloads.WORKLOADS:
            cases = workloads.WORKLOADS[name]
            for n in threads:
                results += measure.run(name, cases, taking_part, n, seconds, rounds, args.quantile)
        elif name == "import":
            measured += fresh.imports(taking_part, rounds)
        elif name == "first_call":
            measured += fresh.first_calls(taking_part, max(threads), rounds)
        else:
            measured += fresh.memory(max(threads), rounds=1 if args.quick else 3)
    print(report.tables(results, measured))
    if args.json:
        settings = {
            "peers": list(peers),
            "seconds": seconds,
            "rounds": rounds,
            "quantile": args.quantile,
        }
        report.save(args.json, settings, results, measured)
    if args.plot and results:
        report.draw(args.plot, results)
    return 1 if any(r.error for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
