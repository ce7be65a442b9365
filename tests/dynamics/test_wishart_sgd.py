"""Wishart, Gaussian and measured second moments of a batch against exact moments and against real samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from stochastic import assert_law, assert_mean

from dysonjax.dynamics import wishart_sgd as moments
from dysonjax.kernels import random_numbers as noise

REPLICAS = 20000
KEYS = jax.random.split(jax.random.key(11), REPLICAS)
D = 3


def moment_of(draw, batch, *more):
    size = jnp.full(REPLICAS, float(batch))
    return np.moveaxis(jax.jit(lambda keys: draw(keys, D, size, *more))(KEYS), -1, 0)


def assert_covariance(s, batch):
    """⟨S⟩ = 1, var S_ii = 2/|B|, var S_ij = 1/|B|, different entries uncorrelated."""
    assert_mean(s, np.eye(D), resolution=0.07)
    assert_mean((s - np.eye(D)) ** 2, (np.ones((D, D)) + np.eye(D)) / batch, resolution=0.35 / np.sqrt(batch))
    assert_mean(s[:, 0, 1] * s[:, 0, 2], 0, resolution=0.2 / np.sqrt(batch))
    np.testing.assert_allclose(s, np.swapaxes(s, 1, 2), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 4, 30])
def test_wishart_moment_is_that_of_real_samples(batch):
    s = moment_of(moments.wishart_moment, batch)
    assert_covariance(s, batch)
    assert_law(batch * s[:, 1, 1], lambda x: scipy.stats.chi2.cdf(x, batch), resolution=0.02)
    levels = np.linalg.eigvalsh(s)
    singular = levels[:, : max(D - batch, 0)]
    assert np.all(np.abs(singular) <= 1e-5 * levels[:, -1:])
    z = np.random.default_rng(batch).normal(size=(REPLICAS, batch, D))
    real = np.linalg.eigvalsh(np.einsum("rbi,rbj->rij", z, z) / batch)
    for own, theirs in zip(levels.T, real.T, strict=True):
        if theirs.mean() > 1e-6:
            assert scipy.stats.ks_2samp(own, theirs).statistic < 0.03  # type: ignore[attr-defined]  # scipy has no types


def test_gaussian_moment():
    s = moment_of(moments.gaussian_moment, 4)
    assert_covariance(s, 4)
    assert_law(s[:, 0, 1] * 2, scipy.stats.norm.cdf, resolution=0.02)


def test_measured_moment_has_the_covariance_of_its_samples():
    assert_covariance(moment_of(moments.measured_moment, 4, 200), 4)


def test_batch_size_may_be_any_number_in_a_langevin_equation():
    size = jnp.linspace(0.5, 8, REPLICAS)
    s = np.moveaxis(np.asarray(moments.gaussian_moment(KEYS, D, size)), -1, 0)
    assert_mean((s[:, 0, 1]) ** 2 * np.asarray(size), 1, resolution=0.06)


@pytest.mark.parametrize("freedom", [0.0, 1.0, 2.0, 7.0, 0.5])
def test_chi_squared_of_traced_freedom(freedom):
    x = jax.jit(lambda keys, nu: noise.chi_squared(keys, nu, (2,)))(KEYS, jnp.full(REPLICAS, freedom))
    assert x.shape == (2, REPLICAS)
    if freedom == 0:
        assert not x.any()
    else:
        assert_law(np.ravel(x), lambda y: scipy.stats.chi2.cdf(y, freedom), resolution=0.015)


@pytest.mark.optimised  # it is about bits
def test_a_replicas_numbers_do_not_depend_on_its_neighbours():
    """The accepted attempt of one number must not change when another needs more attempts."""
    size = jnp.full(8, 3.0)
    draw = jax.jit(lambda keys, size: moments.wishart_moment(keys, D, size))
    some = draw(KEYS[:8], size)
    more = draw(KEYS[:64], jnp.full(64, 3.0))
    np.testing.assert_array_equal(some, more[..., :8])


def test_uniforms():
    assert_law(np.ravel(noise.uniforms(KEYS, (3,))), scipy.stats.uniform.cdf, resolution=0.015)
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 4000)
    assert_law(np.ravel(noise.uniforms(keys, (3,))), scipy.stats.uniform.cdf, resolution=0.03)
