"""`scan`: a whole grid of hyper-parameters and seeds through one loop, resumable, as one labelled dataset."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import PRNGKeyArray

from dysonjax.core.dynamics import Dynamics
from dysonjax.core.errors import require
from dysonjax.core.observables import Observable
from dysonjax.engine.grid import Grid, Points, Replicas
from dysonjax.engine.jobs import Verified
from dysonjax.engine.loop import simulate
from dysonjax.engine.planning import Plan, Scan, extended, prepare, replicas_of
from dysonjax.runtime import team as teams
from dysonjax.runtime.devices import Devices, warn_of_idle_cores
from dysonjax.runtime.progress import Bar, in_notebook, progress_bar
from dysonjax.runtime.team import WHOLE, Share
from dysonjax.storage import locations
from dysonjax.storage.metadata import origin, provenance
from dysonjax.storage.records import OWN, recall, remember

if TYPE_CHECKING:
    import xarray as xr

    from dysonjax.engine.cost import Forecast, Measured
    from dysonjax.storage.store import Store

log = logging.getLogger(__name__)


def scan(
    dynamics: Dynamics,
    grid: Grid | Points,
    steps: int,
    *,
    key: PRNGKeyArray | int = 0,
    dt: float | None = None,
    snapshots: Sequence[int] | None = None,
    observables: Sequence[Observable] | None = None,
    paired: bool = False,
    out: str | os.PathLike[str] | None = None,
    extend: bool = False,
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
        grid: the hyper-parameters and seeds: a `Grid` of all combinations, or `Points` one by one.
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
            run. Results of more than `storage.dataset.LAZY` bytes stay on disk and are read when they are used.
        extend: let `out` hold the same run with fewer points: what is stored is kept, the others are computed, and the
            result is that of a run that had all of them from the start.
        block_size: replicas that are computed, stored and resumed together; by default by memory and length. An
            existing store keeps its own.
        devices: by default all local ones.
        progress: a bar on the terminal (by default where there is one), or an object whose `advance` receives completed
            replica-updates.
        share: compute only this share of the blocks. Values of other shares are NaN, their `diverged_step` is −2.

    Returns:
        Levels and observables [grid axes, snapshot, …], of `Points` [point, snapshot, …], and `diverged_step`: the
        update after which a replica was no longer finite (if only its levels are not, the next snapshot), −1 if it
        stayed finite. Such a replica is held at its last finite state. Interrupted in a notebook, it returns what is
        finished; other replicas are NaN, their `diverged_step` is −2.

    Raises:
        InputError: a bad argument.
        StoreError: `out` cannot be used, or holds another run.
        ClusterError: another process was lost.

    >>> net = dj.models.TanhNetwork()  # doctest: +SKIP
    >>> dj.scan(dj.sgd(net), dj.Grid(learning_rate=[0.125], batch_size=[4]), steps=2000).levels  # doctest: +SKIP
    """
    where = None if out is None else locations.place(out)
    job = ScanJob(dynamics, grid, steps, key, dt, snapshots, observables, paired)
    return job.run(where, share, progress, block_size, lambda: _remember_own(where), extend, devices, partial=True)


def _remember_own(place: Path | None) -> None:
    """Leave the record of a user's own scan; a store without one is an earlier version's."""
    from dysonjax.storage import store

    if place is not None and (recall(place) is not None or not store.exists(place)):
        remember(place, OWN, {})


@dataclass(frozen=True, eq=False)
class ScanJob(Scan):
    """A scan as a part of a run; see `engine.jobs.Job`.

    Args:
        dynamics: how one replica starts and moves.
        grid: the hyper-parameters and seeds.
        steps: number of updates.
        key: base of all random numbers.
        dt: the time step of a Langevin equation, if it is the same for all.
        snapshots: the updates at which levels and observables are recorded; by default 21, log-spaced.
        observables: what is recorded besides the levels; by default what the dynamics names.
        paired: equal seeds share random numbers at all points.
        whole_blocks: small blocks are computed as if they were whole.
        name: the job's directory in that of the run; "" is the run's own, for a run of one job.
    """

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
        extend: bool = False,
        devices: Devices | None = None,
        partial: bool = False,
    ) -> "xr.Dataset":
        """Compute it, or continue what `place` holds; see `engine.jobs.Job`.

        `partial`: when it is interrupted in a notebook, return what is finished.
        """
        # xarray and zarr take a second of start-up
        from dysonjax.storage.dataset import assembled
        from dysonjax.storage.extensions import unfinished

        team = teams.team()
        planned = prepare(self, devices, share.count * team.count, block_size)
        require(place is not None or team.count == 1, "out", place, "a directory, where the processes meet")
        with team.working(), progress_bar("scan", self.cost, progress if team.first else False) as bar:
            stores = team.one_first(lambda: _stores(place, planned, extend, before))
            # their own axes: those of an equal grid may have another order
            laid = [replicas_of(self, (Points if one.header.rows else Grid)(**one.header.axes)) for one in stores]
            blocks = [(i, bucket, rows) for i, one in enumerate(stores) for bucket, rows in one.blocks()]
            # what is left is read once for all: it changes as soon as somebody works
            left = team.agree(lambda: share.of(unfinished(stores)))
            for i in sorted({blocks[number][0] for number in left}) if team.first else ():
                stores[i].note(provenance(planned.devices, team.count, str(share)))
            ahead = [laid[i].held(bucket, rows) for i, bucket, rows in (blocks[number] for number in left)]
            bar.advance(self.cost - self.steps * sum(rows.stop - rows.start for rows in ahead))
            own, began = team.share_bar(bar), (time.monotonic(), time.process_time())
            interrupted = False
            try:
                for number in team.deal(left):
                    i, bucket, rows = blocks[number]
                    one, replicas = stores[i], laid[i]
                    size = planned.block_size if self.whole_blocks else min(one.block_size, replicas.count)
                    one.write(bucket, rows, self._block(planned, replicas, bucket, rows, size, own.advance))
                    if team.count == share.count == 1:
                        warn_of_idle_cores(planned.devices, began)
            except KeyboardInterrupt:
                if not (partial and in_notebook()):
                    raise
                interrupted = True
            if not interrupted:
                team.meet()
                for one in stores if team.first else ():
                    one.finish()
        dataset = assembled(stores, planned.header.asked)
        if interrupted:
            missing = int((dataset.diverged_step == -2).sum())
            again = "" if place is None else "; the same call goes on"
            log.warning("interrupted: %d of %d replicas are not computed%s", missing, self.grid.size, again)
        if team.first:
            _warn_of_lost(dataset)
        return self._without_dt(dataset)

    def _block(
        self, planned: Plan, replicas: Replicas, bucket: int, rows: slice, size: int, advance: Callable[[int], None]
    ) -> dict[str, np.ndarray]:
        """The arrays of one block; nothing is computed where a short bucket of points is filled up."""
        from dysonjax.storage.lazy_array import nothing

        held, values = replicas.held(bucket, rows), {}
        if held.stop > held.start:
            values = simulate(
                self.dynamics, replicas.keys(bucket, held), replicas.hyper(bucket, held),
                self.steps, snapshots=planned.marks, observables=planned.observables, devices=planned.devices,
                tile=planned.tile, block_size=size, on_progress=advance,
            )  # fmt: skip
        if held == rows:
            return values
        layout = {name: ((rows.stop - rows.start, *inner), dtype) for name, (inner, dtype) in planned.arrays.items()}
        filled = {name: np.full(shape, nothing(dtype), dtype) for name, (shape, dtype) in layout.items()}
        for name, value in values.items():
            filled[name][: len(value)] = value
        return filled

    def open(self, *places: Path, lazy: bool | None = None) -> "xr.Dataset":
        """The results that `places` hold, parts of one run, finished or not."""
        from dysonjax.storage.extensions import open_all

        return self._without_dt(open_all(places, lazy))

    def _without_dt(self, dataset: "xr.Dataset") -> "xr.Dataset":
        """A time step that was given for all is no axis."""
        if self.dt is None:
            return dataset
        return dataset.isel(dt=0) if "dt" in dataset.dims else dataset.drop_vars("dt")

    def missing(self, place: Path) -> tuple[list[str], int]:
        """Names of the blocks that are not finished, and how many blocks there are."""
        from dysonjax.storage.extensions import load_all, missing_blocks

        return missing_blocks(load_all(place), self.grid.size)

    def verify(self, place: Path, repair: bool = False, recompute: int = 0) -> Verified:
        """Read every byte that `place` holds; see `engine.jobs.Job`."""
        from dysonjax.engine.verifying import computed_again, read_through

        found = read_through(place, repair, lambda: prepare(self))
        return found if found.damage or not recompute else computed_again(self, place, recompute, found)

    def forecast(
        self, place: Path | None, known: "dict[str, Measured]", shares: int = 1, block_size: int | None = None,
        extend: bool = False,
    ) -> "Forecast":  # fmt: skip
        """What it would cost; see `engine.cost.forecast`."""
        from dysonjax.engine.cost import forecast

        return forecast(self, self.name or str(place), place, known, shares, block_size, extend)


def _warn_of_lost(dataset: "xr.Dataset") -> None:
    """One line on the replicas that became non-finite, else on those that stayed finite and have a loss of NaN."""
    step = dataset.diverged_step
    if (lost := step >= 0).any():
        first = _replica(step, step.where(lost).argmin(...))
        log.warning(
            "%d of %d replicas became non-finite, the first at %s after update %d%s; see diverged_step",
            int(lost.sum()), step.size, _named(first), int(first),
            "" if int(first) else " (data, loss or initial weights are not finite)",
        )  # fmt: skip
        return
    for name, loss in dataset.items():
        if not str(name).endswith("loss") or loss.dims != (*step.dims, "snapshot"):
            continue
        if (unknown := loss.isel(snapshot=-1).isnull() & (step == -1)).any():
            log.warning(
                "%s is NaN in %d of %d replicas with finite weights, the first at %s: do the data hold NaN?",
                name, int(unknown.sum()), step.size, _named(_replica(step, unknown.argmax(...))),
            )  # fmt: skip
            return


def _replica(values: "xr.DataArray", place: "Mapping[Any, xr.DataArray]") -> "xr.DataArray":
    return values.isel({name: int(index) for name, index in place.items()})


def _named(replica: "xr.DataArray") -> str:
    """Hyper-parameters and seed of one replica."""
    return ", ".join(f"{name} = {value.item():g}" for name, value in replica.coords.items())


def _stores(place: Path | None, planned: Plan, extend: bool, before: Callable[[], None]) -> "list[Store]":
    """The stores of a job, those of its extensions among them, made where there are none."""
    from dysonjax.storage import extensions, store

    header, arrays, size = planned.header, planned.arrays, planned.block_size
    by = origin(provenance(planned.devices))
    if place is None or not store.is_there(place):
        before()
        return [store.create(place, header, arrays, size, origin=by)]
    stores = extensions.load_all(place, writable=True)
    lacking = extensions.missing_points(stores, header, extend)
    before()
    if not lacking:
        return stores
    added = extended(planned, Points(**lacking), [one.name for one in stores[1:]])
    size = min(size, stores[0].block_size)
    return [*stores, store.create(place, added, arrays, size, extensions.name_of(added), by)]
