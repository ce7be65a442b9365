"""Spacings of levels."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def gaps(x: Float[Array, "... n"]) -> Float[Array, "... n-1"]:
    """Distances between neighbouring levels of spectra sorted either way, all positive."""
    return jnp.abs(jnp.diff(x, axis=-1))
