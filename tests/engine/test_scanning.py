"""`scan`: a labelled dataset whose every point has the same numbers in any grid, order, block, shard or process."""

import importlib
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr
from conftest import assert_same, geometric, ornstein_uhlenbeck

import dysonjax as dj
from dysonjax.engine.grid import Replicas
from dysonjax.engine.loop import simulate
from dysonjax.engine.planning import plan
from dysonjax.runtime import devices

pytestmark = pytest.mark.optimised  # it is about bits

module = importlib.import_module("dysonjax.engine.scanning")  # `dysonjax.scan` is the function

OU = ornstein_uhlenbeck()
STEPS, MARKS = 12, [3, 7]
AXES = {"temperature": [0.5, 2.0, 1.0], "batch_size": [1, 2], "learning_rate": [0.3, 0.05], "seed": [4, 0, 1, 9, 2]}
SGD = dj.sgd(dj.models.TanhNetwork(inputs=2, hidden=(3, 2)), batches=5, tests=8)
SGD_AXES = {"learning_rate": [0.1, 0.5, 3.0], "batch_size": [2], "init_width": [1.0, 2.0], "seed": range(3)}


def run(axes=AXES, **options):
    return dj.scan(OU, dj.Grid(**axes), STEPS, **{"snapshots": MARKS, "key": 5, **options})


def run_sgd(axes=SGD_AXES, **options):
    return dj.scan(SGD, dj.Grid(**axes), 20, snapshots=[10], observables=[], **options)


@pytest.fixture(scope="module")
def whole():
    return run()


@pytest.fixture(scope="module")
def whole_sgd():
    return run_sgd()


def test_dimensions_coordinates_and_labels(whole):
    record = ("temperature", "batch_size", "learning_rate", "seed", "snapshot")
    assert whole.levels.dims == (*record, "level")
    assert whole.x.dims == (*record, "coordinate")
    assert whole.diverged_step.dims == record[:-1]
    assert dict(whole.sizes) == {n: len(v) for n, v in AXES.items()} | {"snapshot": 4, "level": 2, "coordinate": 2}
    for name, values in AXES.items():
        assert whole[name].dims == (name,)
        assert whole[name].values.tolist() == values
    assert whole.step.dims == ("snapshot",)
    assert whole.step.values.tolist() == [0, 3, 7, 12]
    assert whole.x.attrs == {"long_name": "coordinates", "units": "m"}
    assert whole.levels.attrs["units"] == "1"
    assert whole.diverged_step.attrs["units"] == "update"
    assert all(v.attrs["long_name"] for v in whole.data_vars.values())
    assert whole.levels.dtype == np.float32
    assert whole.diverged_step.dtype == np.int32
    assert np.all(whole.diverged_step == -1)


def test_provenance_and_experiment(whole):
    (session,) = json.loads(whole.attrs["provenance"])
    assert session["versions"]["jax"] == jax.__version__
    assert session["versions"]["numpy"] == np.__version__
    assert set(session["versions"]) >= {"dysonjax", "jax", "jaxlib", "flax", "optax", "numpy", "python"}
    assert session["device"].startswith("2 × ")
    assert "cpu" in session["device"]
    assert np.datetime64(session["date"].rstrip("Z")) > np.datetime64("2025-01-01")
    experiment = json.loads(whole.attrs["experiment"])
    assert experiment["dynamics"] == "Ornstein–Uhlenbeck toy"
    assert experiment["grid"] == AXES
    assert list(experiment["grid"]) == list(AXES)
    assert (experiment["steps"], experiment["snapshots"]) == (12, [0, 3, 7, 12])


def test_every_point_is_a_simulated_replica(whole):
    """Each value stands at its own coordinates: replicas are run one bucket at a time without `scan`."""
    replicas = Replicas(OU, dj.Grid(**AXES), jax.random.key(5))
    for bucket, (size,) in enumerate(replicas.buckets):
        hyper = replicas.hyper(bucket, slice(None))
        values = simulate(OU, replicas.keys(bucket, slice(None)), hyper, STEPS, snapshots=MARKS)
        for row, point in enumerate(replicas.points(slice(None))):
            at = {n: v for n, v in point.items() if n in AXES}
            np.testing.assert_array_equal(whole.x.sel({**at, "batch_size": size}), values["x"][row])


def test_the_start_stands_at_its_coordinates():
    ds = dj.scan(OU, dj.Grid(seed=[1, 2], init_width=[1, 3, 2], batch_size=[2, 1], learning_rate=[0.1, 0.2]), 2)
    start = ds.x.isel(snapshot=0, coordinate=0)
    xr.testing.assert_equal(start, (3.0 * ds.init_width + 0 * start).transpose(*start.dims).astype(np.float32))


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 0, 3, 2)])
def test_the_order_of_axes_and_values_does_not_matter(whole, order):
    other = run({name: AXES[name][::-1] for name in np.array(list(AXES))[list(order)]})
    assert list(other.levels.dims)[:4] == [list(AXES)[i] for i in order]
    assert_same(whole, other.sel({name: AXES[name] for name in AXES}))


def test_a_point_alone_is_the_same(whole):
    for point in ({"temperature": 2.0, "batch_size": 2, "learning_rate": 0.05, "seed": 9},
                  {"temperature": 1.0, "batch_size": 1, "learning_rate": 0.3, "seed": 4}):  # fmt: skip
        assert_same(whole.sel({n: [v] for n, v in point.items()}), run({n: [v] for n, v in point.items()}))
    # 1 is the default temperature: written out or not, it is the same point
    bare = run({"batch_size": [1], "learning_rate": [0.3], "seed": [4]})
    np.testing.assert_array_equal(bare.x.squeeze(), run({"learning_rate": [0.3], "seed": [4]}).x.squeeze())
    np.testing.assert_array_equal(bare.x.squeeze(), whole.x.sel(point).squeeze())


def test_a_point_in_a_larger_grid_is_the_same(whole):
    """Grids of as many tiles, for which nothing is compiled; tests of the loop have more and fewer."""
    wider = run({**AXES, "init_width": [2.0, 1.0]})
    assert_same(whole, wider.sel({**AXES, "init_width": 1.0}))
    longer = run({**AXES, "learning_rate": [1.0, 0.05, 0.3], "seed": [*range(5), 9]})
    assert_same(whole, longer.sel(AXES))


@pytest.mark.parametrize("block_size", [1, 7, 64, 10_000])
def test_blocks_do_not_matter(whole, block_size):
    assert_same(whole, run(block_size=block_size))


def test_devices_do_not_matter(whole, whole_sgd):
    assert_same(whole, run(devices=jax.devices()[:1]))
    assert_same(whole_sgd, run_sgd(devices=jax.devices()[:1]))


def test_sgd_does_not_depend_on_its_company(whole_sgd):
    assert_same(whole_sgd, run_sgd({n: list(v)[::-1] for n, v in SGD_AXES.items()}, block_size=5).sel(SGD_AXES))
    point = {"learning_rate": [0.5], "init_width": [2.0], "seed": [1], "batch_size": [2]}
    assert_same(whole_sgd.sel(point), run_sgd(point))
    assert len(np.unique(whole_sgd.levels)) == whole_sgd.levels.size


ONE_DEVICE = """
import jax, numpy, test_scanning
assert len(jax.devices()) == 1
found = test_scanning.run({**test_scanning.AXES, "batch_size": [2]})
numpy.savez("values.npz", **{n: v.values for n, v in found.data_vars.items()})
"""


def test_another_process_with_one_device_gives_the_same(whole, tmp_path):
    """One process, one device, no test runner, against two devices here."""
    here = Path(__file__).parent

    # conftest appends its own flag, and the last one counts, so the number is set after it is imported
    setup = "import os, conftest; os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=1'\n"
    path = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    subprocess.run(
        [sys.executable, "-c", setup + ONE_DEVICE], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, check=True
    )
    values = np.load(tmp_path / "values.npz")
    for name, variable in whole.data_vars.items():
        np.testing.assert_array_equal(values[name], variable.sel(batch_size=[2]).values)


def test_keys_seeds_and_points_give_different_numbers(whole):
    later = whole.x.isel(snapshot=slice(1, None)).values
    assert len(np.unique(later)) == later.size  # all points and times
    assert np.all(run(key=6).x.isel(snapshot=slice(1, None)).values != later)
    xr.testing.assert_identical(run(key=jax.random.key(5)).x, whole.x)
    seeds = {**AXES, "seed": [5, 6, 7, 8, 10]}
    assert np.all(run(seeds).x.isel(snapshot=slice(1, None)).values != later)


def test_sick_replicas_are_reported_held_and_kept(caplog):
    toy = geometric()
    rates = [0.5, 2.0**15, 0.9, 2.0**16]
    with caplog.at_level(logging.WARNING, "dysonjax"):
        ds = dj.scan(toy, dj.Grid(learning_rate=rates, seed=range(2)), 20, snapshots=[8], block_size=3)
    (record,) = caplog.records
    where = "the first at learning_rate = 65536, seed = 0 after update 8"
    assert record.getMessage() == f"4 of 8 replicas became non-finite, {where}; see diverged_step"
    assert record.levelno == logging.WARNING
    assert ds.diverged_step.sel(learning_rate=2.0**15).values.tolist() == [9, 9]
    assert np.all(ds.diverged_step.sel(learning_rate=2.0**16) == 8)
    assert np.isfinite(ds.x).all()
    caplog.clear()
    well = dj.scan(toy, dj.Grid(learning_rate=[0.9, 0.5], seed=range(2)), 20, snapshots=[8])
    assert not caplog.records
    assert_same(well, ds.sel(learning_rate=[0.9, 0.5]))


@pytest.mark.parametrize(
    ("steps", "loss", "words"),
    [
        ([[-1, -1], [-1, -2]], [[1.0, 2.0], [3.0, np.nan]], None),  # another share's
        ([[-1, -1], [-1, -1]], [[1.0, 2.0], [3.0, np.nan]], "test_loss is NaN in 1 of 4 replicas with finite weights, "
         "the first at width = 2, seed = 7: do the data hold NaN?"),
        ([[9, -1], [4, 0]], [[1.0, 2.0], [3.0, np.nan]], "3 of 4 replicas became non-finite, the first at width = 2, "
         "seed = 7 after update 0 (data, loss or initial weights are not finite); see diverged_step"),
        ([[9, -1], [-1, 4]], [[1.0, np.nan], [3.0, 4.0]], "2 of 4 replicas became non-finite, the first at width = 2, "
         "seed = 7 after update 4; see diverged_step"),
    ],
)  # fmt: skip
def test_nan_is_told_once_with_its_place(steps, loss, words, caplog):
    dims = ("width", "seed")
    ds = xr.Dataset(
        {"diverged_step": (dims, steps), "test_loss": ((*dims, "snapshot"), np.array(loss)[..., None])},
        {"width": [1.0, 2.0], "seed": [5, 7], "step": ("snapshot", [10])},
    )
    with caplog.at_level(logging.WARNING, "dysonjax"):
        module._warn_of_lost(ds)
        told = [record.getMessage() for record in caplog.records]
        caplog.clear()
        point = {"width": ("point", [1.0, 1.0, 2.0, 2.0]), "seed": ("point", [5, 7, 5, 7])}
        flat = {name: (("point", *v.dims[2:]), v.values.reshape(4, *v.shape[2:])) for name, v in ds.items()}
        module._warn_of_lost(xr.Dataset(flat, point))
    assert told == [record.getMessage() for record in caplog.records] == ([] if words is None else [words])


def test_idle_cores_are_told_of_once(monkeypatch, caplog):
    """Of one CPU device among several cores, after a while, while the cores do not work all the same."""
    told = []
    monkeypatch.setattr(devices, "_told_of_idle", told)
    monkeypatch.setattr(devices, "cores", lambda: 4)
    now, worked, one = time.monotonic(), time.process_time(), jax.local_devices()[:1]
    with caplog.at_level(logging.WARNING, "dysonjax"):
        devices.warn_of_idle_cores(one, (now - 60, worked - 60))  # two devices here
        monkeypatch.setattr(jax, "local_device_count", lambda: 1)
        devices.warn_of_idle_cores(one, (now - 5, worked - 5))
        devices.warn_of_idle_cores(one, (now - 60, worked - 200))
        assert not caplog.records
        for _ in range(2):
            devices.warn_of_idle_cores(one, (now - 60, worked - 60))
    (record,) = caplog.records
    assert record.getMessage().startswith("1.0 of 4 CPU cores are busy: dysonjax.use_all_cores()")


def test_progress_goes_to_stderr_and_counts_what_was_done(whole, capsys, tmp_path):
    run(progress=True, out=tmp_path / "run")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "100 %" in captured.err
    run(progress=True, out=tmp_path / "run")  # nothing is left to do
    assert "100 %" in capsys.readouterr().err
    run()
    assert capsys.readouterr() == ("", "")  # no terminal, no bar


def test_progress_adds_up(monkeypatch):
    """The bar ends at the number of replica-updates, neither short of it nor beyond."""
    advanced = []

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def advance(self, updates):
            advanced.append(updates)

    monkeypatch.setattr(module, "progress_bar", lambda what, total, wanted: Bar())
    run(block_size=7)
    assert sum(advanced) == dj.Grid(**AXES).size * STEPS


def test_blocks_are_planned_within_memory_and_length():
    assert plan(100, 64, 1000, 100, 10**9) == 128  # one block, whole units
    assert plan(1000, 64, 1000, 10**6, 128 * 10**6) == 128  # two units fit
    assert plan(1000, 64, 1000, 10**12, 10**6) == 64  # never less than a unit
    assert plan(1000, 64, 2**25, 1, 10**9) == 64
    assert plan(65 * 64, 64, 2**13, 1, 10**9) == 33 * 64  # 65 units, of which 64 fit: two blocks alike
    for replicas in (1, 63, 64, 65, 1000, 12345):
        assert plan(replicas, 64, 2**15, 1000, 10**7) % 64 == 0


def test_paired_seeds_share_start_data_and_batches():
    """Common random numbers: at α → 0 nothing but the rate differs, and every point of a seed starts alike."""
    grid = dj.Grid(learning_rate=[0.1, 0.2, 1e-9], batch_size=[2], seed=range(5))
    dynamics = SGD
    paired = dj.scan(dynamics, grid, 3, snapshots=[3], paired=True, progress=False)
    apart = dj.scan(dynamics, grid, 3, snapshots=[3], progress=False)
    start = paired.levels.isel(snapshot=0)
    for rate in (1, 2):
        np.testing.assert_array_equal(start.isel(learning_rate=rate), start.isel(learning_rate=0))
        test = paired.test_loss.isel(snapshot=0)
        np.testing.assert_array_equal(test.isel(learning_rate=rate), test.isel(learning_rate=0))
    assert len(np.unique(start.isel(learning_rate=0).values[..., 0])) == 5
    assert len(np.unique(apart.levels.isel(snapshot=0).values[..., 0])) == 15
    alone = dj.scan(dynamics, dj.Grid(learning_rate=[0.2], batch_size=[2], seed=[3]), 3, snapshots=[3], paired=True)
    np.testing.assert_array_equal(
        alone.levels.values.ravel(), paired.levels.sel(learning_rate=0.2, seed=3).values.ravel()
    )


def test_paired_and_unpaired_are_two_runs(tmp_path):
    grid = dj.Grid(learning_rate=[0.1], batch_size=[1])
    dj.scan(OU, grid, 2, out=tmp_path / "run", paired=True, progress=False)
    with pytest.raises(dj.StoreError, match="paired = True there"):
        dj.scan(OU, grid, 2, out=tmp_path / "run", progress=False)
