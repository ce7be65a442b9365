"""How much the gradients of batches scatter: the two terms of the gradient-noise scale (arXiv:1812.06162)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from dysonjax.core.dynamics import Hyper, Spectra
from dysonjax.core.model import Network
from dysonjax.core.observables import Observable, Variable, snapshots
from dysonjax.dynamics.batches import Examples

BATCHES = 4
"""Gradients of so many batches are compared at every snapshot."""


def gradient_noise(model: Network) -> Observable:
    """`gradient_variance` tr Σ of one example's gradient, and `gradient_square` |G|² of the mean one, without bias.

    The gradient-noise scale is the ratio of their means over replicas: the batch size at which both are equal. Batches
    are drawn with replacement, of the size that the network is trained with; each seed has its own, the same ones at
    all snapshots.
    """
    drawn = Examples(model, None if callable(model.data) else "replacement", 1)

    def measure(spectra: Spectra, now: Any, hyper: Hyper) -> dict[str, Array]:
        def slope(key: Array) -> PyTree:
            batch = drawn.batch(key, {**hyper, "step": jnp.int32(0)})
            return jax.grad(lambda p: model.batch_loss(p, now.state, batch, key, True)[0])(now.params)

        def add(sums: PyTree, key: Array) -> tuple[PyTree, None]:
            total, square = sums
            one = slope(key)
            return (jax.tree.map(jnp.add, total, one), square + _square(one)), None

        zeros = (jax.tree.map(jnp.zeros_like, now.params), jnp.float32(0))
        words = hyper["data"].order
        own = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), words[0]), words[1])
        (total, square), _ = jax.lax.scan(add, zeros, jax.random.split(own, BATCHES))
        mean = _square(total) / BATCHES**2
        between = (square / BATCHES - mean) * BATCHES / (BATCHES - 1)
        return {
            "gradient_variance": hyper["batch_size"] * between,
            "gradient_square": mean - between / BATCHES,
        }

    labels = {
        "gradient_variance": Variable((), "variance of the gradient of one example, summed over parameters"),
        "gradient_square": Variable((), "square of the mean gradient, estimated without bias"),
    }
    return snapshots(measure, labels)


def _square(tree: PyTree) -> Array:
    return sum((jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)), jnp.float32(0))
