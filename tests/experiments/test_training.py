"""Training of a GPT: the recipe's rates, resumption bit for bit, checkpoints, results on disk, and what is refused."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import xarray as xr

import dysonjax as dj
from dysonjax.core.errors import InputError, StoreError
from dysonjax.core.leaves import named_leaves
from dysonjax.experiments import running
from dysonjax.experiments.gpt import job
from dysonjax.experiments.gpt.evaluation import evaluate, generate
from dysonjax.experiments.gpt.experiment import GPTRun
from dysonjax.experiments.gpt.job import trained
from dysonjax.experiments.gpt.summary import times
from dysonjax.experiments.gpt.training import draw
from dysonjax.models.gpt import loss
from dysonjax.models.text import windows
from dysonjax.storage.checkpoints import RESULTS, load_results, load_weights

POEM = "How many roads must a man walk down before you call him a man?\n" * 30


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("text") / "poem.txt"
    place.write_text(POEM)
    return GPTRun(
        str(place), layers=1, heads=2, channels=8, context=8, batch_size=4, steps=30, learning_rate=0.02,
        validation_every=10, every=10,
    )  # fmt: skip


@pytest.fixture(scope="module")
def three(run):
    """Three updates, on both devices."""
    return trained(dataclasses.replace(run, steps=3), devices=jax.local_devices()[:2])


def test_rates_are_those_of_the_recipe():
    run = GPTRun()
    found = np.asarray(run.rate(np.arange(2000)))
    step = np.arange(2000)
    warm = 1e-3 * (step + 1) / 101
    cosine = 1e-4 + 0.5 * (1 + np.cos(np.pi * (step - 100) / 1900)) * 9e-4
    np.testing.assert_allclose(found, np.where(step < 100, warm, cosine), rtol=1e-5)
    assert float(dataclasses.replace(run, warmup=0).rate(0)) == pytest.approx(1e-3)


def test_training_is_the_plain_loop(run, three):
    """Three updates, written out with optax and the loss, give the same losses and weights."""
    run, ds = dataclasses.replace(run, steps=3), three
    params = run.initial()
    transform = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(run.rate, b2=0.99, weight_decay=0.1, mask=jax.tree.map(lambda w: w.ndim > 1, params)),
    )
    state, losses = transform.init(params), []

    @jax.jit
    def update(i, params, state):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 1), i)
        batch, keys = draw(run, key, jax.numpy.asarray(run.source.train))
        assert keys is None
        value, gradient = jax.value_and_grad(lambda p: loss(run.network, p, batch))(params)
        change, state = transform.update(gradient, state, params)
        return value, optax.apply_updates(params, change), state

    for i in range(3):
        value, params, state = update(i, params, state)
        losses.append(float(value))
    np.testing.assert_allclose(ds.train_loss, losses, rtol=1e-5)
    w = np.asarray(params["layer0"]["key"]["kernel"], float)  # type: ignore[index]  # the tree is our own, of dicts
    exact = np.linalg.svd(w, compute_uv=False) ** 2
    np.testing.assert_allclose(ds.levels.sel(matrix="layer0/key/kernel").values[-1], exact, rtol=1e-4, atol=1e-9)
    every = windows(run.source.validation_tokens, run.context)
    assert float(ds.final_loss) == pytest.approx(float(loss(run.network, params, jax.numpy.asarray(every))), rel=1e-4)


def test_one_device_or_two(run, three):
    one = trained(dataclasses.replace(run, steps=3), devices=jax.local_devices()[:1])
    np.testing.assert_allclose(one.train_loss, three.train_loss, rtol=1e-5)


@pytest.mark.optimised  # it is about bits
def test_an_interrupted_run_continues_as_if_it_had_not_been(run, tmp_path, monkeypatch):
    whole = running.run(run, tmp_path / "whole").only
    assert float(whole.validation_loss[-1]) < 0.85 * float(whole.validation_loss[0])
    monkeypatch.setattr(job, "SECONDS_PER_CHECKPOINT", 0.0)

    class Stop:
        """A keyboard interrupt after some updates."""

        def __init__(self):
            self.done = 0

        def advance(self, updates):
            self.done += updates
            if self.done >= 12:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        running.run(run, tmp_path / "parts", progress=Stop())
    with pytest.raises(StoreError, match="not finished"):
        load_results(tmp_path / "parts")
    again = Stop()
    again.done = -1000
    parts = running.run(run, tmp_path / "parts", progress=again).only
    assert again.done >= -1000 + 30
    for name in ("train_loss", "validation_loss", "levels", "final_loss"):
        np.testing.assert_array_equal(parts[name].values, whole[name].values, err_msg=name)
    a, b = (named_leaves(load_weights(tmp_path / place / "final.npz")) for place in ("whole", "parts"))
    assert all((a[name] == b[name]).all() for name in a)
    # finished: read, not computed
    monkeypatch.setattr(job, "train", None)
    np.testing.assert_array_equal(running.run(run, tmp_path / "parts").only.levels.values, whole.levels.values)
    assert running.experiment_of(tmp_path / "parts") == run
    with pytest.raises(StoreError, match=r"another run .*learning_rate = 0.02 there, 0.03 asked for"):
        running.run(dataclasses.replace(run, learning_rate=0.03), tmp_path / "parts")


def test_sgd_with_dropout_and_biases(run):
    ds = trained(dataclasses.replace(run, optimizer="sgd", learning_rate=0.5, dropout=0.1, bias=True, steps=20))
    assert np.isfinite(ds.train_loss).all()
    assert float(ds.final_loss) < float(ds.validation_loss[0]) - 0.2


def test_a_network_that_blows_up_is_told(run, caplog):
    wild = dataclasses.replace(run, optimizer="sgd", learning_rate=1e25, clip=1e9, warmup=0, steps=12, every=2)
    ds = trained(wild)
    assert "the loss became non-finite at update" in caplog.text
    assert np.isnan(ds.levels.values[-1, :, 0]).all()
    assert times(ds)[-1] < 12
    assert np.isfinite(ds.levels.sel(step=times(ds)[-1]).values[:, 0]).all()


def test_a_network_that_knows_its_text_goes_on_with_it():
    """Of the alphabet, over and over, the next letter is certain."""
    import string

    letters = string.ascii_lowercase
    place = letters * 40
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "abc.txt"
        path.write_text(place)
        run = GPTRun(str(path), layers=1, heads=2, channels=16, context=8, batch_size=16, steps=150,
                     learning_rate=0.02, validation_every=150)  # fmt: skip
        running.run(run, Path(folder) / "run")
        params = load_weights(Path(folder) / "run" / "final.npz")
        tokens = generate(run.network, params, jax.random.key(0), run.source.encode("xyz"), 20, 0.3)
        assert run.source.decode(tokens) == letters[:20]
        losses = evaluate(run.network, params, windows(run.source.validation_tokens, 8))
        assert losses.max() < 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "lion"}, "optimizer = 'lion': expected adamw or sgd"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"steps": 0}, "steps = 0"),
        ({"final_rate": 2.0}, "final_rate = 2.0"),
        ({"beta2": 1.0}, "beta2 = 1.0"),
        ({"clip": float("inf")}, "clip = inf"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0"),
        ({"warmup": -1}, "warmup = -1"),
        ({"heads": 3}, "channels = 8: expected a multiple of heads = 3"),
    ],
)
def test_settings_that_make_no_run(run, change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(run, **change)


def test_texts_and_patterns_that_make_no_run(run, tmp_path):
    with pytest.raises(InputError, match="expected more than the context of 300"):
        trained(dataclasses.replace(run, context=300))
    with pytest.raises(InputError, match="pattern = '\\*qeury\\*'"):
        trained(dataclasses.replace(run, watch="*qeury*"))
    (tmp_path / "damaged" / "checkpoints" / "7").mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be read"):
        trained(run, tmp_path / "damaged")


def test_a_damaged_result_says_so(tmp_path):
    (tmp_path / RESULTS).mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        load_results(tmp_path)
    for damage in ("[1, 2", '{"layer": 1}'):
        (tmp_path / "run.json").write_text('{"kind": "gpt", "settings": ' + damage + "}")
        with pytest.raises(StoreError, match=r"run.json: cannot be read|not a run of kind 'gpt'"):
            running.experiment_of(tmp_path)


def test_damage_of_a_training_is_found_repaired_and_it_is_computed_again(run, tmp_path):
    out, short = tmp_path / "run", dataclasses.replace(run, steps=4, validation_every=2, every=2)
    whole = running.run(short, out).only
    found = dj.open(out)
    assert isinstance(found, xr.Dataset) and whole.equals(found)
    assert not dj.verify(out, recompute="all").different
    chunk = next(path for path in sorted((out / RESULTS / "train_loss" / "c").rglob("*")) if path.is_file())
    good = chunk.read_bytes()
    chunk.write_bytes(good[:4] + b"!" + good[5:])
    for use in (lambda: dj.open(out), lambda: running.run(short, out), lambda: running.report(out)):
        with pytest.raises(StoreError, match=r"results\.zarr: "):
            use()
    (damage,) = dj.verify(out).damage
    assert "results.zarr" in damage.message
    chunk.write_bytes(good)
    (out / "blocks" / "0.0.json").unlink()
    assert dj.verify(out, repair=True).damage
    assert running.unfinished(out) == (["the training"], 1)
    assert whole.equals(running.run(short, out).only)
    assert not dj.verify(out).damage
