"""Normal and chi-squared random numbers for a block of replicas, one key a replica, replicas on the last axis.

`jax.vmap` of `jax.random.normal` draws the same kind of numbers but lays them out replica by replica, which costs an
engine whose replicas lie on the last axis most of its time (`benchmarks/dyson_core.py`). Here Threefry's counters
(stream, index) run along the leading axis, so that every operation is a vector operation over replicas.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import threefry2x32_p
from jaxtyping import Array, Float, PRNGKeyArray

from dysonjax.dynamics import lift


def normals(keys: PRNGKeyArray, shape: tuple[int, ...], stream: int | Array = 0) -> Float[Array, "*shape R"]:
    """Independent N(0, 1) numbers [*shape, R] from keys [R]; other streams of the same keys are independent of them."""
    count = math.prod(shape)
    if str(jax.random.key_impl(keys)) != "threefry2x32":  # any other generator, without the fast layout
        draw = lambda key: jax.random.normal(jax.random.fold_in(key, stream), shape)  # noqa: E731
        return lift(draw)(keys)
    words = _words(keys, count if jnp.zeros(()).dtype == jnp.float32 else 2 * count, stream)
    return (np.sqrt(2) * lax.erf_inv(_symmetric_uniform(words))).reshape(*shape, -1)


def chi_squared(keys: PRNGKeyArray, freedom: float | np.ndarray, shape: tuple[int, ...], stream: int | Array = 0) -> Array:
    """Independent χ² numbers [*shape, R] with `freedom` ≥ 0 degrees of freedom (broadcast against `shape`)."""
    if np.ndim(freedom) == 0 and freedom in range(5):
        if freedom == 0:
            return jnp.zeros((*shape, keys.shape[-1]))
        return jnp.sum(normals(keys, (int(freedom), *shape), stream) ** 2, axis=0)
    draw = lambda key: 2 * jax.random.gamma(jax.random.fold_in(key, stream), freedom / 2, shape)  # noqa: E731
    return lift(draw)(keys)


def _words(keys: PRNGKeyArray, count: int, stream: int | Array) -> Array:
    """`count` 32-bit words for each key, [count, R]."""
    first, second = jax.random.key_data(keys).astype(jnp.uint32).T
    blocks = -(-count // 2)
    shape = (blocks, keys.shape[-1])
    index = lax.broadcasted_iota(jnp.uint32, shape, 0)
    across = lambda a: jnp.broadcast_to(a, shape)  # noqa: E731
    words = threefry2x32_p.bind(across(first), across(second), across(jnp.uint32(stream)), index)
    return jnp.concatenate(words)[:count]


def _symmetric_uniform(words: Array) -> Array:
    """Uniform numbers in (−1, 1): one 32-bit word each in float32, two in float64."""
    if jnp.zeros(()).dtype == jnp.float32:
        one_to_two = lax.bitcast_convert_type((words >> 9) | jnp.uint32(0x3F800000), jnp.float32)
    else:
        high, low = jnp.split(words.astype(jnp.uint64), 2)
        pattern = ((high << 20) ^ (low >> 12)) | jnp.uint64(0x3FF0000000000000)
        one_to_two = lax.bitcast_convert_type(pattern, jnp.float64)
    least = np.nextafter(one_to_two.dtype.type(-1), one_to_two.dtype.type(0))
    return jnp.maximum(least, (one_to_two - 1) * 2 - 1)
