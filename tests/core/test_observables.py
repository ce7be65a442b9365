"""Streaming accumulators against numpy on the recorded trajectory: windows, cadences, labels, float32 accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import POSITION, ornstein_uhlenbeck

import dysonjax as dj
from dysonjax import observables as ob
from dysonjax.core.observables import Variable

STEPS = 30
MARKS = [0, 7, 10, 11, 30]
EDGES = np.array([-1.5, -0.5, 0.0, 0.25, 2.0], np.float32)
LABEL = Variable(("coordinate",), "coordinates", "m")
OU = ornstein_uhlenbeck()
GRID = dj.Grid(learning_rate=[0.2, 1.0], seed=range(3))
CADENCES = (1, 3)


def position(spectra, x, hyper):
    return x


def norm(spectra, x, hyper):
    return jnp.sqrt(jnp.sum(spectra["W"] ** 2)) * hyper["learning_rate"]


WATCHED = tuple(
    observable
    for n in CADENCES
    for observable in (
        ob.mean(f"mean{n}", position, LABEL, every=n),
        ob.moments(f"x{n}", position, LABEL, every=n),
        ob.histogram(f"counts{n}", position, EDGES, Variable((), "counts"), every=n),
    )
)
WATCHED += (
    ob.snapshot("norm", norm),
    ob.snapshots(lambda s, x, h: {"low": s["W"][-1], "x": x}, {"low": Variable(), "x": LABEL}),
)


@pytest.fixture(scope="module")
def trajectory():
    """x [replica, update, coordinate] of six replicas, every update recorded."""
    ds = dj.scan(OU, GRID, STEPS, snapshots=range(STEPS + 1), observables=[POSITION], key=jax.random.key(5))
    return ds.x.squeeze().values.reshape(6, STEPS + 1, 2)


@pytest.fixture(scope="module")
def recorded():
    """The same replicas watched by every kind of observable, at five snapshots."""
    ds = dj.scan(OU, GRID, STEPS, snapshots=MARKS, observables=WATCHED, key=jax.random.key(5))
    return ds.squeeze().stack(replica=["learning_rate", "seed"]).transpose("replica", "snapshot", ...)


def windows(every):
    """Update numbers that each snapshot covers: multiples of `every` since the snapshot before, none at the start."""
    return [[u for u in range(a + 1, b + 1) if u % every == 0] for a, b in zip([0, *MARKS], MARKS, strict=False)]


def test_watching_changes_nothing(trajectory, recorded):
    assert recorded.step.values.tolist() == MARKS
    np.testing.assert_array_equal(recorded.x, trajectory[:, MARKS])


def test_windows_restart_at_each_snapshot():
    assert windows(1)[:4] == [[], list(range(1, 8)), [8, 9, 10], [11]]
    assert windows(3)[:4] == [[], [3, 6], [9], []]


@pytest.mark.parametrize("every", CADENCES)
def test_mean(trajectory, recorded, every):
    for i, window in enumerate(windows(every)):
        # an empty window reports the value itself
        expected = trajectory[:, window or [MARKS[i]]].mean(axis=1, dtype=float)
        np.testing.assert_allclose(recorded[f"mean{every}"][:, i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("every", CADENCES)
def test_moments(trajectory, recorded, every):
    for i, window in enumerate(windows(every)):
        seen = trajectory[:, window or [MARKS[i]]].astype(float)
        np.testing.assert_allclose(recorded[f"x{every}_mean"][:, i], seen.mean(axis=1), rtol=1e-5, atol=1e-6)
        variance = recorded[f"x{every}_variance"][:, i]
        if len(window) > 1:
            np.testing.assert_allclose(variance, seen.var(axis=1, ddof=1), rtol=1e-4, atol=1e-6)
        else:
            assert np.isnan(variance).all()


@pytest.mark.parametrize("every", CADENCES)
def test_histogram(trajectory, recorded, every):
    outer = [-np.inf, *EDGES, np.inf]
    total = 0
    for i, window in enumerate(windows(every)):
        for replica in range(len(trajectory)):
            expected = np.histogram(trajectory[replica, window], outer)[0]
            np.testing.assert_array_equal(recorded[f"counts{every}"][replica, i], expected)
            total += (expected > 0).astype(int)
    assert np.all(total > 0)  # every bin, and both sides beyond them, was hit


def test_snapshot(trajectory, recorded):
    rates = np.repeat([0.2, 1.0], 3)[:, None]
    np.testing.assert_allclose(recorded.norm, rates * np.linalg.norm(trajectory[:, MARKS], axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(recorded.low, trajectory[:, MARKS].min(axis=-1))


def test_labels(recorded):
    assert recorded.mean1.dims == ("replica", "snapshot", "coordinate")
    assert recorded.mean1.attrs == {"long_name": "coordinates", "units": "m"}
    assert recorded.x3_mean.attrs["units"] == "m"
    assert recorded.x3_variance.attrs["units"] == "m^2"
    assert recorded.counts3.dims == ("replica", "snapshot", "counts3_bin")
    assert recorded.counts3.dtype == np.int32
    assert recorded.counts3.sizes["counts3_bin"] == len(EDGES) + 1


def run(observable, terms):
    """`observable` fed with a float32 array [update, …] outside the engine; its values after the last."""
    view = lambda x: ({}, x, {})  # noqa: E731
    update = lambda acc, x: (observable.update(acc, *view(x)), None)  # noqa: E731
    acc, _ = jax.jit(lambda acc, terms: jax.lax.scan(update, acc, terms))(observable.init(*view(terms[0])), terms)
    return {k: np.asarray(v, float) for k, v in observable.result(acc, *view(terms[-1]))[0].items()}


def test_mean_of_many_terms_is_exact_to_rounding():
    """10⁵ terms near 0.1 in float32: a plain sum is off by 6·10⁻⁶, Kahan's by the last rounding."""
    terms = 0.1 + 1e-3 * jax.random.normal(jax.random.key(1), (100_000,))
    exact = np.asarray(terms, float).mean()
    plain = jax.lax.scan(lambda s, x: (s + x, None), jnp.float32(0), terms)[0] / len(terms)
    off = lambda value: abs(float(value) / exact - 1)  # noqa: E731
    assert off(plain) > 3e-6  # the terms are hard enough to tell the two apart
    assert off(run(ob.mean("m", position), terms)["m"]) < 2e-7


def test_variance_far_from_zero_is_not_lost():
    """Mean 10⁴, deviation 1, 10⁵ terms: E x² − (E x)² in float32 has no digit left."""
    terms = 1e4 + jax.random.normal(jax.random.key(2), (100_000,))
    values = run(ob.moments("m", position), terms)
    exact = np.asarray(terms, float)
    naive = float(jnp.mean(terms * terms) - jnp.mean(terms) ** 2)
    assert abs(naive / exact.var() - 1) > 0.5
    assert abs(values["m_variance"] / exact.var(ddof=1) - 1) < 0.005
    assert abs(values["m_mean"] / exact.mean() - 1) < 1e-6


def test_histogram_bins_hold_their_lower_edge():
    observable = ob.histogram("h", position, [0.0, 1.0, 2.0])
    assert run(observable, jnp.array([[-1.0, 0.0, 0.5, 1.0, 2.0, 3.0]]))["h"].tolist() == [1, 2, 1, 2]


def test_measures_need_not_be_floats(trajectory):
    """How often something holds, or how many there are, is measured as naturally as a length."""
    watched = [
        getattr(ob, kind)(f"{kind}_{dtype}", lambda s, x, h, dtype=dtype: (x[0] > 0).astype(dtype))
        for kind in ("snapshot", "mean", "moments")
        for dtype in ("bool", "int32", "uint8")
    ]
    ds = dj.scan(OU, GRID, STEPS, snapshots=[STEPS], observables=watched, key=jax.random.key(5))
    held = trajectory[:, 1:, 0] > 0
    assert 0 < held.mean() < 1
    last = {str(name): ds[name].values[..., -1].ravel() for name in ds if ds[name].ndim == ds.levels.ndim - 1}
    for dtype in ("bool", "int32", "uint8"):
        np.testing.assert_array_equal(last[f"snapshot_{dtype}"], held[:, -1])
        np.testing.assert_allclose(last[f"mean_{dtype}"], held.mean(1), rtol=1e-6)
        np.testing.assert_allclose(last[f"moments_{dtype}_variance"], held.astype(float).var(1, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("every", [0, -1, 1.0, "2", True])
@pytest.mark.parametrize("make", [ob.mean, ob.moments, lambda n, m, every: ob.histogram(n, m, EDGES, every=every)])
def test_every_is_a_whole_number(make, every):
    with pytest.raises(dj.InputError, match=r"^every = .*: expected a whole number of at least 1$"):
        make("m", position, every=every)


@pytest.mark.parametrize(
    "edges", [[1.0], [], [2.0, 1.0], [1.0, 1.0], [0.0, np.nan], [[0.0, 1.0]], np.arange(100.0)[::-1], 5.0, ["a", "b"]]
)
def test_edges_are_an_increasing_list(edges):
    with pytest.raises(dj.InputError) as caught:
        ob.histogram("h", position, edges)
    assert "edges = " in str(caught.value)
    assert "expected an increasing list" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_without_label_is_refused():
    nameless = ob.Observable(lambda *view: (), lambda acc, s, x, h: ({"a": x}, acc), {})
    with pytest.raises(dj.InputError, match="'a': expected a `Variable` for every recorded value"):
        dj.scan(OU, GRID, 2, observables=[nameless])
    with pytest.raises(dj.InputError, match=r"^a = .*expected a name for each axis of \(2,\)"):
        dj.scan(OU, GRID, 2, observables=[ob.snapshot("a", position)])


def test_two_observables_of_one_name_are_refused():
    """The second would silently take the place of the first."""
    with pytest.raises(dj.InputError, match="a"):
        dj.scan(OU, GRID, 2, observables=[ob.snapshot("a", norm), ob.snapshot("a", lambda s, x, h: x[0])])
    with pytest.raises(dj.InputError, match="levels"):
        dj.scan(OU, GRID, 2, observables=[ob.snapshot("levels", norm)])


def test_an_observable_of_a_block_is_that_of_its_replicas(recorded):
    """The same measure and window, written once for one replica and once for replicas on the last axis."""

    def totals(total, spectra, x, hyper):
        return total + hyper["learning_rate"] * jnp.sum(x, axis=0)

    def result(total, spectra, x, hyper):
        assert hyper["batch_size"] == 1  # a plain number, not an axis of replicas
        return {"total": total, "low": spectra["W"][-1]}, 0 * total

    def watch(of_block):
        labels = {"total": Variable(), "low": Variable()}
        start = lambda spectra, x, hyper: 0 * x[0]  # noqa: E731
        return ob.Observable(start, result, labels, totals, 2, of_block=of_block)

    one, block = (
        dj.scan(OU, GRID, STEPS, snapshots=MARKS, observables=[watch(b)], key=jax.random.key(5)) for b in (False, True)
    )
    np.testing.assert_array_equal(block.total, one.total)
    np.testing.assert_array_equal(block.low, one.low)
    np.testing.assert_array_equal(block.low.values.ravel(), recorded.low.values.ravel())
