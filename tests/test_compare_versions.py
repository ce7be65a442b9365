"""Two versions are compared bit for bit, and one changed bit is found."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import compare_versions
from tests.compare_versions import compare, difference, told

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """What the script leaves of a cheap run."""
    place = tmp_path_factory.mktemp("recorded")
    words = [sys.executable, "-m", "tests.small_runs", "--only", "teacher-student-population", "--out", str(place)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def other(recorded, tmp_path):
    return Path(shutil.copytree(recorded, tmp_path / "other"))


def change(file: Path, alter) -> None:
    arrays = dict(np.load(file))
    alter(arrays)
    np.savez(file, **arrays)


def test_every_array_is_there_and_equal_to_itself(recorded, other, capsys):
    rows = list(compare(recorded, other))
    assert {(row.devices, row.array) for row in rows} >= {(n, a) for n in "12" for a in ("levels", "diverged_step")}
    assert told(rows, False) == 0
    assert f"{len(rows)} equal" in capsys.readouterr().out


def test_one_and_two_devices_record_the_same(recorded):
    assert [row.found for row in compare_folders(recorded / "1", recorded / "2")] == ["equal"] * 3


def compare_folders(one: Path, two: Path):
    """The arrays of one number of devices against those of another."""
    for file in sorted(one.glob("*.npz")):
        first, second = np.load(file), np.load(two / file.name)
        for name in first:
            yield compare_versions.Row("", file.stem, name, difference(first[name], second[name]))


def test_one_changed_bit_is_found(recorded, other, capsys):
    def flip(arrays):
        arrays["levels"].reshape(-1).view(np.uint32)[5] ^= 1

    change(other / "2" / "teacher-student-population.npz", flip)
    bad = [row for row in compare(recorded, other) if row.fails]
    assert [(row.devices, row.run, row.array) for row in bad] == [("2", "teacher-student-population", "levels")]
    assert bad[0].found.startswith("1 of ")
    assert told(bad, False) == 1
    assert "1 without reason" in capsys.readouterr().out


def test_an_array_without_counterpart_fails_unless_the_tables_know_it(recorded, other, monkeypatch):
    def rename(arrays):
        arrays["eigenvalues"] = arrays.pop("levels")

    change(other / "1" / "teacher-student-population.npz", rename)
    assert [row.array for row in compare(recorded, other) if row.fails] == ["levels", "eigenvalues"]
    named = {"teacher-student-population levels": "teacher-student-population eigenvalues"}
    monkeypatch.setattr(compare_versions, "RENAMED", named)
    change(other / "2" / "teacher-student-population.npz", rename)
    assert not [row for row in compare(recorded, other) if row.fails]
    monkeypatch.setattr(compare_versions, "RENAMED", {"teacher-student-population levels": None})
    monkeypatch.setattr(compare_versions, "ADDED", {"* eigenvalues": "a new name"})
    assert not [row for row in compare(recorded, other) if row.fails]


def test_a_run_that_one_version_lacks_fails(recorded, other):
    (other / "1" / "teacher-student-population.npz").unlink()
    assert {row.found for row in compare(recorded, other) if row.fails} == {"only in OLD"}
    assert {row.found for row in compare(other, recorded) if row.fails} == {"only in NEW"}


def test_nothing_compared_is_no_success(tmp_path):
    assert told(list(compare(tmp_path, tmp_path)), False) == 1


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), "equal"),
        (np.array([0.0]), np.array([-0.0]), "1 of 1 differ, by 0 at most"),
        (np.array([1.0, 2.0]), np.array([1.0, 2.5]), "1 of 2 differ, by 0.5 at most, 2.5e-01 of the largest"),
        (np.array([np.nan]), np.ones(1), "1 of 1 differ, by 0 at most; 1 finite in one only"),
        (np.array([1]), np.array([1.0]), "int64 [1] became float64 [1]"),
        (np.array([1j, 2]), np.array([1j, 3]), "1 of 2 differ, by 1 at most, 5.0e-01 of the largest"),
        (np.array(["a"]), np.array(["b"]), "1 of 1 differ"),
        (np.array([True, False]), np.array([True, True]), "1 of 2 differ"),
    ],
)  # fmt: skip
def test_differences_in_words(a, b, found):
    assert difference(a, b) == found


def test_expected_differences_are_told_with_their_reason(monkeypatch, capsys):
    monkeypatch.setattr(compare_versions, "EXPECTED", {"gas *": "another generator"})
    reason = compare_versions.why(compare_versions.EXPECTED, "gas", "levels")
    row = compare_versions.Row("1", "gas", "levels", "1 of 2 differ", reason)
    assert told([row], False) == 0
    assert "another generator" in capsys.readouterr().out
    assert not compare_versions.why(compare_versions.EXPECTED, "rbm-sgd", "levels")
