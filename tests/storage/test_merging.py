"""Shares of a run without a connection between them: in one store, merged from several, and what is refused."""

import numpy as np
import pytest
from conftest import assert_same, ornstein_uhlenbeck

import dysonjax as dj
from dysonjax.cli.app import main
from dysonjax.experiments import running
from dysonjax.experiments.linear_scaling.experiment import TeacherStudentScaling
from dysonjax.runtime.team import Share, share_of
from dysonjax.storage import store
from dysonjax.storage.merging import merge

OU = ornstein_uhlenbeck()
AXES = {"temperature": [0.5, 2.0], "batch_size": [1, 2], "learning_rate": [0.3, 0.05], "seed": range(10)}
BLOCKS = 6  # two buckets of 40 replicas in blocks of 16


def run(out=None, share=(0, 1), **options):
    options = {"snapshots": [7], "block_size": 16, "key": 5, **options}
    return dj.scan(OU, dj.Grid(**AXES), options.pop("steps", 12), out=out, share=Share(*share), **options)


@pytest.fixture(scope="module")
def whole():
    return run()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The three shares, each in a directory of its own."""
    places = [tmp_path_factory.mktemp("shares") / f"part{i}" for i in range(3)]
    for i, part in enumerate(places):
        run(part, (i, 3))
    return places


def refused(call, *words):
    with pytest.raises(dj.StoreError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def test_shares_cover_every_block_once():
    for count in (1, 2, 3, 7):
        taken = [n for i in range(count) for n in Share(i, count).of(range(20))]
        assert sorted(taken) == list(range(20))
    assert share_of(" 2/3") == Share(2, 3)
    for text in ("3/3", "-1/2", "1", "a/b", "0/0", "1/2/3", ""):
        with pytest.raises(dj.InputError, match="shard = "):
            share_of(text)


def test_shares_meet_in_one_store(whole, tmp_path):
    for i in (2, 0):
        part = run(tmp_path / "run", (i, 3))
    missing = part.diverged_step == -2
    assert 0 < int(missing.sum()) < missing.size
    assert np.isnan(part.x.where(missing, drop=True)).all()
    assert_same(whole.where(~missing), part.where(~missing), ["x", "levels"])
    assert running.unfinished(tmp_path / "run") == (["1", "4"], BLOCKS)
    assert_same(whole, run(tmp_path / "run", (1, 3)))
    assert_same(whole, run(tmp_path / "run"))


def test_shares_are_merged(whole, parts, tmp_path):
    assert merge(tmp_path / "all", parts) == BLOCKS
    merged = store.load(tmp_path / "all")
    assert_same(whole, merged.dataset())
    assert [s["share"] for s in merged.header.provenance] == ["0/3", "1/3", "2/3"]
    assert merge(tmp_path / "all", parts) == BLOCKS  # again changes nothing
    assert len(store.load(tmp_path / "all").header.provenance) == 3


def test_an_interrupted_merge_is_continued(whole, parts, tmp_path, monkeypatch):
    write, written = store.Store.write, []

    def stop(self, *arguments):
        written.append(arguments)
        if len(written) == 4:
            raise KeyboardInterrupt
        write(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store.Store, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            merge(tmp_path / "all", parts)
    assert len(store.load(tmp_path / "all").pending()) == BLOCKS - 3
    merge(tmp_path / "all", parts)
    assert_same(whole, store.load(tmp_path / "all").dataset())


def test_parts_that_do_not_belong_together_are_refused_by_name(parts, tmp_path):
    out = tmp_path / "all"
    refused(lambda: merge(out, parts[:2]), "of 6 blocks, 2, 5 are in none of the parts (shard 0/3, shard 1/3)")
    refused(lambda: merge(out, [*parts, parts[1]]), parts[1], "overlaps", "blocks 1, 4 too")
    (tmp_path / "holiday").mkdir()
    refused(lambda: merge(out, [*parts, tmp_path / "holiday"]), tmp_path / "holiday", "expected a run of dysonjax")
    refused(lambda: merge(out, [*parts, tmp_path / "nowhere"]), tmp_path / "nowhere", "expected a run of dysonjax")
    run(tmp_path / "longer", (2, 3), steps=13)
    refused(lambda: merge(out, [*parts[:2], tmp_path / "longer"]), tmp_path / "longer", "steps = 12 there, 13 here")
    run(tmp_path / "blocks", (2, 3), block_size=8)
    refused(
        lambda: merge(out, [*parts[:2], tmp_path / "blocks"]), tmp_path / "blocks", "blocks of 8 replicas", "has 16"
    )
    assert not out.exists()
    out.mkdir()
    (out / "thesis.tex").write_text("all of it")
    refused(lambda: merge(out, parts), out, "'thesis.tex'")


def test_a_run_of_several_scans_is_merged(tmp_path):
    settings = TeacherStudentScaling((0.1,), (4,), level=("dyson",), seeds=20, time=1.0)
    one, two = tmp_path / "one", tmp_path / "two"
    for i, part in enumerate((one, two)):
        running.run(settings, part, share=Share(i, 2), block_size=8)
    merge(tmp_path / "all", [one, two])
    (ds,) = running.load(tmp_path / "all")[1].values()
    assert np.isfinite(ds.levels).all()
    refused(lambda: running.load(one), "blocks are not finished")
    (two / "run.json").write_text((two / "run.json").read_text().replace('"seeds": 20', '"seeds": 21'))
    refused(lambda: merge(tmp_path / "no", [one, two]), two, "run.json differs")


GAS = ["gas", "--levels", "3", "--temperature", "0.1,1", "--seeds", "16", "--steps", "20", "--snapshots", "2"]


def command(arguments, capsys):
    code = main([str(a) for a in arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return code, " ".join(said.out.split()), said.err


def test_shards_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "dysonjax.experiments.gas.statistics.statistics", lambda run, ds: []
    )  # what they show has its own tests
    for name in ("gas_table", "gas_advice", "draw"):
        monkeypatch.setattr(f"dysonjax.experiments.gas.figures.{name}", lambda *arguments: [])
    for i in (0, 1):
        out = tmp_path / f"part{i}"
        code, said, _ = command([*GAS, "--block-size", 8, "--shard", f"{i}/2", "--out", out], capsys)
        assert code == 0
        assert f"Shard {i}/2 is finished" in said
        assert "1, 3" in said if i == 0 else "0, 2" in said
    code, _, err = command(["report", out], capsys)
    assert code == 1
    assert "2 blocks are not finished of 4: 0, 2" in err
    code, said, _ = command(["merge", tmp_path / "all", tmp_path / "part0", tmp_path / "part1"], capsys)
    assert code == 0
    assert "4 blocks in" in said
    code, said, _ = command(["merge", tmp_path / "part0", tmp_path / "part1", "--out", tmp_path / "too"], capsys)
    assert code == 0
    assert f"4 blocks in {tmp_path / 'too'}" in said
    code, _, err = command(["merge", tmp_path / "part0"], capsys)
    assert code == 2
    assert "expected the whole run's directory and those of its parts, or --out" in err
    assert command(["report", tmp_path / "all"], capsys)[0] == 0
    code, _, err = command(["merge", tmp_path / "no", tmp_path / "part0"], capsys)
    assert code == 1
    assert err.count("\n") == 1
    assert "1, 3 are in none of the parts" in err
    # the last shard of a common store reports as a whole run does
    assert command([*GAS, "--shard", "1/2", "--out", tmp_path / "part0"], capsys)[0] == 0
    assert (tmp_path / "part0" / "report.txt").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shard", "2/2"], "shard = '2/2': expected i/n"),
        (["--shard", "0/2", "--overwrite"], "expected no --overwrite with --shard"),
        (["--processes", "2"], "expected all three or none"),
        (
            ["--coordinator", "here", "--processes", "2", "--process-id", "0"],
            "coordinator = 'here': expected HOST:PORT",
        ),
        (["--coordinator", "h:1", "--processes", "2", "--process-id", "2"], "process-id = 2: expected"),
        (["--block-size", "0"], "block_size = 0: expected a whole number"),
    ],
)
def test_bad_shares_are_one_line(arguments, words, tmp_path, capsys):
    code, _, err = command([*GAS, *arguments, "--out", tmp_path / "run"], capsys)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
