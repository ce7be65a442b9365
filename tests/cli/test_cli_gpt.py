"""`dysonjax gpt`: a tiny network to its report, shown again, replaced, and bad input refused in one line."""

import pytest

from dysonjax.cli import runs
from dysonjax.cli.app import main
from dysonjax.engine.jobs import Results
from dysonjax.experiments import recipes, running
from dysonjax.experiments.gpt import experiment
from dysonjax.experiments.gpt import summary as nano_gpt
from dysonjax.experiments.gpt.experiment import GPTRun
from dysonjax.experiments.gpt.grid import GPTScalingRun
from tests.drawing import drawn_once
from tests.experiments.test_gpt_spectra import surface

POEM = "The rain in Spain stays mainly in the plain. In Hertford, Hereford and Hampshire hurricanes hardly happen.\n"
SIZES = ["--layers", "1", "--heads", "2", "--channels", "24", "--context", "8", "--batch-size", "4"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(nano_gpt, "REFERENCES", 40)
    monkeypatch.setattr(experiment, "SAMPLE", 60)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    place = tmp_path_factory.mktemp("text") / "rain.txt"
    place.write_text(POEM * 12)
    return place


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("gpt") / "run"
    assert (
        main(["gpt", "--text", str(text), *SIZES, "--steps", "20", "--validation-every", "10", "--out", str(out)]) == 0
    )
    return out


def test_a_run_leaves_weights_tables_and_figures(finished, capsys):
    names = {p.name for p in finished.iterdir()}
    assert names == {"checkpoints", "figures", "final.npz", "run.json", "initial.npz", "report.txt", "results.zarr"}
    said = (finished / "report.txt").read_text()
    assert "Loss in nats a character" in said
    assert "2 heads 24×12" in said
    assert "A sample at temperature 0.8" in said
    assert len(list((finished / "figures").glob("*.png"))) == 5
    assert main(["report", str(finished)]) == 0
    assert "all validation text" in capsys.readouterr().out
    pair = [str(finished / "initial.npz"), str(finished / "final.npz")]
    assert main(["analyze", *pair, "--pattern", "*key*"]) == 0
    assert "layer0/key/kernel" in capsys.readouterr().out


def test_another_run_is_refused_or_replaced(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "report", lambda place: None)
    out = tmp_path / "run"
    again = ["gpt", "--text", str(text), *SIZES, "--out", str(out)]
    assert main([*again, "--steps", "1"]) == 0
    assert main([*again, "--steps", "2"]) == 1
    assert "holds another run (steps = 1 there, 2 asked for)" in capsys.readouterr().err
    assert main([*again, "--steps", "2", "--overwrite"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert main([*again[:-1], str(tmp_path / "mine"), "--overwrite"]) == 1
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_reproduce_p2_runs_network_and_grid(text, tmp_path, monkeypatch, capsys):
    """What either computes has its own tests."""
    grid = GPTScalingRun("adamw", text=str(text), channels=4)
    monkeypatch.setattr(recipes, "_second", lambda full: {"gpt": GPTRun(str(text)), "grid": grid})
    asked, compute = [], running.run
    monkeypatch.setattr(running, "run", lambda experiment, out, **options: asked.append((experiment, out)))
    monkeypatch.setattr(runs, "report", lambda place: None)
    assert main(["reproduce", "p2", "--out", str(tmp_path / "p2")]) == 0
    assert asked == [(GPTRun(str(text)), tmp_path / "p2" / "gpt"), (grid, tmp_path / "p2" / "grid")]
    assert capsys.readouterr().out.count("arXiv:2411.13512") == 2
    assert compute is not running.run


def test_a_grid_has_a_table_and_maps(text, tmp_path, monkeypatch, capsys):
    grid = GPTScalingRun("adamw", text=str(text), channels=4)
    monkeypatch.setattr(GPTScalingRun, "joined", lambda self, results: surface(0.5))
    monkeypatch.setattr(running, "load", lambda out: (grid, Results(out)))
    with drawn_once():
        assert main(["report", str(tmp_path)]) == 0
    assert "p, all α" in capsys.readouterr().out
    assert len(list((tmp_path / "figures").glob("exchange_*.png"))) == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--text", "no-such-file.txt"], "text = 'no-such-file.txt': expected a file of text, or 'shakespeare'"),
        (["--heads", "3"], "channels = 128: expected a multiple of heads = 3"),
        (["--every", "often"], "--every"),
        (["--every", "0"], "every = 0: expected"),
        (["--optimizer", "lion"], "invalid choice 'lion'"),
        (["--learning-rate", "-1"], "learning_rate = -1.0: expected a positive number"),
    ],
)
def test_bad_input_is_one_line(args, message, capsys, tmp_path):
    assert main(["gpt", *args, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_text_too_short_and_a_pattern_without_a_match(text, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert main(["gpt", "--text", str(text), "--context", "500", *out]) == 2
    assert "expected more than the context of 500 in both" in capsys.readouterr().err
    assert main(["gpt", "--text", str(text), *SIZES, "--watch", "*keys*", *out]) == 2
    error = capsys.readouterr().err
    assert "pattern = '*keys*': expected to match the name of a matrix" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
