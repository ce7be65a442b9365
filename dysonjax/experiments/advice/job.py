"""A round of an advice: a scan over points that is read without the network, which is made to compute it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from dysonjax.core.snapshots import log_steps
from dysonjax.dynamics.training import train
from dysonjax.engine.grid import Points
from dysonjax.engine.jobs import Verified
from dysonjax.engine.scanning import ScanJob
from dysonjax.engine.verifying import read_through
from dysonjax.experiments.advice.rounds import Network
from dysonjax.experiments.learning.gradient_noise import gradient_noise
from dysonjax.runtime.progress import Bar
from dysonjax.runtime.team import WHOLE, Share
from dysonjax.storage.extensions import load_all, missing_blocks, open_all

if TYPE_CHECKING:
    import xarray as xr

    from dysonjax.engine.cost import Forecast, Measured
    from dysonjax.experiments.advice.experiment import Advice


def whole_block() -> int:
    """Replicas that are computed together in every round, so that all rounds share one program."""
    return 256 if jax.default_backend() == "cpu" else 1024


@dataclass(frozen=True, eq=False)
class AdviceJob:
    """One round of `settings`; see `engine.jobs.Job`."""

    settings: "Advice"
    name: str
    networks: Sequence[Network]

    @property
    def cost(self) -> int:
        """Replica-updates."""
        return len(self.networks) * self.settings.steps

    def run(
        self, place: Path | None, share: Share = WHOLE, progress: "bool | Bar | None" = None,
        block_size: int | None = None, before: Callable[[], None] = lambda: None, extend: bool = False,
    ) -> "xr.Dataset":  # fmt: skip
        """Compute it, or continue what `place` holds; the user's file is run."""
        return self._scan().run(place, share, progress, block_size or whole_block(), before, extend)

    def open(self, *places: Path, lazy: bool | None = None) -> "xr.Dataset":
        """The dataset of the store."""
        return open_all(places, lazy)

    def missing(self, place: Path) -> tuple[list[str], int]:
        """Names of the blocks that are not finished, and how many blocks there are."""
        return missing_blocks(load_all(place), len(self.networks))

    def verify(self, place: Path, repair: bool = False, recompute: int = 0) -> Verified:
        """Read every byte; for `recompute` the user's file is run."""
        return self._scan().verify(place, repair, recompute) if recompute else read_through(place, repair)

    def forecast(
        self, place: Path | None, known: "dict[str, Measured]", shares: int = 1, block_size: int | None = None,
        extend: bool = False,
    ) -> "Forecast":  # fmt: skip
        """What it would cost; the user's file is run."""
        return self._scan().forecast(place, known, shares, block_size or whole_block(), extend)

    def _scan(self) -> ScanJob:
        return replace(scan_of(self.settings, self.networks), name=self.name)


def scan_of(settings: "Advice", networks: Sequence[Network]) -> ScanJob:
    """The scan of some networks; raises `InputError`."""
    model, optimizer = settings.objects()
    dynamics = train(model, optimizer, tests=settings.tests)
    if settings.fingerprint:
        dynamics = replace(dynamics, config={**dynamics.config, "network": settings.fingerprint})
    lines = settings.lines
    columns: dict[str, Any] = {name: [lines[one.line].values[name] for one in networks] for name in lines[0].values}
    points = Points(
        learning_rate=[one.rate for one in networks], init_width=settings.init_width, **columns,
        seed=[one.seed for one in networks],
    )  # fmt: skip
    return ScanJob(
        dynamics, points, settings.steps, settings.key,
        snapshots=log_steps(settings.steps, settings.snapshots),
        observables=(*dynamics.observables, gradient_noise(model)), paired=True, whole_blocks=True,
    )  # fmt: skip
