"""What an advice has tried so far: every network of the finished rounds, and the lines that they lie on.

A line is all points that differ by their learning rate alone: one batch size, and one value of each further number.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dysonjax.experiments.learning.phases import Thresholds, larger_is_better, outcomes

if TYPE_CHECKING:
    import xarray as xr

FRESH_SEEDS = 1 << 20
"""Seeds from here on are those of the last round: none of them has chosen anything."""


class Line(NamedTuple):
    """A batch size, and the values of the optimiser's further numbers by name."""

    batch_size: int
    more: tuple[tuple[str, float], ...] = ()

    @property
    def values(self) -> dict[str, float]:
        """All of them by name."""
        return {"batch_size": self.batch_size, **dict(self.more)}

    def __str__(self) -> str:
        return ", ".join([f"|B| = {self.batch_size}", *(f"{n.replace('_', ' ')} {v:g}" for n, v in self.more)])


class Tried(NamedTuple):
    """Of each network [n]: its line, learning rate and seed, and what became of it.

    `end` is the metric at the end, larger is worse: of an accuracy its negative; infinite for networks that diverged.
    `phase`: see `learning.phases`; `growth` of the largest level; `variance` and `square`: `learning.gradient_noise`.
    """

    line: NDArray[np.int64]
    rate: NDArray[np.float64]
    seed: NDArray[np.int64]
    learned: NDArray[np.bool_]
    end: NDArray[np.float64]
    phase: NDArray[np.int64]
    growth: NDArray[np.float64]
    variance: NDArray[np.float64]
    square: NDArray[np.float64]
    target: float
    initial: float
    best: float
    metric: str

    def where(self, chosen: Any) -> "Tried":
        """Those of some networks."""
        parts: list[Any] = [x[chosen] if isinstance(x, np.ndarray) else x for x in self]
        return Tried(*parts)

    @property
    def fresh(self) -> NDArray[np.bool_]:
        """Which networks have seeds of the last round."""
        return self.seed >= FRESH_SEEDS

    def rates(self) -> NDArray[np.float64]:
        """The learning rates, each once, in rising order."""
        return np.unique(self.rate)

    def shares(self) -> NDArray[np.float64]:
        """The share of networks that learned at each of `rates()`."""
        return np.array([self.learned[self.rate == rate].mean() for rate in self.rates()])


def tried_of(
    results: Mapping[str, "xr.Dataset"], lines: Sequence[Line], metric: str | None, thresholds: Thresholds
) -> Tried:
    """What the finished rounds hold. The first of them sets the target, which later ones keep."""
    rounds = [results[name] for name in results]
    first = outcomes(rounds[0], metric, thresholds)
    start, best, name = float(first.initial), float(first.best), str(first.attrs["metric"])
    parts: list[tuple[Any, ...]] = []
    for ds in rounds:
        found = outcomes(ds, name, thresholds, best=best, initial=start)
        sign = -1.0 if larger_is_better(name) else 1.0
        end = np.where(np.isfinite(found.end.values), sign * found.end.values, np.inf)
        last = ds.isel(snapshot=-1)
        parts.append((
            lines_of(ds, lines), np.asarray(ds.learning_rate.values, float), np.asarray(ds.seed.values, np.int64),
            found.learned.values.astype(bool), end.astype(float), found.phase.values.astype(int),
            *(np.asarray(x.values, float) for x in (found.growth, last.gradient_variance, last.gradient_square)),
        ))  # fmt: skip
    arrays: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Tried(*[*arrays, float(first.target), start, best, name])


def lines_of(ds: "xr.Dataset", lines: Sequence[Line]) -> NDArray[np.int64]:
    """The number of each network's line."""
    found = np.full(ds.sizes["point"], -1)
    for number, line in enumerate(lines):
        found[networks_at(ds, **line.values)] = number
    return found


def networks_at(ds: "xr.Dataset", **values: float) -> NDArray[np.bool_]:
    """Which networks of a round have these values, as float32, in which they were computed."""
    columns = [np.asarray(ds[name].values, np.float32) == np.float32(value) for name, value in values.items()]
    return np.logical_and.reduce(columns)
