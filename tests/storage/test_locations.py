"""Runs at URLs: in fsspec's memory as on object storage, and in local directories given as URLs."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import assert_same, ornstein_uhlenbeck
from upath import UPath

import dysonjax as dj
from dysonjax.cli.app import main
from dysonjax.experiments import running
from dysonjax.experiments.linear_scaling.experiment import TeacherStudentScaling
from dysonjax.runtime.team import Share
from dysonjax.storage import store
from dysonjax.storage.locations import is_remote, place
from dysonjax.storage.merging import merge

OU = ornstein_uhlenbeck()
AXES = {"temperature": [0.5, 2.0], "batch_size": [1, 2], "learning_rate": [0.3, 0.05], "seed": range(10)}


def run(out=None, **options):
    options = {"snapshots": [7], "block_size": 16, "key": 5, "steps": 12, **options}
    return dj.scan(OU, dj.Grid(**AXES), options.pop("steps"), out=out, **options)


@pytest.fixture
def url(request):
    """A bucket of its own."""
    found = f"memory://bucket-{abs(hash(request.node.name))}/run"
    yield found
    fs = UPath(found).fs
    if fs.exists(UPath(found).parent.path):
        fs.rm(UPath(found).parent.path, recursive=True)


def test_places():
    assert place("runs/a") == Path("runs/a") == place(Path("runs/a"))
    assert place("file:///data/a") == place("local:///data/a") == Path("/data/a")
    assert not is_remote(place("file:///data/a"))
    bucket = place("memory://bucket/a")
    assert is_remote(bucket)
    assert str(bucket / "b") == "memory://bucket/a/b"
    assert place(bucket) is bucket
    with pytest.raises(dj.InputError, match="out = 'nowhere://a': expected a URL that fsspec can open"):
        place("nowhere://a")


def test_without_the_extra_a_url_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(dj.InputError, match=r"out = 's3://bucket/run': .* pip install 'dysonjax\[s3\]'"):
        place("s3://bucket/run")


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="s3fs is installed")
def test_a_file_system_that_is_not_installed_is_named():
    with pytest.raises(dj.InputError, match="s3fs"):
        place("s3://bucket/run")


def test_a_run_at_a_url_is_the_same(url):
    whole = run()
    assert_same(whole, run(url))
    assert_same(whole, store.load(url).dataset())
    assert_same(whole.isel(snapshot=-1), store.load(url).dataset(lazy=True).isel(snapshot=-1).load())
    assert not store.load(url).pending()
    assert {p.name for p in UPath(url).iterdir()} == {"store.zarr", "blocks", "sessions", "run.json"}


def test_it_is_continued_shared_and_merged(url):
    whole = run()
    for i in (1, 0):
        part = run(url + "/one", share=Share(i, 3))
    there = part.diverged_step != -2
    assert_same(whole.where(there), part.where(there), ["x", "levels"])
    assert running.unfinished(url + "/one")[0] == ["2", "5"]
    run(url + "/two", share=Share(2, 3))
    merge(url + "/all", [url + "/one", url + "/two"])
    assert_same(whole, store.load(url + "/all").dataset())
    assert_same(whole, run(url + "/one"))


def test_what_a_kill_during_creation_leaves_is_completed(url, monkeypatch):
    """A store without a format, written last, is one that somebody was making."""
    with monkeypatch.context() as patch:
        patch.setattr(
            "zarr.core.attributes.Attributes.put", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            run(url)
    with pytest.raises(dj.StoreError, match="expected the directory of a dysonjax run"):
        store.load(url)
    assert_same(run(), run(url))


def test_two_that_start_at_the_same_moment_make_one_store(url, monkeypatch):
    """Two tasks of a job array: while one makes the first array, the other makes them all and finishes its blocks."""
    whole, create, made = run(), zarr.Group.create_array, []

    def interrupted(group, name, **layout):
        if not made:
            made.append(name)
            run(url, share=Share(0, 2))
        return create(group, name, **layout)

    monkeypatch.setattr(zarr.Group, "create_array", interrupted)
    assert_same(whole, run(url, share=Share(1, 2)))


def test_other_things_there_are_left_alone(url):
    run(url)
    with pytest.raises(dj.StoreError, match="steps = 12 there, 13 asked for"):
        run(url, steps=13)
    thesis = UPath(url) / "elsewhere" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("all of it")
    with pytest.raises(dj.StoreError, match=r"'thesis\.tex'"):
        run(url + "/elsewhere")
    assert thesis.read_text() == "all of it"


def test_damaged_metadata_are_made_anew(url):
    whole = run(url)
    (UPath(url) / "store.zarr" / "x" / "zarr.json").write_text("{")
    assert "made anew" in " ".join(dj.verify(url, OU, repair=True).said)
    assert not dj.verify(url).damage
    assert_same(whole, dj.open(url))


def test_a_write_that_fails_is_one_line(url, monkeypatch):
    write, done = store.Store.write, []

    def full(self, *block):
        done.append(block)
        if len(done) == 3:
            patch.setattr("zarr.storage.FsspecStore.set", refuse)
        write(self, *block)

    async def refuse(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "write", full)
        with pytest.raises(dj.StoreError, match="No space left on device"):
            run(url)
    assert len(store.load(url).pending()) == 4
    assert_same(run(), run(url))


def test_the_command_line_takes_urls(url, capsys, monkeypatch):
    def draw(experiment, ds, found, directory):
        path = directory / "levels.png"
        path.write_bytes(b"figure")
        return [path]

    monkeypatch.setattr("dysonjax.experiments.gas.figures.draw", draw)
    options = ["gas", "--levels", "2", "--temperature", "1", "--seeds", "40", "--steps", "20", "--snapshots", "2"]
    assert main([*options, "--out", url]) == 0
    assert (UPath(url) / "figures" / "levels.png").read_bytes() == b"figure"
    assert "2 levels" in (UPath(url) / "report.txt").read_text()
    assert main(["report", url]) == 0
    assert main([*options[:-1], "3", "--out", url]) == 1
    assert main([*options[:-1], "3", "--out", url, "--overwrite"]) == 0
    assert main([*options, "--out", "nowhere://a"]) == 2
    assert "fsspec can open" in capsys.readouterr().err


def test_several_scans_at_a_url(url):
    settings = TeacherStudentScaling((0.1,), (4,), level=("dyson",), seeds=20, time=1.0)
    found = running.run(settings, url)
    assert np.isfinite(next(iter(found.values())).levels).all()
    for key, ds in running.load(url)[1].items():
        assert_same(found[key], ds)
    assert "upath" in sys.modules
