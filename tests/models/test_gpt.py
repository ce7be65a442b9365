"""The GPT: against the equations in NumPy, causality by gradients that are exactly zero, dropout, and under `sgd`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import erf, log_softmax

import dysonjax as dj
from dysonjax.core.errors import InputError
from dysonjax.models.gpt import GPTConfig, GPTModel, attention_matrices, cross_entropy, key_matrices, loss
from dysonjax.models.text import Text
from tests.stochastic import assert_mean

SMALL = GPTConfig(vocabulary=11, context=6, layers=2, heads=2, channels=8)
POEM = Text("the quick brown fox jumps over the lazy dog and the cat sat on the mat. " * 12, name="poem")
TINY = GPTConfig(vocabulary=len(POEM.characters), context=8, layers=1, heads=2, channels=8)


def by_hand(config, params, tokens):
    """Logits [T, V] from the equations, in float64."""
    p = jax.tree.map(lambda w: np.asarray(w, float), params)

    def norm(x, layer):
        mean = x.mean(-1, keepdims=True)
        return (x - mean) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * layer["scale"] + layer.get("bias", 0)

    def linear(x, layer):
        return x @ layer["kernel"] + layer.get("bias", 0)

    h = p["tokens"]["embedding"][tokens] + p["positions"]["embedding"][: len(tokens)]
    for i in range(config.layers):
        layer = p[f"layer{i}"]
        x = norm(h, layer["first_norm"])
        q, k, v = (linear(x, layer[kind]) for kind in ("query", "key", "value"))
        size, parts = config.channels // config.heads, []
        for head in range(config.heads):
            own = slice(head * size, (head + 1) * size)
            scores = q[:, own] @ k[:, own].T / np.sqrt(size)
            scores[np.triu_indices(len(tokens), 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            parts.append(weights / weights.sum(-1, keepdims=True) @ v[:, own])
        h = h + linear(np.concatenate(parts, -1), layer["output"])
        up = linear(norm(h, layer["second_norm"]), layer["up"])
        h = h + linear(up * (1 + erf(up / np.sqrt(2))) / 2, layer["down"])
    return norm(h, p["norm"]) @ p["tokens"]["embedding"].T


def strong(config, seed=0):
    """Parameters of order one, so that attention and GELU are far from linear."""
    params = config.init(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    moved = [w + 0.4 * jax.random.normal(k, w.shape) for w, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


@pytest.mark.parametrize("bias", [False, True])
def test_logits_are_those_of_the_equations(bias):
    config = GPTConfig(vocabulary=11, context=6, layers=2, heads=2, channels=8, bias=bias)
    params = strong(config)
    tokens = jax.random.randint(jax.random.key(3), (3, 5), 0, 11)
    found = config.merge(params)(tokens)
    for own, logits in zip(np.asarray(tokens), found, strict=True):
        np.testing.assert_allclose(logits, by_hand(config, params, own), rtol=2e-4, atol=2e-4)
    windows = np.asarray(jax.random.randint(jax.random.key(4), (3, 6), 0, 11))
    expected = [-log_softmax(by_hand(config, params, w[:-1]), axis=-1)[np.arange(5), w[1:]].mean() for w in windows]
    assert float(loss(config, params, jnp.asarray(windows))) == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_future_is_not_seen():
    """d logits(t)/d h(s) is exactly zero for s > t and not for s ≤ t."""
    params = strong(SMALL)
    model = SMALL.merge(params)
    tokens = jnp.array([1, 5, 2, 9, 4, 7])

    def logits(offset):
        shifted = SMALL.merge(params)
        shifted.positions.embedding[...] = params["positions"]["embedding"] + offset
        return shifted(tokens).sum(-1)

    jacobian = jax.jacobian(logits)(jnp.zeros_like(model.positions.embedding[...]))
    seen = np.abs(np.asarray(jacobian)).sum(-1)
    assert (seen[np.triu_indices(6, 1)] == 0).all()
    assert (seen[np.tril_indices(6)] > 1e-6).all()


def test_initialisation():
    config = GPTConfig(vocabulary=65, context=64, layers=4, heads=4, channels=128)
    params = config.init(jax.random.key(0))
    for kind, std in {"key": 0.02, "up": 0.02, "output": 0.02 / np.sqrt(8), "down": 0.02 / np.sqrt(8)}.items():
        w = np.stack([params[f"layer{i}"][kind]["kernel"] for i in range(4)]).ravel()
        assert_mean(w**2, std**2, resolution=0.03 * std**2)
    assert sum(x.size for x in jax.tree.leaves(params)) == 65 * 128 + 64 * 128 + 4 * (12 * 128**2 + 2 * 128) + 128
    windows = jax.random.randint(jax.random.key(1), (8, 65), 0, 65)
    assert float(loss(config, params, jnp.asarray(windows))) == pytest.approx(np.log(65), abs=0.1)


def test_cross_entropy_stays_finite_in_half_precision():
    logits = jnp.array([[60.0, -60.0], [0.0, 0.0]], jnp.bfloat16)
    assert float(cross_entropy(logits, jnp.array([1, 0]))) == pytest.approx((120 + np.log(2)) / 2, rel=1e-2)


def test_dropout_of_a_sequence_is_its_own():
    config = GPTConfig(vocabulary=11, context=6, layers=2, heads=2, channels=8, dropout=0.4)
    params, tokens = strong(config), jnp.array([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]])
    keys = jax.random.split(jax.random.key(0), 2)
    model = config.merge(params)
    both = model(tokens, keys)
    np.testing.assert_allclose(both[1], model(tokens[1], keys[1]), rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(both - model(tokens)).max()) > 0.1
    assert float(jnp.abs(both[0] - model(tokens[0], keys[1])).max()) > 0.1
    np.testing.assert_array_equal(both, model(tokens, keys))


def test_what_is_kept_is_scaled():
    """A dropped embedding has the mean of the whole one."""
    from dysonjax.models.gpt import _dropout

    keys = jax.random.split(jax.random.key(1), 4000)
    kept = np.asarray(_dropout(0.3, keys)(jnp.ones((4000, 5)), 0))
    assert_mean(kept.mean(-1), 1.0, resolution=0.03)
    assert np.unique(kept).tolist() == pytest.approx([0, 1 / 0.7])


def test_matrices_by_head():
    params = SMALL.init(jax.random.key(0))
    found = key_matrices(params, heads=2)
    fused = params["layer1"]["key"]["kernel"]
    np.testing.assert_array_equal(jnp.concatenate([found["layer1.key.head0"], found["layer1.key.head1"]], 1), fused)
    output = attention_matrices(params, "output", heads=2)
    assert output["layer0.output.head1"].shape == (4, 8)
    with pytest.raises(InputError, match="kind = 'keys'"):
        attention_matrices(params, "keys")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"channels": 10, "heads": 4}, "channels = 10: expected a multiple of heads = 4"),
        ({"layers": 0}, "layers = 0"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"vocabulary": 2.5}, "vocabulary = 2.5"),
        ({"bias": "no"}, "bias = 'no'"),
    ],
)
def test_sizes_that_make_no_network(sizes, message):
    with pytest.raises(InputError, match=message):
        GPTConfig(**sizes)


def test_many_networks_side_by_side_are_the_networks_one_by_one():
    model = GPTModel(TINY, POEM, watched=("key", "query"), per_head=True)
    dynamics = dj.sgd(model, batches=None, tests=4, optimizer=optax.adamw)
    grid = dj.Grid(learning_rate=[0.01, 0.1], batch_size=[3], seed=range(2))
    ds = dj.scan(dynamics, grid, steps=3, observables=dynamics.observables[:1], progress=False)
    assert {f"levels_layer0.{kind}{part}" for kind in ("key", "query") for part in ("", ".head0", ".head1")} <= set(ds)
    one = dj.Grid(learning_rate=[0.1], batch_size=[3], seed=[1])
    alone = dj.scan(dynamics, one, steps=3, observables=dynamics.observables[:1], progress=False)
    for name in ("levels_layer0.key", "train_loss"):
        one = ds[name].sel(learning_rate=0.1, batch_size=3, seed=1).values
        np.testing.assert_allclose(one, alone[name].values.reshape(one.shape), rtol=1e-4, atol=1e-9)
    assert (ds.diverged_step < 0).all()


def test_a_text_is_learnt():
    observed = GPTModel(TINY, POEM)
    dynamics = dj.sgd(observed, batches=None, tests=4, optimizer=optax.adam)
    losses = (observed.validation_loss(),)
    grid = dj.Grid(learning_rate=[0.01], batch_size=[8], seed=range(2))
    ds = dj.scan(dynamics, grid, steps=300, observables=losses, progress=False)
    found = ds.validation_loss.squeeze().values
    assert (np.abs(found[:, 0] - np.log(TINY.vocabulary)) < 0.2).all()
    assert (found[:, -1] < 0.6 * np.log(TINY.vocabulary)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GPTModel(GPTConfig(vocabulary=3, context=8), POEM), "vocabulary = 3: expected at least"),
        (lambda: GPTModel(GPTConfig(context=400), POEM), "expected more than the context of 400"),
        (lambda: GPTModel(GPTConfig(context=8, dropout=0.1), POEM), "dropout = 0.1"),
        (lambda: GPTModel(TINY, POEM, watched="key"), "watched = 'key'"),  # type: ignore[arg-type]  # wrong on purpose
    ],
)
def test_models_that_do_not_fit_their_text(make, message):
    with pytest.raises(InputError, match=message):
        make()
