"""Texts as numbers: every character once, windows that predict each once, files and downloads that are refused."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dysonjax.core.errors import InputError
from dysonjax.models import text as texts
from dysonjax.models.text import Text, load, windows


@given(st.text(min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_decoding_is_the_inverse_of_encoding(content):
    text = Text(content)
    assert text.decode(text.tokens) == content
    assert sorted(set(text.characters)) == list(text.characters)
    assert len(text.train) + len(text.validation_tokens) == len(content)


def test_more_than_256_characters_need_two_bytes():
    content = "".join(chr(c) for c in range(100, 500))
    assert Text(content[:200]).tokens.dtype == np.uint8
    assert Text(content).tokens.dtype == np.uint16
    assert Text(content).tokens.max() == 399


def test_windows_predict_every_character_once():
    tokens = np.arange(103)
    found = windows(tokens, 10)
    assert found.shape == (10, 11)
    assert found[:, 1:].ravel().tolist() == list(range(1, 101))
    assert (found[:, :-1] + 1 == found[:, 1:]).all()
    few = windows(tokens, 10, most=3)
    assert few[:, 0].tolist() == [0, 30, 60]


def test_a_text_of_a_file(tmp_path):
    place = tmp_path / "poem.txt"
    place.write_text("Röslein, Röslein, Röslein rot\n" * 5, encoding="utf-8")
    text = load(place, validation=0.2)
    assert text.name == str(place)
    assert "ö" in text.characters
    assert len(text.validation_tokens) == 30
    text.check(29)
    with pytest.raises(InputError, match="30 to validate: expected more than the context of 30"):
        text.check(30)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "expected a file of text"), (b"", "not empty"), (b"ab\xff\xfe", "expected UTF-8, byte 2 is not")],
)
def test_files_that_are_no_text(tmp_path, content, message):
    place = tmp_path / "input.txt"
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load(place)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("text = '")


def test_characters_of_another_text_are_refused():
    with pytest.raises(InputError, match="character = 'z': expected one of nursery"):
        Text("humpty", name="nursery").encode("z")


def test_shares_that_leave_nothing():
    for share in (0, 1, -0.1, "half"):
        with pytest.raises(InputError, match="validation"):
            Text("abc", validation=share)  # type: ignore[arg-type]  # wrong on purpose


def fake(monkeypatch, content: bytes):
    """A Tiny Shakespeare of our own."""
    monkeypatch.setattr(texts, "SHAKESPEARE_SHA256", hashlib.sha256(content).hexdigest())


def test_shakespeare_from_a_folder(monkeypatch, tmp_path):
    fake(monkeypatch, b"To be, or not to be")
    monkeypatch.setenv(texts.DATA_VARIABLE, str(tmp_path))
    (tmp_path / texts.SHAKESPEARE_FILE).write_bytes(b"To be, or not to be")
    assert load("shakespeare").content == "To be, or not to be"
    (tmp_path / texts.SHAKESPEARE_FILE).write_bytes(b"To be, or to be")
    with pytest.raises(InputError, match="SHA-256"):
        load("shakespeare")


def test_shakespeare_from_the_cache_or_not_at_all(monkeypatch, tmp_path):
    fake(monkeypatch, b"But soft")
    monkeypatch.delenv(texts.DATA_VARIABLE, raising=False)
    monkeypatch.setattr(texts.pooch, "os_cache", lambda name: tmp_path / name)

    def offline(url, known_hash, name, path):
        place = path / name
        if not place.exists():
            raise OSError("no network")
        return str(place)

    monkeypatch.setattr(texts.pooch, "retrieve", offline)
    with pytest.raises(InputError) as error:
        load("shakespeare")
    said = str(error.value)
    assert "\n" not in said
    assert texts.SHAKESPEARE_URL in said
    assert texts.SHAKESPEARE_FILE in said
    assert texts.DATA_VARIABLE in said
    (tmp_path / "dysonjax").mkdir()
    (tmp_path / "dysonjax" / texts.SHAKESPEARE_FILE).write_text("But soft")
    assert load("shakespeare").content == "But soft"


def test_the_real_shakespeare(pytestconfig):
    import os

    folder = os.environ.get(texts.DATA_VARIABLE)
    if not folder:
        pytest.skip(f"{texts.DATA_VARIABLE} is not set")
    text = load("shakespeare")
    assert len(text.content) == 1_115_394
    assert len(text.characters) == 65
    assert len(text.train) == 1_003_854
