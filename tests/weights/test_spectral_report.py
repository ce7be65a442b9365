"""The spectral report: planted truths, calibrated p-values, invariances, and the comparison with initial weights."""

import io

import jax
import numpy as np
import pytest
from rich.console import Console

import dysonjax as dj
from dysonjax import ensembles, spectra
from dysonjax.weights import bulk
from dysonjax.weights.spectral_report import COLUMNS, CURVES, INITIAL, VECTORS, analyze, table

RNG = np.random.default_rng(29)


def noise(k, l, rng=RNG):
    return rng.normal(size=(k, l)) / np.sqrt(l)


def planted(k, l, signals, rng):
    """Noise of σ² = 1 with orthogonal signals B, on the first axes: independent normal entries know no direction."""
    w, i = noise(k, l, rng), np.arange(len(signals))
    w[i, i] += np.sqrt(signals)
    return w


def levels_of(w):
    return np.linalg.eigvalsh(w @ w.T)


@pytest.mark.parametrize("count", range(6))
def test_planted_spikes_are_counted(count):
    """At three times the critical signal √q and above; the test itself sees one too many in 1 of 100."""
    rng, k, l = np.random.default_rng(100 + count), 80, 160
    signals = 3.2 * np.sqrt(k / l) * (1 + 0.3 * np.arange(count))
    fits = [bulk.fit_bulk(levels_of(planted(k, l, signals, rng)), (k, l)) for _ in range(100)]
    assert sum(f.outliers == count for f in fits) >= 95
    off = np.array([(f.variance.value - 1) / f.variance.error for f in fits])
    assert abs(off.mean()) < 5 / np.sqrt(100)
    assert 0.7 < off.std() < 1.4
    assert np.mean([f.ks_p < 0.05 for f in fits]) < 0.18


@pytest.mark.parametrize("count", [1, 3, 5])
def test_spikes_below_the_transition_are_not_found(count):
    rng, k, l = np.random.default_rng(200 + count), 80, 160
    signals = 0.4 * np.sqrt(k / l) * np.ones(count)
    fits = [bulk.fit_bulk(levels_of(planted(k, l, signals, rng)), (k, l)) for _ in range(100)]
    assert sum(f.outliers == 0 for f in fits) >= 95
    # they add to the trace and nothing tells them from noise: B each
    assert np.mean([f.variance.value for f in fits]) == pytest.approx(1 + signals.sum() / k, abs=0.004)


def test_the_bulk_beside_a_heavy_tail():
    """A fifth of the levels follow a power law far above the noise."""
    rng, k, l, found = np.random.default_rng(5), 100, 200, []
    for _ in range(40):
        signals = 6 * (1 - rng.random(20)) ** -1.0
        found.append(bulk.fit_bulk(levels_of(planted(k, l, signals, rng)), (k, l)))
    assert all(f.outliers == 20 for f in found)
    assert np.mean([f.variance.value for f in found]) == pytest.approx(1, abs=0.01)
    assert np.mean([f.ks_p < 0.05 for f in found]) < 0.25


@pytest.mark.parametrize(("k", "l"), [(20, 20), (60, 150), (150, 160)])
def test_p_values_of_random_matrices_are_uniform(k, l):
    """Of the bulk's law and of its spacings; levels of fresh matrices, not those of the calibration."""
    levels = np.asarray(ensembles.laguerre_levels(jax.random.key(k), k, l, 1, (300,)))
    p = [[bulk.fit_bulk(x, (k, l)).ks_p, bulk.bulk_spacings(x).ks_p] for x in levels]
    for values in np.array(p).T:
        assert spectra.ks_distance(values, lambda u: u) < 2.2 / np.sqrt(300)
    ratio = np.array([bulk.bulk_spacings(x).mean_ratio[:2] for x in levels])
    assert ratio[:, 0].std() == pytest.approx(ratio[0, 1], rel=0.25)
    assert ratio[:, 0].mean() == pytest.approx(0.5307, abs=5 * ratio[0, 1] / 17 + 0.003)


def test_the_tests_have_power():
    """A law of another shape, and independent levels, are refused."""
    x = levels_of(noise(200, 400) * RNG.exponential(size=(200, 1)))
    assert bulk.fit_bulk(x, (200, 400)).ks_p < 1e-6
    poisson = bulk.bulk_spacings(np.sort(RNG.uniform(1, 2, 300)))
    assert poisson.ks_p < 1e-3
    assert poisson.ks > 2 * poisson.ks_reference
    assert abs(poisson.mean_ratio.value - 0.3863) < 5 * poisson.mean_ratio.error
    # the usual test, for independent numbers, sees nothing of a hole that levels of a random matrix never leave
    y = np.delete(levels_of(noise(200, 400)), range(96, 101))
    assert bulk.bulk_distance(y, (195, 395), float(y.sum()) / (195 * 395)) < 1.36 / np.sqrt(195)


def test_bulk_and_distance_against_the_law():
    k, l = 300, 900
    x = levels_of(2 * noise(k, l))
    law = dj.laws.MarchenkoPastur(k / l, 4.0)
    fit = bulk.fit_bulk(x, (k, l))
    assert abs(fit.variance.value - 4) < 5 * fit.variance.error
    np.testing.assert_allclose(fit.edges, law.support, rtol=0.02)
    assert bulk.bulk_distance(x, (k, l), 4 / l) == pytest.approx(spectra.ks_distance(x, law.cdf), abs=1e-5)
    assert fit.threshold > fit.edges[1]
    p = spectra.tracy_widom_p_values(np.array([fit.threshold, x.max()]), (k, l), fit.variance.value)
    np.testing.assert_allclose(p, [0.01, fit.p_largest], rtol=1e-3)


MODEL = {
    "a/key": noise(40, 30), "b/key": planted(50, 100, [6.0, 8.0], RNG), "a/bias": np.zeros(3),
    "zero": np.zeros((20, 30)), "tiny": noise(3, 4), "same": np.eye(12), "low": noise(30, 4) @ noise(4, 30),
}  # fmt: skip


def test_report():
    steps = []
    ds = analyze(MODEL, curves=True, vectors=True, progress=lambda done, total: steps.append(done / total))
    assert set(ds.data_vars) == {*COLUMNS, *VECTORS, *CURVES}
    assert all(v.attrs["long_name"] for v in ds.data_vars.values())
    assert list(ds["matrix"].values) == ["a/key", "b/key", "low", "same", "tiny", "zero"]
    assert steps[-1] == 1
    assert steps == sorted(steps)
    frame = analyze(MODEL).to_dataframe()
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 6
    row = ds.sel(matrix="b/key")
    assert row["outliers"] == 2
    assert np.sum(np.isfinite(row["outlier_p"])) == 2
    assert row["bulk_passes"]
    w = MODEL["b/key"]
    exact = np.linalg.svd(w, compute_uv=False) ** 2
    np.testing.assert_allclose(row["levels"][:50], exact, rtol=1e-4)
    assert float(row["stable_rank"]) == pytest.approx(np.sum(exact) / exact[0], rel=1e-5)
    assert float(row["norm"]) == pytest.approx(np.linalg.norm(w), rel=1e-5)
    for side in ("left", "right"):
        assert float(row[f"participation_{side}"]) == pytest.approx(1 / 3, abs=0.06)
    assert ds.sel(matrix="zero")["rank"] == 0
    assert ds.sel(matrix="low")["rank"] == 4
    assert np.isnan(ds.sel(matrix="low")["variance"])
    assert np.isnan(ds.sel(matrix="tiny")["alpha"])
    assert not ds.sel(matrix="same")["bulk_passes"]


def test_report_is_of_the_singular_values_only():
    """Scaled, transposed and turned matrices have the same report, and so have matrices reported alone."""
    w = planted(50, 80, [6.0], RNG)
    turn = np.linalg.qr(RNG.normal(size=(50, 50)))[0]
    key = {"w": w}
    one = analyze(key)
    for other, scale in ((w.T, 1.0), (turn @ w, 1.0), (1e-12 * w, 1e-24), (1e12 * w, 1e24)):
        two = analyze({"w": other, "x": noise(20, 20)}).sel(matrix="w")
        for name in ("ratio", "stable_rank", "bulk_ks", "outliers", "alpha", "alpha_error", "spacing_ks", "mean_ratio"):
            assert float(two[name]) == pytest.approx(one[name].item(), rel=1e-3), name
        for name in ("variance", "x_min", "threshold"):
            assert float(two[name]) == pytest.approx(scale * one[name].item(), rel=1e-3), name


def test_comparison_with_initial_weights():
    before = {"w": noise(60, 90), "big": noise(300, 280), "unused": noise(9, 9)}
    u, v = np.linalg.qr(RNG.normal(size=(60, 1)))[0], np.linalg.qr(RNG.normal(size=(90, 1)))[0]
    after = {"w": before["w"] + 4 * u @ v.T, "big": before["big"]}
    ds = analyze(after, before)
    assert set(ds.data_vars) == {*COLUMNS, *INITIAL}
    row = ds.sel(matrix="w")
    assert float(row["change"]) == pytest.approx(4 / np.linalg.norm(before["w"]), rel=1e-5)
    assert row["new_outliers"] == 1
    assert float(row["top_overlap_left"]) < 0.6
    assert float(row["spectra_ks"]) == pytest.approx(1 / 60, abs=0.04)
    same = ds.sel(matrix="big")
    assert same["change"] == same["new_outliers"] == same["spectra_ks"] == 0
    dense = analyze(after, before, vectors=True)
    for name in ("top_overlap_left", "top_overlap_right"):
        assert float(same[name]) == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(dense[name], ds[name], atol=1e-4)


def test_table():
    text = io.StringIO()
    Console(file=text, width=200).print(table(analyze(MODEL, {k: v + 1 for k, v in MODEL.items()})))
    said = text.getvalue()
    for words in ("b/key", "50×100", "outliers", "change", "–"):
        assert words in said
    assert "nan" not in said


@pytest.mark.parametrize("scale", [1e-69, 1e60])
def test_units_change_nothing_else(scale):
    w = noise(40, 60, np.random.default_rng(5))
    one, other = analyze({"w": w}, vectors=True), analyze({"w": scale * w}, {"w": w * scale}, vectors=True)
    for name in ("stable_rank", "outliers", "bulk_ks", "alpha", "mean_ratio", "largest_p", "rank"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6)
    np.testing.assert_allclose(one.largest * scale**2, other.largest, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: analyze(MODEL, pattern="*query*"), "pattern = '*query*': expected to match the name of a matrix"),
        (lambda: analyze(MODEL, {"a/key": noise(40, 30)}), "initial = ['a/key']: expected the matrix 'b/key', too"),
        (lambda: analyze({"w": noise(4, 5)}, {"w": noise(5, 4)}), "initial w = (5, 4): expected the shape (4, 5)"),
        (lambda: analyze({"w": noise(4, 5)}, {"w": np.full((4, 5), np.inf)}), "w has 20 entries that are NaN"),
        (lambda: analyze({"w": noise(4, 5)}, "missing.npz"), "initial = 'missing.npz'"),
        (lambda: analyze({"w": noise(4, 5) * 1e300}), "w has a largest entry of size "),
        (lambda: analyze({"w": noise(4, 5)}, {"w": noise(4, 5) * 1e-300}), "w has a largest entry of size "),
        (lambda: analyze(MODEL, level=0), "level = 0: expected"),
        (lambda: analyze(MODEL, key=-1), "key = -1: expected"),
        (lambda: analyze(np.eye(3)), "weights = "),
        (lambda: bulk.fit_bulk(np.ones(9), (10, 12)), "levels = (9,): expected 10 levels"),
        (lambda: bulk.fit_bulk(-np.ones(10), (10, 12)), "levels = "),
        (lambda: bulk.fit_bulk(np.ones(10), (10, 12), 1.0), "level = 1.0"),
        (lambda: bulk.bulk_spacings(np.full(9, np.nan)), "levels = "),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(dj.InputError) as refusal:
        call()
    assert str(refusal.value).startswith(words)
    assert "\n" not in str(refusal.value)
