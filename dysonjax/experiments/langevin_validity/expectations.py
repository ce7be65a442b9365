"""What the Langevin picture expects of levels and gradient noise, the tolerances, and the verdicts on measurements."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from dysonjax.dynamics.gradients import GradientNoise
from dysonjax.spectra import Estimate, estimate
from dysonjax.spectra.resampling import jackknife_error, left_out

Verdict = Literal["holds", "fails", "inconclusive", "no theory"]

WIDTH = 0.1
"""Relative deviation of a width that the picture may have: the linear scaling rule is used at about this accuracy."""
OVERLAP = 5.0
"""Neighbours nearer than this many widths repel: beyond it each changes the other's variance by less than 2 %."""
ANISOTROPY = 4.0
"""Largest over smallest entry variance: GOE noise has 2 (its diagonal), and sampling some 100 entries adds to it."""
RANK = 0.4
"""Least effective rank of the noise over its dimension: isotropic noise has 1, GOE noise (n + 1)/2n > ½."""
KURTOSIS = 0.5
"""Excess kurtosis that passes for Gaussian: a sixth of a Laplace law's. A mean of |B| has 1/|B| of one example's."""
BEYOND = 0.004
"""Excess share beyond three standard deviations: with the Gaussian 0.0027 still half a Laplace law's 0.014."""
SMALL_STEP, UNSTABLE_STEP = 0.2, 2.0
"""αλ_max: below the first discrete steps widen levels by less than 6 % (σ² ∝ 1/(2 − αh)); beyond the other no fixed
point is stable."""
TIME = 0.25
"""Relative deviation of an autocorrelation time: what the statistics of some hundred replicas resolve."""
LONG = 10.0
"""Autocorrelation times that a run must last for stationary claims."""
NOISE_SCALE, DRIFT_SCALE = 0.1, 1.0
"""|B|/B_simple: below the first noise alone decides an update's size, beyond the other drift outweighs noise."""
SVAG_WIDTH, SVAG_SHIFT = 0.05, 0.2
"""What SVAG may change: widths, relative; means, in widths."""
CUT = 0.1
"""The correlation at which its integral ends; the rest is taken to be exponential."""
LAGS, GROUPS = 24, 16
"""Lags at which the correlation is taken, and groups of replicas of a jackknife."""


class Line(NamedTuple):
    """A measured number beside what the picture expects of it."""

    quantity: str
    measured: Estimate | float
    expected: float | str
    verdict: Verdict
    note: str = ""


def judge(deviation: float, error: float, tolerance: float) -> Verdict:
    """It "holds" where |deviation| + error is within the tolerance, "fails" where |deviation| − 2 errors is beyond."""
    if abs(deviation) + error <= tolerance:
        return "holds"
    return "fails" if abs(deviation) - 2 * error > tolerance else "inconclusive"


class Law(NamedTuple):
    """What is expected of each multiplet: its levels [n], its width and autocorrelation time [m], and by what."""

    members: np.ndarray
    widths: np.ndarray
    times: np.ndarray
    source: str


def level_lines(law: Law, levels: np.ndarray, widths: Estimate, times: Estimate, steps: int) -> list[Line]:
    """The worst width, the slowest autocorrelation time, and how long the run was; levels [R, time, n] at late times.

    Levels that overlap their neighbours have no verdict, and none has one in too short a run.
    """
    slow = int(np.argmax(times.value if np.isnan(law.times).any() else law.times))
    lasts = Estimate(steps / times.value[slow], steps * times.error[slow] / times.value[slow] ** 2, times.count)
    long: Verdict = "holds" if lasts.value - lasts.error >= LONG else "inconclusive"
    long = "fails" if lasts.value + 2 * lasts.error < LONG else long

    centres = np.sort((levels[:, -1] @ pool(law.members).T).mean(axis=0))[::-1]
    gaps = np.concatenate([[np.inf], -np.diff(centres), [np.inf]])
    clear = np.minimum(gaps[1:], gaps[:-1]) > OVERLAP * widths.value
    deviation, error = widths.value / law.widths - 1, widths.error / law.widths
    verdicts: list[Verdict] = [judge(*pair, WIDTH) for pair in zip(deviation, error, strict=True)]
    order = {"holds": 0, "inconclusive": 1, "fails": 2}
    worst = max(range(len(verdicts)), key=lambda i: (clear[i], order[verdicts[i]], abs(deviation[i])))
    note = law.source if clear.all() else f"{law.source}; {np.sum(~clear)} of {len(clear)} overlap their neighbours"
    verdict = verdicts[worst] if clear[worst] and long == "holds" else "inconclusive"
    if long != "holds":
        note += "; too short a run to be stationary"
    if np.isnan(law.widths).any():
        worst, verdict, note = int(np.argmax(np.isnan(law.widths))), "no theory", "no restoring force within the run"

    def level(i: int) -> str:
        ends = np.flatnonzero(law.members == i)[[0, -1]] + 1
        return "level " + "–".join(str(rank) for rank in np.unique(ends))

    title = f"width, {'worst: ' * (len(verdicts) > 1)}{level(worst)}"
    tau = Estimate(times.value[slow], times.error[slow], times.count)
    known = np.isfinite(law.times[slow])
    in_time = judge(tau.value / law.times[slow] - 1, tau.error / law.times[slow], TIME) if known else "no theory"
    return [
        Line(title, Estimate(widths.value[worst], widths.error[worst], widths.count), law.widths[worst], verdict, note),
        Line("autocorrelation time", tau, law.times[slow], in_time, f"updates; slowest: {level(slow)}; 1/(α rate) − ½"),
        Line("run / autocorrelation time", lasts, f"≥ {LONG:g}", long, "long enough for stationary claims?"),
    ]


def gradient_lines(noise: GradientNoise, rate: float, batch: int) -> list[Line]:
    """Anisotropy and Gaussianity of the noise, step size and noise scale; leading axis of `noise`: replicas."""
    z = noise.projections - noise.projections.mean(axis=1, keepdims=True)
    z = z / np.maximum(z.std(axis=1, keepdims=True), 1e-30)
    count = z.shape[1]
    kurtosis = estimate(np.mean(z**4, axis=(1, 2)) - 3 + 6 / (count + 1))  # that of normal numbers has −6/(S + 1)
    share = estimate(np.mean(np.abs(z) > 3, axis=(1, 2)))
    share = share._replace(error=max(share.error, 1 / z.size))
    ratio = over_replicas(lambda v: v.mean(axis=0).max() / v.mean(axis=0).min(), noise.entries)
    rank = estimate(noise.effective_rank / noise.entries[0].size)
    step = float(rate * noise.top_curvature.max())
    flag: Verdict = "holds" if step < SMALL_STEP else "fails" if step > UNSTABLE_STEP else "inconclusive"
    scale = estimate(batch * noise.squared_drift / noise.total)
    alone: Verdict = "holds" if scale.value + scale.error < NOISE_SCALE else "inconclusive"
    alone = "fails" if scale.value - 2 * scale.error > DRIFT_SCALE else alone
    known = scale.value > scale.error
    simple = f"B_simple {'=' if known else '>'} {batch / (scale.value if known else scale.error):.3g}"
    return [
        Line("noise, largest / smallest entry", ratio, "1 (GOE 2)",
             judge(max(ratio.value - 1, 0), ratio.error, ANISOTROPY - 1), "variances of an example's gradient"),
        Line("noise, effective rank / dimension", rank, "1 (GOE ½)",
             judge(max(1 - rank.value, 0), rank.error, 1 - RANK), "participation of the covariance's eigenvalues"),
        Line("noise, excess kurtosis", kurtosis, 0.0, judge(kurtosis.value, kurtosis.error, KURTOSIS),
             f"of batches of {batch} along the levels"),
        Line("noise, share beyond 3σ", share, 0.0027, judge(share.value - 0.0027, share.error, BEYOND), "the same"),
        Line("step size α λ_max", step, f"< {SMALL_STEP:g}", flag, f"unstable beyond {UNSTABLE_STEP:g}"),
        Line("batch / noise scale", scale, "≪ 1", alone, simple),
    ]  # fmt: skip


def svag_lines(law: Law, first: np.ndarray, other: np.ndarray, title: str) -> list[Line]:
    """Widths, pooled over multiplets, and the worst mean, of two independent sets of levels [R, time, n]."""
    logs = [over_replicas(lambda x: np.mean(np.log(pooled_widths(x, law.members))), x) for x in (first, other)]
    ratio = float(np.exp(logs[1].value - logs[0].value))
    ratio = Estimate(ratio, ratio * float(np.hypot(logs[0].error, logs[1].error)), len(other))
    scale = pooled_widths(first, law.members)
    means = [over_replicas(lambda x: x.mean(axis=(0, 1)), x @ pool(law.members).T) for x in (first, other)]
    shifts = (means[1].value - means[0].value) / scale
    errors = np.hypot(means[0].error, means[1].error) / scale
    i = int(np.argmax(np.abs(shifts) - 2 * errors))
    shift = Estimate(shifts[i], errors[i], len(other))
    return [
        Line(title, ratio, 1.0, judge(ratio.value - 1, ratio.error, SVAG_WIDTH), "ratio of widths, all levels"),
        Line(title, shift, 0.0, judge(shift.value, shift.error, SVAG_SHIFT), "largest shift of a mean, in widths"),
    ]


def pool(members: np.ndarray) -> np.ndarray:
    """The matrix [m, n] that takes the mean over each multiplet."""
    one = np.arange(members[-1] + 1)[:, None] == members
    return one / one.sum(axis=1, keepdims=True)


def over_replicas(statistic: Callable[[np.ndarray], Any], x: Any) -> Estimate:
    """A statistic of replicas on the first axis, with its jackknife error over groups of them; in float64."""
    x = np.asarray(x, float)
    groups = np.arange(len(x)) * min(GROUPS, len(x)) // len(x)
    return Estimate(statistic(x), jackknife_error(left_out(statistic, x, groups)), len(x))


def pooled_widths(x: Float[np.ndarray, "R t n"], members: np.ndarray) -> Float[np.ndarray, " m"]:
    """√ of the mean square distance of the levels of a multiplet from its mean over replicas at that time."""
    mean = pool(members).T
    centre = x.mean(axis=0) @ mean
    squares = np.square(x - centre[:, members]) * (len(x) / (len(x) - 1))
    return np.sqrt(squares.mean(axis=(0, 1)) @ mean)


def autocorrelation_times(
    x: Float[np.ndarray, "R t n"], members: np.ndarray, marks: Sequence[int]
) -> Float[np.ndarray, " m"]:
    """∫ρ(s) ds in updates, ρ the correlation over replicas of multiplets' means at two `marks` s apart.

    Pairs of marks are averaged in logarithmic bins of s. Beyond the first ρ < `CUT` an exponential is assumed.
    """
    d = (x - x.mean(axis=0)) @ pool(members).T
    covariance = np.einsum("rtm,rum->tum", d, d)
    scale = np.sqrt(np.einsum("ttm->tm", covariance))
    i, j = np.triu_indices(len(marks), 1)
    lag = np.subtract(np.asarray(marks)[j], np.asarray(marks)[i])
    bins = np.unique(np.round(np.log(lag) / np.log(lag.max()) * LAGS), return_inverse=True)[1]
    mean = (np.arange(bins.max() + 1)[:, None] == bins) / np.bincount(bins)[:, None]
    rho = mean @ (covariance[i, j] / (scale[i] * scale[j]))
    area = np.diff([0.0, *(mean @ lag)])[:, None] * (rho + np.concatenate([np.ones_like(rho[:1]), rho[:-1]])) / 2
    at = np.where(np.any(rho < CUT, axis=0), np.argmax(rho < CUT, axis=0), len(rho) - 1)
    level = np.arange(rho.shape[1])
    return np.cumsum(area, axis=0)[at, level] / (1 - rho[at, level])
