"""The engine chooses by the traced update where a tile's replicas stand; the numbers do not tell which it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dysonjax as dj
from dysonjax.core.observables import Variable, mean, snapshot
from dysonjax.engine import arranging, loop
from dysonjax.engine.tile import NEVER

KEYS = jax.random.split(jax.random.key(4), 9)
HYPER = {"learning_rate": np.linspace(0.01, 0.3, 9)}


def network(width, lifted=True):
    """SGD on random batches of a network with one hidden layer, its data drawn once for each replica."""

    def data(key, hyper):
        return jax.random.normal(key, (16, width)), jax.random.normal(key, (16,))

    def loss(w, x, y):
        return jnp.mean((jnp.tanh(x @ w["a"]) @ w["b"] - y) ** 2)

    def step(key, state, hyper):
        rows = jax.random.randint(key, (8,), 0, 16)
        x, y = (part[rows] for part in hyper["data"])
        value, slope = jax.value_and_grad(loss)(state["w"], x, y)
        w = jax.tree.map(lambda w, g: w - hyper["learning_rate"] * g, state["w"], slope)
        return {"w": w, "loss": value, "key": jax.random.fold_in(state["key"], hyper["step"])}

    def init(key, hyper):
        a, b = jax.random.split(key)
        w = {"a": jax.random.normal(a, (width, width)) / width, "b": jax.random.normal(b, (width,)) / width}
        return {"w": w, "loss": jnp.float32(0), "key": a}

    seen = lambda f, name, **options: snapshot(name, f, Variable((), name), **options)  # noqa: E731
    return dj.Dynamics(
        init, step, lambda state: {"a": jnp.linalg.svd(state["w"]["a"], compute_uv=False)}, data,
        parameters={"learning_rate": dj.Parameter()}, healthy=lambda state: jnp.isfinite(state["loss"]), lifted=lifted,
        observables=(
            mean("mean_loss", lambda spectra, state, hyper: state["loss"], Variable((), "loss")),
            seen(lambda spectra, state, hyper: hyper["data"][1].sum(), "of_one"),
            seen(lambda spectra, state, hyper: state["w"]["b"].sum(0) + hyper["data"][1][0], "of_block", of_block=True),
        ),
    )  # fmt: skip


def run(width, **options):
    return dj.simulate(network(width, **options), KEYS, HYPER, 6, snapshots=[0, 3, 6])


@pytest.mark.parametrize("width", [6, 48])
def test_every_way_gives_the_same_numbers(width, monkeypatch):
    expected = run(width, lifted=False)
    for way in ("last", "first"):
        monkeypatch.setattr(loop, "way_of", lambda *_, way=way: way)
        found = run(width)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=f"{way} {name}")


@pytest.mark.parametrize("way", ["last", "first"])
def test_a_replica_that_diverges_is_held_whatever_the_way(way, monkeypatch):
    monkeypatch.setattr(loop, "way_of", lambda *_: way)
    rates = {"learning_rate": np.where(np.arange(9) == 4, 1e30, 0.1)}
    found = dj.simulate(network(6), KEYS, rates, 6, snapshots=[0, 3, 6])
    assert found["diverged_step"][4] > 0
    assert np.all(np.delete(found["diverged_step"], 4) == NEVER)
    assert np.all(np.isfinite(found["levels"]))
    alone = dj.simulate(network(6), KEYS[:4], {"learning_rate": rates["learning_rate"][:4]}, 6, snapshots=[0, 3, 6])
    for name in alone:
        assert alone[name].tobytes() == found[name][:4].tobytes(), name


def test_the_way_follows_the_products_and_the_device():
    kinds = (("learning_rate", jnp.dtype("float32")),)
    ask = lambda dynamics, platform="cpu": arranging.way_of(dynamics, (), kinds, platform)  # noqa: E731
    assert ask(network(6)) == "last"
    assert ask(network(80)) == "first"
    assert ask(network(6), "gpu") == "first"
    assert ask(network(80, lifted=False)) == ask(network(6, lifted=False), "gpu") == "vmapped"
    by_hand = dj.sgd(dj.models.TanhNetwork())
    assert by_hand.block_step is not None
    assert ask(by_hand) == ask(by_hand, "gpu") == "vmapped"


def test_large_networks_lie_in_small_tiles_whatever_the_batch():
    def trained(width: int) -> dj.Dynamics:
        start = lambda key: {"w": jax.random.normal(key, (width, width))}  # noqa: E731
        loss = lambda params, x: jnp.sum((params["w"] @ x) ** 2)  # noqa: E731
        return dj.train(dj.models.FunctionModel(start, loss, np.ones((40, width), np.float32)))

    # a product forward, one backward: the input has no gradient
    assert [arranging.tile_of(trained(width)) for width in (8, 158, 159)] == [32, 32, 8]


def test_repetitions_and_branches_count():
    """Multiplications of a scan are those of all its steps; a product hidden in a branch or a call is found."""

    def f(x, w):
        x = jax.lax.scan(lambda x, _: (jax.jit(jnp.matmul)(x, w), None), x, None, 7)[0]
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x.T, lambda x: x @ x.T, x)

    found = list(arranging._products(jax.make_jaxpr(f)(jnp.ones((2, 3)), jnp.ones((3, 3))).jaxpr, 1))
    assert sorted(found) == [(12, 12), (12, 12), (18, 126)]
    conv = lambda x, w: jax.lax.conv(x, w, (1, 1), "VALID")  # noqa: E731
    made = jax.make_jaxpr(conv)(jnp.ones((2, 3, 6, 6)), jnp.ones((4, 3, 3, 3))).jaxpr
    assert list(arranging._products(made, 1)) == [(2 * 4 * 16 * 27, 2 * 4 * 16 * 27)]
