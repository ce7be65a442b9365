"""SVAG against exact moments: a quadratic loss with known noise, and SGD itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadratic import QuadraticModel
from stochastic import assert_mean

import dysonjax as dj
from dysonjax.core.dynamics import lift
from dysonjax.dynamics.variance_amplified import batch_gradient, example_gradients, svag
from dysonjax.models import GaussianRBM, TanhNetwork

RATE, BATCH = 0.1, 4


def one_step(dynamics, keys, hyper):
    """Parameters before, and after one update with each of the keys."""
    given = {**hyper, "data": dynamics.data(jax.random.key(1), hyper), "init_width": 1.0}
    state = dynamics.init(jax.random.key(2), given)
    after = jax.jit(jax.vmap(lambda key: dynamics.step(key, state, {**given, "step": 0}).params))(keys)
    return state.params, after


def test_gradient_has_the_loss_s_mean_and_l_times_its_covariance():
    order, model = 4, QuadraticModel()
    hyper = {"learning_rate": RATE, "batch_size": BATCH}
    before, after = one_step(svag(model, order), jax.random.split(jax.random.key(0), 20_000), hyper)
    gradient = np.asarray(before["W"] - after["W"]) * order / RATE
    drift = np.asarray(model.curvature * (before["W"] - model.centre))
    assert_mean(gradient, drift, resolution=0.03)
    variance = order * model.variance / BATCH
    deviation = (gradient - drift).reshape(len(gradient), -1)
    assert_mean(deviation**2 / variance, 1.0, resolution=0.06)
    assert_mean(deviation[:, :-1] * deviation[:, 1:] / variance, 0.0, resolution=0.06)


def test_order_one_is_sgd():
    model, hyper = TanhNetwork(hidden=(5, 4)), {"learning_rate": RATE, "batch_size": BATCH}
    keys = jax.random.split(jax.random.key(3), 5)
    _, ours = one_step(svag(model, 1), keys, hyper)
    _, theirs = one_step(dj.sgd(model, batches=None), jax.vmap(jax.random.split)(keys)[:, 0], hyper)
    np.testing.assert_allclose(ours["W"], theirs["W"], rtol=1e-5, atol=1e-7)


def test_stationary_variance_goes_to_that_of_the_differential_equation():
    """α c/(|B| h (2 − αh/ℓ)) exactly, at αh = 1: twice the equation's for SGD, and 16/15 of it for ℓ = 8."""
    order, model, batch, steps, replicas = 8, QuadraticModel(), 4, 12, 1000
    grid = dj.Grid(learning_rate=[1.0], batch_size=[batch], seed=range(replicas))
    flat = dj.observables.snapshot("w", lambda s, state, h: state.params["W"], dj.observables.Variable(("i", "j")))
    ds = dj.scan(svag(model, order), grid, order * steps, snapshots=[order * steps], observables=[flat], progress=False)
    w = ds.w.values.reshape(replicas, 2, 3, 3)[:, -1]
    exact = model.variance / (batch * (2 - 1 / order))
    squares = (w - np.asarray(model.centre)) ** 2 / exact
    assert_mean(squares.mean(axis=(1, 2)), 1.0, resolution=0.08)


def test_a_block_does_what_single_replicas_do():
    dynamics = svag(TanhNetwork(hidden=(5, 4)), 4)
    keys = jax.random.split(jax.random.key(1), (3, 4))
    hyper = {"learning_rate": jnp.array([0.01, 0.1, 0.2, 0.5]), "init_width": jnp.ones(4)}

    @jax.jit
    def both(keys, hyper):
        hyper = {**hyper, "data": lift(lambda k: dynamics.data(k, {"batch_size": 2}))(keys[0])}
        state = lift(lambda k, h: dynamics.init(k, {**h, "batch_size": 2}))(keys[1], hyper)
        single = lift(lambda k, s, h: dynamics.step(k, s, {**h, "batch_size": 2, "step": 0}))(keys[2], state, hyper)
        assert dynamics.block_step is not None
        return single, dynamics.block_step(keys[2], state, {**hyper, "batch_size": 2, "step": 0})

    single, block = both(keys, hyper)
    assert jax.tree.structure(single) == jax.tree.structure(block)
    for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(block), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


def test_gradients_of_a_machine_without_a_loss():
    """Their mean is the likelihood's gradient, and a batch has 1/|B| of their variance."""
    rbm = GaussianRBM(visible=3, hidden=3)
    params = rbm.init(jax.random.key(0), (), jnp.asarray(1.0))

    @jax.jit
    def gradients(key, keys):
        exact = rbm.moment_gradient({"W": params["W"][..., None]}, jnp.eye(3)[..., None], ())["W"][..., 0]
        batches = jax.vmap(lambda key: batch_gradient(rbm, key, params, 8, ())["W"])(keys)
        return exact, example_gradients(rbm, key, params, 20_000, ())["W"], batches

    keys = jax.random.split(jax.random.key(2), 5000)
    exact, single, batches = map(np.asarray, gradients(jax.random.key(1), keys))
    assert_mean(single, exact, resolution=0.1)
    assert_mean((batches - exact) ** 2 / np.var(single, axis=0), 1 / 8, bias=0.01, resolution=0.05)
    ds = dj.scan(svag(rbm, 2), dj.Grid(learning_rate=[0.02], batch_size=[8], seed=range(3)), 20, progress=False)
    assert np.isfinite(ds.levels).all() and (ds.diverged_step == -1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: svag(TanhNetwork(), 0), "order = 0: expected a whole number of at least 1"),
        (lambda: svag(TanhNetwork(), 1.5), "order = 1.5: expected a whole number of at least 1"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: svag(object(), 2), "model = 'object': expected a model with a loss or with `example_gradients`"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(dj.InputError) as error:
        call()
    assert str(error.value) == message
