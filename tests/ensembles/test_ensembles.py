"""Random matrices and β-ensembles against exact moments, each other, quadrature and float64 LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats
from stochastic import assert_law, assert_mean

from dysonjax import ensembles, spectra
from dysonjax.core.errors import InputError
from dysonjax.kernels.tridiagonal import bidiagonal_singular_values, tridiagonal_eigenvalues

KEY = jax.random.key(17)
PRECISIONS = [np.float32, np.float64]


def every_level_once(levels, beta):
    """Quaternion matrices have every level twice."""
    levels = np.sort(levels, axis=-1)[..., ::-1]
    return levels[..., ::2] if beta == 4 else levels


def assert_same_law(a, b, resolution):
    """Two-sample Kolmogorov–Smirnov test of independent replicas: each side keeps to its own DKW bound."""
    ranks = np.sort(b)
    # the empirical law of b stands for the law; its own distance from it is the allowed bias
    bias = np.sqrt(np.log(2e6) / (2 * len(b)))
    assert_law(a, lambda x: np.searchsorted(ranks, x, side="right") / len(b), bias + 1 / len(b), resolution=resolution)


# Tridiagonal and bidiagonal matrices


def wilkinson():
    """W21+: pairs of eigenvalues equal to 15 digits."""
    return np.abs(np.arange(-10.0, 11.0)), np.ones(20)


def random(n, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=n), scale * rng.normal(size=n - 1)


MATRICES = {
    "wilkinson": wilkinson(),
    "graded": (10.0 ** -np.arange(12.0), 10.0 ** -(np.arange(11.0) + 0.5)),
    "clustered": (1 + 1e-7 * random(40)[0], np.full(39, 1e-7)),
    "uncoupled": (np.array([3.0, 1.0, 1.0, 2.0, -5.0]), np.array([0.0, 1.0, 0.0, 0.0])),
    "diagonal": (np.arange(7.0), np.zeros(6)),
    "zero": (np.zeros(5), np.zeros(4)),
    "second difference": (np.full(50, 2.0), np.full(49, -1.0)),
    "huge": random(30, scale=1e30),
    "tiny": random(30, scale=1e-30),
    "random": random(100),
}


def dense(diagonal, off):
    return np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)


def assert_eigenvalues(diagonal, off, roundings):
    """Within a few roundings of the largest one, from float64 LAPACK, whose own error grows with n."""
    dtype, n = diagonal.dtype, diagonal.shape[-1]
    double = zip(diagonal.astype(float), off.astype(float), strict=True)
    exact = np.array([np.linalg.eigvalsh(dense(*matrix)) for matrix in double])
    with jax.enable_x64(dtype == np.float64):
        values = np.asarray(tridiagonal_eigenvalues(jnp.asarray(diagonal), jnp.asarray(off)))
    assert values.dtype == dtype
    unit = np.finfo(dtype).eps * np.max(np.abs(exact), axis=1, keepdims=True)
    allowed = roundings + (n / 4 if dtype == np.float64 else 0)
    assert np.all(np.abs(values - exact) <= allowed * unit), np.max(np.abs(values - exact) / np.maximum(unit, 1e-300))


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_tridiagonal_eigenvalues_to_working_precision(dtype):
    """All at once, in one stack with rows of zeros behind the smaller ones."""
    pad = lambda a, n: np.pad(a, (0, n - len(a))).astype(dtype)  # noqa: E731
    diagonal = np.stack([pad(d, 100) for d, _ in MATRICES.values()])
    off = np.stack([pad(e, 99) for _, e in MATRICES.values()])
    assert_eigenvalues(diagonal, off, roundings=3)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("n", [1, 2])
def test_eigenvalues_of_the_smallest_matrices(n, dtype):
    rng = np.random.default_rng(n)
    assert_eigenvalues(rng.normal(size=(50, n)).astype(dtype), rng.normal(size=(50, n - 1)).astype(dtype), roundings=4)


def test_eigenvalues_known_in_closed_form():
    """The second difference has 4 sin²(πk/2(n+1)): an error that does not grow with n."""
    n = 300
    k = np.arange(1, n + 1)
    with jax.enable_x64(True):
        values = tridiagonal_eigenvalues(jnp.full(n, 2.0), jnp.full(n - 1, -1.0))
    exact = 4 * np.sin(np.pi * k / (2 * (n + 1))) ** 2
    np.testing.assert_allclose(values, exact, rtol=0, atol=8 * np.finfo(float).eps)


def test_a_matrix_does_not_depend_on_its_neighbours_nor_on_the_tile():
    """700 matrices are more than one tile; one of them is not finite."""
    rng = np.random.default_rng(3)
    diagonal, off = rng.normal(size=(700, 16)).astype(np.float32), rng.normal(size=(700, 15)).astype(np.float32)
    diagonal[5, 3] = np.nan
    together = np.asarray(tridiagonal_eigenvalues(jnp.asarray(diagonal), jnp.asarray(off)))
    assert np.all(np.isnan(together[5]))
    assert np.isfinite(together).sum() == 699 * 16
    for i in (0, 511, 512, 699):
        np.testing.assert_array_equal(together[i], tridiagonal_eigenvalues(diagonal[i], off[i]))
    stacked = tridiagonal_eigenvalues(diagonal.reshape(7, 100, 16), off.reshape(7, 100, 15))
    np.testing.assert_array_equal(stacked.reshape(700, 16), together)
    assert tridiagonal_eigenvalues(jnp.zeros((0, 4)), jnp.zeros((0, 3))).shape == (0, 4)


def test_derivative_of_eigenvalues():
    """Against dense eigenvalues' derivative in float64."""
    with jax.enable_x64(True):
        arguments = tuple(jnp.asarray(a) for a in random(6, seed=2))
        direction = tuple(jnp.asarray(a) for a in random(6, seed=3))
        build = lambda d, e: jnp.linalg.eigvalsh(jnp.diag(d) + jnp.diag(e, 1) + jnp.diag(e, -1))  # noqa: E731
        ours, wanted = (jax.jvp(f, arguments, direction) for f in (tridiagonal_eigenvalues, build))
        for a, b in zip(ours, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_small_singular_values_keep_their_digits(dtype):
    """A triangular matrix' small value is its determinant over the product of the others: here all known exactly."""
    # [[1, b], [0, a]]: the two values have product a and squares of sum 1 + a² + b²
    a, b = dtype(1e-6), dtype(0.5)
    with jax.enable_x64(dtype is np.float64):
        small, large = np.asarray(bidiagonal_singular_values(jnp.asarray([1, a], dtype), jnp.asarray([b], dtype)))
    a, b = np.float64(a), np.float64(b)
    total = 1 + a * a + b * b
    exact = np.sqrt((total + np.sqrt(total * total - 4 * a * a)) / 2)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose([small, large], [a / exact, exact], rtol=4 * eps)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_singular_values_to_working_precision(dtype):
    diagonal, off = (a.astype(dtype) for a in random(40, seed=5))
    diagonal[7] = 0
    exact = np.linalg.svd(np.diag(diagonal.astype(float)) + np.diag(off.astype(float), 1), compute_uv=False)[::-1]
    with jax.enable_x64(dtype is np.float64):
        values = np.asarray(bidiagonal_singular_values(jnp.asarray(diagonal), jnp.asarray(off)))
    assert values.dtype == dtype
    np.testing.assert_allclose(values, exact, rtol=0, atol=8 * np.finfo(dtype).eps * exact[-1])
    assert values[0] == 0
    np.testing.assert_array_equal(bidiagonal_singular_values(jnp.array([-2.0]), jnp.zeros(0)), [2.0])


# Gaussian and Wishart ensembles


@pytest.mark.parametrize(("n", "beta"), [(1, 1.0), (2, 4.0), (4, 0.5), (4, 1.0), (4, 3.5), (4, 4.0)])
def test_moments_of_hermite_levels(n, beta):
    """E Σx = 0, E Σx² = σ²(n + β n(n−1)/2), and Σx² is σ² χ² of that many degrees of freedom."""
    levels = np.asarray(ensembles.hermite_levels(KEY, n, beta, (20_000,), variance=2.0), float)
    assert levels.shape == (20_000, n)
    assert np.all(np.diff(levels) < 0)
    freedom = n + beta * n * (n - 1) / 2
    assert_mean(levels.sum(1) / np.sqrt(2 * n), 0.0, resolution=0.05)
    assert_law((levels**2).sum(1) / 2, stats.chi2(freedom).cdf, resolution=0.025)


@pytest.mark.parametrize("beta", [0.5, 4.0])
def test_gap_of_a_pair(beta):
    """P(S) ∝ S^β exp(−S²/4σ²)."""
    levels = np.asarray(ensembles.hermite_levels(KEY, 2, beta, (20_000,), variance=2.0), float)
    assert_law((levels[:, 0] - levels[:, 1]) ** 2 / 4, stats.chi2(beta + 1).cdf, resolution=0.025)


@pytest.mark.parametrize("beta", [1, 2, 4])
def test_gaussian_matrices(beta):
    """Variances of the entries; the largest level and a gap have the law that they have in `hermite_levels`."""
    n, count, variance = 4, 6000, 0.5
    m = np.asarray(ensembles.gaussian(KEY, n, beta, (count,), variance))
    size = 2 * n if beta == 4 else n
    assert m.shape == (count, size, size)
    np.testing.assert_array_equal(m, m.swapaxes(-1, -2).conj())
    assert_mean(np.real(m[:, 1, 1]) ** 2 / variance, 1.0, resolution=0.12)
    for component in (np.real(m[:, 0, 2]), np.imag(m[:, 0, 2])) if beta > 1 else (m[:, 0, 2],):
        assert_mean(component**2 / variance, 0.5, resolution=0.1)
    dense_levels = every_level_once(np.linalg.eigvalsh(m), beta)
    levels = np.asarray(ensembles.hermite_levels(jax.random.key(1), n, beta, (20_000,), variance))
    assert_same_law(dense_levels[:, 0], levels[:, 0], resolution=0.08)
    assert_same_law(dense_levels[:, 1] - dense_levels[:, 2], levels[:, 1] - levels[:, 2], resolution=0.08)


@pytest.mark.parametrize(("k", "l", "beta"), [(3, 3, 1), (5, 3, 2), (3, 5, 4)])
def test_wishart_and_bidiagonal(k, l, beta):
    """E tr X = σ² β k, E tr X² = σ⁴ β k (β(l + k − 1) + 2)/l, and one law of the smallest level."""
    w = ensembles.wishart(KEY, k, l, beta, (5000,), variance=2.0)
    dense_levels = every_level_once(np.linalg.svd(w, compute_uv=False) ** 2, beta)
    levels = np.asarray(ensembles.laguerre_levels(jax.random.key(1), k, l, beta, (5000,), variance=2.0), float)
    assert levels.shape == dense_levels.shape == (5000, min(k, l))
    for x in (dense_levels, levels):
        trace, square = 2 * beta * k, 4 * beta * k * (beta * (l + k - 1) + 2) / l
        assert_mean(x.sum(1) / trace, 1.0, resolution=0.06)
        assert_mean((x**2).sum(1) / square, 1.0, resolution=0.12)
    assert_same_law(dense_levels[:, -1], levels[:, -1], resolution=0.08)


def test_laguerre_levels_of_any_beta():
    """m = 1 is a χ² number of β l degrees of freedom; the moments hold for any β."""
    one = ensembles.laguerre_levels(KEY, 1, 3, 0.7, (20_000,), variance=3.0)
    assert_law(np.asarray(one)[:, 0], stats.chi2(0.7 * 3).cdf, resolution=0.025)
    levels = np.asarray(ensembles.laguerre_levels(KEY, 3, 5, 2.5, (5000,)), float)
    assert_mean(levels.sum(1), 2.5 * 3, resolution=0.3)
    assert_mean((levels**2).sum(1), 2.5 * 3 * (2.5 * 7 + 2) / 5, resolution=2)


def test_levels_in_double_precision_with_an_array_of_parameters_inside_jit():
    with jax.enable_x64(True):
        sample = jax.jit(lambda key, beta, variance: ensembles.hermite_levels(key, 3, beta, (2000, 2), variance))
        levels = np.asarray(sample(KEY, np.array([1.0, 4.0]), np.array([0.5, 3.0])))
    assert levels.dtype == np.float64
    for i, (beta, variance) in enumerate([(1, 0.5), (4, 3.0)]):
        assert_law((levels[:, i] ** 2).sum(-1) / variance, stats.chi2(3 + 3 * beta).cdf, resolution=0.07)


# Circular ensembles


@pytest.mark.parametrize("beta", [1, 2, 4])
def test_circular(beta):
    """Unitary; half the distance of a pair on the circle, 0 … π/2, has density ∝ sin^β."""
    n = 2
    u = ensembles.circular(KEY, n, beta, (12_000,))
    identity = np.broadcast_to(np.eye(u.shape[-1]), u.shape)
    np.testing.assert_allclose(u @ u.mT.conj(), identity, atol=1e-5)
    if beta == 1:
        np.testing.assert_allclose(u, u.mT, atol=1e-6)
    phases = np.asarray(ensembles.eigenphases(u, beta))
    assert phases.shape == (12_000, n)
    assert np.all(np.abs(phases) <= np.pi + 1e-6)
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(u)), 1, atol=1e-4)
    apart = phases[:, 0] - phases[:, 1]
    t = np.linspace(0, np.pi / 2, 2001)
    cdf = integrate.cumulative_simpson(np.sin(t) ** beta, x=t, initial=0)
    cdf /= cdf[-1]
    assert_law(np.minimum(apart, 2 * np.pi - apart) / 2, lambda x: np.interp(x, t, cdf), resolution=0.03)


@pytest.mark.parametrize(("beta", "ratio"), [(1, 0.5307), (4, 0.6744)])
def test_spacing_ratio_of_circular(beta, ratio):
    """⟨r⟩ of large matrices (Atas et al. 2013), which n = 24 reaches to within 0.01."""
    phases = np.asarray(ensembles.eigenphases(ensembles.circular(KEY, 24, beta, (300,)), beta))
    gaps = -np.diff(phases, axis=-1)
    r = np.minimum(gaps[:, 1:], gaps[:, :-1]) / np.maximum(gaps[:, 1:], gaps[:, :-1])
    assert_mean(r.mean(1), ratio, bias=0.01, resolution=0.04)


def test_a_pair_of_phases_parted_at_pi_counts_once():
    """Phases −π + 10⁻³, and the pair at π whose rounding falls on either side."""
    angles = np.array([np.pi - 1e-4, -np.pi + 1e-4, 1.0, 1.0001])
    phases = ensembles.eigenphases(jnp.asarray(np.diag(np.exp(1j * angles)), jnp.complex64), beta=4)
    assert phases.shape == (2,)
    np.testing.assert_allclose(np.sort(np.cos(phases)), [-1, np.cos(1)], atol=1e-3)


# Ornstein–Uhlenbeck jumps

KAPPA, TEMPERATURE, COUPLING = 0.7, 0.4, 1.5
REPLICAS = 20_000


def jumped(kind, beta, times):
    """Replicas after successive jumps from one start towards a centre, the start, and the centre."""
    draw = ensembles.gaussian if kind == "matrix" else lambda key, n, beta: ensembles.wishart(key, n, n + 1, beta)
    start, centre = (draw(jax.random.key(i), 2, beta) for i in (5, 6))
    jump = ensembles.matrix_ou_jump if kind == "matrix" else ensembles.rectangular_ou_jump
    m = jnp.broadcast_to(start, (REPLICAS, *start.shape))
    for i, t in enumerate(times):
        m = jump(jax.random.key(40 + i), m, t, KAPPA, TEMPERATURE, COUPLING, centre, beta=beta)
    return np.asarray(m), np.asarray(start), np.asarray(centre)


@pytest.mark.parametrize(
    ("kind", "beta", "times"),
    [
        ("matrix", 1, (0.8,)),
        ("matrix", 1, (0.3, 0.5)),
        ("matrix", 2, (0.8,)),
        ("matrix", 4, (0.3, 0.5)),
        ("rectangular", 1, (0.8,)),
        ("rectangular", 2, (0.3, 0.5)),
        ("rectangular", 4, (0.8,)),
    ],
)
def test_ou_jump(kind, beta, times):
    """Mean and variance of every component; two jumps have the law of one."""
    m, start, centre = jumped(kind, beta, times)
    mean = centre + np.exp(-KAPPA * 0.8) * (start - centre)
    variance = TEMPERATURE * COUPLING**2 * (1 - np.exp(-2 * KAPPA * 0.8)) / (2 * KAPPA)
    if kind == "matrix":
        assert_mean(np.real(m[:, 0, 0]), mean[0, 0].real, resolution=0.05)
        assert_law(np.real(m[:, 0, 0]), stats.norm(mean[0, 0].real, np.sqrt(2 * variance)).cdf, resolution=0.025)
        np.testing.assert_allclose(m, m.swapaxes(-1, -2).conj(), atol=1e-6)
    parts = (np.real, np.imag) if beta > 1 else (np.real,)
    for part in parts:
        assert_law(part(m[:, 0, 1]), stats.norm(part(mean[0, 1]), np.sqrt(variance)).cdf, resolution=0.025)
    assert_mean((m - mean)[:, 0, 1].real * (m - mean)[:, 0, 0].real, 0.0, resolution=0.05)


def test_ou_jump_without_drift_and_after_no_time():
    m = jnp.zeros((REPLICAS, 2, 2))
    still = ensembles.matrix_ou_jump(KEY, m, 0.0, KAPPA, TEMPERATURE)
    np.testing.assert_array_equal(still, m)
    free = np.asarray(ensembles.matrix_ou_jump(KEY, m, 0.5, 0.0, TEMPERATURE))
    assert_law(free[:, 0, 0], stats.norm(0, np.sqrt(2 * TEMPERATURE * 0.5)).cdf, resolution=0.025)
    times = np.array([0.0, 1.0], np.float32)
    pair = ensembles.rectangular_ou_jump(KEY, jnp.ones((2, 1, 3)), times, KAPPA, 0.0)
    np.testing.assert_allclose(pair[:, 0], np.exp(-KAPPA * times)[:, None] * np.ones(3), rtol=1e-6)


def test_stationary_law_of_the_jump_is_gaussian_ensemble():
    m = jnp.full((REPLICAS, 3, 3), 7.0)
    levels = np.linalg.eigvalsh(ensembles.matrix_ou_jump(KEY, m, 50.0, KAPPA, TEMPERATURE))
    variance = TEMPERATURE / KAPPA
    assert_law((levels**2).sum(1) / variance, stats.chi2(3 + 3).cdf, resolution=0.025)


# Log-gas


def quadratic(x):
    return x**2 / 2


def quartic(x):
    return x**4 / 4


def cubic(x):
    """It holds levels near 0, and none far away."""
    return x**2 + x**3


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_log_gas_in_a_quadratic_potential(beta):
    """Σx²/T is χ²; the gaps are those of `hermite_levels`."""
    gas = ensembles.log_gas(KEY, 6, quadratic, beta, 0.5, (1000,), warm_up=60, trajectories=30)
    levels = np.asarray(gas.levels)
    assert levels.shape == (1000, 6)
    assert np.all(np.diff(levels) < 0)
    assert gas.effective_samples > 3
    assert 0.7 < np.mean(gas.acceptance) < 0.9
    assert_law((levels**2).sum(1) / 0.5, stats.chi2(6 + beta * 15).cdf, resolution=0.09)
    exact = np.asarray(ensembles.hermite_levels(KEY, 6, beta, (20_000,), variance=0.5))
    assert_same_law(levels[:, 2] - levels[:, 3], exact[:, 2] - exact[:, 3], resolution=0.11)


@pytest.mark.parametrize("n", [2, 3])
def test_log_gas_in_a_quartic_potential(n):
    """⟨Σx²⟩ and ⟨Σx⁴⟩ by quadrature; the latter is T(n + β n(n−1)/2) by the virial theorem."""
    beta, temperature = 1.0, 0.3
    axis = np.linspace(-2.7, 2.7, 109)
    x = np.stack(np.meshgrid(*[axis] * n, indexing="ij"))
    weight = np.exp(-np.sum(x**4, 0) / 4 / temperature)
    for i in range(n):
        for j in range(i):
            weight = weight * np.abs(x[i] - x[j]) ** beta
    second, fourth = (np.sum(np.sum(x**p, 0) * weight) / np.sum(weight) for p in (2, 4))
    np.testing.assert_allclose(fourth, temperature * (n + beta * n * (n - 1) / 2), rtol=1e-3)
    gas = ensembles.log_gas(KEY, n, quartic, beta, temperature, (1500,), warm_up=100, trajectories=50)
    levels = np.asarray(gas.levels, float)
    assert_mean((levels**2).sum(1), second, bias=1e-3, resolution=0.12)
    assert_mean((levels**4).sum(1), fourth, bias=1e-3, resolution=0.25)


def test_log_gas_with_one_potential_for_each_level():
    """Far apart, levels feel their own wells: means at the centres but for the repulsion βT/(κ d)."""
    centres = np.array([30.0, 0.0], np.float32)
    wells = lambda x: jnp.sum((x - centres) ** 2) / 2  # noqa: E731
    gas = ensembles.log_gas(KEY, 2, wells, 1.0, 0.1, (800,), start=[31.0, 1.0], warm_up=100, trajectories=30)
    shift = 0.1 / 30
    assert_mean(gas.levels, centres + shift * np.array([1, -1]), bias=1e-3, resolution=0.06)
    assert_mean((gas.levels - centres) ** 2, 0.1, bias=1e-3, resolution=0.03)


def test_log_gas_takes_a_temperature_for_each_chain():
    temperature = np.repeat(np.array([[0.1], [10.0]], np.float32), 500, axis=1)
    gas = ensembles.log_gas(KEY, 6, quadratic, 2.0, temperature, (2, 500), warm_up=60, trajectories=30)
    assert gas.levels.shape == (2, 500, 6)
    assert gas.acceptance.shape == gas.step_size.shape == (2, 500)
    for scaled in (np.asarray(gas.levels) ** 2).sum(-1) / temperature:
        assert_law(scaled, stats.chi2(6 + 2 * 15).cdf, resolution=0.13)


# Bad input

WRONG = {
    "n = 0": lambda: ensembles.hermite_levels(KEY, 0, 1.0),
    "beta = 0": lambda: ensembles.hermite_levels(KEY, 3, 0),
    "beta = nan": lambda: ensembles.laguerre_levels(KEY, 3, 4, np.nan),
    "variance = -1.0": lambda: ensembles.hermite_levels(KEY, 3, 1, variance=-1.0),
    "l = 2.5": lambda: ensembles.laguerre_levels(KEY, 3, 2.5, 1),  # type: ignore[arg-type]  # wrong on purpose
    "beta = 3": lambda: ensembles.gaussian(KEY, 3, 3),
    "variance = inf": lambda: ensembles.wishart(KEY, 3, 3, variance=np.inf),
    "u = (2, 3)": lambda: ensembles.eigenphases(jnp.ones((2, 3), complex)),
    "time = -1": lambda: ensembles.matrix_ou_jump(KEY, jnp.zeros((2, 2)), -1, 1, 1),
    "temperature = -2": lambda: ensembles.rectangular_ou_jump(KEY, jnp.zeros((2, 3)), 1, 1, -2),
    "m = (2, 3)": lambda: ensembles.matrix_ou_jump(KEY, jnp.zeros((2, 3)), 1, 1, 1),
    "beta = 2": lambda: ensembles.matrix_ou_jump(KEY, jnp.zeros((2, 2)), 1, 1, 1, beta=2),
    "off = (3,)": lambda: tridiagonal_eigenvalues(jnp.zeros(3), jnp.zeros(3)),
    "off = (1,)": lambda: bidiagonal_singular_values(jnp.zeros(3), jnp.zeros(1)),
    "potential = None": lambda: ensembles.log_gas(KEY, 3, None),  # type: ignore[arg-type]  # wrong on purpose
    "potential = <function <lambda>": lambda: ensembles.log_gas(KEY, 3, lambda x: -(x**2), warm_up=20, trajectories=2),
    "potential = <function cubic": lambda: ensembles.log_gas(KEY, 3, cubic, warm_up=20, trajectories=2),
    "temperature = 0": lambda: ensembles.log_gas(KEY, 3, quadratic, temperature=0),
    "start = ": lambda: ensembles.log_gas(KEY, 2, quadratic, start=[1.0, 1.0]),
    "start = 'x'": lambda: ensembles.log_gas(KEY, 2, quadratic, start="x"),  # type: ignore[arg-type]  # wrong on purpose
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_input_is_refused_in_one_line(message):
    with pytest.raises(InputError) as error:
        WRONG[message]()
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(message)
    assert "expected" in text


def test_levels_of_a_wishart_matrix_are_those_of_spectra():
    w = ensembles.wishart(KEY, 2, 3, variance=3.0)
    np.testing.assert_allclose(spectra.levels(w), np.linalg.eigvalsh(w @ w.mT)[::-1], rtol=1e-5)
