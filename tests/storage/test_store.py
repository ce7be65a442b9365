"""A run's directory: what a killed, failed or interrupted run leaves, how it is continued, and what is refused."""

import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import zarr
from conftest import assert_same, ornstein_uhlenbeck

import dysonjax as dj
from dysonjax.storage import store

pytestmark = pytest.mark.optimised  # it is about bits

module = importlib.import_module("dysonjax.engine.scanning")  # `dysonjax.scan` is the function

OU = ornstein_uhlenbeck()
AXES = {"temperature": [0.5, 2.0, 1.0], "batch_size": [1, 2], "learning_rate": [0.3, 0.05], "seed": range(40)}
STEPS, BLOCK = 2000, 16
BLOCKS = 2 * 15  # two buckets of 240 replicas
RECORDED = ["levels", "x", "diverged_step"]


def run(out=None, axes=AXES, steps=STEPS, **options):
    options = {"snapshots": [10, 100], "block_size": BLOCK, "key": 5, **options}
    return dj.scan(OU, dj.Grid(**axes), steps, out=out, **options)


@pytest.fixture(scope="module")
def whole():
    """The run without a directory, in one block."""
    return run(block_size=1000)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short finished run; tests copy it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    run(out, steps=200)
    return out


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def count(monkeypatch):
    """Replicas of every block that is computed."""
    blocks = []

    def counted(dynamics, keys, *args, **options):
        blocks.append(len(keys))
        return simulate(dynamics, keys, *args, **options)

    simulate = module.simulate
    monkeypatch.setattr(module, "simulate", counted)
    return blocks


def contents(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def refused(call, *words):
    with pytest.raises(dj.StoreError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def pending(out):
    return len(store.load(out).pending())


def test_a_stored_run_is_the_same_as_one_in_memory(whole, tmp_path, count):
    ds = run(tmp_path / "new" / "folder")
    assert count == [BLOCK] * BLOCKS
    assert_same(whole, ds)
    assert list(ds.levels.dims)[:4] == list(AXES)
    again = store.load(tmp_path / "new" / "folder").dataset()
    assert_same(whole, again)
    assert again.attrs == ds.attrs
    assert again.x.attrs == whole.x.attrs
    assert {p.name for p in (tmp_path / "new" / "folder").iterdir()} == {"store.zarr", "config.json", "run.json"}


def test_a_finished_run_is_neither_computed_nor_written_again(finished, copy, count):
    before = contents(copy)
    assert_same(store.load(finished).dataset(), run(copy, steps=200))
    assert count == []
    assert contents(copy) == before


def test_the_configuration_is_readable_text(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["experiment"]["steps"] == 200
    assert config["axes"] == {n: list(v) for n, v in AXES.items()}
    (session,) = config["provenance"]
    assert session["versions"]["jax"] == jax.__version__


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_between_blocks_and_continued(whole, tmp_path, monkeypatch, count, error):
    write = store.Store.write

    def stop(self, bucket, rows, values):
        if len(count) == 18:
            raise error
        write(self, bucket, rows, values)

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "write", stop)
        with pytest.raises(error):
            run(tmp_path / "run")
    assert pending(tmp_path / "run") == BLOCKS - 17
    count.clear()
    # on other devices and with another block size asked for; the store keeps its own
    ds = run(tmp_path / "run", devices=jax.devices()[:1], block_size=100)
    assert count == [BLOCK] * (BLOCKS - 17)
    assert_same(whole, ds)
    one, two = json.loads(ds.attrs["provenance"])
    assert one["device"].startswith("2 × ")
    assert two["device"].startswith("1 × ")


def test_interrupted_within_a_block_and_continued(whole, tmp_path, monkeypatch, count):
    simulate = module.simulate

    def stop(updates):
        if len(count) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "simulate", lambda *args, **options: simulate(*args, **{**options, "on_progress": stop}))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run")
    assert pending(tmp_path / "run") == BLOCKS - 4
    count.clear()
    assert_same(whole, run(tmp_path / "run"))
    assert len(count) == BLOCKS - 4


@pytest.fixture
def half(tmp_path, monkeypatch):
    """A short run of which 17 of 30 blocks are finished."""
    write, done = store.Store.write, []

    def stop(self, bucket, rows, values):
        if len(done) == 17:
            raise KeyboardInterrupt
        done.append(rows)
        write(self, bucket, rows, values)

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "half", steps=200)
    return tmp_path / "half"


def test_what_is_missing_is_marked(half, finished):
    whole, part = store.load(finished).dataset(), store.load(half).dataset()
    missing = part.diverged_step == -2
    assert int(missing.sum()) == 13 * BLOCK
    for name in ("levels", "x"):
        inner = missing.broadcast_like(part[name])
        assert np.isnan(part[name].values[inner.transpose(*part[name].dims).values]).all()
        assert_same(whole.where(~missing), part.where(~missing), [name])
        assert np.isfinite(part[name].where(~missing, 0)).all()
    # blocks are finished in order: a whole bucket, then two blocks of the next
    assert not missing.sel(batch_size=1).any()


def test_continued_with_the_grids_axes_in_another_order(half, finished):
    """The same experiment, so it is continued: every value must still stand at its own point."""
    order = ["seed", "learning_rate", "batch_size", "temperature"]
    axes = {name: AXES[name] for name in order} | {"temperature": [2.0, 0.5, 1.0]}
    ds = run(half, axes, steps=200)
    assert [*ds.levels.dims[:4]] == order
    assert ds.temperature.values.tolist() == [2.0, 0.5, 1.0]
    assert_same(store.load(finished).dataset().sel(temperature=[2.0, 0.5, 1.0]), ds)


def test_a_run_in_float32_is_not_continued_in_float64(half, finished):
    """It would equal neither an uninterrupted run in the one nor in the other."""
    before = contents(half)
    jax.config.update("jax_enable_x64", True)
    try:
        refused(lambda: run(half, steps=200), "float")
    finally:
        jax.config.update("jax_enable_x64", False)
    assert contents(half) == before


CHILD = """
import sys
sys.path.insert(0, {tests!r})
import test_store
{before}
test_store.run(sys.argv[1])
"""


def child(out, before=""):
    program = CHILD.format(tests=str(Path(__file__).parent), before=before)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    return subprocess.Popen([sys.executable, "-c", program, str(out)], env=env, stderr=subprocess.PIPE, text=True)


def finished_blocks(out):
    """Counted by files, as a program outside would."""
    return sum(p.is_file() and not p.name.endswith(".partial") for p in (out / "store.zarr/finished/c").rglob("*"))


def test_killed_at_random_moments_and_continued(whole, tmp_path, count):
    """kill −9 while the store is made, and twice between and in blocks; what was finished is never computed again."""
    out = tmp_path / "run"
    moments = np.random.default_rng(0).uniform(0, 0.03, 3)
    done = 0
    for i, moment in enumerate(moments):
        process = child(out)
        deadline = time.monotonic() + 120
        target = done + 4
        while process.poll() is None and time.monotonic() < deadline:
            if out.exists() if i == 0 else finished_blocks(out) >= target:
                break
            time.sleep(0.0005)
        time.sleep(moment if i else moment / 30)
        process.send_signal(signal.SIGKILL)
        _, messages = process.communicate()
        assert process.returncode == -signal.SIGKILL, messages
        if i:
            left = pending(out)
            assert target <= BLOCKS - left
            done = BLOCKS - left
    assert 0 < left < BLOCKS - 7  # killed before the end, and after some work  # type: ignore[possibly-undefined]  # the loop sets it
    part = store.load(out).dataset()
    kept = part.diverged_step != -2
    assert int(kept.sum()) == done * BLOCK
    assert_same(whole.where(kept), part.where(kept), ["levels", "x"])
    assert_same(whole, run(out))
    assert count == [BLOCK] * left  # type: ignore[possibly-undefined]  # the loop sets it


FILL_THE_DISK = """
import resource, signal
from dysonjax.storage import store
write, done = store.Store.write, []
def limited(self, bucket, rows, values):
    done.append(rows)
    if len(done) == 8:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    write(self, bucket, rows, values)
store.Store.write = limited
"""


def test_a_full_disk_in_another_process(whole, tmp_path, count):
    """A real refusal by the operating system: no file may grow beyond 64 bytes from the eighth block on."""
    process = child(tmp_path / "run", FILL_THE_DISK)
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 1
    last = messages.strip().splitlines()[-1]
    assert last.startswith("dysonjax.core.errors.StoreError: ")
    assert "cannot be written" in last
    assert "finished blocks are kept" in last
    assert pending(tmp_path / "run") == BLOCKS - 7
    assert not [p for p in (tmp_path / "run").rglob("*.partial")]
    assert_same(whole, run(tmp_path / "run"))
    assert len(count) == BLOCKS - 7


def no_space(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("block", [1, 9])
def test_a_write_that_fails(finished, tmp_path, monkeypatch, count, block):
    write = zarr.Array.__setitem__

    def fail(self, *args):
        if len(count) == block:
            no_space()
        write(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__setitem__", fail)
        refused(lambda: run(tmp_path / "run", steps=200), str(tmp_path / "run"), "No space left", "blocks are kept")
    assert pending(tmp_path / "run") == BLOCKS - block + 1
    assert_same(store.load(finished).dataset(), run(tmp_path / "run", steps=200))
    assert len(count) == block + BLOCKS - (block - 1)


@pytest.mark.parametrize("place", ["zarr.open_group", "pathlib.Path.mkdir", "pathlib.Path.write_text"])
def test_a_directory_that_cannot_be_made(finished, tmp_path, monkeypatch, place):
    with monkeypatch.context() as patch:
        patch.setattr(place, no_space)
        refused(lambda: run(tmp_path / "a" / "run", steps=200), "No space left")
    assert_same(store.load(finished).dataset(), run(tmp_path / "a" / "run", steps=200))


def test_a_directory_without_permission(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    if os.access(locked, os.W_OK):  # nothing is forbidden to root, except in the kernel's own folders
        locked = Path("/proc/self")
    try:
        refused(lambda: run(locked / "run", steps=200), str(locked / "run"), "cannot be written")
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_a_run_without_permission_to_write(half, monkeypatch):
    """Looking at an unfinished run in somebody else's folder fails in one line and changes nothing."""
    before = contents(half)

    def forbidden(*args, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr("zarr.storage._local._put", forbidden)
        refused(lambda: run(half, steps=200), "Permission denied")
    assert contents(half) == before
    assert pending(half) == 13


def test_somebody_elses_directory_or_file(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"sun")
    before = contents(tmp_path)
    refused(lambda: run(tmp_path, steps=200), str(tmp_path), "'holiday.jpg'", "expected a new or empty directory")
    refused(lambda: run(tmp_path / "holiday.jpg", steps=200), "expected a directory, found a file")
    refused(lambda: run(tmp_path / "holiday.jpg" / "run", steps=200), "holiday.jpg")
    refused(lambda: store.load(tmp_path), "expected the directory of a dysonjax run")
    refused(lambda: store.load(tmp_path / "nowhere"), "expected the directory of a dysonjax run")
    assert contents(tmp_path) == before


def test_an_empty_directory_is_used(tmp_path):
    assert run(tmp_path, steps=200).sizes["seed"] == 40
    assert pending(tmp_path) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 201}, ["steps = 200 there, 201 asked for"]),
        ({"key": 6}, ["key = [0, 5] there, [0, 6] asked for"]),
        ({"snapshots": [10, 101]}, ["snapshots = [0, 10, 100, 200] there, [0, 10, 101, 200] asked for"]),
        (
            {"axes": {**AXES, "learning_rate": [0.3, 0.06]}},
            ["grid.learning_rate = [0.3, 0.05]", "[0.3, 0.06] asked for"],
        ),
        ({"axes": {**AXES, "init_width": [1.0, 2.0]}}, ["grid.init_width = None there, [1.0, 2.0] asked for"]),
        ({"axes": {n: v for n, v in AXES.items() if n != "temperature"}}, ["grid.temperature = [0.5, 2.0, 1.0] there"]),
        ({"observables": []}, ["observables = "]),
    ],
    ids=lambda x: "".join(x) if isinstance(x, dict) else None,
)
def test_another_run_is_refused_with_the_first_difference(finished, copy, change, words):
    refused(
        lambda: run(copy, **{"steps": 200, **change}), str(copy), "holds another run", "give a new directory", *words
    )
    assert contents(copy) == contents(finished)


def test_another_dynamics_is_refused(finished, copy):
    other = dj.Dynamics(**{**OU.__dict__, "config": {"dynamics": "another"}})
    call = lambda: dj.scan(other, dj.Grid(**AXES), 200, snapshots=[10, 100], key=5, out=copy)  # noqa: E731
    refused(call, "dynamics = 'Ornstein–Uhlenbeck toy' there, 'another' asked for")
    assert contents(copy) == contents(finished)


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def damage_format(out):
    edit(out / "store.zarr/zarr.json", lambda d: d["attributes"].update(format="dysonjax run 99"))


def damage_no_format(out):
    edit(out / "store.zarr/zarr.json", lambda d: d["attributes"].pop("format"))


def damage_header(out):
    edit(out / "store.zarr/zarr.json", lambda d: d["attributes"]["header"].pop("axes"))


def damage_header_kind(out):
    edit(out / "store.zarr/zarr.json", lambda d: d["attributes"].update(header=[1, 2]))


def damage_experiment(out):
    edit(out / "store.zarr/zarr.json", lambda d: d["attributes"]["header"].update(experiment=7))


def damage_half_a_file(out):
    path = out / "store.zarr/zarr.json"
    path.write_bytes(path.read_bytes()[:200])


def damage_empty_file(out):
    (out / "store.zarr/zarr.json").write_bytes(b"")


def damage_no_group(out):
    (out / "store.zarr/zarr.json").unlink()


def damage_marks(out):
    shutil.rmtree(out / "store.zarr/finished")


def damage_marks_metadata(out):
    (out / "store.zarr/finished/zarr.json").write_text("{}")


def damage_array(out):
    shutil.rmtree(out / "store.zarr/x")


def damage_array_metadata(out):
    (out / "store.zarr/x/zarr.json").write_text('{"zarr_format": 3')


def damage_block(out):
    path = next(p for p in sorted((out / "store.zarr/x/c").rglob("*")) if p.is_file())
    path.write_bytes(path.read_bytes()[:20])


def damage_mark(out):
    path = next(p for p in sorted((out / "store.zarr/finished/c").rglob("*")) if p.is_file())
    path.write_bytes(b"nonsense")


DAMAGE = {name: value for name, value in globals().items() if name.startswith("damage_")}


NEEDED_TO_CONTINUE_ONLY = {"damage_marks", "damage_marks_metadata", "damage_mark", "damage_experiment"}


def refused_as_damaged(copy, name, call):
    DAMAGE[name](copy)
    before = contents(copy)
    message = refused(call, str(copy))
    if name in ("damage_format", "damage_no_format"):
        assert "expected format 'dysonjax run 1', found " in message
    assert contents(copy) == before


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_is_not_continued_and_left_alone(copy, name):
    refused_as_damaged(copy, name, lambda: run(copy, steps=200))


@pytest.mark.parametrize("name", sorted(DAMAGE.keys() - NEEDED_TO_CONTINUE_ONLY))
def test_a_damaged_run_is_not_read_and_left_alone(copy, name):
    refused_as_damaged(copy, name, lambda: store.load(copy).dataset())


def test_what_a_kill_during_creation_leaves_is_cleared_away(finished, tmp_path):
    (tmp_path / "run" / "store.zarr.partial" / "x").mkdir(parents=True)
    (tmp_path / "run" / "store.zarr.partial" / "zarr.json").write_text("{")
    assert_same(store.load(finished).dataset(), run(tmp_path / "run", steps=200))
    assert not (tmp_path / "run" / "store.zarr.partial").exists()


def test_arguments_are_checked_before_the_directory_is_made(tmp_path):
    for change in ({"steps": 0}, {"block_size": 0}, {"snapshots": [500]}, {"axes": {"learning_rate": [-1.0]}}):
        with pytest.raises(dj.InputError):
            run(tmp_path / "run", **{"steps": 200, **change})
    assert not (tmp_path / "run").exists()
