"""Random bits of one key per replica, counters along the leading axes, bit for bit those of `jax.random`.

That holds for JAX's partitionable threefry, its default. Other generators, more numbers than 2³², and the layout that
older versions of JAX had are left to `vmap`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from dysonjax.kernels.random_numbers import threefry
from dysonjax.kernels.replicas_last.layout import Operation, vmapped


def random_bits(op: Operation) -> Array:
    """Words of `bit_width` bits."""
    shape, width = tuple(op.params["shape"]), op.params["bit_width"]
    if not _as_here(op, shape):
        return vmapped(op)
    high, low = _words(op, shape)
    if width == 64:
        return (high.astype(jnp.uint64) << 32) | low.astype(jnp.uint64)
    return (high ^ low).astype({8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[width])


def random_split(op: Operation) -> Array:
    """New keys [*shape, R]."""
    shape = tuple(op.params["shape"])
    return _keys(op, *_words(op, shape)) if _as_here(op, shape) else vmapped(op)


def random_fold_in(op: Operation) -> Array:
    """A new key from a key and a number."""
    if not _as_here(op, ()):
        return vmapped(op)
    keys, number = op.all()
    shape = jnp.broadcast_shapes(keys.shape, number.shape)
    number = jnp.broadcast_to(number, shape).astype(jnp.uint32)
    return _keys(op, *threefry(_halves(keys), (jnp.zeros_like(number), number)))


def random_wrap(op: Operation) -> Array:
    """Words [..., 2, R] as keys."""
    return op.bind(jnp.moveaxis(op.values[0], -1, op.ranks[0] - 1))


def random_unwrap(op: Operation) -> Array:
    """Keys as words [..., 2, R]."""
    return jnp.moveaxis(op.bind(op.values[0]), op.ranks[0], -1)


def random_seed(op: Operation) -> Array:
    """Keys from numbers."""
    return op.bind(op.values[0])


def threefry2x32(op: Operation) -> Any:
    """The generator itself: two words from two words and a key."""
    shape = (*op.equation.outvars[0].aval.shape, op.replicas)
    first, second, *counter = (jnp.broadcast_to(x, shape) for x in op.all())
    return threefry((first, second), (counter[0], counter[1]))


def _as_here(op: Operation, shape: tuple[int, ...]) -> bool:
    keys = op.values[0]
    kind = str(jax.random.key_impl(keys)) == "threefry2x32" and op.batched[0]
    return kind and bool(jax.config.values["jax_threefry_partitionable"]) and math.prod(shape) < 2**32


def _words(op: Operation, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Two words for each of the counters 0, 1, … of a key's numbers: [*key's shape, *shape, R] each."""
    keys = op.values[0]
    inner = keys.shape[:-1]
    whole = (*inner, *shape, op.replicas)
    index = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    index = lax.broadcast_in_dim(index, whole, range(len(inner), len(whole) - 1))
    axes = (*range(len(inner)), len(whole) - 1)
    halves = [lax.broadcast_in_dim(half, whole, axes) for half in _halves(keys)]
    return lax.optimization_barrier(threefry((halves[0], halves[1]), (jnp.zeros_like(index), index)))


def _halves(keys: Array) -> tuple[Array, Array]:
    words = jax.random.key_data(keys)
    return words[..., 0], words[..., 1]


def _keys(op: Operation, first: Array, second: Array) -> Array:
    kind = jax.random.key_impl(op.values[0])
    return jax.random.wrap_key_data(jnp.stack([first, second], -1), impl=kind)


RANDOM = {
    "random_bits": random_bits,
    "random_fold_in": random_fold_in,
    "random_seed": random_seed,
    "random_split": random_split,
    "random_unwrap": random_unwrap,
    "random_wrap": random_wrap,
    "threefry2x32": threefry2x32,
}
