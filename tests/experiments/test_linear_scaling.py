"""A scaling run from settings to tables, at sizes of seconds; the statistics behind it are tested in test_scaling."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import assert_same

import dysonjax as dj
from dysonjax.engine.jobs import Results
from dysonjax.experiments import running
from dysonjax.experiments.linear_scaling import analysis as scaling_report
from dysonjax.experiments.linear_scaling import experiment as linear_scaling
from dysonjax.experiments.linear_scaling.ensembles import Ensemble, ensembles
from dysonjax.experiments.linear_scaling.experiment import (
    LinearScaling,
    RBMScaling,
    ScalingRun,
    TeacherStudentScaling,
    model_of,
)
from dysonjax.experiments.recipes import recipes

SMALL = TeacherStudentScaling(
    points=((0.1, 4), (0.1, 16), (0.4, 16)), level=("sgd", "dyson"), seeds=60, time=20.0, sampling="wishart",
    noise=0.5, snapshots=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    directory = tmp_path_factory.mktemp("scaling") / "run"
    return directory, running.run(SMALL, directory)


def test_updates_follow_the_time(done):
    directory, found = done
    assert [*found] == ["sgd-0.1", "sgd-0.4", "dyson-0.1", "dyson-0.4"]
    assert found["sgd-0.1"].step.values[-1] == 200 and found["dyson-0.4"].step.values[-1] == 50
    assert sum(job.cost for job in SMALL.jobs(found)) == 2 * 60 * (2 * 200 + 50)
    assert sorted(p.name for p in directory.iterdir()) == ["dyson-0.1", "dyson-0.4", "run.json", "sgd-0.1", "sgd-0.4"]


def test_a_run_is_read_back_and_continued(done):
    directory, found = done
    experiment, read = running.load(directory)
    assert experiment == SMALL
    again = running.run(SMALL, directory)
    for part, ds in found.items():
        assert_same(ds, again[part])
        assert_same(ds, read[part])


def test_another_run_is_refused(done):
    with pytest.raises(dj.StoreError, match="holds another run"):
        running.run(TeacherStudentScaling(points=SMALL.settings, seeds=65), done[0])
    with pytest.raises(dj.StoreError, match="expected the directory of a dysonjax run"):
        running.experiment_of(done[0] / "figures")


def test_ensembles_are_in_the_theorys_coordinate(done):
    both = ensembles(SMALL, done[1])
    assert [e[:3] for e in both] == [(d, a, b) for d in ("sgd", "dyson") for a, b in SMALL.settings]
    for e in both:
        assert e.levels.shape == (60, 2) and e.flow.shape == (len(e.steps), 2) and e.diverged == e.outside == 0
        # levels of W itself, not of WᵀW
        assert np.all(np.abs(e.levels.mean(0) - 2) < 0.2)


def test_analysis_and_tables(done):
    found = scaling_report.analyse(SMALL, ensembles(SMALL, done[1]))
    assert [one.description for one in found] == ["sgd", "dyson"]
    sgd, dyson = found
    assert sgd.spacing is not None and sgd.spread is not None
    assert sgd.spacing.slope.value == pytest.approx(np.sqrt(np.pi), rel=0.2)
    assert sgd.spread.slope.value == pytest.approx(1, rel=0.2)
    (equal,) = sgd.equal
    assert (equal[0].learning_rate, equal[1].learning_rate) == (0.1, 0.4) and 0 < equal[2].p_value <= 1
    assert not sgd.compared and len(dyson.compared) == 3 and dyson.small is None
    assert len(scaling_report.tables(SMALL, found)) == 6


def synthetic(run, rng, description, rate, size, shift=0.0):
    """GOE blocks about the fixed points: what the theory says, exactly."""
    width, n, count = run.width(rate / size), len(run.fixed_points), 400
    levels = np.empty((count, n))
    for part in run.multiplets:
        k = part.stop - part.start
        g = rng.normal(size=(count, k, k)) * width[part.start] / 2
        levels[:, part] = run.fixed_points[part.start] + shift + np.linalg.eigvalsh(g + np.swapaxes(g, 1, 2))[:, ::-1]
    return Ensemble(description, rate, size, levels, 3, 5, levels[:4], np.arange(4))


@pytest.fixture(scope="module")
def exact():
    settings = ((0.01, 64), (0.01, 128), (0.02, 128), (0.02, 256))
    run = RBMScaling(points=settings, level=("sgd", "matrix"), visible=6, sampling="wishart")
    rng = np.random.default_rng(1)
    sets = [synthetic(run, rng, d, *s) for d in run.level for s in settings]
    return run, scaling_report.analyse(run, sets)


def test_the_law_of_small_noise_is_recognised(exact):
    run, (sgd, matrix) = exact
    for fit, slope in ((sgd.spacing, np.sqrt(2 * np.pi)), (sgd.width, np.sqrt(2 * np.pi)), (sgd.spread, 1.0)):
        assert abs(fit.slope.value - slope) < 5 * fit.slope.error and fit.slope.error < 0.03 * slope
    assert sgd.small.dof == 2 * len(run.settings) - 1
    assert len(sgd.equal) == 2 and all(test.p_value > 1e-3 for _, _, test, _ in sgd.equal)
    assert [c.ensemble.temperature for c in matrix.compared] == [a / b for a, b in run.settings]
    for c in matrix.compared:
        assert np.all(np.abs(c.spacing.value - 1) < 5 * c.spacing.error)
        assert np.all(np.abs(c.variance.value - 1) < 5 * c.variance.error) and c.variance.value.shape == (6,)
        assert np.all(np.abs(c.shift.value) < 5 * c.shift.error) and c.shift.value.shape == (4,)
    assert all(t.p_value > 1e-3 for tests in (*sgd.surmise, *sgd.multiplets) for t in tests)


def test_lost_replicas_are_shown(exact):
    run, found = exact
    table = scaling_report.tables(run, found)[1]
    columns = {c.header: [*map(str, c.cells)] for c in table.columns}
    assert columns["outside"] == ["5"] * 4 and columns["diverged"] == ["3"] * 4


def test_a_setting_with_few_survivors_is_shown_and_left_out():
    run = RBMScaling(points=((0.01, 16), (0.02, 32), (0.02, 64)), level=("sgd",), visible=6)
    rng = np.random.default_rng(2)
    sets = [synthetic(run, rng, "sgd", *s) for s in run.settings]
    sets[1] = sets[1]._replace(levels=sets[1].levels[:5])
    (found,) = scaling_report.analyse(run, sets)
    assert len(found.centres) == 2 and found.spacing is not None and found.spacing.dof == 3
    table = scaling_report.tables(run, [found])[1]
    assert str([*table.columns[3].cells][1]) == "–"


def test_equal_temperatures_that_differ_are_seen():
    run = RBMScaling(points=((0.01, 16), (0.02, 32)), level=("sgd",), visible=6)
    rng = np.random.default_rng(3)
    sets = [synthetic(run, rng, "sgd", *s, shift=s[0]) for s in run.settings]
    (found,) = scaling_report.analyse(run, sets)
    assert found.equal[0][2].p_value < 0.01


def test_a_run_without_pairs():
    run = LinearScaling((0.01,), (4, 16), level=("sgd",), teacher=(1.0, 2.0, 3.0), noise=0.5)
    rng = np.random.default_rng(4)
    (found,) = scaling_report.analyse(run, [synthetic(run, rng, "sgd", *s) for s in run.settings])
    assert found.spacing is found.width is found.small is None
    assert found.spread is not None and found.spread.dof == 5
    assert len(scaling_report.tables(run, [found])) == 2


def test_the_papers_recipes():
    first = recipes("p1")
    assert first["rbm"].settings == linear_scaling.RBM_SETTINGS and len(first["rbm"].settings) == 10
    assert first["teacher-student-frozen-data"].batches == 500
    assert recipes("p1", full=True)["rbm"].parts()[0][3] == 100_000
    assert {m.stop - m.start for m in recipes("p3")["linear-first"].multiplets} == {1, 2, 3}
    for run in (*first.values(), *recipes("p3").values()):
        json.dumps(run.network.config)


BEFORE = {
    "model": "linear", "settings": ((0.02, 4), (0.02, 8)), "descriptions": ("sgd", "log-gas"), "seeds": 32, "time": 0.4,
    "steps": 0, "sampling": "wishart", "batches": 0, "snapshots": 41, "key": 0, "visible": 10, "hidden": None,
    "sweeps": 3, "teacher": (2.0, 2.0), "trained": "first", "noise": 1.0, "init_width": 0.1,
}  # fmt: skip
"""Settings as dysonjax 0.1 stored them."""


@pytest.mark.parametrize(
    ("changed", "now"),
    [
        ({}, {"learning_rate": (0.02,), "batch_size": (4, 8)}),
        ({"settings": ((0.1, 4), (0.2, 8)), "trained": "both"}, {"points": ((0.1, 4), (0.2, 8)), "train": "both"}),
        ({"settings": linear_scaling.LINEAR_SETTINGS}, {}),
    ],
)
def test_settings_of_before_are_those_of_a_model(changed, now):
    run = ScalingRun.of({**BEFORE, **changed})
    common = {"level": ("sgd", "log-gas"), "seeds": 32, "time": 0.4, "teacher": (2.0, 2.0)}
    assert run == LinearScaling(**common, **now)
    assert run.settings == {**BEFORE, **changed}["settings"]
    # a scan's header says what it said, so that the run can be continued
    told = run.dynamics("sgd").config["scaling"]
    assert told == {**BEFORE, **changed, "settings": (), "descriptions": ()} and [*told] == [*BEFORE]


def test_a_run_of_before_is_the_same_run(done, tmp_path):
    """Its record has other names; nothing is computed again and the record stays."""
    run = tmp_path / "run"
    shutil.copytree(done[0], run)
    record = json.loads((run / "run.json").read_text())
    old = record["settings"]
    for name in ("learning_rate", "batch_size"):
        del old[name]
    old |= {"settings": old.pop("points"), "descriptions": old.pop("level")}
    (run / "run.json").write_text(text := json.dumps(record))
    assert running.load(run)[0] == SMALL
    running.run(SMALL, run, extend=True)
    assert (run / "run.json").read_text() == text and not (run / "extensions").exists()
    with pytest.raises(dj.StoreError, match=r"time = 20\.0 there, 30\.0 asked for"):
        running.run(dataclasses.replace(SMALL, time=30.0), run)


def test_every_model_has_options_of_its_own():
    assert [*ScalingRun.options()] == ["rbm", "teacher-student", "linear"]
    assert model_of("rbm") is RBMScaling


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "gpt"}, "model = 'gpt': expected one of rbm, teacher-student, linear"),
        ({"model": "rbm", "level": ("sgd", "none")}, "level = 'sgd,none': expected some of sgd, matrix, dyson"),
        ({"model": "rbm", "seeds": 1}, "seeds = 1"),
        ({"model": "rbm", "time": -1.0}, "time = -1.0: expected a positive number"),
        ({"model": "linear", "batches": -3}, "batches = -3: expected a whole number of at least 0"),
        ({"model": "rbm", "learning_rate": (0.1,)}, "learning-rate = (0.1,), batch-size = None: expected both or"),
        (
            {"model": "rbm", "learning_rate": (0.1,), "batch_size": (4,), "points": ((0.1, 4),)},
            "points = ((0.1, 4),): expected none beside learning rates",
        ),
        ({"model": "rbm", "sampling": "real"}, "sampling = 'real'"),
        ({"model": "rbm", "points": ()}, "points = ()"),
        ({"model": "rbm", "hidden": 3}, "hidden = 3"),
        ({"model": "linear", "noise": 0.0}, "noise = 0.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(dj.InputError) as error:
        ScalingRun.of(arguments).jobs(Results())
    assert message in str(error.value) and "\n" not in str(error.value)
