"""The linear scaling rule, estimated: what settings (α, |B|) say together about T = α/|B|, with honest errors.

What the replicas of one setting say is in `multiplets`; `dysonjax.scaling` has both. Replicas are independent; the
levels of one replica are not, and no error or p-value here takes them for it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, PRNGKeyArray

from dysonjax.core.errors import require, whole
from dysonjax.spectra.estimates import Estimate, curve, finite
from dysonjax.spectra.multiplets import (
    AT_ONCE,
    MultipletTest,
    PairFit,
    SurmiseTest,
    fitted_centres,
    moment_ratio,
    multiplet_ks,
    multiplets,
    pair_spacing,
    pair_width,
    pair_widths,
    surmise_test,
)
from dysonjax.spectra.resampling import jackknife_error, jackknifed, left_out, parts, pseudo_values

__all__ = [
    "MultipletTest",
    "PairFit",
    "ScalingFit",
    "SurmiseTest",
    "TwoSample",
    "equal_temperature_test",
    "fit_through_origin",
    "fitted_centres",
    "moment_ratio",
    "multiplet_ks",
    "multiplets",
    "pair_spacing",
    "pair_width",
    "pair_widths",
    "surmise_test",
]


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

    x = finite("predictor", predictor, 2)
    settings, k = x.shape
    require(settings * k > 1 and np.any(x), "predictor", predictor, "two points or more, not all zero")
    require(len(values) == settings, "len(values)", len(values), f"{settings}, the settings of predictor")
    arrays = [finite("values", v) for v in values]
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
    one, two = finite("first", first, 2), finite("second", second, 2)
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
