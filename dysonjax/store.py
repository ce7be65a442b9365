"""A run's directory: results block by block in a zarr store that a killed run is continued from, and their origin."""

import contextlib
import json
import math
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import zarr
from zarr.storage import MemoryStore

from dysonjax.errors import InputError, StoreError, shown
from dysonjax.observables import Variable

FORMAT = "dysonjax run 1"
STORE = "store.zarr"


class Header(NamedTuple):
    """All that is needed to read a store: what was run, how it is laid out, and on what it ran."""

    experiment: Mapping[str, Any]
    """JSON that identifies the run; it is continued only by the same experiment."""
    axes: Mapping[str, Sequence[float]]
    """The grid's axes in the order asked for."""
    static: Mapping[str, Sequence[float]]
    """Hyper-parameters whose product is the axis of buckets, in the order of storage."""
    traced: Mapping[str, Sequence[float]]
    """Those whose product is the axis of replicas, in the order of storage."""
    snapshots: Sequence[int]
    variables: Mapping[str, Any]
    """Label of each array: [axes behind snapshot, description, unit]."""
    provenance: Sequence[Mapping[str, Any]]
    """Versions, device and dates of every session that computed a part."""


class Store:
    """Arrays [bucket, replica, snapshot, …] in chunks of one block of replicas, and which blocks are finished.

    A block is finished when its mark is written, which happens last; files appear in one piece, so that a process
    killed at any moment leaves a store that is good up to its unfinished blocks.
    """

    def __init__(self, group: zarr.Group, directory: Path | None):
        self._group = group
        self.directory = directory
        with _reading(directory):
            self.header = Header(**group.attrs["header"])  # type: ignore[arg-type]
            if not (isinstance(self.header.experiment, dict) and isinstance(self.header.axes, dict)):
                raise TypeError("header")

    @property
    def block_size(self) -> int:
        """Replicas a block."""
        return self._group["diverged_step"].chunks[1]  # type: ignore[union-attr]

    def pending(self) -> list[tuple[int, slice]]:
        """Bucket and replicas of every unfinished block."""
        with _reading(self.directory):
            marks = np.asarray(self._group["finished"][:])  # type: ignore[index]
            size = self.block_size
        return [(int(b), slice(int(i) * size, (int(i) + 1) * size)) for b, i in np.argwhere(marks == 0)]

    def write(self, bucket: int, rows: slice, values: Mapping[str, np.ndarray]) -> None:
        """Store one finished block; raises `StoreError` when the disk refuses, and leaves the block unfinished."""
        with _writing(self.directory):
            for name, value in values.items():
                self._group[name][bucket, rows] = value  # type: ignore[index]
            self._group["finished"][bucket, rows.start // self.block_size] = 1  # type: ignore[index]

    def note(self, provenance: Mapping[str, Any]) -> None:
        """Add this session to the provenance."""
        self.header = self.header._replace(provenance=[*self.header.provenance, provenance])
        with _writing(self.directory):
            self._group.attrs["header"] = self.header._asdict()
            if self.directory:
                text = json.dumps(self.header._asdict(), indent=1, ensure_ascii=False)
                partial = self.directory / "config.json.partial"
                partial.write_text(text + "\n")
                partial.replace(self.directory / "config.json")

    def dataset(self) -> xr.Dataset:
        """All results, axes named after the grid; replicas of unfinished blocks are NaN, their `diverged_step` −2."""
        header = self.header
        stored = {**header.static, **header.traced}
        variables = {}
        for name, (dims, description, unit) in header.variables.items():
            with _reading(self.directory):
                value = np.asarray(self._group[name][:])  # type: ignore[index]
                value = value.reshape(*map(len, stored.values()), *value.shape[2:])
            per_snapshot = () if name == "diverged_step" else ("snapshot",)
            labelled = xr.Variable((*stored, *per_snapshot, *dims), value, {"long_name": description, "units": unit})
            at_default = [axis for axis in stored if axis not in header.axes]
            variables[name] = labelled.squeeze(at_default).transpose(*header.axes, ...)
        coords: dict[str, Any] = {
            name: (name, np.asarray(values), {"long_name": name.replace("_", " "), "units": "1"})
            for name, values in header.axes.items()
        }
        coords["step"] = ("snapshot", np.asarray(header.snapshots), {"long_name": "update", "units": "1"})
        attrs = {"experiment": json.dumps(header.experiment), "provenance": json.dumps(header.provenance)}
        return xr.Dataset(variables, coords, attrs)


def create(
    directory: Path | None,
    header: Header,
    arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    block_size: int,
) -> Store:
    """A new store in an empty or new `directory` (None: in memory), for arrays of the given inner shape and dtype."""
    buckets, replicas = (math.prod(map(len, axes.values())) for axes in (header.static, header.traced))
    block_size = min(block_size, replicas)
    with _writing(directory):
        if directory:
            directory.mkdir(parents=True, exist_ok=True)
            partial = directory / f"{STORE}.partial"
            shutil.rmtree(partial, ignore_errors=True)
        group = zarr.open_group(partial if directory else MemoryStore(), mode="w")
        for name, (inner, dtype) in arrays.items():
            shape = (buckets, replicas, *inner)
            per_snapshot = () if name == "diverged_step" else ("snapshot",)
            names = ("bucket", "replica", *per_snapshot, *header.variables[name][0])
            fill = np.nan if np.issubdtype(dtype, np.floating) else -2 if np.issubdtype(dtype, np.signedinteger) else 0
            group.create_array(
                name, shape=shape, chunks=(1, block_size, *inner), dtype=dtype, fill_value=fill, dimension_names=names
            )
        marks = (buckets, -(-replicas // block_size))
        group.create_array("finished", shape=marks, chunks=(1, 1), dtype=np.int8, fill_value=0)
        group.attrs["format"] = FORMAT
        group.attrs["header"] = header._asdict()
        if directory:
            partial.rename(directory / STORE)
            group = zarr.open_group(directory / STORE, mode="r+")
    return Store(group, directory)


def load(directory: str | os.PathLike[str], writable: bool = False) -> Store:
    """The store of an existing run; raises `StoreError` when there is none or it cannot be read."""
    path = Path(directory)
    if not (path / STORE).is_dir():
        raise StoreError(f"{path}: expected the directory of a dysonjax run, but it holds no {STORE}")
    with _reading(path):
        group = zarr.open_group(path / STORE, mode="r+" if writable else "r")
        found = group.attrs.get("format")
    if found != FORMAT:
        raise StoreError(f"{path / STORE}: expected format {FORMAT!r}, found {found!r}")
    return Store(group, path)


def open_or_create(
    directory: str | os.PathLike[str] | None,
    header: Header,
    arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    block_size: int,
) -> Store:
    """The store of this very experiment, finished or not, or a new one; raises `StoreError` for anything else there."""
    if directory is None:
        return create(None, header, arrays, block_size)
    path = Path(directory)
    if (path / STORE).is_dir():
        store = load(path, writable=True)
        difference = _difference(store.header.experiment, json.loads(json.dumps(header.experiment)))
        if difference:
            raise StoreError(f"{path}: holds another run ({difference}); give a new directory to keep both")
        return store
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path}: expected a directory, found a file")
    if path.is_dir():
        foreign = [p.name for p in path.iterdir() if p.name != f"{STORE}.partial"]
        if foreign:
            raise StoreError(
                f"{path}: expected a new or empty directory, but it holds {foreign[0]!r} and is no dysonjax run"
            )
    return create(path, header, arrays, block_size)


def provenance(devices: Sequence[Any]) -> dict[str, Any]:
    """Versions and device of this session."""
    packages = ("dysonjax", "jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "versions": {p: _version(p) for p in packages} | {"python": platform.python_version()},
        "device": f"{len(devices)} × {devices[0].device_kind} ({devices[0].platform})",
        "date": np.datetime64("now").item().isoformat() + "Z",
    }


def label(variables: Mapping[str, Variable]) -> dict[str, Any]:
    """Labels of the recorded arrays as they are stored."""
    own = {"diverged_step": ((), "update after which the replica was no longer finite, −1 if it stayed so", "update")}
    return {name: tuple(v) for name, v in variables.items()} | own


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # run from a source tree that was never installed
        return "unknown"


def _difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first entry in which two experiments differ, in words; empty when they are equal."""
    for name in [*stored, *wanted]:
        a, b = stored.get(name), wanted.get(name)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            return f"{name}.{_difference(a, b)}"
        if a != b:
            return f"{name} = {shown(a)} there, {shown(b)} asked for"
    return ""


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
