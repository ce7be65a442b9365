"""The Coulomb repulsion of the outermost levels, which the criterion of arXiv:2509.01349 compares with their drift."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def edge_repulsion(v: Float[Array, "2 K R"]) -> Float[Array, " R"]:
    """V_t = 2Ṽ_1K/(K−1) + Σ_{k=1}^{K−2} (Ṽ_{1,1+k} + Ṽ_{K,K−k})/k from the first and last row of Ṽ, of R networks."""
    count = v.shape[1]
    k = jnp.arange(1, count - 1)
    return 2 * v[0, -1] / (count - 1) + jnp.sum((v[0, k] + v[1, count - 1 - k]) / k[:, None], axis=0)
