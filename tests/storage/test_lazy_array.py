"""Stored arrays that are read when they are looked at: the same values by any index, unfinished blocks masked."""

import threading

import numpy as np
import pytest
import xarray as xr
from conftest import assert_same, ornstein_uhlenbeck

import dysonjax as dj
from dysonjax.runtime.team import Share
from dysonjax.storage import store

OU = ornstein_uhlenbeck()
AXES = {"seed": range(11), "temperature": [0.5, 2.0], "batch_size": [1, 2], "learning_rate": [0.3, 0.05]}


def run(out, **options):
    options = {"snapshots": [3], "block_size": 8, "observables": None, **options}
    return dj.scan(OU, dj.Grid(**AXES), 12, out=out, **options)


@pytest.fixture(scope="module", params=["whole", "part"])
def made(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("stored") / "run"
    run(out, share=Share(0, 1 if request.param == "whole" else 3))
    return store.load(out)


@pytest.mark.parametrize(
    "look",
    [
        lambda ds: ds,
        lambda ds: ds.isel(snapshot=-1),
        lambda ds: ds.sel(batch_size=2, temperature=2.0),
        lambda ds: ds.isel(seed=[7, 2, 2], learning_rate=slice(None, None, -1)),
        lambda ds: ds.isel(seed=slice(3, 9, 2), snapshot=[2, 0]).transpose("batch_size", ...),
        lambda ds: ds.isel(seed=0, batch_size=0, learning_rate=1, temperature=1),
        lambda ds: ds.isel(seed=xr.DataArray([1, 4], dims="point"), temperature=xr.DataArray([0, 1], dims="point")),
    ],
)
def test_lazy_values_equal_loaded_ones(made, look):
    lazy = made.dataset(lazy=True)
    assert not lazy.levels.variable._in_memory
    assert_same(look(made.dataset(lazy=False)).load(), look(lazy).load())


def test_only_large_results_stay_on_disk(made, monkeypatch):
    assert made.dataset().levels.variable._in_memory
    monkeypatch.setattr("dysonjax.storage.dataset.LAZY", 100)
    assert not made.dataset().levels.variable._in_memory


def test_a_block_without_a_list_is_not_seen(tmp_path):
    """Not even when its values are there: another process may be about to finish it."""
    run(tmp_path / "run")
    made = store.load(tmp_path / "run", writable=True)
    before = made.dataset()
    made.set_back([(1, 2)])
    after = store.load(tmp_path / "run").dataset()
    hidden = after.diverged_step == -2
    assert int(hidden.sum()) == 8
    assert np.isnan(after.x.where(hidden, drop=True)).all()
    assert_same(before.where(~hidden), after.where(~hidden), ["x", "levels"])


def test_read_while_another_writes(tmp_path):
    """Every look finds whole blocks, and never fewer than before."""
    whole, out = run(None), tmp_path / "run"
    seen, stop = [], threading.Event()

    def look():
        while not stop.is_set():
            if (out / store.STORE).is_dir():
                ds = store.load(out).dataset()
                there = ds.diverged_step != -2
                seen.append(int(there.sum()))
                assert seen[-1] == ds.diverged_step.size or seen[-1] % 4 == 0
                assert_same(whole.where(there), ds.where(there), ["x", "levels"])

    errors = []
    reader = threading.Thread(target=lambda: [errors.append(e) for e in [attempt(look)] if e])
    reader.start()
    try:
        run(out)
    finally:
        stop.set()
        reader.join()
    assert not errors
    assert seen == sorted(seen)


def attempt(call):
    try:
        call()
    except BaseException as error:
        return error
    return None


def test_several_may_make_the_store_at_once(tmp_path):
    """One of them makes it, the others find it, and none of their drafts stays."""
    planned = dj.Grid(**AXES)
    gate = threading.Barrier(4)
    datasets, errors = [], []

    def one(i):
        gate.wait()
        try:
            datasets.append(dj.scan(OU, planned, 12, out=tmp_path / "run", share=Share(i, 4)))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert not store.load(tmp_path / "run").pending()
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"store.zarr", "blocks", "sessions", "run.json"}
    assert_same(dj.scan(OU, planned, 12), store.load(tmp_path / "run").dataset())
