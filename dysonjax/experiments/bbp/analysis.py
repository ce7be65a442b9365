"""What a student's levels and singular vectors know of a rank-one teacher: overlaps, outliers, where ε_c is."""

import itertools
import json
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from dysonjax import laws, spectra
from dysonjax.core.observables import Observable, Variable, snapshots
from dysonjax.experiments.bbp.experiment import BBPRun
from dysonjax.spectra import Estimate
from dysonjax.storage.records import tuples

OUTSIDE = 0.01
"""A level counts as an outlier when the largest one of pure noise exceeds it with a probability below this."""
CRITICAL_MEDIAN = -0.0752
"""Median of the scaled largest level at the transition itself, n → ∞, β = 1.

The law F(x; w) of Bloemendal and Virág (Probab. Theory Relat. Fields 156, 795 (2013)) at w = 0, from their equation
∂F/∂x + (2/β) ∂²F/∂w² + (x − w²) ∂F/∂w = 0 by finite differences; at β = 2, where F(x; 0) = F₁(x)², the same
differences give the median to 10⁻⁴. The scaling is that of `spectra.tracy_widom_p_values`.
"""
ROUNDING = 1e-6
"""Error of levels and overlaps in float32, added to their standard errors before they are held against a law."""
CLEAR = 2.0
"""Laws for n → ∞ are tested where c is at least this many times its critical value, outside the critical window."""


def overlaps(w: Float[Array, "n m"]) -> dict[str, Array]:
    """Squared overlaps of W's first singular vectors, left û and right v̂, with the teacher's, the first of each basis.

    From the eigenvectors of the smaller of W Wᵀ and WᵀW: they cost a third of a singular value decomposition.
    """
    turned = w.shape[0] > w.shape[1]
    a = w.T if turned else w
    near = jnp.linalg.eigh(jnp.matmul(a, a.T, precision="highest"))[1][:, -1]
    far = jnp.matmul(near, a, precision="highest")
    near, far = near[0] ** 2, far[0] ** 2 / jnp.sum(far**2)
    return {"overlap_left": far, "overlap_right": near} if turned else {"overlap_left": near, "overlap_right": far}


OVERLAPS: Observable = snapshots(
    lambda spectra, state, hyper: overlaps(state.params["W"]),
    {
        "overlap_left": Variable((), "squared overlap of the first left singular vector with the teacher's"),
        "overlap_right": Variable((), "squared overlap of the first right singular vector with the teacher's"),
    },
)
"""Both overlaps, at each snapshot."""


class Curve(NamedTuple):
    """Of one initial width and one number of steps: arrays over the learning rates, mean ± standard error of seeds."""

    init_width: float
    steps: int
    learning_rate: NDArray[np.float64]
    top: Estimate
    """Largest level of W Wᵀ."""
    left: Estimate
    """(u·û)², of the left singular vectors, in the space of the N outputs."""
    right: Estimate
    """(v·v̂)², of the right singular vectors, in the space of the M inputs."""
    outside: Estimate
    """Share of the seeds whose largest level is an outlier; see `OUTSIDE`."""
    p_values: NDArray[np.float64]
    """[ε, seed]: probability that the largest level of pure noise exceeds the one found."""


class Transition(NamedTuple):
    """The critical learning rate of one initial width and one number of steps."""

    init_width: float
    steps: int
    law: float
    measured: Estimate
    """Where half of the seeds exceed the median of the critical law; NaN where the run does not reach it."""
    bracket: tuple[float, float]
    """Last learning rate before that, and first after it."""
    visible: Estimate
    """Where half of the seeds have an outlier, O(n^{−1/3}) above the transition."""


def run_of(ds: xr.Dataset) -> BBPRun:
    """The `BBPRun` of a dataset; raises `InputError`."""
    return BBPRun(**tuples(json.loads(ds.attrs["experiment"])["bbp"]))


def curves(ds: xr.Dataset) -> list[Curve]:
    """Levels, overlaps and outliers against the learning rate, for every initial width and number of steps."""
    run = run_of(ds)
    return [_curve(run, ds, width, t) for width, t in itertools.product(run.init_width, run.steps)]


def _curve(run: BBPRun, ds: xr.Dataset, width: float, t: int) -> Curve:
    at = ds.sel(init_width=width).isel(snapshot=1 + run.steps.index(t)).transpose("learning_rate", "seed", ...)
    top = at.levels.values[..., 0].astype(float)
    rate = at.learning_rate.values.astype(float)
    scaled = top / run.noise(width, t, rate)[:, None] ** 2
    p = np.asarray(spectra.tracy_widom_p_values(scaled, (run.rows, run.columns), 1.0), float)
    over_seeds = lambda x: spectra.curve(x.astype(float).T)  # noqa: E731
    return Curve(
        width, t, rate, over_seeds(top), over_seeds(at.overlap_left.values), over_seeds(at.overlap_right.values),
        over_seeds(p < OUTSIDE), p,
    )  # fmt: skip


def critical(ds: xr.Dataset) -> list[Transition]:
    """ε_c measured from largest levels alone, for every initial width and number of steps.

    At the transition the largest level, scaled like that of the noise s² = (1 − ε)^{2t} σ_W², has a law of its own
    (`CRITICAL_MEDIAN`), whatever the size. So ε_c is where half of the seeds exceed the median of that law: a finite
    matrix misses it by O(n^{−2/3}): for N = M/2, σ_W = 1 and t = 1 it was seen late by 0.0141(13) at N = 25,
    0.0075(20) at N = 50 and 0.0069(28) at N = 100. A significant outlier is seen in half of the seeds only O(n^{−1/3})
    later, by 0.087, 0.068 and 0.053.
    """
    run = run_of(ds)
    median = float(laws.TracyWidom(beta=1).sf(jnp.asarray(CRITICAL_MEDIAN)))
    found = []
    for c in curves(ds):
        measured, bracket = crossing(c.learning_rate, c.p_values < median, median)
        visible, _ = crossing(c.learning_rate, c.p_values < OUTSIDE, OUTSIDE)
        law = float(run.critical_learning_rate(c.init_width, c.steps))
        found.append(Transition(c.init_width, c.steps, law, measured, bracket, visible))
    return found


def crossing(x: ArrayLike, exceeds: NDArray[np.bool_], floor: float) -> tuple[Estimate, tuple[float, float]]:
    """Where the share of `exceeds` [x, R] rises through ½, and the neighbours among the increasing x that bracket it.

    A parabola through Φ⁻¹(share), weighted by its binomial errors, around the crossing as far as the shares stay
    between `floor`, which pure noise has, and 95 %; the standard error is the fit's. NaN without a crossing.
    """
    order = np.argsort(x)
    x, exceeds = np.asarray(x, float)[order], exceeds[order]
    share, count = exceeds.mean(axis=1), exceeds.shape[1]
    rises = np.flatnonzero((share[:-1] < 0.5) & (share[1:] >= 0.5))
    if not rises.size:
        return Estimate(np.nan, np.nan, count), (np.nan, np.nan)
    i = int(rises[-1])
    inner = (count * share + 0.5) / (count + 1)
    left, right = np.flatnonzero(inner[:i] <= floor + 0.045), np.flatnonzero(inner[i + 2 :] >= 0.95)
    used = slice(left[-1] + 1 if left.size else 0, i + 2 + right[0] if right.size else None)
    probit = ndtri(inner[used])
    weight = np.exp(-(probit**2) / 2) * np.sqrt(count / (2 * np.pi * inner[used] * (1 - inner[used])))
    middle, unit = (x[i] + x[i + 1]) / 2, x[i + 1] - x[i]
    powers = np.vander((x[used] - middle) / unit, min(3, probit.size))
    covariance = np.linalg.inv((weight[:, None] * powers).T @ (weight[:, None] * powers))
    fit = covariance @ powers.T @ (weight**2 * probit)
    slope = np.polyder(fit)
    roots = [r.real for r in np.roots(fit) if abs(r.imag) < 1e-9 and np.polyval(slope, r.real) > 0]
    at = min(roots, key=abs) if roots else 0.0
    row = np.vander([at], len(fit))[0]
    error = np.sqrt(row @ covariance @ row) / abs(np.polyval(slope, at)) if roots else 0.5
    return Estimate(float(middle + unit * at), float(unit * error), count), (float(x[i]), float(x[i + 1]))


def deviations(run: BBPRun, curve: Curve) -> dict[str, NDArray[np.float64]]:
    """Largest level and both overlaps minus their laws, in standard errors, where c ≥ `CLEAR` √r; NaN elsewhere."""
    law = run.law(curve.init_width, curve.steps, curve.learning_rate)
    clear = np.asarray(law.signal) >= CLEAR * np.asarray(law.critical_signal)
    pairs = {
        "top": (curve.top, np.asarray(law.outlier)),
        "left": (curve.left, np.asarray(law.overlap)),
        "right": (curve.right, run.right_overlap(curve.init_width, curve.steps, curve.learning_rate)),
    }
    return {
        name: np.where(clear, (e.value - wanted) / np.hypot(e.error, ROUNDING), np.nan)
        for name, (e, wanted) in pairs.items()
    }
