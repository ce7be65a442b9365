"""Experiments of other packages: one file and an entry point give a command with all that the others have."""

import json
import sys

import numpy as np
import pytest
import zarr

import dysonjax as dj
from dysonjax.cli.app import main
from dysonjax.engine.scanning import ScanJob
from dysonjax.experiments import running

TOY = '''
"""A toy of another package."""

from dataclasses import dataclass

import dysonjax as dj
from dysonjax.experiments import Experiment, Report, ScanJob


@dataclass(frozen=True)
class Toy(Experiment):
    """Levels of a small gas, and how large they are."""

    kind = "toy"

    levels: int = 2
    """number of levels"""
    temperature: tuple[float, ...] = (0.1, 1.0)
    """temperatures T"""
    seeds: int = 16
    """independent gases"""

    def scan(self, name, temperature):
        grid = dj.Grid(temperature=temperature, dt=[0.1], seed=range(self.seeds))
        return ScanJob(dj.dyson(self.levels, scheme="pairwise_kick"), grid, 10, snapshots=[10], name=name)

    def jobs(self, results):
        return [self.scan("", self.temperature)]

    def analyse(self, results):
        return float(results.only.levels.isel(snapshot=-1).max())

    def report(self, analysis):
        return Report([f"The largest level is {analysis:.3g}."], draw=lambda place: [figure(analysis, place)])


def figure(value, place):
    from matplotlib.figure import Figure

    made = Figure()
    made.subplots().plot([0, value])
    place.mkdir(parents=True, exist_ok=True)
    made.savefig(place / "toy.png")
    return place / "toy.png"


class Rounds(Toy):
    """Two rounds: the second one is as hot as the first one's largest level."""

    kind = "rounds"

    def jobs(self, results):
        first = self.scan("first", self.temperature)
        if "first" not in results:
            return [first]
        return [first, self.scan("second", [float(results["first"].levels.isel(snapshot=-1).max())])]

    def analyse(self, results):
        return float(results["second"].levels.isel(snapshot=-1).max())
'''


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """A folder like site-packages with the toy's package and its metadata."""
    site = tmp_path / "site"
    metadata = site / "toy_package-0.1.dist-info"
    metadata.mkdir(parents=True)
    (site / "toy_package.py").write_text(TOY)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text(
        "[dysonjax.experiments]\ntoy = toy_package:Toy\nrounds = toy_package:Rounds\n"
    )
    monkeypatch.syspath_prepend(site)


@pytest.fixture
def run(capsys):
    """What a command says."""

    def run(*words, code=0):
        found = main([str(word) for word in words])
        said = capsys.readouterr()
        assert found == code, said.err
        return said.out + said.err

    return run


def test_a_toy_has_its_command(run, tmp_path, capsys):
    assert "toy            Levels of a small gas, and how large they are." in run("--help")
    assert "toy_package" not in sys.modules  # only the command that is asked for is loaded
    with pytest.raises(SystemExit):
        main(["toy", "--help"])
    told = capsys.readouterr().out
    for words in ("number of levels (default: 2)", "--temperature VALUES", "--resume", "--shard", "--dry-run"):
        assert words in told
    out = tmp_path / "run"
    assert "32" in run("toy", "--dry-run", "--out", out)
    assert not out.exists()
    assert "Shard 0/2 is finished" in run("toy", "--out", out, "--block-size", 16, "--shard", "0/2")
    assert "continue with dysonjax toy --resume" in run("report", out, code=1)
    assert "The largest level is" in run("toy", "--resume", out)
    assert {p.name for p in out.iterdir()} >= {"run.json", "store.zarr", "report.txt", "figures"}
    assert json.loads((out / "run.json").read_text())["kind"] == "toy"
    assert (out / "report.txt").read_text() in run("report", out)
    assert (out / "figures" / "toy.png").stat().st_size > 1000


def test_a_run_in_rounds_decides_as_if_it_had_not_been_stopped(run, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    said = run("rounds", "--out", whole)
    compute = ScanJob.run

    def stopped(job, *given):
        if job.name == "second":
            raise KeyboardInterrupt
        return compute(job, *given)

    monkeypatch.setattr(ScanJob, "run", stopped)
    assert f"continue with dysonjax rounds --resume {parts}" in run("rounds", "--out", parts, code=130)
    assert (parts / "first").is_dir() and not (parts / "second").exists()
    monkeypatch.setattr(ScanJob, "run", compute)
    assert run("rounds", "--resume", parts).splitlines()[0] == said.splitlines()[0]
    one, two = (zarr.open_group(place / "second" / "store.zarr", mode="r") for place in (whole, parts))
    np.testing.assert_array_equal(np.asarray(one["levels"]), np.asarray(two["levels"]))
    assert (whole / "report.txt").read_text() == (parts / "report.txt").read_text()


def test_two_jobs_of_one_name_are_refused():
    job = ScanJob(dj.dyson(2), dj.Grid(temperature=[1.0], dt=[0.1]), 2, name="same")
    with pytest.raises(dj.InputError, match=r"jobs = \['same'\]: expected a name for each"):
        running.fresh([job, job], dj.experiments.Results())
