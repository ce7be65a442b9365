"""Models: the small products they are made of, the tanh network against its definition, anybody's flax module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from stochastic import assert_mean

import dysonjax as dj
from dysonjax import blocks, spectra
from dysonjax.dynamics import lift
from dysonjax.models.base import mean_loss

KEY = jax.random.key(7)


def normal(*shape):
    return jax.random.normal(jax.random.fold_in(KEY, sum(shape)), shape)


@pytest.mark.parametrize("form", ["unrolled", "reduce"])
@pytest.mark.parametrize(("m", "n", "b"), [(1, 5, 3), (4, 1, 1), (3, 65, 2), (130, 7, 2)])
def test_products_equal_einsum(monkeypatch, form, m, n, b):
    """Both forms, and lengths on both sides of the longest unrolled sum."""
    monkeypatch.setattr(blocks, "FORM", form)
    w, x, y = normal(m, n, 6), normal(b, n, 6), normal(b, m, 6)
    close = {"rtol": 2e-5, "atol": 2e-5}
    np.testing.assert_allclose(blocks.matvec(w, x), jnp.einsum("mnr,bnr->bmr", w, x), **close)
    np.testing.assert_allclose(blocks.matvec_transposed(w, y), jnp.einsum("mnr,bmr->bnr", w, y), **close)
    np.testing.assert_allclose(blocks.sum_of_outer(y, x), jnp.einsum("bmr,bnr->mnr", y, x), **close)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_levels_are_the_eigenvalues_of_w_wt(shape):
    w = normal(2, *shape)
    levels = spectra.levels(w)
    exact = np.linalg.eigvalsh(np.float64(w) @ np.float64(w).swapaxes(-1, -2))[:, ::-1][:, : min(shape)]
    np.testing.assert_allclose(levels, exact, rtol=1e-5)
    np.testing.assert_allclose(spectra.gaps(levels), -np.diff(exact), rtol=1e-4, atol=1e-5)


def test_small_levels_keep_their_digits():
    """Forming W Wᵀ in float32 would lose a level 10⁻¹⁰ times the largest."""
    w = jnp.diag(jnp.array([1.0, 1e-5]))
    np.testing.assert_allclose(spectra.levels(w), [1.0, 1e-10], rtol=1e-5)


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
@pytest.mark.parametrize(
    ("hidden", "outputs", "trained"),
    [((6, 5), 1, (1,)), ((6, 5), 2, "all"), ((6, 5), 1, (0, 2)), ((5, 4, 3), 2, (1, 2)), ((4,), 1, (0,))],
)
def test_gradient_by_hand_equals_autodiff(activation, hidden, outputs, trained):
    net = dj.models.TanhNetwork(hidden=hidden, outputs=outputs, activation=activation, trained=trained)
    keys = jax.random.split(KEY, (3, 4))

    def draw(key, init_key, sample_key):
        task = net.task(key)
        return net.init(init_key, task, jnp.float32(1.5)), net.sample(sample_key, 3, task), task

    drawn = lift(draw)(*keys)
    loss, gradient = net.block_loss_and_gradient(*drawn)
    exact_loss, exact = lift(lambda p, e, t: jax.value_and_grad(lambda q: mean_loss(net, q, e, t))(p))(*drawn)
    np.testing.assert_allclose(loss, exact_loss, rtol=1e-5)
    assert set(gradient) == set(exact) == set(net.trained_names)
    for name, value in gradient.items():
        np.testing.assert_allclose(value, exact[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_loss_is_that_of_the_paper():
    """½|y_t − y|² with y = Z tanh(W tanh(M x)), written out in float64."""
    net = dj.models.TanhNetwork()
    task = net.task(KEY)
    params = net.init(jax.random.fold_in(KEY, 1), task, jnp.float32(2.0))
    x = np.float64(jax.random.normal(jax.random.fold_in(KEY, 2), (5, 3)))  # the inputs that sample draws
    m, teacher, z, w = (np.float64(a) for a in (task["M"], task["W"], task["Z"], params["W"]))
    error = (np.tanh(np.tanh(x @ m.T) @ teacher.T) - np.tanh(np.tanh(x @ m.T) @ w.T)) @ z.T
    examples = net.sample(jax.random.fold_in(KEY, 2), 5, task)
    np.testing.assert_allclose(mean_loss(net, params, examples, task), 0.5 * np.mean(error**2), rtol=1e-5)
    assert float(mean_loss(net, {"W": task["W"]}, examples, task)) < 1e-12  # the teacher itself makes no error


def test_matrices_have_the_papers_variances():
    net = dj.models.TanhNetwork()
    keys = jax.random.split(KEY, 400)
    tasks = jax.vmap(net.task)(keys)
    for name, fan_in in (("M", 3), ("W", 32), ("Z", 16)):
        squares = np.square(tasks[name]).reshape(400, -1).mean(1)
        assert_mean(squares, 1 / fan_in, resolution=0.1 / fan_in)
    students = jax.vmap(lambda k, t: net.init(k, t, jnp.float32(3.0)))(jax.random.split(keys[0], 400), tasks)["W"]
    assert_mean(np.square(students).reshape(400, -1).mean(1), 9 / 32, resolution=0.3 / 32)


@pytest.mark.parametrize(
    ("argument", "bad"),
    [
        ("inputs", 0), ("outputs", -1), ("hidden", (3, 0)), ("hidden", ()), ("hidden", (2.5,)), ("activation", "gelu"),
        ("trained", ()), ("trained", (0, 0)), ("trained", (3,)), ("trained", "W"),
    ],
)  # fmt: skip
def test_bad_networks_are_refused_in_one_line(argument, bad):
    with pytest.raises(dj.InputError, match=rf"^{argument} = .*: expected .*") as refusal:
        dj.models.TanhNetwork(**{argument: bad})
    assert "\n" not in str(refusal.value)


class Net(nnx.Module):
    """Two layers and a variable that is not trained."""

    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)
        self.scale = nnx.BatchStat(jnp.float32(2.0))

    def __call__(self, x):
        return self.scale[...] * self.second(nnx.relu(self.first(x)))


def squared_error(net, example):
    return jnp.mean((net(example[0]) - example[1]) ** 2)


DATA = (np.arange(60, dtype=np.float32).reshape(20, 3), np.arange(20, dtype=np.float32)[:, None])


def flax_model(**options):
    return dj.models.FlaxModel(lambda rngs: Net(rngs), squared_error, **{"data": DATA, **options})


def test_a_flax_module_is_watched_and_widened():
    model = flax_model()
    task = model.task(KEY)
    one, wide = (model.init(KEY, task, jnp.float32(width)) for width in (1.0, 5.0))
    watched = model.matrices(one)
    assert {name: x.shape for name, x in watched.items()} == {"first.kernel": (3, 4), "second.kernel": (4, 1)}
    for name, x in watched.items():
        np.testing.assert_allclose(model.matrices(wide)[name], 5 * x, rtol=1e-6)
    assert set(flax_model(watch=lambda name: "second" in name).matrices(one)) == {"second.kernel"}
    direct = Net(nnx.Rngs(KEY))  # the same key builds the same network
    example = tuple(a[3] for a in DATA)
    np.testing.assert_allclose(model.loss(one, example, task), squared_error(direct, example), rtol=1e-6)


@pytest.mark.parametrize("num", [2, 5, 19, 20])
def test_examples_are_drawn_without_replacement(num):
    """Few by Floyd's algorithm, many by a permutation; every example equally often."""
    draw = jax.jit(jax.vmap(lambda key: flax_model().sample(key, num, ())[1][:, 0]))
    rows = np.asarray(draw(jax.random.split(KEY, 2000))).astype(int)
    assert all(len(set(row)) == num for row in rows)
    for row in range(20):
        assert_mean((rows == row).sum(1), num / 20, resolution=0.06) if num < 20 else None
    inputs, targets = flax_model().sample(KEY, num, ())
    np.testing.assert_array_equal(inputs[:, 0], 3 * targets[:, 0])  # inputs stay with their targets


def test_bad_flax_models_are_refused():
    with pytest.raises(dj.InputError, match=r"^data = .*: expected arrays with one common leading axis$"):
        flax_model(data=(DATA[0], DATA[1][:5]))
    with pytest.raises(dj.InputError, match=r"^module = 'Net': expected at least one watched parameter"):
        flax_model(watch=lambda name: False)
