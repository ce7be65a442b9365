"""Resampling by hand: what is left out, and errors that are known in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

from dysonjax import spectra
from dysonjax.spectra.resampling import bootstrap_error, jackknife_error, jackknifed, left_out, parts, pseudo_values

X = np.random.default_rng(7).normal(size=(12, 3))


def mean(x):
    return x.mean(axis=0)


@pytest.mark.parametrize("groups", [None, 4, np.arange(12) % 4])
def test_compiled_or_not_the_jackknife_is_one(groups):
    """On groups of one size; those of every fourth replica by hand."""
    without = left_out(mean, X, groups)
    if isinstance(groups, np.ndarray):
        np.testing.assert_allclose(without, [X[np.arange(12) % 4 != g].mean(axis=0) for g in range(4)], rtol=1e-12)
        return
    compiled = spectra.jackknife(lambda x: jnp.mean(x, axis=0), X, groups)
    found = jackknifed(mean(X), without, len(X))
    np.testing.assert_allclose(found.value, compiled.value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.error, compiled.error, rtol=1e-5)
    np.testing.assert_allclose(pseudo_values(mean(X), without).mean(axis=0), found.value, rtol=1e-12, atol=1e-15)


def test_error_of_a_mean_is_its_standard_error():
    wanted = X.std(axis=0, ddof=1) / np.sqrt(12)
    np.testing.assert_allclose(jackknife_error(left_out(mean, X)), wanted, rtol=1e-12)
    across = left_out(lambda x: x.mean(axis=1), X.T, axis=1)
    np.testing.assert_allclose(jackknife_error(across), wanted, rtol=1e-12)
    assert np.isnan(jackknife_error(np.ones((1, 3)))).all()


def test_groups_that_are_not_of_one_size():
    assert [len(part) for part in parts(7, 3)] == [3, 2, 2]
    assert [part.tolist() for part in parts(4, np.array([1, 0, 1, 1]))] == [[1], [0, 2, 3]]


def test_error_of_samples_drawn_anew():
    np.testing.assert_allclose(bootstrap_error(X), X.std(axis=0, ddof=1), rtol=1e-12)
