"""What `dysonjax report` says of a user's own scan: every point's values with errors, flows and maps."""

import numpy as np
import pytest
from conftest import POSITION, ornstein_uhlenbeck
from matplotlib.figure import Figure
from rich.console import Console

import dysonjax as dj
from dysonjax import observables as ob
from dysonjax.cli.app import main
from dysonjax.experiments import running
from dysonjax.experiments.own_scan import figures

OU = ornstein_uhlenbeck()
FIRST = ob.snapshot("first", lambda spectra, x, hyper: x[0])


def scan(out=None, **axes):
    axes = {"learning_rate": [0.1, 0.2], "temperature": [0.5, 1.0, 2.0], "seed": range(6), **axes}
    return dj.scan(OU, dj.Grid(**axes), 4, snapshots=[2, 4], observables=(FIRST, POSITION), out=out, progress=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("own") / "run"
    return place, scan(place)


def test_it_is_read_back_as_the_experiment_of_kind_scan(run):
    place, ds = run
    experiment, results = running.load(place)
    assert experiment.kind == "scan"
    np.testing.assert_array_equal(results.only.levels, ds.levels)
    with pytest.raises(dj.InputError, match="continue this one with its dysonjax"):
        running.run(experiment)


def test_the_command_reports_it(run, capsys):
    place, _ = run
    assert main(["report", str(place)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "4 updates, 6 seeds, learning rate 0.1 … 0.2 (2 values), temperature 0.5 … 2 (3 values)" in said
    names = {p.name for p in (place / "figures").iterdir()}
    assert names == {"flow_levels.png", "first_over_grid.png", "largest_of_levels_over_grid.png"}
    assert main(["scan", "--out", "x"]) == 2  # no command makes one


def test_the_table_has_every_points_mean_and_error(run):
    _, ds = run
    console = Console(width=200)
    with console.capture() as text:
        console.print(figures.table(ds))
    rows = [line for line in text.get().splitlines() if "of 6" in line]
    assert len(rows) == 6
    first = ds.first.isel(snapshot=-1, learning_rate=0, temperature=0).values.ravel().astype(float)
    assert str(dj.spectra.estimate(first)) in rows[0]


@pytest.mark.parametrize("axes", [{}, {"learning_rate": [0.1]}, {"learning_rate": [0.1], "temperature": [1.0]}])
def test_figures_of_two_axes_one_and_none(axes, tmp_path, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: path.touch())
    ds = scan(**axes)
    ds["diverged_step"] = ds.diverged_step.where(ds.temperature < 2, 3)  # a column without a finite seed
    drawn = figures.draw(ds, tmp_path)
    assert len(drawn) == (1 if len(axes) == 2 else 3)


def test_a_map_has_the_means_at_their_places(run):
    _, ds = run
    (ax,) = [a for a in figures.over_grid(ds, "first").axes if a.get_ylabel() == "temperature"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning rate", "temperature")
    shown = ax.collections[0].get_array()
    wanted = ds.first.isel(snapshot=-1).mean("seed").transpose("temperature", "learning_rate")
    assert shown is not None
    np.testing.assert_allclose(shown, wanted, rtol=1e-6)
