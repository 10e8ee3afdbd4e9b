"""Input pipelines: `Dataset` as in TensorFlow 2's `tf.data`."""

from __future__ import annotations

from .dataset import INFINITE_CARDINALITY, UNKNOWN_CARDINALITY, Dataset

__all__ = ["INFINITE_CARDINALITY", "UNKNOWN_CARDINALITY", "Dataset"]
