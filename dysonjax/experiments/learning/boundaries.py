"""The boundary of learning along the learning rate, with intervals that cover: NumPy and SciPy, nothing is compiled."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dysonjax.core.errors import require
from dysonjax.experiments.learning.thresholds import (
    Array,
    Intervals,
    Joined,
    Steps,
    ThresholdLaw,
    falling,
    of_networks,
    of_seeds,
    posterior,
    quantiles,
    steps,
    up_to,
)

SAFE = 0.95
"""A learning rate is safe when at least this share of networks learns."""
MISFIT = 1e-3
"""A logistic is given up where it fits worse than any falling curve at this level of a likelihood-ratio test."""
FAR, NEARER, ENOUGH = 10.0, 3.0, 30
"""A fit looks no further than to the first rate at which `FAR` times as many networks fail as at the boundary, or
`NEARER` times as many where thresholds of at least `ENOUGH` are known to lie below: these say enough of its shape.
"""
WIDE = 10.0
"""An interval is called wide if its ends are this factor apart."""


def wilson(successes: ArrayLike, trials: ArrayLike, level: float = 0.95) -> tuple[Array, Array]:
    """Wilson's interval of a probability (Wilson 1927).

    Averaged over p = 0.05 … 0.95 it covers in 95.0 to 95.8 % for 4 … 64 trials where 95 % is meant.

    Args:
        successes: how many of the trials succeeded; any shape.
        trials: how many there were, of the same shape or one that broadcasts.
        level: how often the interval shall cover, in 0 … 1.

    Returns:
        Its lower and upper ends; 0 and 1 without trials.

    Raises:
        InputError: a level that is no probability, or more successes than trials.
    """
    from scipy.special import ndtri

    k, n = np.broadcast_arrays(np.asarray(successes, float), np.asarray(trials, float))
    require(0 < level < 1, "level", level, "a number between 0 and 1")
    require(np.all((k >= 0) & (k <= n)), "successes", successes, "0 … trials")
    z2, many = ndtri((1 + level) / 2) ** 2, np.maximum(n, 1)
    middle = (k + z2 / 2) / (many + z2)
    half = np.sqrt(z2 * (k * (n - k) / many + z2 / 4)) / (many + z2)
    low, high = np.where(k == 0, 0.0, middle - half), np.where(k == n, 1.0, middle + half)
    return np.where(n == 0, 0.0, low), np.where(n == 0, 1.0, high)


class Boundary(NamedTuple):
    """The largest rate whose P(learns) is at least a probability: `rate`, with the interval `low` … `high`.

    `low` is 0 or `high` infinite where the data cannot bound it in the range that was tried. `rate` is NaN where the
    boundary is outside that range. `method` is "logistic" (a logistic in log-rate, or one of its eight relatives,
    weighted by how well they fit) or "isotonic" (any falling curve). `said` is a sentence on an interval that is
    one-sided or wide, otherwise "".
    """

    rate: float
    low: float
    high: float
    method: str
    said: str
    fitted: Joined | Steps
    """what was fitted"""
    level: float
    """how often the interval and the band shall cover"""

    @property
    def reach(self) -> float:
        """Up to which rate a law was fitted; beyond, `curve` is the best one that falls. 0 for an isotonic fit."""
        return float(np.exp(self.fitted.end)) if isinstance(self.fitted, Joined) else 0.0

    def curve(self, rates: ArrayLike) -> Array:
        """The fitted P(learns) at rates [r]; it falls through the probability at `rate`."""
        return self.fitted.curve(np.asarray(rates, float))

    def band(self, rates: ArrayLike) -> tuple[Array, Array]:
        """The interval of P(learns) at each of rates [r]; its edges pass the probability at `low` and `high`."""
        return self.fitted.band(np.asarray(rates, float), self.level)


def fit_boundary(
    rate: ArrayLike,
    seed: ArrayLike,
    learned: ArrayLike,
    *,
    probability: float = SAFE,
    level: float = 0.95,
    paired: bool = True,
) -> Boundary:
    """The largest rate at which networks learn with a given probability, where that falls with the rate.

    P(learns at a rate) = P(threshold > rate). Thresholds have a location and a scale in log-rate and one of nine
    shapes: logistic, Gumbel with its long tail to either side, and these three with a tenth of the thresholds scattered
    four or eight times wider. The interval is that of their posterior law with the prior d(location) d(log scale),
    which covers exactly where thresholds are seen and the shape is known. A paired seed says between which rates its
    threshold lies; whole seeds are the sample. Where even the best of the nine fits badly, the curve is the best
    falling one, and the interval comes from each rate's own networks. The fit looks no further than to the first rate
    at which ten times as many networks fail as at the boundary, or three times as many where thirty thresholds are
    known to lie below: where few fail before a steep fall, the fall would move the boundary. Beyond, `curve` and `band`
    are those of the falling curve.

    Measured (`benchmarks/coverage.py`: 4 to 64 seeds, 6 to 20 rates, transitions from 0.03 distances of two rates to a
    decade, four laws, 108 cases of 400 repeats): 96.4 % on average where 95 % is meant, at worst 87 %, where the
    transition is much sharper than the distance of two rates and the interval is the bracket. Others, on paired seeds:
    the profile likelihood of a logistic 77 to 96 %, with Student's t 80 to 96 %; the bootstrap over whole seeds 48 to
    88 %, as percentiles or BCa.

    Args:
        rate: learning rates > 0 [n], one entry for each network.
        seed: the network's seed [n]. Seeds may have been tried at different rates.
        learned: whether it learned [n].
        probability: P(learns) at the boundary.
        level: how often the interval shall cover.
        paired: equal seeds share their initial weights, data and batch order, so that their outcomes depend on each
            other. False: every network is independent.

    Returns:
        The boundary. Give only the side on which P(learns) falls (`descending`).

    Raises:
        InputError: no networks, a rate that is not positive and finite, arrays of different lengths, or a probability
            or level that is none.
    """
    x, seeds, yes = _networks(rate, seed, learned)
    for name, value in (("probability", probability), ("level", level)):
        require(0 < value < 1, name, value, "a number between 0 and 1")
    data = of_seeds(x, seeds, yes) if paired else of_networks(x, yes)
    index = np.searchsorted(data.at, x)
    learned, trials = np.bincount(index, yes, len(data.at)), np.bincount(index, minlength=len(data.at))
    free = steps(data, learned, trials)
    if len(data.at) > 1:
        near = up_to(data, _far(data, falling(learned / trials, trials), 1 - probability))
        law = posterior(near, probability)
        if not _misfit(law, steps(near, learned, trials)):
            return _of_law(law, free, near.at[-1], probability, level)
    return _of_steps(free, probability, level)


def descending(rate: ArrayLike, learned: ArrayLike) -> np.ndarray:
    """Which networks are on the side where P(learns) falls with the rate.

    Too small a rate does not learn in time, too large a one blows up: P(learns) rises, then falls. The falling side
    starts with the best block of rates of the best unimodal fit.

    Args:
        rate: learning rates > 0 [n], one entry for each network.
        learned: whether it learned [n].

    Returns:
        True [n] where the network belongs to the falling side.

    Raises:
        InputError: as of `fit_boundary`.
    """
    x, _, yes = _networks(rate, np.zeros(np.shape(rate), int), learned)
    at, index = np.unique(x, return_inverse=True)
    trials = np.bincount(index)
    share = np.bincount(index, yes) / trials
    rising = [falling(share[k::-1], trials[k::-1])[::-1] for k in range(len(at))]
    after = [falling(share[k:], trials[k:]) for k in range(1, len(at))]
    fits = [np.r_[up, down] for up, down in zip(rising, [*after, []], strict=True)]
    best = fits[int(np.argmin([np.sum(trials * (share - fit) ** 2) for fit in fits]))]
    return index >= int(np.argmax(best))


class Power(NamedTuple):
    """value = prefactor · size^exponent, with the interval `low` … `high` of the exponent."""

    exponent: float
    low: float
    high: float
    prefactor: float


def fit_power(size: ArrayLike, value: ArrayLike, low: ArrayLike, high: ArrayLike, *, level: float = 0.95) -> Power:
    """The exponent p in value ∝ size^p, from values with intervals.

    A line through the logarithms, weighted by 1/(e² + τ²): e from each interval, τ the scatter beyond (DerSimonian and
    Laird 1986). Its interval is Student's t with two degrees of freedom less than sizes, times the scatter that is seen
    (Hartung and Knapp 2001), so that an error common to all sizes, as of paired seeds, or errors wrong by a common
    factor, do not matter. With two sizes no scatter is seen, and the interval rests on e alone.

    Measured (`benchmarks/coverage.py`, boundaries of 3 to 7 sizes that share 8 or 16 seeds): 94 % on average where 95 %
    is meant; 94 to 99 % with 7 sizes, 86 to 96 % with 4, 83 to 96 % with 3 (400 repeats each).

    Args:
        size: batch sizes [k].
        value: a value for each [k], such as `Boundary.rate`. Those that are not finite are left out.
        low: the lower ends of their intervals at `level` [k].
        high: the upper ends [k]. A value whose interval is open has the largest error of the others.
        level: how often the interval shall cover.

    Returns:
        The exponent with its interval; NaN with fewer than two sizes.

    Raises:
        InputError: arrays of different lengths, or a size that is not positive.
    """
    from scipy.special import ndtri, stdtrit

    sizes, values, lows, highs = (np.asarray(a, float).ravel() for a in (size, value, low, high))
    require(len({a.size for a in (sizes, values, lows, highs)}) == 1, "size", size, "as many sizes as values and ends")
    require(np.all(sizes > 0), "size", size, "positive sizes")
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y, spans = np.log(sizes), np.log(values), np.log(highs) - np.log(lows)
    used = np.isfinite(y)
    x, y, errors = x[used], y[used], spans[used] / (2 * ndtri((1 + level) / 2))
    if len(np.unique(x)) < 2:
        return Power(np.nan, -np.inf, np.inf, np.nan)
    errors = _known(errors)
    weight = 1 / errors**2
    slope, offset, spread, misfit = _line(x, y, weight)
    count = len(x)
    if count > 2:
        leverage = np.stack([np.ones(count), x])
        inverse = np.linalg.inv(leverage * weight @ leverage.T)
        scale = weight.sum() - np.trace(inverse @ (leverage * weight**2 @ leverage.T))
        beyond = max(0.0, (misfit - (count - 2)) / scale)
        slope, offset, spread, misfit = _line(x, y, 1 / (errors**2 + beyond))
        half = stdtrit(count - 2, (1 + level) / 2) * spread * np.sqrt(misfit / (count - 2))
    else:
        half = ndtri((1 + level) / 2) * spread
    return Power(slope, float(slope - half), float(slope + half), float(np.exp(offset)))


def _networks(rate: ArrayLike, seed: ArrayLike, learned: ArrayLike) -> tuple[Array, np.ndarray, np.ndarray]:
    """Logarithms of rates, seeds, and outcomes, checked."""
    rates, seeds, yes = np.asarray(rate, float), np.asarray(seed), np.asarray(learned).astype(bool)
    require(rates.ndim == 1 and rates.size > 0, "rate", rate, "a flat array of at least one network")
    require(rates.shape == seeds.shape == yes.shape, "learned", learned, f"{rates.size} entries, one a network")
    require(np.all(np.isfinite(rates) & (rates > 0)), "rate", rate, "positive numbers")
    at, index = np.unique(np.log(rates), return_inverse=True)
    apart = np.diff(at, prepend=-np.inf) > 1e-9  # rates that differ by rounding are one
    return at[apart][np.cumsum(apart) - 1][index], seeds, yes


def _misfit(law: ThresholdLaw, free: Steps) -> bool:
    """Whether the best falling curve is so much likelier than the law that the law's shape must be wrong."""
    from scipy.special import chdtri

    return bool(2 * (free.likelihood - law.likelihood) > chdtri(max(len(free.at) - 2, 1), MISFIT))


def _far(data: Intervals, share: Array, fail: float) -> int:
    """Number of the last rate that the fit looks at, of falling shares that learn; `fail`: at the boundary."""
    below = np.array([data.weight[data.below <= place].sum() for place in range(1, len(share) + 1)])
    far = (1 - share > FAR * fail) | ((1 - share > NEARER * fail) & (below >= ENOUGH))
    return max(int(np.argmax(far)), 1) if far.any() else len(share) - 1


def _of_law(law: ThresholdLaw, free: Steps, end: float, probability: float, level: float) -> Boundary:
    tails = [(1 - level) / 2, 0.5, (1 + level) / 2]
    rates, at = free.at, law.boundary(probability)
    first, last = rates[0], rates[-1]
    low, middle, high = (float(end) for end in quantiles(at, law.mass, tails))
    if middle > last:
        mass = law.mass * (at <= max(2 * last - rates[-2], at.min()))  # no further out than one more rate
        low = min(float(quantiles(at, mass, tails)[0]), float(last))
    elif middle < first:
        mass = law.mass * (at >= min(2 * first - rates[1], at.max()))
        high = max(float(quantiles(at, mass, tails)[2]), float(first))
    joined = Joined(law, free, max(end, high))
    return _boundary((low, middle, high), rates, "logistic", probability, level, joined)


def _of_steps(free: Steps, probability: float, level: float) -> Boundary:
    rates = np.exp(free.at)
    below, above = free.band(rates, level)
    safe, bad = free.at[below >= probability], free.at[above < probability]
    low, high = safe[-1] if len(safe) else -np.inf, bad[0] if len(bad) else np.inf
    good = np.flatnonzero(free.middle >= probability)
    if len(good) == len(rates):
        middle = np.inf
    elif len(good):
        k = good[-1]
        share = (free.middle[k] - probability) / (free.middle[k] - free.middle[k + 1])
        middle = free.at[k] + share * (free.at[k + 1] - free.at[k])
    else:
        middle = -np.inf
    return _boundary((low, float(middle), high), free.at, "isotonic", probability, level, free)


def _boundary(
    ends: Sequence[float], at: Array, method: str, probability: float, level: float, fitted: Joined | Steps
) -> Boundary:
    """From the logarithms of an interval's lower end, middle and upper end; ends outside the range are open."""
    low, middle, high = ends
    if middle > at[-1]:
        rate, low, high = np.nan, low, np.inf
    elif middle < at[0]:
        rate, low, high = np.nan, -np.inf, high
    else:
        rate = float(np.exp(middle))
        low, high = -np.inf if low < at[0] - 1e-9 else low, np.inf if high > at[-1] + 1e-9 else high
    said = _sentence((low, middle, high), at, probability)
    return Boundary(rate, float(np.exp(low)), float(np.exp(high)), method, said, fitted, level)


def _sentence(ends: Sequence[float], at: Array, probability: float) -> str:
    """What is one-sided or wide about an interval, of which the logarithms are given; or nothing."""
    low, middle, high = ends
    first, last = np.exp(at[0]), np.exp(at[-1])
    share = f"{100 * probability:g} %"
    if middle > at[-1]:
        return f"As fitted, P(learns) stays above {share} up to the largest rate tried, {last:.3g}: try larger ones."
    if middle < at[0]:
        return f"As fitted, P(learns) is below {share} from the smallest rate tried, {first:.3g}, on: try smaller ones."
    if np.isinf(low) and np.isinf(high):
        return f"These seeds cannot tell where in {first:.3g} … {last:.3g} P(learns) falls below {share}."
    if np.isinf(low):
        return f"These seeds cannot exclude that P(learns) is below {share} at the smallest rate tried, {first:.3g}."
    if np.isinf(high):
        return f"These seeds cannot exclude that P(learns) is above {share} at the largest rate tried, {last:.3g}."
    if high - low > np.log(WIDE):
        return f"The interval spans a factor of {np.exp(high - low):.2g}: more seeds would narrow it."
    return ""


def _known(errors: Array) -> Array:
    """Errors, those that are infinite replaced by the largest finite one; all equal where there is none."""
    finite = errors[np.isfinite(errors) & (errors > 0)]
    if not len(finite):
        return np.ones(len(errors))
    return np.where(np.isfinite(errors), np.maximum(errors, finite.min()), finite.max())


def _line(x: Array, y: Array, weight: Array) -> tuple[float, float, float, float]:
    """Slope, offset, the slope's error and the weighted sum of squares of a line."""
    middle = np.average(x, weights=weight)
    square = np.sum(weight * (x - middle) ** 2)
    slope = np.sum(weight * (x - middle) * y) / square
    offset = np.average(y, weights=weight) - slope * middle
    misfit = np.sum(weight * (y - offset - slope * x) ** 2)
    return float(slope), float(offset), float(1 / np.sqrt(square)), float(misfit)
