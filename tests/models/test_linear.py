"""Linear networks: gradients against autodiff, noise against its covariance, theories against simulated matrices."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stochastic import assert_mean

import dysonjax as dj
from dysonjax.core.dynamics import lift
from dysonjax.core.model import mean_loss
from dysonjax.models.feed_forward import FeedForward
from dysonjax.models.linear import LinearNetwork

KEY = jax.random.key(5)

NETWORKS = {
    "paper": LinearNetwork(noise=0.3),
    "rectangular": LinearNetwork(teacher=(1, 3), inputs=3, outputs=4, noise=0.3),
    "frozen": LinearNetwork(teacher=(3, 2, 1), hidden=4, frozen_scale=1.5),
    "narrow": LinearNetwork(teacher=(3, 2, 1), outputs=4, hidden=2, trained="both"),
    "square": LinearNetwork(teacher=(2, 1), hidden=2, trained="both", noise=0.3),
}


def drawn(net, replicas=4, batch=3):
    """Parameters and examples of a block."""
    keys = jax.random.split(KEY, (2, replicas))
    return lift(lambda k, l: (net.init(k, (), jnp.float32(0.8)), net.sample(l, batch, ())))(*keys)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_by_hand_equals_autodiff(name):
    net = NETWORKS[name]
    params, examples = drawn(net)
    autodiff = lift(lambda p, e: jax.value_and_grad(lambda q: mean_loss(net, q, e, ()))(p))
    loss, gradient = jax.jit(net.block_loss_and_gradient)(params, examples, ())
    exact_loss, exact = jax.jit(autodiff)(params, examples)
    np.testing.assert_allclose(loss, exact_loss, rtol=1e-5)
    assert set(gradient) == set(exact) == set(net.trained_names)
    for key, value in gradient.items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, exact[key], rtol=1e-4, atol=1e-5, err_msg=key)


def test_compiled_equals_eager():
    net = NETWORKS["square"]
    params, examples = drawn(net)
    keys = jax.random.split(KEY, 4)
    one = jnp.eye(2)[..., None] * jnp.ones(4)

    def everything(keys, params, examples):
        by_hand = net.block_loss_and_gradient(params, examples, ())
        return by_hand, net.moment_gradient(params, one, ()), net.gradient_noise(keys)

    compiled, eager = jax.jit(everything)(keys, params, examples), everything(keys, params, examples)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), compiled, eager)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_is_known_by_its_second_moment(name):
    net = NETWORKS[name]
    params, (x, y, noise) = drawn(net)
    moment = jnp.einsum("bir,bjr->ijr", x, x) / len(x)
    assert moment.shape[0] == net.gaussians
    by_moment = jax.jit(net.moment_gradient)(params, moment, ())
    _, by_examples = jax.jit(net.block_loss_and_gradient)(params, (x, y, noise), ())
    for key in net.trained_names:
        wanted = by_examples[key] - (jnp.mean(noise[key], axis=0) if noise else 0)
        assert by_moment[key].shape == (*net.shapes[key], 4)
        np.testing.assert_allclose(by_moment[key], wanted, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_module_is_the_definition(name):
    """½|W_t x − net(x)|², whatever the noise, and every matrix where it belongs."""
    net = NETWORKS[name]
    params = net.init(KEY, net.task(KEY), jnp.float32(0.8))
    x, y, noise = examples = net.sample(KEY, 5, ())
    np.testing.assert_allclose(y, x @ net.teacher_matrix.T, rtol=1e-5, atol=1e-6)
    matrices = [np.asarray(w) for w in params.values()]
    if net.trained == "first" and net.hidden:
        matrices.append(np.eye(*net.shapes["W2"]) * net.frozen_scale)
    student = jax.vmap(FeedForward([jnp.asarray(w) for w in matrices], "identity"))(x)
    np.testing.assert_allclose(student, x @ (matrices[-1] @ matrices[0] if net.hidden else matrices[0]).T, atol=1e-5)
    losses = jax.vmap(lambda e: net.loss(params, e, ()))(examples)
    np.testing.assert_allclose(losses, 0.5 * np.sum((y - student) ** 2, axis=1), rtol=1e-4)
    assert {key: w.shape for key, w in params.items()} == {key: net.shapes[key] for key in net.trained_names}
    assert {key: a.shape for key, a in noise.items()} == {
        key: (5, *net.shapes[key]) for key in net.trained_names if net.noise
    }
    singular = np.linalg.svd(net.teacher_matrix, compute_uv=False)
    np.testing.assert_allclose(singular, [*net.teacher, *np.zeros(len(singular) - len(net.teacher))], atol=1e-12)


def test_matrices():
    params = NETWORKS["square"].init(KEY, (), jnp.float32(1.0))
    watched = NETWORKS["square"].matrices(params)
    assert list(watched) == ["W1", "W2", "P"]
    np.testing.assert_allclose(watched["P"], params["W2"] @ params["W1"], rtol=1e-5)
    assert list(NETWORKS["frozen"].matrices(NETWORKS["frozen"].init(KEY, (), jnp.float32(1.0)))) == ["W1"]
    assert list(NETWORKS["paper"].matrices(NETWORKS["paper"].init(KEY, (), jnp.float32(1.0)))) == ["W"]


def test_initial_widths():
    for fan_in, variances in ((False, (0.25, 0.25)), (True, (0.25 / 3, 0.25 / 5))):
        net = LinearNetwork((1.0,), inputs=3, outputs=4, hidden=5, trained="both", fan_in=fan_in)
        params = jax.vmap(lambda key: net.init(key, (), jnp.float32(0.5)))(jax.random.split(KEY, 2000))  # noqa: B023
        for name, variance in zip(("W1", "W2"), variances, strict=True):
            assert_mean(params[name] ** 2, variance, resolution=0.25 * variance)
        assert_mean(params["W1"][:, :4, :3] * params["W2"][:, :, :3], 0, resolution=0.04)


@pytest.mark.parametrize("source", ["examples", "block"])
def test_noise_covariance(source):
    """GOE for a square matrix: A off the diagonal, 2A on it; independent entries otherwise; matrices independent."""
    net = LinearNetwork((2, 1, 1), hidden=3, trained="both", noise=0.5)
    flat = LinearNetwork((2, 1), outputs=3, noise=0.5)

    def draw(net):
        if source == "examples":
            return net.sample(KEY, 20000, ())[2]
        keys = jax.random.split(KEY, 20000)
        return {name: jnp.moveaxis(a, -1, 0) for name, a in jax.jit(net.gradient_noise)(keys).items()}

    noise = {name: np.asarray(a) for name, a in draw(net).items()}
    assert list(noise) == ["W1", "W2"]
    for a in noise.values():
        np.testing.assert_array_equal(a, np.swapaxes(a, 1, 2))
        assert_mean(a**2, 0.25 * (1 + np.eye(3)), resolution=0.03)
        assert_mean(a[:, [0, 0, 0], [1, 0, 1]] * a[:, [0, 1, 1], [2, 1, 1]], 0, resolution=0.02)
        assert_mean(a, 0, resolution=0.03)
    assert_mean(noise["W1"] * noise["W2"], 0, resolution=0.02)
    (a,) = (np.asarray(a) for a in draw(flat).values())
    assert_mean(
        np.einsum("bij,bkl->bijkl", a, a), 0.25 * np.einsum("ik,jl->ijkl", np.eye(3), np.eye(2)), resolution=0.02
    )


def test_without_noise_nothing_is_drawn():
    net = LinearNetwork()
    assert net.gradient_noise(jax.random.split(KEY, 3)) is None
    assert net.sample(KEY, 3, ())[2] == {}
    with pytest.raises(dj.InputError, match=r"^noise = 0.0: expected a positive number.*nothing fluctuates"):
        net.level_theory()


@pytest.mark.parametrize("outputs", [2, 3])
def test_stationary_error_of_real_batches(outputs):
    """Far from small learning rates: T A n(n + 1)/2, the limit T → 0, would be too small by a third."""
    net, rate, size, replicas = LinearNetwork(outputs=outputs, noise=0.5), 0.4, 4, 10000

    def step(i, w):
        keys = jax.vmap(lambda key: jax.random.fold_in(key, i))(jax.random.split(KEY, replicas))
        examples = lift(lambda key: net.sample(key, size, ()))(keys)
        return {"W": w["W"] - rate * net.block_loss_and_gradient(w, examples, ())[1]["W"]}

    start = {"W": jnp.asarray(net.teacher_matrix, jnp.float32)[..., None] + jnp.zeros(replicas)}
    w = jax.jit(lambda w: jax.lax.fori_loop(0, 30, step, w))(start)["W"]
    error = np.sum(np.square(np.moveaxis(w, -1, 0) - net.teacher_matrix), axis=(1, 2))
    wanted = net.stationary_error(rate, size)
    assert_mean(error / wanted, 1, resolution=0.08)


def test_stationary_error_broadcasts_and_ends():
    net = LinearNetwork(noise=0.1)
    errors = net.stationary_error(np.array([[1e-6], [0.5], [1.9]]), np.array([1, 16]))
    np.testing.assert_allclose(errors[0], 1e-6 / np.array([1, 16]) * 0.01 * 6 / 2, rtol=1e-5)
    assert np.isinf(errors[2]).all()
    assert errors[1, 0] == np.inf  # E‖Δ‖² is multiplied by 0.25 + 3/4 each update
    with pytest.raises(dj.InputError, match=r"^hidden = 2: expected None"):
        NETWORKS["square"].stationary_error(0.1, 1)


def goe(rng, replicas, m, n):
    g = rng.normal(size=(replicas, m, n))
    return (g + np.swapaxes(g, 1, 2)) / np.sqrt(2) if m == n else g


def simulated_levels(net, temperature, rate, time, start=None, replicas=4000):
    """Levels [replicas, n] of the theory's matrix by Euler steps dW = −∇L dt + √T a in plain NumPy.

    Of two trained matrices `start` is one start for all, or a small random one that first descends without noise.
    """
    rng, n, target = np.random.default_rng(3), len(net.teacher), net.teacher_matrix
    kick = net.noise * np.sqrt(temperature * rate)
    h, scale = net.hidden or n, net.frozen_scale if net.hidden else 1.0
    second = np.broadcast_to(np.eye(n) * scale, (replicas, n, n)) if net.trained == "first" else None
    if second is not None:
        first = np.broadcast_to(target / scale, second.shape)
    elif start is not None:
        first, second = (np.broadcast_to(w, (replicas, n, n)) for w in start)
    else:
        first, second = 0.1 * rng.normal(size=(replicas, h, n)), 0.1 * rng.normal(size=(replicas, n, h))
    swap = lambda w: np.swapaxes(w, 1, 2)  # noqa: E731
    descents = 150 if net.trained == "both" and start is None else 0
    for step in range(descents + round(time / rate)):
        dt, strength = (0.1, 0) if step < descents else (rate, kick)
        error = second @ first - target
        to_first = -dt * swap(second) @ error + strength * goe(rng, replicas, h, n)
        if net.trained == "both":
            second = second - dt * error @ swap(first) + strength * goe(rng, replicas, n, h)
        first = first + to_first
    return np.linalg.svd(second @ first if net.trained == "both" else first, compute_uv=False)


THEORIES = {
    "one matrix": (LinearNetwork((1, 2, 3), noise=0.1), "W", (3, 2, 1), 1, (0.1, 0.1, 0.1)),
    "one frozen": (LinearNetwork((3, 2), hidden=2, frozen_scale=2.0, noise=0.1), "W1", (1.5, 1), 4, (0.05, 0.05)),
    "both": (
        LinearNetwork((3, 1.5), hidden=2, trained="both", noise=0.1), "P", (3, 1.5), (6, 3), np.full(2, np.sqrt(3) / 20)
    ),
    "both, wide": (
        LinearNetwork((3, 1.5), hidden=4, trained="both", noise=0.1), "P", (3, 1.5), (6, 3), np.full(2, np.sqrt(2) / 20)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", THEORIES)
def test_level_widths(name):
    """σ_i² = T widths²/(1 − α stiffness/2) of Euler steps, and Dyson's own relation of widths, coupling and drift."""
    net, matrix, centres, stiffness, widths = THEORIES[name]
    theory = net.level_theory()
    assert (theory.matrix, theory.geometry) == (matrix, "symmetric")
    np.testing.assert_allclose(theory.fixed_points, centres)
    np.testing.assert_allclose(theory.widths, widths)
    x = np.array([[2.0]]) * np.ones((len(centres), 1))
    np.testing.assert_allclose(
        theory.potential.force(x)[:, 0], -np.array(stiffness) * (2 - np.array(centres)), rtol=1e-5
    )
    np.testing.assert_allclose(np.square(theory.coupling) / stiffness, np.square(widths))

    temperature, rate = 1e-3, 0.04
    levels = simulated_levels(net, temperature, rate, 4 / np.min(stiffness))
    variance = temperature * np.square(widths) / (1 - rate * np.array(stiffness) / 2)
    assert_mean((levels - centres) ** 2 / variance, 1, bias=0.01, resolution=0.2)


@pytest.mark.parametrize("hidden", [None, 2])
def test_spacing_of_a_degenerate_pair(hidden):
    """⟨S²⟩ = 4σ²: the noise within a multiplet is that of a symmetric matrix, also of a product's."""
    net = LinearNetwork((2, 2), hidden=hidden, trained="both" if hidden else "first", noise=0.1)
    stiffness = 4 if hidden else 1
    levels = simulated_levels(net, 1e-3, 0.04, 4 / stiffness)
    wanted = 4e-3 * net.level_theory().widths[0] ** 2 / (1 - 0.04 * stiffness / 2)
    assert_mean((levels[:, 0] - levels[:, 1]) ** 2 / wanted, 1, bias=0.01, resolution=0.12)


def test_a_product_remembers_where_it_started():
    """From W₁ = W₂ = √t the levels of the product are wider than from a small random start: σ² = T A."""
    net = THEORIES["both"][0]
    root = np.diag(np.sqrt(net.teacher))
    levels = simulated_levels(net, 1e-3, 0.04, 4 / 3, start=(root, root))
    variance = 1e-3 * net.noise**2 / (1 - 0.04 * np.array([6, 3]) / 2)
    assert_mean((levels - net.teacher) ** 2 / variance, 1, bias=0.01, resolution=0.2)


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("teacher", {"teacher": (2, 1), "inputs": 3}),
        ("teacher", {"teacher": (2, 0)}),
        ("hidden", {"hidden": 3}),
        ("hidden", {"hidden": 1, "trained": "both"}),
    ],
)
def test_no_theory_without_a_full_square_teacher(argument, options):
    with pytest.raises(dj.InputError, match=rf"^{argument} = .*: expected .*"):
        LinearNetwork(**{"noise": 0.1, **options}).level_theory()


def test_one_step_of_the_rank_one_teacher():
    """arXiv:2606.28486: W_t = (1 − ε)W₀ + εW* after a step on the whole population."""
    net = LinearNetwork(teacher=(1.0,), inputs=6, outputs=4, fan_in=True, init_width=1.0)
    start = net.init(KEY, (), jnp.float32(net.init_width))["W"]
    slope = net.moment_gradient({"W": start[..., None]}, jnp.eye(6)[..., None], ())["W"][..., 0]
    np.testing.assert_allclose(start - 0.3 * slope, 0.7 * start + 0.3 * net.teacher_matrix, rtol=1e-5, atol=1e-6)
    assert np.linalg.matrix_rank(net.teacher_matrix) == 1


def test_config_is_json_and_tells_networks_apart():
    configs = [json.dumps(net.config, sort_keys=True) for net in NETWORKS.values()]
    assert len(set(configs)) == len(NETWORKS)
    assert json.loads(configs[1])["model"] == "linear network"
    assert json.loads(configs[1])["teacher"] == [3.0, 1.0]  # largest first
    same = LinearNetwork((3, 1), inputs=3, outputs=4, noise=0.3)
    assert same == NETWORKS["rectangular"]
    assert hash(same) == hash(NETWORKS["rectangular"])


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("teacher", {"teacher": ()}), ("teacher", {"teacher": (-1.0,)}), ("teacher", {"teacher": (np.nan,)}),
        ("teacher", {"teacher": "two"}), ("inputs", {"inputs": 1}), ("outputs", {"outputs": 1}),
        ("inputs", {"inputs": 2.5}), ("hidden", {"hidden": 0}), ("trained", {"trained": "all", "hidden": 2}),
        ("trained", {"trained": "both"}), ("frozen_scale", {"frozen_scale": 0.0}), ("noise", {"noise": -0.1}),
        ("noise", {"noise": (0.1, 0.2)}), ("fan_in", {"fan_in": 1}), ("init_width", {"init_width": 0}),
    ],
)  # fmt: skip
def test_bad_networks_are_refused_in_one_line(argument, options):
    with pytest.raises(dj.InputError, match=rf"^{argument} = .*: expected .*") as refusal:
        LinearNetwork(**options)
    assert "\n" not in str(refusal.value)


def test_learns_under_the_engine():
    dynamics = dj.sgd(LinearNetwork(noise=0.05), batches=None, tests=4)  # records eigenvalues of WᵀW
    grid = dj.Grid(learning_rate=[0.1], batch_size=[4], init_width=[0.1], seed=range(4))
    ds = dj.scan(dynamics, grid, steps=100)
    assert np.all(ds.levels.isel(snapshot=0) < 1)
    assert np.all(np.abs(np.sqrt(ds["levels"].isel(snapshot=-1)) - 2) < 0.2)
    assert np.all(ds.test_loss.isel(snapshot=-1) < 0.1)
