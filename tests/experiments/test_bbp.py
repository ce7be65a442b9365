"""The BBP transition of a rank-one teacher: exact steps, both overlaps, the critical learning rate, figures."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_same
from rich.console import Console
from stochastic import assert_mean

from dysonjax import laws
from dysonjax.core.errors import InputError, StoreError
from dysonjax.dynamics.stochastic_gradient import sgd
from dysonjax.engine.grid import Grid
from dysonjax.engine.scanning import scan
from dysonjax.experiments import running
from dysonjax.experiments.bbp import analysis as bbp
from dysonjax.experiments.bbp import figures as bbp_figures
from dysonjax.experiments.bbp.analysis import critical, crossing, curves, run_of
from dysonjax.experiments.bbp.experiment import RATES, BBPRun
from dysonjax.models import LinearNetwork

SMALL = BBPRun(rows=12, columns=24, seeds=48, steps=(1, 2, 4), learning_rate=RATES[8:40])
"""So small that the transition is smeared; what is exact is exact all the same."""
GAUSSIAN = 600
"""Students drawn for a mean."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The small run and where it is stored."""
    out = tmp_path_factory.mktemp("bbp") / "run"
    return running.run(SMALL, out, progress=False).only, out


def students(key, rows, columns, noise, signal, count):
    """√B u vᵀ + N(0, s²/M), drawn directly, [count, N, M]."""
    w = noise / columns**0.5 * jax.random.normal(jax.random.key(key), (count, rows, columns))
    return w.at[:, 0, 0].add(signal**0.5)


def test_steps_are_those_of_sgd_on_the_population():
    grid = Grid(learning_rate=[0.3, 0.7], init_width=[0.5, 2.0], seed=range(3))
    run = BBPRun(6, 9, learning_rate=(0.3, 0.7), init_width=(0.5, 2.0), steps=(1, 3), seeds=3)
    net = LinearNetwork((1.0,), inputs=9, outputs=6, fan_in=True, init_width=1.0)
    general = scan(sgd(net, sampling="population"), grid, 3, snapshots=(0, 1, 3), progress=False)
    np.testing.assert_allclose(running.run(run, progress=False).only.levels, general.levels, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(5, 8), (8, 5)])
def test_t_steps_are_one_line_and_levels_and_overlaps_are_those_of_a_full_decomposition(shape):
    run = BBPRun(*shape, learning_rate=(0.4,), steps=(1, 5), seeds=2)
    dynamics = run.dynamics
    hyper = {"learning_rate": jnp.float32(0.4), "init_width": jnp.float32(1.3), "data": ()}
    state = start = dynamics.init(jax.random.key(3), hyper)
    for i in range(5):
        state = dynamics.step(jax.random.key(i), state, hyper)
    left = 0.6**5
    teacher = np.zeros(shape)
    teacher[0, 0] = 1
    w = left * np.asarray(start.params["W"], float) + (1 - left) * teacher
    np.testing.assert_allclose(state.params["W"], w, atol=1e-6)
    u, s, v = np.linalg.svd(w)
    np.testing.assert_allclose(dynamics.spectra(state)["W"], s**2, rtol=1e-4, atol=1e-6)
    found = bbp.overlaps(state.params["W"])
    np.testing.assert_allclose(found["overlap_left"], u[0, 0] ** 2, rtol=1e-4)
    np.testing.assert_allclose(found["overlap_right"], v[0, 0] ** 2, rtol=1e-4)


@pytest.mark.parametrize("shape", [(32, 64), (64, 32)])
def test_the_formulas_belong_to_the_left_and_the_right_vectors(shape: tuple[int, int]):
    """Means of a finite matrix are off by O(1/n): allowed is 1/min(N, M), and both would be told apart without it."""
    run = BBPRun(*shape, learning_rate=(0.65,), steps=(1,))
    law = run.law(1.0, 1)
    noise, signal = float(law.noise[0]), float(law.signal[0])
    w = students(0, *shape, noise, signal, GAUSSIAN)
    found = jax.jit(jax.vmap(bbp.overlaps))(w)
    left, right = float(law.overlap[0]), float(run.right_overlap(1.0, 1)[0])
    assert abs(left - right) > 0.07
    bias = 1 / min(shape)
    assert_mean(found["overlap_left"], left, bias=bias, resolution=0.06)
    assert_mean(found["overlap_right"], right, bias=bias, resolution=0.06)
    gram = np.asarray(w @ w.mT if shape[0] < shape[1] else w.mT @ w, float)
    top = np.linalg.eigvalsh(gram)[:, -1]
    assert_mean(top, float(law.outlier[0]), bias=bias * float(law.outlier[0]), resolution=0.08)


def test_the_right_overlap_in_closed_form():
    run = BBPRun(30, 80, learning_rate=(0.3, 0.5, 0.9), steps=(1,))
    law = run.law(0.7, 1)
    c = np.asarray(law.signal / law.noise**2)
    expected = np.maximum((1 - run.ratio / c**2) / (1 + 1 / c), 0)
    np.testing.assert_allclose(run.right_overlap(0.7, 1), expected, rtol=1e-5, atol=1e-6)


def test_the_median_at_the_transition_does_not_depend_on_the_size():
    """Critical matrices of two sizes exceed the median of the critical law half of the time, up to O(n^{−1/3})."""
    noise = 1.0 / (1 + 0.5**0.25)
    for rows, allowed in ((12, 0.14), (48, 0.10)):
        w = students(rows, rows, 2 * rows, noise, (1 - noise) ** 2, GAUSSIAN)
        top = np.linalg.svd(np.asarray(w), compute_uv=False)[:, 0] ** 2
        median = float(laws.TracyWidom(beta=1).sf(bbp.CRITICAL_MEDIAN))
        p = bbp.spectra.tracy_widom_p_values(top, (rows, 2 * rows), noise**2)
        assert abs(np.mean(p < median) - 0.5) < allowed
        assert np.mean(p < bbp.OUTSIDE) < 0.2  # far from half: a visible outlier comes later


def test_crossing_of_a_known_curve():
    x = np.linspace(0, 1, 21)
    uniform = np.asarray(jax.random.uniform(jax.random.key(0), (21, 400)))
    share = 0.2 + 0.8 / (1 + np.exp(-(x - 0.5) / 0.06))
    truth = 0.5 + 0.06 * np.log(0.3 / 0.5)
    found, (low, high) = crossing(x, uniform < share[:, None], 0.2)
    assert found.error < 0.01 and abs(found.value - truth) < 4 * found.error + 0.005
    assert low < truth < high + 0.05
    assert np.isnan(crossing(x, uniform < 0.2, 0.2)[0].value)
    turned, _ = crossing(x[::-1], (uniform < share[:, None])[::-1], 0.2)
    assert turned.value == pytest.approx(found.value)


def test_the_critical_learning_rate_is_measured():
    """ε_c(1) = 0.457 at r = ½; matrices of 24 rows are late by about 0.016, as `critical` says."""
    run = BBPRun(24, 48, learning_rate=RATES[18:34], steps=(1, 2), seeds=160)
    one, two = critical(running.run(run, progress=False).only)
    assert one.law == pytest.approx(0.457, abs=5e-4)
    for found, bias in ((one, 0.02), (two, 0.02)):
        assert found.measured.error < 0.012
        assert abs(found.measured.value - found.law) < bias + 3 * found.measured.error
        assert found.bracket[0] - 0.03 < found.law < found.bracket[1] + 0.03
        assert found.visible.value > found.measured.value + 0.02


def test_curves_are_means_over_the_seeds(stored):
    ds, _ = stored
    found = curves(ds)
    assert [(c.init_width, c.steps) for c in found] == [(1.0, 1), (1.0, 2), (1.0, 4)]
    at = ds.sel(init_width=1.0).isel(snapshot=2)
    np.testing.assert_allclose(found[1].top.value, at.levels.isel(level=0).mean("seed"), rtol=1e-5)
    np.testing.assert_allclose(found[1].left.value, at.overlap_left.mean("seed"), rtol=1e-5)
    assert found[1].p_values.shape == (len(SMALL.learning_rate), SMALL.seeds)
    assert found[0].outside.value[0] < 0.2 and found[0].outside.value[-1] == 1


def test_a_stored_run_knows_its_settings_and_continues(stored):
    ds, out = stored
    assert run_of(ds) == SMALL
    assert running.experiment_of(out) == SMALL
    assert_same(running.run(SMALL, out, progress=False).only, ds)
    with pytest.raises(StoreError):
        running.run(BBPRun(**{**vars(SMALL), "seeds": 3}), out, progress=False)


def test_figures_and_table(stored, tmp_path):
    ds, _ = stored
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = bbp_figures.draw(SMALL, ds, tmp_path / "new")
    assert [p.name for p in paths] == ["overlap.png", "largest_level.png", "spectra.png", "diagram.png"]
    assert all(p.stat().st_size > 10_000 for p in paths)
    found = curves(ds)
    left, right = bbp_figures.overlap(SMALL, found).axes
    for ax in (left, right):
        assert len(ax.containers) == 3
        at = [np.asarray(line.get_xdata())[0] for line in ax.lines if line.get_linestyle() == ":"]
        np.testing.assert_allclose(at, SMALL.critical_learning_rate(1.0, [1, 2, 4]))
    assert [ax.get_title()[:7] for ax in bbp_figures.largest_level(SMALL, found).axes] == [
        "$t$ = 1",
        "$t$ = 2",
        "$t$ = 4",
    ]
    below, above = bbp_figures.spectra_at_transition(SMALL, ds).axes
    assert "below" in below.get_title() and "above" in above.get_title()
    assert "outlier's law" in above.get_legend_handles_labels()[1]
    assert "outlier's law" not in below.get_legend_handles_labels()[1]
    console = Console(width=200)
    with console.capture() as text:
        console.print(bbp_figures.bbp_table(SMALL, ds))
    assert "0.4568" in text.get()


def test_a_diagram_over_widths():
    run = BBPRun(6, 12, learning_rate=(0.2, 0.5, 0.9), init_width=(0.5, 1.0, 2.0), steps=(1,), seeds=4)
    ds = running.run(run, progress=False).only
    ax = bbp_figures.diagram(run, curves(ds), critical(ds)).axes[0]
    line = ax.lines[0]
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    np.testing.assert_allclose(x, [run.critical_learning_rate(w, 1) for w in y])
    assert "width" in ax.get_ylabel()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rows": 1}, "rows = 1"),
        ({"seeds": 0}, "seeds = 0"),
        ({"learning_rate": (0.5, 1.0)}, "learning_rate = "),
        ({"learning_rate": ()}, "at least one value"),
        ({"init_width": (-1.0,)}, "init_width = "),
        ({"steps": (2, 1)}, "increasing"),
        ({"steps": (1, 500)}, "some noise is left"),
    ],
)
def test_bad_input(given, words):
    with pytest.raises(InputError, match=words):
        BBPRun(**given)
