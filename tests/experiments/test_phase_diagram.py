"""The phase diagram: order parameters as defined, boundaries on known curves, and the three phases themselves."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import dysonjax as dj
from dysonjax.core.dynamics import lift
from dysonjax.dynamics.stochastic_gradient import SGDData, SGDState
from dysonjax.experiments import earlier, running
from dysonjax.experiments.phase_diagram.experiment import PhaseDiagram
from dysonjax.experiments.phase_diagram.intervals import FEWEST_SEEDS, learning_temperature, with_interval
from dysonjax.experiments.phase_diagram.order_parameters import order_parameters
from dysonjax.experiments.phase_diagram.summary import (
    JAMMED_MEMORY,
    PHASES,
    _falls_below,
    initial_gap,
    learnable,
    mean_gap,
    summary,
)
from dysonjax.experiments.phase_diagram.tables import advice, learns, span, width_table


@pytest.mark.parametrize("tests", [40, 7])
def test_langevin_terms_are_the_papers(tests):
    """Against the formulas of the paper in float64, with its loops and 1-based indices, in both readings of Ṽ.

    For samples that are cut into chunks and that are not. The published reading has the signs of our eigenvectors.
    """
    net = dj.models.TanhNetwork(hidden=(7, 5))
    keys = jax.random.split(jax.random.key(5), 3)
    task = net.task(keys[0])
    weights = task | net.init(keys[1], task, jnp.float32(1.3))
    examples = net.sample(keys[2], tests, task)
    s, target = (np.asarray(x, float) for x in examples)
    w, z, count = np.asarray(weights["W"], float), np.asarray(weights["Z"], float), 5
    samples = []
    for n in range(tests):
        field = w @ s[n]
        error = z @ np.tanh(field) - target[n]
        g = np.outer((z.T @ error) * (1 - np.tanh(field) ** 2), s[n])
        samples.append(w @ g.T + g @ w.T)
    levels, basis = np.linalg.eigh(w @ w.T)
    basis = basis[:, np.argsort(-levels)]
    block = jax.tree.map(lambda x: jnp.stack([jnp.zeros_like(x), x], axis=-1), (task, {"W": weights["W"]}, examples))
    ours = np.asarray(lift(dj.spectra.levels_and_vectors)(block[1]["W"])[1][..., 1], float)
    basis *= np.sign(np.sum(basis * ours, axis=0))
    np.testing.assert_allclose(basis, ours, atol=1e-5)
    mean = basis.T @ np.mean(samples, axis=0) @ basis
    exact = np.var([basis.T @ d @ basis for d in samples], axis=0)
    published = basis.T @ np.var(samples, axis=0) @ basis

    def at(v, i, j):
        return v[i - 1, j - 1]

    def repulsion(v):
        edges = sum((at(v, 1, 1 + k) + at(v, count, count - k)) / k for k in range(1, count - 1))
        return 2 * at(v, 1, count) / (count - 1) + edges

    wanted = abs(at(mean, 1, 1)) - abs(at(mean, count, count)), repulsion(exact), repulsion(published)
    state, hyper = SGDState(block[1], (), jnp.zeros(2)), {"data": SGDData(block[0], None, block[2])}
    observable = order_parameters(net)
    values, _ = observable.result(observable.init({}, state, hyper), {}, state, hyper)
    terms = np.array([values[name] for name in ("drift", "repulsion", "repulsion_published")])
    np.testing.assert_allclose(terms[:, 1], wanted, rtol=1e-4)
    np.testing.assert_array_equal(terms[:, 0], 0)


def test_jamming_is_where_the_spins_turn_bimodal():
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    assert pytest.approx(np.average(np.tanh(nodes * math.sqrt(0.5)) ** 2, weights=weights), abs=1e-4) == JAMMED_MEMORY


def curve(values, rates=(1.0, 2.0, 4.0, 8.0)):
    return xr.DataArray(
        np.reshape(values, (len(rates), 1)), dims=("learning_rate", "batch_size"),
        coords={"learning_rate": list(rates), "batch_size": [2]},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "temperature"),
    [
        ([1.0, 1.0, 0.5, 0.0], 2 ** (0.32 / 0.5)),  # between 2 and 4 on a logarithmic axis; T = α/2
        ([1.0, 1.0, 1.0, 0.9], math.inf),
        ([0.5, 0.6, 0.1, 0.0], math.nan),
        ([1.0, 0.6, 1.0, 0.0], 2 * 2**0.32),  # a dip below is noise when more is lost by cutting there
        ([0.1, 0.0, 0.0, 0.7], math.nan),
    ],
)
def test_where_a_curve_falls_below(values, temperature):
    assert _falls_below(curve(values), 0.68).item() == pytest.approx(temperature, rel=1e-9, nan_ok=True)
    backwards = curve(values).isel(learning_rate=slice(None, None, -1))
    assert _falls_below(backwards, 0.68).item() == pytest.approx(temperature, rel=1e-9, nan_ok=True)


RATES = 2.0 ** np.arange(-2, 6)


def samples(values):
    """Values [learning rate, seed] as they come from a run, at width 1 and batch size 2."""
    data, dims = np.asarray(values)[:, None, None], ("learning_rate", "init_width", "batch_size", "seed")
    rates = RATES[: len(data)]
    return xr.DataArray(data, dims=dims, coords={"learning_rate": rates, "init_width": [1.0], "batch_size": [2]})


def crossing(x):
    return _falls_below(-x.median("seed"), 0.0)


@pytest.mark.parametrize("times", [50, 100])
def test_an_interval_over_seeds_covers(times):
    """Medians of 12 seeds with heavy tails: one that covers in 80 % would fail at 50 in 95 of 100, at 100 in 99."""
    rng, hits = np.random.default_rng(0), []
    for _ in range(times):
        found = with_interval("t", samples(np.log2(RATES)[:, None] - 1.6 + rng.standard_t(2, (8, 12))), crossing)
        low, value, high = (float(found[name].squeeze()) for name in ("t_low", "t", "t_high"))
        assert low <= value <= high
        hits.append(low <= 2**1.6 / 2 <= high)
    assert np.mean(hits) >= 0.9


def test_an_interval_is_open_where_the_seeds_cannot_bound_it():
    rng = np.random.default_rng(1)
    few, some, below = (samples(rng.normal(size=(2, n)) + shift) for n, shift in ((3, 0), (8, 0), (8, 9)))
    ends = [with_interval("t", x, crossing) for x in (few, some, below)]
    assert [math.isnan(float(end["t_low"].squeeze())) for end in ends] == [True, False, False]
    assert (float(ends[1]["t_low"].squeeze()), float(ends[1]["t_high"].squeeze())) == (0, math.inf)
    assert math.isnan(float(ends[2]["t"].squeeze()))
    assert (float(ends[2]["t_low"].squeeze()), float(ends[2]["t_high"].squeeze())) == (0, RATES[0] / 2)


def test_where_half_of_the_networks_learn():
    rates, seeds = RATES[:, None], np.arange(16)
    edge = (rates > 0.4) & (rates < 6 * 2.0 ** (seeds % 4 / 8))
    found = {k: float(v.squeeze()) for k, v in learning_temperature(samples(edge), paired=False).items()}
    assert (
        2 < found["learning_temperature_low"] < found["learning_temperature"] < found["learning_temperature_high"] < 4
    )
    every = learning_temperature(samples(rates + 0 * seeds > 0), paired=False)
    assert math.isinf(float(every["learning_temperature"].squeeze()))
    none = learning_temperature(samples(rates + 0 * seeds < 0), paired=False)
    assert math.isnan(float(none["learning_temperature"].squeeze()))


@pytest.fixture(scope="module")
def diagram():
    """Each phase and a long enough run: 20 epochs of 1000 batches, 4 networks at each of six points."""
    return PhaseDiagram((0.125, 64.0), (0.125, 1.0, 256.0), seeds=4, epochs=20, snapshots=5)


@pytest.fixture(scope="module")
def run(diagram):
    return running.run(diagram, progress=False).only


def at(ds, rate, width):
    return ds.sel(learning_rate=rate, init_width=width, batch_size=4)


def test_three_phases_each_by_its_own_order_parameter(run):
    ordered, jammed, hot = (at(run, *point) for point in ((0.125, 0.125), (0.125, 256.0), (64.0, 0.125)))
    largest = {n: x.levels.isel(level=0) for n, x in (("ordered", ordered), ("jammed", jammed), ("hot", hot))}
    assert float(ordered.train_loss[:, -1].median()) < 1e-3
    assert 0.2 < float(largest["ordered"][:, -1].median()) < 5
    assert float(ordered.memory[:, -1].median()) < 0.05
    assert float(np.abs(largest["jammed"][:, -1] / largest["jammed"][:, 0] - 1).max()) < 0.05
    assert float(jammed.memory[:, -1].median()) > 0.6
    assert float(largest["hot"][:, -1].median()) > 1e4
    points = summary(run)
    phases = [PHASES[int(at(points, *p).phase)] for p in ((0.125, 0.125), (0.125, 256.0), (64.0, 0.125))]
    assert phases == ["ordered", "jammed", "paramagnetic"]


def test_what_no_seed_has_is_nan_without_a_warning(run):
    """As the alignment of networks whose units are all dead."""
    ds = run.copy(deep=True)
    ds.alignment.loc[{"learning_rate": ds.learning_rate[0], "init_width": ds.init_width[0]}] = np.nan
    found = summary(ds).alignment.isel(learning_rate=0, init_width=0)
    assert found.isnull().all() and summary(run).alignment.isel(learning_rate=0, init_width=0).notnull().all()


def test_order_parameters_are_what_they_are_called(run, diagram):
    assert run.levels.dims == ("learning_rate", "init_width", "batch_size", "seed", "snapshot", "level")
    np.testing.assert_allclose(run.test_error, 2 * run.test_loss, rtol=1e-4, atol=1e-9)
    assert "twice test_loss" in run.test_error.long_name
    assert (np.abs(run.alignment) <= 1 / 128 + 1e-6).all()
    start = run.memory.isel(snapshot=0)  # with itself: ⟨φ²⟩, which grows with the width
    assert (start > 0).all()
    assert (start.median("seed").diff("init_width") > 0).all()
    assert (start.sel(init_width=256.0) > 0.85).all()
    gap = mean_gap(run).isel(snapshot=0).median(("seed", "learning_rate")).squeeze()
    # the edges of Marchenko–Pastur are those of an infinite matrix: 16 × 32 falls some 15 % short
    np.testing.assert_allclose(gap, initial_gap(run, run.init_width), rtol=0.25)
    edges = (1 + math.sqrt(0.5)) ** 2 - (1 - math.sqrt(0.5)) ** 2
    assert initial_gap(run, 1.0) == pytest.approx(edges / 15)


def test_the_langevin_criterion_is_the_papers(run):
    """K_t/(√r (K − 1)) ≥ T V_t/(4σ_W²), written out for one network."""
    for seed in range(4):
        one = at(run, 0.125, 1.0).isel(seed=seed)
        left = float(one.drift[-1]) / (math.sqrt(2) * 15)
        for name in ("repulsion", "repulsion_published"):
            right = 0.125 / 4 * float(one[name][-1]) / 4
            assert bool(at(learnable(run, name), 0.125, 1.0)[seed]) == (left >= right)


def test_separation_and_advice(run):
    points = summary(run)
    gap = mean_gap(run)
    exact = xr.apply_ufunc(np.log, gap.isel(snapshot=-1) / gap.isel(snapshot=0)).mean("seed") / 20
    np.testing.assert_allclose(points.separation, exact, rtol=1e-5)
    text = advice(points, 4)
    assert text.startswith("At batch size 4 and initial width ")
    assert "learning rates 0.125 learn" in text
    assert bool(at(learns(points), 0.125, 0.125))
    assert not bool(at(learns(points), 0.125, 256.0))


def test_a_diverged_majority_is_its_own_phase(run):
    lost = run.copy(deep=True)
    lost["diverged_step"] = lost.diverged_step.where(lost.learning_rate < 1, 7)
    points = summary(lost)
    assert (points.phase.sel(learning_rate=64.0) == PHASES.index("diverged")).all()
    assert (points.phase.sel(learning_rate=0.125) != PHASES.index("diverged")).all()
    assert np.isinf(points.train_loss.sel(learning_rate=64.0)).all()
    assert (points.diverged.sel(learning_rate=64.0) == 4).all()


def test_critical_temperatures_stand_with_their_intervals(run):
    """In the table as they are in the summary; with too few seeds alone."""
    points = summary(run)
    names = ("level_temperature", "critical_temperature", "critical_temperature_exact", "learning_temperature")
    for k, name in enumerate(names):
        for end, shift in (("", 0.0), ("_low", -0.1), ("_high", 0.1)):
            points[name + end] = 0 * points.diverged.isel(learning_rate=0) + 0.4 + 0.001 * k + shift
    points["critical_temperature_low"][:] = 0
    points["critical_temperature_exact"][:] = np.inf
    points["learning_temperature"][:] = np.nan
    points["level_temperature"].loc[{"init_width": 0.125}] = np.nan
    table = width_table(points, 4)
    rows = [[str(cell) for cell in column.cells] for column in table.columns[4:]]
    assert rows[0] == ["< 0.0312 (< 0.5)", "0.4 (0.3 – 0.5)", "0.4 (0.3 – 0.5)"]
    assert rows[1] == ["0.401 (< 0.5)"] * 3
    assert rows[2] == ["> 16 (> 0.3)"] * 3
    assert rows[3] == ["–"] * 3
    few = summary(run.isel(seed=slice(FEWEST_SEEDS - 1)))
    assert few.level_temperature_low.isnull().all() and few.level_temperature.notnull().any()
    assert "95 % intervals over seeds" in str(table.title)


def test_learning_rates_in_words():
    points = xr.Dataset(coords={"learning_rate": [0.1, 0.2, 0.4, 0.8, 1.6]})
    chosen = xr.DataArray([True, True, False, True, False], dims="learning_rate", coords=points.coords)
    assert span(points, chosen) == "0.1 – 0.2, 0.8"
    assert span(points, ~chosen & chosen) == "none"


def test_a_run_of_an_earlier_version_knows_what_it_was(run, diagram):
    """It had no run.json; its store's header says it."""
    record = earlier._of_store(json.loads(run.attrs["experiment"]))
    assert record.kind == "phase-diagram"
    assert PhaseDiagram(**record.settings) == PhaseDiagram(**{**vars(diagram), "snapshots": run.sizes["snapshot"]})
    assert earlier._of_store({"dynamics": "sgd", "observables": []}).kind == "scan"


@pytest.mark.parametrize("hidden", [(8, 16), (8, 1)])
def test_networks_without_a_phase_diagram_are_refused(hidden):
    with pytest.raises(dj.InputError, match=r"^hidden = .*expected a last layer"):
        order_parameters(dj.models.TanhNetwork(hidden=hidden))
