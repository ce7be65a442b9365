"""Normal and chi-squared random numbers for a block of replicas, one key a replica, replicas on the last axis.

`jax.vmap` of `jax.random.normal` draws the same kind of numbers but lays them out replica by replica, which costs an
engine whose replicas lie on the last axis most of its time. Here the counters of the generator run along the leading
axes, every operation is a vector operation over replicas, and normal numbers are made in pairs by Box and Muller's
formula, which is cheaper than the inverse of the error function (`benchmarks/dyson_core.py` measures it).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key

from dysonjax.core.dynamics import lift


def normals(keys: Key[Array, " R"], shape: tuple[int, ...], stream: int | Array = 0) -> Float[Array, "*shape R"]:
    """Independent N(0, 1) numbers for R replicas.

    Args:
        keys: random keys [R].
        shape: shape of the numbers of one replica.
        stream: other streams of the same keys are independent.

    Returns:
        Numbers [*shape, R].
    """
    count = math.prod(shape)
    if str(jax.random.key_impl(keys)) != "threefry2x32":  # any other generator, without the fast layout
        draw = lambda key: jax.random.normal(jax.random.fold_in(key, stream), shape)  # noqa: E731
        return lift(draw)(keys)
    pairs = -(-count // 2)
    drawn = (_single if jnp.zeros(()).dtype == jnp.float32 else _double)(keys, pairs, stream)
    return lax.optimization_barrier(drawn[:count].reshape(*shape, keys.shape[-1]))


def chi_squared(
    keys: Key[Array, " R"], freedom: int | float | np.ndarray | Array, shape: tuple[int, ...], stream: int | Array = 0
) -> Array:
    """Independent χ² numbers for R replicas.

    Twice a gamma number of half the freedom, by Marsaglia and Tsang (ACM TOMS 26, 363 (2000)), all at once until each
    has been accepted, so that a number depends on its own draws only; uses the streams `stream` + 2¹⁶ k. On a CPU
    `jax.random.gamma`, a loop for each number, takes several times as long.

    Args:
        keys: random keys [R].
        freedom: degrees of freedom ≥ 0, broadcast against [*shape, R].
        shape: shape of the numbers of one replica.
        stream: other streams of the same keys are independent.

    Returns:
        Numbers [*shape, R].
    """
    if np.ndim(freedom) == 0 and not isinstance(freedom, jax.Array) and freedom in range(5):
        if freedom == 0:
            return jnp.zeros((*shape, keys.shape[-1]))
        return jnp.sum(normals(keys, (int(freedom), *shape), stream) ** 2, axis=0)
    a = jnp.broadcast_to(jnp.asarray(freedom, float) / 2, (*shape, keys.shape[-1]))
    boosted = jnp.where(a < 1, a + 1, a)
    d = boosted - 1 / 3
    c = lax.rsqrt(9 * d)

    def attempt(state):
        number, value, accepted = state
        at = jnp.asarray(stream, jnp.uint32) + (number << 16)
        x = normals(keys, shape, at)
        v = (1 + c * x) ** 3
        log_v = jnp.log(jnp.where(v > 0, v, 1))
        fits = (v > 0) & (jnp.log(uniforms(keys, shape, at ^ np.uint32(1 << 31))) < x * x / 2 + d * (1 - v + log_v))
        return number + 1, jnp.where(accepted, value, d * v), accepted | fits

    start = (jnp.uint32(0), jnp.zeros_like(a), jnp.zeros(a.shape, bool))
    value = lax.while_loop(lambda state: ~jnp.all(state[2]), attempt, start)[1]

    # if G is of parameter a + 1, then G U^{1/a} is of parameter a
    def power():
        u = uniforms(keys, shape, jnp.asarray(stream, jnp.uint32) ^ np.uint32(1 << 30))
        return jnp.where(a < 1, u ** (1 / jnp.where(a > 0, a, 1)), 1)

    return 2 * value * jnp.where(a > 0, lax.cond(jnp.any(a < 1), power, lambda: jnp.ones_like(a)), 0)


def uniforms(keys: Key[Array, " R"], shape: tuple[int, ...], stream: int | Array = 0) -> Float[Array, "*shape R"]:
    """Independent uniform numbers in (0, 1] [*shape, R] from keys [R], with 24 bits."""
    count = math.prod(shape)
    if str(jax.random.key_impl(keys)) != "threefry2x32":
        draw = lambda key: 1 - jax.random.uniform(jax.random.fold_in(key, stream), shape)  # noqa: E731
        return lift(draw)(keys)
    first, second = _words(keys, -(-count // 2), stream)
    words = jnp.concatenate([first, second])[:count].reshape(*shape, keys.shape[-1])
    return ((words >> 8).astype(float) + 1) * np.float32(2**-24)


def threefry(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Any, Any]:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011), bit for bit JAX's, written out so that XLA fuses it.

    Key and counter are 32-bit words, in arrays of JAX or NumPy.
    """
    first, second = key
    schedule = (first, second, first ^ second ^ np.uint32(0x1BD11BDA))
    x, y = counter[0] + first, counter[1] + second
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = x + y
            y = ((y << turn) | (y >> (32 - turn))) ^ x
        x = x + schedule[(group + 1) % 3]
        y = y + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def folded(key: Key[Array, ""], *words: np.ndarray) -> Key[Array, " n"]:
    """`jax.random.fold_in(key, words[0][i])`, then with `words[1][i]` and so on: keys [n] bit for bit JAX's.

    With threefry NumPy computes them, so that nothing is compiled for each n.
    """
    kind = str(jax.random.key_impl(key))
    if kind != "threefry2x32":
        return jax.vmap(lambda *own: functools.reduce(jax.random.fold_in, own, key))(*words)
    first, second = np.asarray(jax.random.key_data(key))[:, None]
    for word in words:
        first, second = threefry((first, second), (np.zeros_like(word), word))
    return jax.random.wrap_key_data(jax.device_put(np.stack([first, second], axis=-1)), impl=kind)


def _words(keys: Key[Array, " R"], count: int, stream: int | Array) -> tuple[Array, Array]:
    """Two arrays [count, R] of 32-bit words, from the counters (stream, 0 … count − 1) of each key."""
    first, second = jax.random.key_data(keys).astype(jnp.uint32).T
    index = lax.broadcasted_iota(jnp.uint32, (count, keys.shape[-1]), 0)
    words = threefry((first, second), (jnp.full_like(index, stream), index))
    return lax.optimization_barrier(words)  # both are used more than once and must not be computed again


def _single(keys: Key[Array, " R"], pairs: int, stream: int | Array) -> Array:
    """Box and Muller's √(−2 ln u) (sin πv, cos πv) with 24 bits of u in (0, 1] and 32 of v in [−1, 1)."""
    first, second = _words(keys, pairs, stream)
    radius = jnp.sqrt(-2 * jnp.log(((first >> 8).astype(jnp.float32) + 1) * np.float32(2**-24)))
    v = lax.bitcast_convert_type(second, jnp.int32).astype(jnp.float32) * np.float32(2**-31)
    folded = jnp.where(jnp.abs(v) <= 0.5, v, jnp.sign(v) - v)  # sin πv = sin π(±1 − v)
    return jnp.concatenate([radius * _sine(folded), radius * _sine(0.5 - jnp.abs(v))])


def _sine(z: Array) -> Array:
    """sin πz for |z| ≤ ½ to within 10⁻⁷, without the range reduction that makes a general sine slow."""
    coefficients = [(-1) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(7)]
    square = z * z
    series = jnp.full_like(z, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        series = series * square + np.float32(c)
    return z * series


def _double(keys: Key[Array, " R"], pairs: int, stream: int | Array) -> Array:
    """The same with 53 bits each, for float64."""
    high, low = (words.astype(jnp.uint64) for words in _words(keys, 2 * pairs, stream))
    u, v = jnp.split((((high << 21) ^ (low >> 11)).astype(jnp.float64) + 1) * 2.0**-53, 2)
    radius = jnp.sqrt(-2 * jnp.log(u))
    return jnp.concatenate([radius * jnp.sin(2 * jnp.pi * v), radius * jnp.cos(2 * jnp.pi * v)])
