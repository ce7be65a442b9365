"""Boundaries of learning: known answers, and how often intervals cover; `benchmarks/coverage.py` has more."""

import numpy as np
import pytest
from scipy import optimize, special, stats

import dysonjax as dj
from dysonjax.experiments.learning.boundaries import descending, fit_boundary, fit_power, wilson

GRID = np.geomspace(0.01, 10, 12)
STEP = np.log(GRID[1] / GRID[0])

TOO_SMALL = "As fitted, P(learns) stays above 95 % up to the largest rate tried, 10: try larger ones."
TOO_LARGE = "As fitted, P(learns) is below 95 % from the smallest rate tried, 0.01, on: try smaller ones."


def networks(rng, seeds, width, paired=True, middle=0.3, rates=GRID):
    """Rates, seeds, outcomes of logistic thresholds, and their boundary at 95 %; `width` is the scale in `STEP`."""
    z = special.logit(rng.uniform(size=(seeds, 1 if paired else len(rates))))
    learned = np.log(middle) + width * STEP * z > np.log(rates)
    truth = middle * np.exp(width * STEP * special.logit(0.05))
    return np.tile(rates, seeds), np.repeat(np.arange(seeds), len(rates)), learned.ravel(), truth


def covered(rng, cases, repeats):
    """Share of intervals that hold the truth, over (seeds, width, paired), with the middle between any two rates."""
    hits = []
    for seeds, width, paired in cases:
        for _ in range(repeats):
            *data, truth = networks(rng, seeds, width, paired, 0.3 * np.exp(STEP * rng.uniform()))
            found = fit_boundary(*data, paired=paired)
            hits.append(found.low <= truth <= found.high)
    return np.mean(hits)


class TestWilson:
    def test_it_is_scipys(self):
        low, high = wilson([0, 3, 10], 10)
        for k, a, b in zip((0, 3, 10), low, high, strict=True):
            assert (a, b) == pytest.approx(tuple(stats.binomtest(k, 10).proportion_ci(method="wilson")), abs=1e-12)
        assert wilson(2, 5, 0.8)[0] == pytest.approx(stats.binomtest(2, 5).proportion_ci(0.8, method="wilson").low)

    def test_nothing_tried_is_nothing_known(self):
        low, high = wilson([[0, 1]], [[0, 2]])
        assert low.shape == high.shape == (1, 2)
        assert (low[0, 0], high[0, 0]) == (0, 1) and 0 < low[0, 1] < 0.5 < high[0, 1] < 1

    @pytest.mark.parametrize("trials", [4, 8, 16, 32, 64])
    def test_it_covers_on_average(self, trials):
        """Exactly, not by samples."""
        p, k = np.linspace(0.05, 0.95, 181)[:, None], np.arange(trials + 1)
        low, high = wilson(k, trials)
        average = np.mean(np.sum(stats.binom.pmf(k, trials, p) * ((low <= p) & (p <= high)), axis=1))
        assert 0.945 < average < 0.965

    def test_what_it_refuses(self):
        with pytest.raises(dj.InputError, match=r"^successes = 3: expected 0 … trials"):
            wilson(3, 2)
        with pytest.raises(dj.InputError, match=r"^level = 1: expected a number between 0 and 1"):
            wilson(1, 2, 1)


class TestBoundary:
    @pytest.mark.parametrize("repeats", [25, 50])
    def test_it_covers(self, repeats):
        """Intervals over sharp and broad, few and many seeds.

        One that covers in 86 % would fail at 125 intervals in 94 of 100, at 250 in 99.
        """
        cases = [(4, 0.5, True), (16, 0.2, True), (16, 0.8, False), (32, 0.8, True), (8, 0.4, False)]
        assert 0.91 <= covered(np.random.default_rng(0), cases, repeats) <= 0.985

    def test_it_covers_where_a_few_fail_early(self):
        """A tenth of the thresholds scatters over a decade, the others over a few per cent, as in real networks.

        The rates that most seeds tell something about lie in the steep part. Fits of one scale covered in 70 %.
        """
        rng, rates, held = np.random.default_rng(13), np.geomspace(0.45, 1.1, 8), []
        few = lambda z: 0.9 * special.ndtr((0 - z) / 0.04) + 0.1 * special.ndtr((-0.1 - z) / 0.25)  # noqa: E731
        truth = np.exp(optimize.brentq(lambda z: few(z) - 0.95, -2, 1))
        for _ in range(60):
            early = rng.random(48) < 0.1
            threshold = np.where(early, rng.normal(-0.1, 0.25, 48), rng.normal(0, 0.04, 48))
            learned = threshold[:, None] > np.log(rates)
            found = fit_boundary(np.tile(rates, 48), np.repeat(np.arange(48), 8), learned.ravel())
            held.append(found.low <= truth <= found.high)
        assert np.mean(held) >= 0.9

    @pytest.mark.parametrize("paired", [True, False])
    def test_a_sharp_transition_is_bounded_by_the_rates_around_it(self, paired):
        *data, _ = networks(np.random.default_rng(1), 16, 1e-3, paired, middle=0.3)
        found = fit_boundary(*data, paired=paired)
        below, above = GRID[GRID < 0.3][-1], GRID[GRID > 0.3][0]
        assert below / 1.2 < found.low < 0.3 < found.high < above * 1.05
        assert 0.6 * STEP < np.log(found.high / found.low) < 1.3 * STEP
        assert (found.method, found.said) == ("logistic", "")

    def test_curve_and_band_pass_the_probability_where_rate_and_interval_say(self):
        *data, truth = networks(np.random.default_rng(2), 64, 0.5)
        for probability in (0.95, 0.5):
            found = fit_boundary(*data, probability=probability)
            assert found.curve([found.rate])[0] == pytest.approx(probability, abs=2e-3)
            low, high = found.band([found.low, found.high])
            assert low[0] == pytest.approx(probability, abs=5e-3) and high[1] == pytest.approx(probability, abs=5e-3)
        curve, (low, high) = found.curve(GRID), found.band(GRID)
        assert np.all(np.diff(curve) <= 0) and np.all((low <= curve) & (curve <= high))
        assert curve[0] > 0.99 and curve[-1] < 0.01
        exact = special.expit(-(np.log(GRID / 0.3)) / (0.5 * STEP))
        assert np.mean((low <= exact) & (exact <= high)) >= 10 / 12
        assert found.band([0.0])[0][0] == pytest.approx(1)
        assert fit_boundary(*data).low <= truth <= fit_boundary(*data).high

    def test_paired_seeds_say_less_than_independent_networks(self):
        rng, ratios = np.random.default_rng(3), []
        for _ in range(20):
            *data, _ = networks(rng, 16, 1.0)
            wide, narrow = (fit_boundary(*data, probability=0.5, paired=paired) for paired in (True, False))
            ratios.append(np.log(wide.high / wide.low) / np.log(narrow.high / narrow.low))
        assert np.median(ratios) > 1.3

    def test_more_seeds_narrow_it_and_another_unit_changes_nothing(self):
        rng = np.random.default_rng(4)
        widths = []
        for seeds in (16, 128):
            rate, *rest, _ = networks(rng, seeds, 0.5)
            found, scaled = fit_boundary(rate, *rest), fit_boundary(1000 * rate, *rest)
            np.testing.assert_allclose(np.array(scaled[:3]) / 1000, found[:3], rtol=0.01)  # of a grid
            widths.append(np.log(found.high / found.low))
        assert widths[1] < 0.5 * widths[0]

    def test_rates_that_differ_by_rounding_are_one(self):
        rate, seed, learned, _ = networks(np.random.default_rng(12), 16, 0.7)
        rounded = np.where(seed % 2, rate * (1 + 1e-14), rate)
        np.testing.assert_allclose(fit_boundary(rounded, seed, learned)[:3], fit_boundary(rate, seed, learned)[:3])

    def test_order_and_names_of_seeds_do_not_matter(self):
        rate, seed, learned, _ = networks(np.random.default_rng(5), 8, 0.7)
        order = np.random.default_rng(6).permutation(len(rate))
        shuffled = fit_boundary(rate[order], 1000 - 7 * seed[order], learned[order])
        np.testing.assert_allclose(shuffled[:3], fit_boundary(rate, seed, learned)[:3], rtol=1e-9)

    def test_seeds_may_have_other_rates(self):
        """Refined: a second set of seeds at rates between those of the first."""
        rng = np.random.default_rng(7)
        finer = np.geomspace(0.15, 0.6, 9)
        first, second = networks(rng, 8, 0.05), networks(rng, 16, 0.05, rates=finer)
        both = [np.concatenate(pair) for pair in zip(first[:3], (second[0], second[1] + 8, second[2]), strict=True)]
        found, coarse = fit_boundary(*both), fit_boundary(*first[:3])
        assert found.low <= first[3] <= found.high
        assert np.log(found.high / found.low) < 0.5 * np.log(coarse.high / coarse.low)

    def test_a_seed_that_learns_again_counts_in_both_places(self):
        rate, seed = np.tile(GRID[:6], 8), np.repeat(np.arange(8), 6)
        plain, again = (np.tile(pattern, 8) > 0 for pattern in ([1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]))
        sharp, soft = (fit_boundary(rate, seed, y, probability=0.5) for y in (plain, again))
        assert np.log(soft.high / soft.low) > np.log(sharp.high / sharp.low)
        assert GRID[1] < soft.rate < GRID[4] and soft.curve(GRID[2:4]) == pytest.approx([0.5, 0.5], abs=0.2)

    @pytest.mark.parametrize("paired", [True, False])
    def test_all_learn(self, paired):
        rate, seed, _, _ = networks(np.random.default_rng(8), 16, 1)
        found = fit_boundary(rate, seed, rate > 0, paired=paired)
        assert np.isnan(found.rate) and 0.1 < found.low <= GRID[-1] and found.high == np.inf
        assert found.said == TOO_SMALL

    @pytest.mark.parametrize("paired", [True, False])
    def test_none_learns(self, paired):
        rate, seed, _, _ = networks(np.random.default_rng(9), 16, 1)
        found = fit_boundary(rate, seed, rate < 0, paired=paired)
        assert np.isnan(found.rate) and found.low == 0 and GRID[0] <= found.high < 0.1
        assert found.said == TOO_LARGE

    def test_few_seeds_and_a_slow_fall_leave_an_end_open_and_say_so(self):
        rate, seed = np.tile(GRID, 4), np.repeat(np.arange(4), 12)
        found = fit_boundary(rate, seed, rate < np.repeat([0.1, 0.2, 1, 5], 12))
        assert found.low == 0 and 0 < found.rate < found.high < np.inf
        assert found.said.startswith("These seeds cannot exclude that P(learns) is below 95 % at the smallest rate")

    def test_a_plateau_is_no_logistic(self):
        """At small rates all learn, then nine of ten up to a cliff: bounded by each rate's own networks."""
        rate, seed = np.tile(GRID, 200), np.repeat(np.arange(200), 12)
        learned = (rate < 0.02) | ((rate < 2) & (seed % 10 > 0))
        found = fit_boundary(rate, seed, learned)
        assert found.method == "isotonic"
        assert (found.low, found.high) == pytest.approx(GRID[[1, 2]]) and GRID[1] < found.rate < GRID[2]
        np.testing.assert_allclose(found.curve(GRID[[1, 4, 11]]), [1, 0.9, 0], atol=1e-3)
        low, high = found.band(GRID[4:5])
        assert 0.8 < low[0] < 0.9 < high[0] < 0.95

    def test_what_happens_far_above_the_boundary_does_not_move_it(self):
        """Many seeds fail soon, the others anywhere above; the curve shown there is that of any falling curve."""
        rng = np.random.default_rng(14)
        soon, late = rng.logistic(np.log(0.1), 0.1, 200), rng.uniform(np.log(0.3), np.log(8), 200)
        threshold = np.where(rng.uniform(size=200) < 0.5, soon, late)
        rate, seed = np.tile(GRID, 200), np.repeat(np.arange(200), 12)
        learned = threshold[seed] > np.log(rate)
        found, near = fit_boundary(rate, seed, learned), fit_boundary(rate, seed, learned & (rate < 0.3))
        np.testing.assert_allclose(found[:3], near[:3], rtol=1e-9)
        shares = learned.reshape(200, 12).mean(0)
        np.testing.assert_allclose(found.curve(GRID[6:]), shares[6:], atol=0.01)
        low, high = found.band(GRID[6:])
        assert np.all((low <= shares[6:]) & (shares[6:] <= high))

    def test_a_single_rate(self):
        found = fit_boundary(np.ones(100), np.arange(100), np.ones(100))
        assert np.isnan(found.rate) and (found.low, found.high) == (1, np.inf)
        assert fit_boundary([1.0], [0], [1])[1:3] == (0, np.inf)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"rate": [0.0, 1]}, "rate = .*expected positive numbers"),
            ({"rate": [1.0]}, "learned = .*expected 1 entries"),
            ({"rate": []}, "rate = .*expected a flat array"),
            ({"probability": 1.0}, "probability = 1.0: expected a number between 0 and 1"),
            ({"level": 0.0}, "level = 0.0: expected a number between 0 and 1"),
        ],
    )
    def test_what_it_refuses(self, change, message):
        with pytest.raises(dj.InputError, match=rf"^{message}"):
            fit_boundary(**{"rate": [1.0, 2.0], "seed": [0, 0], "learned": [1, 0], **change})


class TestDescending:
    def test_it_starts_with_the_best_block(self):
        rate = np.repeat([1.0, 2, 4, 8, 16], 4)
        share = [0, 0.5, 1, 1, 0.25]
        learned = np.concatenate([np.arange(4) < 4 * s for s in share])
        order = np.random.default_rng(0).permutation(20)
        np.testing.assert_array_equal(descending(rate[order], learned[order]), (rate >= 4)[order])
        assert descending(rate, rate < 8).all()
        assert descending(rate, rate < 0).all()
        np.testing.assert_array_equal(descending(rate, rate > 3), rate > 3)

    def test_a_rising_edge_does_not_move_the_boundary(self):
        """100 intervals beside an edge: one that covers in 77 % would fail; with the edge fitted half do not."""
        rng, hits, spoilt = np.random.default_rng(10), [], []
        for _ in range(100):
            rate, seed, learned, truth = networks(rng, 16, 0.4, middle=0.3 * np.exp(STEP * rng.uniform()))
            learned &= np.log(rate) > np.log(0.03) + 0.3 * rng.normal(size=rate.shape)
            kept = descending(rate, learned)
            found = fit_boundary(rate[kept], seed[kept], learned[kept])
            hits.append(found.low <= truth <= found.high)
            if len(spoilt) < 30:
                whole = fit_boundary(rate, seed, learned)
                spoilt.append(whole.low <= truth <= whole.high and whole.low > 0)
        assert np.mean(hits) >= 0.87 and np.mean(spoilt) < 0.5


class TestPower:
    SIZES = 2.0 ** np.arange(1, 8)

    def test_an_exact_law(self):
        value = 3 * self.SIZES**0.5
        found = fit_power(self.SIZES, value, value / 1.1, value * 1.1)
        np.testing.assert_allclose(found, [0.5, 0.5, 0.5, 3], rtol=1e-9)

    @pytest.mark.parametrize(("scatter", "common"), [(0.0, 0.0), (0.3, 0.0), (0.1, 0.5)])
    @pytest.mark.parametrize("count", [3, 7])
    def test_it_covers(self, scatter, common, count):
        """With unequal errors, scatter beyond them, and an error that all sizes share: 1000 times, ± 4 deviations."""
        rng, sizes = np.random.default_rng(11), self.SIZES[:count]
        errors = np.geomspace(0.1, 0.2, count)
        hits = []
        for _ in range(1000):
            noise = errors * rng.normal(size=count) + scatter * rng.normal(size=count) + common * rng.normal()
            value = sizes**0.7 * np.exp(noise)
            half = np.exp(1.96 * np.hypot(errors, common))
            found = fit_power(sizes, value, value / half, value * half)
            hits.append(found.low <= 0.7 <= found.high)
        assert 0.92 <= np.mean(hits) <= 0.98

    def test_a_worse_value_counts_less(self):
        value = self.SIZES**1.0
        value[-1] *= 3
        half = np.where(np.arange(7) == 6, 5.0, 1.01)
        assert abs(fit_power(self.SIZES, value, value / half, value * half).exponent - 1) < 0.05
        assert fit_power(self.SIZES, value, value / 1.1, value * 1.1).exponent > 1.1

    def test_open_and_missing_values(self):
        value = self.SIZES**1.0
        low, high = value / 1.2, value * 1.2
        value[2], low[3], high[4] = np.nan, 0, np.inf
        assert fit_power(self.SIZES, value, low, high).exponent == pytest.approx(1)
        assert np.isnan(fit_power([2, 4], [1, np.nan], [0, 0], [2, 2]).exponent)

    def test_two_sizes_rest_on_their_errors(self):
        found = fit_power([1, np.e], [1, np.e], np.exp([-0.1, 0.9]), np.exp([0.1, 1.1]))
        assert found.exponent == pytest.approx(1)
        assert (found.high - found.low) / 2 == pytest.approx(0.1 * np.sqrt(2))

    def test_what_it_refuses(self):
        with pytest.raises(dj.InputError, match=r"^size = "):
            fit_power([1, 2], [1], [1], [1])
        with pytest.raises(dj.InputError, match=r"^size = .*expected positive sizes"):
            fit_power([0, 2], [1, 1], [1, 1], [1, 1])
