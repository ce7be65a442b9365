"""The terms of the gradient-noise scale, where they are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dysonjax as dj
from dysonjax.experiments.learning.gradient_noise import gradient_noise
from tests.stochastic import assert_mean

X = (np.random.default_rng(3).normal(size=(50, 2)) * [1, 2] + [3, 0]).astype(np.float32)


def loss(params, example):
    return 0.5 * jnp.sum((params["w"] - example) ** 2)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_variance_and_square_of_a_quadratic_loss(batch_size):
    """The gradient is w − x: tr Σ is the variance of the data, |G|² the square of w's distance from their mean."""
    model = dj.models.FunctionModel(lambda key: {"w": jnp.zeros(2)}, loss, X, watch=None)
    grid = dj.Grid(learning_rate=[0.01], batch_size=[batch_size], seed=range(1000))
    ds = dj.scan(dj.train(model), grid, 1, observables=(gradient_noise(model),), progress=False)
    assert_mean(ds.gradient_variance.isel(snapshot=0).values.ravel(), X.var(axis=0).sum(), resolution=0.8)
    assert_mean(ds.gradient_square.isel(snapshot=0).values.ravel(), (X.mean(axis=0) ** 2).sum(), resolution=1.2)


def test_batches_of_a_data_function():
    """Data N(0, 1) at w = 2: tr Σ = 1, |G|² = 4."""

    draw = lambda key, count: jax.random.normal(key, (count, 1))  # noqa: E731
    model = dj.models.FunctionModel(lambda key: {"w": jnp.full(1, 2.0)}, loss, draw, watch=None)
    grid = dj.Grid(learning_rate=[0.01], batch_size=[4], seed=range(1000))
    ds = dj.scan(dj.train(model), grid, 1, observables=(gradient_noise(model),), progress=False)
    assert_mean(ds.gradient_variance.isel(snapshot=0).values.ravel(), 1, resolution=0.2)
    assert_mean(ds.gradient_square.isel(snapshot=0).values.ravel(), 4, resolution=0.4)
