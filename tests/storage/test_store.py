"""A run's directory: what a killed, failed or interrupted run leaves, how it is continued, and what is refused."""

import errno
import importlib
import json
import os
import resource
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
from dysonjax.experiments import running
from dysonjax.storage import store
from dysonjax.storage.merging import merge

pytestmark = pytest.mark.optimised  # it is about bits, and runs for long

module = importlib.import_module("dysonjax.engine.scanning")  # `dysonjax.scan` is the function

OU = ornstein_uhlenbeck()
AXES = {"temperature": [0.5, 2.0, 1.0], "batch_size": [1, 2], "learning_rate": [0.3, 0.05], "seed": range(40)}
STEPS, BLOCK = 2000, 40
BLOCKS = 2 * 6  # two buckets of 240 replicas
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
    assert {p.name for p in (tmp_path / "new" / "folder").iterdir()} == {"store.zarr", "blocks", "sessions", "run.json"}


def test_a_finished_run_is_neither_computed_nor_written_again(finished, copy, count):
    before = contents(copy)
    assert_same(store.load(finished).dataset(), run(copy, steps=200))
    assert count == []
    assert contents(copy) == before


def test_what_was_run_on_what_is_readable_text(finished):
    group = json.loads((finished / "store.zarr" / "zarr.json").read_text())["attributes"]
    assert group["header"]["experiment"]["steps"] == 200
    assert group["header"]["axes"] == {n: list(v) for n, v in AXES.items()}
    (session,) = (json.loads(path.read_text()) for path in (finished / "sessions").iterdir())
    for told in (group, session):
        assert told["versions"]["jax"] == jax.__version__
        assert told["processor"]["model"]
    assert group["command"]


@pytest.mark.parametrize("stored", [True, False])
def test_interrupted_in_a_notebook_it_gives_back_what_is_finished(whole, tmp_path, monkeypatch, count, caplog, stored):
    def stop(self, *block):
        if len(count) == 9:
            raise KeyboardInterrupt
        write(self, *block)

    write, out = store.Store.write, tmp_path / "run" if stored else None
    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "write", stop)
        patch.setattr(module, "in_notebook", lambda: True)
        part = run(out)
    kept = part.diverged_step != -2
    assert int(kept.sum()) == 8 * BLOCK
    assert_same(whole.where(kept), part.where(kept), ["levels", "x"])
    assert f"interrupted: {4 * BLOCK} of 480 replicas are not computed" in caplog.text
    if stored:
        assert_same(part, dj.open(tmp_path / "run"))
        assert_same(whole, run(out))
        assert count == [BLOCK] * (9 + 4)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_between_blocks_and_continued(whole, tmp_path, monkeypatch, count, error):
    write = store.Store.write

    def stop(self, bucket, rows, values):
        if len(count) == 9:
            raise error
        write(self, bucket, rows, values)

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "write", stop)
        with pytest.raises(error):
            run(tmp_path / "run")
    assert pending(tmp_path / "run") == BLOCKS - 8
    count.clear()
    # on other devices and with another block size asked for; the store keeps its own
    ds = run(tmp_path / "run", devices=jax.devices()[:1], block_size=100)
    assert count == [BLOCK] * (BLOCKS - 8)
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
    """A short run of which 8 of 12 blocks are finished."""
    write, done = store.Store.write, []

    def stop(self, bucket, rows, values):
        if len(done) == 8:
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
    assert int(missing.sum()) == 4 * BLOCK
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
test_store.run(sys.argv[1])
"""


def child(out):
    program = CHILD.format(tests=str(Path(__file__).parent))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    return subprocess.Popen([sys.executable, "-c", program, str(out)], env=env, stderr=subprocess.PIPE, text=True)


def finished_blocks(out):
    """Counted by files, as a program outside would."""
    return len([*(out / "blocks").glob("*.json")])


def test_killed_at_random_moments_and_continued(whole, tmp_path, count):
    """kill −9, twice, between and in blocks; what was finished is never computed again.

    What a kill while the store is made leaves has a test of its own below.
    """
    out = tmp_path / "run"
    done = 0
    for moment in np.random.default_rng(0).uniform(0, 0.03, 2):
        process = child(out)
        deadline = time.monotonic() + 120
        target = done + 2
        while process.poll() is None and time.monotonic() < deadline:
            if finished_blocks(out) >= target:
                break
            time.sleep(0.0005)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        _, messages = process.communicate()
        assert process.returncode == -signal.SIGKILL, messages
        left = pending(out)
        assert target <= BLOCKS - left
        done = BLOCKS - left
    assert 0 < left < BLOCKS - 3  # killed before the end, and after some work  # type: ignore[possibly-undefined]  # the loop sets it
    part = store.load(out).dataset()
    kept = part.diverged_step != -2
    assert int(kept.sum()) == done * BLOCK
    assert_same(whole.where(kept), part.where(kept), ["levels", "x"])
    assert_same(whole, run(out))
    assert count == [BLOCK] * left  # type: ignore[possibly-undefined]  # the loop sets it


def test_a_full_disk(whole, tmp_path, monkeypatch, count):
    """A real refusal by the operating system: no file may grow beyond 64 bytes from the eighth block on."""
    write, allowed = store.Store.write, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(self, *block):
        if len(count) == 8:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, allowed[1]))
        write(self, *block)

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "write", limited)
        try:
            refused(lambda: run(tmp_path / "run"), "cannot be written", "finished blocks are kept")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert pending(tmp_path / "run") == BLOCKS - 7
    assert not [p for p in (tmp_path / "run").rglob("*.partial")]
    count.clear()
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
        patch.setattr("pathlib.Path.write_text", forbidden)
        refused(lambda: run(half, steps=200), "Permission denied")
    assert contents(half) == before
    assert pending(half) == 4


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


def chunk(out, array="x", block="1/2"):
    return out / "store.zarr" / array / "c" / block / ("" if array == "diverged_step" else "0/0")


def flip(path, at=5):
    content = bytearray(path.read_bytes())
    content[at] ^= 16
    path.write_bytes(content)


def swap(one, other):
    one_content, other_content = one.read_bytes(), other.read_bytes()
    one.write_bytes(other_content)
    other.write_bytes(one_content)


def another_runs_block(out):
    """All files of a block, its list among them, of the same run with another key."""
    run(out / "other", steps=200, key=6)
    for array in ("x", "levels"):
        shutil.copy(chunk(out / "other", array), chunk(out, array))
    shutil.copy(out / "other" / "blocks" / "1.2.json", out / "blocks" / "1.2.json")
    shutil.rmtree(out / "other")


def write_twice(out, **values):
    """As a process does on another platform that was killed before it wrote its list."""
    made, kept = store.load(out, writable=True), (out / LIST).read_bytes()
    bucket, rows = made.blocks()[BLOCKS // 2 + 2]
    made.write(bucket, rows, {**made.read(bucket, rows), **values})
    (out / LIST).write_bytes(kept)


GROUP, LIST = "store.zarr/zarr.json", "blocks/1.2.json"
DAMAGE = {
    "a chunk is missing": (lambda out: chunk(out).unlink(), "x/c/1/2/0/0 is missing"),
    "a chunk is cut": (lambda out: chunk(out).write_bytes(chunk(out).read_bytes()[:20]), "has 20 bytes instead of"),
    "a chunk is empty": (lambda out: chunk(out).write_bytes(b""), "has 0 bytes instead of"),
    "a chunk has another bit": (lambda out: flip(chunk(out)), "x/c/1/2/0/0 was changed after it was written"),
    "a chunk's checksum has another bit": (lambda out: flip(chunk(out), -1), "was changed after it was written"),
    "chunks are swapped": (lambda out: swap(chunk(out), chunk(out, block="0/4")), "of another block or array, x/c/"),
    "a compressed chunk has another bit": (lambda out: flip(chunk(out, "diverged_step")), "was changed after"),
    "a block is another run's": (another_runs_block, "is the list of a block of another run"),
    "a chunk is another run's": (lambda out: shutil.copy(chunk(out, "levels"), chunk(out)), "is that of another block"),
    "a chunk is written twice": (lambda out: write_twice(out, x=np.ones((BLOCK, 4, 1))), "c/1/2/0/0 was written twice"),
    "a compressed chunk is written twice": (
        lambda out: write_twice(out, diverged_step=np.arange(BLOCK)), "diverged_step/c/1/2 was written twice",
    ),
    "a list is missing": (lambda out: (out / LIST).unlink(), "the list of this finished block is missing"),
    "a list is cut": (lambda out: (out / LIST).write_text((out / LIST).read_text()[:40]), "cannot be read"),
    "a list is empty": (lambda out: (out / LIST).write_text(""), "cannot be read"),
    "a list is edited": (lambda out: edit(out / LIST, lambda d: d.update(session="mine")), "was changed after"),
    "a list is another block's": (lambda out: shutil.copy(out / "blocks/0.4.json", out / LIST), "is that of block 0.4"),
    "the group's metadata are cut": (lambda out: (out / GROUP).write_text((out / GROUP).read_text()[:200]), "read"),
    "the group's metadata are empty": (lambda out: (out / GROUP).write_text(""), "cannot be read"),
    "the group's metadata are missing": (lambda out: (out / GROUP).unlink(), "cannot be read"),
    "the group's attributes are edited": (
        lambda out: edit(out / GROUP, lambda d: d["attributes"]["header"]["snapshots"].pop()), "was changed after",
    ),
    "the group's copy of an array's metadata is edited": (
        lambda out: edit(out / GROUP, lambda d: d["consolidated_metadata"]["metadata"]["x"].update(fill_value=0.0)),
        "does not tell what the arrays' own zarr.json tell",
    ),
    "an array's metadata are edited": (
        lambda out: edit(out / "store.zarr/x/zarr.json", lambda d: d.update(fill_value=0.0)), "was changed after",
    ),
    "an array's metadata are cut": (lambda out: (out / "store.zarr/x/zarr.json").write_text('{"zarr_fo'), "read"),
    "an array is missing": (lambda out: shutil.rmtree(out / "store.zarr/x"), "cannot be read"),
    "a hyper-parameter has another bit": (lambda out: flip(out / "store.zarr/learning_rate/c/0"), "cannot be read"),
    "a hyper-parameter is missing": (
        lambda out: (out / "store.zarr/learning_rate/c/0").unlink(), "is not what the run was made with",
    ),
    "another format": (
        lambda out: edit(out / GROUP, lambda d: d["attributes"].update(format="dysonjax run 99")),
        "expected format 'dysonjax run 2', found 'dysonjax run 99'",
    ),
    "no format": (lambda out: edit(out / GROUP, lambda d: d["attributes"].pop("format")), "found None"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_wherever_the_run_is_used_and_left_alone(copy, name):
    change, words = DAMAGE[name]
    change(copy)
    before = contents(copy)
    for use in (
        lambda: dj.open(copy).load(),
        lambda: run(copy, steps=200),
        lambda: merge(copy.parent / "merged", [copy]),
        lambda: running.report(copy),
    ):
        refused(use, str(copy), words)
    assert contents(copy) == before
    (told, *_) = (found.message for found in dj.verify(copy).damage)
    assert words in told


@pytest.mark.parametrize("flips", [20, 200])
def test_no_bit_flip_in_any_file_of_numbers_is_unnoticed(copy, flips):
    """A full read, as `dj.open` makes it, of damaged copies."""
    chunks = [p for p in (copy / "store.zarr").rglob("*") if p.is_file() and "c" in p.relative_to(copy).parts]
    draw = np.random.default_rng(0)
    for path in draw.choice(np.array(chunks), flips):
        good = path.read_bytes()
        bad = bytearray(good)
        bad[draw.integers(len(bad))] ^= 1 << draw.integers(8)
        path.write_bytes(bad)
        refused(lambda: dj.open(copy).load(), str(copy))
        path.write_bytes(good)
    dj.open(copy).load()


def test_damaged_blocks_are_set_back_and_computed_again(finished, copy, count):
    flip(chunk(copy, block="0/5"))
    chunk(copy, block="0/4").unlink()
    (copy / "blocks" / "0.0.json").unlink()
    write_twice(copy, diverged_step=np.arange(BLOCK))
    found = dj.verify(copy, repair=True)
    assert {damage.block for damage in found.damage} == {(1, 2), (0, 5), (0, 4), (0, 0)}
    assert pending(copy) == 4
    assert_same(store.load(finished).dataset(), run(copy, steps=200))
    assert count == [BLOCK] * 4
    assert not dj.verify(copy).damage
    again = (copy / "store.zarr/x/c/1/2/0/0").read_bytes()
    assert again == (finished / "store.zarr/x/c/1/2/0/0").read_bytes()


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
