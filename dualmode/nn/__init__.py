"""Layers and models, as in Keras."""

from __future__ import annotations

from . import activations, initializers
from .layer import Layer
from .layers import Activation, Dense, Dropout, Flatten
from .model import Model, Sequential

__all__ = [
    "Activation",
    "Dense",
    "Dropout",
    "Flatten",
    "Layer",
    "Model",
    "Sequential",
    "activations",
    "initializers",
]
