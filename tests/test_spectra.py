"""Levels and gaps against NumPy's singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dysonjax import spectra

SHAPES = [(3, 5), (5, 3), (4, 4), (1, 6), (6, 1)]


def matrices(shape):
    """Two of them, in float64."""
    return np.random.default_rng(shape).normal(size=(2, *shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_levels_are_squared_singular_values(shape):
    """min(K, L) of them for K > L and for K < L: none of the exact zeros of W Wᵀ."""
    w = matrices(shape)
    levels = spectra.levels(jnp.asarray(w, jnp.float32))
    assert levels.shape == (2, min(shape))
    np.testing.assert_allclose(levels, np.linalg.svd(w, compute_uv=False) ** 2, rtol=2e-5)
    assert np.all(np.diff(levels) < 0)
    np.testing.assert_allclose(levels, spectra.levels(jnp.asarray(w.swapaxes(-1, -2), jnp.float32)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_levels_are_the_eigenvalues_of_w_wt(shape):
    w = matrices(shape)
    values = np.linalg.eigvalsh(w @ w.swapaxes(-1, -2))[:, ::-1][:, : min(shape)]
    np.testing.assert_allclose(spectra.levels(jnp.asarray(w, jnp.float32)), values, rtol=2e-5)


def test_levels_are_sorted_whatever_the_order_of_the_matrix():
    w = jnp.diag(jnp.array([1.0, -3.0, 2.0]))  # a singular value is positive, and so is its square
    np.testing.assert_allclose(spectra.levels(w), [9.0, 4.0, 1.0], rtol=1e-6)


def test_small_levels_keep_their_digits():
    """Forming W Wᵀ in float32 would lose a level 10⁻¹⁰ times the largest."""
    w = jnp.diag(jnp.array([1.0, 1e-5]))
    np.testing.assert_allclose(spectra.levels(w), [1.0, 1e-10], rtol=1e-5)


def test_double_precision_is_kept():
    w = matrices((3, 5))
    with jax.enable_x64(True):
        levels = spectra.levels(jnp.asarray(w))
        assert levels.dtype == spectra.gaps(levels).dtype == np.float64
        np.testing.assert_allclose(levels, np.linalg.svd(w, compute_uv=False) ** 2, rtol=1e-12)


def test_gaps_are_distances_of_neighbours():
    falling = jnp.array([[7.0, 4.0, 3.5], [2.0, 2.0, -1.0]])
    np.testing.assert_array_equal(spectra.gaps(falling), [[3.0, 0.5], [0.0, 3.0]])
    np.testing.assert_array_equal(spectra.gaps(falling[:, ::-1]), [[0.5, 3.0], [3.0, 0.0]])
    assert spectra.gaps(jnp.array([5.0])).shape == (0,)  # one level has no neighbour
