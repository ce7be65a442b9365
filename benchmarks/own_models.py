"""The networks of `benchmarks.networks` as models with test data, for commands and for `benchmarks.advise`.

dysonjax advise benchmarks.own_models:cnn --optimizer adam --budget 5m
dysonjax phase-diagram --model benchmarks.own_models:recurrent
"""

from benchmarks.networks import ROWS
from dysonjax import models

TRAINED = 1500
"""Digits for training; the others are for tests."""


def mlp() -> models.FlaxModel:
    """64-32-10 with tanh."""
    return _model("64-32-10")


def cnn() -> models.FlaxModel:
    """Two convolutions."""
    return _model("CNN")


def transformer() -> models.FlaxModel:
    """Two layers of 32 channels."""
    return _model("transformer")


def recurrent() -> models.FlaxModel:
    """32 units that read a digit row by row."""
    return _model("RNN")


def _model(name: str) -> models.FlaxModel:
    row = next(row for row in ROWS if row.name.startswith(name))
    x, y = row.data()
    return models.FlaxModel(
        row.module, row.loss, data=(x[:TRAINED], y[:TRAINED]), test_data=(x[TRAINED:], y[TRAINED:]), of_batch=True
    )
