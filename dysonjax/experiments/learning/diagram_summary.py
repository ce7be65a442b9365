"""What a network's phase diagram says at every point: shares of the phases, the probability of learning, medians."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dysonjax.experiments.learning.boundaries import wilson
from dysonjax.experiments.learning.phases import LEARNS, PHASES, Thresholds, larger_is_better, level_variables, outcomes

SEED = "seed"
QUANTILES = (0.16, 0.5, 0.84)


@dataclass(frozen=True, eq=False)
class Summary:
    """A run, what became of its replicas, and what that says of its points.

    - `ds`: the run's dataset [axes, seed, snapshot, …];
    - `replicas`: see `phases.outcomes`;
    - `points` [axes]: `share` of each phase [phase]; `learns` with `low` and `high`, the ends of Wilson's interval at
      95 %; `common`, an index into `PHASES`: learns where at least half of the replicas do, else the most frequent of
      the others; `end` [quantile], the metric of the replicas that stayed finite; `growth` and `memory_…`, medians at
      the end; `criterion_…`, the share of replicas that the Langevin criterion calls learnable.
    """

    ds: xr.Dataset
    replicas: xr.Dataset
    points: xr.Dataset

    @property
    def metric(self) -> str:
        """What must reach the target."""
        return str(self.replicas.attrs["metric"])

    @property
    def target(self) -> float:
        """What the metric must reach; NaN where nothing learns."""
        return float(self.replicas.target)

    @property
    def axes(self) -> list[str]:
        """The axes of the grid without the seed."""
        return [str(d) for d in self.replicas.phase.dims if d != SEED]

    @property
    def varied(self) -> list[str]:
        """Those with several values, the learning rate first, then batch size and initial width."""
        order = ["learning_rate", "batch_size", "init_width"]
        own = sorted(self.axes, key=lambda name: order.index(name) if name in order else len(order))
        return [name for name in own if self.points.sizes[name] > 1]

    @property
    def larger(self) -> bool:
        """Whether a larger metric is the better one."""
        return larger_is_better(self.metric)

    def best(self) -> dict[str, int]:
        """The point whose median metric at the end is best, by positions along the axes; of diverged ones the first."""
        worst = -np.inf if self.larger else np.inf
        alive = self.points.share.sel(phase="diverged") <= 0.5
        middle = self.points.end.sel(quantile=0.5).where(alive, worst).fillna(worst).transpose(*self.axes)
        flat = np.argmax(middle.values) if self.larger else np.argmin(middle.values)
        places = np.unravel_index(int(flat), middle.shape)
        return dict(zip(self.axes, map(int, places), strict=True))


def summary(ds: xr.Dataset, metric: str | None, thresholds: Thresholds) -> Summary:
    """Of a grid's dataset."""
    replicas = outcomes(ds, metric, thresholds)
    phase = replicas.phase
    there = (phase >= 0).sum(SEED)
    share = xr.concat([(phase == i).sum(SEED) for i in range(len(PHASES))], "phase") / np.maximum(there, 1)
    points = xr.Dataset({"share": share.assign_coords(phase=[*PHASES])})
    learned = replicas.learned.sum(SEED)
    low, high = wilson(learned.values, there.values)
    points["learns"] = learned / np.maximum(there, 1)
    points["low"], points["high"] = learned.copy(data=low), learned.copy(data=high)
    points["common"] = (share * (share.phase != LEARNS)).argmax("phase").where(points.learns < 0.5, LEARNS).astype(int)
    points["replicas"] = there
    alive = replicas.end
    points["end"] = xr.concat([_quantile(alive, q) for q in QUANTILES], "quantile").assign_coords(quantile=[*QUANTILES])
    points["growth"] = _quantile(replicas.growth, 0.5)
    last = ds.isel(snapshot=-1).drop_vars("step").where(ds.diverged_step == -1)
    for name in ds.data_vars:
        if str(name) == "memory" or str(name).startswith("memory_"):
            points[str(name)] = _quantile(last[name], 0.5)
    for name, value in criterion(ds).items():
        points[name] = value.where(ds.diverged_step == -1, 0).mean(SEED)
    return Summary(ds, replicas, points)


def criterion(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Which replicas the Langevin criterion calls learnable at the end, where its terms are recorded.

    K_t × (mean gap of the levels at the start) ≥ T V_t with T = α/|B| (arXiv:2509.01349, where that gap is the one of
    Marchenko and Pastur, 4σ_W²/(√r (K − 1))): `criterion_published` and `criterion_exact`, of several matrices with
    their names behind.
    """
    found: dict[str, xr.DataArray] = {}
    temperature = ds.learning_rate / ds.batch_size
    for levels in level_variables(ds):
        tail = levels.removeprefix("levels")
        if f"drift{tail}" not in ds:
            continue
        (along,) = {*map(str, ds[levels].dims)} - {*map(str, ds.diverged_step.dims), "snapshot"}
        first, last = ds[levels].isel(snapshot=0), ds.isel(snapshot=-1)
        gap = (first.max(along) - first.min(along)) / (ds.sizes[along] - 1)
        for form, term in (("published", "repulsion_published"), ("exact", "repulsion")):
            repulsion = last[f"{term}{tail}"]
            right = (last[f"drift{tail}"] * gap >= temperature * repulsion) & (repulsion != 0)  # a dead one has neither
            found[f"criterion_{form}{tail}"] = right.drop_vars("step", errors="ignore").astype(float)
    return found


def trained_by(run: Mapping[str, Any]) -> str:
    """Optimiser and schedule of a run, which is given as `told` returns it."""
    return (run["optimizer"] or "SGD") + (f" with {run['schedule']}" if run.get("schedule") else "")


def told(ds: xr.Dataset) -> dict[str, Any]:
    """What was run, as stored in the dataset's attributes."""
    return json.loads(ds.attrs["experiment"])


def _quantile(values: xr.DataArray, q: float) -> xr.DataArray:
    """Over the seeds that have a number; NaN where none has. Infinity counts."""

    def of(sorted_: NDArray) -> NDArray:
        count = np.sum(~np.isnan(sorted_), axis=-1)
        place = np.clip(np.ceil(q * count) - 1, 0, None).astype(int)  # the nearest rank: NaN stands last
        return np.take_along_axis(sorted_, place[..., None], axis=-1)[..., 0]

    ordered = np.sort(np.asarray(values.transpose(..., SEED).values, float), axis=-1)
    return values.isel({SEED: 0}, drop=True).transpose(*[d for d in values.dims if d != SEED]).copy(data=of(ordered))
