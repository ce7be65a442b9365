"""The heavy tail of one spectrum: a power law from a level x_min on, its error, and what speaks against it.

Clauset, Shalizi and Newman, SIAM Review 51, 661 (2009), with two differences. The error of α is that of the whole
procedure, the search for x_min included, by their semi-parametric bootstrap: the usual (α − 1)/√m takes x_min for known
and is too small (of 100 numbers with α = 3, 95 % bands hold α in 89 % of cases; those of the bootstrap, a little too
wide, in 98 %). And both alternatives contain the power law as a limit, so the ratio of likelihoods is held against the
law that it then has. The package `powerlaw` finds the same α, x_min and ratios; it gives no such error, and the hundred
fits that one takes would last a minute for 2048 levels, not a fraction of a second.

Levels are taken for independent numbers, as the largest ones of heavy-tailed matrices nearly are. The levels of a rigid
spectrum repel each other, and then the errors are too large.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, PRNGKeyArray
from scipy.special import log_ndtr, ndtr

from dysonjax.core.errors import require, whole
from dysonjax.spectra import Estimate
from dysonjax.spectra.resampling import bootstrap_error

LEAST = 10
"""Levels of a tail at least."""
CANDIDATES = 200
"""Values of x_min that are tried: levels, so that the number in the tail grows in equal ratios."""
ITERATIONS, TOLERANCE = 60, 1e-10
"""Newton steps at most, and the gain of log-likelihood for each level that ends them."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(400)


class Comparison(NamedTuple):
    """A power law against a law with one parameter more, of which it is a limit."""

    ratio: float
    """R = ln L(power law) − ln L(other), never positive: 0 where the other law's best fit is the power law."""
    p: float
    """Chance of one as low if the power law is true, ½ P(χ²₁ > −2R): a parameter at its end (Self and Liang 1987)."""


class TailFit(NamedTuple):
    """What `fit_tail` finds; NaN where there are too few levels."""

    exponent: Estimate
    """α of the density x^{−α}, ± its spread under the bootstrap; its count is the number of levels in the tail."""
    x_min: float
    ks: float
    """Kolmogorov and Smirnov's distance of the tail from the law."""
    ks_p: float
    """Share of bootstrap samples of the law, x_min fitted to each, that are as far from it."""
    lognormal: Comparison
    """Against exp(−(ln x − m)²/2s²)/x."""
    truncated: Comparison
    """Against x^{−α} e^{−λx}."""


NOTHING = TailFit(
    Estimate(np.nan, np.nan, 0), np.nan, np.nan, np.nan, Comparison(np.nan, np.nan), Comparison(np.nan, np.nan)
)


def fit_tail(key: PRNGKeyArray, levels: Float[ArrayLike, " n"] | Sequence[float], samples: int = 100) -> TailFit:
    """A power law ρ(x) ∝ x^{−α}, x ≥ x_min, of the levels [n], in any order; zeros are left out.

    α = 1 + m/Σ ln(x/x_min) of the m levels from x_min on (Hill's estimate, the most likely one), at the x_min where the
    distance between the tail and its law is least, m ≥ `LEAST`. The error and the p-value are those of `samples` sets
    of n numbers: from the fitted law with probability m/n, else from the levels below x_min. NaN for fewer than
    `LEAST` levels that are not all the same. Raises `InputError`.

        fit_tail(jax.random.key(0), spectra.levels(w)).exponent
    """
    x = np.sort(np.asarray(levels, float))
    require(x.ndim == 1, "levels", x.shape, "levels [n]")
    require(np.all(np.isfinite(x)) and np.all(x >= 0), "levels", x, "finite numbers that are not negative")
    whole("samples", samples, 2)
    y = np.log(x[x > 0])
    if len(y) < LEAST or y[-LEAST] == y[-1]:
        return NOTHING
    rate, count, ks = (found[0] for found in _search(y[None]))
    body, start = y[: len(y) - count], float(y[len(y) - count])
    fits = _search(_resampled(key, body, start, rate, len(y), samples))
    u = y[len(y) - count :] - start
    return TailFit(
        exponent=Estimate(float(1 + rate), float(bootstrap_error(fits[0])), int(count)),
        x_min=float(np.exp(start)),
        ks=float(ks),
        ks_p=float(np.mean(fits[2] >= ks)),
        lognormal=_compare(_lognormal(u), rate, u),
        truncated=_compare(_truncated(u), rate, u),
    )


def hill(levels: Float[ArrayLike, " n"] | Sequence[float]) -> Float[np.ndarray, "n-1"]:
    """Hill's estimates α_k = 1 + k/Σ_{i≤k} ln(x_i/x_{k+1}) from the k largest levels, k = 1 … n − 1: Hill's plot.

    Flat over a range of k where there is a power law (Hill, Ann. Stat. 3, 1163 (1975)). `levels` in any order, NaN
    from the first zero on, ∞ where the k + 1 largest are equal. Raises `InputError`.
    """
    x = np.sort(np.asarray(levels, float))[::-1]
    require(x.ndim == 1 and np.all(np.isfinite(x)) and np.all(x >= 0), "levels", x, "finite numbers, none negative")
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.where(x > 0, np.log(x), np.nan)
        k = np.arange(1, len(x))
        return 1 + k / (np.cumsum(y)[:-1] - k * y[1:])


def _search(y: Float[np.ndarray, "B n"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """α − 1, number in the tail, and distance of the best tail of each row of increasing logarithms."""
    n = y.shape[1]
    counts = np.unique(np.geomspace(LEAST, n, min(CANDIDATES, n - LEAST + 1)).round().astype(int))
    sums = np.cumsum(y[:, ::-1], axis=1)
    best = [np.full(len(y), np.nan), np.zeros(len(y), int), np.full(len(y), np.inf)]
    for count in counts:
        start = y[:, n - count]
        excess = sums[:, count - 1] - count * start
        rate = count / np.where(excess > 0, excess, np.inf)
        above = np.exp(-rate[:, None] * (y[:, n - count :] - start[:, None]))
        rank = np.arange(count, 0, -1) / count
        gap = rank - above
        distance = np.maximum(gap.max(axis=1), 1 / count - gap.min(axis=1))
        better = (distance < best[2]) & (excess > 0)
        for kept, new in zip(best, (rate, count, distance), strict=True):
            kept[:] = np.where(better, new, kept)
    return best[0], best[1], best[2]


def _resampled(key: PRNGKeyArray, body: np.ndarray, start: float, rate: float, n: int, samples: int) -> np.ndarray:
    """Logarithms [samples, n], sorted, of numbers from below x_min as often as there, from the power law otherwise."""
    width = 1 << (n - 1).bit_length()  # few shapes: each is a program
    u = np.asarray(jax.random.uniform(key, (samples, width)), float)[:, :n]
    share = len(body) / n
    inside = u < share
    padded = np.append(body, start)
    low = padded[np.where(inside, u * n, 0).astype(int).clip(0, len(body))]
    tail = np.where(inside, 0, (u - share) / (1 - share)).clip(0, 1 - 1e-9)
    return np.sort(np.where(inside, low, start - np.log1p(-tail) / rate), axis=1)


def _compare(log_likelihood: float | None, rate: float, u: np.ndarray) -> Comparison:
    """The power law against the best other law; None where that is the power law."""
    if log_likelihood is None:
        return Comparison(0.0, 1.0)
    ratio = min(len(u) * (np.log(rate) - 1 - log_likelihood), 0.0)
    return Comparison(float(ratio), float(ndtr(-np.sqrt(-2 * ratio))) if ratio < 0 else 1.0)


def _lognormal(u: np.ndarray) -> float | None:
    """Mean log-likelihood of u = ln(x/x_min) under the best normal law cut off at 0: m and s from the two moments.

    With t = m/s and λ = φ(t)/Φ(t): ⟨u⟩ = s (t + λ), ⟨u²⟩ = s² (1 + t (t + λ)); t → −∞ is the power law.
    """
    mean, square = np.mean(u), np.mean(u * u)

    def shifted(t):
        return t + np.exp(-t * t / 2 - log_ndtr(t)) / np.sqrt(2 * np.pi)

    def off(t):
        return (1 + t * shifted(t)) / shifted(t) ** 2 - square / mean**2

    if off(-30.0) <= 0:
        return None
    from scipy.optimize import brentq

    t = float(brentq(off, -30.0, 1e4))  # type: ignore[arg-type]
    s = mean / shifted(t)
    return float(-np.mean((u / s - t) ** 2) / 2 - np.log(s * np.sqrt(2 * np.pi)) - log_ndtr(t))


def _truncated(u: np.ndarray) -> float | None:
    """Mean log-likelihood of u under the best e^{−au − l(e^u − 1)}, a = α − 1, l = λ x_min; l → 0 is the power law."""
    mean = np.array([np.mean(u), np.mean(np.expm1(u))])
    if mean[0] < 1 and mean[1] >= mean[0] / (1 - mean[0]):
        return None  # ⟨x⟩ is at least that of the power law: a cut-off makes it less likely

    def expected(a, l):
        """ln ∫ e^{…} du by Gauss and Legendre's rule, and means and covariance of (u, e^u − 1) under the law."""
        end = np.log1p(60 * (1 + max(-a, 0)) / l)
        v = (min(end, 60 / a) if a > 0 else end) * (1 + NODES) / 2
        pair = np.stack([v, np.expm1(v)])
        exponent = -a * v - l * pair[1]
        top = exponent.max()
        weights = WEIGHTS * v[-1] / (1 + NODES[-1]) * np.exp(exponent - top)
        means = pair @ weights / weights.sum()
        apart = pair - means[:, None]
        return np.log(weights.sum()) + top, means, (apart * weights) @ apart.T / weights.sum()

    # Newton's method: −log-likelihood is convex in (a, l), and l stays positive
    theta = np.array([1 / mean[0], 0.1 / mean[1]])
    log_norm, means, covariance = expected(*theta)
    for _ in range(ITERATIONS):
        slope, (vv, vw, ww) = mean - means, (covariance[0, 0], covariance[0, 1], covariance[1, 1])
        step = -np.array([ww * slope[0] - vw * slope[1], vv * slope[1] - vw * slope[0]]) / (vv * ww - vw**2)
        length = min(1.0, -0.9 * theta[1] / step[1]) if step[1] < 0 else 1.0
        loss, gain = log_norm + theta @ mean, -slope @ step
        while (new := expected(*(theta + length * step)))[0] + (theta + length * step) @ mean > loss and length > 1e-9:
            length /= 4
        theta, (log_norm, means, covariance) = theta + length * step, new
        if gain < TOLERANCE:
            break
    return -float(log_norm + theta @ mean)
