"""Unfolding: levels at unit mean spacing, by a smooth staircase N̄(x), and how much a conclusion depends on which.

Every function returns N̄ of each level in the order given, [..., n]. A fitted staircase is worst at its ends: drop some.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from dysonjax.core.errors import require


def by_law(x: Float[Array, "... n"], cdf: Callable[[Array], Array]) -> Float[Array, "... n"]:
    """n F(x) with the distribution function F of a law.

    Args:
        x: levels [..., n].
        cdf: F.

    Returns:
        Unfolded levels [..., n].
    """
    return x.shape[-1] * cdf(x)


def by_ensemble(x: Float[ArrayLike, "R n"]) -> Float[Array, "R n"]:
    """n times the distribution function of all R replicas' levels together: no curve to choose, for many replicas.

    Args:
        x: levels [R, n].

    Returns:
        Unfolded levels [R, n].

    Raises:
        InputError: fewer than two replicas.
    """
    levels = np.asarray(x)
    require(levels.ndim == 2 and len(levels) >= 2, "x", levels.shape, "levels [R, n] of at least two replicas")
    pooled = np.sort(levels.ravel())
    rank = (np.arange(pooled.size) + 0.5) / len(levels)
    return jnp.asarray(np.interp(levels, pooled, rank))


def by_polynomial(x: Float[ArrayLike, "... n"], degree: int = 7) -> Float[Array, "... n"]:
    """A polynomial in x fitted to each spectrum's own staircase by least squares.

    Args:
        x: levels [..., n].
        degree: of the polynomial.

    Returns:
        Unfolded levels [..., n].

    Raises:
        InputError: fewer than `degree` + 2 levels.
    """
    return _each(x, lambda u, rank: np.polynomial.Chebyshev.fit(u, rank, degree)(u), degree + 2)


def by_spline(x: Float[ArrayLike, "... n"], knots: int = 5) -> Float[Array, "... n"]:
    """A cubic spline fitted to each spectrum's own staircase.

    Args:
        x: levels [..., n].
        knots: number of inner knots, at quantiles of the levels.

    Returns:
        Unfolded levels [..., n].

    Raises:
        InputError: fewer than `knots` + 5 levels.
    """

    from scipy.interpolate import LSQUnivariateSpline

    def fit(u, rank):
        inner = np.quantile(u, np.linspace(0, 1, knots + 2)[1:-1])
        return np.asarray(LSQUnivariateSpline(u, rank, inner)(u))

    return _each(x, fit, knots + 5)


def by_local_mean(x: Float[Array, "... n"], window: int = 10) -> Float[Array, "... n"]:
    """Sums of gaps over the mean gap around each: hides correlations longer than the window.

    Args:
        x: spectra sorted either way, [..., n].
        window: how many gaps around each give the mean, 2 … n − 1.

    Returns:
        Unfolded levels [..., n], from 0 on.

    Raises:
        InputError: `window` out of range.
    """
    n = x.shape[-1]
    require(2 <= window < n, "window", window, f"2 … {n - 1} gaps for {n} levels")
    gap = jnp.diff(x, axis=-1)
    sums = jnp.concatenate([jnp.zeros_like(x[..., :1]), jnp.cumsum(gap, axis=-1)], axis=-1)
    first = np.clip(np.arange(n - 1) - window // 2, 0, n - 1 - window)
    mean = (sums[..., first + window] - sums[..., first]) / window
    unit = jnp.cumsum(gap / mean, axis=-1)
    return jnp.concatenate([jnp.zeros_like(x[..., :1]), unit], axis=-1)


METHODS: Mapping[str, Callable[[Array], Array]] = {
    "polynomial 5": lambda x: by_polynomial(x, 5),
    "polynomial 9": lambda x: by_polynomial(x, 9),
    "spline 3": lambda x: by_spline(x, 3),
    "spline 7": lambda x: by_spline(x, 7),
    "local mean 10": lambda x: by_local_mean(x, 10),
    "local mean 20": lambda x: by_local_mean(x, 20),
}


def unfolding_sensitivity(
    x: Float[Array, "... n"],
    statistic: Callable[[Array], Array],
    methods: Mapping[str, Callable[[Array], Array]] = METHODS,
    drop: float = 0.1,
) -> dict[str, np.ndarray]:
    """A statistic of the levels under each unfolding, and the largest difference between them.

    A conclusion smaller than this spread is not one.

    Args:
        x: sorted levels [..., n].
        statistic: function of the unfolded levels [..., n'].
        methods: the unfoldings by name.
        drop: share of the levels that is left out at each end.

    Returns:
        The statistic by the method's name, and under "spread" the largest difference.

    Raises:
        InputError: fewer than three levels are left.
    """
    n = x.shape[-1]
    edge = int(np.ceil(drop * n))
    require(n - 2 * edge >= 3, "drop", drop, f"a share that leaves at least 3 of {n} levels")
    found = {name: np.asarray(statistic(unfold(x)[..., edge : n - edge])) for name, unfold in methods.items()}
    values = np.stack(list(found.values()))
    return {**found, "spread": values.max(axis=0) - values.min(axis=0)}


def _each(x: ArrayLike, fit: Callable[[np.ndarray, np.ndarray], np.ndarray], least: int) -> Array:
    """`fit(increasing levels, staircase)` for every spectrum, in its own order."""
    levels = np.asarray(x)
    n = levels.shape[-1]
    require(n >= least, "x", levels.shape, f"at least {least} levels for this curve")
    flat = levels.reshape(-1, n)
    order = np.argsort(flat, axis=-1)
    sorted_levels = np.take_along_axis(flat, order, -1).astype(float)
    smooth = np.stack([fit(u, np.arange(n) + 0.5) for u in sorted_levels])
    back = np.empty_like(smooth)
    np.put_along_axis(back, order, smooth, -1)
    return jnp.asarray(back.reshape(levels.shape))
