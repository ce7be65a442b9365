"""`scan`: a whole grid of hyper-parameters and seeds through one loop, resumable, as one labelled dataset."""

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtyping import PRNGKeyArray

from dysonjax.core.dynamics import Dynamics
from dysonjax.core.errors import require
from dysonjax.core.observables import Observable
from dysonjax.engine.grid import Grid
from dysonjax.engine.loop import simulate
from dysonjax.engine.planning import Job, prepare
from dysonjax.runtime import team as cluster
from dysonjax.runtime.devices import Devices
from dysonjax.runtime.progress import Bar, progress_bar
from dysonjax.runtime.team import WHOLE, Share
from dysonjax.storage.metadata import provenance

if TYPE_CHECKING:
    import xarray as xr

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
    return run_job(
        Job(dynamics, grid, steps, key, dt, snapshots, observables, out, block_size), devices, progress, share
    )


def run_job(
    job: Job, devices: Devices | None = None, progress: "bool | Bar | None" = None, share: Share = WHOLE
) -> "xr.Dataset":
    """`scan` for a `Job`."""
    from dysonjax.storage import store  # and with it xarray and zarr, a second of start-up

    team = cluster.team()
    planned = prepare(job, devices, share.count * team.count)
    require(job.out is not None or team.count == 1, "out", job.out, "a directory, where the processes meet")
    size = job.grid.size * job.steps
    with team.working(), progress_bar("scan", size, progress if team.first else False) as bar:
        results = team.one_first(
            lambda: store.open_or_create(job.out, planned.header, planned.arrays, planned.block_size)
        )
        blocks = results.blocks()
        # what is left is read once for all: it changes as soon as somebody works
        left = team.agree(lambda: share.of(results.unfinished()))
        if left and team.first:
            results.note(provenance(planned.devices, team.count, str(share)))
        bar.advance(size - job.steps * sum(rows.stop - rows.start for _, rows in (blocks[n] for n in left)))
        own = team.share_bar(bar)
        for number in team.deal(left):
            bucket, rows = blocks[number]
            values = simulate(
                job.dynamics, planned.replicas.keys(bucket, rows), planned.replicas.hyper(bucket, rows), job.steps,
                snapshots=planned.marks, observables=planned.observables, devices=planned.devices, tile=planned.tile,
                on_progress=own.advance,
            )  # fmt: skip
            results.write(bucket, rows, values)
        team.meet()
    dataset = results.dataset([*planned.header.axes])
    lost = int((dataset.diverged_step >= 0).sum())
    if lost and team.first:
        log.warning("%d of %d replicas left the finite numbers; see diverged_step", lost, job.grid.size)
    return dataset if job.dt is None else dataset.isel(dt=0)
