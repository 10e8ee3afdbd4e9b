"""Small real data sets that ship with the package; sources and licences are in README.md here."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Table", "digits", "iris"]

IRIS_FEATURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
IRIS_SPECIES = ("setosa", "versicolor", "virginica")


class Table(NamedTuple):
    """A data set in memory.

    Attributes:
        data: float32[rows, features].
        target: int32[rows]: the class of each row, an index into `target_names`.
        feature_names: one name per column of `data`.
        target_names: one name per class.
    """

    data: np.ndarray[Any, np.dtype[np.float32]]
    target: np.ndarray[Any, np.dtype[np.int32]]
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]


def iris() -> Table:
    """Fisher's iris flowers: float32[150,4] measures in cm, 50 rows of each of 3 species in turn.

    Source: R. A. Fisher, "The use of multiple measurements in taxonomic problems" (1936).
    """
    return _load("iris", IRIS_FEATURES, IRIS_SPECIES)


def digits() -> Table:
    """Handwritten digits: float32[1797,64], each row an 8x8 image of pixels 0 (paper) to 16 (ink).

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits" (1998), test set.
    """
    pixels = tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8))
    return _load("digits", pixels, tuple(map(str, range(10))))


def _load(name: str, features: tuple[str, ...], classes: tuple[str, ...]) -> Table:
    resource = files(__name__).joinpath(f"{name}.npz")
    with resource.open("rb") as file, np.load(file) as archive:
        data, target = archive["data"], archive["target"]
    return Table(data.astype(np.float32), target.astype(np.int32), features, classes)
