"""Levels, eigenvectors and gaps against NumPy's singular values in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dysonjax import spectra
from dysonjax.kernels import singular_values

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
        many = jnp.tile(jnp.asarray(w), (64, 1, 1))
        np.testing.assert_allclose(spectra.levels(many)[:2], levels, rtol=1e-12)


def hard_cases(shape):
    """280 matrices in float32: ordinary ones, and those with zeros, equal rows, few directions, rows of all lengths."""
    w = np.random.default_rng(shape).normal(size=(280, *shape)).astype(np.float32)
    w[3], w[4, 0], w[5], w[6, :, 1:], w[7, -1] = 0, 0, w[5, :1], 0, w[7, 0]
    w[8] *= 1e-15
    w[9] *= 1e15
    w[10] *= np.float32(10.0) ** -np.arange(shape[0])[:, None]
    w[11] = np.eye(*shape)
    w[12] = np.ones(shape)
    return w


@pytest.mark.parametrize(
    ("shape", "mapped"),
    [
        ((2, 3), True),
        ((3, 2), False),
        ((15, 20), True),
        ((16, 32), True),
        ((32, 16), False),
        ((17, 18), True),
        ((1, 4), False),
    ],
)
def test_levels_and_vectors_of_many(shape, mapped):
    """Those of up to 16 levels side by side, stacked by hand or by `vmap`, others by the library."""
    w = hard_cases(shape)
    given = np.moveaxis(w.reshape(4, 70, *shape), 1, -1) if mapped else w
    call = lambda f: jax.jit(jax.vmap(jax.vmap(f, -1)) if mapped else f)(given)  # noqa: E731
    levels, (values, vectors) = call(spectra.levels), call(spectra.levels_and_vectors)
    levels, values, vectors = (np.asarray(x).reshape(280, *x.shape[1 + mapped :]) for x in (levels, values, vectors))
    exact = np.linalg.svd(w.astype(float), compute_uv=False) ** 2
    largest, w, k = exact[:, :1], w.astype(float), min(shape)
    for found in (levels, values):
        assert np.all(np.diff(found) <= 0)
        assert np.max(np.abs(found - exact) / (largest + 1e-37)) < 3e-6
    assert np.abs(vectors.swapaxes(1, 2) @ vectors - np.eye(k)).max() < 3e-6
    turned = vectors.swapaxes(1, 2) @ w @ w.swapaxes(1, 2) @ vectors
    assert np.max(np.abs(turned - exact[:, :, None] * np.eye(k)) / (largest[:, :, None] + 1e-37)) < 4e-6


@pytest.mark.parametrize("shape", [(40, 20), (17, 36)])
def test_levels_and_vectors_as_on_an_accelerator(monkeypatch, shape):
    """There larger matrices are solved side by side, too: the library would take one after the other."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    monkeypatch.setattr(singular_values, "ENTRIES", 100 * shape[0] * shape[1])  # some groups, the last one filled up
    w, k = hard_cases(shape), min(shape)
    values, vectors = (np.asarray(x) for x in jax.jit(lambda w: spectra.levels_and_vectors(w))(w))
    exact = np.linalg.svd(w.astype(float), compute_uv=False) ** 2
    assert np.max(np.abs(values - exact) / (exact[:, :1] + 1e-37)) < 3e-6
    assert np.abs(vectors.swapaxes(1, 2) @ vectors - np.eye(k)).max() < 3e-6
    text = jax.jit(lambda w: spectra.levels(w)).lower(w).as_text()
    assert "while" in text and "while" not in jax.jit(lambda w: spectra.levels(w)).lower(w[:7]).as_text()


def test_sick_matrices_leave_their_neighbours_alone():
    w = hard_cases((6, 9))
    well = [np.asarray(x) for x in jax.jit(spectra.levels_and_vectors)(w)]
    w[[2, 20]], w[33, 4, 4] = np.nan, np.inf
    sick = [np.asarray(x) for x in jax.jit(spectra.levels_and_vectors)(w)]
    others = np.delete(np.arange(280), [2, 20, 33])
    for before, after in zip(well, sick, strict=True):
        np.testing.assert_array_equal(before[others], after[others])
    assert np.isnan(sick[0][[2, 20, 33]]).all()


def test_levels_and_vectors_of_one_matrix_are_one_work():
    """A snapshot that asks for both, in two places, must not pay twice."""
    both = jax.vmap(lambda w: (spectra.levels(w), spectra.levels_and_vectors(w)[1]), -1, -1)
    compiled = jax.jit(both).lower(jnp.zeros((16, 32, 8))).compile().as_text()
    assert compiled is not None and compiled.count(" rsqrt(") == 1


def test_derivatives_are_those_of_singular_values():
    """∂λ/∂W = 2 σ u vᵀ, whoever has found the levels; a sum over all of them is the squared norm."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=(70, 4, 6)), jnp.float32)
    np.testing.assert_allclose(jax.grad(lambda w: jnp.sum(spectra.levels(w)))(w), 2 * w, rtol=2e-4, atol=2e-5)
    largest = jax.vmap(jax.grad(lambda w: spectra.levels_and_vectors(w)[0][0]))(w)
    u, s, v = np.linalg.svd(np.asarray(w, float), full_matrices=False)
    np.testing.assert_allclose(largest, 2 * s[:, :1, None] * u[:, :, :1] * v[:, :1], rtol=1e-4, atol=1e-4)


def test_gaps_are_distances_of_neighbours():
    falling = jnp.array([[7.0, 4.0, 3.5], [2.0, 2.0, -1.0]])
    np.testing.assert_array_equal(spectra.gaps(falling), [[3.0, 0.5], [0.0, 3.0]])
    np.testing.assert_array_equal(spectra.gaps(falling[:, ::-1]), [[0.5, 3.0], [3.0, 0.0]])
    assert spectra.gaps(jnp.array([5.0])).shape == (0,)  # one level has no neighbour
