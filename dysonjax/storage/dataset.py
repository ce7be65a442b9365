"""Stores as one labelled dataset with the axes of the grid, or of the points, that was asked for."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from dysonjax.storage import table
from dysonjax.storage.lazy_array import StoredArray, indexing
from dysonjax.storage.locations import reading
from dysonjax.storage.metadata import Header, packed

LAZY = 2**28
"""Results of more bytes than this stay on disk and are read when they are looked at."""

Asked = tuple[Mapping[str, Sequence[float]], bool]
"""Axes, and whether they are those of points, which have a value for each replica."""


def assembled(stores: Sequence[Any], asked: Asked | None = None, lazy: bool | None = None) -> xr.Dataset:
    """All results of a job's stores; replicas of unfinished blocks are NaN, their `diverged_step` −2.

    `stores`: of `storage.store.Store`, which imports this. `asked`: the axes, by default as they were asked for last.
    `lazy`: leave the values on disk, to be read when they are looked at; by default only where they are many.
    """
    last = stores[-1].header
    axes, points = last.asked if asked is None else asked
    done = [table.finished_places(s.header, s.finished(), s.block_size) for s in stores]
    where = None if len(stores) > 1 or points else table.stand_in_order(last, axes)
    if where is None:
        where = table.find(table.of_axes(axes, points), [table.columns(s.header) for s in stores], done)
        where = where if points else where.reshape([len(v) for v in axes.values()])
    elif not done[0].all():
        where = np.where(done[0][where], where, -1)
    dims = ("point",) if points else tuple(axes)
    arrays = [s.arrays_by_name for s in stores]
    if lazy is None:
        lazy = stores[0].directory is not None and sum(a.nbytes for own in arrays for a in own.values()) > LAZY
    variables, chunks = {}, {"point": stores[0].block_size} if points else _near_blocks(last, stores[0].block_size)
    for name, (inner, description, unit) in last.variables.items():
        with reading(stores[0].directory):
            value = StoredArray([own[name] for own in arrays], where)
            value = indexing.LazilyIndexedArray(value) if lazy else value.load()
        named = (*dims, *(() if name == "diverged_step" else ("snapshot",)), *inner)
        near = {dim: size for dim, size in chunks.items() if dim in named}
        label = {"long_name": description, "units": unit}
        variables[name] = xr.Variable(named, value, label, {"preferred_chunks": near} if lazy else None)
    coords: dict[str, Any] = {
        name: ("point" if points else name, np.asarray(values), {"long_name": name.replace("_", " "), "units": "1"})
        for name, values in axes.items()
    }
    coords["step"] = ("snapshot", np.asarray(last.snapshots), {"long_name": "update", "units": "1"})
    sessions = [session for s in stores for session in s.header.provenance]
    experiment = dict(last.experiment)
    if last.whole:  # the points of an extension alone are its own affair
        del experiment["points"]
        experiment["points" if points else "grid"] = {name: list(values) for name, values in axes.items()}
    attrs = {"experiment": json.dumps(packed(experiment)), "provenance": json.dumps(sessions)}
    return xr.Dataset(variables, coords, attrs)


def _near_blocks(header: Header, block_size: int) -> dict[str, int]:
    """Lengths along the axes of a grid that cover about one block."""
    lengths = {name: 1 for name in header.static}
    for name, values in reversed([*header.traced.items()]):
        lengths[name] = min(len(values), block_size)
        block_size = max(1, block_size // len(values))
    return lengths
