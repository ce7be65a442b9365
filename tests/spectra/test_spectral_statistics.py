"""Spectral statistics against slow direct evaluations, equally spaced and Poisson levels, and random matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

import dysonjax as dj
from dysonjax import spectra

RNG = np.random.default_rng(5)


def random_matrices(beta, n, count):
    """Eigenvalues [count, n] of GOE or GUE matrices, by NumPy."""
    a = RNG.normal(size=(count, n, n)) + (1j * RNG.normal(size=(count, n, n)) if beta == 2 else 0)
    return np.linalg.eigvalsh(a + a.conj().swapaxes(1, 2))


GOE, GUE = (random_matrices(beta, 60, 400) for beta in (1, 2))
POISSON = np.sort(RNG.uniform(0, 60, size=(400, 60)))


def bulk(x):
    """Unfolded by the ensemble, the middle 40 of 60 levels, exactly 40 levels at unit mean spacing."""
    return spectra.by_ensemble(x)[:, 10:50]


def test_spacings_by_hand():
    x = jnp.array([[0.0, 1.0, 3.0, 3.5, 7.0]])
    np.testing.assert_allclose(spectra.spacing_ratios(x), [[0.5, 0.25, 0.5 / 3.5]], rtol=1e-6)
    np.testing.assert_allclose(spectra.k_gaps(x, 2), [[3.0, 2.5, 4.0]], rtol=1e-6)
    np.testing.assert_allclose(spectra.k_spacing_ratios(x, 2), [[3 / 4]], rtol=1e-6)
    np.testing.assert_allclose(spectra.spacing_ratios(x[:, ::-1])[:, ::-1], spectra.spacing_ratios(x))
    np.testing.assert_allclose(spectra.spacing_ratios(jnp.zeros(4)), 1)


def test_participation_ratios():
    n = 64
    vectors = np.stack([np.eye(n)[0], np.full(n, n**-0.5)], axis=1)
    np.testing.assert_allclose(spectra.participation_ratios(jnp.asarray(vectors)), [1, n], rtol=1e-5)
    random = np.linalg.qr(RNG.normal(size=(50, n, n)))[0]
    inverse = spectra.estimate(1 / spectra.participation_ratios(jnp.asarray(random)))
    assert abs(inverse.value - 3 / (n + 2)) < 5 * inverse.error
    assert inverse.error < 1e-3


@pytest.mark.parametrize(("x", "mean"), [(GOE, 0.5307), (GUE, 0.5996), (POISSON, 2 * np.log(2) - 1)])
def test_mean_ratio_of_large_matrices(x, mean):
    r = spectra.estimate(spectra.spacing_ratios(jnp.asarray(x[:, 10:50])))
    assert abs(r.value - mean) < 5 * r.error + 0.001
    assert r.error < 0.004


def number_variance_slowly(u, length, count=20001):
    start = np.linspace(u[0], u[-1] - length, count)
    inside = np.searchsorted(u, start + length, "right") - np.searchsorted(u, start, "right")
    return np.mean((inside - length) ** 2)


def rigidity_slowly(u, length, windows):
    found = []
    for start in np.linspace(u[0], u[-1] - length, windows):
        t = start + (np.arange(20000) + 0.5) / 20000 * length
        staircase = np.searchsorted(u, t, "right")
        line = np.polynomial.Polynomial.fit(t, staircase, 1)
        found.append(np.mean((staircase - line(t)) ** 2))
    return np.mean(found)


def test_number_variance_equals_counting():
    u = np.sort(RNG.uniform(0, 30, 30))
    lengths = [0.3, 1.0, 2.7, 9.5]
    slow = [number_variance_slowly(u, length) for length in lengths]
    np.testing.assert_allclose(spectra.number_variance(jnp.asarray(u), lengths), slow, rtol=3e-3)


def test_windows_inside_a_span():
    """Levels beyond the span count, but no window leaves it; the span need not begin or end at a level."""
    u, span, length = np.sort(RNG.uniform(0, 30, 30)), (3.3, 21.7), 4.0
    start = np.linspace(span[0], span[1] - length, 40001)
    inside = np.searchsorted(u, start + length, "right") - np.searchsorted(u, start, "right")
    found = spectra.number_variance(jnp.asarray(u), [length], span)
    np.testing.assert_allclose(found, [np.mean((inside - length) ** 2)], rtol=3e-3)
    whole = spectra.rigidity(jnp.asarray(u), [length], (float(u[0]), float(u[-1])))
    np.testing.assert_allclose(whole, spectra.rigidity(jnp.asarray(u), [length]), rtol=1e-4)


def test_rigidity_equals_least_squares():
    u = np.sort(RNG.uniform(0, 30, 30))
    windows = spectra.rigidity.__globals__["WINDOWS"]
    for length in (1.5, 6.0):
        slow = rigidity_slowly(u, length, windows)
        np.testing.assert_allclose(spectra.rigidity(jnp.asarray(u), [length]), [slow], rtol=3e-3)


def test_equally_spaced_levels():
    """Σ² = f(1 − f) with f the fractional part of L; Δ₃ → 1/12 for a picket fence."""
    u = jnp.arange(200.0)
    lengths = np.array([0.25, 0.5, 3.25, 7.9])
    fraction = lengths % 1
    np.testing.assert_allclose(spectra.number_variance(u, lengths), fraction * (1 - fraction), atol=4e-3)
    np.testing.assert_allclose(spectra.rigidity(u, [20.0]), 1 / 12, rtol=0.01)


@pytest.mark.parametrize(("x", "beta"), [(GOE, 1), (GUE, 2), (POISSON, 0)])
def test_long_range_statistics_follow_their_laws(x, beta):
    u, lengths = bulk(x), np.array([0.5, 1.0, 2.0, 4.0])
    for kernel, law in (
        (spectra.number_variance, spectra.number_variance_law),
        (spectra.rigidity, spectra.rigidity_law),
    ):
        found = spectra.curve(kernel(u, lengths))
        np.testing.assert_array_less(
            np.abs(found.value - law(lengths, beta)), 5 * found.error + 0.02 * law(lengths, beta)
        )


def test_laws_at_their_limits():
    long = np.array([50.0])
    for beta, constant in ((1, np.euler_gamma + 1 - np.pi**2 / 8), (2, np.euler_gamma + 1)):
        asymptotic = 2 / (beta * np.pi**2) * (np.log(2 * np.pi * long) + constant)
        np.testing.assert_allclose(spectra.number_variance_law(long, beta), asymptotic, rtol=3e-3)
    np.testing.assert_allclose(spectra.rigidity_law(long, 1), (np.log(50) - 0.0687) / np.pi**2, rtol=1e-2)
    np.testing.assert_allclose(spectra.rigidity_law([15.0], 0), 1.0)
    for beta in (1, 2, 4):
        np.testing.assert_allclose(spectra.number_variance_law([1e-3], beta), 1e-3, rtol=5e-3)


@pytest.mark.parametrize("beta", [1, 2, 4])
def test_number_variance_is_the_integral_of_the_form_factor(beta):
    length = 0.8
    inner = lambda t: spectra.form_factor_law([t], beta)[0] * (np.sin(np.pi * length * t) / t) ** 2  # noqa: E731
    near = sum(quad(inner, a, b, limit=200)[0] for a, b in ((1e-9, 1), (1, 2), (2, 60)))
    far = 0.5 / 60  # K = 1 beyond, and sin² is ½ on average
    assert 2 / np.pi**2 * (near + far) == pytest.approx(spectra.number_variance_law([length], beta)[0], rel=2e-3)


def test_form_factor_of_random_matrices():
    times = np.array([0.2, 0.5, 0.8, 1.5])
    eigenphases = np.angle(np.linalg.eigvals(np.linalg.qr(RNG.normal(size=(1500, 30, 30, 2)) @ [1, 1j])[0]))
    u = jnp.asarray(np.sort(eigenphases) * 30 / (2 * np.pi))
    whole, connected = spectra.spectral_form_factor(u, np.round(times * 30) / 30)
    law = spectra.form_factor_law(times, 2)  # eigenphases are stationary, so all of K is connected at whole times
    np.testing.assert_allclose(whole, law, atol=6 / np.sqrt(1500))
    np.testing.assert_allclose(connected, law, atol=6 / np.sqrt(1500))


def test_unfoldings_agree_on_a_smooth_density():
    smooth = {name: unfold(GOE) for name, unfold in spectra.unfolding_sensitivity.__globals__["METHODS"].items()}
    for name, u in smooth.items():
        assert np.mean(np.asarray(spectra.gaps(u))[:, 10:-10]) == pytest.approx(1, abs=0.04), name
    radius = 2 * np.sqrt(2 * 60)  # entries off the diagonal have variance 2
    law = spectra.by_law(jnp.asarray(GOE), dj.laws.Semicircle(centre=0.0, radius=radius).cdf)
    np.testing.assert_allclose(np.mean(np.asarray(law), 0)[15:45], np.arange(15, 45) + 0.5, atol=0.25)


def test_sensitivity_reports_the_spread():
    mean_ratio = lambda u: jnp.mean(spectra.spacing_ratios(u))  # noqa: E731
    found = spectra.unfolding_sensitivity(jnp.asarray(GOE), mean_ratio)
    values = [v for k, v in found.items() if k != "spread"]
    assert found["spread"] == pytest.approx(max(values) - min(values))
    assert 0 < found["spread"] < 0.02


def test_unfolding_keeps_the_order_given():
    x = GOE[:3]
    for method in (spectra.by_polynomial, spectra.by_spline):
        np.testing.assert_allclose(method(x)[:, ::-1], method(x[:, ::-1]), rtol=1e-5)


def test_estimates():
    x = RNG.normal(size=(50, 3))
    mean = lambda s: jnp.mean(s, axis=0)  # noqa: E731
    plain, knife = spectra.curve(x), spectra.jackknife(mean, x)
    np.testing.assert_allclose(knife.value, plain.value, atol=1e-5)
    np.testing.assert_allclose(knife.error, plain.error, rtol=1e-3)
    boot = spectra.bootstrap(jax.random.key(0), mean, x, 2000)
    np.testing.assert_allclose(boot.error, plain.error, rtol=0.15)
    assert str(spectra.Estimate(0.53071, 0.0012, 9)) == "0.5307(12)"
    assert str(spectra.Estimate(123.4, 21.0, 9)) == "123(21)"
    assert spectra.estimate(x).error < plain.error.mean()


def test_jackknife_removes_the_bias_of_a_square():
    x = RNG.normal(size=(40, 1))
    knife = spectra.jackknife(lambda s: jnp.mean(s) ** 2, x)
    exact = x.mean() ** 2 - x.var(ddof=1) / 40  # the unbiased estimate of the squared mean
    assert knife.value == pytest.approx(exact, abs=1e-5)


def test_density_is_normalised_and_has_errors():
    edges = np.linspace(-100, 100, 21)
    found = spectra.density(GOE, edges)
    assert np.sum(found.value * np.diff(edges)) == pytest.approx(1)
    assert found.error.shape == (20,)
    np.testing.assert_allclose(found.value, np.histogram(GOE, edges, density=True)[0], rtol=1e-9)


def test_distances():
    u = RNG.uniform(size=1000)
    assert spectra.ks_distance(u, lambda x: jnp.clip(x, 0, 1)) < 2 / np.sqrt(1000)
    assert spectra.ks_distance(u, lambda x: jnp.clip(x - 0.1, 0, 1)) == pytest.approx(0.1, abs=0.05)
    assert spectra.ks_two_sample(u, u + 2) == 1
    assert spectra.ks_two_sample(u, u) == 0


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.3])
def test_fitted_beta_and_its_error(beta):
    """200 repetitions: the mean is right, and the spread is the error that each fit states."""
    law = dj.laws.WignerSurmise(beta=beta)
    s = np.asarray(law.sample(jax.random.key(3), (200, 300)))
    fits = [spectra.fit_beta(row) for row in s]
    values, errors = np.array([f.value for f in fits]), np.array([f.error for f in fits])
    assert abs(values.mean() - beta) < 5 * values.std() / np.sqrt(200) + 0.02 * beta
    assert values.std() == pytest.approx(errors.mean(), rel=0.25)


def test_other_fits():
    assert spectra.fit_beta_from_ratios(spectra.spacing_ratios(jnp.asarray(GOE[:, 10:50]))).value == pytest.approx(
        1, abs=0.1
    )
    assert spectra.fit_beta_from_ratios(spectra.spacing_ratios(jnp.asarray(GUE[:, 10:50]))).value == pytest.approx(
        2, abs=0.15
    )
    poisson = spectra.fit_brody(spectra.gaps(jnp.asarray(POISSON[:, 10:50])))
    assert abs(poisson.value) < 5 * poisson.error + 0.02
    goe = spectra.fit_brody(spectra.gaps(bulk(GOE)))
    assert goe.value == pytest.approx(0.953, abs=0.06)


def test_tracy_widom_p_values_are_uniform():
    k, l = 20, 60
    largest = np.linalg.svd(RNG.normal(size=(2000, k, l)), compute_uv=False)[:, 0] ** 2 / l * 2.5
    p = spectra.tracy_widom_p_values(largest, (k, l), 2.5)
    assert spectra.ks_distance(p, lambda x: x) < 0.05
    assert not spectra.outliers([largest.min()], (k, l), 2.5)[0]
    assert spectra.outliers([2 * largest.max()], (k, l), 2.5)[0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: spectra.k_gaps(jnp.zeros(3), 3), "k = 3"),
        (lambda: spectra.spacing_ratios(jnp.zeros(2)), "k = 1: expected"),
        (lambda: spectra.number_variance(jnp.arange(5.0), [4.5]), "lengths = "),
        (lambda: spectra.number_variance(jnp.arange(5.0), [-1.0]), "lengths = "),
        (lambda: spectra.rigidity(jnp.arange(5.0), [np.nan]), "lengths = "),
        (lambda: spectra.number_variance_law([1.0], 3), "beta = 3"),
        (lambda: spectra.form_factor_law([1.0], 5), "beta = 5"),
        (lambda: spectra.by_local_mean(jnp.arange(5.0), 9), "window = 9"),
        (lambda: spectra.by_polynomial(jnp.arange(5.0), 9), "x = (5,)"),
        (lambda: spectra.by_ensemble(jnp.arange(5.0)), "x = (5,)"),
        (lambda: spectra.estimate(np.ones(1)), "values = (1,)"),
        (lambda: spectra.jackknife(jnp.mean, np.array([1.0, 2.0]), 3), "groups = 3"),
        (lambda: spectra.density(GOE, [1.0, 0.0]), "edges = "),
        (lambda: spectra.fit_beta(np.array([1.0, -1.0, 2.0])), "spacings = "),
        (lambda: spectra.tracy_widom_p_values([1.0], (1, 5), 1.0), "shape = (1, 5)"),
        (lambda: spectra.tracy_widom_p_values([1.0], (5, 5), -1.0), "variance = -1.0"),
        (lambda: spectra.outliers([1.0], (5, 5), 1.0, 2.0), "level = 2.0"),
        (lambda: spectra.eigenvalues(jnp.zeros((2, 3))), "a = (2, 3)"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(dj.InputError) as refusal:
        call()
    assert str(refusal.value).startswith(words)
