"""Dataclasses that are quick to define mean what those of the library mean."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import FrozenInstanceError, field
from typing import Any, ClassVar

import pytest

from dualmode_compiler.records import SOME, dataclass


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: float = 2.0


@dataclass
class Open:
    shared: ClassVar[int] = 7
    a: int
    items: list[int] = field(default_factory=list, repr=False)
    double: int = field(init=False)
    kind: str = field(default="x", init=False, compare=False)

    def __post_init__(self) -> None:
        self.double = 2 * self.a


@dataclass(slots=True)
class Child(Open):
    c: int = 3


@dataclass(frozen=True, eq=False)
class Same:
    a: int


@dataclass(frozen=True)
class Spoken:
    a: int

    def __repr__(self) -> str:
        return f"<{self.a}>"

    def __hash__(self) -> int:
        return 5


@pytest.fixture(params=["early", "late"], autouse=True)
def number_of_objects(request: pytest.FixtureRequest) -> None:
    """`__init__` is another function once a class has made some objects."""
    if request.param == "late":
        for cls in (Point, Open, Child, Same, Spoken):
            for _ in range(SOME + 1):
                cls(1)


def test_fields_are_given_by_place_by_name_or_by_default() -> None:
    assert [Point(1), Point(y=2.0, x=1), Point(1, 2.0)] == [Point(1, 2.0)] * 3
    assert (Point(3).x, Point(3).y) == (3, 2.0)
    made = Child(4, c=5)
    assert (made.a, made.items, made.double, made.kind, made.c, made.shared) == (
        *(4, [], 8, "x", 5),
        7,
    )
    assert Open(1).items is not Open(1).items


@pytest.mark.parametrize("arguments", [(), (1, 2, 3), (1, 2, 3, 4)])
def test_wrong_arguments_are_told_as_for_any_function(arguments: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match=r"Point.__init__\(\)"):
        Point(*arguments)
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        Point(1, z=2)  # pyright: ignore


def test_equality_and_hash_are_those_of_the_fields() -> None:
    assert Point(1) == Point(1) != Point(2)
    assert hash(Point(1)) == hash(Point(1))
    assert Point(1) != (1, 2.0)
    assert Open(1) != Child(1)
    other = Open(1)
    other.kind = "y"
    assert Open(1) == other
    with pytest.raises(TypeError, match="unhashable"):
        hash(Open(1))
    one = Same(1)
    assert one == one and one != Same(1) and hash(one) != hash(Same(1))
    assert Spoken(1) == Spoken(1) != Spoken(2) and hash(Spoken(1)) == 5


def test_frozen_ones_do_not_change() -> None:
    point = Point(1)
    for change in (lambda: setattr(point, "x", 2), lambda: delattr(point, "x")):
        with pytest.raises(FrozenInstanceError, match="field 'x'"):
            change()
    made = Open(1)
    made.a = 2
    assert made.a == 2


def test_how_they_are_shown() -> None:
    assert repr(Point(1)) == "Point(x=1, y=2.0)"
    assert repr(Open(1)) == "Open(a=1, double=2, kind='x')"
    assert repr(Spoken(1)) == "<1>"


@pytest.mark.parametrize("x", [Point(1, 3.0), Open(1, [4]), Child(2), Spoken(6)], ids=str)
def test_they_can_be_copied_and_kept(x: Any) -> None:
    assert pickle.loads(pickle.dumps(x)) == copy.copy(x) == copy.deepcopy(x) == x


def test_the_library_knows_them() -> None:
    assert dataclasses.is_dataclass(Point)
    assert [f.name for f in dataclasses.fields(Point)] == ["x", "y"]
    assert dataclasses.astuple(Point(1)) == (1, 2.0)
    assert dataclasses.replace(Point(1), y=5.0) == Point(1, 5.0)
    assert not hasattr(Point(1), "__dict__")
    match Point(1):
        case Point(x, y):
            assert (x, y) == (1, 2.0)
