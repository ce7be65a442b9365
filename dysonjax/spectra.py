"""Kernels on spectra: levels of stacked matrices and what is computed from them."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def levels(w: Float[Array, "... m n"]) -> Float[Array, "... k"]:
    """Eigenvalues of W Wᵀ, largest first: the k = min(m, n) squared singular values, without the |m − n| exact zeros.

    Taken from the singular values, because forming W Wᵀ in float32 would lose the small levels.
    """
    return jnp.square(jnp.linalg.svd(w, compute_uv=False))


def gaps(x: Float[Array, "... n"]) -> Float[Array, "... n-1"]:
    """Distances between neighbouring levels of spectra sorted either way, all positive."""
    return jnp.abs(jnp.diff(x, axis=-1))
