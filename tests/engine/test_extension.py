"""`Points` beside a `Grid`, and runs that get more points: the same numbers as one that had all from the start."""

import dataclasses
import functools
import importlib
import json

import numpy as np
import pytest
from conftest import assert_same, ornstein_uhlenbeck

import dysonjax as dj
from dysonjax.cli.app import main
from dysonjax.engine.scanning import ScanJob
from dysonjax.experiments import running
from dysonjax.experiments.linear_scaling.experiment import TeacherStudentScaling
from dysonjax.runtime.team import Share
from dysonjax.storage.extensions import load_all
from dysonjax.storage.merging import merge

OU = ornstein_uhlenbeck()
AXES = {"learning_rate": [0.3], "batch_size": [1, 2], "temperature": [0.5, 2.0], "seed": range(5)}


def run(points, out=None, **options):
    return dj.scan(OU, points, 12, out=out, **{"snapshots": [7], "block_size": 8, "key": 5, **options})


@functools.cache
def of_seeds(count, temperatures=(0.5, 2.0)):
    """The run with this number of seeds, computed once for all tests."""
    return run(dj.Grid(**{**AXES, "seed": range(count), "temperature": list(temperatures)}))


def same_points(grid, points):
    """A dataset of points beside one of a grid that has them all."""
    for i in range(points.sizes["point"]):
        one = points.isel(point=i)
        at = grid.sel({name: one[name].item() for name in grid.diverged_step.dims})
        for name in ("levels", "x", "diverged_step"):
            np.testing.assert_array_equal(at[name].values, one[name].values, err_msg=name)


ROWS = {"learning_rate": 0.3, "batch_size": [2, 1, 2, 2], "temperature": [2.0, 0.5, 0.5, 2.0], "seed": [4, 1, 0, 3]}


@pytest.mark.parametrize("paired", [False, True])
def test_points_equal_those_of_a_grid(tmp_path, paired):
    points = run(dj.Points(**ROWS), tmp_path / "run", paired=paired)
    assert points.levels.dims[0] == "point"
    assert points.temperature.values.tolist() == ROWS["temperature"]
    same_points(run(dj.Grid(**AXES), paired=True) if paired else of_seeds(5), points)
    assert_same(points, run(dj.Points(**ROWS), tmp_path / "run", paired=paired))


def test_what_fills_up_a_short_bucket_is_not_computed(tmp_path, monkeypatch):
    """Buckets of three, one and no replica in their blocks of two."""
    module = importlib.import_module("dysonjax.engine.scanning")  # `dysonjax.scan` is the function
    simulate, done = module.simulate, []
    monkeypatch.setattr(
        module, "simulate", lambda d, keys, *a, **o: (done.append(len(keys)), simulate(d, keys, *a, **o))[1]
    )
    points = run(dj.Points(**ROWS), tmp_path / "run", block_size=2)
    assert done == [2, 1, 1]
    assert not load_all(tmp_path / "run")[0].pending()
    same_points(of_seeds(5), points)


def test_points_are_reported(tmp_path, capsys):
    run(dj.Points(**ROWS), tmp_path / "run")
    assert main(["report", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "Ornstein–Uhlenbeck toy: 12 updates, 4 replicas, " in said
    assert "temperature 0.5 … 2 (2 values)" in said
    assert "its seed" in said
    assert {p.name for p in (tmp_path / "run" / "figures").iterdir()} >= {
        "flow_levels.png",
        "largest_of_levels_over_grid.png",
    }


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"learning_rate": [0.1, 0.2], "seed": [1, 2, 3]}, "learning_rate = (0.1, 0.2): expected one value, or 3"),
        ({"learning_rate": [0.1, 0.1], "seed": [1, 1]}, "points = learning_rate=0.1, seed=1: expected replicas that"),
        ({"learning_rate": []}, "learning_rate = []: expected at least one value"),
        ({"learning_rate": [np.nan]}, "learning_rate = nan: expected a finite number"),
    ],
)
def test_bad_points_are_one_line(columns, words):
    with pytest.raises(dj.InputError) as caught:
        dj.Points(**columns)
    assert words in str(caught.value)


MORE = [
    {**AXES, "seed": range(9)},
    {**AXES, "temperature": [0.25, 0.5, 2.0]},
    {**AXES, "batch_size": [1, 2, 3], "temperature": [0.5, 1.0, 2.0], "seed": range(7)},
    {**AXES, "learning_rate": [1.0, 0.3]},
]


@pytest.mark.parametrize("axes", MORE, ids=lambda axes: "-".join(f"{n}{len(v)}" for n, v in axes.items()))
def test_an_extended_run_is_the_run_that_had_all(tmp_path, axes, monkeypatch):
    run(dj.Grid(**AXES), tmp_path / "run")
    kept = {p: p.read_bytes() for p in (tmp_path / "run" / "store.zarr").rglob("*") if p.is_file()}
    larger = dj.Grid(**axes)
    with pytest.raises(dj.StoreError, match=r"holds another run \(grid\..* extend=True adds points"):
        run(larger, tmp_path / "run")
    whole = run(larger)
    extended = run(larger, tmp_path / "run", extend=True)
    assert_same(whole, extended)
    assert json.loads(extended.attrs["experiment"]) == json.loads(whole.attrs["experiment"])
    assert kept == {p: p.read_bytes() for p in kept}
    assert_same(whole, run(larger, tmp_path / "run"))  # finished: nothing is computed again
    assert_same(whole, running.load(tmp_path / "run")[1].only)
    with pytest.raises(dj.StoreError, match="expected all points that it holds, and more"):
        run(dj.Grid(**AXES), tmp_path / "run", extend=True)
    first, *added = load_all(tmp_path / "run")
    new = sum(np.count_nonzero(np.array(one.header.rows) >= 0) for one in added)
    assert new == larger.size - int(np.prod(first.header.bucket_shape))


def test_an_extension_is_continued_shared_extended_and_merged(tmp_path):
    larger, largest = (
        dj.Grid(**{**AXES, "seed": range(9)}),
        dj.Grid(**{**AXES, "seed": range(9), "temperature": [2, 3, 0.5]}),
    )
    run(dj.Grid(**AXES), tmp_path / "one")
    part = run(larger, tmp_path / "one", extend=True, share=Share(0, 2))
    missing = part.diverged_step == -2
    assert 0 < int(missing.sum()) < 16
    assert_same(of_seeds(9), run(larger, tmp_path / "one"))
    whole = of_seeds(9, (2, 3, 0.5))
    assert_same(whole, run(largest, tmp_path / "one", extend=True))
    assert len(load_all(tmp_path / "one")) == 3
    merge(tmp_path / "all", [tmp_path / "one"])
    assert_same(whole, run(largest, tmp_path / "all"))


def test_two_versions_of_the_numbers_are_read_but_never_mixed(tmp_path):
    """A dynamics whose `numerics` is 2, and one from before there was such a number."""
    newer = dataclasses.replace(OU, config={**OU.config, "numerics": 2})
    more = dj.Grid(**{**AXES, "seed": range(9)})

    def go(dynamics, place, points=dj.Grid(**AXES), **options):  # noqa: B008 - never changed
        options = {"snapshots": [7], "block_size": 8, "key": 5, **options}
        return dj.scan(dynamics, points, 12, out=tmp_path / place, **options)

    for i, dynamics in enumerate((OU, newer)):
        go(dynamics, f"part-{i}", share=Share(i, 2))
        go(dynamics, f"whole-{i}")
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for there, dynamics, words in ((0, newer, "1 there, 2 asked for"), (1, OU, "2 there, 1 asked for")):
        for place, points, options in (("part", dj.Grid(**AXES), {}), ("whole", more, {"extend": True})):
            with pytest.raises(dj.StoreError, match=f"numerics = {words}: another version computes other numbers"):
                go(dynamics, f"{place}-{there}", points, **options)
    with pytest.raises(dj.StoreError, match="numerics = 1 there, 2 here"):
        merge(tmp_path / "merged", [tmp_path / "part-0", tmp_path / "part-1"])
    assert files == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    same = dataclasses.replace(OU, config={**OU.config, "numerics": 1})  # as if there were none
    go(same, "whole-0", more, extend=True)
    for i in range(2):
        said = running.report(tmp_path / f"whole-{i}").said
        assert "Ornstein–Uhlenbeck toy: 12 updates" in said[0]


def test_two_extensions_that_do_not_know_of_each_other(tmp_path):
    run(dj.Grid(**AXES), tmp_path / "run")
    extensions = []
    for axes in MORE[:2]:
        run(dj.Grid(**axes), tmp_path / "run", extend=True)
        (made,) = (tmp_path / "run").glob("store-*.zarr")
        extensions.append(made.rename(tmp_path / made.name))
    for made in extensions:
        made.rename(tmp_path / "run" / made.name)
    with pytest.raises(dj.StoreError, match="do not know of each other"):
        run(dj.Grid(**MORE[0]), tmp_path / "run")


def test_an_interrupted_extension_of_several_scans_is_continued(tmp_path, monkeypatch):
    """Killed before its second scan was begun: the run counts as unfinished, and --resume goes on."""
    settings = TeacherStudentScaling((0.1, 0.2), (4,), level=("dyson",), seeds=6, time=1.0)
    larger = dataclasses.replace(settings, seeds=9)
    running.run(settings, tmp_path / "run")
    second = (tmp_path / "run" / "dyson-0.2").rename(tmp_path / "second")
    with pytest.raises(
        dj.StoreError, match=r"1 blocks are not finished of 2: dyson-0\.2:all; continue with dysonjax s"
    ):
        running.load(tmp_path / "run")
    second.rename(tmp_path / "run" / "dyson-0.2")
    go = ScanJob.run

    def stop(self, *arguments, **options):
        if done:
            raise KeyboardInterrupt
        done.append(self.name)
        return go(self, *arguments, **options)

    done: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(ScanJob, "run", stop)
        with pytest.raises(KeyboardInterrupt):
            running.run(larger, tmp_path / "run", extend=True)
    with pytest.raises(dj.StoreError, match=r"1 blocks are not .*-0\.2:3 added replicas; continue with dysonjax s"):
        running.load(tmp_path / "run")
    again = running.experiment_of(tmp_path / "run")
    assert again == larger
    with pytest.raises(dj.StoreError, match=r"holds dyson-0\.1, too; expected an extension that keeps all scans"):
        running.run(dataclasses.replace(larger, learning_rate=(0.2,)), tmp_path / "run", extend=True)
    found, whole = running.run(again, tmp_path / "run"), running.run(larger)
    assert [*found] == [*whole]
    for name in whole:
        assert_same(whole[name], found[name])
        assert_same(whole[name], running.load(tmp_path / "run")[1][name])


GAS = ["gas", "--levels", "2", "--temperature", "0.1,1", "--steps", "20", "--snapshots", "2"]


def test_the_command_line_extends_a_run(tmp_path, capsys, monkeypatch):
    """Few gases, which one program serves whether there are four, two more or six at each temperature."""
    monkeypatch.setattr("dysonjax.experiments.gas.statistics.statistics", lambda run, ds: [])  # they have own tests
    for name in ("gas_table", "gas_advice", "draw"):
        monkeypatch.setattr(f"dysonjax.experiments.gas.figures.{name}", lambda *arguments: [])
    assert main([*GAS, "--seeds", "4", "--out", str(tmp_path / "run")]) == 0
    first = (tmp_path / "run" / "run.json").read_text()
    assert main(["gas", "--extend", str(tmp_path / "run"), "--seeds", "6"]) == 0
    assert main([*GAS, "--seeds", "6", "--out", str(tmp_path / "whole")]) == 0
    assert (tmp_path / "run" / "run.json").read_text() == first
    (added,) = (tmp_path / "run" / "extensions").iterdir()
    assert json.loads(added.read_text())["settings"]["seeds"] == 6
    one, other = (running.load(tmp_path / name)[1].only for name in ("run", "whole"))
    assert_same(one, other, ["levels", "diverged_step"])
    merge(tmp_path / "merged", [tmp_path / "run"])
    assert running.load(tmp_path / "merged")[0].seeds == 6  # type: ignore[attr-defined]
    capsys.readouterr()
    assert main([*GAS, "--seeds", "8", "--out", str(tmp_path / "run")]) == 1  # only --extend extends
    assert main([*GAS, "--seeds", "8", "--out", str(tmp_path / "run"), "--dry-run"]) == 1
    assert capsys.readouterr().err.count("holds another run (") == 2
    assert main(["gas", "--extend", str(tmp_path / "run"), "--seeds", "8", "--dry-run"]) == 0
    assert "1 left of" in " ".join(capsys.readouterr().out.split())
    assert main(["report", str(tmp_path / "run")]) == 0
    assert main(["gas", "--resume", str(tmp_path / "run")]) == 0
    assert main(["gas", "--extend", str(tmp_path / "run"), "--steps", "30"]) == 1
    assert "holds another run (gas.steps = 20 there, 30 asked for)" in capsys.readouterr().err
    assert main(["gas", "--extend", str(tmp_path / "nowhere"), "--seeds", "6"]) == 1
    assert main(["bbp", "--extend", str(tmp_path / "run")]) == 2
