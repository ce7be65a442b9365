"""Models for commands and for `benchmarks.advise`: the networks of `benchmarks.networks` with test data, and two more.

dysonjax advise benchmarks.own_models:cnn --optimizer adam --budget 5m
dysonjax phase-diagram --model benchmarks.own_models:recurrent
"""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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


def tanh() -> models.FunctionModel:
    """The papers' network 3-32-16-1, of which the middle matrix is trained, with one teacher for all replicas."""
    teacher = models.TanhNetwork().task(jax.random.key(0))

    def output(w: jax.Array, x: jax.Array) -> jax.Array:
        return (teacher["Z"] @ jnp.tanh(w @ jnp.tanh(teacher["M"] @ x)))[0]

    return models.FunctionModel(
        lambda key: {"W": jax.random.normal(key, (16, 32)) / 32**0.5},
        lambda params, x: 0.5 * (output(params["W"], x) - output(teacher["W"], x)) ** 2,
        data=lambda key, num: jax.random.normal(key, (num, 3)),
    )


def unseen() -> models.FunctionModel:
    """Equinox: 30-64-64-2 with GELU and LayerNorm on the breast-cancer data of scikit-learn.

    For a run of `benchmarks.advise` after all tuning: no advice was tried on it before. Its optimiser is `momentum`.
    """
    eqx: Any = importlib.import_module("equinox")  # with the extra `bench`, as scikit-learn
    x, y = importlib.import_module("sklearn.datasets").load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)[order]
    y, trained = y.astype(np.int32)[order], 400

    def network(key: jax.Array) -> Any:
        first, second, last = jax.random.split(key, 3)
        of_layer, of_norm, gelu = eqx.nn.Linear, eqx.nn.LayerNorm(64), eqx.nn.Lambda(jax.nn.gelu)
        layers = [of_layer(30, 64, key=first), of_norm, gelu, of_layer(64, 64, key=second), of_norm, gelu]
        return eqx.nn.Sequential([*layers, of_layer(64, 2, key=last)])

    rest = eqx.partition(network(jax.random.key(0)), eqx.is_array)[1]

    def cross_entropy(arrays: Any, example: Any) -> jax.Array:
        inputs, label = example
        return -jax.nn.log_softmax(eqx.combine(arrays, rest)(inputs))[label]

    return models.FunctionModel(
        lambda key: eqx.filter(network(key), eqx.is_array),
        cross_entropy,
        data=(x[:trained], y[:trained]),
        test_data=(x[trained:], y[trained:]),
    )


def momentum(learning_rate: float) -> Any:
    """Gradient descent with momentum 0.9."""
    return importlib.import_module("optax").sgd(learning_rate, momentum=0.9)


def _model(name: str) -> models.FlaxModel:
    row = next(row for row in ROWS if row.name.startswith(name))
    x, y = row.data()
    return models.FlaxModel(
        row.module, row.loss, data=(x[:TRAINED], y[:TRAINED]), test_data=(x[TRAINED:], y[TRAINED:]), of_batch=True
    )
