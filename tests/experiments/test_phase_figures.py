"""Figures: files written for any grid, cells where they belong, levels in order, nothing diverged left unexplained."""

import contextlib
import threading
import zipfile
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.container import ErrorbarContainer
from PIL import Image

import dysonjax as dj
from dysonjax.experiments import plotting as plots
from dysonjax.experiments import running
from dysonjax.experiments.phase_diagram import figures as phase_figures
from dysonjax.experiments.phase_diagram.experiment import PhaseDiagram
from dysonjax.experiments.phase_diagram.summary import CONTOURS, PHASES, summary
from tests.drawing import drawn_once

RATES, WIDTHS, BATCH = (64.0, 0.5), (0.25, 8.0), 4
ORDER_PARAMETERS = ("train_loss", "test_loss", "test_error", "gradient_norm", "memory", "alignment")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two learning rates, in falling order, two widths, two seeds, ten updates: a kept run under other axes."""
    place = tmp_path_factory.mktemp("kept")
    with zipfile.ZipFile(Path(__file__).parents[1] / "data" / "format-2" / "phase.zip") as archive:
        archive.extractall(place)
    kept = dj.open(place)
    assert isinstance(kept, xr.Dataset)
    return kept.load().isel(learning_rate=[1, 0]).assign_coords(learning_rate=[*RATES], init_width=[*WIDTHS])


def lose(ds, where):
    """The dataset with the replicas of `where` diverged at update 3."""
    lost = ds.copy(deep=True)
    for name in ORDER_PARAMETERS:
        lost[name] = lost[name].where(~where, np.nan)
    lost["levels"] = lost.levels.where(~where | (lost.snapshot < 2), np.inf)
    lost["diverged_step"] = lost.diverged_step.where(~where, 3)
    return lost


def labels(figure):
    """What the legends of a figure and of its panels say."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def mesh_of(ax):
    (mesh,) = [c for c in ax.collections if isinstance(c, QuadMesh)]
    return mesh


def values_of(mesh):
    values = mesh.get_array()
    assert values is not None
    return values


def captions(figure):
    return figure.get_supxlabel().replace("\u00a0", " ").replace("\n", " ")


def is_drawn(path):
    with Image.open(path) as image:
        return image.width > 500 and len(set(image.convert("L").resize((200, 150)).tobytes())) > 10


CASES = {
    "grid": lambda ds: ds,
    "one cell": lambda ds: ds.isel(learning_rate=[0], init_width=[1], seed=[0]),
    "one rate and seed": lambda ds: ds.isel(learning_rate=[0], seed=[1]),
    "one width": lambda ds: ds.isel(init_width=[0]),
    "a diverged point": lambda ds: lose(ds, (ds.learning_rate > 1) & (ds.init_width > 1)),
    "a diverged seed": lambda ds: lose(ds, ds.seed == 0),
    "all diverged": lambda ds: lose(ds, ds.seed >= 0),
    "all equal": lambda ds: ds.assign({name: 0 * ds[name] + 1 for name in ORDER_PARAMETERS}),
    "all zero": lambda ds: ds.assign({name: 0 * ds[name] for name in ORDER_PARAMETERS}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_figure_is_written(run, case, tmp_path):
    """As users have them for the grid; the special cases need no layout."""
    before = dict(matplotlib.rcParams)
    with contextlib.nullcontext() if case == "grid" else drawn_once():
        paths = phase_figures.draw(CASES[case](run), tmp_path / "new" / "figures")
    assert [p.name for p in paths] == [f"{figure.__name__}.png" for figure in phase_figures.FIGURES]
    assert len(paths) == 6 and all(map(is_drawn, paths))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_several_batch_sizes_get_names_of_their_own(tmp_path):
    diagram = PhaseDiagram((0.5,), (1.0,), (2, 4), seeds=1, epochs=1, batches=2, snapshots=2)
    ds = running.run(diagram, progress=False).only
    names = [p.name for p in phase_figures.draw(ds, tmp_path)]
    assert len(set(names)) == 12
    assert names[0] == "loss_map_b2.png" and names[6] == "loss_map_b4.png"
    left = phase_figures.loss_map(ds, summary(ds), 2).axes[0]
    right = phase_figures.loss_map(ds, summary(ds), 4).axes[0]
    centres = [np.sqrt(np.prod(ax.get_ylim())) for ax in (left, right)]
    np.testing.assert_allclose(centres, [0.25, 0.125])  # T = α/|B|


def test_cells_are_centred_on_their_values(run):
    points = summary(run)
    mesh = mesh_of(phase_figures.loss_map(run, points, BATCH).axes[0])
    corners = np.asarray(mesh.get_coordinates())
    x, y = (np.sqrt(corners[0, 1:, 0] * corners[0, :-1, 0]), np.sqrt(corners[1:, 0, 1] * corners[:-1, 0, 1]))
    np.testing.assert_allclose(x, [1 / 8.0, 1 / 0.25])
    np.testing.assert_allclose(y, [0.5 / BATCH, 64.0 / BATCH])
    for i, rate in enumerate((0.5, 64.0)):  # axes increase, whatever the order of the run's
        for j, width in enumerate((8.0, 0.25)):
            expected = points.train_loss.sel(quantile=0.5, learning_rate=rate, init_width=width, batch_size=BATCH)
            assert values_of(mesh)[i, j] == pytest.approx(float(expected))


def test_edges_are_geometric():
    np.testing.assert_allclose(plots.log_edges([1, 10, 1000]), [10**-0.5, 10**0.5, 100, 10**4])
    np.testing.assert_allclose(plots.log_edges([2**k for k in range(-3, 9)]), 2.0 ** (np.arange(-3, 10) - 0.5))
    np.testing.assert_allclose(plots.log_edges([3]), [3 / 2**0.5, 3 * 2**0.5])


def test_zeros_take_the_lowest_colour_and_what_is_not_finite_is_hatched():
    _, axes = plots.new_figure(1, 2, (6, 3))
    values = np.array([[0.0, 1e-4], [1.0, -1.0]])
    norm = plots.log_norm(values)
    assert (norm.vmin, norm.vmax) == (1e-4, 1.0)
    mesh = plots.grid_map(axes[0, 0], [1, 2], [1, 2], values, norm=norm)
    np.testing.assert_array_equal(mesh.get_array(), [[1e-4, 1e-4], [1.0, 1e-4]])
    assert plots.hatching([mesh], "lost") == []
    values[0, 1] = np.inf
    mesh = plots.grid_map(axes[0, 1], [1, 2], [1, 2], values, norm=plots.log_norm(values))
    np.testing.assert_array_equal(np.ma.getmaskarray(values_of(mesh)), [[False, True], [False, False]])
    assert [patch.get_label() for patch in plots.hatching([mesh], "lost")] == ["lost"]


@pytest.mark.parametrize("values", [[0.0, 0.0], [2.0, 2.0], [np.nan, np.inf], [-3.0, -3.0], [1e-30, 1e30]])
def test_norms_have_a_range_that_holds_the_values(values):
    finite = np.array(values)[np.isfinite(values)]
    for make, kind in ((plots.log_norm, LogNorm), (plots.linear_norm, Normalize), (plots.centred_norm, Normalize)):
        norm = make(values)
        assert isinstance(norm, kind) and norm.vmin is not None and norm.vmax is not None
        assert np.isfinite([norm.vmin, norm.vmax]).all() and norm.vmin < norm.vmax
        kept = finite[finite > 0] if make is plots.log_norm else finite
        assert ((norm.vmin <= kept) & (kept <= norm.vmax)).all()
    assert plots.centred_norm(values)(0.0) == pytest.approx(0.5)


def test_level_flow_sorts_levels_and_sets_update_0_apart():
    steps = np.array([0, 10, 100, 1000])
    levels = np.random.default_rng(0).uniform(0.1, 5, (4, 6))
    levels[2, 3], levels[1, 0] = -1e-9, np.nan
    ax = plots.new_figure(1, 1, (4, 3))[1][0, 0]
    lines = plots.level_flow(ax, steps, levels, held_from=100)
    assert len(lines) == 6
    drawn = np.array([line.get_ydata() for line in lines])
    for k in (0, 3):
        np.testing.assert_array_equal(drawn[:, k], np.sort(levels[k])[::-1])
    assert np.isfinite(drawn[:, 1]).sum() == np.isfinite(drawn[:, 2]).sum() == 5
    at = np.asarray(lines[0].get_xdata())
    np.testing.assert_array_equal(at[1:], steps[1:])
    assert ax.get_xlim()[0] < at[0] < steps[1]
    ticks = ax.xaxis.get_major_formatter()
    assert ticks(at[0]) == "0" and ticks(10.0) == "10" and ticks(1000.0) == "$10^{3}$"
    assert ax.lines[-1].get_xdata()[0] == 100


def test_level_flow_shows_a_network_of_each_phase(run):
    points = summary(run)
    figure = phase_figures.level_flow(run, points, BATCH)
    present = np.unique(points.phase)
    assert len(figure.axes) == len(present)
    assert [ax.get_title().split(":")[0] for ax in figure.axes] == [PHASES[k] for k in present]
    for ax in figure.axes:
        curves = [line for line in ax.lines if np.size(line.get_xdata()) == run.sizes["snapshot"]]
        assert len(curves) == run.sizes["level"] == 3


def test_level_flow_prefers_a_network_that_shares_the_phase(run):
    lost = lose(run, (run.seed == 0) | (run.learning_rate > 1))
    points = summary(lost)
    points["phase"] = points.phase * 0 + (points.learning_rate > 1) * PHASES.index("diverged")
    kept, diverged = phase_figures.level_flow(lost, points, BATCH).axes
    assert all(np.isfinite(line.get_ydata()).all() for line in kept.lines)
    assert not all(np.isfinite(line.get_ydata()).all() for line in diverged.lines)


def test_diverged_points_are_explained(run):
    clean = phase_figures.loss_map(run, summary(run), BATCH)
    lost = lose(run, (run.learning_rate > 1) & (run.init_width > 1))
    points = summary(lost)
    assert labels(clean) == []
    for figure in (phase_figures.loss_map, phase_figures.order_parameters, phase_figures.separation_map):
        drawn = figure(lost, points, BATCH)
        assert phase_figures.DIVERGED in labels(drawn)
        masked = np.ma.getmaskarray(values_of(mesh_of(drawn.axes[0])))
        np.testing.assert_array_equal(masked, [[False, False], [True, False]])
    assert "diverged" in labels(phase_figures.loss_against_temperature(lost, points, BATCH))
    assert "diverged" not in labels(phase_figures.loss_against_temperature(run, summary(run), BATCH))


def test_bars_reach_from_the_16_to_the_84_percentile():
    ax = plots.new_figure(1, 1, (4, 3))[1][0, 0]
    values = np.array([[[1.0, 2.0], [3.0, np.inf], [9.0, np.inf]], [[0.0, 1.0], [1.0, 2.0], [2.0, np.inf]]])
    assert plots.lines_with_bars(ax, [1.0, 4.0], values, [{"color": "red"}, {"color": "blue"}])
    red, blue = ax.containers
    np.testing.assert_allclose(red.lines[2][0].get_segments()[0], [[1, 1], [1, 9]])
    assert np.isnan(red.lines[0].get_ydata()[1])
    np.testing.assert_allclose(blue.lines[2][0].get_segments(), [[[1, 1 / 3], [1, 2]], [[4, 1], [4, 27]]])
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[4.0], []]


def test_a_single_value_stands_in_a_range_with_room_around_it():
    ax = plots.new_figure(1, 1, (4, 3))[1][0, 0]
    assert not plots.lines_with_bars(ax, [2.0], np.full((1, 3, 1), 7.0), [{}], spread=0.5)
    np.testing.assert_allclose(ax.get_ylim(), [7 / 3, 21])
    np.testing.assert_allclose(ax.lines[0].get_data(), [[2.0], [7.0]])


def test_contours_run_where_the_logarithm_says():
    ax = plots.new_figure(1, 1, (4, 3))[1][0, 0]
    x, y = [1.0, 4.0], [100.0, 1.0, 10.0]
    values = np.array([[0.0] * 2, [1.0] * 2, [1.0] * 2])  # falls from 1 to 0 between y = 10 and y = 100
    plots.grid_map(ax, x, y, values, norm=plots.linear_norm(values))
    assert plots.log_contour(ax, x, y, values, 0.5, {"color": "black", "linewidth": 1})
    vertices = ax.collections[-1].get_paths()[0].vertices
    np.testing.assert_allclose(vertices[:, 1], 10**1.5)
    np.testing.assert_allclose([vertices[:, 0].min(), vertices[:, 0].max()], ax.get_xlim())
    before = len(ax.collections)
    assert not plots.log_contour(ax, x, y, values * 0 + 1, 0.5, {"color": "black", "linewidth": 1})
    assert len(ax.collections) == before


def test_outlines_separate_cells_that_differ():
    ax = plots.new_figure(1, 1, (4, 3))[1][0, 0]
    lines = plots.outline_regions(ax, [1, 4], [1, 4, 16], [[0, 1], [0, 0], [0, 0]])
    segments = {tuple(map(tuple, np.round(s, 9))) for s in lines.get_segments()}
    assert segments == {((2, 0.5), (2, 2)), ((2, 2), (8, 2))}


def test_deepest_cell_is_inside_its_region():
    region = np.zeros((7, 9), bool)
    region[1:6, 2:7] = True
    region[0, 0] = True
    assert plots.deepest_cell(region) == (3, 4)
    assert plots.deepest_cell(np.ones((1, 5), bool)) == (0, 2)


@pytest.mark.parametrize("seeds, high", [(4, False), (phase_figures.SEEDS_FOR_HIGH_CONTOURS, True)])
def test_high_contours_need_many_seeds(run, seeds, high):
    repeated = run.isel(seed=np.arange(seeds) % 2).assign_coords(seed=np.arange(seeds))
    points = summary(repeated)
    for name in ("learnable", "learnable_exact"):
        points[name] = points[name] * 0 + (points.learning_rate < 1)
    figure = phase_figures.boundary_maps(repeated, points, BATCH)
    published = [label for label in labels(figure) if "as published" in label]
    assert [label.split()[-2] for label in published] == [f"{100 * c:g}" for c in CONTOURS[: 3 if high else 1]]
    assert ("drawn from" in captions(figure)) != high


def test_boundary_maps_mark_where_levels_blow_up(run):
    points = summary(run)
    points["level_temperature"] = points.level_temperature * 0 + np.inf
    points["level_temperature"][dict(init_width=1)] = 3.0
    for end, value in (("low", 2.0), ("high", np.inf)):
        points[f"level_temperature_{end}"] = xr.full_like(points.level_temperature, value)
    figure = phase_figures.boundary_maps(run, points, BATCH)
    assert "intervals" not in captions(figure)  # two seeds have none
    for ax in figure.axes[:3]:
        bars = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
        assert len(bars) == len(ax.containers)
        (stem,) = bars[0].lines[2]
        np.testing.assert_allclose(stem.get_segments()[0], [[1 / 8.0, 2], [1 / 8.0, ax.get_ylim()[1]]])
        assert [tuple(np.ravel(np.asarray(c.lines[0].get_data()))) for c in bars] == [(1 / 8.0, 3.0)]
        beyond = [np.asarray(line.get_xdata()).tolist() for line in ax.lines if line.get_marker() == "^"]
        assert beyond == [[1 / 0.25]]
        assert any(np.allclose(line.get_xdata(), 2**0.5) for line in ax.lines)  # the jamming line
    assert "the same, beyond the grid" in labels(figure)


def test_captions_state_the_sizes(run):
    points = summary(run)
    for figure in phase_figures.FIGURES:
        text = captions(figure(run, points, BATCH))
        assert "2 seeds a point; 2 epochs of 5 fixed mini-batches, |B| = 4" in text
        assert "tanh network 3–4–3–1, W (3 × 4) trained" in text


def test_the_style_serves_one_thread_at_a_time_and_goes_away():
    entered, before = threading.Event(), dict(matplotlib.rcParams)

    def enter():
        with plots.style():
            entered.set()

    other = threading.Thread(target=enter)
    with plots.style():
        assert matplotlib.rcParams["savefig.dpi"] == plots.STYLE["savefig.dpi"] != before["savefig.dpi"]
        other.start()
        assert not entered.wait(0.2)
    other.join()
    assert entered.is_set() and dict(matplotlib.rcParams) == before


def test_threads_draw_what_one_thread_draws(run, tmp_path, monkeypatch):
    monkeypatch.setattr(phase_figures, "FIGURES", phase_figures.FIGURES[:2])
    before = dict(matplotlib.rcParams)
    with drawn_once():
        alone = [p.read_bytes() for p in phase_figures.draw(run, tmp_path / "alone")]
        workers = [threading.Thread(target=phase_figures.draw, args=(run, tmp_path / str(i))) for i in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert dict(matplotlib.rcParams) == before
    for i in range(2):
        written = [(tmp_path / str(i) / f"{figure.__name__}.png") for figure in phase_figures.FIGURES]
        assert [p.read_bytes() for p in written] == alone
