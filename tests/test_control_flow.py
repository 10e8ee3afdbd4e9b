"""Python's control flow on tensors: results, prints, variables and errors of both modes."""

from __future__ import annotations

from typing import Any

import pytest

from control_flow import CONSTRUCTS, check, define, nest, nested
from control_flow_programs import PROGRAMS

INPUTS = ([0.5, 1.0, 2.0], [-3.0, 0.25, 1.0], [2.0, 8.0, 0.0])
NESTED = dict(nested(160))


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_alone(name: str) -> None:
    check(define(nest((name,), "x = x * 1.5 + s\ndm.print(dm.floor(s))"), name), *INPUTS)


@pytest.mark.parametrize("name", NESTED)
def test_nested(name: str) -> None:
    check(define(NESTED[name], name), *INPUTS)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda fn: fn.__name__)
def test_by_hand(program: Any) -> None:
    check(program, *INPUTS)


def test_there_are_many() -> None:
    assert len(PROGRAMS) + len(CONSTRUCTS) + len(NESTED) >= 200
