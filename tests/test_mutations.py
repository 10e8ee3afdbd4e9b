"""The mutations of `mutate.py` fit the code as it is, and tests notice them."""

from __future__ import annotations

import random

import pytest

from mutate import MUTATIONS, survivors

SOME = random.Random(0).sample(MUTATIONS, 6)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_the_text_is_there_once(mutation):
    assert mutation.occurrences() == 1, f"{mutation.file} has changed: give {mutation.old!r} anew"


def test_names_are_unique():
    names = [m.name for m in MUTATIONS]
    assert len(set(names)) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("mutation", SOME, ids=str)
def test_a_test_notices(mutation):
    assert not survivors([mutation], say=False)
