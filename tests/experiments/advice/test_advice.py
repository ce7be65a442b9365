"""An advice from the first network to the figures: interrupted, read without its network, refused."""

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dysonjax as dj
from dysonjax.experiments.advice import budget
from dysonjax.experiments.advice.experiment import Advice
from dysonjax.experiments.advice.tried import FRESH_SEEDS

X = np.random.default_rng(0).normal(size=(96, 4)).astype(np.float32)
DATA = (X[:64], X[:64] @ np.ones(4, np.float32)), (X[64:], X[64:] @ np.ones(4, np.float32))
GIVEN: dict[str, Any] = {
    "batch_size": (4, 16), "learning_rate": [0.003, 0.01, 0.03, 0.1, 0.3, 1.0], "steps": 40, "rounds": 2,
    "budget": "8000 updates", "snapshots": 6, "progress": False,
}  # fmt: skip


def changed(settings: dict[str, Any]) -> dict[str, Any]:
    return GIVEN | settings


def start(key):
    return {"w": 0.1 * jax.random.normal(key, (4, 3)), "v": 0.1 * jnp.ones(3)}


def loss(params, example):
    x, y = example
    return 0.5 * (x @ params["w"] @ params["v"] - y) ** 2


MODEL = dj.models.FunctionModel(start, loss, *DATA)


class Stops:
    """A progress bar that a person interrupts after so many replica-updates."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, done: int) -> None:
        self.left -= done
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("advice") / "whole"
    return out, dj.advise(MODEL, out=out, **GIVEN)


def test_it_says_what_to_use(whole):
    _, found = whole
    said = str(found)
    assert said.startswith("Use learning rate ")
    assert "networks blow up" in said or "blow up" in said or "diverge" in said
    assert "of the budget of 8000 updates" in said
    assert {line.batch_size for line in found.recommended} == {4, 16}
    for one in found.answer.lines:
        assert one.safe.low <= one.safe.rate <= one.safe.high
        assert one.recommended <= one.safe.low
        assert one.fresh.learned == one.fresh.networks >= 8
        assert one.above.rate > one.safe.rate
        assert one.below.phase in ("slow", "frozen")
        assert one.fresh.noise_scale > 0
    assert found.answer.across[0].safe.low < found.answer.across[0].safe.high
    assert "<table>" in found._repr_mimebundle_()["text/html"]


def test_it_keeps_to_the_budget_and_rounds_have_seeds_of_their_own(whole):
    _, found = whole
    assert [*found.results] == ["round-1", "round-2", "fresh"]
    assert sum(ds.sizes["point"] for ds in found.results.values()) * 40 <= 8000
    seeds = [{*ds.seed.values.tolist()} for ds in found.results.values()]
    assert not seeds[0] & seeds[1]
    assert min(seeds[2]) >= FRESH_SEEDS


def test_interrupted_and_resumed_it_is_the_same_bit_for_bit(whole, tmp_path):
    """In the first round, and in one of those that follow from it."""
    for after, there in ((1000, {"round-1"}), (3000, {"round-1", "round-2"})):
        with pytest.raises(KeyboardInterrupt):
            dj.advise(MODEL, out=tmp_path / "run", **changed({"progress": Stops(after)}))
        assert {place.name for place in (tmp_path / "run").glob("round-*")} == there
    found = dj.advise(MODEL, out=tmp_path / "run", **GIVEN)
    assert str(found) == str(whole[1])
    for name, ds in whole[1].results.items():
        for array in ds.data_vars:
            again = found.results[name][array].values
            assert again.tobytes() == ds[array].values.tobytes(), (name, array)


def test_it_is_reported_without_its_network_and_every_figure_is_drawn(whole, tmp_path):
    out, found = whole
    report = dj.experiments.report(out)
    assert "\n\n".join(map(str, report.said)) == str(found)
    drawn = {path.name for path in report.draw(tmp_path)}
    assert drawn == {"who_learns.png", "metric.png", "level_flow.png", "over_batch_size.png"}
    assert not dj.verify(out).damage


def test_another_request_is_refused_and_the_budget_is_stored(whole):
    out, _ = whole
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert settings["networks"] == 200
    assert settings["prices"] == [1.0, 1.0]
    with pytest.raises(dj.StoreError, match="steps = 40 there, 50 asked for"):
        dj.advise(MODEL, out=out, **changed({"steps": 50}))
    with pytest.raises(dj.StoreError, match=r"the network is not stored; expected the same call of dysonjax.advise"):
        Advice.of(settings).objects()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"budget": "5 parsecs"}, r"budget = '5 parsecs': expected a time such as 90s, 5m or 1h"),
        ({"budget": "0s"}, "budget = '0s': expected a time"),
        ({"budget": "400 updates"}, r"budget = '400 updates': expected 4 times as much, or fewer --steps"),
        ({"learning_rate": [0.1]}, "learning_rate = .*: expected at least two values that differ"),
        ({"learning_rate": [0.1, -1]}, "learning_rate = .*: expected positive numbers"),
        ({"precision": 1.0}, "precision = 1.0: expected a factor of at least 1.01"),
        ({"nonsense": 3.0}, "grid = .*nonsense|grid = 'nonsense'"),
        ({"batch_size": 65}, "batch_size = 65: expected at most 64"),
        ({"optimizer": "sdg"}, "optimizer = 'sdg': expected the name of an optimiser of optax"),
        ({"metric": "loudness"}, "metric = 'loudness': expected one of"),
    ],
)
def test_bad_input_is_one_line(given, said):
    with pytest.raises(dj.InputError, match=said) as caught:
        dj.advise(MODEL, **changed(given))
    assert "\n" not in str(caught.value)


def test_a_wrong_metric_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(dj.InputError, match="metric = 'loudness'"):
        dj.advise(MODEL, **changed({"metric": "loudness"}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_it_is_not_extended(whole):
    with pytest.raises(dj.InputError, match=r"extend = .*: expected a run whose points are known beforehand"):
        dj.experiments.run(Advice(), whole[0], extend=True)


def test_a_bare_module_is_refused():
    with pytest.raises(dj.InputError, match=r"model = .*: expected a model; models.FlaxModel makes one"):
        dj.advise(start, **GIVEN)  # type: ignore[arg-type]


def test_a_time_is_turned_into_networks_once(monkeypatch):
    """All are compiled, two ends are measured; the line between costs what lies between."""
    compiled, measured = [], []

    class Trial:
        together = 16

        def __init__(self, scan, block):
            self.size = int(np.ravel(scan.grid.axes["batch_size"])[0])

        def took(self, updates):
            compiled.append(self.size)

        def seconds_a_network(self):
            measured.append(self.size)
            return self.size / 100

    monkeypatch.setattr(budget, "_Trial", Trial)
    asked = Advice.with_network(MODEL, None, {"budget": "100s", "batch_size": (8, 16, 32)})
    settled = asked.settled(None)
    assert (sorted(compiled), sorted(measured)) == ([8, 16, 32], [8, 32])
    assert settled.prices == (1.0, 2.0, 4.0)
    assert settled.together == 16
    assert 1240 <= settled.networks <= 1250  # 100 s of 0.08 s each, less what this took
    assert settled.settled(None) is settled
    with pytest.raises(dj.InputError, match=r"budget = '0.05s': expected more than 0s, which compiling and measuring"):
        Advice.with_network(MODEL, None, {"budget": "0.05s", "batch_size": (8,)}).settled(None)
    assert asked.settled({"networks": 7, "prices": [1, 2, 3]}).networks == 7


def test_words_of_a_network_that_never_learns_and_one_that_always_does():
    noise = dj.models.FunctionModel(start, lambda params, x: x[1] ** 2 + 0.0 * jnp.sum(params["w"]), *DATA)
    few: dict[str, Any] = {"batch_size": 4, "rounds": 2, "learning_rate": [0.01, 0.1, 1.0]}
    said = str(dj.advise(noise, **changed(few)))
    assert said.startswith("Nothing learns: at no learning rate tried (learning rates 0.01 … 1)")
    said = str(
        dj.advise(MODEL, **changed(few | {"learning_rate": [0.03, 0.06, 0.1], "rounds": 5, "budget": "24000 updates"}))
    )
    assert said.startswith("Use learning rate 0.")
    assert re.search(r"All learning rates up to 0\.1\d* learn: the safe ones end above\.", said)
    assert re.search(
        r"the boundary is above 0\.1\d*, the largest rate that was tried; larger --learning-rate would", said
    )
