"""FizzBuzz: a Python loop over a tensor of unknown size, with branches that print.

Eagerly the loop and the branches are Python's own; compiled they are native code, which prints the
same lines. Run `python examples/fizzbuzz.py --mode compiled`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import dualmode as dm


def fizzbuzz(largest: Any) -> Any:
    """Print the game from 1 to `largest`; gives how many numbers were printed as such."""
    numbers = 0
    for i in dm.range(1, largest + 1):
        if i % 3 == 0 and i % 5 == 0:
            dm.print("FizzBuzz")
        elif i % 3 == 0:
            dm.print("Fizz")
        elif i % 5 == 0:
            dm.print("Buzz")
        else:
            dm.print(i)
            numbers += 1
    return numbers


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("eager", "compiled"), default="compiled")
    parser.add_argument("--largest", type=int, default=15)
    args = parser.parse_args(argv)

    play = dm.function(fizzbuzz) if args.mode == "compiled" else fizzbuzz
    numbers = play(dm.asarray(args.largest))
    dm.print(numbers, "plain numbers")
    return {"numbers": int(numbers)}


if __name__ == "__main__":
    main()
