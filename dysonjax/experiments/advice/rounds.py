"""Which networks an advice trains next: a function of its settings and of what is stored, and of nothing else.

The first round is a coarse grid: every learning rate on every line with a few seeds. Each further round adds, on every
line that is not decided, learning rates about the boundary of learning and the rates whose loss is best, half as many
of these as the round before, all with the same new seeds, twice as many as the round before. A line is decided when
the interval of its largest safe rate is narrow enough. The last round trains the recommended rates with seeds that
have chosen nothing.
"""

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dysonjax.experiments.advice.tried import FRESH_SEEDS, Line, Tried, lines_of
from dysonjax.experiments.learning.boundaries import SAFE, Boundary, descending, fit_boundary

if TYPE_CHECKING:
    import xarray as xr

FIRST_SEEDS, LEAST_SEEDS = 4, 2
ABOUT_BOUNDARY = 6
"""Learning rates of a round about a boundary."""
CANDIDATES = 4
"""Learning rates that compete for the best loss in the second round; half as many in each that follows."""
FRESH, LEAST_FRESH = 32, 8
"""Networks at a recommended rate in the last round."""
HIGHEST = 1000.0
"""No learning rate above is tried."""


class Network(NamedTuple):
    """One that is to be trained: the number of its line, its learning rate and its seed."""

    line: int
    rate: float
    seed: int


class Plan(NamedTuple):
    """What a round needs to know: the lines, the price of a network of each, what it may cost, and how to stop."""

    lines: Sequence[Line]
    prices: Sequence[float]
    """Of one network of each line, in networks of the cheapest."""
    precision: float
    """The interval of the largest safe rate is narrow enough when its ends differ by less than this factor."""
    rounds: int
    """At most, the last one apart."""
    stretch: bool
    """Whether rates above those of the first round may be tried."""
    together: int = 1
    """Networks of one batch size that are computed side by side: fewer cost as much."""

    def cost(self, networks: Sequence[Network]) -> float:
        """In networks of the cheapest line."""
        prices: dict[int, list[float]] = {}
        for one in networks:
            prices.setdefault(self.lines[one.line].batch_size, []).append(self.prices[one.line])
        return sum(sum(own) * self._paid(len(own)) / len(own) for own in prices.values())

    def _paid(self, count: int) -> int:
        return -(-count // self.together) * self.together

    def networks(self, asked: Mapping[int, Sequence[float]], seeds: int, begin: int = 0) -> list[Network]:
        """The rates asked for on each line with `seeds` seeds from `begin` on, or more where these cost nothing."""
        counts = Counter[int]()
        for line, rates in asked.items():
            counts[self.lines[line].batch_size] += len(rates)
        many = min((self._paid(count * seeds) // count for count in counts.values()), default=0)
        return [Network(i, float(r), begin + s) for i, rates in asked.items() for r in rates for s in range(many)]


def networks_of(ds: "xr.Dataset", lines: Sequence[Line]) -> list[Network]:
    """The networks that a stored round has trained."""
    parts = lines_of(ds, lines).tolist(), ds.learning_rate.values.tolist(), ds.seed.values.tolist()
    return [Network(*one) for one in zip(*parts, strict=True)]


def first_round(plan: Plan, rates: Sequence[float], budget: float) -> list[Network]:
    """The coarse grid with as many seeds as three fifths of the budget allow; empty if it allows too few."""
    for seeds in range(FIRST_SEEDS, LEAST_SEEDS - 1, -1):
        found = plan.networks(dict.fromkeys(range(len(plan.lines)), rates), seeds)
        if plan.cost(found) <= 0.6 * budget:
            return found
    return []


def next_round(plan: Plan, tried: Tried, number: int, left: float) -> list[Network]:
    """Round `number` (2 …), within what is left; empty where nothing is undecided or little is left.

    Where it would be too much for all lines, those that cost most are left out.
    """
    if number > plan.rounds or not tried.learned.any():
        return []
    begin = 1 + int(tried.seed.max())
    asked = {i: rates for i in range(len(plan.lines)) if (rates := _asked(plan, tried, i, number).tolist())}
    left -= plan.cost([Network(i, 0.0, s) for i in range(len(plan.lines)) for s in range(LEAST_FRESH)])
    while asked:
        seeds = FIRST_SEEDS * 2 ** (number - 1)
        while seeds >= FIRST_SEEDS:
            found = plan.networks(asked, seeds, begin)
            if plan.cost(found) <= left:
                return found
            seeds //= 2
        del asked[max(asked, key=lambda line: plan.prices[line])]
    return []


def last_round(plan: Plan, tried: Tried, left: float) -> list[Network]:
    """The recommended rate of every line that has one, with fresh seeds."""
    chosen = {i: [rate] for i in range(len(plan.lines)) if (rate := recommended(tried, i)) is not None}
    for seeds in range(FRESH, LEAST_FRESH - 1, -8):
        found = plan.networks(chosen, seeds, FRESH_SEEDS)
        if plan.cost(found) <= left:
            return found
    return []


def boundary(tried: Tried, line: int, probability: float = SAFE) -> Boundary:
    """The largest rate of a line at which so large a share learns, with its interval, from all networks on it."""
    own = tried.where((tried.line == line) & ~tried.fresh)
    side = own.where(descending(own.rate, own.learned))
    return _fitted(side.rate.tobytes(), side.seed.tobytes(), side.learned.tobytes(), probability)


@functools.lru_cache(maxsize=512)
def _fitted(rate: bytes, seed: bytes, learned: bytes, probability: float) -> Boundary:
    """Every round asks for the fits of those before."""
    return fit_boundary(
        np.frombuffer(rate), np.frombuffer(seed, np.int64), np.frombuffer(learned, bool), probability=probability
    )


def recommended(tried: Tried, line: int) -> float | None:
    """The rate of best mean loss among those below the lower end of the safe rate's interval; None where none is.

    Of rates that were tried on at least half as many networks as the one tried most. Networks with fresh seeds, which
    shall judge the choice, have no voice.
    """
    own = tried.where((tried.line == line) & ~tried.fresh)
    rates = candidates(own, boundary(tried, line).low)
    if not len(rates):
        return None
    counts = np.array([(own.rate == rate).sum() for rate in rates])
    known = rates[2 * counts >= counts.max()]
    return float(min(known, key=lambda rate: own.end[own.rate == rate].mean()))


def _asked(plan: Plan, tried: Tried, line: int, number: int) -> NDArray[np.float64]:
    """Learning rates of a line that are to be tried next, none where it is decided."""
    own = tried.where(tried.line == line)
    if not own.learned.any():
        return np.zeros(0)
    edge = boundary(tried, line)
    best = _best(own, edge, number)
    if math.isinf(edge.high) and plan.stretch and own.rate.max() < HIGHEST / 2:
        above = own.rate.max() * np.geomspace(10**0.5, 100, 4)
        return np.unique(np.concatenate([np.minimum(above, HIGHEST), best]))
    if number > 2 and edge.low > 0 and edge.high <= plan.precision * edge.low:
        return best if number == 3 else np.zeros(0)
    return np.unique(np.concatenate([_about(own, edge), best]))


def _about(own: Tried, edge: Boundary) -> NDArray[np.float64]:
    """Rates about a boundary: across its interval and on, as far as some networks but not all learn."""
    rates, share = own.rates(), own.shares()
    peak = rates[np.argmax(share)]
    mixed = rates[(share < 1) & (share > 0) & (rates >= peak)]
    low = edge.low if edge.low > 0 else peak
    ends = [low, min(edge.high, rates.max()), *mixed[:1], *mixed[-1:]]
    low, high = max(min(ends), peak), max(ends)
    if np.isfinite(edge.rate):  # a broad fall matters near its beginning
        high = min(high, max(edge.high, 4 * edge.rate))
    if high <= 1.05 * low:
        low, high = low / 1.2, high * 1.2
    inner = np.geomspace(low, high, ABOUT_BOUNDARY + 2)[1:-1]
    return np.array([float(f"{rate:.3g}") for rate in inner])


def _best(own: Tried, edge: Boundary, number: int) -> NDArray[np.float64]:
    """The rates of the lowest mean loss so far, and in the second round others between them."""
    rates = candidates(own, edge.high)
    if not len(rates):
        return rates
    mean = np.array([own.end[own.rate == rate].mean() for rate in rates])
    count = max(CANDIDATES // 2 ** (number - 2), 2)
    kept = rates[np.argsort(mean, kind="stable")[:count]]
    if number > 3:
        return kept
    step = 10 ** (0.25 / (number - 1))
    beside = np.array([float(f"{kept[0] * f:.3g}") for f in (1 / step, step)])
    return np.unique(np.concatenate([kept[: count - 1], beside[beside <= rates.max()]]))


def candidates(own: Tried, below: float) -> NDArray[np.float64]:
    """Rates up to `below` at which every network but one in twenty has learned."""
    rates = own.rates()
    return rates[(rates <= below) & (own.shares() >= SAFE)]
