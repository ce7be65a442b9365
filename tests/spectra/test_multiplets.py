"""Estimators of the linear scaling rule against blocks of known width, and every p-value against chance."""

import jax
import numpy as np
import pytest
from scipy.stats import chi2, kstwo
from stochastic import assert_law, assert_mean

from dysonjax import scaling
from dysonjax.core.errors import InputError
from dysonjax.laws import GeneralisedSemicircle, PairDensity, WignerSurmise
from dysonjax.spectra import jackknife

KEY = jax.random.key(0)
ROOT_PI = np.sqrt(np.pi)
UNIFORM = lambda p: np.clip(p, 0, 1)  # noqa: E731
PREDICTOR = np.outer([0.5, 1.0, 1.5, 2.0, 3.0], [1.0, 1.2, 1.4, 1.6])
"""x of five settings and four pairs."""
RBM = np.array([8.0, 7.618, 7.618, 6.618, 6.618, 5.382, 5.382, 4.382, 4.382, 4.0])


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def blocks(rng, shape, k, sigma=1.0):
    """Levels [*shape, k], largest first, of symmetric matrices of variance σ² on the diagonal and σ²/2 off it."""
    a = rng.normal(size=(*shape, k, k)) * sigma
    return np.linalg.eigvalsh((a + a.swapaxes(-1, -2)) / 2)[..., ::-1]


def correlated_spacings(rng, replicas, share=0.9):
    """[R, 4] for each row of `PREDICTOR`: spacings √π x in the mean, those of one replica strongly correlated."""
    out = []
    for x in PREDICTOR:
        common, own = rng.normal(size=(replicas, 1, 2)), rng.normal(size=(replicas, len(x), 2))
        pair = np.sqrt(share) * common + np.sqrt(1 - share) * own
        out.append(np.sqrt(2) * np.linalg.norm(pair, axis=-1) * x)
    return out


def assert_unit_width(pulls, within=0.15):
    assert np.std(pulls) == pytest.approx(1, abs=within)


def test_multiplets_of_the_rbm():
    parts = scaling.multiplets(RBM)
    assert [p.stop - p.start for p in parts] == [1, 2, 2, 2, 2, 1]
    assert np.concatenate([RBM[p] for p in parts]).tolist() == RBM.tolist()
    kappa = 4 + 2 - 2 * np.cos(2 * np.pi * np.arange(10) / 10)  # equal only to rounding
    assert scaling.multiplets(np.sort(kappa)[::-1]) == parts
    assert len(scaling.multiplets(RBM, tolerance=0.05)) == 4
    assert scaling.multiplets([3.0]) == (slice(0, 1),)


def test_spacing_and_width_of_a_pair(rng):
    pulls, naive = [], []
    for _ in range(200):
        x = blocks(rng, (100,), 2, 0.3) + 5
        spacing, fit = scaling.pair_spacing(x), scaling.pair_width(x)
        found = np.array([spacing.value - ROOT_PI * 0.3, fit.centre.value - 5, fit.width.value - 0.3])
        pulls.append(found / [spacing.error, fit.centre.error, fit.width.error])
        naive.append(found[1] / (x.std() / np.sqrt(x.size)))
        assert spacing.count == fit.width.count == 100
    assert_mean(np.array(pulls), 0, bias=0.1, resolution=0.5)
    for pull in np.array(pulls).T:
        assert_unit_width(pull)
    assert np.std(naive) < 0.9  # levels that repel, taken for independent ones


def test_widths_of_several_pairs_are_those_of_each(rng):
    x = blocks(rng, (300, 3), 2, 1e-3) + np.array([1.0, 5.0, 8.0])[:, None]
    wanted = [ROOT_PI * scaling.pair_width(x[:, i]).width.value for i in range(3)]
    np.testing.assert_allclose(scaling.pair_widths(x), wanted, rtol=1e-6)
    law = PairDensity.fit((x[:, 0] - 1) * 1e3).law
    np.testing.assert_allclose(wanted[0], ROOT_PI * 1e-3 * law.sigma, rtol=1e-3)


def test_moment_ratio(rng):
    samples = [np.diff(blocks(rng, (40,), 2))[:, 0] * -7 for _ in range(400)]
    ratios = [scaling.moment_ratio(s) for s in samples]
    values, errors = [r.value for r in ratios], [r.error for r in ratios]
    assert_mean(values, 4 / np.pi, resolution=0.02)
    assert np.std(values) == pytest.approx(np.mean(errors), rel=0.15)
    with jax.enable_x64(True):
        slow = jackknife(lambda s: (s**2).mean() / s.mean() ** 2, samples[-1])
    np.testing.assert_allclose([values[-1], errors[-1]], [slow.value, slow.error], rtol=1e-9)


def test_surmise_test_is_exact_though_the_mean_is_fitted(rng):
    mine, kolmogorov = [], []
    for i in range(200):
        test = scaling.surmise_test(jax.random.key(i), -np.diff(blocks(rng, (60,), 2, 3.0))[:, 0], draws=99)
        mine.append(test.p_value)
        kolmogorov.append(kstwo.sf(test.distance, test.count))
    assert_law(mine, UNIFORM, bias=0.01, resolution=0.21)
    with pytest.raises(AssertionError, match="from the law"):
        assert_law(kolmogorov, UNIFORM, resolution=0.21)


def test_surmise_test_sees_other_laws(rng):
    assert scaling.surmise_test(KEY, rng.exponential(size=100), draws=199).p_value == 1 / 200
    unitary = np.asarray(WignerSurmise(2.0).sample(KEY, (400,)))
    assert scaling.surmise_test(KEY, unitary, draws=199).p_value == 1 / 200


def test_surmise_distance_is_that_of_the_law(rng):
    s = rng.exponential(size=50)
    wanted = np.asarray(WignerSurmise(1.0).cdf(np.sort(s / s.mean())))
    distance = max(np.max(np.arange(1, 51) / 50 - wanted), np.max(wanted - np.arange(50) / 50))
    assert scaling.surmise_test(KEY, s, draws=9).distance == pytest.approx(distance, abs=1e-5)


@pytest.mark.parametrize(("repeats", "resolution"), [(150, 0.26), (400, 0.17)])
def test_slope_is_unbiased_and_its_error_that_of_its_scatter(rng, repeats, resolution):
    pulls, ignored, p_values, p_ignored, ratios = [], [], [], [], []
    for _ in range(repeats):
        fit = scaling.fit_through_origin(PREDICTOR, correlated_spacings(rng, 200))
        off = np.array([fit.slope.value, fit.slope.value, fit.unweighted.value]) - ROOT_PI
        pulls.append(off / [fit.slope.error, fit.jackknife_error, fit.unweighted.error])
        ratios.append(fit.jackknife_error / fit.slope.error)
        p_values.append(fit.p_value)
        # the same four pairs taken for independent
        weighted = PREDICTOR / fit.points.error
        error = np.sum(weighted**2) ** -0.5
        slope = error**2 * np.sum(weighted * fit.points.value / fit.points.error)
        ignored.append((slope - ROOT_PI) / error)
        p_ignored.append(chi2.sf(np.sum(((fit.points.value - slope * PREDICTOR) / fit.points.error) ** 2), fit.dof))
        assert fit.dof == 19
        assert fit.slope.count == 1000
    assert_mean(np.array(pulls), 0, resolution=6 / np.sqrt(repeats))
    for pull in np.array(pulls).T:
        assert_unit_width(pull, 3 / np.sqrt(repeats))
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)
    assert_law(p_values, UNIFORM, bias=0.03, resolution=resolution)
    assert np.std(ignored) > 1.5
    with pytest.raises(AssertionError, match="from the law"):
        assert_law(p_ignored, UNIFORM, bias=0.03, resolution=resolution)


def test_a_line_that_does_not_fit_is_said_not_to(rng):
    bent = [s * (1 - 0.1 * x) for s, x in zip(correlated_spacings(rng, 400), PREDICTOR[:, 0], strict=True)]
    fit = scaling.fit_through_origin(PREDICTOR, bent)
    assert fit.p_value < 1e-6
    assert fit.error_scaled == pytest.approx(fit.slope.error * np.sqrt(fit.chi2 / fit.dof))
    assert fit.error_scaled > 1.5 * fit.slope.error
    assert fit.slope.value - fit.unweighted.value > 5 * fit.unweighted.error
    straight = scaling.fit_through_origin(PREDICTOR, correlated_spacings(rng, 400))
    assert straight.error_scaled >= straight.slope.error


def test_plain_least_squares_by_hand(rng):
    values = correlated_spacings(rng, 50)
    mean = np.array([v.mean(axis=0) for v in values])
    fit = scaling.fit_through_origin(PREDICTOR, values)
    np.testing.assert_allclose(fit.points.value, mean)
    np.testing.assert_allclose(fit.points.error, [v.std(axis=0, ddof=1) / np.sqrt(50) for v in values])
    assert fit.unweighted.value == pytest.approx(np.sum(mean * PREDICTOR) / np.sum(PREDICTOR**2))
    one = scaling.fit_through_origin(PREDICTOR[:, :1], [v[:, :1] for v in values])
    weight = (PREDICTOR[:, 0] / one.points.error[:, 0]) ** 2
    slope = np.average(one.points.value[:, 0] / PREDICTOR[:, 0], weights=weight)
    assert one.slope.value == pytest.approx(slope, abs=one.slope.error)
    assert one.slope.error == pytest.approx(np.sum(weight) ** -0.5 / np.sqrt(1 - 2 / 49))


def test_jackknife_of_the_slope_equals_repeating_the_fit(rng):
    values = correlated_spacings(rng, 30)

    def slope(values):
        precision = [np.linalg.inv(np.cov(v.T) / len(v)) for v in values]
        top = sum(x @ p @ v.mean(axis=0) for x, p, v in zip(PREDICTOR, precision, values, strict=True))
        return top / sum(x @ p @ x for x, p in zip(PREDICTOR, precision, strict=True))

    without = np.array([slope([np.delete(v, np.s_[3 * g : 3 * g + 3], axis=0) for v in values]) for g in range(10)])
    fit = scaling.fit_through_origin(PREDICTOR, values, groups=10)
    assert fit.slope.value == pytest.approx(10 * slope(values) - 9 * without.mean(), rel=1e-9)
    assert fit.jackknife_error == pytest.approx(np.sqrt(9 * np.mean((without - without.mean()) ** 2)), rel=1e-9)


def test_a_statistic_goes_through_pseudo_values(rng):
    """Those of the mean are the samples themselves, so the two ways are one."""
    values = correlated_spacings(rng, 60)
    plain = scaling.fit_through_origin(PREDICTOR, values, groups=60)
    same = scaling.fit_through_origin(PREDICTOR, values, lambda v: v.mean(axis=0), groups=60)
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8)


def test_slope_of_fitted_widths(rng):
    pairs = [blocks(rng, (240, 3), 2) * x[:3, None] for x in PREDICTOR[:3]]
    fit = scaling.fit_through_origin(PREDICTOR[:3, :3], pairs, scaling.pair_widths, groups=40)
    assert abs(fit.slope.value - ROOT_PI) < 5 * fit.slope.error
    assert fit.slope.error < 0.04
    assert fit.p_value > 1e-4
    direct = [[ROOT_PI * scaling.pair_width(p[:, i]).width.error for i in range(3)] for p in pairs]
    np.testing.assert_allclose(fit.points.error / direct, 1, atol=5 / np.sqrt(2 * 40))
    assert np.mean(fit.points.error / direct) == pytest.approx(1, abs=0.15)


def test_jackknife_sees_random_numbers_that_settings_share(rng):
    one = correlated_spacings(rng, 500)[0] / PREDICTOR[0]
    fit = scaling.fit_through_origin(PREDICTOR, [one * x for x in PREDICTOR])
    assert fit.jackknife_error / fit.slope.error == pytest.approx(np.sqrt(5), rel=0.3)


def test_settings_of_different_size(rng):
    values = [v[:n] for v, n in zip(correlated_spacings(rng, 300), (300, 120, 33, 101, 250), strict=True)]
    fit = scaling.fit_through_origin(PREDICTOR, values)
    assert abs(fit.slope.value - ROOT_PI) < 5 * fit.slope.error
    assert (fit.slope.count, fit.points.count) == (804, 33)
    assert fit.jackknife_error == pytest.approx(fit.slope.error, rel=0.6)


def test_energy_distance_by_hand(rng, monkeypatch):
    one, two = rng.normal(size=(9, 3)), rng.normal(size=(13, 3)) * [1, 2, 5] + 1
    scale = np.concatenate([one, two]).std(axis=0)
    mean = lambda a, b: np.mean(np.linalg.norm((a[:, None] - b[None]) / scale, axis=-1))  # noqa: E731
    found = scaling.equal_temperature_test(KEY, one, two, permutations=99)
    assert found.statistic == pytest.approx(2 * mean(one, two) - mean(one, one) - mean(two, two))
    np.testing.assert_allclose(found.mean_difference.value, one.mean(axis=0) - two.mean(axis=0))
    error = np.sqrt(one.var(axis=0, ddof=1) / 9 + two.var(axis=0, ddof=1) / 13)
    np.testing.assert_allclose(found.mean_difference.error, error)
    monkeypatch.setattr(scaling, "AT_ONCE", 100)  # blocks of four rows
    in_parts = scaling.equal_temperature_test(KEY, one * [1, 8, 0.1], two * [1, 8, 0.1], permutations=99)
    np.testing.assert_allclose(in_parts[:2], found[:2], rtol=1e-9)


def test_equal_temperature_test_is_exact(rng):
    p = [
        scaling.equal_temperature_test(jax.random.key(i), blocks(rng, (8,), 3), blocks(rng, (11,), 3), 99).p_value
        for i in range(200)
    ]
    assert_law(p, UNIFORM, bias=0.01, resolution=0.21)


def test_equal_temperature_test_has_power(rng):
    one, two = blocks(rng, (300,), 4), blocks(rng, (300,), 4)
    assert scaling.equal_temperature_test(KEY, one, two).p_value > 0.001
    shift = np.array([0, 0, 0.3, 0]) * two.std(axis=0)
    assert scaling.equal_temperature_test(KEY, one, two + shift).p_value < 0.01
    assert scaling.equal_temperature_test(KEY, one, two + 1).p_value == 1 / 1000
    alone = rng.permuted(two, axis=0)  # the same levels one by one, but not the same spectra
    assert scaling.equal_temperature_test(KEY, one, alone).p_value < 0.01


def test_fitted_centres(rng):
    parts = scaling.multiplets(RBM)
    ratio = np.array([1.01, 1.02, 0.99, 1.03, 1.0, 0.96])
    size = [p.stop - p.start for p in parts]
    x = np.concatenate([blocks(rng, (2000,), k, 0.2) for k in size], axis=1) + RBM * np.repeat(ratio, size)
    found = scaling.fitted_centres(x, parts, RBM)
    kappa = np.array([8.0, 7.618, 6.618, 5.382, 4.382, 4.0])
    np.testing.assert_allclose(found.error, 0.2 / np.sqrt(2000 * np.array(size)) / kappa, rtol=0.1)
    assert np.all(np.abs(found.value - ratio) < 5 * found.error)
    np.testing.assert_allclose(scaling.fitted_centres(x, parts).value, found.value * kappa)


@pytest.mark.parametrize(
    ("k", "given", "repeats", "resolution"),
    [
        (3, {}, 80, 0.32),
        *[(k, given, 200, 0.21) for k, given in [(1, {}), (2, {}), (3, {}), (2, {"centre": 4.0}), (2, {"width": 0.5})]],
    ],
)
def test_multiplet_test_is_exact_when_fitted(rng, k, given, repeats, resolution):
    tests = [
        scaling.multiplet_ks(jax.random.key(i), blocks(rng, (40,), k, 0.5) + 4, draws=99, **given)
        for i in range(repeats)
    ]
    assert_law([t.p_value for t in tests], UNIFORM, bias=0.01, resolution=resolution)
    off = np.array([[t.centre.value - 4, t.width.value - 0.5] for t in tests])
    assert_mean(off, 0, bias=0.005, resolution=0.04)
    error = np.mean([[t.centre.error, t.width.error] for t in tests], axis=0)
    np.testing.assert_allclose(off.std(axis=0), error, rtol=0.25)


@pytest.mark.parametrize(
    ("k", "repeats", "resolution"), [(2, 80, 0.32), (1, 200, 0.21), (2, 200, 0.21), (4, 200, 0.21)]
)
def test_multiplet_test_is_exact_when_the_law_is_known(rng, k, repeats, resolution):
    tests = [scaling.multiplet_ks(jax.random.key(i), blocks(rng, (40,), k), 0.0, 1.0) for i in range(repeats)]
    assert_law([t.p_value for t in tests], UNIFORM, resolution=resolution)
    pooled = [kstwo.sf(t.distance, 40 * k) for t in tests]
    if k == 4:  # four levels that repel lie far closer to their law than independent ones
        with pytest.raises(AssertionError, match="from the law"):
            assert_law(pooled, UNIFORM, resolution=resolution)


def test_multiplet_test_has_power(rng):
    x = blocks(rng, (1000,), 2)
    assert scaling.multiplet_ks(KEY, x, 0.0, 1.25).p_value < 1e-3
    assert scaling.multiplet_ks(KEY, x + 0.3, 0.0, 1.0).p_value < 1e-4
    assert scaling.multiplet_ks(KEY, rng.uniform(size=(1000, 2)), draws=199).p_value == 1 / 200
    two_peaks = np.sort(x + np.array([1.5, -1.5]))[:, ::-1]
    assert scaling.multiplet_ks(KEY, two_peaks, draws=199).p_value == 1 / 200


def test_pooled_distance_is_that_of_the_law(rng):
    x = blocks(rng, (20000,), 3, 0.5) + 2
    found = scaling.multiplet_ks(KEY, x, 2.0, 0.5)
    wanted = np.asarray(GeneralisedSemicircle([2.0], (3,), 0.5).cdf(np.sort(x.ravel())))
    rank = np.arange(x.size)
    assert found.distance == pytest.approx(
        max(np.max((rank + 1) / x.size - wanted), np.max(wanted - rank / x.size)), abs=1e-5
    )
    assert found.distance < 0.008
    assert scaling.multiplet_ks(KEY, x[:, :2], 2.0, 0.5).distance > 0.05
    fitted = scaling.multiplet_ks(KEY, x, draws=9)
    assert fitted.distance < 0.008
    # Σ x² of a block is σ² times a χ² number of k (k + 1)/2 degrees of freedom
    assert fitted.width.error == pytest.approx(0.5 / np.sqrt(20000 * 3 * 4), rel=0.03)


def test_randomness_is_that_of_the_key(rng):
    x = blocks(rng, (50,), 2)
    for run in (
        lambda key: scaling.surmise_test(key, x[:, 0] - x[:, 1], draws=99),
        lambda key: scaling.multiplet_ks(key, x, draws=99),
        lambda key: scaling.equal_temperature_test(key, x[:25], x[25:], permutations=99),
    ):
        assert str(run(KEY)) == str(run(KEY))
        assert len({run(jax.random.key(i)).p_value for i in range(8)}) > 1


X, S = np.arange(20.0).reshape(10, 2) ** 1.5, np.arange(1.0, 11.0)
NAN = np.where(X > 50, np.nan, X)
MANY = np.random.default_rng(1).normal(size=(30, 2))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: scaling.multiplets([1.0, 2.0]), "centres"),
        (lambda: scaling.multiplets([]), "centres"),
        (lambda: scaling.multiplets([2.0, 1.0], tolerance=-1), "tolerance"),
        (lambda: scaling.pair_spacing(NAN), "pair"),
        (lambda: scaling.pair_spacing(X[:1]), "pair"),
        (lambda: scaling.pair_width(np.ones((5, 3))), "pair"),
        (lambda: scaling.pair_widths(X), "pairs"),
        (lambda: scaling.moment_ratio(X), "spacings"),
        (lambda: scaling.moment_ratio(-S), "spacings"),
        (lambda: scaling.surmise_test(KEY, np.zeros(5)), "spacings"),
        (lambda: scaling.surmise_test(KEY, S, draws=0), "draws"),
        (lambda: scaling.fit_through_origin(np.ones(3), [X]), "predictor"),
        (lambda: scaling.fit_through_origin(np.zeros((1, 2)), [MANY]), "predictor"),
        (lambda: scaling.fit_through_origin(np.ones((2, 2)), [MANY]), r"len\(values\)"),
        (lambda: scaling.fit_through_origin(np.ones((1, 3)), [MANY]), "values"),
        (lambda: scaling.fit_through_origin(np.ones((1, 2)), [NAN]), "values"),
        (lambda: scaling.fit_through_origin(np.ones((1, 2)), [MANY[:5]]), "groups"),
        (lambda: scaling.fit_through_origin(np.ones((1, 2)), [np.ones((30, 2))]), "values"),
        (lambda: scaling.fit_through_origin(np.ones((1, 2)), [MANY], "median"), "statistic"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: scaling.fit_through_origin(np.ones((1, 2)), [MANY], np.mean), "statistic"),
        (lambda: scaling.equal_temperature_test(KEY, X, X[:, :1]), "second"),
        (lambda: scaling.equal_temperature_test(KEY, X, NAN), "second"),
        (lambda: scaling.equal_temperature_test(KEY, X, X[:1]), "first, second"),
        (lambda: scaling.equal_temperature_test(KEY, X, X, permutations=0), "permutations"),
        (lambda: scaling.fitted_centres(X, ()), "multiplets"),
        (lambda: scaling.fitted_centres(X, (slice(0, 2),), [1.0]), "fixed_points"),
        (lambda: scaling.multiplet_ks(KEY, S), "levels"),
        (lambda: scaling.multiplet_ks(KEY, np.ones((9, 2))), "levels"),
        (lambda: scaling.multiplet_ks(KEY, X, 0.0, -1.0), "width"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(InputError, match=rf"^{name} = .*: expected .*$"):
        call()
