"""What the levels of independent replicas of one setting say about a degenerate pair or multiplet, with honest errors.

Replicas are independent; the levels of one replica are not, and no error or p-value here takes them for it.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from dysonjax.core.errors import require, whole
from dysonjax.laws import GeneralisedSemicircle, PairDensity
from dysonjax.spectra.estimates import Estimate, curve, estimate, finite, ks_of_rows
from dysonjax.spectra.resampling import jackknifed

AT_ONCE = 2**22
"""Random numbers, or distances, held at one time: 32 MiB."""


class PairFit(NamedTuple):
    """Fit of a degenerate pair.

    Attributes:
        centre: κ.
        width: σ.
    """

    centre: Estimate
    width: Estimate


class SurmiseTest(NamedTuple):
    """Comparison of spacings with the Wigner surmise.

    Attributes:
        distance: Kolmogorov and Smirnov's distance.
        p_value: its p-value.
        count: number of spacings.
    """

    distance: float
    p_value: float
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]


class MultipletTest(NamedTuple):
    """Comparison of the levels of a multiplet with the one-level law.

    Attributes:
        distance: distance of all levels pooled.
        p_value: p-value of one level per replica.
        centre: κ of the law.
        width: σ of the law.
    """

    distance: float
    p_value: float
    centre: Estimate
    width: Estimate


def multiplets(centres: Float[ArrayLike, " n"] | Sequence[float], tolerance: float = 1e-6) -> tuple[slice, ...]:
    """Runs of equal neighbours among centres.

    Args:
        centres: [n], largest first.
        tolerance: largest difference of neighbours taken for equal, relative to the largest magnitude.

    Returns:
        A slice for each run.

    Raises:
        InputError: centres that are not sorted so, or a negative tolerance.

        multiplets([5.0, 4.62, 4.62, 1.0])  # slices of 1, 2 and 1 levels
    """
    x = finite("centres", centres, 1)
    require(tolerance >= 0, "tolerance", tolerance, "a number that is not negative")
    drop, margin = -np.diff(x), tolerance * np.max(np.abs(x))
    require(np.all(drop >= -margin), "centres", centres, "centres sorted largest first")
    ends = [0, *(int(i) + 1 for i in np.flatnonzero(drop > margin)), len(x)]
    return tuple(slice(a, b) for a, b in pairwise(ends))


def pair_spacing(pair: Float[ArrayLike, "R 2"]) -> Estimate:
    """⟨S⟩ = ⟨|x₁ − x₂|⟩ of a pair; for a degenerate one √π σ (arXiv:2407.16427).

    Args:
        pair: levels [R, 2].

    Returns:
        ⟨S⟩ in units of the levels.

    Raises:
        InputError: fewer than two replicas, anything but pairs, or numbers that are not finite.
    """
    return estimate(np.abs(np.diff(_pairs("pair", pair, 2))[:, 0]))


def pair_width(pair: Float[ArrayLike, "R 2"]) -> PairFit:
    """Centre and σ of pairs: maximum likelihood of `PairDensity`, all levels pooled (arXiv:2407.16427).

    The errors are those of the infinitesimal jackknife over replicas.

    Args:
        pair: levels [R, 2].

    Returns:
        Centre and σ in units of the levels.

    Raises:
        InputError: as for `pair_spacing`.
    """
    x = _pairs("pair", pair, 2)
    with jax.enable_x64(True):
        law, errors = PairDensity.fit(x)
        return PairFit(*(Estimate(float(getattr(law, n)), float(errors[n]), len(x)) for n in ("centre", "sigma")))


def pair_widths(pairs: Float[ArrayLike, "R k 2"]) -> Float[np.ndarray, " k"]:
    """√π σ of each of k pairs, fitted as by `pair_width`: the paper's second ⟨S⟩, a statistic to `fit_through_origin`.

    Args:
        pairs: levels [R, k, 2].

    Returns:
        √π σ [k] in units of the levels.

    Raises:
        InputError: as for `pair_spacing`.
    """
    x = _pairs("pairs", pairs, 3)
    with jax.enable_x64(True):
        return np.sqrt(np.pi) * np.asarray(_sigmas(x))


def moment_ratio(spacings: Float[ArrayLike, " R"]) -> Estimate:
    """⟨S²⟩/⟨S⟩², 4/π for a degenerate pair of any width; jackknife over replicas, bias removed.

    Args:
        spacings: S [R].

    Returns:
        The ratio.

    Raises:
        InputError: fewer than three spacings, negative ones, or all but one zero.
    """
    s = _spacings(spacings)
    count = len(s)
    without = (count - 1) * (np.sum(s**2) - s**2) / (np.sum(s) - s) ** 2
    found = jackknifed(np.mean(s**2) / np.mean(s) ** 2, without, count)
    return Estimate(float(found.value), float(found.error), count)


def surmise_test(key: PRNGKeyArray, spacings: Float[ArrayLike, " R"], draws: int = 999) -> SurmiseTest:
    """Are spacings distributed as Wigner's surmise, P(s) = (π/2) s e^{−πs²/4}, s = S/⟨S⟩?

    ⟨S⟩ is that of the data, so Kolmogorov's p-value would be too large (Lilliefors, J. Am. Stat. Assoc. 62, 399
    (1967)): p is the share of samples of the surmise, each divided by its own mean, that lie as far from it. Exact for
    any R.

    Args:
        key: random key.
        spacings: S [R] of independent replicas.
        draws: number of samples of the surmise.

    Returns:
        Distance, p-value and number of spacings.

    Raises:
        InputError: as for `moment_ratio`, or `draws` below 1.
    """
    s = _spacings(spacings)
    cdf = lambda s: -np.expm1(-np.pi / 4 * s**2)  # noqa: E731
    quantile = lambda u: np.sqrt(-4 / np.pi * np.log1p(-u))  # noqa: E731
    unit = lambda s: s / s.mean(axis=-1, keepdims=True)  # noqa: E731
    return SurmiseTest(float(_ks(unit(s), cdf)), _p_value(key, s, unit, cdf, quantile, draws), len(s))


def fitted_centres(
    levels: Float[ArrayLike, "R n"],
    multiplets: Sequence[slice],
    fixed_points: Float[ArrayLike, " n"] | Sequence[float] | None = None,
) -> Estimate:
    """Mean of each multiplet's levels over replicas.

    In levels x, or in λ = μ² − x with κ for fixed points, as the paper's λ/κ (arXiv:2407.16427).

    Args:
        levels: [R, n].
        multiplets: as from `multiplets`.
        fixed_points: [n]; if given, each mean is divided by its multiplet's fixed point.

    Returns:
        Means [number of multiplets].

    Raises:
        InputError: a bad argument.
    """
    x = finite("levels", levels, 2)
    require(len(multiplets) > 0, "multiplets", multiplets, "one multiplet at least")
    centre = np.stack([x[:, part].mean(axis=1) for part in multiplets], axis=1)
    if fixed_points is not None:
        fixed = finite("fixed_points", fixed_points, 1)
        ok = len(fixed) == x.shape[1] and np.all(fixed)
        require(ok, "fixed_points", fixed_points, f"{x.shape[1]} numbers, none zero")
        centre = centre / np.array([fixed[part].mean() for part in multiplets])
    return curve(centre)


def multiplet_ks(
    key: PRNGKeyArray,
    levels: Float[ArrayLike, "R k"],
    centre: float | None = None,
    width: float | None = None,
    draws: int = 999,
) -> MultipletTest:
    """Do levels of a k-fold multiplet follow the exact one-level law of a GOE block (arXiv:2412.20496)?

    Gaussian for k = 1, the pair density for k = 2, ρ_k of `GeneralisedSemicircle` beyond. `distance` is that of all
    levels pooled. Levels of one replica repel each other, so `p_value` is that of one level per replica, chosen at
    random. What is not given is fitted by moments, κ = ⟨x⟩ and σ² = 2⟨(x − κ)²⟩/(k + 1), and then p is the share of
    `draws` samples of the law, fitted alike, that lie as far from it. Either p is exact.

    Args:
        key: random key.
        levels: [R, k].
        centre: κ; fitted if None.
        width: σ > 0; fitted if None.
        draws: number of samples of the law.

    Returns:
        Distance, p-value, and the law's κ and σ.

    Raises:
        InputError: a bad argument.
    """
    x = finite("levels", levels, 2)
    count, k = x.shape
    require(count >= 2 and k >= 1, "levels", x.shape, "levels [R, k] of two replicas at least")
    require(width is None or width > 0, "width", width, "a positive number or None")
    middle = estimate(x) if centre is None else Estimate(float(centre), 0.0, count)
    square = estimate((x - middle.value) ** 2)
    require(square.value > 0, "levels", levels, "levels that are not all one number")
    sigma = np.sqrt(2 / (k + 1) * square.value)
    size = Estimate(
        *((sigma, sigma / 2 * square.error / square.value) if width is None else (float(width), 0.0)), count
    )

    choice, null = jax.random.split(key)
    reduced = (x - (centre or 0)) / (width or 1)
    single = reduced[np.arange(count), np.asarray(jax.random.randint(choice, (count,), 0, k))]
    with jax.enable_x64(True):
        law = GeneralisedSemicircle(centres=np.zeros(1), sizes=(k,), sigma=1.0)
        low, high = law.bracket()
        grid = np.linspace(float(low), float(high), 20001)
        table = np.maximum.accumulate(np.asarray(law.cdf(grid)))
    cdf = lambda u: np.interp(u, grid, table)  # noqa: E731

    def unit(u):
        off = u - (u.mean(axis=-1, keepdims=True) if centre is None else 0)
        return off / (np.sqrt(2 / (k + 1) * np.mean(off**2, axis=-1, keepdims=True)) if width is None else 1)

    if centre is None or width is None:
        p_value = _p_value(null, single, unit, cdf, lambda u: np.interp(u, table, grid), draws)
    else:
        from scipy.stats import kstwo

        p_value = float(kstwo.sf(_ks(unit(single), cdf), count))
    return MultipletTest(float(_ks(unit(reduced.ravel()), cdf)), p_value, middle, size)


def _pairs(name: str, value: ArrayLike, ndim: int) -> np.ndarray:
    x = finite(name, value, ndim)
    require(len(x) >= 2 and x.shape[-1] == 2, name, x.shape, "pairs [R, …, 2] of two replicas at least")
    return x


def _spacings(value: ArrayLike) -> np.ndarray:
    s = finite("spacings", value, 1)
    require(len(s) >= 3 and np.all(s >= 0) and np.sum(s > 0) > 1, "spacings", value, "three or more, none negative")
    return s


@jax.jit
def _sigmas(pairs: Float[Array, "R k 2"]) -> Float[Array, " k"]:
    return jax.vmap(lambda pair: PairDensity.fit(pair).law.sigma, in_axes=1)(jnp.asarray(pairs))


def _ks(x: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return ks_of_rows(cdf(np.sort(x, axis=-1)))


def _p_value(key, samples, standardise, cdf, quantile, draws) -> float:
    """Share of samples of the law, standardised by themselves as the data were, that lie as far from it."""
    observed, reached, some = _ks(standardise(samples), cdf), 0, max(1, AT_ONCE // len(samples))
    for start in range(0, whole("draws", draws), some):
        shape = (min(some, draws - start), len(samples))
        with jax.enable_x64(True):
            u = np.asarray(jax.random.uniform(jax.random.fold_in(key, start), shape, jnp.float64))
        reached += np.sum(_ks(standardise(quantile(u)), cdf) >= observed)
    return float((1 + reached) / (1 + draws))
