"""A user's own network under the engine against the loop that its user would write with flax and optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

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


class Dropped(nnx.Module):
    """Two layers of dropout, each with random numbers of its own."""

    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(36, 5, **double(rngs)), nnx.Linear(5, 3, **double(rngs))
        self.drops = nnx.List([nnx.Dropout(0.3, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)])

    def __call__(self, x):
        return self.second(self.drops[1](nnx.tanh(self.first(self.drops[0](x.reshape(-1))))))


class Attention(nnx.Module):
    """A block of a transformer on six tokens, the rows. Attention is by hand: that of flax computes in float32."""

    def __init__(self, rngs):
        self.embed, self.norm = nnx.Linear(6, 4, **double(rngs)), nnx.LayerNorm(4, **double(rngs))
        self.query, self.value = (nnx.Linear(4, 4, use_bias=False, **double(rngs)) for _ in range(2))
        self.out = nnx.Linear(4, 3, **double(rngs))

    def __call__(self, x):
        x = self.embed(x[..., 0])
        y = self.norm(x)
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
    "dropout": (Dropped, False, optax.adam, {}, None),
    "transformer, AdamW, schedule": (Attention, False, optax.adamw, {"weight_decay": 0.01}, warm),
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
        everything = lambda spectra, now, hyper: jax.flatten_util.ravel_pytree((now.params, now.state))[0]  # noqa: E731
        hyper = {
            "learning_rate": [RATE],
            "batch_size": BATCH,
            "init_width": [1.0],
            **{n: [x] for n, x in numbers.items()},
        }
        watched = [snapshot("all", everything, Variable(("number",)))]
        found = dj.simulate(dynamics, KEY[None], hyper, UPDATES, snapshots=[UPDATES], observables=watched)["all"][0, -1]
        loop = as_a_user_would(kind, of_batch, optimizer, numbers, schedule, Examples(model, "epochs", 128))
        wanted = jax.flatten_util.ravel_pytree(loop)[0]
        assert found.dtype == wanted.dtype == np.float64
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
