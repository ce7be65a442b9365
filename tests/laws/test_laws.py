"""Laws against numerical integration, published constants and brute-force matrices; fits against their own errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from scipy.linalg import eigh_tridiagonal
from stochastic import assert_law, assert_mean

from dysonjax import laws
from dysonjax.core.errors import InputError
from dysonjax.laws.base import invert

pytestmark = pytest.mark.optimised  # quantiles are searched for at many points: running takes longer than compiling

KEY = jax.random.key(20)
LAWS = {
    "Marchenko–Pastur": laws.MarchenkoPastur(ratio=0.5, variance=1.5),
    "Marchenko–Pastur, square": laws.MarchenkoPastur(ratio=1.0, variance=1.0),
    "Marchenko–Pastur, atom": laws.MarchenkoPastur(ratio=3.0, variance=0.5),
    "semicircle": laws.Semicircle(centre=-1.0, radius=2.0),
    "pair density": laws.PairDensity(centre=2.0, sigma=0.3),
    "pair spacing": laws.PairSpacing(sigma=0.7),
    "log-gas pair": laws.LogGasPairSpacing(distance=1.5, sigma=0.6),
    "Rice": laws.RiceSpacing(distance=1.5, sigma=0.6),
    "Rice, far": laws.RiceSpacing(distance=20.0, sigma=0.5),
    "surmise 1": laws.WignerSurmise(beta=1.0),
    "surmise 4": laws.WignerSurmise(beta=4.0),
    "surmise −0.3": laws.WignerSurmise(beta=-0.3),
    "ratio 1": laws.SpacingRatio(beta=1.0),
    "ratio −0.3": laws.SpacingRatio(beta=-0.3),
    "Brody": laws.Brody(parameter=0.4),
    "Poisson": laws.PoissonSpacing(),
    "Tracy–Widom 1": laws.TracyWidom(beta=1),
    "Tracy–Widom 2": laws.TracyWidom(beta=2),
    "Tracy–Widom 4": laws.TracyWidom(beta=4),
    "generalised semicircle": laws.GeneralisedSemicircle(
        centres=[1.0, 4.0, 9.0], sizes=(1, 2, 5), sigma=[0.2, 0.3, 0.4]
    ),
}
every_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


PANELS, POINTS = 120, 16
"""Of an integration: Gauss–Legendre is exact to degree 31 in each of the panels."""
P = np.resize(np.concatenate([10.0 ** -np.arange(1, 6), np.linspace(0.01, 0.999, 60)]), PANELS * (POINTS + 1))
"""Probabilities, as many as there are nodes of integration: one shape, one compiled program for each kind of law."""


def atom(law):
    return float(getattr(law, "atom", 0.0))


def double(law):
    """The same law with float64 parameters."""
    return jax.tree.map(lambda v: jnp.asarray(np.asarray(v, np.float32), jnp.float64), law)


def single(law):
    """The same law with float32 arrays for parameters, so that laws of a kind share one compiled program."""
    return jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), law)


@jax.jit
def functions(law, x):
    return {"pdf": law.pdf(x), "log_pdf": law.log_pdf(x), "cdf": law.cdf(x), "sf": law.sf(x)}


slopes = jax.jit(lambda law, x: jax.vmap(jax.grad(law.cdf))(x))
constants = jax.jit(lambda law: {"mean": law.mean, "variance": law.variance, "support": law.support})


def panels(law, count=PANELS, points=POINTS):
    """Gauss–Legendre nodes and weights [count, points] on the bracket, and the panels' upper ends [count].

    The substitutions turn the powers of the distance from an edge into smooth functions.
    """
    low, high = (float(v) for v in law.bracket())
    node, weight = np.polynomial.legendre.leggauss(points)
    edges = np.linspace(0, 1, count + 1)
    t = edges[:-1, None] + (1 + node) / (2 * count)
    weight = np.broadcast_to(weight / (2 * count), t.shape)
    if np.isfinite(float(law.support[1])):
        angle = lambda t: np.pi / 2 * t**2 * (3 - 2 * t)  # noqa: E731
        place, slope = lambda t: np.sin(angle(t)) ** 2, np.sin(2 * angle(t)) * 3 * np.pi * t * (1 - t)
    elif np.isfinite(float(law.support[0])):
        place, slope = lambda t: t**8, 8 * t**7
    else:
        place, slope = lambda t: t, np.ones_like(t)
    return low + (high - low) * place(t), (high - low) * slope * weight, low + (high - low) * place(edges[1:])


# --- the contract of every law -------------------------------------------------------------------------------------


@every_law
def test_double_precision(law):
    """Density, distribution, moments and quantiles are each other's integrals and inverses, to 10⁻⁹ and better."""
    with jax.enable_x64(True):
        law = double(law)
        x, weight, ends = panels(law)
        at = {name: np.asarray(v) for name, v in functions(law, np.append(x.ravel(), ends)).items()}
        pdf, at_ends = at["pdf"][: x.size].reshape(x.shape), {name: v[x.size :] for name, v in at.items()}
        cumulative = atom(law) + np.cumsum((pdf * weight).sum(1))
        assert abs(cumulative[-1] - 1) < 2e-9
        np.testing.assert_allclose(at_ends["cdf"], cumulative, atol=2e-9)
        np.testing.assert_allclose(at_ends["sf"], 1 - cumulative, atol=2e-9)
        np.testing.assert_allclose(np.exp(at["log_pdf"]), at["pdf"], rtol=1e-10, atol=1e-300)
        known = constants(law)
        mean, second = np.sum(pdf * weight * x), np.sum(pdf * weight * x**2)
        np.testing.assert_allclose(known["mean"], mean, rtol=1e-7)
        np.testing.assert_allclose(known["variance"], second - mean**2, rtol=1e-7)

        p = atom(law) + (1 - atom(law)) * P
        x = law.ppf(p)
        assert x.dtype == jnp.float64
        at = functions(law, x)
        np.testing.assert_allclose(at["cdf"], p, atol=3e-14)
        np.testing.assert_allclose(slopes(law, x), at["pdf"], rtol=1e-9)
        if type(law).ppf is not laws.Law.ppf:
            np.testing.assert_allclose(
                functions(law, invert(law, p))["cdf"], p, atol=3e-14
            )  # its closed form and the search agree


@every_law
def test_single_precision(law):
    p = atom(law) + (1 - atom(law)) * P
    with jax.enable_x64(True):
        x = np.asarray(double(law).ppf(p), np.float32)
        exact, moments = functions(double(law), np.asarray(x, float)), constants(double(law))
    law = single(law)
    at, known = functions(law, x), constants(law)
    np.testing.assert_allclose(at["cdf"], exact["cdf"], atol=4e-6)
    # a rounded x is shifted by 10⁻⁷ of itself, which a narrow law far from zero magnifies
    np.testing.assert_allclose(at["pdf"], exact["pdf"], rtol=2e-4)
    np.testing.assert_allclose([known["mean"], known["variance"]], [moments["mean"], moments["variance"]], rtol=2e-3)
    x = law.ppf(np.float32(p))
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(functions(law, x)["cdf"], np.float32(p), atol=4e-6)


@every_law
def test_ends_and_beyond(law):
    law = single(law)
    low, high = (float(v) for v in law.support)
    odd = np.resize(np.array([0, 1, -0.1, 1.1, np.nan], np.float32), P.size)
    ends = np.asarray(law.ppf(odd))
    np.testing.assert_allclose(ends[:2], [0.0 if atom(law) else low, high], atol=1e-6)
    assert np.all(np.isnan(ends[2:5]))
    below, above = max(low, -1e5) - 0.01, min(high, 1e5) + 0.01
    at = functions(law, np.resize(np.array([below, above, -1e6, 1e6], np.float32), P.size))
    assert np.all(at["pdf"] == 0)
    np.testing.assert_allclose(at["cdf"][:4], [atom(law) if below >= 0 else 0, 1, 0, 1], atol=1e-6)


@every_law
def test_samples_follow_the_law(law):
    law = single(law)
    keys = jax.random.split(KEY, 9 if atom(law) else 3)  # most numbers of a law with an atom are 0
    # without jit: what was compiled for the quantiles is used again
    x = np.concatenate([np.asarray(law.sample(key, P.shape)) for key in keys])
    assert x.dtype == np.float32
    if atom(law):
        assert_mean(x == 0, atom(law), resolution=0.02)
        x = x[x > 0]

    def cdf(x):
        parts = (np.resize(x[i : i + P.size], P.size) for i in range(0, x.size, P.size))  # of the compiled shape
        found = np.concatenate([np.asarray(functions(law, part)["cdf"], float) for part in parts])[: x.size]
        return (found - atom(law)) / (1 - atom(law))

    assert_law(x, lambda x: np.clip(cdf(np.float32(x)), 0, 1), resolution=0.035)


KINDS = {type(law).__name__: law for law in LAWS.values()}


@pytest.mark.parametrize("law", KINDS.values(), ids=KINDS)
def test_jit_is_eager_and_vmap_is_a_loop(law):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-4, atol=1e-5)  # noqa: E731
    p = np.float32(P)
    x = single(law).ppf(p)
    # numbers of Python and arrays, traced and not, give the same
    few = x[:65]  # every probability once
    traced = {name: functions(law, x)[name][:65] for name in ("pdf", "cdf")}
    jax.tree.map(close, {"pdf": law.pdf(few), "cdf": law.cdf(few)}, traced)
    if not jax.tree.leaves(law):
        return
    several = [jax.tree.map(lambda v, f=factor: v * jnp.float32(f), law) for factor in (1.0, 1.1, 0.9)]
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *several)
    batched = jax.jit(jax.vmap(lambda law: {"x": law.ppf(p), **functions(law, x)}))(stacked)
    for i, law in enumerate(several):
        loop = {"x": law.ppf(p), **functions(law, x)}
        jax.tree.map(close, {name: value[i] for name, value in batched.items()}, loop)


@pytest.mark.parametrize("name", ["Marchenko–Pastur", "Rice", "log-gas pair", "semicircle"])
def test_quantiles_have_the_derivative_of_the_implicit_function(name):
    with jax.enable_x64(True):
        law = double(LAWS[name])
        step = 1e-5
        p = jnp.array(0.3)
        slope = jax.grad(lambda law: law.ppf(p))(law)
        for i, (leaf, wanted) in enumerate(zip(jax.tree.leaves(law), jax.tree.leaves(slope), strict=True)):

            def moved(by, i=i, leaf=leaf):
                leaves, structure = jax.tree.flatten(law)
                return jax.tree.unflatten(structure, [*leaves[:i], leaf + by, *leaves[i + 1 :]]).ppf(p)

            np.testing.assert_allclose(wanted, (moved(step) - moved(-step)) / (2 * step), rtol=1e-6)


# --- published constants and known limits --------------------------------------------------------------------------


def test_the_issue_s_example():
    np.testing.assert_allclose(laws.MarchenkoPastur(ratio=0.5, variance=1.0).support, (0.0858, 2.914), atol=5e-4)


def test_pair_and_surmise_constants():
    with jax.enable_x64(True):  # constants are exact: in float32 the exponent b s² would magnify the rounding of b
        pair = laws.PairSpacing(sigma=2.0)
        np.testing.assert_allclose(pair.mean, 2 * np.sqrt(np.pi), rtol=1e-11)
        np.testing.assert_allclose(pair.variance + pair.mean**2, 16, rtol=1e-11)  # ⟨S²⟩ = 4σ²
        s = np.linspace(0.1, 4, 20)
        np.testing.assert_allclose(
            laws.WignerSurmise(1.0).pdf(s), np.pi / 2 * s * np.exp(-np.pi * s**2 / 4), rtol=1e-11
        )
        two, four = 32 / np.pi**2, 2**18 / (3**6 * np.pi**3)
        np.testing.assert_allclose(laws.WignerSurmise(2.0).pdf(s), two * s**2 * np.exp(-4 / np.pi * s**2), rtol=1e-11)
        np.testing.assert_allclose(
            laws.WignerSurmise(4).pdf(s), four * s**4 * np.exp(-64 / 9 / np.pi * s**2), rtol=1e-11
        )
        np.testing.assert_allclose(laws.Brody(0.0).pdf(s), laws.PoissonSpacing().pdf(s), rtol=1e-11)
        np.testing.assert_allclose(laws.Brody(1.0).pdf(s), laws.WignerSurmise(1.0).pdf(s), rtol=1e-11)


@pytest.mark.parametrize(
    ("beta", "norm", "mean"),
    [
        (1, 8 / 27, 4 - 2 * np.sqrt(3)),
        (2, 4 * np.pi / 81 / np.sqrt(3), 2 * np.sqrt(3) / np.pi - 0.5),
        (4, 4 * np.pi / 729 / np.sqrt(3), 32 * np.sqrt(3) / 15 / np.pi - 0.5),
    ],
)
def test_ratio_constants(beta, norm, mean):
    """Table I of Atas, Bogomolny, Giraud and Roux (2013)."""
    r = np.linspace(0.05, 1, 20)
    wanted = 2 / norm * (r + r**2) ** beta / (1 + r + r**2) ** (1 + 1.5 * beta)
    found = functions(single(laws.SpacingRatio(beta)), np.resize(np.float32(r), P.size))["pdf"][: r.size]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(laws.SpacingRatio(beta).mean, mean, rtol=1e-6)


@pytest.mark.parametrize(
    ("beta", "mean", "variance"),
    [
        (1, -1.2065335745820, 1.607781034581),
        (2, -1.771086807411, 0.8131947928329),
        (4, -2.306884893241, 0.5177237207726),
    ],
)
def test_tracy_widom_moments(beta, mean, variance):
    """Bornemann, Math. Comp. 79, 871 (2010)."""
    with jax.enable_x64(True):
        np.testing.assert_allclose(laws.TracyWidom(beta).mean, mean, rtol=1e-11)
        np.testing.assert_allclose(laws.TracyWidom(beta).variance, variance, rtol=1e-10)


def test_tracy_widom_quantiles_and_tails():
    # critical values of Johnstone's table, β = 1
    critical = jax.jit(laws.TracyWidom(1).sf)(np.array([0.9793, 2.0234, 3.2724]))
    np.testing.assert_allclose(critical, [0.05, 0.01, 0.001], rtol=5e-4)
    with jax.enable_x64(True):
        s = jnp.array([6.0, 10.0, 15.0, 20.0])
        power = s**1.5
        first = jnp.exp(-2 / 3 * power) / (4 * jnp.sqrt(jnp.pi) * s**0.75)
        second = jnp.exp(-4 / 3 * power) / (16 * jnp.pi * power)
        # leading asymptotic terms, corrections 1/s^{3/2}
        upper = jax.jit(lambda s: (laws.TracyWidom(1).sf(s), laws.TracyWidom(2).sf(s)))(s)
        assert np.all(np.abs(upper[0] / first - 1) < 1 / power)
        assert np.all(np.abs(upper[1] / second - 1) < 2 / power)
        # F₄ + F₁ F₄ = ½ (F₁² + F₂): where 1 − F₄ is no smaller than rounding
        s = jnp.linspace(-5, 3, 30)
        three = jax.jit(lambda s: [laws.TracyWidom(b).cdf(s / 2**0.5 if b == 4 else s) for b in (1, 2, 4)])
        one, two, four = three(s)
        np.testing.assert_allclose(four, (one + two / one) / 2, rtol=1e-8)
        tail = laws.TracyWidom(4)
        x = jnp.linspace(2, 9, 400)
        slope, density = jax.jit(lambda x: (jax.vmap(jax.grad(tail.sf))(x), tail.pdf(x)))(x)
        np.testing.assert_allclose(slope, -density, rtol=1e-9)


def test_tracy_widom_4_is_scaled_as_documented():
    """x₁ = 2√n + (2n)^{−1/6} s: the top corner of the tridiagonal matrix of 2000 β = 4 ensembles of n = 1000."""
    n, corner, samples = 1000, 150, 2000
    one, two = jax.random.split(KEY)
    diagonal = jax.random.normal(one, (samples, corner)) / 2**0.5
    off = jnp.sqrt(2 * jax.random.gamma(two, 2.0 * jnp.arange(n - 1, n - corner, -1), (samples, corner - 1)) / 4)
    top = [
        eigh_tridiagonal(d, e, eigvals_only=True, select="i", select_range=(corner - 1, corner - 1))[0]
        for d, e in zip(np.asarray(diagonal, float), np.asarray(off, float), strict=True)
    ]
    s = (np.array(top) - 2 * np.sqrt(n)) * (2 * n) ** (1 / 6)
    # finite n moves the mean by about n^{−1/3}/4; without the 2^{1/6} it would be off by 0.25
    assert_mean(s, laws.TracyWidom(4).mean, bias=0.03, resolution=0.12)


def test_rice_is_scipy_s_and_never_overflows():
    with jax.enable_x64(True):
        for d, sigma in [(0.3, 1.0), (3.0, 0.4), (40.0, 0.6)]:
            law = laws.RiceSpacing(d, sigma)
            width = 2**0.5 * sigma
            other = scipy.stats.rice(d / width, scale=width)
            x = other.ppf(np.linspace(0.001, 0.999, 50))
            exact = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), law)
            at = functions(exact, np.resize(x, P.size))  # of the compiled shape
            np.testing.assert_allclose(at["cdf"][:50], other.cdf(x), atol=1e-10)
            np.testing.assert_allclose(at["pdf"][:50], other.pdf(x), rtol=1e-9)  # type: ignore[attr-defined]  # scipy has no types
    x = jnp.linspace(990.0, 1010.0, 50)
    assert np.all(np.isfinite(laws.RiceSpacing(1000.0, 1.0).pdf(x)))


@pytest.mark.parametrize("law", [laws.RiceSpacing, laws.LogGasPairSpacing])
def test_pairs_without_a_distance_are_degenerate(law):
    x = np.linspace(0.01, 5, 30)
    np.testing.assert_allclose(law(0.0, 0.8).pdf(x), laws.PairSpacing(0.8).pdf(x), rtol=2e-5)
    np.testing.assert_allclose(law(0.0, 0.8).cdf(x), laws.PairSpacing(0.8).cdf(x), atol=2e-6)


# --- brute force: matrices -----------------------------------------------------------------------------------------


def block(key, n, sigma, shape):
    """Levels [*shape, n] of Gaussian orthogonal matrices, diagonal variance σ²."""
    a = jax.random.normal(key, (*shape, n, n)) * sigma
    return jnp.linalg.eigvalsh((a + a.mT) / 2)


def test_block_has_the_stated_variances():
    """(A + Aᵀ)/2 of independent N(0, σ²): σ² on the diagonal, σ²/2 off it."""
    levels = block(KEY, 4, 1.5, (4000,))
    assert_mean(jnp.mean(levels**2, -1), 1.5**2 * 5 / 2, resolution=0.3)


def test_rice_is_the_gap_of_a_matrix_with_a_mean():
    a = 0.6 * jax.random.normal(KEY, (20_000, 2, 2))
    levels = jnp.linalg.eigvalsh((a + a.mT) / 2 + jnp.diag(jnp.array([0.0, 1.5])))
    assert_law(levels[:, 1] - levels[:, 0], LAWS["Rice"].cdf, resolution=0.03)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_multiplet_is_a_gaussian_block(n):
    one, two = jax.random.split(KEY)
    levels = block(one, n, 0.5, (10_000,))
    chosen = jnp.take_along_axis(levels, jax.random.randint(two, (10_000, 1), 0, n), 1)[:, 0]
    law = laws.GeneralisedSemicircle([0.0], (n,), 0.5)
    assert_law(chosen, law.cdf, resolution=0.03)
    with jax.enable_x64(True):
        law = laws.GeneralisedSemicircle([0.0], (n,), 0.5)
        x = jnp.linspace(-4, 4, 81)
        if n == 1:
            np.testing.assert_allclose(law.pdf(x), scipy.stats.norm.pdf(x, scale=0.5), atol=1e-11)
        if n == 2:
            np.testing.assert_allclose(law.pdf(x), laws.PairDensity(0.0, 0.5).pdf(x), atol=1e-11)
            np.testing.assert_allclose(law.cdf(x), laws.PairDensity(0.0, 0.5).cdf(x), atol=1e-11)


def test_three_levels_by_integration_of_the_joint_law():
    step = 0.05
    y = np.arange(-7, 7, step) + step / 2
    pair = np.abs(y[:, None] - y) * np.exp(-(y[:, None] ** 2 + y**2) / 2)
    at = np.linspace(-4, 4, 33)
    value = np.array([np.exp(-(u**2) / 2) * (np.abs(u - y) @ pair @ np.abs(u - y)) for u in at])
    value /= value.sum() * (at[1] - at[0])
    np.testing.assert_allclose(laws.GeneralisedSemicircle([0.0], (3,), 1.0).pdf(at), value, atol=1e-3)


def test_large_multiplet_is_the_semicircle():
    n = 60
    x = np.linspace(-12, 12, 200)
    wide = laws.GeneralisedSemicircle([0.0], (n,), 1.0).cdf(x)
    np.testing.assert_allclose(wide, laws.Semicircle(0.0, np.sqrt(2 * n)).cdf(x), atol=1 / n)


@pytest.mark.parametrize("shape", [(200, 400), (300, 150)])
def test_marchenko_pastur_is_a_large_wishart_matrix(shape):
    k, l = shape
    w = jax.random.normal(KEY, shape) * np.sqrt(1.5 / l)
    levels = np.clip(np.linalg.eigvalsh(np.asarray(w @ w.T, float)), 0, None)
    levels[levels < 1e-5] = 0
    law = laws.MarchenkoPastur(k / l, 1.5)
    x = np.linspace(0.001, 10, 300)
    # levels are rigid: the distance is O(ln K/K), far below that of independent numbers
    np.testing.assert_allclose(np.searchsorted(np.sort(levels), x) / k, law.cdf(x), atol=4 / k)


# --- fits -----------------------------------------------------------------------------------------------------------


def wishart(key, k, l, variance, shape):
    w = jax.random.normal(key, (*shape, k, l)) * (variance / l) ** 0.5
    return jnp.linalg.eigvalsh(w @ w.mT)


FITS = {
    "pair density, independent": (laws.PairDensity(3.0, 0.4), laws.PairDensity.fit, (300,), None),
    "pair density, pairs": (
        laws.PairDensity(3.0, 0.4),
        laws.PairDensity.fit,
        (200,),
        lambda key, shape: 3 + block(key, 2, 0.4, shape),
    ),
    "pair spacing": (laws.PairSpacing(0.7), laws.PairSpacing.fit, (300,), None),
    "Rice": (laws.RiceSpacing(3.0, 0.6), laws.RiceSpacing.fit, (300,), None),
    "surmise": (laws.WignerSurmise(2.0), laws.WignerSurmise.fit, (300,), None),
    "surmise, weak": (laws.WignerSurmise(0.2), laws.WignerSurmise.fit, (300,), None),
    "ratio": (laws.SpacingRatio(1.0), laws.SpacingRatio.fit, (300,), None),
    "Brody": (laws.Brody(0.5), laws.Brody.fit, (300,), None),
    "Brody, rows": (laws.Brody(0.5), laws.Brody.fit, (60, 5), None),
    "Marchenko–Pastur": (
        laws.MarchenkoPastur(0.5, 1.5),
        laws.MarchenkoPastur.fit,
        (40,),
        lambda key, shape: wishart(key, 12, 24, 1.5, shape),
    ),
    "Marchenko–Pastur, atom": (
        laws.MarchenkoPastur(2.0, 1.5),
        laws.MarchenkoPastur.fit,
        (40,),
        lambda key, shape: wishart(key, 16, 8, 1.5, shape),
    ),
    "Marchenko–Pastur, one spectrum": (
        laws.MarchenkoPastur(0.5, 1.5),
        laws.MarchenkoPastur.fit,
        (),
        lambda key, shape: wishart(key, 32, 64, 1.5, shape),
    ),
    "Marchenko–Pastur, known ratio": (
        laws.MarchenkoPastur(0.5, 1.5),
        lambda levels: laws.MarchenkoPastur.fit(levels, ratio=0.5),
        (),
        lambda key, shape: wishart(key, 12, 24, 1.5, shape),
    ),
    "semicircle": (
        laws.Semicircle(2.0, 0.5 * np.sqrt(20)),
        laws.Semicircle.fit,
        (40,),
        lambda key, shape: 2 + block(key, 10, 0.5, shape),
    ),
    "semicircle, one spectrum": (
        laws.Semicircle(2.0, 0.5 * np.sqrt(40)),
        laws.Semicircle.fit,
        (),
        lambda key, shape: 2 + block(key, 20, 0.5, shape),
    ),
}


@pytest.mark.parametrize("name", FITS)
def test_fits_are_right_and_know_their_error(name):
    """300 repeats: the mean estimate is the truth, and the spread of the estimates is the error they state."""
    law, fit, shape, draw = FITS[name]
    draw = draw or law.sample
    fits = jax.jit(jax.vmap(lambda key: fit(draw(key, shape))))(jax.random.split(KEY, 300))
    assert set(fits.errors) >= {"entry_variance"} or set(fits.errors) == set(vars(law))
    for parameter, errors in fits.errors.items():
        estimates, true = np.asarray(getattr(fits.law, parameter), float), float(getattr(law, parameter))
        stated = np.sqrt(np.mean(np.asarray(errors, float) ** 2))
        # a bias of a fifth of the error is what maximum likelihood leaves at these sizes
        assert_mean(estimates, true, bias=0.2 * stated, resolution=0.6 * stated)
        assert abs(np.std(estimates, ddof=1) / stated - 1) < 0.2, (parameter, np.std(estimates), stated)


def test_fit_is_the_maximum_in_both_precisions_and_any_unit():
    x = np.asarray(LAWS["pair density"].sample(KEY, (500,)), float)
    in_float32 = laws.PairDensity.fit(x)
    with jax.enable_x64(True):
        law, errors = laws.PairDensity.fit(x)
        scaled = laws.PairDensity.fit(1e4 * x)
        assert law.sigma.dtype == jnp.float64
        np.testing.assert_allclose(scaled.law.sigma, 1e4 * law.sigma, rtol=1e-9)
    np.testing.assert_allclose(in_float32.law.centre, law.centre, atol=0.01 * float(errors["centre"]))
    np.testing.assert_allclose(in_float32.errors["sigma"], errors["sigma"], rtol=1e-3)

    def loss(parameters):
        u = (x - parameters[0]) / parameters[1]
        bracket = 2 * np.exp(-(u**2) / 2) + np.sqrt(2 * np.pi) * u * scipy.special.erf(u / np.sqrt(2))
        return np.sum(np.log(parameters[1]) + u**2 / 2 - np.log(bracket))

    best = scipy.optimize.minimize(loss, [x.mean(), 0.3], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-9})
    np.testing.assert_allclose([law.centre, law.sigma], best.x, rtol=1e-6)


# --- the outlier ----------------------------------------------------------------------------------------------------


def test_critical_learning_rate():
    np.testing.assert_allclose(laws.critical_learning_rate(1.0, 0.5, 1), 0.457, atol=5e-4)
    # at that rate the signal (1 − (1−ε)^t)² is critical for the noise (1−ε)^t σ
    width, ratio, steps = 1.7, 0.3, 5
    kept = (1 - laws.critical_learning_rate(width, ratio, steps)) ** steps
    outlier = laws.OutlierBBP(signal=(1 - kept) ** 2, noise=kept * width, ratio=ratio)
    np.testing.assert_allclose(outlier.signal, outlier.critical_signal, rtol=1e-5)
    np.testing.assert_allclose(outlier.outlier, outlier.bulk_edge, rtol=1e-5)
    np.testing.assert_allclose(outlier.overlap, 0, atol=1e-5)


def test_below_the_transition_there_is_no_outlier():
    law = laws.OutlierBBP(signal=0.0, noise=2.0, ratio=0.5)
    np.testing.assert_allclose([law.outlier, law.overlap], [float(law.bulk_edge), 0], rtol=1e-6, atol=1e-6)


def test_outlier_of_a_matrix():
    n, m, noise, signal = 300, 600, 0.5, 1.0
    w = noise / m**0.5 * jax.random.normal(KEY, (n, m)) + signal**0.5 * jnp.zeros((n, m)).at[0, 0].set(1)
    vectors, values, _ = np.linalg.svd(np.asarray(w), full_matrices=False)
    law = jax.jit(lambda *p: laws.OutlierBBP(*p))(signal, noise, n / m)
    np.testing.assert_allclose(values[0] ** 2, law.outlier, rtol=0.06)
    np.testing.assert_allclose(values[1] ** 2, law.bulk_edge, rtol=0.06)
    np.testing.assert_allclose(vectors[0, 0] ** 2, law.overlap, atol=0.05)


# --- bad input ------------------------------------------------------------------------------------------------------

BAD = {
    "ratio = 0.0": lambda: laws.MarchenkoPastur(0.0),
    "variance = -1.0": lambda: laws.MarchenkoPastur(0.5, -1.0),
    "radius = nan": lambda: laws.Semicircle(0.0, np.nan),
    "centre = inf": lambda: laws.Semicircle(np.inf, 1.0),
    "sigma = 0": lambda: laws.PairDensity(0.0, 0),
    "sigma = [1.0, -1.0]": lambda: laws.PairSpacing([1.0, -1.0]),
    "sigma = 'wide'": lambda: laws.PairSpacing("wide"),
    "distance = -0.1": lambda: laws.RiceSpacing(-0.1, 1.0),
    "distance = -0.2": lambda: laws.LogGasPairSpacing(-0.2, 1.0),
    "beta = -1.0": lambda: laws.WignerSurmise(-1.0),
    "beta = -2.0": lambda: laws.SpacingRatio(-2.0),
    "parameter = -1": lambda: laws.Brody(-1),
    "beta = 3": lambda: laws.TracyWidom(3),
    "sizes = (0,)": lambda: laws.GeneralisedSemicircle([1.0], (0,), 1.0),
    "sizes = (1.5,)": lambda: laws.GeneralisedSemicircle([1.0], (1.5,), 1.0),  # type: ignore[arg-type]  # wrong on purpose
    "centres = ": lambda: laws.GeneralisedSemicircle([1.0], (1, 2), 1.0),
    "signal = -1.0": lambda: laws.OutlierBBP(-1.0, 1.0, 1.0),
    "steps = 0": lambda: laws.critical_learning_rate(1.0, 1.0, 0),
    "spacings = ": lambda: laws.WignerSurmise.fit(np.array([1.0, -1.0, 2.0])),
    "spacings = (1,)": lambda: laws.Brody.fit(np.array([1.0])),
    "ratios = ": lambda: laws.SpacingRatio.fit(np.array([0.2, 1.5])),
    "levels = ": lambda: laws.PairDensity.fit(np.array([0.2, np.nan])),
    "levels = Array([0.2, inf]": lambda: laws.Semicircle.fit(np.array([0.2, np.inf])),
    "ratio = -2.0": lambda: laws.MarchenkoPastur.fit(np.array([0.2, 1.0]), ratio=-2.0),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_in_one_line(message):
    with pytest.raises(InputError, match=re.escape(message) + ".*expected") as refused:
        BAD[message]()
    assert "\n" not in str(refused.value)


def test_records_are_frozen_and_trees_hold_anything():
    law = laws.Semicircle(0.0, 1.0)
    with pytest.raises(AttributeError):
        law.radius = 2.0  # type: ignore[misc]  # read-only, which is the point
    assert law == laws.Semicircle(centre=0.0, radius=1.0)
    assert jax.tree.map(lambda v: -v, law).radius == -1.0  # a derivative may be negative
    assert jax.tree.leaves(laws.TracyWidom(2)) == []
