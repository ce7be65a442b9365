"""A run's directory: results block by block in a zarr store that a killed run is continued from, and their origin."""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.errors import ContainsArrayError
from zarr.storage import FsspecStore, MemoryStore

from dysonjax.core.errors import InputError, StoreError, shown
from dysonjax.storage import table
from dysonjax.storage.lazy_array import StoredArray, indexing, nothing
from dysonjax.storage.locations import is_remote, place, put
from dysonjax.storage.metadata import Header, difference, packed, unpacked
from dysonjax.storage.records import STORE, expect_free

FORMAT = "dysonjax run 1"
EXTENSION, SUFFIX = "store-", ".zarr"
"""What the name of an extension's store begins and ends with."""
EXTENDED = ("grid", "points", "gas", "bbp")
"""What an extension may change: axes, and the settings of two experiments, which `run.json` is compared by."""
LAZY = 2**28
"""Results of more bytes than this stay on disk and are read when they are looked at."""


class Store:
    """Arrays [bucket, replica, snapshot, …] in chunks of one block of replicas, and which blocks are finished.

    A block is finished when its mark is written, which happens last; files appear in one piece, so that a process
    killed at any moment leaves a store that is good up to its unfinished blocks. What is written once is never written
    again, so that any number of processes, on any machines, may read and write it at the same time.
    """

    def __init__(self, group: zarr.Group, directory: Path | None, name: str = STORE):
        self._group, self.name = group, name
        self.directory = directory
        with _reading(directory):
            self.header = Header(**unpacked(group.attrs["header"]))
            if not (isinstance(self.header.experiment, dict) and isinstance(self.header.axes, dict)):
                raise TypeError("header")
            self.header = self.header._replace(provenance=[*self.header.provenance, *self._sessions()])

    @functools.cached_property
    def arrays_by_name(self) -> dict[str, Any]:
        """The recorded arrays by name; opened once, as opening one takes milliseconds."""
        with _reading(self.directory):
            return {name: self._group[name] for name in self.header.variables}

    @property
    def block_size(self) -> int:
        """Replicas a block."""
        return self.arrays_by_name["diverged_step"].chunks[1]

    def pending(self) -> list[tuple[int, slice]]:
        """Bucket and replicas of every unfinished block."""
        blocks = self.blocks()
        return [blocks[number] for number in self.unfinished()]

    def finished(self) -> np.ndarray:
        """Which blocks are finished, [bucket, block]."""
        with _reading(self.directory):
            return np.asarray(self._group["finished"][:]) != 0  # type: ignore[index]

    def blocks(self) -> list[tuple[int, slice]]:
        """Bucket and replicas of every block; its place in the list is its number."""
        buckets, replicas = self.header.bucket_shape
        size = self.block_size
        starts = range(0, replicas, size)
        return [(bucket, slice(i, min(i + size, replicas))) for bucket in range(buckets) for i in starts]

    def unfinished(self) -> list[int]:
        """Numbers of the blocks that are not finished."""
        return np.flatnonzero(~self.finished()).tolist()

    def arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Inner shape and dtype of every array, as `create` takes them."""
        return {name: (array.shape[2:], array.dtype) for name, array in self.arrays_by_name.items()}

    def read(self, bucket: int, rows: slice) -> dict[str, np.ndarray]:
        """The arrays of one block, [replica, snapshot, …]."""
        with _reading(self.directory):
            return {name: np.asarray(array[bucket, rows]) for name, array in self.arrays_by_name.items()}

    def write(self, bucket: int, rows: slice, values: Mapping[str, np.ndarray]) -> None:
        """Store one finished block; raises `StoreError` when the disk refuses, and leaves the block unfinished."""
        with _writing(self.directory):
            for name, value in values.items():
                self.arrays_by_name[name][bucket, rows] = value
            self._group["finished"][bucket, rows.start // self.block_size] = 1  # type: ignore[index]

    def note(self, provenance: Mapping[str, Any]) -> None:
        """Add this session to the provenance, in a place of its own, for other processes may do so too."""
        name = f"session-{time.time_ns()}-{uuid.uuid4().hex[:8]}"  # in the order of time, and nobody else's
        with _writing(self.directory):
            self._group.create_group(name, attributes={"provenance": dict(provenance)})
            self.header = self.header._replace(provenance=[*self.header.provenance, provenance])
            if self.directory:
                text = json.dumps(packed(self.header._asdict()), indent=1, ensure_ascii=False)
                put(self.directory / "config.json", text + "\n")

    def _sessions(self) -> list[Mapping[str, Any]]:
        with warnings.catch_warnings():  # zarr warns of a group that another process is just making
            warnings.simplefilter("ignore")
            found = sorted((name, group) for name, group in self._group.groups() if name.startswith("session-"))
        return [group.attrs["provenance"] for _, group in found]  # type: ignore[misc]

    def dataset(self, order: Sequence[str] | None = None, lazy: bool | None = None) -> xr.Dataset:
        """All results, axes named after the grid; replicas of unfinished blocks are NaN, their `diverged_step` −2.

        `order`: the grid's axes (default: as they were asked for first). `lazy`: leave the values on disk, to be read
        when they are looked at; by default only where they are many.
        """
        return assembled([self], order, lazy)


def create(
    directory: Path | None,
    header: Header,
    arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    block_size: int,
    name: str = STORE,
) -> Store:
    """A new store in an empty or new `directory` (None: in memory), for arrays of the given inner shape and dtype.

    Several processes may do so at once: the first one's counts and the others open it.
    """
    if directory is None:
        return Store(_fill(MemoryStore(), header, arrays, block_size), None)
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        if is_remote(directory):  # everybody writes the same; the group's attributes, in one piece, come last
            return Store(_fill(_zarr_store(directory, name), header, arrays, block_size), directory, name)
        draft = directory / f"{name}.partial-{uuid.uuid4().hex[:8]}"
        try:
            _fill(draft, header, arrays, block_size)
            draft.rename(directory / name)
        except OSError:
            if not (directory / name).is_dir():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        for left in directory.glob(f"{name}.partial*"):  # by killed processes, or by one that finds the store made
            shutil.rmtree(left, ignore_errors=True)
    return load(directory, True, name)


def _fill(
    where: Any, header: Header, arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]], block_size: int
) -> zarr.Group:
    buckets, replicas = header.bucket_shape
    block_size = min(block_size, replicas)
    group = zarr.open_group(where, mode="a")

    def make(name: str, **layout: Any) -> None:
        with contextlib.suppress(ContainsArrayError):  # another process has made it, or one that was killed
            group.create_array(name, **layout)

    for name, (inner, dtype) in arrays.items():
        per_snapshot = () if name == "diverged_step" else ("snapshot",)
        names = ("bucket", "replica", *per_snapshot, *header.variables[name][0])
        make(
            name, shape=(buckets, replicas, *inner), chunks=(1, block_size, *inner), dtype=dtype,
            fill_value=nothing(dtype), dimension_names=names, compressors=compressors(dtype),
        )  # fmt: skip
    marks = (buckets, -(-replicas // block_size))
    make("finished", shape=marks, chunks=(1, 1), dtype=np.int8, fill_value=0)
    group.attrs.put({"format": FORMAT, "header": packed(header._asdict())})
    return group


def compressors(dtype: np.dtype) -> Any:
    """None for floating-point numbers: of noise a codec saves a tenth, for five times the time."""
    return None if np.issubdtype(dtype, np.inexact) else "auto"


def _zarr_store(directory: Path, name: str = STORE) -> Any:
    where: Any = directory / name
    return FsspecStore.from_url(str(where), storage_options=dict(where.storage_options)) if is_remote(where) else where


def exists(directory: Path, name: str = STORE) -> bool:
    """Does the directory hold a store?"""
    if is_remote(directory):  # one without format is being made, or its maker was killed
        try:
            return "format" in zarr.open_group(_zarr_store(directory, name), mode="r").attrs
        except FileNotFoundError:
            return False
    return (directory / name).is_dir()


def load(directory: str | os.PathLike[str], writable: bool = False, name: str = STORE) -> Store:
    """The store of an existing run; raises `StoreError` when there is none or it cannot be read."""
    path = place(directory)
    with _reading(path):
        found = exists(path, name)
    if not found:
        raise StoreError(f"{path}: expected the directory of a dysonjax run, but it holds no {STORE}")
    with _reading(path):
        group = zarr.open_group(_zarr_store(path, name), mode="r+" if writable else "r")
        found = group.attrs.get("format")
    if found != FORMAT:
        raise StoreError(f"{path / name}: expected format {FORMAT!r}, found {found!r}")
    return Store(group, path, name)


def load_all(directory: str | os.PathLike[str], writable: bool = False) -> list[Store]:
    """The store of an existing job and those of its extensions, each after all that it extends.

    Raises `StoreError` as `load` does, and where two extensions do not know of each other.
    """
    first = load(directory, writable)
    path = first.directory
    assert path is not None
    with _reading(path):
        names = sorted(p.name for p in path.iterdir() if p.name.startswith(EXTENSION) and p.name.endswith(SUFFIX))
    more = sorted((load(path, writable, name) for name in names), key=lambda s: len(s.header.whole["after"]))
    for i, one in enumerate(more):
        if [*one.header.whole["after"]] != sorted(s.name for s in more[:i]):
            raise StoreError(
                f"{path}: {one.name} and {more[i - 1].name} extend it and do not know of each other; remove one of them"
            )
    return [first, *more]


def assembled(stores: Sequence[Store], order: Sequence[str] | None = None, lazy: bool | None = None) -> xr.Dataset:
    """One dataset of a job's stores, with the axes of the last; see `Store.dataset`."""
    last = stores[-1].header
    axes, points = last.asked
    order = [*axes] if order is None else order
    axes = {name: axes[name] for name in order}
    done = [table.finished_places(s.header, s.finished(), s.block_size) for s in stores]
    where = None if len(stores) > 1 or points else table.stand_in_order(last, axes)
    if where is None:
        where = table.find(table.of_axes(axes, points), [table.columns(s.header) for s in stores], done)
        where = where if points else where.reshape([len(v) for v in axes.values()])
    else:
        where = np.where(done[0][where], where, -1) if not done[0].all() else where
    dims = ("point",) if points else tuple(order)
    arrays = [s.arrays_by_name for s in stores]
    if lazy is None:
        lazy = stores[0].directory is not None and sum(a.nbytes for own in arrays for a in own.values()) > LAZY
    variables = {}
    for name, (inner, description, unit) in last.variables.items():
        with _reading(stores[0].directory):
            value = StoredArray([own[name] for own in arrays], where)
            value = indexing.LazilyIndexedArray(value) if lazy else value.load()
        named = (*dims, *(() if name == "diverged_step" else ("snapshot",)), *inner)
        variables[name] = xr.Variable(named, value, {"long_name": description, "units": unit})
    coords: dict[str, Any] = {
        name: ("point" if points else name, np.asarray(values), {"long_name": name.replace("_", " "), "units": "1"})
        for name, values in axes.items()
    }
    coords["step"] = ("snapshot", np.asarray(last.snapshots), {"long_name": "update", "units": "1"})
    sessions = [session for s in stores for session in s.header.provenance]
    attrs = {"experiment": json.dumps(packed(last.experiment)), "provenance": json.dumps(sessions)}
    return xr.Dataset(variables, coords, attrs)


def is_there(directory: Path) -> bool:
    """Does the directory hold a store? Raises `StoreError` where it cannot be read, or holds other things."""
    with _reading(directory):
        found = exists(directory)
    if not found:
        expect_free(directory)
    return found


def extension(header: Header) -> str:
    """The name of the store of an extension: the same for the same points after the same extensions."""
    told = json.dumps([header.axes, header.whole["after"]], sort_keys=True)
    return f"{EXTENSION}{hashlib.blake2b(told.encode(), digest_size=8).hexdigest()}{SUFFIX}"


def unfinished(stores: Sequence[Store]) -> list[int]:
    """Numbers of the blocks that are not finished, counted through all stores of a job."""
    first = itertools.accumulate((len(one.blocks()) for one in stores), initial=0)
    return [start + number for start, one in zip(first, stores, strict=False) for number in one.unfinished()]


def missing_blocks(stores: Sequence[Store]) -> tuple[list[str], int]:
    """Numbers of the blocks that are not finished, as text, and how many blocks a job's stores have."""
    return [*map(str, unfinished(stores))], sum(len(one.blocks()) for one in stores)


def finished(directory: str | os.PathLike[str]) -> xr.Dataset:
    """The results of a run of which every block is finished; raises `StoreError` for any other."""
    stores = load_all(directory)
    missing, total = missing_blocks(stores)
    if missing:
        raise StoreError(f"{directory}: {len(missing)} of {total} blocks are not finished")
    return assembled(stores)


def expect_same(stored: Store, header: Header) -> None:
    """Raises `StoreError` for the store of another experiment, whatever its hyper-parameters and seeds."""
    one, other = (
        {k: v for k, v in h.items() if k not in EXTENDED} for h in (stored.header.experiment, header.experiment)
    )
    if found := difference(one, json.loads(json.dumps(other))):
        raise StoreError(f"{stored.directory}: holds another run ({found}); give a new directory to keep both")


def missing_points(stores: Sequence[Store], header: Header, extend: bool) -> dict[str, np.ndarray]:
    """The points of `header` that no store has, as a table; empty when the stores hold just those asked for.

    Raises `StoreError` for others, unless an extension is wanted, and for an extension that leaves out stored points.
    """
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


@contextlib.contextmanager
def _reading(directory: Path | None) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # whatever a damaged file makes zarr, its codecs or json say
        raise StoreError(f"{directory}: cannot be read ({type(error).__name__}: {shown(str(error))})") from error


@contextlib.contextmanager
def _writing(directory: Path | None) -> Iterator[None]:
    try:
        yield
    except (StoreError, InputError):
        raise
    except OSError as error:
        raise StoreError(
            f"{directory}: cannot be written ({error.strerror or error}); finished blocks are kept"
        ) from error
