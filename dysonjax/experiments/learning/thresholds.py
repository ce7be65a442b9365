"""The falling probability of learning as the law of a threshold: P(learns at a rate) = P(threshold > rate).

Where seeds are paired, a seed has one threshold, and its outcomes say between which rates that lies. Where networks are
independent, each has its own, above its rate if it learned. Both are thresholds known to lie in an interval, and one
likelihood serves them. `ThresholdLaw` is its posterior law over nine shapes, `Steps` a fit without a shape.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NARROWEST = 0.005
"""Narrowest transition considered: its scale, in units of the smallest distance of two rates (in logarithms)."""
SCATTERED, WIDER = 0.1, (4.0, 8.0)
"""In six of the shapes this share of thresholds scatters so many times wider than the others."""
POSITIONS, SCALES = 80, 24
"""Points of the grid over positions and scales."""
DROP = 12.0
"""Log-likelihoods this far below the best do not count."""


class Intervals(NamedTuple):
    """Where thresholds lie: `weight` [i] of them between places `above` [i] and `below` [i].

    A place is 0 for −∞, k for the logarithm of a rate `at` [k − 1], and one more than there are rates for ∞.
    """

    at: Array
    above: np.ndarray
    below: np.ndarray
    weight: Array


def falling(values: Array, weight: Array | None = None) -> Array:
    """The non-increasing curve [n] nearest to values [n] by weighted least squares."""
    from scipy.optimize import isotonic_regression

    return isotonic_regression(values, weights=weight, increasing=False).x


def of_networks(log_rate: Array, learned: np.ndarray) -> Intervals:
    """Intervals of independent networks: the threshold is above the rate if the network learned, else below."""
    at, index = np.unique(log_rate, return_inverse=True)
    yes = np.bincount(index, learned, len(at))
    no = np.bincount(index, ~learned, len(at))
    k, end = np.arange(1, len(at) + 1), np.full(len(at), len(at) + 1)
    above, below, weight = np.r_[k, 0 * k], np.r_[end, k], np.r_[yes, no]
    return Intervals(at, above[weight > 0], below[weight > 0], weight[weight > 0])


def of_seeds(log_rate: Array, seed: np.ndarray, learned: np.ndarray) -> Intervals:
    """Intervals of paired seeds, each of weight 1.

    A seed whose outcomes fall once has one interval. Near the boundary outcomes of a seed may rise again: then the
    share of seeds that learned is what falls, so seeds tried at the same rates are taken together. The falling curve
    nearest to their share has the intervals where it falls, weighted by how many of the seeds it loses there.
    """
    at, index = np.unique(log_rate, return_inverse=True)
    seeds, which = np.unique(seed, return_inverse=True)
    trials, yes = np.zeros((2, len(seeds), len(at)))
    np.add.at(trials, (which, index), 1)
    np.add.at(yes, (which, index), learned)
    weight = np.zeros((len(at) + 2, len(at) + 2))
    patterns, group = np.unique(trials > 0, axis=0, return_inverse=True)
    for k, tried in enumerate(patterns):
        together, places = np.ix_(group.ravel() == k, tried)
        share = np.mean(yes[together, places] / trials[together, places], 0)
        ends = [0, *(places.ravel() + 1), len(at) + 1]
        np.add.at(weight, (ends[:-1], ends[1:]), -len(together) * np.diff(falling(share), prepend=1.0, append=0.0))
    above, below = np.nonzero(weight > 1e-9)
    return Intervals(at, above, below, weight[above, below])


def up_to(data: Intervals, last: int) -> Intervals:
    """What is known from the rates up to number `last` (0 …): thresholds above it are above, and no more."""
    end = last + 2
    above, below = np.minimum(data.above, last + 1), np.where(data.below > last + 1, end, data.below)
    return Intervals(data.at[: last + 1], above, below, data.weight)


def _logistic(z: Array) -> Array:
    from scipy.special import expit

    return expit(-z)


def _early(z: Array) -> Array:
    return np.exp(-np.exp(np.minimum(z, 50)))


def _late(z: Array) -> Array:
    return -np.expm1(-np.exp(np.minimum(-z, 50)))


Shape = tuple[Callable[[Array], Array], Callable[[float], float]]
"""P(threshold > z) and −z where that is p."""
PURE: tuple[Shape, ...] = (
    (_logistic, lambda p: float(np.log(p / (1 - p)))),
    (_early, lambda p: float(-np.log(-np.log(p)))),
    (_late, lambda p: float(np.log(-np.log1p(-p)))),
)
"""Logistic, and Gumbel with its long tail to low or to high rates."""


def _scattered(shape: Shape, wider: float) -> Shape:
    survival = lambda z: (1 - SCATTERED) * shape[0](z) + SCATTERED * shape[0](z / wider)  # noqa: E731

    def back(p: float) -> float:
        from scipy.optimize import root_scalar

        ends = shape[1](p), wider * shape[1](p)
        bracket = (min(ends) - 1e-9, max(ends) + 1e-9)
        return float(root_scalar(lambda x: float(survival(np.asarray(-x))) - p, bracket=bracket).root)

    return survival, back


SHAPES: tuple[Shape, ...] = (*PURE, *(_scattered(shape, wider) for wider in WIDER for shape in PURE))
"""A pure shape knows one scale, and where the fall is steep its likelihood, not the few early failures, says where 95 %
learn. Digits and a network 64-32-10 have a shoulder before a steep fall: with pure shapes alone intervals of the safe
rate held the truth in 72 to 82 % of simulated advices, with all nine in 95 and 97 % (resampled outcomes of 256 seeds).
"""


class ThresholdLaw(NamedTuple):
    """A posterior law: position [n] and scale [n] in log-rate, shape [n] (index into `SHAPES`), and probability [n]."""

    position: Array
    scale: Array
    shape: np.ndarray
    mass: Array
    likelihood: float
    """The largest log-likelihood."""

    def boundary(self, probability: float) -> Array:
        """Logarithm [n] of the rate at which P(learns) falls through `probability`."""
        return self.position - np.array([back(probability) for _, back in SHAPES])[self.shape] * self.scale

    def curve(self, rates: Array) -> Array:
        """The median P(learns) at each rate."""
        return self._quantiles(rates, [0.5])[0]

    def band(self, rates: Array, level: float) -> tuple[Array, Array]:
        """The limits of P(learns) at each rate that leave out (1 − level)/2 on either side."""
        low, high = self._quantiles(rates, [(1 - level) / 2, (1 + level) / 2])
        return low, high

    def _quantiles(self, rates: Array, levels: Sequence[float]) -> Array:
        with np.errstate(divide="ignore"):  # at rate 0 all learn
            z = (np.log(rates)[:, None] - self.position) / self.scale
        p = np.empty_like(z)
        for k, (survival, _) in enumerate(SHAPES):
            p[:, self.shape == k] = survival(z[:, self.shape == k])
        return np.reshape([quantiles(row, self.mass, levels) for row in p], (len(z), len(levels))).T


def quantiles(values: Array, mass: Array, levels: Sequence[float]) -> Array:
    """Quantiles of a law with `mass` [n] at `values` [n]."""
    order = np.argsort(values)
    total = np.cumsum(mass[order])
    return np.interp(levels, (total - mass[order] / 2) / total[-1], values[order])


def posterior(data: Intervals, probability: float) -> ThresholdLaw:
    """The posterior law of the thresholds, with a flat prior of the boundary and of the logarithm of the scale.

    This prior makes intervals of a location and scale cover exactly where thresholds are seen themselves, however few
    they are (the right Haar prior; Fraser 1968). The shapes are equally likely before. The scale lies between
    `NARROWEST` of the smallest distance of two rates and half the range, or half a decade per e-fold if that is more.
    """
    parts = [surface(data, probability, k) for k in range(len(SHAPES))]
    best = max(float(log.max()) for *_, log in parts)
    position, scale, shape, mass = [], [], [], []
    for k, (m, s, cell, log) in enumerate(parts):
        kept = log > best - DROP
        position.append(m[kept])
        scale.append(s[kept])
        shape.append(np.full(kept.sum(), k))
        mass.append(np.exp(log[kept] - best) * cell)
    masses = np.concatenate(mass)
    position, scale, shape = (np.concatenate(parts) for parts in (position, scale, shape))
    return ThresholdLaw(position, scale, shape, masses / masses.sum(), best)


def surface(data: Intervals, probability: float, shape: int) -> tuple[Array, Array, float, Array]:
    """Positions, scales and log-likelihoods [boundaries, scales] where they count, and the area of a cell.

    The grid is uniform in the boundary and the logarithm of the scale. Two coarse ones find where it has to be.
    """
    span = data.at[-1] - data.at[0]
    offset = SHAPES[shape][1](probability)
    within = np.linspace(data.at[:-1], data.at[1:], 4, endpoint=False)[1:]  # whence alone a sharp transition is seen
    q = np.union1d(np.linspace(data.at[0] - span, data.at[-1] + span, POSITIONS // 2), within)
    widest = max(span, np.log(10)) / 2
    narrowest = NARROWEST * max(np.diff(data.at).min(), span / 1000)
    t = np.linspace(np.log(narrowest), np.log(widest), 2 + int(np.log(widest / narrowest) / 0.5))
    for parts in (2, 1):
        log = _log_likelihood(data, q[:, None] + offset * np.exp(t), np.exp(t), shape)
        kept = log > log.max() - DROP
        q, t = _closer(q, kept.any(1), POSITIONS // parts), _closer(t, kept.any(0), SCALES // parts)
    m, s = np.broadcast_arrays(q[:, None] + offset * np.exp(t), np.exp(t))
    return m, s, (q[1] - q[0]) * (t[1] - t[0]), _log_likelihood(data, m, s, shape)


def _closer(x: Array, counts: np.ndarray, points: int) -> Array:
    """So many points over those that count and the two next to them on either side."""
    inside = np.flatnonzero(counts)
    return np.linspace(x[max(inside[0] - 2, 0)], x[min(inside[-1] + 2, len(x) - 1)], points)


def _log_likelihood(data: Intervals, position: Array, scale: Array, shape: int) -> Array:
    survival = np.ones((len(data.at) + 2, *position.shape))
    survival[1:-1] = SHAPES[shape][0]((data.at[:, None, None] - position) / scale)
    survival[-1] = 0
    inside = survival[data.above] - survival[data.below]
    return np.tensordot(data.weight, np.log(np.maximum(inside, 1e-300)), 1)


class Steps(NamedTuple):
    """A falling curve without a shape: P(learns) [rate] at the logarithms `at` [rate] of the rates tried.

    Its limits are those of each rate's own networks, of which `learned` [rate] in `trials` [rate] learned.
    """

    at: Array
    middle: Array
    learned: Array
    trials: Array
    likelihood: float

    def curve(self, rates: Array) -> Array:
        """The fitted P(learns) at each rate, interpolated in log-rate."""
        with np.errstate(divide="ignore"):
            return np.interp(np.log(rates), self.at, self.middle)

    def band(self, rates: Array, level: float) -> tuple[Array, Array]:
        """Limits of P(learns): steps, because P falls. The lower one is the next rate's, the upper one that before."""
        from scipy.special import betaincinv

        yes, no = self.learned, self.trials - self.learned
        with np.errstate(invalid="ignore", divide="ignore"):  # 0 of n and n of n, whose limits stand in the next lines
            x = np.log(rates)
            below, above = betaincinv(yes, no + 1, (1 - level) / 2), betaincinv(yes + 1, no, (1 + level) / 2)
        below = np.maximum.accumulate(np.where(yes == 0, 0, below)[::-1])[::-1]
        above = np.minimum.accumulate(np.where(no == 0, 1, above))
        after, before = np.searchsorted(self.at, x - 1e-12), np.searchsorted(self.at, x + 1e-12)
        return np.r_[below, 0.0][after], np.r_[1.0, above][before]


def steps(data: Intervals, learned: Array, trials: Array, rounds: int = 400) -> Steps:
    """The maximum of the likelihood among all falling curves (Turnbull 1976)."""
    bins = np.arange(len(data.at) + 1)
    covers = ((bins >= data.above[:, None]) & (bins < data.below[:, None])).astype(float)
    mass = np.full(len(bins), 1 / len(bins))
    share = data.weight / data.weight.sum()
    for _ in range(rounds):
        before = mass
        mass = mass * ((share / (covers @ mass)) @ covers)
        if np.abs(mass - before).max() < 1e-5:
            break
    middle = np.clip(1 - np.cumsum(mass)[:-1], 0, 1)
    best = float(data.weight @ np.log(np.maximum(covers @ mass, 1e-300)))
    return Steps(data.at, middle, learned, trials, best)


class Joined(NamedTuple):
    """A law up to the largest rate that it was fitted to, of logarithm `end`, and beyond it a curve without a shape."""

    near: ThresholdLaw
    beyond: Steps
    end: float

    def curve(self, rates: Array) -> Array:
        """The fitted P(learns) at each rate."""
        return self._both(rates, lambda fit, x: fit.curve(x))

    def band(self, rates: Array, level: float) -> tuple[Array, Array]:
        """Limits of P(learns) at each rate."""
        low, high = self._both(rates, lambda fit, x: np.stack(fit.band(x, level)))
        return low, high

    def _both(self, rates: Array, of: Callable[[ThresholdLaw | Steps, Array], Array]) -> Array:
        """No jump upwards where they meet."""
        last = np.exp(self.end)
        near, beyond = of(self.near, np.minimum(rates, last)), of(self.beyond, rates)
        return np.where(rates <= last, near, np.minimum(beyond, of(self.near, np.array([last]))))
