"""What a scan will cost is said before it runs, and refused where it cannot fit."""

import logging
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ornstein_uhlenbeck

import dysonjax as dj
from dysonjax.cli.app import main
from dysonjax.engine import planning
from dysonjax.engine.cost import duration
from dysonjax.engine.planning import Scan, in_bytes, prepare
from dysonjax.engine.scanning import ScanJob
from dysonjax.engine.working_memory import peak_bytes
from dysonjax.experiments import running
from dysonjax.experiments.gas.experiment import GasRun
from dysonjax.storage import store

OU = ornstein_uhlenbeck()
GRID = dj.Grid(learning_rate=[0.1, 0.2], batch_size=[1, 2], seed=range(100))


def size(directory):
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())


def test_a_forecast_is_what_happens(tmp_path):
    run = GasRun(levels=4, temperature=(0.5, 1.0), seeds=4000, steps=40, snapshots=5, scheme="pairwise_kick")
    (told,) = running.forecasts(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    running.run(run, tmp_path / "run", progress=False)
    made = store.load(tmp_path / "run")
    assert (told.replicas, told.steps, told.compilations) == (8000, 40, 1)
    assert (told.blocks, told.block_size) == (len(made.blocks()), made.block_size)
    assert told.store_bytes == pytest.approx(size(tmp_path / "run"), rel=0.05)
    assert 0 < told.device_bytes < told.device_memory
    assert told.left == told.blocks
    (again,) = running.forecasts(run, tmp_path / "run")
    assert (again.left, again.store_bytes) == (0, told.store_bytes)
    assert again.seconds < 0.5 * told.seconds + again.compilations * 60


def test_costs_add_up():
    told = ScanJob(OU, GRID, 50, snapshots=[10]).forecast(None, {}, shares=3, block_size=64)
    assert (told.blocks, told.compilations, told.block_size) == (2 * 4, 2, 64)
    assert told.seconds > 0


def test_shares_have_blocks_to_share():
    job = Scan(OU, dj.Grid(learning_rate=[0.1], batch_size=[1], seed=range(10_000)), 10)
    assert prepare(job).blocks == 1
    assert prepare(job, shares=8).blocks >= 32


def test_a_tile_on_an_accelerator_is_no_larger_than_a_block():
    """Or every block would be filled up to a tile with replicas that nobody asked for."""
    device = SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 80 * 10**9})
    grid = dj.Grid(learning_rate=[0.1], batch_size=[2], seed=range(100_000))
    tiles = {size: prepare(Scan(OU, grid, 10), [device], block_size=size).tile for size in (None, 16_384, 1000)}
    assert tiles == {None: 16_384, 16_384: 16_384, 1000: 1024}


def test_a_tile_on_an_accelerator_leaves_room_for_what_an_update_needs():
    """A network with wide layers in large batches holds little, and needs much while it is updated."""
    x = np.zeros((256, 4), np.float32)
    wide = dj.models.FunctionModel(
        lambda key: {"a": jnp.zeros((4, 512)), "b": jnp.zeros((512, 4))},
        lambda w, example: jnp.sum((jnp.tanh(example @ w["a"]) @ w["b"] - example) ** 2), data=x, watch=None,
    )  # fmt: skip
    device = SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 8 * 10**9})
    tile = {}
    for size in (1, 256):
        grid = dj.Grid(learning_rate=[0.1], batch_size=[size], seed=range(100_000))
        tile[size] = prepare(Scan(dj.sgd(wide), grid, 10), [device]).tile
    assert tile[1] == 16_384
    assert 1024 <= tile[256] <= 4096  # about 256 × 512 × 4 bytes, one to three times, of 4 GB


def test_peak_of_a_trace():
    """Two arrays of 4000 bytes at a time, three in the branch of a condition; what nobody reads is not made."""

    def function(x):
        a = jnp.sin(x)
        b = jnp.cos(a)
        jnp.tan(b)
        return jax.lax.cond(b[0] > 0, lambda b: jnp.exp(b) + jnp.exp(-b), lambda b: b, b).sum()

    closed = jax.make_jaxpr(function)(jnp.zeros(1000))
    assert 4 * 4000 <= peak_bytes(closed.jaxpr) <= 5 * 4000 + 100
    assert peak_bytes(jax.make_jaxpr(lambda x: jnp.cos(jnp.sin(x)).sum())(jnp.zeros(1000)).jaxpr) == 8000


def test_data_that_no_device_holds_are_refused(monkeypatch):
    data = np.zeros((1000, 5), np.float32)
    model = dj.models.FunctionModel(lambda key: {"w": jnp.zeros(5)}, lambda w, x: jnp.dot(w["w"], x), data, watch=None)
    monkeypatch.setattr(planning, "device_memory", lambda devices: 15_000 * len(devices))
    expected = r"data = 20 kB: expected at most 15 kB, for every device holds all examples in its memory"
    with pytest.raises(dj.InputError, match=expected):
        dj.scan(dj.sgd(model), dj.Grid(learning_rate=[0.1], batch_size=[1]), 10)


def test_a_grid_that_is_too_large_is_cut_smaller_and_says_so(monkeypatch, caplog):
    job = Scan(OU, dj.Grid(learning_rate=[0.1], batch_size=[1], seed=range(10_000)), 10)
    whole = prepare(job)
    monkeypatch.setattr(planning, "device_memory", lambda devices: 4 * whole.memory.block)
    with caplog.at_level(logging.WARNING, "dysonjax"):
        cut = prepare(job)
    assert cut.block_size < whole.block_size
    assert cut.memory.block <= cut.memory.budget
    (record,) = caplog.records
    assert f"blocks of {cut.block_size} replicas instead of" in record.getMessage()


def test_what_cannot_fit_is_refused_before_it_starts(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(planning, "device_memory", lambda devices: 1000)
    with pytest.raises(dj.InputError, match=r"grid = .*: expected replicas that fit: 32 a device take .* of 500 bytes"):
        dj.scan(OU, GRID, 10, out=tmp_path / "run")
    monkeypatch.setattr(planning, "device_memory", lambda devices: 40_000)
    with pytest.raises(dj.InputError, match=r"block_size = 10000: expected blocks that fit"):
        prepare(Scan(OU, dj.Grid(learning_rate=[0.1], batch_size=[1], seed=range(10_000)), 10), block_size=10_000)
    assert not (tmp_path / "run").exists()


def test_numbers_in_words():
    assert [in_bytes(n) for n in (12, 1500, 2.5e6, 7e9, 3e12)] == ["12 bytes", "1.5 kB", "2.5 MB", "7 GB", "3 TB"]
    assert [duration(s) for s in (0.31, 100, 130, 7200, 200_000)] == ["0.31 s", "1e+02 s", "2.2 min", "2 h", "2.3 days"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("gas --levels 2 --temperature 1 --seeds 40 --steps 20 --snapshots 2", ["40", "compilations"]),
        (
            "scaling teacher-student --learning-rate 0.1,0.2 --batch-size 4 --seeds 8 --level dyson --time 2",
            ["all", "16"],
        ),
    ],
)
def test_dry_run_writes_nothing(command, words, tmp_path, capsys):
    assert main([*command.split(), "--dry-run", "--processes", "2", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    for word in [*words, "on 2 processes; nothing was written"]:
        assert word in said
    assert not list(tmp_path.iterdir())
