"""The job of a network's phase diagram: a scan that is read without the network, which is made to compute it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dysonjax.core.errors import require
from dysonjax.core.model import Network
from dysonjax.core.snapshots import log_steps
from dysonjax.dynamics.training import train
from dysonjax.engine.jobs import Verified
from dysonjax.engine.scanning import ScanJob
from dysonjax.engine.verifying import read_through
from dysonjax.experiments.learning.measures import langevin_terms, memory
from dysonjax.runtime.progress import Bar
from dysonjax.runtime.team import WHOLE, Share
from dysonjax.storage.extensions import load_all, missing_blocks, open_all

if TYPE_CHECKING:
    import xarray as xr

    from dysonjax.engine.cost import Forecast, Measured
    from dysonjax.experiments.learning.diagram import NetworkDiagram


@dataclass(frozen=True, eq=False)
class DiagramJob:
    """The scan of `settings`; see `engine.jobs.Job`."""

    settings: "NetworkDiagram"
    name: str = ""

    @property
    def cost(self) -> int:
        """Replica-updates."""
        return self.settings.grid.size * self.settings.steps

    def run(
        self, place: Path | None, share: Share = WHOLE, progress: "bool | Bar | None" = None,
        block_size: int | None = None, before: Callable[[], None] = lambda: None, extend: bool = False,
    ) -> "xr.Dataset":  # fmt: skip
        """Compute it, or continue what `place` holds; the user's file is run."""
        return self.settings.scan().run(place, share, progress, block_size, before, extend)

    def open(self, *places: Path, lazy: bool | None = None) -> "xr.Dataset":
        """The dataset of the store."""
        return open_all(places, lazy)

    def missing(self, place: Path) -> tuple[list[str], int]:
        """Names of the blocks that are not finished, and how many blocks there are."""
        return missing_blocks(load_all(place), self.settings.grid.size)

    def verify(self, place: Path, repair: bool = False, recompute: int = 0) -> Verified:
        """Read every byte; for `recompute` the user's file is run."""
        return self.settings.scan().verify(place, repair, recompute) if recompute else read_through(place, repair)

    def forecast(
        self, place: Path | None, known: "dict[str, Measured]", shares: int = 1, block_size: int | None = None,
        extend: bool = False,
    ) -> "Forecast":  # fmt: skip
        """What it would cost; the user's file is run."""
        return self.settings.scan().forecast(place, known, shares, block_size, extend)


def scan_of(settings: "NetworkDiagram", model: Network, optimizer: Callable[..., Any] | None) -> ScanJob:
    """The scan of settings with their network; raises `InputError`."""
    dynamics = train(model, optimizer, tests=settings.tests)
    if settings.fingerprint:
        dynamics = replace(dynamics, config={**dynamics.config, "network": settings.fingerprint})
    plain = optimizer is None and settings.criterion > 0
    names = [name for one in dynamics.observables for name in one.variables]
    known = settings.metric is None or settings.metric in names
    require(known, "metric", settings.metric, f"one of {', '.join(names)}")
    measured = (memory(model), langevin_terms(model, settings.criterion) if plain else None)
    return ScanJob(
        dynamics, settings.grid, settings.steps, settings.key,
        snapshots=log_steps(settings.steps, settings.snapshots),
        observables=(*dynamics.observables, *(one for one in measured if one is not None)), paired=settings.paired,
    )  # fmt: skip
