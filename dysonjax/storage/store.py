"""A run's directory: results block by block in a zarr store that a killed run is continued from, and their origin."""

import contextlib
import functools
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.errors import ContainsArrayError
from zarr.storage import FsspecStore, MemoryStore

from dysonjax.core.errors import StoreError
from dysonjax.storage.dataset import assembled
from dysonjax.storage.lazy_array import nothing
from dysonjax.storage.locations import is_remote, place, put, reading, writing
from dysonjax.storage.metadata import Header, packed, unpacked
from dysonjax.storage.records import STORE, expect_free

FORMAT = "dysonjax run 1"


class Store:
    """Arrays [bucket, replica, snapshot, …] in chunks of one block of replicas, and which blocks are finished.

    A block is finished when its mark is written, which happens last; files appear in one piece, so that a process
    killed at any moment leaves a store that is good up to its unfinished blocks. What is written once is never written
    again, so that any number of processes, on any machines, may read and write it at the same time.
    """

    def __init__(self, group: zarr.Group, directory: Path | None, name: str = STORE):
        self._group, self.name = group, name
        self.directory = directory
        with reading(directory):
            self.header = Header(**unpacked(group.attrs["header"]))
            if not (isinstance(self.header.experiment, dict) and isinstance(self.header.axes, dict)):
                raise TypeError("header")
            self.header = self.header._replace(provenance=[*self.header.provenance, *self._sessions()])

    @functools.cached_property
    def arrays_by_name(self) -> dict[str, Any]:
        """The recorded arrays by name; opened once, as opening one takes milliseconds."""
        with reading(self.directory):
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
        with reading(self.directory):
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
        with reading(self.directory):
            return {name: np.asarray(array[bucket, rows]) for name, array in self.arrays_by_name.items()}

    def write(self, bucket: int, rows: slice, values: Mapping[str, np.ndarray]) -> None:
        """Store one finished block; raises `StoreError` when the disk refuses, and leaves the block unfinished."""
        with writing(self.directory):
            for name, value in values.items():
                self.arrays_by_name[name][bucket, rows] = value
            self._group["finished"][bucket, rows.start // self.block_size] = 1  # type: ignore[index]

    def note(self, provenance: Mapping[str, Any]) -> None:
        """Add this session to the provenance, in a place of its own, for other processes may do so too."""
        name = f"session-{time.time_ns()}-{uuid.uuid4().hex[:8]}"  # in the order of time, and nobody else's
        with writing(self.directory):
            self._group.create_group(name, attributes={"provenance": dict(provenance)})
            self.header = self.header._replace(provenance=[*self.header.provenance, provenance])
            if self.directory and self.name == STORE:
                text = json.dumps(packed(self.header._asdict()), indent=1, ensure_ascii=False)
                put(self.directory / "config.json", text + "\n")

    def _sessions(self) -> list[Mapping[str, Any]]:
        with warnings.catch_warnings():  # zarr warns of a group that another process is just making
            warnings.simplefilter("ignore")
            found = sorted((name, group) for name, group in self._group.groups() if name.startswith("session-"))
        return [group.attrs["provenance"] for _, group in found]  # type: ignore[misc]

    def dataset(self, lazy: bool | None = None) -> xr.Dataset:
        """All results of this store; see `storage.dataset.assembled`."""
        return assembled([self], lazy=lazy)


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
    with writing(directory):
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
    with reading(path):
        found = exists(path, name)
    if not found:
        raise StoreError(f"{path}: expected the directory of a dysonjax run, but it holds no {STORE}")
    with reading(path):
        group = zarr.open_group(_zarr_store(path, name), mode="r+" if writable else "r")
        found = group.attrs.get("format")
    if found != FORMAT:
        raise StoreError(f"{path / name}: expected format {FORMAT!r}, found {found!r}")
    return Store(group, path, name)


def is_there(directory: Path) -> bool:
    """Does the directory hold a store? Raises `StoreError` where it cannot be read, or holds other things."""
    with reading(directory):
        found = exists(directory)
    if not found:
        expect_free(directory)
    return found
