"""Records in a run's directory: the same request continues, another one is refused by its first difference."""

from dataclasses import asdict, dataclass

import pytest

from dysonjax.core.errors import StoreError
from dysonjax.storage.records import recall, remember


@dataclass(frozen=True)
class Request:
    rates: tuple[tuple[float, int], ...] = ((0.1, 4),)
    name: str = "RBM"


def test_a_record_comes_back_as_it_was(tmp_path):
    request = Request(((0.1, 4), (0.2, 8)))
    remember(tmp_path / "new", "run.json", asdict(request))
    remember(tmp_path / "new", "run.json", asdict(request))
    assert recall(tmp_path / "new", "run.json", Request, "a request") == request
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["run.json"]


def test_what_is_no_record_is_refused(tmp_path):
    remember(tmp_path, "run.json", asdict(Request()))
    with pytest.raises(StoreError, match=r"holds another run \(name = 'RBM' there, 'GPT' asked for\)"):
        remember(tmp_path, "run.json", asdict(Request(name="GPT")))
    (tmp_path / "run.json").write_text('{"names": 3}')
    with pytest.raises(StoreError, match="not a request"):
        recall(tmp_path, "run.json", Request, "a request")
    for damage in ("[1, 2]", "{", "3"):
        (tmp_path / "run.json").write_text(damage)
        with pytest.raises(StoreError, match="not a request"):
            recall(tmp_path, "run.json", Request, "a request")
        with pytest.raises(StoreError, match="cannot be read"):
            remember(tmp_path, "run.json", asdict(Request()))
    with pytest.raises(StoreError, match="not a request"):
        recall(tmp_path, "other.json", Request, "a request")
