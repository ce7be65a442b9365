"""The command line: exit codes, one line for every refusal, nothing lost, nothing computed twice."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import assert_same

from dysonjax.cli.app import commands, main
from dysonjax.cli.options import grid_values
from dysonjax.experiments.phase_diagram import figures as phase_figures
from dysonjax.storage import store
from tests.drawing import composed

TINY = ["--learning-rate", "0.125,4", "--init-width", "0.125,256", "--seeds", "2", "--epochs", "2", "--batches", "5"]


def run(arguments, capsys):
    """Exit code, standard output and standard error of a command."""
    code = main([str(a) for a in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def complaint(text):
    """The one line that is not the progress bar's."""
    lines = [line for line in text.splitlines() if line.startswith("dysonjax: ")]
    assert len(lines) == 1
    assert "Traceback" not in text
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "command = none"),
        ("phase", "phase"),
        ("phase-diagram --sed 3", "--sed"),
        ("phase-diagram --seeds three", "--seeds"),
        ("phase-diagram --seeds 0", "seeds = 0: expected a whole number of at least 1"),
        ("phase-diagram --epochs -1", "epochs = -1"),
        ("phase-diagram --batches 0", "batches = 0"),
        ("phase-diagram --snapshots 1", "snapshots = 1"),
        ("phase-diagram --key -1", "key = -1"),
        ("phase-diagram --learning-rate -1,2", "learning_rate = -1.0: expected a finite number above 0"),
        ("phase-diagram --learning-rate 0", "learning_rate = 0.0"),
        ("phase-diagram --learning-rate nan", "learning_rate = nan"),
        ("phase-diagram --learning-rate ,", "--learning-rate: values = ','"),
        ("phase-diagram --learning-rate 1,1", "learning_rate = (1.0, 1.0): expected values that differ"),
        ("phase-diagram --learning-rate 0.1:1:0", "--learning-rate: values = '0.1:1:0'"),
        ("phase-diagram --learning-rate 0.1:-3:4", "--learning-rate: values = '0.1:-3:4'"),
        ("phase-diagram --learning-rate 0.1:0.1:4", "--learning-rate: values = '0.1:0.1:4'"),
        ("phase-diagram --init-width inf", "init_width = inf"),
        ("phase-diagram --batch-size 2.5", "--batch-size: values = 2.5"),
        ("phase-diagram --hidden 0", "--hidden: values = 0"),
        ("phase-diagram --hidden 4,8", "hidden = (4, 8): expected a last layer"),
        ("phase-diagram --activation sigmoid", "activation = 'sigmoid': expected one of tanh, relu, identity"),
        ("report", "run"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(arguments.split(), capsys)
    assert code == 2
    assert out == "" or not arguments  # without a command, the list of them
    assert words in complaint(err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "values"),
    [("0.125:256:12", [2.0**k for k in range(-3, 9)]), ("0.1,0.3", [0.1, 0.3]), ("5", [5.0]), ("2:9:1", [2.0])],
)
def test_grids_in_words(text, values):
    assert grid_values(text) == pytest.approx(values, rel=1e-12)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "done"
    with composed():  # their own tests draw them
        assert main(["phase-diagram", *TINY, "--out", str(out)]) == 0
    return out


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """None but those of `finished`, which a module makes before its tests: drawing them takes longer than the runs."""
    monkeypatch.setattr(phase_figures, "draw", lambda *run: [])


def test_the_overview_needs_no_jax():
    program = "import sys; from dysonjax.cli import main; main(['--help']); print('jax' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "False"
    for name, entry in commands().items():
        assert f"  {name}  " in said.replace("  ", "   ")
        assert not any(line.strip().endswith(entry.value) for line in said.splitlines())  # each has a summary


@pytest.mark.parametrize("name", commands())
def test_every_command_has_help(name, capsys):
    try:
        assert main([name, "--help"]) == 0
    except SystemExit as stop:  # tyro's
        assert not stop.code
    assert f"usage: dysonjax {name}" in capsys.readouterr().out


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch, capfd):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["--help"]) == 1
    assert capfd.readouterr().err == ""


def compute_nothing(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("computed again")

    monkeypatch.setattr(sys.modules["dysonjax.engine.scanning"], "simulate", refuse)


def test_a_run_leaves_everything(finished):
    assert {p.name for p in finished.iterdir()} == {
        "store.zarr",
        "blocks",
        "sessions",
        "run.json",
        "report.txt",
        "figures",
    }
    assert len(list((finished / "figures").glob("*.png"))) == 6
    text = (finished / "report.txt").read_text()
    assert "8 networks" in text
    for phrase in ("ordered", "jammed", "paramagnetic", "T_c levels", "At batch size 4"):
        assert phrase in text


def test_nothing_is_computed_twice(finished, monkeypatch, capsys):
    compute_nothing(monkeypatch)
    first = (finished / "report.txt").read_text()
    for command in (
        ["phase-diagram", *TINY, "--out", finished],
        ["report", finished],
        ["phase-diagram", "--resume", finished],
    ):
        code, out, _ = run(command, capsys)
        assert code == 0
        assert "At batch size 4" in out
        assert (finished / "report.txt").read_text() == first


@pytest.mark.parametrize("form", ["csv", "json", "markdown"])
def test_a_report_for_other_programs(form, finished, capsys):
    """Standard output has the tables and nothing else, and nothing is written."""
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    code, out, err = run(["report", finished, "--format", form], capsys)
    assert code == 0 and "\x1b" not in out
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    wanted = (
        "phase",
        "points",
        "median loss",
        "16 – 84 %",
        "mean square test error",
        "q_time",
        "largest level",
        "diverged",
    )
    if form == "csv":
        first, second = (list(csv.reader(io.StringIO(part))) for part in out.split("\n\n"))
        assert tuple(first[1]) == wanted and len(first) == 2 + 4 and first[0][0].startswith("# Phases after")
        assert len(second) == 2 + 2 and {len(row) for row in second[1:]} == {8}
    elif form == "json":
        first, second = json.loads(out)
        assert tuple(first["columns"]) == wanted and first["title"].startswith("Phases after 2 epochs")
        assert [row[0] for row in second["rows"]] == [0.125, 256]
        assert sum(row[1] for row in first["rows"]) == 4
    else:
        assert "| " + " | ".join(wanted) + " |\n| --- | ---: |" in out
    assert ("At batch size 4" in out) == (form == "markdown")
    assert ("At batch size 4" in err) == (form != "markdown")


def test_no_escape_code_where_none_is_wanted(finished, capsys, monkeypatch):
    """A terminal has bold letters; NO_COLOR, a dumb one and a pipe that is told to have colours have none in files."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run(["report", finished], capsys)[0] == 0
    assert "\x1b" not in (finished / "report.txt").read_text()
    for names, plain in (
        ({"TERM": "xterm"}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True),
        ({"TERM": "dumb"}, True),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sys.stdout, "isatty", lambda: True)
            patch.setenv("COLUMNS", "60")
            for name, value in names.items():
                patch.setenv(name, value)
            out = run(["report", finished], capsys)[1]
        assert ("\x1b" not in out) == plain
        assert "…" not in out


def test_another_run_is_not_mixed_in_but_may_be_replaced(finished, tmp_path, capsys):
    changed = [*TINY, "--key", "1", "--out", tmp_path / "run"]  # the same programs
    shutil.copytree(finished, tmp_path / "run")
    code, _, err = run(["phase-diagram", *changed], capsys)
    assert code == 1
    assert "key = [0, 0] there, [0, 1] asked for" in complaint(err)
    assert_same(store.load(tmp_path / "run").dataset(), store.load(finished).dataset())
    assert run(["phase-diagram", *changed, "--overwrite"], capsys)[0] == 0
    replaced = store.load(tmp_path / "run").dataset()
    assert not np.array_equal(replaced.train_loss, store.load(finished).dataset().train_loss)


@pytest.mark.parametrize(
    "command", ["report", "phase-diagram --resume", "phase-diagram --overwrite --out", "phase-diagram --out"]
)
def test_a_foreign_folder_is_left_alone(command, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("all of it")
    code, _, err = run([*command.split(), tmp_path], capsys)
    assert code == 1
    assert str(tmp_path) in complaint(err)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_resume_takes_no_other_settings(finished, capsys):
    code, _, err = run(["phase-diagram", "--resume", finished, "--seeds", "3"], capsys)
    assert code == 2
    assert "--seeds" in complaint(err)
    code, _, err = run(["gas", "--resume", finished], capsys)
    assert code == 2
    assert "expected a run of dysonjax gas, this is one of phase-diagram" in complaint(err)


def test_an_interrupted_run_is_continued(finished, tmp_path, monkeypatch, capsys):
    """Ctrl-C after the first of two blocks: 130 and what to do next; resuming gives the same numbers."""
    monkeypatch.setattr("dysonjax.engine.planning.plan", lambda *arguments: 4)
    out, write, written = tmp_path / "run", store.Store.write, []

    def one_block(self, *arguments):
        if written:
            raise KeyboardInterrupt
        written.append(arguments)
        write(self, *arguments)

    monkeypatch.setattr(store.Store, "write", one_block)
    code, _, err = run(["phase-diagram", *TINY, "--out", out], capsys)
    assert code == 130
    assert f"--resume {out}" in complaint(err)
    code, _, err = run(["report", out], capsys)
    assert code == 1
    assert "1 blocks are not finished" in complaint(err)
    monkeypatch.setattr(store.Store, "write", write)
    assert run(["phase-diagram", "--resume", out], capsys)[0] == 0
    assert_same(store.load(out).dataset(), store.load(finished).dataset())
    assert np.isfinite(store.load(out).dataset().train_loss).all()
