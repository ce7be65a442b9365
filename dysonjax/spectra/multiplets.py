"""The linear scaling rule, estimated: what the levels of independent replicas say about T = α/|B|, with honest errors.

Replicas are independent; the levels of one replica are not, and no error or p-value here takes them for it.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from dysonjax.core.errors import require, whole
from dysonjax.laws import GeneralisedSemicircle, PairDensity
from dysonjax.spectra import Estimate, curve, estimate
from dysonjax.spectra.estimates import ks_of_rows
from dysonjax.spectra.resampling import jackknife_error, jackknifed, left_out, parts, pseudo_values

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


class ScalingFit(NamedTuple):
    """Fit of y = a x.

    Attributes:
        slope: a by generalised least squares.
        jackknife_error: a second error of `slope`.
        error_scaled: the first error of `slope`, times √(χ²/dof) where that exceeds 1.
        unweighted: a by plain least squares, with its jackknife error.
        chi2: χ².
        dof: degrees of freedom.
        p_value: probability of a larger χ².
        points: the fitted values and errors [p, k], counting the replicas of the smallest setting.
    """

    slope: Estimate
    jackknife_error: float
    error_scaled: float
    unweighted: Estimate
    chi2: float
    dof: int
    p_value: float
    points: Estimate


class TwoSample(NamedTuple):
    """Comparison of two samples of spectra.

    Attributes:
        statistic: energy distance.
        p_value: its p-value.
        mean_difference: first − second of every level's mean, [n].
    """

    statistic: float
    p_value: float
    mean_difference: Estimate


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
    x = _finite("centres", centres, 1)
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


def fit_through_origin(
    predictor: Float[ArrayLike, "p k"],
    values: Sequence[Float[ArrayLike, "R k ..."]],
    statistic: Literal["mean"] | Callable[..., Any] = "mean",
    groups: int = 100,
) -> ScalingFit:
    """Slope of y = a x over p settings (α, |B|) of k pairs each.

    Generalised least squares (Aitken 1936): a = Σ xᵀC⁻¹y/Σ xᵀC⁻¹x, χ² = Σ (y − ax)ᵀC⁻¹(y − ax), each sum over
    settings, which are independent, with the covariance C [k, k] of the k correlated values of one. C⁻¹ is free of its
    leading bias (Hartlap, A&A 464, 399 (2007)).

    `jackknife_error` repeats all of it, C too, without each of `groups` groups of replicas, left out of all settings
    at once, and so holds if these share random numbers; from it the bias of a, which skewed values cause, is removed.
    `error_scaled` is the Particle Data Group's error of a model that does not hold.

    Args:
        predictor: x [p, k].
        values: replicas [R_p, k, …] of each setting.
        statistic: "mean": y is the mean over replicas. Or a function [R', k, …] → [k], through the jackknife's
            pseudo-values of the groups (Tukey 1958).
        groups: number of groups, more than k + 3; the smallest R_p if that is less.

    Returns:
        The slope and how well it fits.

    Raises:
        InputError: a bad argument, or values whose covariance is singular.

        fit_through_origin(np.sqrt(temperature * kappa**2 * omega), spacings).slope  # a of ⟨S⟩ = a √(Tκ²Ω)
    """
    from scipy.special import chdtrc

    x = _finite("predictor", predictor, 2)
    settings, k = x.shape
    require(settings * k > 1 and np.any(x), "predictor", predictor, "two points or more, not all zero")
    require(len(values) == settings, "len(values)", len(values), f"{settings}, the settings of predictor")
    arrays = [_finite("values", v) for v in values]
    require(all(v.ndim >= 2 and v.shape[1] == k for v in arrays), "values", arrays[0].shape, f"[R, {k}, …] in each")
    groups = min(whole("groups", groups, 2), *map(len, arrays))
    require(groups > k + 3, "groups", groups, f"more than k + 3 = {k + 3}, and as many replicas in every setting")
    rows = [v if statistic == "mean" and v.ndim == 2 else _pseudo_values(v, statistic, groups) for v in arrays]

    means = zip(*(_means(r, groups) for r in rows), strict=True)
    y, y_without, cov, cov_without = (np.stack(m, axis) for m, axis in zip(means, (-2, -2, -3, -3), strict=True))
    error = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    singular = np.linalg.eigvalsh(cov)[:, 0] <= 1e-12 * np.max(error**2, axis=1)
    require(not np.any(singular), "values", arrays[0].shape, "values whose covariance over replicas is not singular")
    unbiased = np.array([1 - (k + 1) / (len(r) - 1) for r in rows])[:, None, None]
    precision = np.linalg.inv(cov) * unbiased
    whole_slope, slope_error = _gls(x, y, precision)
    without, _ = _gls(x, y_without, np.linalg.inv(cov_without) * unbiased)
    slope = jackknifed(whole_slope, without, groups).value
    plain, _ = _gls(x, y_without, np.eye(k))
    off, dof, count = y - slope * x, settings * k - 1, sum(map(len, arrays))
    chi2 = np.einsum("pi,pij,pj", off, precision, off)
    return ScalingFit(
        slope=Estimate(float(slope), float(slope_error), count),
        jackknife_error=float(jackknife_error(without)),
        error_scaled=float(slope_error * max(1, np.sqrt(chi2 / dof))),
        unweighted=Estimate(float(_gls(x, y, np.eye(k))[0]), float(jackknife_error(plain)), count),
        chi2=float(chi2),
        dof=dof,
        p_value=float(chdtrc(dof, chi2)),
        points=Estimate(y, error, min(map(len, arrays))),
    )


def equal_temperature_test(
    key: PRNGKeyArray, first: Float[ArrayLike, "R n"], second: Float[ArrayLike, "Q n"], permutations: int = 999
) -> TwoSample:
    """Do spectra of two runs at equal T, say, come from one law? No model, no fit.

    Energy distance 2⟨|X − Y|⟩ − ⟨|X − X'|⟩ − ⟨|Y − Y'|⟩ ≥ 0 (Székely and Rizzo, InterStat 5 (2004)) with every level
    divided by its standard deviation over all replicas; p is the share of permutations that exchange whole replicas and
    lie as far apart, exact for any R, Q and n.

    Args:
        key: random key.
        first: levels [R, n].
        second: levels [Q, n].
        permutations: number of permutations.

    Returns:
        Distance, p-value and difference of the means.

    Raises:
        InputError: a bad argument.
    """
    one, two = _finite("first", first, 2), _finite("second", second, 2)
    require(one.shape[1] == two.shape[1], "second", two.shape, f"[Q, {one.shape[1]}], the levels of first")
    require(min(len(one), len(two)) >= 2, "first, second", (one.shape, two.shape), "two replicas of each at least")
    whole("permutations", permutations)
    x = np.concatenate([one, two])
    from scipy.spatial.distance import cdist

    scale = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1)

    order = np.argsort(np.asarray(jax.random.bits(key, (permutations, len(x)))), axis=1, kind="stable")
    signed = np.full((len(x), permutations + 1), -1 / len(two))
    signed[: len(one), 0] = 1 / len(one)
    np.put_along_axis(signed[:, 1:], order[:, : len(one)].T, 1 / len(one), axis=0)
    # −wᵀDw with w = 1/R in one sample and −1/Q in the other is the energy distance
    distance = np.zeros(permutations + 1)
    some = max(1, AT_ONCE // len(x))
    for rows in (slice(start, start + some) for start in range(0, len(x), some)):
        distance -= np.sum(signed[rows] * (cdist(x[rows], x) @ signed), axis=0)
    # partitions that are the same but for the names of the samples differ by rounding
    reached = np.sum(distance[1:] >= distance[0] * (1 - 1e-9))
    a, b = curve(one), curve(two)
    difference = Estimate(a.value - b.value, np.hypot(a.error, b.error), len(x))
    return TwoSample(float(distance[0]), float((1 + reached) / (1 + permutations)), difference)


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
    x = _finite("levels", levels, 2)
    require(len(multiplets) > 0, "multiplets", multiplets, "one multiplet at least")
    centre = np.stack([x[:, part].mean(axis=1) for part in multiplets], axis=1)
    if fixed_points is not None:
        fixed = _finite("fixed_points", fixed_points, 1)
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
    x = _finite("levels", levels, 2)
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


def _finite(name: str, value: ArrayLike | Sequence[float], ndim: int | None = None) -> np.ndarray:
    x = np.asarray(value, float)
    require(ndim is None or x.ndim == ndim, name, x.shape, f"an array of {ndim} axes")
    require(x.size and np.all(np.isfinite(x)), name, value, "finite numbers")
    return x


def _pairs(name: str, value: ArrayLike, ndim: int) -> np.ndarray:
    x = _finite(name, value, ndim)
    require(len(x) >= 2 and x.shape[-1] == 2, name, x.shape, "pairs [R, …, 2] of two replicas at least")
    return x


def _spacings(value: ArrayLike) -> np.ndarray:
    s = _finite("spacings", value, 1)
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


def _pseudo_values(samples: np.ndarray, statistic: Any, groups: int) -> np.ndarray:
    """[groups, k]: independent numbers whose mean is the statistic with its bias removed."""
    require(callable(statistic), "statistic", statistic, 'a function [R, k, …] → [k], or "mean" of values [R, k]')
    found = pseudo_values(np.asarray(statistic(samples), float), left_out(statistic, samples, groups))
    require(found.shape == (groups, samples.shape[1]), "statistic", statistic, "a function that gives [k] numbers")
    require(np.all(np.isfinite(found)), "statistic", statistic, "a function that gives finite numbers")
    return found


def _means(rows: np.ndarray, groups: int) -> tuple[np.ndarray, ...]:
    """Mean [k] of rows, the same without each group [groups, k], and the covariances of both."""
    mean, count = rows.mean(axis=0), len(rows)
    apart = [(rows - mean)[part] for part in parts(count, groups)]
    squares = np.stack([part.T @ part for part in apart])
    kept = count - np.array([len(part) for part in apart])[:, None, None]
    off = -np.stack([part.sum(axis=0) for part in apart])[:, None] / kept
    total = squares.sum(axis=0)
    without = (total - squares - kept * off.swapaxes(1, 2) * off) / (kept * (kept - 1))
    return mean, mean + off[:, 0], total / (count * (count - 1)), without


def _gls(x: np.ndarray, y: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes of y [..., p, k] = a x and their errors, with the inverse covariances [..., p, k, k]."""
    weighted = (x[:, None] @ precision)[..., 0, :]
    curvature = np.sum(weighted * x, axis=(-2, -1))
    return np.sum(weighted * y, axis=(-2, -1)) / curvature, curvature**-0.5
