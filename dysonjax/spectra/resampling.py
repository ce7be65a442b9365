"""Errors by resampling independent replicas: the jackknife over groups of them, and the bootstrap.

`jackknife` and `bootstrap` take a statistic and samples. Where a statistic has its own way to leave replicas out or to
draw them anew, its values go to `jackknife_error` or `bootstrap_error`. Fits of the laws cannot use these, which are a
floor above them, and have a jackknife of two moments in `laws.likelihood`, which is traced.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from dysonjax.core.errors import require
from dysonjax.spectra.estimates import Estimate


def jackknife(
    statistic: Callable[[Array], Array], samples: Float[ArrayLike, "R ..."], groups: int | None = None
) -> Estimate:
    """A statistic of all replicas with its jackknife error, bias removed (Efron and Stein 1981).

    Args:
        statistic: maps samples [R', …] to a number or an array; it is compiled.
        samples: replicas [R, …].
        groups: the statistic is evaluated without each of so many groups in turn; by default without each replica,
            fewer are faster. Groups have one size, and replicas left over are not used.

    Returns:
        The statistic with its error, of the shape that it has.

    Raises:
        InputError: fewer than two groups.
    """
    x = jnp.asarray(samples)
    count = len(x) if groups is None else groups
    require(2 <= count <= len(x), "groups", groups, f"2 … {len(x)}, the number of replicas")
    used = len(x) // count * count
    whole = jnp.asarray(statistic(x[:used]))
    keep = np.stack([np.delete(np.arange(used), part) for part in parts(used, count)])
    found = jax.lax.map(lambda rows: jnp.asarray(statistic(x[rows])), jnp.asarray(keep))
    return jackknifed(whole, found, len(x))


def left_out(
    statistic: Callable[[Any], Any],
    samples: Float[ArrayLike, "..."],
    groups: int | Int[np.ndarray, " R"] | None = None,
    axis: int = 0,
) -> Float[np.ndarray, "g ..."]:
    """Values of a statistic without each group of the replicas; nothing is compiled.

    Args:
        statistic: maps samples, with fewer replicas on `axis`, to a number or an array.
        samples: an array with the replicas on `axis`.
        groups: how many groups, as equal as can be, by default one for each replica; or the group 0 … g − 1 of each
            replica [R].
        axis: axis of the replicas.

    Returns:
        Values [g, …].
    """
    x = np.asarray(samples)
    return np.stack([
        np.asarray(statistic(np.delete(x, part, axis=axis)), float) for part in parts(x.shape[axis], groups)
    ])  # fmt: skip


def parts(count: int, groups: int | Int[np.ndarray, " R"] | None = None) -> list[Int[np.ndarray, " r"]]:
    """Numbers of the replicas in each group.

    Args:
        count: number of replicas.
        groups: as in `left_out`.

    Returns:
        An array of numbers for each group.
    """
    if groups is None or isinstance(groups, int):
        return np.array_split(np.arange(count), groups or count)
    return [np.flatnonzero(groups == g) for g in range(groups.max() + 1)]


def jackknifed(whole: Any, left_out: Any, count: int) -> Estimate:
    """A statistic with its bias removed, and its jackknife error.

    Args:
        whole: the statistic of all replicas, [...].
        left_out: its values without each of g groups, [g, …].
        count: number of replicas.

    Returns:
        The statistic with its error, [...].
    """
    groups = len(left_out)
    value = groups * whole - (groups - 1) * left_out.mean(axis=0)
    return Estimate(np.asarray(value), jackknife_error(left_out), count)


def pseudo_values(whole: Float[np.ndarray, "..."], left_out: Float[np.ndarray, "g ..."]) -> Float[np.ndarray, "g ..."]:
    """Numbers that are independent, nearly, and whose mean is the statistic with its bias removed (Tukey 1958).

    Args:
        whole: the statistic of all replicas, [...].
        left_out: its values without each of g groups, [g, …].

    Returns:
        Numbers [g, …].
    """
    return len(left_out) * whole - (len(left_out) - 1) * left_out


def jackknife_error(left_out: Float[ArrayLike, "g ..."]) -> Float[np.ndarray, "..."]:
    """The standard error of a statistic from its values without each of g groups of replicas.

    Args:
        left_out: values [g, …].

    Returns:
        Errors [...], in the type of a JAX array, otherwise in float64. NaN for one group.
    """
    values = left_out if isinstance(left_out, jax.Array) else np.asarray(left_out, float)
    if len(values) == 1:
        return np.full(values.shape[1:], np.nan)
    return np.sqrt(np.asarray((len(values) - 1) * ((values - values.mean(axis=0)) ** 2).mean(axis=0)))


def bootstrap(
    key: PRNGKeyArray, statistic: Callable[[Array], Array], samples: Float[ArrayLike, "R ..."], resamples: int = 400
) -> Estimate:
    """A statistic of all replicas with the spread of it over `resamples` draws of R replicas with replacement.

    Args:
        key: random key.
        statistic: maps samples [R, …] to a number or an array; it is compiled.
        samples: replicas [R, …].
        resamples: number of draws.

    Returns:
        The statistic with its error, of the shape that it has.
    """
    x = jnp.asarray(samples)
    require(len(x) >= 2, "samples", x.shape, "at least two replicas on the first axis")
    rows = jax.random.randint(key, (resamples, len(x)), 0, len(x))
    drawn = jax.lax.map(lambda r: jnp.asarray(statistic(x[r])), rows)
    return Estimate(np.asarray(statistic(x)), bootstrap_error(drawn), len(x))


def bootstrap_error(drawn: Any) -> Float[np.ndarray, "..."]:
    """The standard error of a statistic from its values [draw, …] of samples that were drawn anew."""
    return np.asarray(drawn.std(axis=0, ddof=1))
