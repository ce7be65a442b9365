"""SGD against programs and laws that do not share its code."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_same
from stochastic import assert_mean

import dysonjax as dj
from dysonjax.core.dynamics import lift
from dysonjax.dynamics.batches import Examples
from dysonjax.engine.grid import Replicas

ALPHA, WIDTH, BATCH = 0.125, 0.125, 4
NET = dj.models.TanhNetwork()
EPOCH = 10
FIXED = dj.sgd(NET, batches=EPOCH, tests=7)
"""Shared by tests, so that it is compiled once for each batch size."""


def one_replica(dynamics, **hyper):
    """Data and initial weights of the replica that `scan` runs at this point with seed 0."""
    points = Replicas(dynamics, dj.Grid(**hyper), jax.random.key(0))
    data_key, init_key = jax.random.split(points.keys(0, slice(0, 1))[0])
    given = {"init_width": 1.0, **hyper}
    given["data"] = dynamics.data(data_key, given)
    return given["data"], dynamics.init(init_key, given).params


@pytest.mark.parametrize("momentum", [None, 0.5])
def test_agrees_with_a_float64_numpy_loop(momentum):
    """100 updates on the same data, T = 0.031, σ_W = 0.125; fewer fixed batches, so that epochs wrap around."""
    dynamics = FIXED
    if momentum:
        dynamics = dj.sgd(NET, batches=EPOCH, optimizer=lambda rate: optax.sgd(rate, momentum))
    hyper = {"learning_rate": ALPHA, "init_width": WIDTH, "batch_size": BATCH}
    data, params = one_replica(dynamics, **hyper)
    (h, y), z, w = data.batches, np.asarray(data.task["Z"][0], float), np.asarray(params["W"], float)
    velocity, losses = np.zeros_like(w), []
    for t in range(100):
        s, target = np.asarray(h[t % EPOCH], float), np.asarray(y[t % EPOCH, :, 0], float)
        phi = np.tanh(s @ w.T)
        error = target - phi @ z
        losses.append(0.5 * np.mean(error**2))
        gradient = -((error[:, None] * z * (1 - phi**2)).T @ s) / BATCH
        velocity = gradient + (momentum or 0) * velocity
        w = w - ALPHA * velocity
    ds = dj.scan(dynamics, dj.Grid(**hyper), 100, snapshots=[100]).squeeze()
    np.testing.assert_allclose(ds.levels[-1], np.linalg.svd(w, compute_uv=False) ** 2, rtol=2e-5, atol=1e-8)
    np.testing.assert_allclose(ds.train_loss[-1], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(ds.train_loss[0], losses[0], rtol=1e-5)  # at the start: the first batch's


@pytest.mark.parametrize("tests", [7, 24])
def test_losses_at_a_snapshot_are_those_of_data_and_weights(tests):
    """In float64, for counts of examples that are cut into chunks and that are not."""
    dynamics = FIXED if tests == 7 else dj.sgd(NET, batches=EPOCH, tests=tests)
    hyper = {"learning_rate": ALPHA, "init_width": WIDTH, "batch_size": BATCH}
    data, params = one_replica(dynamics, **hyper)
    z, w = np.asarray(data.task["Z"][0], float), np.asarray(params["W"], float)

    def loss_and_gradient(s, target):
        s, target = np.asarray(s, float), np.asarray(target, float)
        phi = np.tanh(s @ w.T)
        error = phi @ z - target[:, 0]
        return 0.5 * np.mean(error**2), (error[:, None] * z * (1 - phi**2)).T @ s / len(s)

    batches = -(-tests // BATCH)
    (_, gradient), (loss, _) = (
        loss_and_gradient(*examples)
        for examples in (jax.tree.map(lambda x: np.concatenate(x[:batches]), data.batches), data.test)
    )
    ds = dj.scan(dynamics, dj.Grid(**hyper), 1, snapshots=[0]).squeeze()
    np.testing.assert_allclose(ds.test_loss[0], loss, rtol=1e-5)
    np.testing.assert_allclose(ds.gradient_norm[0], np.linalg.norm(gradient), rtol=1e-5)


@pytest.mark.parametrize("optimizer", [None, optax.adam])
@pytest.mark.parametrize("batches", [3, None])
def test_a_block_does_what_single_replicas_do(optimizer, batches):
    dynamics = dj.sgd(dj.models.TanhNetwork(hidden=(5, 4), trained="all"), batches=batches, optimizer=optimizer)
    keys = jax.random.split(jax.random.key(1), (3, 4))
    rates = jnp.array([0.01, 0.1, 0.2, 0.5])

    def given(data_key, rate):
        hyper = {"learning_rate": rate, "init_width": 1.0, "batch_size": 2}
        return {**hyper, "data": dynamics.data(data_key, hyper)}

    @jax.jit
    def both(keys, rates):
        hyper = lift(lambda k, r: {n: v for n, v in given(k, r).items() if n != "batch_size"})(keys[0], rates)
        state = lift(lambda k, h: dynamics.init(k, {**h, "batch_size": 2}))(keys[1], hyper)
        single = lift(lambda k, s, h: dynamics.step(k, s, {**h, "batch_size": 2, "step": 4}))(keys[2], state, hyper)
        assert dynamics.block_step is not None
        return single, dynamics.block_step(keys[2], state, {**hyper, "batch_size": 2, "step": 4})

    single, block = both(keys, rates)
    assert jax.tree.structure(single) == jax.tree.structure(block)
    for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(block), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


def test_fixed_batches_repeat_and_fresh_ones_do_not():
    """With a tiny learning rate the loss repeats from epoch to epoch exactly when the batches do."""
    grid = dj.Grid(learning_rate=1e-20, batch_size=BATCH)
    marks = list(range(1, 2 * EPOCH + 1))
    fixed, fresh = (
        dj.scan(dynamics, grid, 2 * EPOCH, snapshots=marks).train_loss.squeeze()
        for dynamics in (FIXED, dj.sgd(NET, batches=None))
    )
    np.testing.assert_array_equal(fixed[1 : EPOCH + 1], fixed[EPOCH + 1 :])
    assert len(set(fixed[1 : EPOCH + 1].values.tolist())) == EPOCH
    assert len(set(fresh[1:].values.tolist())) == 2 * EPOCH


def test_a_batch_size_does_not_depend_on_the_others():
    both = dj.scan(FIXED, dj.Grid(learning_rate=[0.1, 1.0], batch_size=[3, BATCH], seed=range(2)), 20)
    alone = dj.scan(FIXED, dj.Grid(learning_rate=[0.1, 1.0], batch_size=[BATCH], seed=range(2)), 20)
    assert_same(both.sel(batch_size=[BATCH]), alone)
    assert not np.array_equal(both.sel(batch_size=BATCH).levels, both.sel(batch_size=3).levels)


def linear_regression(dim):
    """y = 0 with one weight vector: E|w|² shrinks exactly, because the data are Gaussian and fresh."""
    from flax import nnx

    class Linear(nnx.Module):
        def __init__(self, rngs):
            self.w = nnx.Param(jnp.ones((1, dim)))

        def __call__(self, x):
            return self.w[...] @ x

    return dj.models.FlaxModel(
        lambda rngs: Linear(rngs),
        lambda net, x: 0.5 * jnp.sum(net(x) ** 2),
        lambda key, num: jax.random.normal(key, (num, dim)),
    )


def test_linear_student_shrinks_as_it_must():
    """E‖W − W*‖² is multiplied by (1 − α)² + α²(d + 1)/|B| in each update, for fresh Gaussian data."""
    dim, steps, replicas = 5, 4, 4000
    dynamics = dj.sgd(linear_regression(dim), batches=None)
    grid = dj.Grid(learning_rate=[0.1, 0.4], batch_size=[2, 8], seed=range(replicas))
    ds = dj.scan(dynamics, grid, steps, snapshots=[steps], observables=[])
    for rate in (0.1, 0.4):
        for batch in (2, 8):
            factor = (1 - rate) ** 2 + rate**2 * (dim + 1) / batch
            squares = ds.levels.sel(learning_rate=rate, batch_size=batch).isel(snapshot=-1, level=0).values
            assert_mean(squares, dim * factor**steps, resolution=0.25 * dim * factor**steps)


def test_divergence_is_reported_and_disturbs_nobody():
    dynamics = dj.sgd(dj.models.TanhNetwork(hidden=(5, 4), activation="identity", trained="all"), batches=5)
    grid = dj.Grid(learning_rate=[0.01, 1e3], batch_size=[2], seed=range(3))
    ds = dj.scan(dynamics, grid, 60)
    assert (ds.diverged_step.sel(learning_rate=0.01) == -1).all()
    assert (ds.diverged_step.sel(learning_rate=1e3) > 0).all()
    assert np.isfinite(ds.train_loss).all()  # held at the last finite state
    assert_same(
        ds.sel(learning_rate=[0.01]),
        dj.scan(dynamics, dj.Grid(learning_rate=[0.01], batch_size=[2], seed=range(3)), 60),
    )


def finite_model(examples):
    x = np.random.default_rng(0).normal(size=(examples, 3)).astype(np.float32)
    return dj.models.FlaxModel(linear_regression(3).module, linear_regression(3).loss_function, x)


def test_tests_are_not_training_examples():
    """Five fixed batches of four leave ten of thirty examples for the tests."""
    examples = Examples(finite_model(30), 5, 10)
    key = jax.random.key(3)
    given = {"batch_size": 4, "data": examples.draw(key, 4)}
    batches = [examples.batch(key, {**given, "step": step}) for step in range(10)]
    np.testing.assert_array_equal(batches[:5], batches[5:])  # and come again
    every = np.concatenate([*batches[:5], examples.test(given)])
    assert len({tuple(row) for row in every.tolist()}) == 30


@pytest.mark.parametrize(
    ("batches", "batch_size", "message"),
    [
        (8, 4, "batches = 8: expected at most 7 of 4 from 30 examples, or None"),
        (None, 31, "batch_size = 31: expected at most 30, the number of examples"),
        (1, 31, "batch_size = 31: expected at most 30, the number of examples"),
    ],
)
def test_too_few_examples_are_refused(batches, batch_size, message):
    with pytest.raises(dj.InputError) as refusal:
        dj.scan(dj.sgd(finite_model(30), batches=batches), dj.Grid(learning_rate=[0.1], batch_size=[batch_size]), 2)
    assert str(refusal.value) == message


@pytest.mark.parametrize("bad", [{"batches": 0}, {"batches": 2.5}, {"tests": -1}, {"tests": True}])
def test_bad_options_are_refused(bad):
    with pytest.raises(dj.InputError, match=r"expected a whole number of at least 1$"):
        dj.sgd(NET, **bad)


def test_no_model_and_a_loss_that_is_no_scalar_are_refused():
    with pytest.raises(dj.InputError, match=r"^model = 3: expected a model; models\.FlaxModel makes one"):
        dj.sgd(3)  # type: ignore[arg-type]  # wrong on purpose

    class Vector:
        examples, config = None, {}
        task = staticmethod(lambda key: ())
        init = staticmethod(lambda key, task, width: {"w": jnp.ones((1, 2))})
        sample = staticmethod(lambda key, num, task: jax.random.normal(key, (num, 2)))
        loss = staticmethod(lambda params, example, task: params["w"][0] * example)
        matrices = staticmethod(lambda params: params)

    with pytest.raises(dj.InputError, match=r"^loss = 'an array of shape \(2,\)': expected a scalar for one example"):
        dj.scan(dj.sgd(Vector(), batches=2), dj.Grid(learning_rate=[0.1], batch_size=[2]), 2)  # type: ignore[arg-type]
