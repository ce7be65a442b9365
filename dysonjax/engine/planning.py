"""What a scan is going to do, decided and checked before it starts: layout, tiles, blocks, memory."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from dysonjax.core.dynamics import Dynamics
from dysonjax.core.errors import InputError, require, whole
from dysonjax.core.observables import Observable
from dysonjax.core.snapshots import check_snapshots
from dysonjax.engine.grid import Grid, Points, Replicas, with_value
from dysonjax.engine.loop import SNAPSHOTS_PER_CHUNK, layout, tile_size
from dysonjax.engine.working_memory import working_bytes
from dysonjax.runtime.devices import Devices
from dysonjax.storage.metadata import Header, label

log = logging.getLogger(__name__)

UPDATES_PER_BLOCK = 2**25
"""A block is at most about this many replica-updates, so that a kill loses seconds to minutes, not the run."""
RECORDED_PER_BLOCK = 2**27
"""Bytes that a block may record, which the host keeps until the block is written."""
BLOCKS_PER_SHARE = 4
"""Blocks that every process should get where there are enough replicas, so that all have work to the end."""


@dataclass(frozen=True, eq=False)
class Scan:
    """What a scan computes: the arguments of `dysonjax.scan` that decide the numbers; see there."""

    dynamics: Dynamics
    grid: Grid | Points
    steps: int
    key: PRNGKeyArray | int = 0
    dt: float | None = None
    snapshots: Sequence[int] | None = None
    observables: Sequence[Observable] | None = None
    paired: bool = False
    whole_blocks: bool = False
    """Compute a block of fewer replicas as if it were whole, so that scans of several sizes share one program."""


class Memory(NamedTuple):
    """Bytes of all devices together: what they have, what a block may take of it, and what it takes."""

    total: int
    budget: int
    block: int


@dataclass(frozen=True, eq=False)
class Plan:
    """A job with everything that follows from it and from the devices."""

    scan: Scan
    marks: tuple[int, ...]
    observables: tuple[Observable, ...]
    devices: Devices
    replicas: Replicas
    header: Header
    arrays: dict[str, tuple[tuple[int, ...], np.dtype]] = field(repr=False)
    tile: int
    block_size: int
    memory: Memory

    @property
    def blocks(self) -> int:
        """Blocks of the whole job."""
        return len(self.replicas.buckets) * -(-self.replicas.count // self.block_size)

    def resized(self, block_size: int) -> "Plan":
        """The same in blocks of another size, that of a store that is there already."""
        return Plan(**{**vars(self), "block_size": block_size})


def prepare(scan: Scan, devices: Devices | None = None, shares: int = 1, block_size: int | None = None) -> Plan:
    """Check a scan and lay it out for `devices` (default: all local ones), for `shares` processes to have work.

    Raises `InputError` for bad arguments and for replicas that do not fit into the devices' memory.
    """
    marks = check_snapshots(scan.steps, scan.snapshots)
    grid = scan.grid
    if scan.dt is not None:
        require("dt" not in grid.axes, "dt", scan.dt, "None: the grid has an axis dt")
        grid = with_value(grid, "dt", scan.dt)
    dynamics = scan.dynamics
    observables = tuple(dynamics.observables if scan.observables is None else scan.observables)
    devices = tuple(devices or jax.local_devices())
    replicas = replicas_of(scan, grid)
    shared, total, budget = dynamics.shared_bytes * len(devices), device_memory(devices), memory_budget(devices)
    if shared > total:
        own, room = (in_bytes(x / len(devices)) for x in (shared, total))
        raise InputError(f"data = {own}: expected at most {room}, for every device holds all examples in its memory")
    firsts = [replicas.hyper(bucket, slice(0, 1)) for bucket in range(len(replicas.buckets))]
    layouts = [layout(dynamics, observables, first) for first in firsts]  # bad sizes are refused before anything runs
    shown = layouts[0]
    recorded = sum(int(np.prod(inner)) * dtype.itemsize for inner, dtype in shown.arrays.values())
    most = max(one.bytes_per_replica for one in layouts) + recorded * SNAPSHOTS_PER_CHUNK
    working = 0  # on a CPU for a few replicas at a time
    if devices[0].platform != "cpu":
        working = max(working_bytes(dynamics, observables, first, devices[0].platform) for first in firsts)

    experiment = {
        **dynamics.config,
        **_told(grid),
        "steps": int(scan.steps),
        "snapshots": list(marks),
        "observables": [dict(o.config) for o in observables],
        "key": np.asarray(jax.random.key_data(base_key(scan))).tolist(),
        "precision": str(jax.numpy.zeros(()).dtype),
        **({"paired": True} if scan.paired else {}),
    }
    arrays: dict[str, tuple[tuple[int, ...], np.dtype]] = {
        name: ((len(marks), *inner), dtype) for name, (inner, dtype) in shown.arrays.items()
    }
    arrays["diverged_step"] = ((), np.dtype(np.int32))
    header = _laid_out(Header(experiment, {}, {}, {}, marks, label(shown.variables), []), grid, replicas)
    block = replicas.count if block_size is None else whole("block_size", block_size)
    block = block if scan.whole_blocks else min(replicas.count, block)
    side_by_side = (most + working) * len(devices)  # bytes of one replica on every device
    tile = tile_size(dynamics, -(-block // len(devices)), devices[0].platform, budget // side_by_side)
    unit = tile * len(devices)
    require(
        side_by_side * tile <= total, "grid", grid.shape,
        f"replicas that fit: {tile} a device take {in_bytes((most + working) * tile)} of "
        f"{in_bytes(total // len(devices))}",
    )  # fmt: skip
    size = block_size
    if size is None:
        least = shares * BLOCKS_PER_SHARE / len(replicas.buckets) if shares > 1 else 1
        limit = RECORDED_PER_BLOCK // (recorded * len(marks))
        wanted = plan(replicas.count, unit, scan.steps, most, total, least, limit)
        size = plan(replicas.count, unit, scan.steps, most, budget, least, limit)
        if size < wanted:
            log.warning("blocks of %d replicas instead of %d, for %s of memory", size, wanted, in_bytes(budget))
    size = whole("block_size", size)
    needs = most * -(-min(size, replicas.count) // unit) * unit
    require(needs <= total, "block_size", size, f"blocks that fit: it takes {in_bytes(needs)} of {in_bytes(total)}")
    return Plan(scan, marks, observables, devices, replicas, header, arrays, tile, size, Memory(total, budget, needs))


def base_key(scan: Scan) -> PRNGKeyArray:
    """The key of all of a scan's random numbers."""
    return scan.key if isinstance(scan.key, jax.Array) else jax.random.key(whole("key", scan.key, 0, 2**32 - 1))


def replicas_of(scan: Scan, grid: Grid | Points) -> Replicas:
    """The replicas of a grid, with the keys that they have in a scan."""
    return Replicas(scan.dynamics, grid, base_key(scan), scan.paired)


def extended(planned: Plan, points: Points, after: Sequence[str]) -> Header:
    """The header of a store of `points` that extends the stores before it to all that is planned."""
    kept = {name: value for name, value in planned.header.experiment.items() if name not in ("grid", "points")}
    header = planned.header._replace(experiment={**kept, **_told(points)})
    axes, are_points = planned.header.asked
    whole = {"axes": axes, "points": are_points, "after": sorted(after)}
    return _laid_out(header, points, replicas_of(planned.scan, points))._replace(whole=whole)


def _told(grid: Grid | Points) -> dict[str, Any]:
    """A grid or points as a store tells them."""
    return {
        "points" if isinstance(grid, Points) else "grid": {name: list(values) for name, values in grid.axes.items()}
    }


def _laid_out(header: Header, grid: Grid | Points, replicas: Replicas) -> Header:
    rows = () if replicas.rows is None else replicas.rows.tolist()
    return header._replace(axes=grid.axes, static=replicas.static, traced=replicas.traced, rows=rows)


def plan(
    replicas: int, unit: int, steps: int, bytes_per_replica: int, memory: int, least: float = 1, limit: int = 2**31
) -> int:
    """Replicas a block: whole `unit`s (a tile on each device), within memory and `UPDATES_PER_BLOCK`, blocks alike.

    `least`: blocks that there should be, where there are as many units. `limit`: the most replicas of a block.
    """
    units = -(-replicas // unit)
    fitting = (memory // max(bytes_per_replica * unit, 1), UPDATES_PER_BLOCK // (steps * unit), limit // unit)
    most = max(1, min(*fitting, int(units / least)))
    blocks = -(-units // most)
    return -(-units // blocks) * unit


def memory_budget(devices: Devices) -> int:
    """Bytes that a block's states and data may take: half of what the devices have, an eighth of a host's memory."""
    if devices[0].platform != "cpu" and _limit(devices[0]):
        return _limit(devices[0]) * len(devices) // 2
    return min(device_memory(devices) // 8, 2**31)


def device_memory(devices: Devices) -> int:
    """Bytes that all `devices` together have; a host's memory where they do not tell."""
    if devices[0].platform != "cpu" and _limit(devices[0]):
        return _limit(devices[0]) * len(devices)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def in_bytes(count: float) -> str:
    """Bytes in the largest unit of which there is one."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _limit(device: Any) -> int:
    return int((device.memory_stats() or {}).get("bytes_limit", 0))
