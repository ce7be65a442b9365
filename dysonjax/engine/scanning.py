"""`scan`: a whole grid of hyper-parameters and seeds through one loop, resumable, as one labelled dataset."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import PRNGKeyArray

from dysonjax.core.dynamics import Dynamics
from dysonjax.core.errors import require
from dysonjax.core.observables import Observable
from dysonjax.engine.grid import Grid
from dysonjax.engine.loop import simulate
from dysonjax.engine.planning import Scan, prepare
from dysonjax.runtime import team as teams
from dysonjax.runtime.devices import Devices
from dysonjax.runtime.progress import Bar, progress_bar
from dysonjax.runtime.team import WHOLE, Share
from dysonjax.storage import locations
from dysonjax.storage.metadata import provenance
from dysonjax.storage.records import OWN, recall, remember

if TYPE_CHECKING:
    import xarray as xr

    from dysonjax.engine.cost import Forecast, Measured

log = logging.getLogger(__name__)


def scan(
    dynamics: Dynamics,
    grid: Grid,
    steps: int,
    *,
    key: PRNGKeyArray | int = 0,
    dt: float | None = None,
    snapshots: Sequence[int] | None = None,
    observables: Sequence[Observable] | None = None,
    out: str | os.PathLike[str] | None = None,
    block_size: int | None = None,
    devices: Devices | None = None,
    progress: "bool | Bar | None" = None,
    share: Share = WHOLE,
) -> "xr.Dataset":
    """Run every replica of `grid` for `steps` updates; returns a dataset with dimensions named after the grid.

    `dt`: the time step of a Langevin equation, if one for all (a grid may have an axis `dt` instead).
    `snapshots`: update numbers at which levels and observables are recorded (default: 21, log-spaced; 0 and `steps` are
    always among them). `observables`: what is recorded besides the levels (default: the dynamics' own). `out`: a run's
    directory; finished blocks are written there, and the same call continues an interrupted run. `block_size`:
    replicas a block (default: by memory and length); a store keeps the one it was made with. `devices`: default all
    local ones. `progress`: a bar on the terminal, by default when there is one, or a bar of the caller's, which hears
    the replica-updates. `share`: compute only this share of the blocks. A replica's numbers depend on `key`, its
    hyper-parameters and its seed alone, never on the grid, the blocks, the devices or who computed it.

    After `jax.distributed.initialize` the same call on every process, with the same `out`, spreads the blocks over all
    processes' devices, and every process returns when all are done. Results of more than `store.LAZY` bytes stay on
    disk and are read when they are looked at. Values that are not computed, because they belong to another share, are
    NaN, their `diverged_step` −2.

    A replica that leaves the finite numbers is held at its last finite state; `diverged_step` tells when (−1: never; if
    only its levels are not finite, the next snapshot).
    Raises `InputError` for bad arguments, `StoreError` when `out` cannot be used, `ClusterError` when a process is
    lost.

    >>> net = dj.models.TanhNetwork()  # doctest: +SKIP
    >>> dj.scan(dj.sgd(net), dj.Grid(learning_rate=[0.125], batch_size=[4]), steps=2000).levels  # doctest: +SKIP
    """
    where = None if out is None else locations.place(out)
    job = ScanJob(dynamics, grid, steps, key, dt, snapshots, observables)
    return job.run(where, share, progress, block_size, lambda: _remember_own(where), devices)


def _remember_own(place: Path | None) -> None:
    """Leave the record of a user's own scan; a store without one is an earlier version's."""
    from dysonjax.storage import store

    if place is not None and (recall(place) is not None or not store.exists(place)):
        remember(place, OWN, {})


@dataclass(frozen=True, eq=False)
class ScanJob(Scan):
    """A scan as a part of a run; see `engine.jobs.Job`."""

    name: str = ""

    @property
    def cost(self) -> int:
        """Replica-updates."""
        return self.grid.size * self.steps

    def run(
        self,
        place: Path | None = None,
        share: Share = WHOLE,
        progress: "bool | Bar | None" = None,
        block_size: int | None = None,
        before: Callable[[], None] = lambda: None,
        devices: Devices | None = None,
    ) -> "xr.Dataset":
        """Compute it, or continue what `place` holds; see `engine.jobs.Job`."""
        from dysonjax.storage import store  # and with it xarray and zarr, a second of start-up

        team = teams.team()
        planned = prepare(self, devices, share.count * team.count, block_size)
        require(place is not None or team.count == 1, "out", place, "a directory, where the processes meet")
        with team.working(), progress_bar("scan", self.cost, progress if team.first else False) as bar:

            def opened() -> Any:
                before()
                return store.open_or_create(place, planned.header, planned.arrays, planned.block_size)

            results = team.one_first(opened)
            blocks = results.blocks()
            # what is left is read once for all: it changes as soon as somebody works
            left = team.agree(lambda: share.of(results.unfinished()))
            if left and team.first:
                results.note(provenance(planned.devices, team.count, str(share)))
            bar.advance(self.cost - self.steps * sum(rows.stop - rows.start for _, rows in (blocks[n] for n in left)))
            own = team.share_bar(bar)
            for number in team.deal(left):
                bucket, rows = blocks[number]
                values = simulate(
                    self.dynamics, planned.replicas.keys(bucket, rows), planned.replicas.hyper(bucket, rows),
                    self.steps, snapshots=planned.marks, observables=planned.observables, devices=planned.devices,
                    tile=planned.tile, on_progress=own.advance,
                )  # fmt: skip
                results.write(bucket, rows, values)
            team.meet()
        dataset = results.dataset([*planned.header.axes])
        lost = int((dataset.diverged_step >= 0).sum())
        if lost and team.first:
            log.warning("%d of %d replicas left the finite numbers; see diverged_step", lost, self.grid.size)
        return dataset if self.dt is None else dataset.isel(dt=0)

    def open(self, place: Path) -> "xr.Dataset":
        """The results that `place` holds, finished or not."""
        from dysonjax.storage import store

        dataset = store.load(place).dataset()
        return dataset if self.dt is None else dataset.isel(dt=0)

    def missing(self, place: Path) -> tuple[list[str], int]:
        """Numbers of the blocks that are not finished, and how many blocks there are."""
        from dysonjax.storage import store

        results = store.load(place)
        return [str(number) for number in results.unfinished()], len(results.blocks())

    def forecast(
        self, place: Path | None, known: "dict[str, Measured]", shares: int = 1, block_size: int | None = None
    ) -> "Forecast":
        """What it would cost; see `engine.cost.forecast`."""
        from dysonjax.engine.cost import forecast

        return forecast(self, self.name or str(place), place, known, shares, block_size)
