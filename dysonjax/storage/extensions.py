"""The stores of one job: the first, and one for every extension by more points or seeds."""

import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dysonjax.core.errors import StoreError
from dysonjax.storage import table
from dysonjax.storage.damage import check
from dysonjax.storage.dataset import assembled
from dysonjax.storage.locations import reading
from dysonjax.storage.metadata import Header, difference
from dysonjax.storage.store import Store, load

EXTENSION, SUFFIX = "store-", ".zarr"
"""What the name of an extension's store begins and ends with."""
AXES = ("grid", "points")
"""Where an experiment tells its points, which an extension may change."""
SETTINGS = ("seeds", "learning_rate", "batch_size", "init_width", "temperature", "dt")
"""Settings that become axes; some dynamics keep all settings of their experiment in an entry of their own."""


def load_all(directory: str | os.PathLike[str], writable: bool = False, checked: bool = True) -> list[Store]:
    """The store of an existing job and those of its extensions, each after all that it extends.

    Raises `StoreError` as `load` does, where two extensions do not know of each other, and, `checked`, for damage.
    """
    first = load(directory, writable)
    path = first.directory
    assert path is not None
    with reading(path):
        names = sorted(p.name for p in path.iterdir() if p.name.startswith(EXTENSION) and p.name.endswith(SUFFIX))
    more = sorted((load(path, writable, name) for name in names), key=lambda s: len(s.header.whole["after"]))
    for i, one in enumerate(more):
        if [*one.header.whole["after"]] != sorted(s.name for s in more[:i]):
            raise StoreError(
                f"{path}: {one.name} and {more[i - 1].name} extend it and do not know of each other; remove one of them"
            )
    for one in (first, *more) if checked else ():
        check(one)
    return [first, *more]


def open_all(places: Sequence[Path], lazy: bool | None = None) -> xr.Dataset:
    """The results of a job, whose shares may lie in several places; see `storage.dataset.assembled`."""
    stores = [one for place in places for one in load_all(place)]
    for one in stores:
        if found := difference(without_axes(stores[0].header.experiment), without_axes(one.header.experiment)):
            raise StoreError(f"{one.directory}: another run than {stores[0].directory} ({found})")
    return assembled(sorted(stores, key=lambda one: len(one.header.whole.get("after", ()))), lazy=lazy)


def name_of(header: Header) -> str:
    """The name of the store of an extension: the same for the same points after the same extensions."""
    told = json.dumps([header.axes, header.whole["after"]], sort_keys=True)
    return f"{EXTENSION}{hashlib.blake2b(told.encode(), digest_size=8).hexdigest()}{SUFFIX}"


def unfinished(stores: Sequence[Store]) -> list[int]:
    """Numbers of the blocks that are not finished, counted through all stores of a job."""
    first = itertools.accumulate((len(one.blocks()) for one in stores), initial=0)
    return [start + number for start, one in zip(first, stores, strict=False) for number in one.unfinished()]


def missing_blocks(stores: Sequence[Store], replicas: int) -> tuple[list[str], int]:
    """Names of the blocks that are not finished, and how many blocks there are, of a job that should have `replicas`.

    An extension that was interrupted before its store was made counts as one block.
    """
    names, total = [*map(str, unfinished(stores))], sum(len(one.blocks()) for one in stores)
    lacking = replicas - sum(int(table.present(one.header).sum()) for one in stores)
    return ([*names, f"{lacking} added replicas"], total + 1) if lacking > 0 else (names, total)


def _expect_same(stored: Store, header: Header) -> None:
    """Raises `StoreError` for the store of another experiment, whatever its hyper-parameters and seeds."""
    one, other = map(without_axes, (stored.header.experiment, header.experiment))
    if found := difference(one, json.loads(json.dumps(other))):
        raise StoreError(f"{stored.directory}: holds another run ({found}); give a new directory to keep both")


def without_axes(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """What an extension keeps of an experiment."""

    def entry(value: Any) -> Any:
        return {n: v for n, v in value.items() if n not in SETTINGS} if isinstance(value, Mapping) else value

    return {name: entry(value) for name, value in experiment.items() if name not in AXES}


def missing_points(stores: Sequence[Store], header: Header, extend: bool) -> dict[str, np.ndarray]:
    """The points of `header` that no store has, as a table; empty when the stores hold just those asked for.

    Raises `StoreError` for the stores of another experiment, for other points unless `extend`, and for an extension
    that leaves out stored points.
    """
    _expect_same(stores[0], header)
    axes, points = header.asked
    if len(stores) == 1 and not points and table.stand_in_order(stores[0].header, axes) is not None:
        return {}
    asked, tables = table.columns(header), [table.columns(s.header) for s in stores]
    there = [table.present(s.header) for s in stores]
    where = table.find(asked, tables, there)
    stored = sum(int(t.sum()) for t in there)
    wanted = table.present(header)
    lacking = wanted & (where < 0)
    if stored > int((wanted & ~lacking).sum()) or (lacking.any() and not extend):
        last = stores[-1].header
        (kept, _), now = last.asked, dict(header.asked[0])
        found = difference({"grid": dict(kept)}, {"grid": json.loads(json.dumps(now))}) or "other points"
        how = "expected all points that it holds, and more" if extend else "extend=True adds points to those it holds"
        raise StoreError(
            f"{stores[0].directory}: holds another run ({found}); give a new directory to keep both, or {how}"
        )
    if not lacking.any():
        return {}
    return {name: column[lacking].astype(int if name == "seed" else float) for name, column in asked.items()}
