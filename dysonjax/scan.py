"""`scan`: a whole grid of hyper-parameters and seeds through one loop, resumable, as one labelled dataset."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import jax
import numpy as np
import xarray as xr
from jaxtyping import PRNGKeyArray
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from dysonjax import store
from dysonjax.dynamics import Dynamics
from dysonjax.errors import require, whole
from dysonjax.grid import Grid, Replicas
from dysonjax.observables import Observable
from dysonjax.simulate import Devices, check_snapshots, layout, simulate, tile_size

log = logging.getLogger(__name__)

UPDATES_A_BLOCK = 2**25
"""A block is at most about this many replica-updates, so that a kill loses seconds to minutes, not the run."""


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
) -> xr.Dataset:
    """Run every replica of `grid` for `steps` updates; returns a dataset with dimensions named after the grid.

    `dt`: the time step of a Langevin equation, if one for all (a grid may have an axis `dt` instead).
    `snapshots`: update numbers at which levels and observables are recorded (default: 21, log-spaced; 0 and `steps` are
    always among them). `observables`: what is recorded besides the levels (default: the dynamics' own). `out`: a run's
    directory; finished blocks are written there, and the same call continues an interrupted run. `block_size`:
    replicas a block (default: by memory and length). `devices`: default all local ones. `progress`: a bar on the
    terminal, by default when there is one, or a bar of the caller's, which hears the replica-updates. A replica's
    numbers depend on `key`, its hyper-parameters and its seed alone, never on the grid, the blocks or the devices.

    A replica that leaves the finite numbers is held at its last finite state; `diverged_step` tells when (−1: never; if
    only its levels are not finite, the next snapshot).
    Raises `InputError` for bad arguments and `StoreError` when `out` cannot be used.

    >>> net = dj.models.TanhNetwork()  # doctest: +SKIP
    >>> dj.scan(dj.sgd(net), dj.Grid(learning_rate=[0.125], batch_size=[4]), steps=2000).levels  # doctest: +SKIP
    """
    marks = check_snapshots(steps, snapshots)
    if dt is not None:
        require("dt" not in grid.axes, "dt", dt, "None: the grid has an axis dt")
        grid = Grid(**grid.axes, dt=[dt])
    observables = tuple(dynamics.observables if observables is None else observables)
    devices = tuple(devices or jax.local_devices())
    base = key if isinstance(key, jax.Array) else jax.random.key(whole("key", key, 0, 2**32 - 1))
    replicas = Replicas(dynamics, grid, base)
    shown = layout(dynamics, observables, replicas.hyper(0, slice(0, 1)))
    for bucket in range(1, len(replicas.buckets)):  # bad sizes must be refused before anything has run
        layout(dynamics, observables, replicas.hyper(bucket, slice(0, 1)))

    experiment = {
        **dynamics.config,
        "grid": {name: list(values) for name, values in grid.axes.items()},
        "steps": int(steps),
        "snapshots": list(marks),
        "observables": [dict(o.config) for o in observables],
        "key": np.asarray(jax.random.key_data(base)).tolist(),
        "precision": str(jax.numpy.zeros(()).dtype),
    }
    arrays: dict[str, tuple[tuple[int, ...], np.dtype]] = {
        name: ((len(marks), *inner), dtype) for name, (inner, dtype) in shown.arrays.items()
    }
    arrays["diverged_step"] = ((), np.dtype(np.int32))
    header = store.Header(
        experiment, grid.axes, replicas.static, replicas.traced, marks, store.label(shown.variables), []
    )
    memory = memory_budget(devices)
    tile = tile_size(
        dynamics, len(replicas.rows), devices[0].platform, memory // (shown.bytes_a_replica * len(devices))
    )
    if block_size is None:
        block_size = plan(len(replicas.rows), tile * len(devices), steps, shown.bytes_a_replica, memory)
    results = store.open_or_create(out, header, arrays, whole("block_size", block_size))

    pending = results.pending()
    if pending:
        results.note(store.provenance(devices))
    with progress_bar("scan", grid.size * steps, progress) as bar:
        sizes = {i: len(replicas.rows[rows]) for i, (_, rows) in enumerate(pending)}
        bar.advance((grid.size - sum(sizes.values())) * steps)
        for bucket, rows in pending:
            values = simulate(
                dynamics, replicas.keys(bucket, rows), replicas.hyper(bucket, rows), steps,
                snapshots=marks, observables=observables, devices=devices, tile=tile,
                on_progress=bar.advance,
            )  # fmt: skip
            results.write(bucket, rows, values)
    dataset = results.dataset().transpose(*grid.axes, ...)
    lost = int((dataset.diverged_step >= 0).sum())
    if lost:
        log.warning("%d of %d replicas left the finite numbers; see diverged_step", lost, grid.size)
    return dataset if dt is None else dataset.isel(dt=0)


def plan(replicas: int, unit: int, steps: int, bytes_a_replica: int, memory: int) -> int:
    """Replicas a block: whole `unit`s (a tile on each device), within memory and `UPDATES_A_BLOCK`, blocks alike."""
    units = -(-replicas // unit)
    most = max(1, min(memory // max(bytes_a_replica * unit, 1), UPDATES_A_BLOCK // (steps * unit)))
    blocks = -(-units // most)
    return -(-units // blocks) * unit


def memory_budget(devices: Devices) -> int:
    """Bytes that a block's states and data may take: half of what the devices have, an eighth of a host's memory."""
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" in stats and devices[0].platform != "cpu":
        return int(stats["bytes_limit"]) * len(devices) // 2
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8, 2**31)


class Bar(Protocol):
    """Where progress is told, in replica-updates."""

    def advance(self, updates: int) -> None: ...


class _Silent:
    def advance(self, updates: int) -> None:
        return


class _Rate(ProgressColumn):
    def render(self, task: Any) -> Text:
        speed = task.finished_speed or task.speed
        return Text("–" if speed is None else f"{speed / 1e6:.2f} M updates/s")


@contextmanager
def progress_bar(what: str, total: int, wanted: bool | Bar | None = None, rate: bool = True) -> Iterator[Bar]:
    """A bar on the terminal with time spent and left (None: only where there is a terminal), the caller's, or none."""
    if not isinstance(wanted, bool | None):
        yield wanted
        return
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield _Silent()
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), *[_Rate()] * rate,
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=60) as bars:
        task = bars.add_task(what, total=total)

        class Live:
            def advance(self, updates: int) -> None:
                bars.advance(task, updates)

        yield Live()
