"""The order of examples: every epoch a permutation, all of them equally likely, positions exact beyond 32 bits."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dysonjax.kernels import example_order
from dysonjax.kernels.example_order import below, reshuffled, with_replacement
from tests.stochastic import assert_mean

WORDS = np.random.default_rng(3).integers(0, 2**32, (200_000, 2), dtype=np.uint32)


def orders(examples, batch_size, updates, replicas, words=WORDS):
    """Indices [replicas, updates · batch_size] of the first updates."""
    of_one = lambda words, update: reshuffled(words, update, batch_size, examples)  # noqa: E731
    of_all = jax.vmap(jax.vmap(of_one, in_axes=(None, 0)), in_axes=(0, None))
    return np.asarray(jax.jit(of_all)(words[:replicas], jnp.arange(updates))).reshape(replicas, -1)


@pytest.mark.parametrize(("examples", "batch_size"), [(1, 1), (2, 1), (5, 3), (8, 8), (100, 7), (101, 101), (1797, 16)])
def test_every_epoch_has_every_example_once(examples, batch_size):
    updates = -(-3 * examples // batch_size)
    found = orders(examples, batch_size, updates, 4)[:, : 3 * examples].reshape(4, 3, examples)
    assert (np.sort(found) == np.arange(examples)).all()
    if examples > 8:  # epochs and replicas have orders of their own
        assert len({tuple(order) for order in found.reshape(-1, examples)}) == 12


@pytest.mark.parametrize("examples", [2, 3, 4, 5])
def test_every_order_is_equally_likely(examples):
    """χ² of all n! orders; at n = 5 a share of 1 % of one order's probability would be 3 σ."""
    found = orders(examples, examples, 2, 100_000).reshape(-1, examples)
    counts = np.unique(found @ examples ** np.arange(examples), return_counts=True)[1]
    assert len(counts) == math.factorial(examples)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_two_epochs_are_independent():
    """All 36 pairs of orders of three examples are equally likely."""
    found = orders(3, 3, 2, 200_000)
    counts = np.unique(found @ 3 ** np.arange(6), return_counts=True)[1]
    assert len(counts) == 36
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize(("examples", "batch_size"), [(100, 4), (101, 10), (1797, 16)])
def test_batches_of_sorted_data_are_those_of_random_orders(examples, batch_size):
    """Variance and kurtosis of batch means of sorted data, and their neighbours' covariance."""
    replicas, per_epoch = 1_000_000 // examples, examples // batch_size
    table = np.broadcast_to(np.arange(examples), (replicas, examples))
    random = np.random.default_rng(5).permuted(table, axis=1)
    scale = ((examples**2 - 1) / 12) ** 0.5
    ours, theirs = (
        (found[:, : per_epoch * batch_size].reshape(replicas, per_epoch, batch_size) - (examples - 1) / 2) / scale
        for found in (orders(examples, batch_size, per_epoch, replicas), random)
    )
    expected = (examples - batch_size) / (examples - 1) / batch_size
    squares = ours.mean(-1) ** 2 / expected
    assert_mean(squares.mean(-1), 1, resolution=0.03)
    assert_mean((squares**2 - (theirs.mean(-1) ** 2 / expected) ** 2).mean(-1), 0, resolution=0.3)
    assert_mean((ours[..., :-1] * ours[..., 1:]).mean((1, 2)), -1 / (examples - 1), resolution=0.01)


def test_positions_are_exact_where_their_numbers_have_more_than_32_bits():
    examples, batch_size, update = 1_000_003, 4097, 2**31 - 5
    whole, start = divmod(update * batch_size, examples)
    quotient, rest = jax.jit(lambda u: example_order._divided(u, batch_size, examples))(update)
    assert (int(quotient), int(rest)) == (whole % 2**32, start)
    index = np.asarray(reshuffled(jnp.asarray(WORDS[0]), jnp.int32(update), batch_size, examples))
    assert len(set(index.tolist())) >= batch_size - 20  # two epochs may share a few
    assert index.min() >= 0
    assert index.max() < examples


@pytest.mark.parametrize("n", [1, 7, 65535, 65536, 65537, 1_000_003, 2**30])
def test_the_upper_word_of_a_product(n):
    words = np.concatenate([WORDS[:1000].ravel(), np.array([0, 1, 2**32 - 1], np.uint32)])
    np.testing.assert_array_equal(below(jnp.asarray(words), n), words.astype(np.uint64) * np.uint64(n) >> np.uint64(32))


def test_draws_with_replacement_are_uniform_and_independent():
    keys = jax.random.split(jax.random.key(1), 50_000)
    found = np.asarray(jax.jit(jax.vmap(lambda key: with_replacement(key, 2, 6)))(keys))
    counts = np.unique(found @ [1, 6], return_counts=True)[1]
    assert len(counts) == 36
    assert stats.chisquare(counts).pvalue > 1e-4


def test_a_batch_is_at_most_an_epoch():
    with pytest.raises(ValueError, match="batch_size = 6: expected at most 5"):
        reshuffled(jnp.asarray(WORDS[0]), jnp.int32(0), 6, 5)


def test_orders_do_not_depend_on_how_they_are_batched():
    """The same positions in batches of 1, 2 and 6."""
    found = [orders(7, size, 42 // size, 3) for size in (1, 2, 6)]
    for one, other in itertools.pairwise(found):
        np.testing.assert_array_equal(one, other)
