"""Kicks against the exact laws of the matrices they stand for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from stochastic import assert_law, assert_mean

from dysonjax import schemes
from dysonjax.kernels import random_numbers as noise

KEYS = jax.random.split(jax.random.key(11), 2**16)
SYMMETRIC = [(name, beta) for name, s in schemes.ALL.items() for beta in (s.betas or (1, 2, 2.5))]
EXACT = [("matrix_kick", 1), ("matrix_kick", 2), ("matrix_kick", 4), ("pairwise_kick", 1), ("pairwise_kick", 2.5)]


@functools.cache
def program(name, beta, rows):
    """A kick, compiled once for all levels, variances and keys of the same shapes."""

    def kicked(keys, x, variance):
        start = jnp.broadcast_to(x[:, None], (len(x), len(keys)))
        return schemes.ALL[name].kick(
            keys, start, jnp.broadcast_to(variance[..., None], (*variance.shape, len(keys))), beta, rows
        )

    return jax.jit(kicked)


def kick(name, x, variance, beta=1.0, rows=None, keys=KEYS):
    """Levels [R, n] after one kick of all keys from levels x [n]."""
    profile = jnp.asarray(variance, float)
    kicked = program(name, beta, rows)(keys, jnp.asarray(x, float), profile if profile.ndim else profile.reshape(1, 1))
    assert not np.any(kicked.unconverged)
    return np.asarray(kicked.x, float).T


@pytest.mark.parametrize(("name", "beta"), EXACT)
@pytest.mark.parametrize("gap", [0.0, 0.3, 3.0])
def test_two_levels_follow_the_bessel_process(name, beta, gap):
    """The squared gap over 4v is non-central χ² with 1 + β degrees of freedom; the sum is normal."""
    x = kick(name, [gap / 2, -gap / 2], 0.1, beta)
    assert_law(
        (x[:, 0] - x[:, 1]) ** 2 / 0.4,
        lambda y: scipy.stats.ncx2.cdf(y, 1 + beta, gap**2 / 0.4 + 1e-12),
        resolution=0.012,
    )
    assert_law(x.sum(1) / np.sqrt(0.4), scipy.stats.norm.cdf, resolution=0.012)


@pytest.mark.parametrize(("name", "beta"), [*EXACT, ("pairwise_kick", 4)])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_one_singular_value_is_a_chi(name, beta, rows):
    x = kick(name, [0.4], 0.1, beta, rows)
    assert_law(x[:, 0] ** 2 / 0.1, lambda y: scipy.stats.ncx2.cdf(y, beta * rows, 0.16 / 0.1), resolution=0.012)


@pytest.mark.parametrize(("name", "beta"), SYMMETRIC)
def test_repulsion_is_half_beta_times_the_noise_rate(name, beta):
    """Far apart, a short kick has drift β v Σ 1/(x_i − x_j) and noise 2v."""
    levels, v = np.array([1.0, 0.1, -1.2]), 2e-3
    x = kick(name, levels, v, beta)
    noise_free = beta * v * np.sum(1 / (levels[:, None] - levels + np.diag([np.inf] * 3)), axis=1)
    assert_mean((x - levels) / v, noise_free / v, bias=0.02 * beta, resolution=0.75 + 0.02 * beta)
    assert_mean(((x - levels) / np.sqrt(2 * v)) ** 2, 1, bias=0.01 * beta, resolution=0.07)


@pytest.mark.parametrize("name", ["matrix_kick", "pairwise_kick", "euler_maruyama"])
@pytest.mark.parametrize("beta", [1, 2])
@pytest.mark.parametrize("rows", [2, 5])
def test_repulsion_of_singular_values(name, beta, rows):
    levels, v = np.array([2.0, 1.0]), 2e-3
    x = kick(name, levels, v, beta, rows)
    pair = np.array([1 / (2 - 1) + 1 / 3, 1 / (1 - 2) + 1 / 3])
    assert_mean((x - levels) / v, beta / 2 * pair + (beta * (rows - 1) - 1) / (2 * levels), bias=0.03, resolution=0.55)
    assert_mean(((x - levels) / np.sqrt(v)) ** 2, 1, bias=0.01 * beta, resolution=0.06)


@pytest.mark.parametrize("beta", [1, 2, 4])
def test_matrix_kick_has_the_moments_of_its_matrix(beta):
    """E tr M² for M = diag(x) + noise with a variance profile, and its variance for one variance."""
    x = np.array([1.0, 0.7, 0.6, -0.2])
    profile = 0.1 * (1 + np.add.outer(x, x) ** 2)
    off = profile.sum() - np.trace(profile)
    assert_mean(
        (kick("matrix_kick", x, profile, beta) ** 2).sum(1),
        (x**2).sum() + beta * off + 2 * np.trace(profile),
        resolution=0.15,
    )
    square = (kick("matrix_kick", x, 0.2, beta) ** 2).sum(1)
    variance = (8 * 0.2 * x**2 + 8 * 0.2**2).sum() + 6 * 8 * beta * 0.2**2
    assert_mean((square - square.mean()) ** 2, variance, resolution=0.2 * variance)


@pytest.mark.parametrize("beta", [1, 2, 4])
@pytest.mark.parametrize("rows", [3, 4, 6, 9])
def test_singular_values_have_wishart_moments(beta, rows):
    """E tr X = Σx + β v n M and E tr X² of a non-central Wishart matrix; rows beyond 2n by Bartlett's triangle."""
    xi, v, n = np.array([1.0, 0.8, 0.3]), 0.2, 3
    x = kick("matrix_kick", xi, v, beta, rows) ** 2
    assert_mean(x.sum(1), (xi**2).sum() + beta * v * n * rows, resolution=0.1 * beta * rows)
    w = beta * v  # variance of an entry
    cross = {1: v * (2 * (n + rows) + 2), 2: w * 2 * (n + rows), 4: w * 2 * (n + rows) - 2 * v * 2}[beta]
    pure = {1: v * v * (n + rows + 1), 2: w * w * (n + rows), 4: w * w * (n + rows - 0.5)}[beta] * n * rows
    assert_mean((x**2).sum(1), (xi**4).sum() + cross * (xi**2).sum() + pure, resolution=1.1 * beta**2 * rows)
    assert np.all(x >= 0)


@pytest.mark.parametrize(("name", "beta"), [case for case in SYMMETRIC if case[0] != "euler_maruyama"])
@pytest.mark.parametrize("n", [1, 2, 5, 33])
def test_levels_stay_in_order(name, beta, n):
    """Even when the kick is far wider than the gaps."""
    keys = KEYS[:64]
    x = kick(name, np.linspace(1e-3, -1e-3, n) if n > 1 else [0.0], 1.0, beta, keys=keys)
    assert np.all(np.diff(x, axis=1) < 0)


def test_levels_that_meet_are_parted_by_a_rounding():
    x = jnp.array([[3.0, 1e-30], [1.0, 0.0], [1.0, -1.0], [-2.0, -5.0]])
    parted = np.asarray(schemes._strictly_ordered(x))
    assert np.all(np.diff(parted, axis=0) < 0)
    np.testing.assert_allclose(parted, x, rtol=2e-7, atol=1e-37)


@pytest.mark.parametrize("name", schemes.ALL)
def test_small_and_large_loops_agree(name, monkeypatch):
    """The written-out loop over pairs and the running one are the same sum."""
    x = np.sort(np.random.default_rng(0).normal(size=5))[::-1]
    profile = 0.01 * (1 + np.add.outer(x, x) ** 2)
    small = kick(name, x, profile, keys=KEYS[:64])
    monkeypatch.setattr(schemes, "UNROLLED", 4)
    program.cache_clear()
    np.testing.assert_allclose(kick(name, x, profile, keys=KEYS[:64]), small, atol=2e-6)


def test_a_pairwise_kick_is_symmetric_in_its_levels():
    """Reflected levels move like the originals: no end of the ring is special."""
    x = np.array([2.0, 1.0, 0.9, -0.5, -1.1])
    forth, back = kick("pairwise_kick", x, 0.05), -kick("pairwise_kick", -x[::-1], 0.05)[:, ::-1]
    for i in range(5):
        assert scipy.stats.ks_2samp(forth[:, i], back[:, i]).pvalue > 1e-6  # type: ignore[attr-defined]  # scipy has no types
    assert_mean(forth.mean(1) - back.mean(1), 0, resolution=0.01)


def test_normals_are_normal_and_independent():
    z = np.asarray(noise.normals(KEYS[:2000], (51,)), float)
    assert_law(z.ravel(), scipy.stats.norm.cdf, resolution=0.009)
    assert_mean(z.T.ravel() ** 4, 3, resolution=0.2)
    correlation = np.corrcoef(z)
    assert np.max(np.abs(correlation - np.eye(51))) < 6 / np.sqrt(2000)
    other = np.asarray(noise.normals(KEYS[:2000], (51,), stream=1), float)
    assert abs(np.corrcoef(z.ravel(), other.ravel())[0, 1]) < 6 / np.sqrt(z.size)


def test_normals_reach_their_tails():
    z = np.asarray(noise.normals(KEYS, (64,)), float).ravel()
    for edge in (3, 4, 4.5):
        expected = z.size * 2 * scipy.stats.norm.sf(edge)
        assert abs(np.sum(np.abs(z) > edge) - expected) < 5 * np.sqrt(expected)


def test_normals_in_double_precision():
    with jax.enable_x64(True):
        z = noise.normals(KEYS[:2000], (50,))
        assert z.dtype == np.float64
        assert_law(np.ravel(z), scipy.stats.norm.cdf, resolution=0.009)
        assert len(np.unique(np.asarray(z))) == z.size


def test_threefry_is_that_of_jax():
    words = jax.random.key_data(KEYS[:100])
    count = jnp.arange(100, dtype=jnp.uint32)
    ours = noise.threefry((words[:, 0], words[:, 1]), (jnp.zeros_like(count), count))
    folded = jax.vmap(jax.random.fold_in)(KEYS[:100], count)
    np.testing.assert_array_equal(np.stack(ours, -1), jax.random.key_data(folded))


def test_other_generators_work():
    keys = jax.random.split(jax.random.key(0, impl="rbg"), 2000)
    assert_law(np.ravel(noise.normals(keys, (5, 4))), scipy.stats.norm.cdf, resolution=0.015)


@pytest.mark.parametrize("freedom", [0, 0.1, 1, 3, 2.5, 17, 600])
def test_chi_squared(freedom):
    x = np.ravel(noise.chi_squared(KEYS[:20000], freedom, (2,)))
    if freedom == 0:
        assert not x.any()
    else:
        assert_law(x, lambda y: scipy.stats.chi2.cdf(y, freedom), resolution=0.015)


@pytest.mark.parametrize("freedom", [1e-4, 1e-3])
def test_chi_squared_of_almost_no_freedom(freedom):
    """Nearly all of them are smaller than any float: the law where it can be seen, since χ² ≤ x has about x^(ν/2)."""
    x = np.ravel(noise.chi_squared(KEYS[:20000], freedom, (4,)))
    bounds = np.array([1e-30, 1e-10])
    assert_mean(x[:, None] <= bounds, scipy.stats.chi2.cdf(bounds, freedom), resolution=0.004)
