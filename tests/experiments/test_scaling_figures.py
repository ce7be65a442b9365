"""Figures of scaling runs: all that apply are drawn, without a warning, and show the numbers of the analysis."""

import contextlib

import matplotlib.container
import numpy as np
import pytest

from dysonjax.experiments.linear_scaling import analysis as scaling_report
from dysonjax.experiments.linear_scaling import figures as scaling_figures
from dysonjax.experiments.linear_scaling.ensembles import Ensemble
from dysonjax.experiments.linear_scaling.experiment import LinearScaling, RBMScaling, TeacherStudentScaling
from tests.drawing import drawn_once

ALWAYS = {"level_flow", "stacked_spectra", "multiplet_densities", "centres"}
PAIRS = {"spacings", "scaling", "spacing_against_width"}


def synthetic(run, rng, description, rate, size, count=60):
    """GOE blocks about the fixed points."""
    width, n = run.width(rate / size), len(run.fixed_points)
    levels = np.empty((count, n))
    for part in run.multiplets:
        k = part.stop - part.start
        g = rng.normal(size=(count, k, k)) * width[part.start] / 2
        levels[:, part] = run.fixed_points[part.start] + np.linalg.eigvalsh(g + np.swapaxes(g, 1, 2))[:, ::-1]
    steps = np.array([0, 1, 10, 100])
    return Ensemble(description, rate, size, levels, 2, 0, levels[:4], steps)


RUNS = {
    "rbm": RBMScaling(points=((0.01, 16), (0.02, 16), (0.02, 64)), visible=6, seeds=512),
    "teacher-student": TeacherStudentScaling((0.1, 0.2), (4,), level=("sgd",), noise=0.5),
    "no pairs": LinearScaling((0.01,), (4, 8), level=("sgd", "log-gas"), teacher=(1.0, 2.0, 2.0, 2.0), noise=0.5),
    "one setting": TeacherStudentScaling((0.1,), (4,), level=("sgd",), noise=0.5),
}


def analysed(run):
    rng = np.random.default_rng(0)
    return scaling_report.analyse(run, [synthetic(run, rng, d, *s) for d in run.level for s in run.settings])


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "rbm" else n for n in RUNS])
def test_all_figures_that_apply_are_drawn(name, tmp_path):
    run = RUNS[name]
    with contextlib.nullcontext() if name == "teacher-student" else drawn_once():  # one as users have it
        drawn = {path.stem for path in scaling_figures.draw(run, analysed(run), tmp_path)}
    wanted = ALWAYS | (
        PAIRS if name in ("rbm", "teacher-student") else {"spacings"} if name == "one setting" else set()
    )
    assert drawn == wanted and {path.stem for path in tmp_path.glob("*.png")} == wanted


def test_a_run_that_lost_everything_draws_nothing(tmp_path):
    run = RUNS["one setting"]
    rng = np.random.default_rng(0)
    lost = synthetic(run, rng, "sgd", 0.1, 4)._replace(levels=np.zeros((0, 2)))
    found = scaling_report.analyse(run, [lost])
    assert scaling_figures.draw(run, found, tmp_path) == []
    assert len(scaling_report.tables(run, found)) == 2


def test_the_scaling_figure_shows_the_fitted_points():
    run = RUNS["rbm"]
    found = analysed(run)
    figure = scaling_figures.scaling(run, found)
    upper, lower = figure.axes[0], figure.axes[3]
    assert upper.get_title() == "SGD" and lower.get_xlabel() and upper.get_ylabel() == r"$\langle S\rangle$"
    bars = [c for c in upper.containers if isinstance(c, matplotlib.container.ErrorbarContainer)]
    shown = np.sort(np.concatenate([c.lines[0].get_ydata() for c in bars]))
    spacing = found[0].spacing
    assert spacing is not None
    np.testing.assert_allclose(shown, np.sort(np.ravel(spacing.points.value)))
    labels = upper.get_legend_handles_labels()[1]
    assert any(str(spacing.slope) in text for text in labels) and any("published" in text for text in labels)


def test_flows_begin_at_the_first_update_and_name_their_setting():
    run = RUNS["teacher-student"]
    figure = scaling_figures.level_flow(run, analysed(run))
    assert [ax.get_title() for ax in figure.axes] == [rf"SGD, $\alpha$ = {a}, $|B|$ = 4" for a in (0.1, 0.2)]
    assert np.asarray(figure.axes[1].lines[0].get_xdata())[0] == pytest.approx(0.2)
