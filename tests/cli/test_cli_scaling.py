"""`dysonjax scaling` and `reproduce`: a tiny run to its figures, continued, replaced, and refused."""

import json
import shutil

import pytest

from dysonjax.cli.app import main
from dysonjax.experiments import recipes, running
from dysonjax.experiments.bbp.experiment import BBPRun
from dysonjax.experiments.linear_scaling import figures as scaling_figures
from dysonjax.experiments.linear_scaling.experiment import ScalingRun, TeacherStudentScaling
from tests.drawing import composed

TINY = ["--learning-rate", "0.1", "--batch-size", "4,8", "--seeds", "40", "--level", "sgd"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    with composed():  # their own tests draw them
        assert main(["scaling", "teacher-student", *TINY, "--time", "5", "--noise", "0.5", "--out", str(out)]) == 0
    return out


def test_a_run_ends_with_tables_and_figures(finished):
    run = running.experiment_of(finished)
    assert isinstance(run, TeacherStudentScaling) and run.noise == 0.5
    assert run.settings == ((0.1, 4), (0.1, 8)) and run.seeds == 40
    assert "fits through the origin" in (finished / "report.txt").read_text()
    assert len(list((finished / "figures").glob("*.png"))) >= 4


@pytest.mark.slow  # as above, with a second level of description and settings of equal T
def test_a_run_of_two_levels_ends_with_more_tables_and_figures(tmp_path):
    words = ["--learning-rate", "0.1,0.2", "--batch-size", "4,8", "--seeds", "40", "--level", "sgd,dyson"]
    out = tmp_path / "run"
    assert main(["scaling", "teacher-student", *words, "--time", "5", "--noise", "0.5", "--out", str(out)]) == 0
    run = running.experiment_of(out)
    assert isinstance(run, ScalingRun) and run.settings == ((0.1, 4), (0.1, 8), (0.2, 4), (0.2, 8))
    text = (out / "report.txt").read_text()
    assert "fits through the origin" in text and "settings of equal T" in text
    assert len(list((out / "figures").glob("*.png"))) >= 5


def test_it_is_shown_again_and_continued_without_computing(finished, capsys, monkeypatch):
    monkeypatch.setattr(scaling_figures, "draw", lambda *run: [])
    before = (finished / "report.txt").read_text()
    assert main(["report", str(finished)]) == 0
    assert before in capsys.readouterr().out
    assert main(["scaling", "teacher-student", *TINY, "--time", "5", "--noise", "0.5", "--out", str(finished)]) == 0
    assert (finished / "report.txt").read_text() == before


def test_another_run_is_refused_or_replaced(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scaling_figures, "draw", lambda *run: [])
    words = ["--learning-rate", "0.1", "--batch-size", "4", "--seeds", "40", "--steps", "20", "--noise", "0.5"]
    other = ["scaling", "teacher-student", *words]
    assert main([*other, "--out", str(finished)]) == 1
    assert "holds another run" in capsys.readouterr().err
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    assert main([*other, "--level", "sgd", "--out", str(copy), "--overwrite"]) == 0
    run = running.experiment_of(copy)
    assert isinstance(run, ScalingRun) and run.steps == 20


def test_a_rank_one_teacher_is_reproduced_and_shown_again(tmp_path, monkeypatch, capsys):
    few = BBPRun(rows=12, columns=24, learning_rate=(0.2, 0.5, 0.8), steps=(1,), seeds=8)
    monkeypatch.setattr(recipes, "_fifth", lambda full: {"bbp": few})
    with composed():  # test_bbp.py draws them
        assert main(["reproduce", "p5", "--out", str(tmp_path / "p5")]) == 0
        assert main(["report", str(tmp_path / "p5" / "bbp")]) == 0
    assert len(list((tmp_path / "p5" / "bbp" / "figures").glob("*.png"))) == 4


def test_help_and_extension_take_the_same_flags(finished, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("dysonjax.cli.runs.compute", lambda experiment, *others, **more: asked.append(experiment))
    more = ["--learning-rate", "0.1,0.2", "--level", "sgd,dyson", "--seeds", "50"]
    for model in ([], ["teacher-student"]):
        assert main(["scaling", *model, "--extend", str(finished), *more]) == 0
    wanted = TeacherStudentScaling((0.1, 0.2), (4, 8), level=("sgd", "dyson"), seeds=50, time=5.0, noise=0.5)
    assert asked == [wanted, wanted]
    assert main(["scaling", "rbm", "--extend", str(finished)]) == 2
    assert "expected a run of RBMScaling, not TeacherStudentScaling" in capsys.readouterr().err
    assert main(["scaling"]) == 2
    with pytest.raises(SystemExit):
        main(["scaling", "teacher-student", "--help"])
    said = capsys.readouterr().out
    assert all(f"--{name} " in said for name in ("learning-rate", "batch-size", "points", "level", "noise"))
    assert "--visible" not in said


@pytest.mark.slow  # the report itself has its own tests
def test_validity_shows_a_verdict_a_line(capsys):
    tiny = ["--teacher", "2,2", "--noise", "0.5", "--steps", "60", "--seeds", "32"]
    assert main(["validity", "teacher-student", "--learning-rate", "0.2", "--batch-size", "4", *tiny]) == 0
    shown = capsys.readouterr().out
    assert "SVAG" in shown and "kurtosis" in shown and "verdict" in shown


@pytest.mark.slow  # a run and its tables, as above, by another name
def test_reproduce_runs_every_recipe(tmp_path, monkeypatch):
    few = {"one": TeacherStudentScaling((0.1,), (4, 8), level=("sgd",), seeds=32, time=4.0, noise=0.5)}
    monkeypatch.setattr(recipes, "_first", lambda full: few)
    monkeypatch.setattr(scaling_figures, "draw", lambda run, found, place: [place / "none.png"])
    assert main(["reproduce", "p1", "--out", str(tmp_path / "p1")]) == 0
    assert json.loads((tmp_path / "p1" / "one" / "run.json").read_text())["settings"]["seeds"] == 32
    assert "fits through the origin" in (tmp_path / "p1" / "one" / "report.txt").read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["scaling", "gpt"], "scaling = 'gpt': expected one of rbm, teacher-student, linear"),
        (["scaling", "rbm", "--level", "none"], "level = 'none': expected some of sgd"),
        (["scaling", "rbm", "--learning-rate", "0.1"], "expected both or neither"),
        (["scaling", "rbm", "--learning-rate", "a", "--batch-size", "1"], "--learning-rate: values = 'a': expected"),
        (
            ["scaling", "rbm", "--learning-rate", "0.1", "--batch-size", "1.5"],
            "--batch-size: values = 1.5: expected",
        ),
        (["scaling", "linear", "--teacher", "1,-2"], "teacher = (1.0, -2.0): expected singular values"),
        (["scaling", "linear", "--train", "all"], "invalid choice 'all'"),
        (["scaling", "teacher-student", "--noise", "0"], "noise = 0.0: expected a positive number"),
        (["scaling", "rbm", "--steps", "-1"], "steps = -1: expected a whole number of at least 0"),
        (["scaling", "rbm", "--seeds", "1"], "seeds = 1"),
        (["scaling", "rbm", "--batches", "3"], "Unrecognized options: --batches, 3; see dysonjax scaling rbm --help"),
        (["scaling"], "scaling = '--out': expected one of rbm, teacher-student, linear"),
        (["validity", "gpt"], "invalid choice 'gpt'"),
        (["reproduce", "p9"], "paper = 'p9': expected one of p1"),
    ],
)
def test_bad_input_is_one_line(args, message, capsys, tmp_path):
    assert main([*args, *([] if args[0] in ("reproduce", "validity") else ["--out", str(tmp_path / "run")])]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
