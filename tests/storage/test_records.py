"""Records in a run's directory: the same request continues, another one is refused by its first difference."""

import json

import pytest

from dysonjax.core.errors import StoreError
from dysonjax.storage.records import Record, recall, remember

SETTINGS = {"rates": ((0.1, 4), (0.2, 8)), "name": "RBM"}


def test_a_record_comes_back_as_it_was(tmp_path):
    for _ in range(2):
        remember(tmp_path / "new", "toy", SETTINGS)
    assert recall(tmp_path / "new") == Record("toy", SETTINGS)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["run.json"]
    assert {*json.loads((tmp_path / "new" / "run.json").read_text())} == {"format", "kind", "settings", "versions"}
    assert recall(tmp_path) is None


def test_another_run_is_refused(tmp_path):
    remember(tmp_path, "toy", SETTINGS)
    with pytest.raises(StoreError, match=r"holds another run \(name = 'RBM' there, 'GPT' asked for\)"):
        remember(tmp_path, "toy", {**SETTINGS, "name": "GPT"})
    with pytest.raises(StoreError, match=r"holds another run \(kind = 'toy' there, 'gas' asked for\)"):
        remember(tmp_path, "gas", SETTINGS)


@pytest.mark.parametrize("damage", ["[1, 2]", "{", "3", '{"kind": "toy"}'])
def test_what_is_no_record_is_refused(tmp_path, damage):
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(StoreError, match="cannot be read"):
        recall(tmp_path)
    with pytest.raises(StoreError, match="cannot be read"):
        remember(tmp_path, "toy", SETTINGS)


def test_a_record_of_an_earlier_version_is_no_record_of_today(tmp_path):
    (tmp_path / "run.json").write_text('{"model": "rbm"}')
    assert recall(tmp_path) is None
