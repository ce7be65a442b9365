"""A user's own network under the engine against the loop that its user would write with flax and optax."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_same
from flax import linen, nnx
from jax.flatten_util import ravel_pytree

import dysonjax as dj
from dysonjax.core.observables import Variable, snapshot
from dysonjax.dynamics.batches import Examples

KEY = jax.random.key(11)
RNG = np.random.default_rng(4)
IMAGES, LABELS = RNG.normal(size=(30, 6, 6, 1)), RNG.integers(0, 3, 30)
UPDATES, BATCH, RATE = 50, 4, 0.05


def double(rngs):
    """Options of a layer: flax makes parameters in float32 unless it is told not to."""
    return {"rngs": rngs, "param_dtype": jnp.float64}


class Convolutions(nnx.Module):
    """BatchNorm: a loss of a batch, and state that every update changes."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 3, (3, 3), **double(rngs))
        self.norm = nnx.BatchNorm(3, **double(rngs))
        self.norm.mean.set_value(jnp.zeros(3, float))
        self.norm.var.set_value(jnp.ones(3, float))
        self.out = nnx.Linear(3, 3, **double(rngs))

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


class Attention(nnx.Module):
    """A block of a transformer on six tokens, the rows, with two layers of dropout that draw each for itself.

    Attention is by hand: that of flax computes in float32.
    """

    def __init__(self, rngs):
        self.drops = nnx.List([nnx.Dropout(0.3, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)])
        self.embed, self.norm = nnx.Linear(6, 4, **double(rngs)), nnx.LayerNorm(4, **double(rngs))
        self.query, self.value = (nnx.Linear(4, 4, use_bias=False, **double(rngs)) for _ in range(2))
        self.out = nnx.Linear(4, 3, **double(rngs))

    def __call__(self, x):
        x = self.embed(self.drops[0](x[..., 0]))
        y = self.drops[1](self.norm(x))
        return self.out((x + nnx.softmax(self.query(y) @ y.T) @ self.value(y)).mean(-2))


class Recurrent(nnx.Module):
    """A loop over the rows by `lax.scan`."""

    def __init__(self, rngs):
        self.cell, self.out = nnx.Linear(10, 4, **double(rngs)), nnx.Linear(4, 3, **double(rngs))

    def __call__(self, x):
        move = lambda h, row: (jnp.tanh(self.cell(jnp.concatenate([h, row]))), None)  # noqa: E731
        return self.out(jax.lax.scan(move, jnp.zeros(4), x[..., 0])[0])


def loss_of(net, examples):
    logits = net(examples[0])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, examples[1]).mean()
    return loss, {"accuracy": jnp.mean(logits.argmax(-1) == examples[1])}


def seeded(streams, key):
    """A new key for each random stream of a module."""
    leaves, tree = jax.tree.flatten(streams)
    return jax.tree.unflatten(tree, [*jax.random.split(key, len(leaves))] if leaves else [])


def warm(update, steps):
    done = jnp.asarray(update, float)
    return jnp.minimum((done + 1) / 5, 1) * (1 - done / steps)


CASES = {
    "BatchNorm": (Convolutions, True, optax.sgd, {"momentum": 0.9}, None),
    "transformer, dropout, AdamW, schedule": (Attention, False, optax.adamw, {"weight_decay": 0.01}, warm),
    "recurrent": (Recurrent, False, None, {}, None),
    "Muon": (Recurrent, False, optax.contrib.muon, {}, None),
}


def as_a_user_would(kind, of_batch, optimizer, numbers, schedule, examples):
    """Parameters after each update, and the state at the end: flax and optax alone, one network."""
    data_key, init_key = jax.random.split(KEY)
    net = kind(nnx.Rngs(jax.random.split(init_key)[0]))
    net.train()
    graph, params, keys, zeros, state = nnx.split(net, nnx.Param, nnx.RngKey, nnx.RngCount, ...)
    hyper = {"batch_size": BATCH, "data": examples.draw(data_key, BATCH)}
    opt_state = optimizer(RATE, **numbers).init(params) if optimizer else None

    @jax.jit
    def update(params, state, opt_state, number):
        draw_key, loss_key = jax.random.split(jax.random.fold_in(KEY, number))
        batch = examples.batch(draw_key, {**hyper, "step": number})

        def one(params, state, key, examples):
            # flax lets variables change only under the transformations that they were made in
            own = jax.tree.map(lambda x: x, (params, seeded(keys, jax.random.split(key)[0]), zeros, state))
            net = nnx.merge(graph, *own)
            return loss_of(net, examples)[0], nnx.state(net, nnx.Param, nnx.RngState, ...)[2]

        def loss(params):
            if of_batch:
                return one(params, state, loss_key, batch)
            losses, _ = jax.vmap(functools.partial(one, params, state))(jax.random.split(loss_key, BATCH), batch)
            return losses.mean(), state

        (_, state_after), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        now = RATE * (schedule(number, UPDATES) if schedule else 1)
        if optimizer is None:
            return jax.tree.map(lambda w, g: w - now * g, params, gradient), state_after, None
        updates, opt_state = optimizer(now, **numbers).update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), state_after, opt_state

    for number in range(UPDATES):
        params, state, opt_state = update(params, state, opt_state, number)
    return params, state


@pytest.mark.parametrize("case", CASES)
def test_fifty_updates_are_those_of_a_loop_in_flax_and_optax(case):
    kind, of_batch, optimizer, numbers, schedule = CASES[case]
    with jax.enable_x64(True):
        model = dj.models.FlaxModel(kind, loss_of, (IMAGES, LABELS), of_batch=of_batch)
        dynamics = dj.train(model, optimizer, schedule=schedule, **numbers)
        everything = lambda spectra, now, hyper: ravel_pytree((now.params, now.state))[0]  # noqa: E731
        hyper = {
            "learning_rate": [RATE],
            "batch_size": BATCH,
            "init_width": [1.0],
            **{n: [x] for n, x in numbers.items()},
        }
        watched = [snapshot("all", everything, Variable(("number",)))]
        found = dj.simulate(dynamics, KEY[None], hyper, UPDATES, snapshots=[UPDATES], observables=watched)["all"][0, -1]
        loop = as_a_user_would(kind, of_batch, optimizer, numbers, schedule, Examples(model, "epochs", 128))
        wanted = ravel_pytree(loop)[0]
        assert found.dtype == wanted.dtype == np.float64
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


class Two(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(36, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.norm(self.first(x.reshape(-1, 36)))))


def two(**options):
    given = {"loss_function": loss_of, "data": (IMAGES, LABELS), "of_batch": True, **options}
    return dj.models.FlaxModel(Two, **given)


GRID = dj.Grid(learning_rate=[0.01, 0.1], batch_size=[4], weight_decay=[0, 0.5], seed=range(3))


@pytest.fixture(scope="module")
def trained():
    """A grid of small networks with test data, and all weights at two snapshots."""
    model = two(test_data=(IMAGES[:9], LABELS[:9]), watch=["first*"])
    dynamics = dj.train(model, optax.adamw)
    kept = [*dynamics.observables, model.weights()]
    return model, dynamics, dj.scan(dynamics, GRID, 12, snapshots=[6, 12], observables=kept)


def test_a_replica_gives_its_network_back(trained):
    """The restored module, state included, has the recorded test loss and accuracy."""
    model, _, ds = trained
    replica = ds.isel(learning_rate=1, weight_decay=0, seed=2)
    net = model.restored(replica)
    assert isinstance(net, Two)
    loss, metrics = loss_of(net, (jnp.asarray(IMAGES[:9]), jnp.asarray(LABELS[:9])))
    np.testing.assert_allclose(loss, replica.test_loss.values.ravel()[-1], rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], replica.test_accuracy.values.ravel()[-1], rtol=1e-5)
    kernel = replica["weights.first.kernel"].isel(snapshot=-1).values.reshape(36, 4)
    levels = np.linalg.eigvalsh(kernel.T.astype(float) @ kernel)[::-1]
    np.testing.assert_allclose(replica.levels.isel(snapshot=-1).values.ravel(), levels, rtol=1e-4)
    with pytest.raises(dj.InputError, match=r"^replica = .*: expected one replica, weights\.first\.bias of"):
        model.restored(ds)
    with pytest.raises(dj.InputError, match=r"^replica = .*: expected weights, recorded by"):
        model.restored(replica.drop_vars("weights.first.bias"))


def test_a_point_has_the_same_numbers_in_any_grid_and_order(trained):
    model, dynamics, ds = trained
    kept = [*dynamics.observables, model.weights()]
    alone = dj.scan(
        dynamics, dj.Grid(learning_rate=[0.1], weight_decay=[0.5], batch_size=[4], seed=[2, 1]), 12,
        snapshots=[6, 12], observables=kept, devices=jax.local_devices()[:1], block_size=1,
    )  # fmt: skip
    assert_same(ds.sel(learning_rate=[0.1], weight_decay=[0.5], seed=[2, 1]), alone)


def test_settings_of_the_optimiser_matter_and_zero_is_one_of_them(trained):
    _, dynamics, ds = trained
    assert {"b1", "b2", "eps"} <= set(dynamics.parameters)  # an axis only where the grid names it
    assert not {"b1", "b2", "eps"} & set(ds.dims)
    w = ds["weights.first.kernel"].isel(snapshot=-1)
    assert not np.array_equal(w.sel(weight_decay=0), w.sel(weight_decay=0.5))


def test_an_argument_that_may_be_a_number_is_an_axis_where_the_grid_names_it():
    dynamics = dj.train(two(watch=None), optax.sgd)
    names = {"learning_rate", "batch_size", "init_width", "momentum"}
    assert set(dynamics.parameters) == names
    assert "mask" not in dj.train(two(watch=None), optax.adamw).parameters  # it may be a function of many things
    ds = dj.scan(dynamics, dj.Grid(learning_rate=[0.01], momentum=[0.0, 0.9], batch_size=[4]), 4)
    assert not [name for name in ds if str(name).startswith("levels")]
    assert not np.array_equal(ds.train_loss.isel(momentum=0), ds.train_loss.isel(momentum=1))
    assert "nesterov" in dj.train(two(), optax.sgd, nesterov=True).config["fixed"]


def test_functions_and_linen_modules_train():
    """A pair of functions with state, and a linen module with BatchNorm, whose averages move in training alone."""

    def loss(params, examples, state, train):
        x = examples[0].reshape(-1, 36) @ params["w"]
        new = {"mean": 0.9 * state["mean"] + 0.1 * x.mean(0)} if train else state
        return optax.softmax_cross_entropy_with_integer_labels(x, examples[1]).mean(), new

    pair = dj.models.FunctionModel(
        lambda key: ({"w": jax.random.normal(key, (36, 3))}, {"mean": jnp.zeros(3)}), loss, (IMAGES, LABELS),
        of_batch=True, stateful=True,
    )  # fmt: skip

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            x = linen.BatchNorm(use_running_average=not train)(linen.Dense(4)(x.reshape(-1, 36)))
            return linen.Dense(3)(linen.Dropout(0.1, deterministic=not train)(x))

    bound = lambda net, examples: loss_of(functools.partial(net, train=net.training), examples)  # noqa: E731
    flax = dj.models.FlaxModel(Net(), bound, (IMAGES, LABELS), of_batch=True)
    for model, names in ((pair, ["state.mean"]), (flax, ["state.batch_stats.BatchNorm_0.mean"])):
        assert set(names) <= set(model.weights().variables)
        dynamics = dj.sgd(model)
        (of_training,) = (one for one in dynamics.observables if "train_loss" in one.variables)
        ds = dj.scan(
            dynamics, dj.Grid(learning_rate=[0.1], batch_size=[6], seed=range(16)), 60, snapshots=[20, 60],
            observables=[of_training, model.weights()],
        )  # fmt: skip
        early, late = ds.train_loss.mean("seed").values.ravel()[1:]
        assert late < early - 0.1
        for name in names:
            assert not np.array_equal(ds[name].isel(snapshot=0), ds[name].isel(snapshot=-1))
        model.restored(ds.sel(seed=3))


wrongly: Any = dj.train


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: dj.train(two(), optax.sgd, momentun=0.9),
            "momentun = 0.9: expected arguments of sgd among momentum, ",
        ),
        (lambda: wrongly(two(), 3), "optimizer = 3: expected a function of the learning rate"),
        (lambda: wrongly(two(), optax.adam(0.1)), "optimizer = .*: expected a function of the learning rate"),
        (lambda: wrongly(two(), batches="often"), 'batches = \'often\': expected "epochs", "replacement", a number'),
        (lambda: dj.train(two(), batches=0), "batches = 0: expected a whole number"),
        (lambda: wrongly(two(), schedule=0.1), "schedule = 0.1: expected a function"),
        (lambda: wrongly(dj.models.TanhNetwork()), "model = .*: expected a network; models.FlaxModel makes"),
        (lambda: dj.train(two(), b1=0.1), "optimizer = None: expected an optimiser, which takes b1"),
        (
            lambda: dj.scan(dj.train(two(), optax.adam), dj.Grid(learning_rate=[1], momentum=[0.1], batch_size=[2]), 2),
            "grid = 'momentum': expected hyper-parameters among learning_rate, ",
        ),
        (
            lambda: dj.scan(dj.train(two()), dj.Grid(learning_rate=[0.1], batch_size=[31]), 2),
            "batch_size = 31: expected at most 30, the number of examples",
        ),
        (
            lambda: two(of_batch=False, loss_function=lambda net, one: loss_of(lambda x: net(x)[0], one)),
            "of_batch = False: expected True, a loss of a batch, because norm.mean changes",
        ),
        (
            lambda: two(watch="conv*"),
            r"watch = 'conv\*': expected a pattern of the names of matrices; the network has ",
        ),
    ],
)
def test_bad_input_is_one_line(make, words):
    with pytest.raises(dj.InputError, match=f"^{words}") as refusal:
        make()
    assert "\n" not in str(refusal.value)
