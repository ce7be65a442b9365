"""The levels of one pair (α, |B|) at one level of description, in the theory's coordinate."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr

from dysonjax.experiments.linear_scaling.experiment import ScalingRun, folder


class Ensemble(NamedTuple):
    """Levels of one setting at the end, [R, n] in the theory's coordinate, of the replicas that have not diverged."""

    description: str
    learning_rate: float
    batch_size: int
    levels: np.ndarray
    diverged: int
    outside: int
    """Replicas that were outside the positive-definite region at some update, where that is counted."""
    flow: np.ndarray
    """Levels of the first replica that has not diverged at every snapshot, [S, n]."""
    steps: np.ndarray

    @property
    def temperature(self) -> float:
        """T = α/|B|."""
        return self.learning_rate / self.batch_size


def ensembles(run: ScalingRun, results: Mapping[str, xr.Dataset]) -> list[Ensemble]:
    """The ensembles of a run's results, in the order of its descriptions and settings."""
    return [
        _ensemble(run, description, rate, size, results[folder(description, rate)].sel(batch_size=size))
        for description in run.level
        for rate, size in run.settings
    ]


def _ensemble(run: ScalingRun, description: str, rate: float, size: int, ds: xr.Dataset) -> Ensemble:
    ds = ds.isel(learning_rate=0, init_width=0)
    matrix = run.theory.matrix
    x = ds["levels" if "levels" in ds else f"levels_{matrix}"].values.astype(float)
    if run.theory.geometry != "gram" and description in ("sgd", "matrix"):
        x = np.sqrt(np.maximum(x, 0))
    alive = ds.diverged_step.values < 0
    outside = int((ds.outside.values[:, -1] > 0).sum()) if "outside" in ds else 0
    first = int(np.argmax(alive))
    return Ensemble(description, rate, size, x[alive, -1], int((~alive).sum()), outside, x[first], ds.step.values)
