"""Matrix Langevin noise against the gradients' own covariance, and Dyson's equation of a model against matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stochastic import assert_mean

import dysonjax as dj
from dysonjax import ensembles
from dysonjax.core.model import mean_loss
from dysonjax.models import GaussianRBM, TanhNetwork
from dysonjax.models.linear import LinearNetwork

REPLICAS = 8192
KEYS = jax.random.split(jax.random.key(3), REPLICAS)


def one_update(dynamics, width=0.5, rate=0.1, batch=4.0):
    """Parameters [R, …] before and after one update of many replicas with one start and one data set."""
    hyper = {"learning_rate": jnp.float32(rate), "batch_size": jnp.float32(batch), "init_width": jnp.float32(width)}
    hyper["data"] = dynamics.data(jax.random.key(1), hyper)
    state = dynamics.init(jax.random.key(2), hyper)
    after = jax.jit(jax.vmap(lambda key: dynamics.step(key, state, {**hyper, "step": 0})))(KEYS)
    flat = lambda params: np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])  # noqa: E731
    moved = np.concatenate([np.reshape(x, (REPLICAS, -1)) for x in jax.tree.leaves(after.params)], axis=1)
    return flat(state.params), moved.astype(float), hyper["data"], state.params


def covariance_matches(first, second, tolerance):
    """Both covariances agree in units of the larger one."""
    a, b = np.cov(first.T), np.cov(second.T)
    assert np.max(np.abs(a - b)) < tolerance * np.max(np.abs(a)), np.max(np.abs(a - b)) / np.max(np.abs(a))
    return a


@pytest.mark.parametrize("noise", ["exact", "measured"])
def test_noise_has_the_covariance_of_sgd(noise):
    for model in (GaussianRBM(visible=3), LinearNetwork(teacher=(2.0, 1.0, 1.0), noise=0.3)):
        _, of_sgd, _, _ = one_update(dj.sgd(model, sampling="wishart"))
        _, moved, _, _ = one_update(dj.matrix_langevin(model, noise=noise, samples=400))
        covariance_matches(of_sgd, moved, 0.12)
        error = np.sqrt((of_sgd.var(0) + moved.var(0)) / REPLICAS)
        assert np.all(np.abs(of_sgd.mean(0) - moved.mean(0)) < 5 * error)


def test_isotropic_noise_has_the_total_variance():
    model = GaussianRBM(visible=3)
    _, exact, _, _ = one_update(dj.matrix_langevin(model))
    _, moved, _, _ = one_update(dj.matrix_langevin(model, noise="isotropic"))
    covariance = np.cov(moved.T)
    assert np.trace(covariance) == pytest.approx(exact.var(0).sum(), rel=0.05)
    assert np.allclose(covariance, np.eye(9) * np.trace(covariance) / 9, atol=0.08 * covariance.max())


@pytest.mark.parametrize("noise", ["measured", "isotropic"])
def test_any_model_has_a_langevin_equation(noise):
    """Drift and covariance are those of the per-example gradients on the replica's reference examples."""
    model = TanhNetwork(inputs=2, hidden=(3, 2))
    before, moved, (task, examples), params = one_update(
        dj.matrix_langevin(model, noise=noise, samples=64), rate=0.1, batch=2.0
    )
    gradient = jax.grad(lambda p: mean_loss(model, p, examples, task))(params)["W"]
    assert_mean(moved, before - 0.1 * np.ravel(gradient), resolution=0.02)
    each = jax.vmap(lambda example: jax.grad(lambda p: model.loss(p, example, task))(params)["W"])(examples)
    wanted = 0.1**2 / 2 * np.cov(np.reshape(each, (64, -1)).T, bias=True)
    got = np.cov(moved.T)
    if noise == "measured":
        assert np.max(np.abs(got - wanted)) < 0.1 * np.max(wanted)
    else:
        assert np.trace(got) == pytest.approx(np.trace(wanted), rel=0.06)
        assert np.allclose(got, np.eye(6) * np.trace(got) / 6, atol=0.1 * got.max())


def test_substeps_reach_continuous_time():
    """For W' = −α(W − W_t) with noise of its own: 50 substeps contract by e^{−α}, one by 1 − α; T is the same."""
    model = LinearNetwork(teacher=(2.0, 2.0), noise=1.0)
    results = {}
    for substeps in (1, 50):
        before, moved, _, _ = one_update(dj.matrix_langevin(model, substeps=substeps), rate=0.8, batch=4e6)
        results[substeps] = (np.mean(moved, axis=0) - [2, 0, 0, 2]) / (before - np.array([2, 0, 0, 2]))
    np.testing.assert_allclose(results[1], 0.2, atol=0.01)
    np.testing.assert_allclose(results[50], np.exp(-0.8), atol=0.01)


CENTRES = (3.0, 2.0, 2.0, 1.2)
"""Of an Ornstein–Uhlenbeck matrix; the linear student's W with fresh data and small learning rate is one."""


def levels_of(dynamics, seeds, steps=300):
    grid = dj.Grid(learning_rate=[0.02], batch_size=[2], init_width=[1.0], seed=range(seeds))
    ds = dj.scan(dynamics, grid, steps=steps, snapshots=[steps], progress=False)
    assert (ds.diverged_step < 0).all()
    return ds.levels.values.reshape(seeds, 2, -1)[:, 1].astype(float)


@pytest.mark.optimised  # it runs for longer than it compiles
def test_half_the_repulsion_across_multiplets_is_what_matrices_do():
    """Means, variances and the pair's spacing of an OU matrix with four centres, T g² = 0.01.

    Dyson's equation as it stands shifts the levels twice as far; the matrix's shift is (σ²/2) Σ_j 1/(c_i − c_j).
    """
    model = LinearNetwork(teacher=CENTRES, noise=1.0)
    centre = jnp.diag(jnp.array(CENTRES))
    jump = lambda key: ensembles.matrix_ou_jump(key, centre, 50.0, 1.0, 0.01, centre=centre)  # noqa: E731
    count = 4096  # the mean of a level is known to 0.001 then, a tenth of its shift
    exact = np.linalg.eigvalsh(jax.vmap(jump)(KEYS[:count]))[:, ::-1].astype(float)
    start = (3.0, 2.02, 1.98, 1.2)
    half = levels_of(dj.dyson_of(model, start=start), seeds=count)
    whole = levels_of(dj.dyson_of(model, start=start, eigenvectors=False), seeds=count)
    error = np.sqrt((exact.var(0) + half.var(0)) / count)
    assert np.all(np.abs(half.mean(0) - exact.mean(0)) < 5 * error)
    assert np.all(np.abs(half.var(0) / exact.var(0) - 1) < 5 * np.sqrt(4 / count))
    spacing = [np.mean(x[:, 1] - x[:, 2]) for x in (half, exact)]
    assert spacing[0] == pytest.approx(spacing[1], rel=5 * 0.523 * np.sqrt(2 / count))
    shift = 0.005 * np.array([1 / 1 + 1 / 1 + 1 / 1.8, -1 / 1.8 - 2 / 0.8])
    np.testing.assert_allclose(exact.mean(0)[[0, 3]] - np.array([3.0, 1.2]), shift, atol=0.005)
    np.testing.assert_allclose(whole.mean(0)[[0, 3]] - np.array([3.0, 1.2]), 2 * shift, rtol=0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dj.matrix_langevin(TanhNetwork(), noise="exact"), "noise = 'exact': expected one of measured, isotr"),
        (lambda: dj.matrix_langevin(GaussianRBM(), noise="none"), "noise = 'none': expected one of exact, measured"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: dj.matrix_langevin(GaussianRBM(), substeps=0), "substeps = 0"),
        (lambda: dj.matrix_langevin(TanhNetwork(), samples=1), "samples = 1"),
        (lambda: dj.matrix_langevin(object()), "model = 'object': expected a model with a loss"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: dj.dyson_of(TanhNetwork()), "model = TanhNetwork: expected a model with a `level_theory`"),
        (lambda: dj.dyson_of(LinearNetwork(noise=0.0)), "noise"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(dj.InputError) as error:
        call()
    assert message in str(error.value) and "\n" not in str(error.value)
