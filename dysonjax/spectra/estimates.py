"""Numbers with their errors: means over independent replicas, densities, distances between laws."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from dysonjax.core.errors import require


class Estimate(NamedTuple):
    """A value with its standard error.

    Attributes:
        value: a number or an array.
        error: its standard error, of the same shape.
        count: number of independent replicas behind it.

    >>> str(Estimate(0.5307, 0.0012, 400))
    '0.5307(12)'
    """

    value: Any
    error: Any
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]

    def __str__(self) -> str:
        value, error = np.asarray(self.value), np.asarray(self.error)
        if value.ndim:
            return "[" + ", ".join(str(Estimate(v, e, self.count)) for v, e in zip(value, error, strict=True)) + "]"
        if not np.isfinite(error) or error <= 0:
            return f"{value:.6g} ± {error:.2g}"
        digits = int(1 - np.floor(np.log10(error)))
        shown = round(float(error), digits)
        if digits <= 0:
            return f"{value:.0f}({shown:.0f})"
        return (
            f"{value:.{digits}f}({round(shown * 10**digits)})"
            if error < 1
            else f"{value:.{digits}f}({shown:.{digits}f})"
        )


def estimate(values: Float[ArrayLike, "R ..."]) -> Estimate:
    """Mean over replicas ± standard error, entry by entry of what is left of a replica.

    A replica [R, n] of spacings, ratios, … is averaged first: numbers of one spectrum are not independent, replicas
    are.

    Args:
        values: replicas on the first axis, [R], [R, n] or [R, …].

    Returns:
        Mean and error, numbers for [R] and [R, n], else [...].

    Raises:
        InputError: fewer than two replicas.
    """
    x = np.asarray(values, float)
    require(x.ndim >= 1 and len(x) >= 2, "values", x.shape, "at least two replicas on the first axis")
    return _over_replicas(x.mean(axis=-1) if x.ndim == 2 else x)


def curve(values: Float[ArrayLike, "R m"]) -> Estimate:
    """Mean ± standard error over replicas of each of m numbers, as for Σ²(L) or a histogram.

    Args:
        values: replicas [R, m].

    Returns:
        Mean and error [m].

    Raises:
        InputError: fewer than two replicas.
    """
    x = np.asarray(values, float)
    require(x.ndim >= 1 and len(x) >= 2, "values", x.shape, "at least two replicas on the first axis")
    return _over_replicas(x)


def _over_replicas(x: np.ndarray) -> Estimate:
    return Estimate(x.mean(axis=0), x.std(axis=0, ddof=1) / np.sqrt(len(x)), len(x))


def density(x: Float[ArrayLike, "R n"], edges: Float[ArrayLike, " b"] | Sequence[float]) -> Estimate:
    """Density of levels in bins, normalised over all levels, with errors over replicas.

    Args:
        x: levels [R, n].
        edges: increasing edges of the bins, [b].

    Returns:
        Density and error [b − 1], per unit of x.

    Raises:
        InputError: fewer than two replicas, or edges that do not increase.
    """
    levels, edges = np.asarray(x, float), np.asarray(edges, float)
    require(edges.ndim == 1 and np.all(np.diff(edges) > 0), "edges", edges.shape, "increasing edges")
    require(levels.ndim == 2 and len(levels) >= 2, "x", levels.shape, "levels [R, n] of at least two replicas")
    cells = np.searchsorted(edges, levels, side="right") - 1 + (levels == edges[-1]) * -1
    inside = (cells >= 0) & (cells < len(edges) - 1)
    row = np.broadcast_to(np.arange(len(levels))[:, None], cells.shape)
    counts = np.zeros((len(levels), len(edges) - 1))
    np.add.at(counts, (row[inside], cells[inside]), 1)
    return curve(counts / (levels.shape[1] * np.diff(edges)))


def ks_distance(samples: Float[ArrayLike, "..."], cdf: Callable[[Array], Array]) -> float:
    """Kolmogorov and Smirnov's sup |F_n − F| of all samples pooled.

    Args:
        samples: numbers of any shape.
        cdf: the distribution function F.

    Returns:
        The distance.
    """
    x = np.sort(np.ravel(np.asarray(samples, float)))
    return float(ks_of_rows(np.asarray(cdf(jnp.asarray(x)), float)))


def ks_of_rows(wanted: Float[np.ndarray, "... n"]) -> Float[np.ndarray, "..."]:
    """sup |F_n − F| of each row of samples.

    Args:
        wanted: F at the sorted samples, [..., n].

    Returns:
        Distances [...]; NaN for rows without samples.
    """
    n = wanted.shape[-1]
    if n == 0:
        return np.full(wanted.shape[:-1], np.nan)
    rank = np.arange(n)
    return np.maximum((rank + 1) / n - wanted, wanted - rank / n).max(axis=-1)


def ks_two_sample(first: Float[ArrayLike, "..."], second: Float[ArrayLike, "..."]) -> float:
    """sup |F_n − G_m| between two sets of samples, each pooled.

    Args:
        first: numbers of any shape.
        second: numbers of any shape.

    Returns:
        The distance.
    """
    a, b = (np.sort(np.ravel(np.asarray(s, float))) for s in (first, second))
    at = np.concatenate([a, b])
    share = [np.searchsorted(s, at, side="right") / s.size for s in (a, b)]
    return float(np.max(np.abs(share[0] - share[1])))


def finite(name: str, value: ArrayLike | Sequence[float], ndim: int | None = None) -> np.ndarray:
    """A float64 array of finite numbers.

    Args:
        name: the argument's name, for the message.
        value: what was given.
        ndim: how many axes it must have.

    Returns:
        The array.

    Raises:
        InputError: another number of axes, no entries, or one that is not finite.
    """
    x = np.asarray(value, float)
    require(ndim is None or x.ndim == ndim, name, x.shape, f"an array of {ndim} axes")
    require(x.size and np.all(np.isfinite(x)), name, value, "finite numbers")
    return x
