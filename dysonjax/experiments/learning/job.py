"""A scan of a user's network as a job: it is read without the network, which is made to compute it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dysonjax.core.dynamics import Dynamics
from dysonjax.core.errors import require
from dysonjax.core.observables import Observable
from dysonjax.core.snapshots import log_steps
from dysonjax.dynamics.training import train
from dysonjax.engine.grid import Grid, Points
from dysonjax.engine.jobs import Verified
from dysonjax.engine.planning import prepare
from dysonjax.engine.scanning import ScanJob
from dysonjax.engine.verifying import read_through
from dysonjax.experiments.learning.of_network import OfNetwork
from dysonjax.runtime.progress import Bar
from dysonjax.runtime.team import WHOLE, Share
from dysonjax.storage.extensions import load_all, missing_blocks, open_all

if TYPE_CHECKING:
    import xarray as xr

    from dysonjax.core.model import Network
    from dysonjax.engine.cost import Forecast, Measured


@dataclass(frozen=True, eq=False)
class NetworkJob:
    """`replicas` networks of `steps` updates, which `scan` computes; see `engine.jobs.Job`."""

    scan: Callable[[], ScanJob]
    replicas: int
    steps: int
    name: str = ""
    block: Callable[[], int | None] = lambda: None
    """Replicas of a block where none are asked for."""

    @property
    def cost(self) -> int:
        """Replica-updates."""
        return self.replicas * self.steps

    def run(
        self, place: Path | None, share: Share = WHOLE, progress: "bool | Bar | None" = None,
        block_size: int | None = None, before: Callable[[], None] = lambda: None, extend: bool = False,
    ) -> "xr.Dataset":  # fmt: skip
        """Compute it, or continue what `place` holds; the user's file is run."""
        return self.scan().run(place, share, progress, block_size or self.block(), before, extend)

    def open(self, *places: Path, lazy: bool | None = None) -> "xr.Dataset":
        """The dataset of the store."""
        return open_all(places, lazy)

    def missing(self, place: Path) -> tuple[list[str], int]:
        """Names of the blocks that are not finished, and how many blocks there are."""
        return missing_blocks(load_all(place), self.replicas)

    def verify(self, place: Path, repair: bool = False, recompute: int = 0) -> Verified:
        """Read every byte; for `recompute`, and to make damaged metadata anew, the user's file is run."""
        if recompute:
            return self.scan().verify(place, repair, recompute)
        return read_through(place, repair, lambda: prepare(self.scan()))

    def forecast(
        self, place: Path | None, known: "dict[str, Measured]", shares: int = 1, block_size: int | None = None,
        extend: bool = False,
    ) -> "Forecast":  # fmt: skip
        """What it would cost; the user's file is run."""
        return self.scan().forecast(place, known, shares, block_size or self.block(), extend)


def scan_of(
    settings: OfNetwork, grid: Grid | Points, steps: int, key: int, snapshots: int, tests: int,
    measured: Callable[["Network"], Sequence[Observable | None]], paired: bool, name: str = "",
    whole_blocks: bool = False,
) -> ScanJob:  # fmt: skip
    """Training of the settings' network over a grid, with what `measured` names of it; raises `InputError`."""
    dynamics, observables = settings.kept("trained", lambda: _trained(settings, tests, measured))
    return ScanJob(
        dynamics, grid, steps, key, snapshots=log_steps(steps, snapshots), observables=observables, paired=paired,
        name=name, whole_blocks=whole_blocks,
    )  # fmt: skip


def _trained(
    settings: OfNetwork, tests: int, measured: Callable[["Network"], Sequence[Observable | None]]
) -> tuple[Dynamics, tuple[Observable, ...]]:
    """Training as a dynamics, and what is recorded: made once, so that scans find their programs without tracing."""
    model, optimizer, schedule = settings.objects()
    dynamics = train(model, optimizer, tests=tests, batches=settings.drawn, schedule=schedule)
    if settings.fingerprint:
        dynamics = replace(dynamics, config={**dynamics.config, "network": settings.fingerprint})
    observables = (*dynamics.observables, *(one for one in measured(model) if one is not None))
    numbers = [name for one in observables for name, variable in one.variables.items() if not variable.dims]
    require(settings.metric in (None, *numbers), "metric", settings.metric, f"one of {', '.join(numbers)}")
    return dynamics, observables
