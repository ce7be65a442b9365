"""`dysonjax analyze`: tables of saved weights, files beside them, and refusals in one line."""

import numpy as np
import pytest

from dysonjax.cli.app import main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("weights")
    rng = np.random.default_rng(0)
    before = {"attn.key": rng.normal(size=(24, 48)), "attn.query": rng.normal(size=(24, 48)), "bias": np.zeros(4)}
    after = {**before, "attn.key": before["attn.key"] + 3 * np.outer(np.ones(24), np.ones(48))}
    for name, arrays in (("before", before), ("after", after)):
        np.savez(directory / f"{name}.npz", **{k: v.astype(np.float32) for k, v in arrays.items()})
    return directory


def test_a_file_is_read_and_shown(saved, capsys, tmp_path):
    assert main(["analyze", str(saved / "after.npz"), "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "attn.key" in text and "attn.query" in text and "bias" not in text
    assert (tmp_path / "report.txt").read_text().strip() == text.strip()
    rows = (tmp_path / "spectra.csv").read_text().splitlines()
    assert len(rows) == 3 and "alpha" in rows[0]


def test_two_files_are_compared(saved, capsys):
    pair = [str(saved / "before.npz"), str(saved / "after.npz")]
    assert main(["analyze", *pair, "--pattern", "*key"]) == 0
    text = capsys.readouterr().out
    assert "attn.key" in text and "attn.query" not in text


def test_kernels_are_folded_as_told(tmp_path, capsys):
    np.savez(tmp_path / "w.npz", conv=np.random.default_rng(1).normal(size=(12, 8, 3)).astype("f4"))
    for words, shape, said in (
        ([], "96×3", "as flax's"),
        (["--kernels", "torch"], "12×24", "as torch's"),
        (["--stack", "1"], "8×3", "conv[11]"),
    ):
        assert main(["analyze", str(tmp_path / "w.npz"), *words]) == 0
        text = capsys.readouterr().out
        assert shape in text and said in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["after.npz", "--pattern", "*none*"], "pattern = '*none*'"),
        (["missing.npz"], "missing.npz"),
        (["after.txt"], "after.txt"),
    ],
)
def test_bad_input_is_one_line(saved, args, message, capsys):
    (saved / "after.txt").write_text("no weights")
    assert main(["analyze", str(saved / args[0]), *args[1:]]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
