"""Which examples are in a batch: reshuffled epochs without a table, or draws with replacement, of one replica.

A permutation of n examples that is stored, or made by sorting, costs each replica n numbers. Here an example's place is
computed from its position alone by the swap-or-not shuffle (Hoang, Morris and Rogaway, CRYPTO 2012, arXiv:1208.1176):
in each of some rounds x and K − x (mod n), for a random K, change places or not, as a hash of the larger one says. Each
round is a permutation of any n, so there is nothing to walk or to search, and every operation is one over a whole tile.
The update's number decides the positions, so no state is carried.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, Key, UInt32

from dysonjax.core.errors import require
from dysonjax.kernels.random_numbers import threefry

ROUNDS = 20
"""16 could not be told from random orders: all orders of 3 to 6, moments of batches of 100 to 1797 examples."""
MOST_EXAMPLES = 2**30
"""So that twice an index, and an index and a batch, are 32-bit numbers."""


def reshuffled(words: UInt32[Array, "2"], update: Int[Array, ""], batch_size: int, examples: int) -> Int[Array, " B"]:
    """Indices of the batch of an update: position p = update·|B| + j is number p mod n of epoch p // n.

    Every epoch has an order of its own, in which every example comes once. Batches follow one another without a gap:
    one may end an epoch and begin the next.

    Args:
        words: the replica's key of the order, two words.
        update: number of the update, from 0.
        batch_size: |B|, at most n.
        examples: n, at most `MOST_EXAMPLES`.
    """
    require(batch_size <= examples, "batch_size", batch_size, f"at most {examples}, the number of examples")
    return _reshuffled(words, update, batch_size, examples)


@functools.partial(jax.jit, static_argnums=(2, 3), inline=True)  # so that its many operations are traced once
def _reshuffled(words: Array, update: Array, batch_size: int, examples: int) -> Array:
    epoch, start = _divided(update, batch_size, examples)
    position = start.astype(jnp.int32) + lax.iota(jnp.int32, batch_size)
    later = position >= examples
    # the random numbers of two epochs, since a batch may touch two
    both = threefry((words[0], words[1]), (epoch + jnp.arange(2, dtype=jnp.uint32), jnp.zeros(2, jnp.uint32)))
    step, salt = (jnp.where(later, word[1], word[0]) for word in both)
    x = jnp.where(later, position - examples, position)
    for _ in range(ROUNDS):
        step = step * np.uint32(747796405) + np.uint32(2891336453)
        salt = salt * np.uint32(1664525) + np.uint32(1013904223)
        other = below(step, examples) - x
        other = jnp.where(other < 0, other + examples, other)
        hashed = (jnp.maximum(x, other).astype(jnp.uint32) ^ salt) * np.uint32(0x7FEB352D)
        hashed = (hashed ^ (hashed >> 15)) * np.uint32(0x846CA68B)
        x = jnp.where(hashed >> 31 == 1, other, x)
    # fused into what looks examples up, the rounds would be computed anew for each number of an example
    return lax.optimization_barrier(x)


def with_replacement(key: Key[Array, ""], batch_size: int, examples: int) -> Int[Array, " B"]:
    """Independent indices below n, from a key of the update's own; one is more likely than another by n/2³² at most."""
    return lax.optimization_barrier(below(jax.random.bits(key, (batch_size,), jnp.uint32), examples))


def below(words: UInt32[Array, "..."], n: int) -> Int[Array, "..."]:
    """⌊w n / 2³²⌋: the upper word of a product, from halves of 16 bits; n < 2³¹."""
    upper, lower = np.uint32(n >> 16), np.uint32(n & 0xFFFF)
    high, low = words >> 16, words & 0xFFFF
    middle = high * lower + (low * lower >> 16)
    if not n >> 16:
        return (middle >> 16).astype(jnp.int32)
    other = low * upper + (middle & 0xFFFF)
    return (high * upper + (middle >> 16) + (other >> 16)).astype(jnp.int32)


def _divided(update: Int[Array, ""], batch_size: int, examples: int) -> tuple[Array, Array]:
    """Quotient (mod 2³²) and remainder of update·|B| by n, digit by digit of |B|: the product may have 62 bits."""
    n = np.uint32(examples)
    once = lax.convert_element_type(update, jnp.uint32)
    whole, part = once // n, once % n
    quotient, rest = jnp.uint32(0), jnp.uint32(0)
    for digit in f"{batch_size:b}":
        quotient, rest = 2 * quotient, 2 * rest
        if digit == "1":
            quotient, rest = quotient + whole, rest + part
        quotient, rest = quotient + rest // n, rest % n
    return quotient, rest
