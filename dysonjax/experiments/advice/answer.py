"""What the networks of an advice say: the safe and the recommended learning rate of each line, and why."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dysonjax.engine.jobs import Results
from dysonjax.experiments.advice.rounds import boundary, candidates, networks_of, recommended
from dysonjax.experiments.advice.tried import Line, Tried, networks_at
from dysonjax.experiments.learning.boundaries import Boundary, Power, fit_power, wilson
from dysonjax.experiments.learning.phases import PHASES, larger_is_better, level_variables

if TYPE_CHECKING:
    import xarray as xr

    from dysonjax.experiments.advice.experiment import Advice


class Fresh(NamedTuple):
    """Networks at the recommended rate whose seeds have not chosen it; those that diverged have no metric."""

    networks: int
    learned: int
    low: float
    high: float
    """Wilson's interval of the probability of learning."""
    mean: float
    error: float
    spread: tuple[float, float]
    """16 and 84 % of the networks are below."""
    noise_scale: float
    """Batch size at which the noise of a gradient is as large as the gradient."""


class Beside(NamedTuple):
    """What most networks do at the nearest learning rate at which less than half of them learn."""

    rate: float
    phase: str
    share: float
    matrix: str
    """Whose largest level grew most; "" where none did."""
    growth: float


class OfLine(NamedTuple):
    """The answer for one line."""

    line: Line
    safe: Boundary
    half: Boundary
    """Where half of the networks learn."""
    recommended: float | None
    best: tuple[float, float]
    """Rates between which the mean loss cannot be told from the best one (t-test at 5 %)."""
    fresh: Fresh | None
    above: Beside | None
    below: Beside | None


class Across(NamedTuple):
    """Of all batch sizes with the same further numbers: exponents of α ∝ |B|^p, and the critical batch size."""

    more: tuple[tuple[str, float], ...]
    safe: Power | None
    best: Power | None
    critical: tuple[float, float, float] | None
    """|B|_c of α_best ∝ 1/(1 + |B|_c/|B|) with its interval (arXiv:1812.06162)."""


class Answer(NamedTuple):
    """All of it."""

    settings: "Advice"
    tried: Tried
    lines: Sequence[OfLine]
    across: Sequence[Across]
    datasets: "Mapping[str, xr.Dataset]"
    spent: float
    """In networks of the cheapest line, of `settings.networks`."""

    @property
    def larger_is_better(self) -> bool:
        """Whether the metric is one whose larger values are better."""
        return larger_is_better(self.tried.metric)


def answer(settings: "Advice", results: Results) -> Answer:
    """The answer of finished rounds."""
    tried = settings.tried(results)
    lines = [_of_line(results, tried, number, line) for number, line in enumerate(settings.lines)]
    groups: dict[tuple[tuple[str, float], ...], list[OfLine]] = {}
    for one in lines:
        groups.setdefault(one.line.more, []).append(one)
    across = [_across(more, own) for more, own in groups.items() if len(own) > 1]
    spent = sum(settings.plan.cost(networks_of(ds, settings.lines)) for ds in results.values())
    return Answer(settings, tried, lines, across, dict(results), spent)


def _of_line(results: Mapping[str, "xr.Dataset"], tried: Tried, number: int, line: Line) -> OfLine:
    safe, rate = boundary(tried, number), recommended(tried, number)
    own = tried.where(tried.line == number)
    return OfLine(
        line, safe, boundary(tried, number, 0.5), rate, _best(own.where(~own.fresh), safe, rate), _fresh(own),
        _beside(results, own, line, True), _beside(results, own, line, False),
    )  # fmt: skip


def _best(own: Tried, safe: Boundary, rate: float | None) -> tuple[float, float]:
    """Rates around the recommended one whose mean loss is not worse, by Welch's test at 5 %."""
    from scipy import stats

    if rate is None:
        return (math.nan, math.nan)
    rates, kept = candidates(own, safe.low), [rate]
    least = own.end[own.rate == rate]
    for other in rates:
        ends = own.end[own.rate == other]
        several = other != rate and min(len(ends), len(least)) > 1 and np.isfinite(ends).all()
        test: Any = stats.ttest_ind(ends, least, equal_var=False) if several else None
        if several and test.pvalue > 0.05:
            kept.append(float(other))
    return (min(kept), max(kept))


def _fresh(own: Tried) -> Fresh | None:
    new = own.where(own.fresh)
    if not len(new.end):
        return None
    good = new.where(np.isfinite(new.end))
    low, high = wilson(int(new.learned.sum()), len(new.end))
    ends = good.end if len(good.end) else np.array([math.nan])
    error = float(ends.std(ddof=1) / math.sqrt(len(ends))) if len(ends) > 1 else math.nan
    first, last = np.quantile(ends, [0.16, 0.84])
    square = float(good.square.mean()) if len(good.end) else math.nan
    scale = float(good.variance.mean()) / square if square > 0 else math.nan
    return Fresh(
        len(new.end), int(new.learned.sum()), float(low), float(high), float(ends.mean()), error,
        (float(first), float(last)), scale,
    )  # fmt: skip


def _beside(results: Mapping[str, "xr.Dataset"], own: Tried, line: Line, above: bool) -> Beside | None:
    """Above or below the rates that learn."""
    rates, share = own.rates(), own.shares()
    if not (share >= 0.5).any():
        return None
    good, bad = rates[share >= 0.5], share < 0.5
    bad &= rates > good.max() if above else rates < good.min()
    if not bad.any():
        return None
    rate = float(rates[bad].min() if above else rates[bad].max())
    phases = own.phase[own.rate == rate]
    counts = np.bincount(phases[phases > 0], minlength=len(PHASES))
    matrix, growth = _grown_most(results, rate, line)
    return Beside(rate, PHASES[int(counts.argmax())], float(counts.max() / len(phases)), matrix, growth)


def _grown_most(results: Mapping[str, "xr.Dataset"], rate: float, line: Line) -> tuple[str, float]:
    """The matrix whose largest level grew most at a point, as a factor, the median over networks."""
    found = {"": 1.0}
    for ds in results.values():
        chosen = networks_at(ds, learning_rate=rate, **line.values)
        for name in level_variables(ds) if chosen.any() else ():
            levels = ds[name].isel(point=np.flatnonzero(chosen))
            largest = levels.max([str(d) for d in levels.dims if str(d).startswith("level")])
            largest = largest.transpose("point", "snapshot").values
            with np.errstate(divide="ignore", invalid="ignore"):
                grown = np.nanmedian(_last_finite(largest) / largest[:, 0])
            found[name.removeprefix("levels_")] = max(found.get(name.removeprefix("levels_"), 0.0), float(grown))
    matrix = max(found, key=lambda name: found[name])
    return matrix, found[matrix]


def _last_finite(values: NDArray[Any]) -> NDArray[np.float64]:
    """The last finite value of each row [n, m]; NaN where there is none."""
    finite = np.isfinite(values)
    last = values.shape[1] - 1 - finite[:, ::-1].argmax(axis=1)
    return np.where(finite.any(axis=1), values[np.arange(len(values)), last], np.nan)


def _across(more: tuple[tuple[str, float], ...], lines: Sequence[OfLine]) -> Across:
    """How rates grow with the batch size."""
    known = [one for one in lines if one.safe.low > 0 and math.isfinite(one.safe.high) and math.isfinite(one.safe.rate)]
    sizes = [one.line.batch_size for one in known]
    ends = [(one.safe.rate, one.safe.low, one.safe.high) for one in known]
    safe = fit_power(sizes, *zip(*ends, strict=True)) if len(known) > 1 else None
    chosen = [one for one in lines if one.recommended is not None]
    ranges = [(float(one.recommended or 0), *_resolved(one)) for one in chosen]
    sizes = [one.line.batch_size for one in chosen]
    best = fit_power(sizes, *zip(*ranges, strict=True)) if len(chosen) > 1 else None
    return Across(more, safe, best, _critical(np.array(sizes, float), ranges) if len(chosen) > 2 else None)


def _resolved(one: OfLine) -> tuple[float, float]:
    """The interval of the best rate, at least as wide as the rates that were tried are apart."""
    rate, step = float(one.recommended or 0), 10**0.125
    return min(one.best[0], rate / step), max(one.best[1], rate * step)


def _critical(
    sizes: NDArray[np.float64], ranges: Sequence[tuple[float, float, float]]
) -> tuple[float, float, float] | None:
    """|B|_c of α_best ∝ 1/(1 + |B|_c/|B|) by least squares, with the range where χ² is within 3.84 of the least."""
    rate, low, high = np.log(np.array(ranges)).T
    weight = (3.92 / (high - low)) ** 2
    grid = np.geomspace(sizes.min() / 100, sizes.max() * 100, 2001)
    away = rate + np.log1p(grid[:, None] / sizes)
    away -= (away * weight).sum(axis=1, keepdims=True) / weight.sum()
    misfit = (away**2 * weight).sum(axis=1)
    kept = grid[misfit <= misfit.min() + 3.84]
    ends = (kept.min() if kept.min() > grid[0] else 0.0, kept.max() if kept.max() < grid[-1] else math.inf)
    return float(grid[misfit.argmin()]), float(ends[0]), float(ends[1])


def undecided(answer: Answer) -> list[tuple[OfLine, float]]:
    """Lines whose safe rate is known less well than asked for, and how many times the budget would decide it."""
    found = []
    wanted = math.log(answer.settings.precision)
    for one in answer.lines:
        if one.safe.low > 0 and math.isfinite(one.safe.high):
            times = (math.log(one.safe.high / one.safe.low) / wanted) ** 2
            if times > 1:
                found.append((one, times))
    return found
