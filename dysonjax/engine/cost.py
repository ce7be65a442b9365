"""What a scan will cost, before it runs: sizes are counted, time and compression measured on a few steps."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from zarr.storage import MemoryStore

from dysonjax.core.tables import Table
from dysonjax.engine.loop import simulate
from dysonjax.engine.planning import Plan, Scan, in_bytes, prepare
from dysonjax.runtime.devices import Devices
from dysonjax.storage import extensions, store
from dysonjax.storage.blocks import Access

SECONDS = 1.0
"""How long the steps that are measured should take."""


class Forecast(NamedTuple):
    """Of one scan, on this process' devices alone."""

    what: str
    replicas: int
    steps: int
    blocks: int
    block_size: int
    compilations: int
    store_bytes: int
    device_bytes: int
    """What a block takes of one device's memory."""
    device_memory: int
    seconds: float
    """All blocks, one after the other, compilations among them."""
    left: int
    """Blocks that are not finished in the store, if it is there already, and those that an extension adds."""


class Measured(NamedTuple):
    """Seconds of a few replicas, and the stored share of the bytes that they recorded."""

    units: int
    """Tiles on each device."""
    compiling: float
    start: float
    """Drawing the replicas, a first update and two records."""
    update: float
    record: float
    compressed: float


def forecast(
    scan: Scan, name: str, place: Path | None, known: dict[str, Measured], shares: int = 1,
    block_size: int | None = None, extend: bool = False, devices: Devices | None = None,
) -> Forecast:  # fmt: skip
    """What a scan takes, from a few measured steps; nothing is written.

    `known` keeps what was measured, for other scans of the same dynamics. Raises `InputError` as `scan` does, also for
    replicas that do not fit into the devices' memory, and `StoreError` when `place` holds another run.
    """
    planned = prepare(scan, devices, shares, block_size)
    left = planned.blocks
    if place is not None and store.exists(place):
        stores = extensions.load_all(place)
        lacking = extensions.missing_points(stores, planned.header, extend)
        planned = planned.resized(stores[0].block_size)
        added = len(next(iter(lacking.values()), ()))
        left = len(extensions.unfinished(stores)) + -(-added // planned.block_size)
    seconds, compressed = 0.0, 0.0
    buckets = sorted({0, len(planned.replicas.buckets) - 1})  # costs of those between lie between theirs
    for bucket in buckets:
        like = json.dumps([scan.dynamics.config, planned.replicas.buckets[bucket], len(planned.marks)], default=str)
        if like not in known:
            known[like] = _measure(planned, bucket)
        own = known[like]
        seconds += (len(planned.replicas.buckets) * own.compiling + left * _block(planned, own)) / len(buckets)
        compressed += own.compressed / len(buckets)
    count = len(planned.devices)
    return Forecast(
        name, scan.grid.size, scan.steps, planned.blocks,
        min(planned.block_size, planned.replicas.count), len(planned.replicas.buckets),
        _store_bytes(planned, compressed), planned.memory.block // count, planned.memory.total // count, seconds, left,
    )  # fmt: skip


def _block(planned: Plan, own: Measured) -> float:
    """Seconds of one block."""
    unit = planned.tile * len(planned.devices)
    units = -(-min(planned.block_size, planned.replicas.count) // unit)
    alone = own.start + own.update * (planned.scan.steps - 1) + own.record * (len(planned.marks) - 2)
    return alone * units / own.units


def _measure(planned: Plan, bucket: int) -> Measured:
    # several tiles on every device, so that the loop over tiles counts
    unit = planned.tile * len(planned.devices)
    rows = slice(0, min(planned.block_size, planned.replicas.count, 8 * unit))
    keys, hyper = planned.replicas.keys(bucket, rows), planned.replicas.hyper(bucket, rows)
    steps = planned.scan.steps

    def took(steps: int, marks: Sequence[int]) -> tuple[float, dict[str, np.ndarray]]:
        began = time.perf_counter()
        values = simulate(
            planned.scan.dynamics, keys, hyper, steps, snapshots=marks, observables=planned.observables,
            devices=planned.devices, tile=planned.tile,
        )  # fmt: skip
        return time.perf_counter() - began, values

    first, _ = took(1, [1])
    short = min(took(1, [1])[0] for _ in range(2))
    many, more = 1, min(16, steps)
    long = short
    while many < steps and long - short < SECONDS:
        many = more
        long, _ = took(many, [many])
        more = min(steps, math.ceil(many * min(100.0, max(2.0, 1.2 * SECONDS / max(long - short, 1e-3)))))
    update = max(long - short, 0.0) / max(many - 1, 1)
    marks = [*range(1, min(len(planned.marks), steps + 1))]
    seen, values = took(marks[-1], marks)
    record = max(seen - short - update * (marks[-1] - 1), 0.0) / max(len(marks) - 1, 1)
    compressed = _compressed(values, len(planned.marks))
    return Measured(-(-rows.stop // unit), max(first - short, 0.0), short, update, record, compressed)


def _compressed(values: dict[str, np.ndarray], snapshots: int) -> float:
    kept: dict[str, Any] = {}
    group = zarr.open_group(MemoryStore(kept), mode="w")
    size = 0
    for name, value in values.items():
        if name != "diverged_step" and value.shape[1] < snapshots:
            value = np.concatenate([value, *[value[:, -1:]] * (snapshots - value.shape[1])], axis=1)
        group.create_array(name, data=value[None], chunks=(1, *value.shape), compressors=store.compressors(value.dtype))
        size += value.nbytes
    return sum(len(value) for key, value in kept.items() if "/c/" in key) / size


def _store_bytes(planned: Plan, compressed: float) -> int:
    """Values; metadata, twice those of arrays; hyper-parameters; lists of blocks."""
    raw = planned.scan.grid.size * sum(math.prod(inner) * dtype.itemsize for inner, dtype in planned.arrays.values())
    kept: dict[str, Any] = {}
    store.fill(Access(MemoryStore(kept)), planned.header, planned.arrays, planned.block_size, {})
    around = sum(len(value) * (1 if "/c/" in key else 2) for key, value in kept.items())
    return int(raw * compressed) + around + planned.blocks * (230 + 150 * len(planned.arrays))


def table(forecasts: Sequence[Forecast], processes: int = 1) -> Table:
    """One line a scan, and their sum."""
    names = ("replicas", "updates", "blocks", "of replicas", "compilations", "store", "a device needs", "time")
    shown = Table(
        title=f"What it would take{f', on {processes} processes' if processes > 1 else ''}; nothing was written"
    )
    for name in ("", *names):
        shown.add_column(name, justify="right" if name else "left")
    for f in forecasts:
        blocks = f"{f.blocks}" if f.left == f.blocks else f"{f.left} left of {f.blocks}"
        shown.add_row(
            f.what, f"{f.replicas:,}", f"{f.steps:,}", blocks, f"{f.block_size:,}", f"{f.compilations}",
            in_bytes(f.store_bytes), f"{in_bytes(f.device_bytes)} of {in_bytes(f.device_memory)}",
            duration(f.seconds / processes),
        )  # fmt: skip
    if len(forecasts) > 1:
        shown.add_section()
        shown.add_row(
            "all", f"{sum(f.replicas for f in forecasts):,}", "", f"{sum(f.left for f in forecasts)}", "",
            f"{sum(f.compilations for f in forecasts)}", in_bytes(sum(f.store_bytes for f in forecasts)), "",
            duration(sum(f.seconds for f in forecasts) / processes),
        )  # fmt: skip
    return shown


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for name, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.2g} {name}"
    return f"{seconds:.2g} s"
