"""Runs that other versions made: format 1 is shown and read, format 2 also finished and merged; tests/data/README.md.

Only the command line and what `import dysonjax` offers is used here, so that these tests outlive every module. The
settings of a user's own scan are kept here, too.
"""

import contextlib
import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
import zarr
from flax import nnx
from matplotlib.figure import Figure

import dysonjax as dj
from dysonjax.cli.app import main

DATA = Path(__file__).parent / "data"
OLD, KEPT = DATA / "format-1", DATA / "format-2"
TEXT = "rain.txt"
"""What the kept GPTs were trained on, beside them; a run knows it by this name in the current directory."""
NUMBER = re.compile(r"(?<![\w.])[-−+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")
FRAME = re.compile(r"[\s─━│┃┏┓┗┛┡┩┌┐└┘├┤┬┴┼┳┻╇╈╋┠┨]+")
NAMES = [
    "bbp", "bbp-unfinished", "gas", "gas-gram", "gas-part-0", "gas-part-1", "gas-singular", "gas-unfinished", "gpt",
    "gpt-grid", "gpt-grid-unfinished", "gpt-unfinished", "linear", "phase", "phase-buckets", "phase-unfinished", "rbm",
    "scan-rbm", "teacher-student", "teacher-student-unfinished", "user", "user-unfinished",
]  # fmt: skip


class Student(nnx.Module):
    """A user's own network."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(jnp.tanh(self.first(x)))


def users_scan(out: str | Path, share: dj.Share = dj.Share(0, 1)):  # noqa: B008 - a tuple that is never changed
    """A scan as a user would write it: two buckets of six blocks; at one learning rate every network diverges."""
    x = np.linspace(-1, 1, 96, dtype=np.float32).reshape(32, 3)
    model = dj.models.FlaxModel(
        module=lambda rngs: Student(rngs),
        loss_function=lambda net, example: jnp.sum((net(example[0]) - example[1]) ** 2),
        data=(x, np.sin(3 * x[:, :2])),
    )
    grid = dj.Grid(learning_rate=[0.05, 0.1, 1e12], batch_size=[2, 4], seed=range(4))
    return dj.scan(
        dj.sgd(model, batches=4), grid, 8, snapshots=[0, 4, 8], out=out, block_size=2, share=share, progress=False
    )


def told(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*arguments])
    return code, out.getvalue(), err.getvalue()


def report(run: str = "RUN") -> str:
    """All that `report` says of a run in the current directory, as it is kept."""
    code, out, err = told("report", run)
    return f"exit code {code}\n{out}standard error:\n{err}"


def unpack(name: str, place: str = "RUN", kept: Path = KEPT) -> Path:
    """A kept run in the current directory, beside the text of the GPTs."""
    shutil.copy(kept / TEXT, TEXT)
    with zipfile.ZipFile(kept / f"{name}.zip") as archive:
        archive.extractall(place)
    return Path(place)


def differences(said: str, kept: str) -> list[str]:
    """Where two reports differ: in any word, or in a number by more than one unit of its last printed digit.

    Other versions of NumPy and JAX, and other processors, differ in the last bits, which turn a digit where a number is
    just between two. Whole numbers are counts and must be equal; that in 1.42(20) is an error in units of the last
    digit. Widths of columns follow from the digits, so that blanks and frames do not count.
    """
    words = [NUMBER.sub("#", FRAME.sub(" ", text)).split() for text in (said, kept)]
    if words[0] != words[1]:
        pairs = [(a, b) for a, b in zip(*words, strict=False) if a != b]
        return [f"{a} instead of {b}" for a, b in pairs] or [f"{len(words[0])} words instead of {len(words[1])}"]
    pairs = zip(NUMBER.finditer(said), NUMBER.finditer(kept), strict=True)
    return [f"{a[0]} instead of {b[0]}" for a, b in pairs if abs(value(a) - value(b)) > 1.001 * max(unit(a), unit(b))]


def value(number: re.Match[str]) -> float:
    """A printed number."""
    return float(number[0].replace("−", "-"))


def unit(number: re.Match[str]) -> float:
    """One in the last digit of a printed number, 0 for a count."""
    digits, _, exponent = number[0].partition("e")
    decimals = len(digits.partition(".")[2])
    behind_digit = re.search(r"\d\($", number.string[: number.start()]) is not None
    return 10.0 ** (int(exponent or 0) - decimals) if decimals or exponent or behind_digit else 0.0


def kept_files(name: str, kept: Path = KEPT) -> dict[str, bytes]:
    """The files of a kept run."""
    with zipfile.ZipFile(kept / f"{name}.zip") as archive:
        return {n: archive.read(n) for n in archive.namelist()}


def assert_kept(run: Path, name: str, kept: Path = KEPT) -> None:
    """Every file that a run has had is as it was, but for the metadata of a group that has since been finished."""
    files = kept_files(name, kept)
    assert files
    changed = [n for n, content in files.items() if (run / n).read_bytes() != content]
    assert [n for n in changed if not n.endswith("store.zarr/zarr.json")] == []


def assert_near(found: np.ndarray, wanted: np.ndarray, rtol: float = 1e-3) -> None:
    """The same numbers as another processor computes them, in a few updates."""
    assert found.dtype == wanted.dtype
    if np.issubdtype(found.dtype, np.floating):
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-5)
    else:
        np.testing.assert_array_equal(found, wanted)


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    """Paths in what is said are relative; figures are counted and composed, but drawing them takes too long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Path(path).write_bytes(b""))


@pytest.mark.parametrize("kept", [OLD, KEPT], ids=lambda kept: kept.name)
def test_every_kind_is_kept_and_nothing_of_the_machine(kept):
    for kind in ("zip", "txt"):
        assert sorted(p.stem for p in kept.glob(f"*.{kind}") if p.name != TEXT) == NAMES
    assert sum(p.stat().st_size for p in kept.rglob("*") if p.is_file()) < 2**21
    for name in NAMES:
        assert not re.search(r"(^|[\s:])/\w|\d{4}-\d\d-\d\d|s left", (kept / f"{name}.txt").read_text())
        files = kept_files(name, kept)
        assert not [n for n, content in files.items() if re.search(rb"/(home|root|tmp|work|Users)/", content)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kept", [OLD, KEPT], ids=lambda kept: kept.name)
def test_report_says_what_it_said(name, kept):
    run = unpack(name, kept=kept)
    assert differences(report(), (kept / f"{name}.txt").read_text()) == []
    assert_kept(run, name, kept)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("gpt") or name == "gpt-grid"])
@pytest.mark.parametrize("kept", [OLD, KEPT], ids=lambda kept: kept.name)
def test_what_was_computed_is_read_bit_for_bit(name, kept):
    """Finished or not; a run of several jobs is a tree, whose arrays are kept by FOLDER/NAME."""
    run, wanted = unpack(name, kept=kept), np.load(kept / f"{name}.npz")
    found = dj.open(run)
    nodes = {"": found} if isinstance(found, xr.Dataset) else {f"{n.path[1:]}/": n.to_dataset() for n in found.leaves}
    values = {f"{folder}{v}": ds[v].values for folder, ds in nodes.items() for v in ds.variables}
    assert {v for v in values if v.endswith("diverged_step")} == {
        v for v in wanted.files if v.endswith("diverged_step")
    }
    assert len(values.keys() & {*wanted.files}) > len(nodes)
    for variable in values.keys() & {*wanted.files}:
        assert values[variable].dtype == wanted[variable].dtype
        assert values[variable].tobytes() == wanted[variable].tobytes()
    assert_kept(run, name, kept)


@pytest.mark.parametrize("call", [
    lambda: told("gas", "--resume", "gas-unfinished"),
    lambda: told("gas", "--extend", "gas", "--seeds", "16"),
    lambda: told("merge", "RUN", "gas-part-0", "gas-part-1"),
])  # fmt: skip
def test_format_1_is_not_written(call):
    for name in ("gas", "gas-unfinished", "gas-part-0", "gas-part-1"):
        unpack(name, name, OLD)
    code, _, err = call()
    assert code == 1
    assert "was written by dysonjax 0.1, which alone can continue, extend or merge it" in err
    assert err.count("\n") == 1
    assert not Path("RUN").exists()
    for name in ("gas", "gas-unfinished", "gas-part-0", "gas-part-1"):
        assert_kept(Path(name), name, OLD)


def test_a_users_scan_of_format_1_is_not_written():
    unpack("user", kept=OLD)
    with pytest.raises(dj.StoreError, match="was written by dysonjax"):
        users_scan("RUN")
    assert not dj.verify("RUN").damage


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("│ 8 gases, 1.42(20), 3.0e-02 │ nan", []),
        ("┃ 8  gases, 1.43(19), 2.9e-02 ┃ nan", []),
        ("│ 9 gases, 1.42(20), 3.0e-02 │ nan", ["9 instead of 8"]),
        ("│ 8 gases, 1.44(22), 3.0e-02 │ nan", ["1.44 instead of 1.42", "22 instead of 20"]),
        ("│ 8 gasses, 1.42(20), 3.0e-02 │ nan", ["gasses, instead of gases,"]),
        ("│ 8 gases, 1.42(20), 3.0e-02 │ nan nan", ["6 words instead of 5"]),
        ("│ 8 gases, -1.42(20), 3.0e-02 │ nan", ["-1.42 instead of 1.42"]),
    ],
)  # fmt: skip
def test_a_changed_report_is_noticed(said, found):
    assert differences(said, "│ 8 gases, 1.42(20), 3.0e-02 │ nan") == found


def test_a_users_scan_of_other_numbers_is_not_continued():
    """`sgd` of a user's network draws its batches otherwise since it was kept (`numerics` 2)."""
    run = unpack("user-unfinished")
    with pytest.raises(dj.StoreError, match=r"^RUN: holds another run \(") as refusal:
        users_scan(run)
    assert "\n" not in str(refusal.value)
    assert_kept(run, "user-unfinished")


def resumed(name: str, *command: str, rtol: float = 1e-3) -> None:
    """A command finishes an unfinished run, which then has the arrays of the finished one."""
    run, twin = unpack(f"{name}-unfinished"), unpack(name, "twin")
    assert told(*command)[0] == 0
    assert_kept(run, f"{name}-unfinished")
    stores = sorted(twin.rglob("store.zarr"))
    assert stores
    for store in stores:
        found, wanted = zarr.open_group(run / store.relative_to(twin), mode="r"), zarr.open_group(store, mode="r")
        for array, values in wanted.arrays():
            assert_near(np.asarray(found[array]), np.asarray(values[:]), rtol)


def test_a_gas_goes_on():
    resumed("gas", "gas", "--resume", "RUN")
    assert differences(report(), (KEPT / "gas.txt").read_text()) == []


@pytest.mark.slow  # as above; these compile for longer
def test_a_phase_diagram_goes_on():
    resumed("phase", "phase-diagram", "--resume", "RUN", rtol=0.1)  # at a rate of 256 roundings grow
    assert report().startswith("exit code 0\nPhases after 2 epochs of 5 batches, 8 networks")


@pytest.mark.slow
def test_a_scaling_run_goes_on():
    resumed("teacher-student", *made("teacher-student"), "--out", "RUN")
    assert differences(report(), (KEPT / "teacher-student.txt").read_text()) == []


@pytest.mark.slow
def test_a_gpt_goes_on_from_its_checkpoint():
    start = unpack("gpt-unfinished") / "initial.npz"
    start.unlink()
    assert told(*made("gpt"), "--out", "RUN")[0] == 0
    assert not start.exists()  # it would be written at the first update
    found, kept = (text.split("A sample")[0] for text in (report(), (KEPT / "gpt.txt").read_text()))
    assert differences(found, kept) == []


def made(name: str) -> list[str]:
    """The command that made a run, which goes on with it, too."""
    return json.loads((KEPT / "made.json").read_text())["commands"][name].split()


def test_parts_are_merged_into_the_whole():
    unpack("gas-part-0", "part-0")
    unpack("gas-part-1", "part-1")
    code, out, _ = told("merge", "RUN", "part-0", "part-1")
    assert (code, out.split()[0]) == (0, "4")
    assert differences(report(), (KEPT / "gas.txt").read_text()) == []
    numbers = {n: content for n, content in kept_files("gas").items() if "/c/" in n}
    assert len(numbers) > 4
    assert [n for n, content in numbers.items() if Path("RUN", n).read_bytes() != content] == []


def test_the_script_that_makes_them_works(monkeypatch, tmp_path):
    from tests.data import make  # it uses the package's modules, these tests do not

    monkeypatch.setattr(make, "RUNS", {"gas-unfinished": make.RUNS["gas-unfinished"]})
    make.make(tmp_path / "format-3")
    assert {p.name for p in (tmp_path / "format-3").iterdir()} == {
        TEXT, "made.json", "gas-unfinished.zip", "gas-unfinished.txt", "gas-unfinished.npz",
    }  # fmt: skip
    assert (
        differences(
            (tmp_path / "format-3" / "gas-unfinished.txt").read_text(), (KEPT / "gas-unfinished.txt").read_text()
        )
        == []
    )
    run = unpack("gas-unfinished", kept=tmp_path / "format-3")
    assert (run / "blocks" / "0.0.json").is_file()
