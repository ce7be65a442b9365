"""Spacings of neighbouring levels and their ratios, and how localised eigenvectors are; batched on the leading axes."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from dysonjax.core.errors import require


def gaps(x: Float[Array, "... n"]) -> Float[Array, "... n-1"]:
    """Distances between neighbouring levels, none negative.

    Args:
        x: spectra sorted either way, [..., n].

    Returns:
        Distances [..., n − 1].
    """
    return jnp.abs(jnp.diff(x, axis=-1))


def k_gaps(x: Float[Array, "... n"], k: int) -> Float[Array, "... n-k"]:
    """Distances |x_{i+k} − x_i| between k-th neighbours; `gaps` for k = 1.

    Args:
        x: spectra sorted either way, [..., n].
        k: 1 … n − 1.

    Returns:
        Distances [..., n − k].

    Raises:
        InputError: `k` out of range.
    """
    require(1 <= k < x.shape[-1], "k", k, f"1 … {x.shape[-1] - 1} for {x.shape[-1]} levels")
    return jnp.abs(x[..., k:] - x[..., :-k])


def spacing_ratios(x: Float[Array, "... n"]) -> Float[Array, "... n-2"]:
    """r_i = min(s_i, s_{i+1})/max(s_i, s_{i+1}) of neighbouring gaps; needs no unfolding.

    Oganesyan and Huse 2007; large-n means 0.5307, 0.5996, 0.6744 for β = 1, 2, 4 and 2 ln 2 − 1 for Poisson levels
    (Atas, Bogomolny, Giraud and Roux 2013). Two gaps of zero count as equal.

    Args:
        x: spectra sorted either way, [..., n].

    Returns:
        Ratios in [0, 1], [..., n − 2].

    Raises:
        InputError: fewer than three levels.
    """
    return k_spacing_ratios(x, 1)


def mean_ratio(x: Float[np.ndarray, "... n"]) -> Float[np.ndarray, "..."]:
    """⟨r⟩ of each spectrum in float64; NaN for fewer than three levels. In any steady order of levels."""
    gap = np.abs(np.diff(np.asarray(x, float), axis=-1))
    if gap.shape[-1] < 2:
        return np.full(gap.shape[:-1], np.nan)
    return np.mean(np.minimum(gap[..., 1:], gap[..., :-1]) / np.maximum(gap[..., 1:], gap[..., :-1]), axis=-1)


def k_spacing_ratios(x: Float[Array, "... n"], k: int) -> Float[Array, "... n-2k"]:
    """`spacing_ratios` of neighbouring k-gaps that do not overlap, |x_{i+k} − x_i| and |x_{i+2k} − x_{i+k}|.

    Tekur, Bhosale and Santhanam 2018: they follow the law of `spacing_ratios` at β' = k(k+1)β/2 + k − 1.

    Args:
        x: spectra sorted either way, [..., n].
        k: at least 1 and below n/2.

    Returns:
        Ratios in [0, 1], [..., n − 2k].

    Raises:
        InputError: `k` out of range.
    """
    n = x.shape[-1]
    require(0 < k < n / 2, "k", k, f"1 … {(n - 1) // 2} for {n} levels")
    wide = k_gaps(x, k)
    first, second = wide[..., :-k], wide[..., k:]
    larger = jnp.maximum(first, second)
    return jnp.where(larger > 0, jnp.minimum(first, second) / jnp.where(larger > 0, larger, 1), 1)


def participation_ratios(vectors: Inexact[Array, "... n m"]) -> Float[Array, "... m"]:
    """(Σ|v|²)²/Σ|v|⁴ of each column: on how many of n entries a vector lives; n/3 for real random ones.

    Args:
        vectors: vectors in columns, [..., n, m].

    Returns:
        Numbers in 1 … n, [..., m].
    """
    square = jnp.abs(vectors) ** 2
    return jnp.sum(square, axis=-2) ** 2 / jnp.sum(square**2, axis=-2)
