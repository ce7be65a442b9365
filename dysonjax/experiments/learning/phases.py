"""What became of each replica of a training scan: it learns, is slow, frozen, blown up, diverged or stuck.

The definitions, in the order in which they are asked. "The way" leads from the metric at the start to the best one.

- diverged: its parameters or its loss became non-finite (`diverged_step` ≥ 0);
- learns: the metric at the end reaches the target;
- blown up: the largest level of a watched matrix ends above `blown_up` times the larger of its own at the start and the
  median at the end of the replicas that learn (where none learns, the median at the start);
- frozen: the metric ended where it started, up to `still` of the way or `sigmas` of its noise (without watched matrices
  only as long as this is less than the way behind the target), and so did the largest levels, up to `still` of each;
- slow: a line through the last snapshots, in ln(update), improves by more than `sigmas` of its standard errors and by
  more than `improving` of the way;
- stuck: the others. They have moved, improve no longer and are short of the target: a plateau, or noise.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dysonjax.core.errors import require

if TYPE_CHECKING:
    import xarray as xr

PHASES = ("learns", "slow", "frozen", "blown up", "diverged", "stuck")
"""Names of the phases; an index into them is a replica's phase, −1 of one that was not computed."""
LEARNS, SLOW, FROZEN, BLOWN_UP, DIVERGED, STUCK = range(len(PHASES))
CLEAR = 0.25
"""A loss that falls by this share of its start has fallen, however few snapshots there are and however they curve."""
LAST_SNAPSHOTS = 6
"""Snapshots at the end, at most, whose scatter is a replica's noise and whose slope says whether it improves."""


@dataclass(frozen=True)
class Thresholds:
    """What divides the phases, relative to the run's own scale; see this module.

    Raises `InputError` for numbers out of range.
    """

    target: float | None = None
    """the metric that a replica must reach, in its own units; None: `share` of the way"""
    share: float = 0.8
    """share of the way from the metric at the start to the best one, between 0 and 1"""
    least: float = 0.05
    """the way, and what the networks of the best point won in the median, must be at least this share of the metric at
    the start, else nothing is said to learn"""
    surely: float = 4.0
    """what they won must be so many times the scatter of their last snapshots, too, unless a loss fell by `CLEAR`"""
    blown_up: float = 10.0
    """factor of levels"""
    still: float = 0.05
    """what moves less is frozen: a share of the way, and of the largest level"""
    improving: float = 0.01
    """share of the way that a slow replica improves by over the last snapshots, at least"""
    sigmas: float = 2.0
    """standard errors"""

    def __post_init__(self):
        finite = self.target is None or np.isfinite(self.target)
        require(finite, "target", self.target, "a finite number, or None")
        require(0 < self.share < 1, "share", self.share, "a number between 0 and 1")
        require(1 < self.blown_up < np.inf, "blown_up", self.blown_up, "a factor above 1")
        for name in ("least", "surely", "still", "improving", "sigmas"):
            require(0 <= getattr(self, name) < np.inf, name, getattr(self, name), "a number of at least 0")


def larger_is_better(metric: str) -> bool:
    """Whether a larger metric is the better one: its name holds "accuracy"."""
    return "accuracy" in metric


def default_metric(ds: xr.Dataset) -> str:
    """`test_loss` where it is recorded, else `train_loss`; raises `InputError`."""
    for name in ("test_loss", "train_loss"):
        if name in ds:
            return name
    require(False, "metric", None, f"the name of a recorded value, {', '.join(map(str, ds.data_vars))}")
    raise AssertionError


def outcomes(
    ds: xr.Dataset,
    metric: str | None = None,
    thresholds: Thresholds = Thresholds(),
    best: float | None = None,
    initial: float | None = None,
) -> xr.Dataset:
    """What became of each replica, without any mean over seeds.

    The metric at the start is the smallest median over replicas of one initial width (of several widths, the
    strictest); the best one is that of the point whose median over seeds at the end is best.

    Args:
        ds: a scan of `train` or `sgd`, over a grid or points.
        metric: a recorded value [replicas, snapshot], by default `default_metric`; see `larger_is_better`.
        thresholds: what divides the phases.
        best: the best metric, by default that of `ds`; give it, and `initial`, to keep the target of an earlier round.
        initial: the metric at the start, by default that of `ds`.

    Returns:
        With the dimensions of the replicas: `learned` (bool), `phase` (an index into `PHASES`; −1: not computed), `end`
        (the metric at the end, NaN of those that diverged), `growth` (of the level that grew most, over the larger of
        its start and the learning replicas' median; NaN where nothing is watched). Without dimensions: `target`
        (NaN: nothing learns), `best`, `initial`. `attrs["metric"]` is the metric's name.

    Raises:
        InputError: there is no such metric.
    """
    import xarray as xr  # help of a command needs the thresholds alone

    name = default_metric(ds) if metric is None else metric
    dims = [str(d) for d in ds.diverged_step.dims]
    right = name in ds and {*ds[name].dims} == {*dims, "snapshot"}
    require(right, "metric", name, f"one of {', '.join(_metrics(ds, dims))}")
    shape = ds.diverged_step.shape
    sign = -1.0 if larger_is_better(name) else 1.0
    stop = np.asarray(ds.diverged_step.values).ravel()
    values = sign * np.asarray(ds[name].transpose(*dims, "snapshot").values, float).reshape(stop.size, -1)
    alive = stop == -1
    widths = _column(ds, "init_width", dims)
    start = _of_groups(widths, values[:, 0], stop != -2)
    with np.errstate(invalid="ignore"):
        begun = 1.48 * _of_groups(widths, np.abs(values[:, 0] - start), stop != -2)
    end = np.where(alive, values[:, -1], np.nan)
    first = _least(start) if initial is None else sign * initial
    gain, error, noise = _late_gain(np.asarray(ds.step.values, float), values)
    points = _points(ds, dims)
    reached = _of_groups(points, np.where(np.isnan(end), np.inf, end), stop != -2)
    last = _least(reached) if best is None else sign * best
    won = first - last
    if best is None and np.isfinite(last):  # what those of the best point won themselves, and not by a lucky start
        at = np.nanargmin(reached)
        won = _of_groups(points, values[:, 0] - end, alive)[at]
        clear = sign > 0 and won > CLEAR * abs(first)
        won = won if clear or won > thresholds.surely * _of_groups(points, noise, alive)[at] else -np.inf
    target = _target(thresholds, first, last, won, sign)
    with np.errstate(invalid="ignore"):
        learned = alive & (end <= target)
    way = first - last if np.isfinite(target) and first > last else abs(first)
    levels = _largest_levels(ds, dims)
    growth, moved = _grown(levels, learned, stop)
    with np.errstate(invalid="ignore"):
        scatter = thresholds.sigmas * np.maximum(noise, begun)
        if not len(levels):
            scatter = np.where(scatter < (1 - thresholds.share) * way, scatter, 0)
        away = np.minimum(np.abs(end - start), np.abs(end - values[:, 0]))  # its own start is noisy, if of one batch
        near = away <= np.maximum(thresholds.still * way, scatter)
        improves = (gain > thresholds.sigmas * error) & (gain > thresholds.improving * way)
        blown = growth > thresholds.blown_up
    frozen = near & (moved <= thresholds.still)
    asked = [stop == -2, stop >= 0, learned, blown, frozen, improves]
    phase = np.select(asked, [-1, DIVERGED, LEARNS, BLOWN_UP, FROZEN, SLOW], STUCK)

    def of_replicas(array: NDArray) -> tuple[list[str], NDArray]:
        return dims, array.reshape(shape)

    found = xr.Dataset(
        {
            "learned": of_replicas(learned),
            "phase": of_replicas(phase.astype(np.int8)),
            "end": of_replicas(sign * end),
            "growth": of_replicas(growth),
            "target": sign * target,
            "best": sign * last,
            "initial": sign * first,
        },
        coords={n: c for n, c in ds.coords.items() if {*c.dims} <= {*dims}},
    )
    return found.assign_attrs(metric=name, thresholds=str(dataclasses.asdict(thresholds)))


def level_variables(ds: xr.Dataset) -> list[str]:
    """Names of the recorded levels, one a watched matrix."""
    return [str(name) for name in ds.data_vars if str(name) == "levels" or str(name).startswith("levels_")]


def _metrics(ds: xr.Dataset, dims: list[str]) -> list[str]:
    return [str(name) for name, v in ds.data_vars.items() if {*v.dims} == {*dims, "snapshot"}]


def _target(thresholds: Thresholds, first: float, last: float, won: float, sign: float) -> float:
    """In the orientation in which smaller is better; NaN where nothing learns."""
    if thresholds.target is not None:
        return sign * thresholds.target
    if not np.isfinite(last) or min(won, first - last) < thresholds.least * abs(first):
        return np.nan
    return first - thresholds.share * (first - last)


def _column(ds: xr.Dataset, name: str, dims: list[str]) -> NDArray:
    """A coordinate for each replica [replicas], zeros where there is none."""
    if name not in ds.coords:
        return np.zeros(ds.diverged_step.size)
    return np.asarray(ds[name].broadcast_like(ds.diverged_step).transpose(*dims).values, float).ravel()


def _points(ds: xr.Dataset, dims: list[str]) -> NDArray:
    """A number for each replica that is the same for those that differ by their seed alone."""
    names = [str(n) for n, c in ds.coords.items() if {*c.dims} <= {*dims} and c.dims and n not in ("seed", "point")]
    if not names:
        return np.zeros(ds.diverged_step.size)
    rows = np.stack([_column(ds, name, dims) for name in names], axis=1)
    return np.unique(rows, axis=0, return_inverse=True)[1].ravel()


def _of_groups(groups: NDArray, values: NDArray, there: NDArray) -> NDArray:
    """For each replica the upper median over its group, of those that are there and have a number; infinity counts."""
    found = np.full(len(values), np.nan)
    kept = there & ~np.isnan(values)
    for group in np.unique(groups):
        own = groups == group
        if (own & kept).any():
            ordered = np.sort(values[own & kept])
            found[own] = ordered[len(ordered) // 2]
    return found


def _least(values: NDArray) -> float:
    good = values[np.isfinite(values)]
    return float(good.min()) if good.size else np.nan


def _largest_levels(ds: xr.Dataset, dims: list[str]) -> NDArray:
    """At the start and the end, [matrix, 2, replicas]."""
    found = []
    for name in level_variables(ds):
        ends = ds[name].isel(snapshot=[0, -1])
        largest = ends.max([str(d) for d in ends.dims if d not in (*dims, "snapshot")])
        found.append(np.asarray(largest.transpose("snapshot", *dims).values, float).reshape(2, -1))
    return np.stack(found) if found else np.zeros((0, 2, ds.diverged_step.size))


def _grown(levels: NDArray, learned: NDArray, stop: NDArray) -> tuple[NDArray, NDArray]:
    """Growth of the level that grew most beyond what it should, and the largest relative movement, [replicas]."""
    count = levels.shape[-1]
    if not len(levels):
        return np.full(count, np.nan), np.zeros(count)
    start, end = levels[:, 0], levels[:, 1]
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        usual = np.nanmedian(end[:, learned] if learned.any() else start[:, stop != -2], axis=1)
        growth = end / np.maximum(start, usual[:, None])
        moved = np.abs(end - start) / np.maximum(start, np.finfo(float).tiny)
        return np.nanmax(growth, axis=0), np.nanmax(moved, axis=0)


def _late_gain(steps: NDArray, values: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Improvement over the last snapshots along a fitted line, its standard error, and the scatter around the line."""
    count = min(LAST_SNAPSHOTS, len(steps) - 1)
    if count < 3:
        nothing = np.zeros(len(values))
        return nothing, nothing, nothing
    x, y = np.log(steps[-count:]), np.where(np.isfinite(values), values, np.nan)[:, -count:]
    x = x - x.mean()
    with np.errstate(invalid="ignore", over="ignore"):  # of networks that diverged
        slope = (y * x).sum(axis=1) / (x**2).sum()
        noise = np.sqrt(((y - y.mean(axis=1, keepdims=True) - slope[:, None] * x) ** 2).sum(axis=1) / (count - 2))
    span = x[-1] - x[0]
    return -slope * span, noise * span / np.sqrt((x**2).sum()), noise
