"""A user's own `dysonjax.scan(..., out=RUN)`, read back from its directory: what was run, a table and figures."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from dysonjax.core.errors import InputError
from dysonjax.engine.jobs import Results, Verified
from dysonjax.engine.verifying import read_through
from dysonjax.experiments.base import Experiment, Report
from dysonjax.runtime.progress import Bar
from dysonjax.runtime.team import WHOLE, Share
from dysonjax.storage.extensions import load_all, missing_blocks, open_all
from dysonjax.storage.records import OWN


@dataclass(frozen=True)
class OwnScan(Experiment):
    """A scan whose dynamics only its author's program has: it is read and reported, and continued by the same call."""

    kind = OWN

    def again(self, place: str | os.PathLike[str]) -> str:
        """By the call that began it."""
        return "the same call of dysonjax.scan"

    def jobs(self, results: Results) -> "list[StoredScan]":
        """The one scan, as it is stored."""
        return [StoredScan()]

    def analyse(self, results: Results) -> xr.Dataset:
        """The results; of points that are no grid, each replica is a point with one seed."""
        ds = results.only
        if "point" not in ds.dims:
            return ds
        numbered = ds.rename(seed="its seed").assign_coords(point=range(ds.sizes["point"]))
        return numbered.expand_dims("seed", 1).assign_coords(seed=[0])

    def report(self, analysis: xr.Dataset) -> Report:
        """What was run, loss and largest level over the grid, level flow and maps."""
        from dysonjax.experiments.own_scan import figures

        said: Sequence[Any] = [figures.description(analysis), figures.table(analysis)]
        return Report(said, lambda directory: figures.draw(analysis, directory), 150)


@dataclass(frozen=True)
class StoredScan:
    """A job that can be opened, not computed."""

    name: str = ""
    cost: int = 0

    def run(
        self, place: Path | None, share: Share = WHOLE, progress: bool | Bar | None = None,
        block_size: int | None = None, before: Callable[[], None] = lambda: None,
        extend: bool = False,
    ) -> xr.Dataset:  # fmt: skip
        """Refused: the dynamics is not stored."""
        raise InputError(f"resume = {place}: expected a run of a command; continue this one with its dysonjax.scan")

    def open(self, *places: Path, lazy: bool | None = None) -> xr.Dataset:
        """The dataset of the store."""
        return open_all(places, lazy)

    def verify(self, place: Path, repair: bool = False, recompute: int = 0) -> Verified:
        """Read every byte."""
        if recompute:
            raise InputError(
                f"recompute = {recompute}: expected a run of a command; use dysonjax.verify(run, dynamics)"
            )
        return read_through(place, repair)

    def missing(self, place: Path) -> tuple[list[str], int]:
        """Numbers of the blocks that are not finished, and how many there are."""
        return missing_blocks(load_all(place), 0)

    def forecast(
        self, place: Path | None, known: Any, shares: int = 1, block_size: int | None = None, extend: bool = False
    ) -> None:
        """Nothing is left to compute."""
