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
    paired: bool = False,
    out: str | os.PathLike[str] | None = None,
    block_size: int | None = None,
    devices: Devices | None = None,
    progress: "bool | Bar | None" = None,
    share: Share = WHOLE,
) -> "xr.Dataset":
    """Run every replica of a grid and return what was recorded, with dimensions named after the grid.

    After `jax.distributed.initialize` the same call on every process, with the same `out`, shares the blocks out among
    all processes' devices, and every process returns when all blocks are done.

    Args:
        dynamics: how one replica starts and moves: `sgd(...)`, `dyson(...)`, `matrix_langevin(...)` or your own.
        grid: the hyper-parameters and seeds.
        steps: number of updates.
        key: base of all random numbers. A replica's numbers depend on it, on the replica's hyper-parameters and on its
            seed alone, never on the grid around it, the blocks, the devices or the process that computed it.
        dt: the time step of a Langevin equation, if it is the same for all (a grid may have an axis `dt` instead).
        snapshots: the updates at which levels and observables are recorded; by default 21, log-spaced. 0 and `steps`
            are always among them.
        observables: what is recorded besides the levels; by default what the dynamics names.
        paired: give equal seeds the same initial weights, data and batches at every point, so that differences between
            points have less noise.
        out: the run's directory or URL. Finished blocks are written there, and the same call continues an interrupted
            run. Results of more than `storage.store.LAZY` bytes stay on disk and are read when they are used.
        block_size: replicas that are computed, stored and resumed together; by default by memory and length. An
            existing store keeps its own.
        devices: by default all local ones.
        progress: a bar on the terminal (by default where there is one), or an object whose `advance` receives completed
            replica-updates.
        share: compute only this share of the blocks. Values of other shares are NaN, their `diverged_step` is −2.

    Returns:
        Levels and observables [grid axes, snapshot, …], and `diverged_step`: the update after which a replica was no
        longer finite (if only its levels are not, the next snapshot), −1 if it stayed finite. Such a replica is held at
        its last finite state.

    Raises:
        InputError: a bad argument.
        StoreError: `out` cannot be used, or holds another run.
        ClusterError: another process was lost.

    >>> net = dj.models.TanhNetwork()  # doctest: +SKIP
    >>> dj.scan(dj.sgd(net), dj.Grid(learning_rate=[0.125], batch_size=[4]), steps=2000).levels  # doctest: +SKIP
    """
    where = None if out is None else locations.place(out)
    job = ScanJob(dynamics, grid, steps, key, dt, snapshots, observables, paired)
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
            log.warning("%d of %d replicas became non-finite; see diverged_step", lost, self.grid.size)
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
