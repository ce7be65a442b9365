"""Power-law tails: planted exponents, the null laws of the tests, and the package `powerlaw` as an oracle."""

import warnings

import jax
import numpy as np
import pytest

import dysonjax as dj
from dysonjax.weights import tail as tails

RNG = np.random.default_rng(17)
KEY = jax.random.key(0)


def pareto(alpha, n, rng=RNG):
    """Numbers of density (α − 1) x^{−α}, x ≥ 1."""
    return (1 - rng.random(n)) ** (-1 / (alpha - 1))


@pytest.mark.parametrize("alpha", [2.0, 3.0, 4.0, 5.0])
def test_planted_exponents_lie_in_their_error_bands(alpha):
    """Of 40 seeds about 95 % lie within 1.96 standard errors; eight outside would be a chance of 0.1 %."""
    rng = np.random.default_rng(int(alpha))
    found = [tails.fit_tail(jax.random.fold_in(KEY, s), pareto(alpha, 200, rng), 40).exponent for s in range(40)]
    values, errors = np.array([f.value for f in found]), np.array([f.error for f in found])
    assert np.sum(np.abs(values - alpha) > 1.96 * errors) < 8
    assert 0.8 < errors.mean() / values.std() < 2
    assert abs(values.mean() - alpha) < 5 * values.std() / np.sqrt(40) + 0.03 * (alpha - 1)


def test_a_tail_above_a_bulk_is_found():
    bulk, tail = RNG.uniform(0, 10, 700), 10 * pareto(2.5, 300)
    found = tails.fit_tail(KEY, np.concatenate([bulk, tail]))
    assert abs(found.exponent.value - 2.5) < 3 * found.exponent.error
    assert found.x_min == pytest.approx(10, rel=0.25)
    assert found.exponent.count == np.sum(np.concatenate([bulk, tail]) >= found.x_min * (1 - 1e-9))
    assert found.ks_p > 0.05


def test_p_values_when_the_power_law_is_true():
    """Half of the ratios are zero, and p below 0.1 is about as rare as it says."""
    fits = [tails._lognormal(np.log(pareto(3.0, 150))) for _ in range(300)]
    assert 0.35 < np.mean([f is None for f in fits]) < 0.75
    p = []
    for _ in range(200):
        u = np.log(pareto(2.5, 150))
        p.append([tails._compare(f(u), 1 / u.mean(), u).p for f in (tails._lognormal, tails._truncated)])
    small = np.mean(np.array(p) < 0.1, axis=0)
    assert np.all(small < 0.1 + 5 * np.sqrt(0.09 / 200))
    assert np.all(small > 0.01)


def test_other_laws_are_preferred_where_they_are_true():
    lognormal = tails.fit_tail(KEY, np.exp(0.5 * RNG.normal(size=3000)))
    power = tails.fit_tail(KEY, pareto(2.0, 3000))
    assert power.lognormal.p > 0.01
    assert power.truncated.p > 0.01
    u = np.log(1 + np.abs(RNG.normal(size=500)))
    for other in (tails._lognormal, tails._truncated):
        assert tails._compare(other(u), 1 / u.mean(), u).p < 1e-6
    assert lognormal.exponent.value > 3
    uniform = tails.fit_tail(KEY, np.linspace(1, 2, 2000))
    assert uniform.truncated.ratio < 0


def test_agrees_with_powerlaw():
    """The same α and ratios of likelihoods from the same x_min on, and half its p-value for the nested law.

    All exponents lie below 3, where its range of parameters ends; its own x_min gives the same α within the error.
    """
    powerlaw = pytest.importorskip("powerlaw")
    samples = (pareto(2.0, 100), pareto(2.3, 150), np.exp(2.5 * RNG.normal(size=150)), 0.02 + RNG.gamma(0.3, size=150))
    for x in samples:
        found = tails.fit_tail(KEY, x, 20)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            free = powerlaw.Fit(x, verbose=False)
            fit = powerlaw.Fit(x, xmin=found.x_min * (1 - 1e-12), verbose=False)
            lognormal, _ = fit.distribution_compare("power_law", "lognormal")
            truncated, p = fit.distribution_compare("power_law", "truncated_power_law")
        assert abs(found.exponent.value - free.power_law.alpha) < found.exponent.error
        assert found.exponent.value == pytest.approx(fit.power_law.alpha, rel=1e-4)
        assert found.truncated.ratio == pytest.approx(min(truncated, 0), abs=2e-3)
        assert found.truncated.p == pytest.approx(p / 2 if found.truncated.ratio else 1, abs=0.02)
        if found.lognormal.ratio:  # in the limit of a power law the package's log-normal loses its digits
            assert found.lognormal.ratio == pytest.approx(lognormal, abs=2e-3)


def test_hill_by_hand():
    np.testing.assert_allclose(tails.hill([1.0, np.e**4, np.e]), [4 / 3, 1.4], rtol=1e-12)
    assert np.all(np.isnan(tails.hill([0.0, 0.0, 1.0])))
    assert tails.hill([2.0, 2.0, 1.0])[0] == np.inf
    flat = tails.hill(pareto(2.5, 20000))
    np.testing.assert_allclose(flat[[1999, 9999]], 2.5, atol=5 * 1.5 / np.sqrt(2000))


def test_scale_and_key():
    x = pareto(2.2, 300)
    one, two = tails.fit_tail(KEY, x), tails.fit_tail(KEY, 1000 * x[::-1])
    assert two.exponent.value == pytest.approx(one.exponent.value)
    assert two.exponent.error == pytest.approx(one.exponent.error, rel=1e-3)
    assert two.x_min == pytest.approx(1000 * one.x_min)
    assert tails.fit_tail(KEY, x) == one


@pytest.mark.parametrize("x", [np.zeros(30), np.ones(30), np.arange(9.0), np.zeros(0)])
def test_too_little_to_fit(x):
    found = tails.fit_tail(KEY, x)
    assert np.isnan(found.exponent.value)
    assert np.isnan(found.truncated.p)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tails.fit_tail(KEY, np.ones((3, 3))), "levels = (3, 3)"),
        (lambda: tails.fit_tail(KEY, [1.0, -1.0]), "levels = "),
        (lambda: tails.fit_tail(KEY, [1.0, np.inf]), "levels = "),
        (lambda: tails.fit_tail(KEY, np.arange(20.0), 1), "samples = 1"),
        (lambda: tails.hill([np.nan]), "levels = "),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(dj.InputError) as refusal:
        call()
    assert str(refusal.value).startswith(words)
