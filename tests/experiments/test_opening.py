"""`dysonjax.open` and `verify`, and a run's directory as other programs see it."""

import dataclasses
import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import assert_same, ornstein_uhlenbeck

import dysonjax as dj
from dysonjax.cli.app import main
from dysonjax.engine import verifying
from dysonjax.engine.jobs import Results
from dysonjax.engine.scanning import ScanJob
from dysonjax.experiments import reading, running
from dysonjax.experiments.gas.experiment import GasRun
from dysonjax.runtime.team import Share
from dysonjax.storage import blocks, store

OU = ornstein_uhlenbeck()
AXES = {"temperature": [0.5, 2.0, 1.0], "batch_size": [1, 2], "learning_rate": [0.1], "seed": range(16)}
GAS = GasRun(levels=2, temperature=(0.1, 1.0), seeds=8, steps=20, dt=0.02, snapshots=3)


@dataclasses.dataclass(frozen=True)
class Two:
    """An experiment of two scans."""

    kind = "two"
    rates: tuple[float, ...] = (0.1, 0.2)

    def jobs(self, results):
        grids = [dj.Grid(**AXES | {"learning_rate": [rate]}) for rate in self.rates]
        return [ScanJob(OU, grid, 100, 5, None, [10], name=n) for grid, n in zip(grids, ("slow", "fast"), strict=True)]


def run(out=None, grid=None, **options):
    options = {"snapshots": [10], "block_size": 8, "key": 5, **options}
    return dj.scan(OU, dj.Grid(**AXES) if grid is None else grid, 100, out=out, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "run"
    return out, run(out)


@pytest.fixture(scope="module")
def gas(tmp_path_factory):
    out = tmp_path_factory.mktemp("gas") / "run"
    return out, running.run(GAS, out, block_size=4).only


def test_a_run_opens_lazily_as_the_dataset_that_its_scan_gave(made):
    out, ds = made
    found = dj.open(out)
    assert not found.levels.variable._in_memory
    assert found.levels.encoding["preferred_chunks"] == {
        "temperature": 1,
        "batch_size": 1,
        "learning_rate": 1,
        "seed": 8,
    }
    assert (found.attrs["kind"], json.loads(found.attrs["settings"])) == ("scan", {})
    assert_same(ds, found)
    assert_same(found, dj.open(str(out)))


def test_a_run_of_several_jobs_opens_as_a_tree_and_what_was_not_begun_is_named(made, tmp_path, monkeypatch, caplog):
    experiment = Two()
    monkeypatch.setattr(reading, "experiment_of", lambda place: experiment)
    for job in experiment.jobs(Results()):
        job.run(tmp_path / "run" / job.name)
    tree = dj.open(tmp_path / "run")
    assert [node.path for node in tree.leaves] == ["/slow", "/fast"]
    assert (tree.attrs["kind"], json.loads(tree.attrs["settings"])) == ("two", {"rates": [0.1, 0.2]})
    assert_same(made[1], tree["slow"].to_dataset(), ["levels", "x"])
    assert not np.array_equal(tree["fast"].levels, tree["slow"].levels)
    shutil.rmtree(tmp_path / "run" / "slow")
    with caplog.at_level(logging.WARNING):
        assert [node.path for node in dj.open(tmp_path / "run").leaves] == ["/fast"]
    assert "slow was not begun" in caplog.text


def test_parts_open_as_one_run_and_what_no_part_has_is_nan(made, tmp_path):
    _, whole = made
    for i in range(2):
        run(tmp_path / f"part-{i}", share=Share(i, 3))
    part = dj.open([tmp_path / "part-0", tmp_path / "part-1"])
    there = part.diverged_step != -2
    assert 0 < int((~there).sum()) < there.size
    assert_same(whole.where(there), part.where(there), ["levels", "x"])
    run(tmp_path / "another", share=Share(2, 3), key=6)
    with pytest.raises(dj.StoreError, match=r"another: another run than .*part-0 \(key"):
        dj.open([tmp_path / "part-0", tmp_path / "another"])


def test_points_open_as_points_and_extensions_as_one_table(tmp_path):
    points = dj.Points(temperature=[0.5, 2.0, 1.0], batch_size=[1, 2, 1], learning_rate=[0.1] * 3, seed=[0, 3, 1])
    ds = run(tmp_path / "points", points)
    assert dj.open(tmp_path / "points").sizes["point"] == 3
    assert_same(ds, dj.open(tmp_path / "points"))
    plain = xr.open_zarr(tmp_path / "points" / "store.zarr", chunks=None)
    assert plain.temperature.dims == ("bucket", "replica")
    rows = plain.stack(point=("bucket", "replica"), create_index=False)
    rows = rows.isel(point=np.flatnonzero(rows.present))
    order = [int(np.flatnonzero(rows.seed == seed)[0]) for seed in (0, 3, 1)]
    np.testing.assert_array_equal(rows.levels.transpose("point", ...)[order], ds.levels)
    larger = dj.Grid(temperature=[0.5, 2.0, 1.0], batch_size=[1, 2], learning_rate=[0.1], seed=range(4))
    more = run(tmp_path / "points", larger, extend=True)
    assert_same(more, dj.open(tmp_path / "points"))


def test_xarray_alone_finds_names_and_hyper_parameters_and_the_grid(made):
    """The recipe that the docs give."""
    out, ds = made
    plain = xr.open_zarr(out / "store.zarr", chunks=None)  # warnings are errors: it is consolidated
    assert plain.levels.dims == ("bucket", "replica", "snapshot", "level")
    assert {"temperature", "batch_size", "seed", "step"} < {*plain.coords}
    assert plain.levels.attrs["long_name"] == ds.levels.attrs["long_name"]
    assert plain.attrs["versions"]["jax"]
    flat = plain.stack(point=("bucket", "replica"), create_index=False)
    grid = (
        flat.set_index(point=["temperature", "batch_size", "learning_rate", "seed"])
        .unstack("point")
        .sel(temperature=ds.temperature)
    )
    for name in ("levels", "x", "diverged_step"):
        np.testing.assert_array_equal(grid[name].transpose(*ds[name].dims), ds[name])
    np.testing.assert_array_equal(grid.step, ds.step)


def test_other_implementations_read_the_same_numbers(made):
    out, _ = made
    wanted = store.load(out).arrays_by_name["levels"][:]
    np.testing.assert_array_equal(zarr.open_array(out / "store.zarr", path="levels", mode="r")[:], wanted)
    tensorstore = pytest.importorskip("tensorstore")
    kind = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(out / "store.zarr" / "levels")}}
    np.testing.assert_array_equal(tensorstore.open(kind).result().read().result(), wanted)


def test_without_dask_chunks_are_refused_in_one_line(made, monkeypatch):
    if "dask" not in sys.modules:
        monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setattr(xr.Dataset, "chunk", lambda *args: (_ for _ in ()).throw(ImportError("no dask")))
    with pytest.raises(dj.InputError, match=r"chunks = \{\}: expected None, or pip install dask"):
        dj.open(made[0], chunks={})


def change_a_value(out, array, bucket=0):
    """As somebody would who knows the format: the chunk with its checksum, and the list of its block."""
    made = store.load(out, writable=True)
    values = made.read(bucket, slice(0, made.block_size))
    values[array][3] *= 1 + 1e-6
    made.write(bucket, slice(0, made.block_size), values)


def test_computing_again_finds_a_value_that_was_changed_with_its_checksums(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "run")
    assert not dj.verify(tmp_path / "run", OU, recompute="all").different
    change_a_value(tmp_path / "run", "x", bucket=1)
    assert not dj.verify(tmp_path / "run").damage
    found = dj.verify(tmp_path / "run", OU, recompute="all")
    assert found.different == ["batch_size 2, learning_rate 0.1, init_width 1, temperature 0.5, seed 3: x"]
    assert "96 of 96 replicas computed again, compared bit for bit: 1 difference." in found.said
    few = dj.verify(tmp_path / "run", OU)
    assert "16 of 96" in " ".join(few.said)
    assert "5 % with probability 0.56" in few.said[-1]


def test_on_another_processor_first_updates_and_distributions_are_compared(made, tmp_path, monkeypatch):
    shutil.copytree(made[0], tmp_path / "run")
    monkeypatch.setattr("dysonjax.engine.verifying.provenance", lambda devices: {"processor": {"model": "another"}})
    same = dj.verify(tmp_path / "run", OU, recompute=3)
    assert not same.different
    assert "in distribution" in " ".join(same.said)
    made = store.load(tmp_path / "run", writable=True)
    for bucket, rows in made.blocks()[:2]:  # all seeds of one point
        values = made.read(bucket, rows)
        values["x"][:, -1] += 5.0
        made.write(bucket, rows, values)
    (line,) = dj.verify(tmp_path / "run", OU, recompute="all").different
    assert "temperature 0.5" in line
    assert "the mean of x at its end" in line
    assert verifying.SIGMAS == 5.0


def test_verify_on_the_command_line(gas, capsys):
    out, ds = gas
    assert main(["verify", str(out), "--recompute", "all"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "4 finished blocks read: no fault.", "16 of 16 replicas computed again, compared bit for bit: no difference.",
    ]  # fmt: skip
    chunk = out / "store.zarr" / "levels" / "c" / "0" / "1" / "0" / "0"
    good = chunk.read_bytes()
    chunk.write_bytes(good[:-9])
    assert main(["verify", str(out), "--repair"]) == 1
    said = capsys.readouterr()
    assert "levels/c/0/1/0/0 has" in said.out
    assert "are set back" in said.out
    running.run(GAS, out)
    assert chunk.read_bytes() == good
    assert main(["verify", str(out)]) == 0
    assert_same(ds, dj.open(out), ["levels"])
    assert main(["verify", str(out), "--recompute", "many"]) == 2
    assert "recompute = 'many': expected" in capsys.readouterr().err


def metadata_damage(group):
    """What may become of the files of a group that hold no results."""
    told = json.loads((group / "zarr.json").read_text())
    yield group / "zarr.json", None
    yield group / "zarr.json", json.dumps(told)[:200]
    yield group / "zarr.json", json.dumps({**told, "attributes": {**told["attributes"], "title": "mine"}})
    yield group / "zarr.json", json.dumps({**told, "consolidated_metadata": {"metadata": {}}})
    yield group / "levels" / "zarr.json", None
    yield group / "levels" / "zarr.json", (group / "levels" / "zarr.json").read_text().replace("float32", "float64")
    yield group / "temperature" / "c" / "0", "0.1"


def damage(path, text):
    path.unlink() if text is None else path.write_text(text)


def files(out):
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_damaged_metadata_are_made_anew_from_the_settings(gas, tmp_path, capsys):
    out, good = gas[0], files(gas[0])
    for i, (path, text) in enumerate(metadata_damage(out / "store.zarr")):
        copy, place = shutil.copytree(out, tmp_path / str(i)), path.relative_to(out)
        damage(copy / place, text)
        assert main(["verify", str(copy), "--repair"]) == 1
        assert "Damaged metadata were made anew" in capsys.readouterr().out
        assert main(["verify", str(copy)]) == 0
        assert capsys.readouterr().out == "4 finished blocks read: no fault.\n"
        changed = [name for name, content in files(copy).items() if good[name] != content]
        assert changed in ([], [place])  # the group's command and versions may be lost
        ds = xr.open_zarr(copy / "store.zarr", chunks=None)  # consolidated, or it would warn
        np.testing.assert_array_equal(ds.levels, xr.open_zarr(out / "store.zarr", chunks=None).levels)


def test_blocks_that_were_damaged_with_the_metadata_are_set_back(gas, tmp_path):
    out = shutil.copytree(gas[0], tmp_path / "run")
    shutil.rmtree(out / "store.zarr" / "levels" / "c" / "0" / "2")
    (out / "store.zarr" / "levels" / "zarr.json").unlink()
    found = dj.verify(out, repair=True)
    assert [one.block for one in found.damage] == [None, (0, 2)]
    assert "are set back" in " ".join(found.said)
    assert_same(gas[1], running.run(GAS, out).only, ["levels"])
    assert not dj.verify(out).damage


def test_metadata_that_would_be_others_are_not_written(gas, made, tmp_path):
    out = shutil.copytree(gas[0], tmp_path / "gas")
    record = (out / "run.json").read_text()
    group = json.loads((out / "store.zarr" / "zarr.json").read_text())
    another = {**group, "attributes": {**group["attributes"], "format": "dysonjax run 99"}}
    for steps, text, words in ((40, "{", "give other metadata"), (20, json.dumps(another), "expected format")):
        (out / "run.json").write_text(record.replace('"steps": 20', f'"steps": {steps}'))
        (out / "store.zarr" / "zarr.json").write_text(text)
        before = files(out)
        (line,) = (line for line in dj.verify(out, repair=True).said if "cannot be made anew" in line)
        assert words in line
        assert files(out) == before
    (out / "store.zarr" / "zarr.json").write_text("{")
    shutil.rmtree(out / "blocks")
    assert "no list of a finished block" in dj.verify(out, repair=True).said[-1]


def test_a_scan_of_ones_own_and_its_extension_are_made_anew_with_the_dynamics(tmp_path):
    out, whole = tmp_path / "run", dj.Grid(**AXES | {"seed": range(20)})
    run(out)
    ds = run(out, whole, extend=True)
    for group in (path for path in out.iterdir() if path.name.endswith(".zarr")):
        (group / "x" / "zarr.json").write_text("{")
    assert "verify(run, dynamics, repair=True)" in dj.verify(out, repair=True).said[-1]
    other = dj.Dynamics(**{**OU.__dict__, "observables": ()})
    assert "give other metadata" in dj.verify(out, other, repair=True).said[-1]
    assert len(dj.verify(out, OU, repair=True).damage) == 2
    assert not dj.verify(out).damage
    assert_same(ds, dj.open(out))


def test_what_verify_cannot_compute_it_says(made):
    with pytest.raises(dj.InputError, match="recompute = 4: expected a run of a command"):
        dj.verify(made[0], recompute=4)
    other = dj.Dynamics(**{**OU.__dict__, "config": {"dynamics": "another"}})
    with pytest.raises(dj.StoreError, match="dynamics = 'Ornstein–Uhlenbeck toy' there, 'another' asked for"):
        dj.verify(made[0], other)


def test_a_run_opens_with_xarray_and_zarr_alone(made):
    """Nothing of dysonjax, JAX or their neighbours is imported."""
    code = f"""
import sys, xarray
ds = xarray.open_zarr({str(made[0] / "store.zarr")!r}, chunks=None)
assert "temperature" in ds.coords and float(ds.levels.sum()) != 0
assert not {{"dysonjax", "jax", "flax"}} & {{*sys.modules}}
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_what_a_list_tells_is_what_is_stored(made):
    out, _ = made
    told = json.loads((out / "blocks" / "1.2.json").read_text())
    assert {*told["chunks"]} == {"levels", "x", "diverged_step"}
    for chunk in told["chunks"].values():
        content = (out / "store.zarr" / chunk["key"]).read_bytes()
        assert len(content) == chunk["length"]
        assert content[-blocks.CRC_BYTES :].hex() == chunk["crc32c"]
    assert (out / "sessions" / f"{told['session']}.json").is_file()
