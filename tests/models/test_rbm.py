"""The Gaussian RBM: its gradient, its chains and its theory against exact results."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stochastic import assert_mean

import dysonjax as dj
from dysonjax.dynamics.contrastive_divergence import chains_after, contrastive_divergence
from dysonjax.models import GaussianRBM, scalar_field_kernel


def block(x):
    return jax.tree.map(lambda a: jnp.asarray(a)[..., None], x)


def one(x):
    return jax.tree.map(lambda a: np.asarray(a)[..., 0], x)


def negative_log_likelihood(params, machine):
    """−⟨log p⟩ of Gaussian data with second moment K_φ⁻¹, straight from the density."""
    k = machine.module(params).kernel()
    return 0.5 * jnp.trace(k @ np.linalg.inv(machine.kernel)) - 0.5 * jnp.linalg.slogdet(k)[1]


MACHINES = {
    "paper": GaussianRBM(visible=5),
    "wide": GaussianRBM(visible=4, hidden=7),
    "regulator": GaussianRBM(visible=5, hidden=2, mass="global"),
    "per-site": GaussianRBM(visible=3, mass2=(9.0, 8.0, 10.0), mass="per-site", hidden_std=0.8),
}


@pytest.mark.parametrize("name", MACHINES)
def test_gradient_is_that_of_the_likelihood(name):
    machine = MACHINES[name]
    params = machine.init(jax.random.key(1), (), jnp.float32(0.4))
    n = machine.visible
    got = one(jax.jit(machine.moment_gradient)(block(params), jnp.eye(n)[..., None], ()))
    wanted = jax.grad(negative_log_likelihood)(params, machine)
    for key in params:
        np.testing.assert_allclose(got[key], wanted[key], atol=2e-5, err_msg=key)


def test_kernel_and_eigenvalues_of_the_scalar_field():
    kappa = 4 + 2 - 2 * np.cos(2 * np.pi * np.arange(10) / 10)
    np.testing.assert_allclose(GaussianRBM().kappa, np.sort(kappa), atol=1e-12)
    assert scalar_field_kernel(1).item() == pytest.approx(4)


def test_data_are_learnt_through_their_second_moment():
    x = np.random.default_rng(0).normal(size=(50, 3)) @ np.diag([0.5, 0.4, 0.35])
    np.testing.assert_allclose(np.linalg.inv(GaussianRBM(visible=3, data=x).kernel), x.T @ x / 50, atol=1e-12)


@pytest.mark.parametrize("chains", ["persistent", "data", "exact"])
def test_chains_reach_the_models_law(chains):
    """With α → 0 the chains' second moment is K⁻¹; a sweep has the law of the flax module's."""
    machine = GaussianRBM(visible=3, chains=chains, sweeps=1 if chains == "persistent" else 8)
    dynamics, replicas, batch = contrastive_divergence(machine), 4096, 4
    keys = jax.random.split(jax.random.key(2), replicas)
    w = machine.init(jax.random.key(3), (), jnp.float32(0.7))["W"]
    hyper = {"learning_rate": jnp.full(replicas, 1e-9), "batch_size": batch, "init_width": jnp.ones(replicas)}
    everyone = jax.tree.map(
        lambda x: jnp.repeat(x[..., None], replicas, -1),
        dynamics.init(jax.random.key(0), {"batch_size": batch, "init_width": 1.0})._replace(params={"W": w}),
    )
    seen = jax.jit(lambda k, s: chains_after(machine, k, s, machine.factor(s.params), batch))(keys, everyone)
    if chains == "persistent":
        net, phi = machine.module({"W": w}), jnp.ones(3)
        wanted = jax.vmap(lambda k: net(k, phi))(jax.random.split(jax.random.key(5), 20000))
        assert_mean(seen[0].T, np.asarray(wanted).mean(0), bias=0.01, resolution=0.06)
        assert_mean(seen[0].T - wanted[:replicas].mean(0), 0, bias=0.02, resolution=0.07)
        np.testing.assert_allclose(np.cov(seen[1]), np.cov(wanted.T), atol=0.02)
        for _ in range(12):
            keys = jax.vmap(lambda k: jax.random.fold_in(k, 1))(keys)
            assert dynamics.block_step is not None
            everyone = dynamics.block_step(keys, everyone, hyper)
        seen = everyone.chains
    kernel = np.asarray(machine.module({"W": w}).kernel())
    second = np.einsum("bir,bjr->rij", seen, seen) / batch
    assert_mean(second, np.linalg.inv(kernel), bias=0.002, resolution=0.04)


@pytest.mark.parametrize("sweeps", [1, 2, 3, 5])
def test_sweeps_at_once_have_the_law_of_sweeps(sweeps):
    """Mean and covariance of φ after k sweeps from one start, by both ways and by the flax module."""
    machine = GaussianRBM(visible=3, hidden=2, mass2=(9.0, 7.0, 8.0), mass="per-site", sweeps=sweeps, hidden_std=0.9)
    assert machine._at_once(4, sweeps)
    params = machine.init(jax.random.key(3), (), jnp.float32(0.9))
    net, start = machine.module(params), jnp.array([1.0, -2.0, 3.0])
    w, mass2, s = np.asarray(params["W"]), np.array([9.0, 7.0, 8.0]), 0.9
    a, noise = s * s * w.T @ w / mass2[:, None], np.diag(1 / mass2) + s * s * (w / mass2).T @ (w / mass2)
    mean, covariance = np.asarray(start), np.zeros((3, 3))
    for _ in range(sweeps):
        mean, covariance = a @ mean, a @ covariance @ a.T + noise
    keys = jax.random.split(jax.random.key(6), 20000)

    def chain(key):
        return jax.lax.fori_loop(0, sweeps, lambda i, phi: net(jax.random.fold_in(key, i), phi), start)

    blocked = jax.tree.map(lambda x: jnp.repeat(x[..., None], 20000, -1), params)
    begun = jnp.repeat(start[None, :, None], 20000, -1)
    at_once = jax.jit(lambda k: machine.gibbs(k, blocked, begun, sweeps))(keys)[0].T
    for phi in (np.asarray(jax.jit(jax.vmap(chain))(keys)), np.asarray(at_once)):
        assert_mean(phi, mean, resolution=0.05)
        assert_mean(np.einsum("ri,rj->rij", phi - mean, phi - mean), covariance, resolution=0.06)


def test_many_units_are_swept_one_by_one():
    machine = GaussianRBM(visible=60, sweeps=2)
    assert not machine._at_once(2, 2) and GaussianRBM()._at_once(16, 3)
    ds = dj.scan(dj.sgd(machine), dj.Grid(learning_rate=[0.01], batch_size=[2], seed=range(2)), 3, progress=False)
    assert np.all(np.isfinite(ds.levels))


def test_wishart_sampling_is_exact_sampling_in_law():
    """After a few large updates from one start both have the same mean and spread of every level."""
    machine = GaussianRBM(visible=4, chains="exact")
    found = []
    for dynamics in (dj.sgd(machine), dj.sgd(machine, sampling="wishart")):
        grid = dj.Grid(learning_rate=[0.03], batch_size=[8], init_width=[0.3], seed=range(4096))
        ds = dj.scan(dynamics, grid, steps=40, snapshots=[40], progress=False)
        assert (ds.diverged_step < 0).all()
        found.append(ds.levels.values.reshape(4096, 2, 4)[:, 1].astype(float))
    a, b = found
    error = np.sqrt((a.var(0) + b.var(0)) / 4096)
    assert np.all(np.abs(a.mean(0) - b.mean(0)) < 5 * error) and np.all(error < 0.03 * a.mean(0) + 0.02)
    assert np.all(np.abs(a.std(0) / b.std(0) - 1) < 0.12)


LEVELS = {
    "sgd": lambda machine: dj.sgd(machine, sampling="wishart"),
    "matrix": dj.matrix_langevin,
    "dyson": dj.dyson_of,
}


@pytest.mark.optimised  # it runs for longer than it compiles
@pytest.mark.parametrize("level", LEVELS)
def test_small_noise_widths_are_those_of_the_theory(level):
    """σ_i² = 2 T x_i^s of the levels alone, κ = 4 and 8 of the four-site chain, and the pair's ⟨S⟩."""
    machine = GaussianRBM(visible=4, hidden=4)
    theory = machine.level_theory()
    np.testing.assert_allclose(theory.fixed_points, 9 - np.array([4, 6, 6, 8]), atol=1e-9)
    np.testing.assert_allclose(theory.potential.force(jnp.asarray(theory.fixed_points)[:, None]), 0, atol=1e-6)
    grid = dj.Grid(learning_rate=[0.1], batch_size=[800], seed=range(512))
    ds = dj.scan(LEVELS[level](machine), grid, steps=8000, snapshots=[8000], progress=False)
    x = ds.levels.values.reshape(512, 2, 4)[:, 1].astype(float)
    width = np.array(theory.widths) * np.sqrt(0.1 / 800)
    assert_mean(((x - theory.fixed_points) / width)[:, [0, 3]] ** 2, 1, bias=0.06, resolution=0.45)
    assert_mean((x[:, 1] - x[:, 2]) / width[1], np.sqrt(np.pi), bias=0.04, resolution=0.28)


def test_a_regulator_learns_the_infrared_modes_only():
    machine = GaussianRBM(visible=6, hidden=2)
    ds = dj.scan(
        dj.sgd(machine, sampling="wishart"), dj.Grid(learning_rate=[0.05], batch_size=[256], seed=range(64)), 1500,
        snapshots=[1500], progress=False,
    )  # fmt: skip
    assert_mean(ds.levels.values.reshape(64, 2, 2)[:, 1], 9 - np.array(machine.kappa[:2]), bias=0.05, resolution=0.2)


@pytest.mark.parametrize(("mass", "kappa"), [("global", 4.0), ("per-site", 4.0)])
def test_a_mass_is_learnt(mass, kappa):
    """Data of one scale: K_φ = κ 1 is reached from μ² = 6 by W and μ² together."""
    machine = GaussianRBM(visible=3, target=kappa * np.eye(3), mass2=6.0, mass=mass, init_width=0.01, hidden=1)
    params = block(machine.init(jax.random.key(0), (), jnp.float32(0.01)))
    step = jax.jit(
        lambda p: jax.tree.map(lambda w, g: w - 0.3 * g, p, machine.moment_gradient(p, jnp.eye(3)[..., None], ()))
    )
    assert jax.tree.map(jnp.shape, step(params)) == jax.tree.map(jnp.shape, params)
    for _ in range(4000):
        params = step(params)
    np.testing.assert_allclose(one(machine.factor(params)) ** 2 @ np.ones(3), kappa, atol=0.05)


def test_leaving_the_positive_definite_region_is_counted():
    grid = dj.Grid(learning_rate=[0.8], batch_size=[2], seed=range(64))
    chains = dj.scan(dj.sgd(GaussianRBM(visible=4)), grid, steps=200, snapshots=[200], progress=False)
    assert int(chains.outside.isel(snapshot=-1).sum()) > 0
    wishart = dj.scan(dj.sgd(GaussianRBM(visible=4), sampling="wishart"), grid, 200, snapshots=[200], progress=False)
    lost = wishart.diverged_step.values
    assert np.any(lost > 0) and np.all(np.isfinite(wishart.levels))


def test_step_equals_block_step():
    machine = GaussianRBM(visible=3, hidden=2, mass="global")
    for dynamics, size in ((dj.sgd(machine), 2), (dj.sgd(machine, sampling="wishart"), jnp.float32(2))):
        hyper = {"learning_rate": jnp.float32(0.1), "batch_size": size, "init_width": jnp.float32(0.3), "data": ()}
        key = jax.random.key(4)
        state = dynamics.init(key, hyper)
        alone = jax.jit(lambda key, state: dynamics.step(key, state, hyper))(key, state)  # noqa: B023
        block_step = dynamics.block_step
        assert block_step is not None
        given = block(hyper) | {"batch_size": size}
        together = jax.jit(lambda key, state, step=block_step: step(key[None], state, given))(key, block(state))  # noqa: B023
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(one(together)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_example_gradients_average_to_the_gradient():
    machine = MACHINES["per-site"]
    params = machine.init(jax.random.key(1), (), jnp.float32(0.4))
    each = machine.example_gradients(jax.random.key(2), params, 20000, ())
    mean = one(machine.moment_gradient(block(params), jnp.eye(3)[..., None], ()))
    for name in params:
        assert_mean(each[name], mean[name], resolution=0.15)


def test_config_is_json_and_tells_machines_apart():
    configs = {json.dumps(dict(m.config), sort_keys=True) for m in MACHINES.values()}
    assert len(configs) == len(MACHINES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"visible": 0}, "visible = 0: expected a whole number of at least 1"),
        ({"mass": "none"}, "mass = 'none': expected fixed, global or per-site"),
        ({"chains": "some"}, "chains = 'some': expected persistent, data or exact"),
        ({"mass2": -1.0}, "mass2 = -1.0: expected positive numbers"),
        ({"mass2": (1.0, 2.0)}, "mass2 = (1.0, 2.0): expected one number, or 10 of them"),
        ({"target": -np.eye(10)}, "expected a positive-definite second moment"),
        ({"target": np.eye(3)}, "target = (3, 3): expected a symmetric matrix (10, 10)"),
        ({"target": np.eye(10) * np.nan}, "target = "),
        ({"data": np.ones((4, 10))}, "data = (4, 10): expected more than 10 examples"),
        ({"data": np.ones((40, 10)), "target": np.eye(10)}, "not both"),
        ({"sweeps": 0}, "sweeps = 0"),
        ({"hidden_std": 0.0}, "hidden_std = 0.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(dj.InputError, match="expected") as error:
        GaussianRBM(**arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("machine", [MACHINES["regulator"], MACHINES["per-site"], GaussianRBM(mass2=7.0)])
def test_no_theory_is_said_so(machine):
    with pytest.raises(dj.InputError):
        dj.dyson_of(machine)


def test_an_optimiser_or_foreign_sampling_is_refused():
    with pytest.raises(dj.InputError, match="optimizer"):
        dj.sgd(GaussianRBM(), optimizer=lambda rate: None)
    with pytest.raises(dj.InputError, match="sampling"):
        dj.sgd(dj.models.TanhNetwork(), sampling="wishart")
