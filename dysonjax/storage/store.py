"""A run's directory: results block by block in a zarr store that a killed run is continued from, and their origin."""

import contextlib
import functools
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.errors import ContainsArrayError
from zarr.storage import FsspecStore, LocalStore, MemoryStore

from dysonjax.core.errors import StoreError
from dysonjax.storage import table
from dysonjax.storage.blocks import Access, BlockList, Lists, digest
from dysonjax.storage.dataset import assembled
from dysonjax.storage.lazy_array import nothing
from dysonjax.storage.locations import is_remote, place, put, reading, writing
from dysonjax.storage.metadata import Header, packed, unpacked
from dysonjax.storage.records import STORE, expect_free

FORMAT, OLD = "dysonjax run 2", "dysonjax run 1"
"""What a store calls its format: the one that is written, and the one before, which is only read."""


class OtherFormat(StoreError):
    """The store of another version."""


class Store:
    """Arrays [bucket, replica, snapshot, …] in chunks of one block of replicas, and which blocks are finished.

    A block is finished when its list is written, which happens last; files appear in one piece, so that a process
    killed at any moment leaves a store that is good up to its unfinished blocks. What is written once is never written
    again, so that any number of processes, on any machines, may read and write it at the same time.
    """

    def __init__(self, access: Access, directory: Path | None, name: str = STORE, writable: bool = False):
        self.directory, self.name = directory, name
        with reading(directory):
            self._group = zarr.open_group(access, mode="r+" if writable else "r", use_consolidated=False)
            self.access: Access = self._group.store  # type: ignore[assignment]  # the same, or a read-only copy
            attributes = dict(self._group.attrs)
            self.format = attributes.get("format")
            self.expect_format(writable)
            if self.format == FORMAT and attributes.pop("checksum", None) != digest(attributes):
                raise StoreError(self.access.damaged("zarr.json", "was changed after it was written"))
            self.header = Header(**unpacked(attributes["header"]))
            if not (isinstance(self.header.experiment, dict) and isinstance(self.header.axes, dict)):
                raise TypeError("header")
            self.origin = {name: value for name, value in attributes.items() if name not in ("format", "header")}
            self.identity = digest(attributes["header"])
            self.lists = Lists(self._beside("blocks"))
            self.access.fault_of = self._fault_of
            self.sessions = self._sessions()
            self.header = self.header._replace(provenance=[*self.header.provenance, *self.sessions.values()])
        self._session = ""

    def expect_format(self, writable: bool = True) -> None:
        """Raises `StoreError` for a store that cannot be read, or not be written."""
        if self.format not in (FORMAT, OLD):
            error = OtherFormat if self.format else StoreError
            raise error(f"{self.access.place}: expected format {FORMAT!r}, found {self.format!r}")
        if writable and self.format == OLD:
            raise StoreError(
                f"{self.directory}: was written by dysonjax 0.1, which alone can continue, extend or merge it; "
                "dysonjax.open and dysonjax report read it"
            )

    def _beside(self, what: str) -> Path | None:
        return self.directory and beside(self.directory, self.name, what)

    @functools.cached_property
    def arrays_by_name(self) -> dict[str, Any]:
        """The recorded arrays by name; opened once, as opening one takes milliseconds."""
        with reading(self.directory), zarr.config.set({"array.write_empty_chunks": True}):
            return {name: self._group[name] for name in self.header.variables}

    @functools.cached_property
    def metadata(self) -> dict[str, str]:
        """Digests of the recorded arrays' metadata."""
        return {name: digest(json.loads(self.access.documents[f"{name}/zarr.json"])) for name in self.arrays_by_name}

    def coordinates(self, name: str) -> np.ndarray:
        """Values of a hyper-parameter, or the updates, as they are stored."""
        with reading(self.access.place):
            return np.asarray(self._group[name][...])  # type: ignore[index]

    @property
    def block_size(self) -> int:
        """Replicas per block."""
        return self.arrays_by_name["diverged_step"].chunks[1]

    @property
    def grid_of_blocks(self) -> tuple[int, int]:
        """Number of buckets, and of blocks in each."""
        buckets, replicas = self.header.bucket_shape
        return buckets, -(-replicas // self.block_size)

    def pending(self) -> list[tuple[int, slice]]:
        """Bucket and replicas of every unfinished block."""
        blocks = self.blocks()
        return [blocks[number] for number in self.unfinished()]

    def finished(self) -> np.ndarray:
        """Which blocks are finished, [bucket, block]."""
        with reading(self.directory):
            if self.format == OLD:
                return np.asarray(self._group["finished"][:]) != 0  # type: ignore[index]
            found = np.zeros(self.grid_of_blocks, bool)
            for block in self.lists.finished():
                found[block] = True
            return found

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

    def write(self, bucket: int, rows: slice, values: Mapping[str, np.ndarray], session: str | None = None) -> None:
        """Store one finished block; raises `StoreError` when the disk refuses, and leaves the block unfinished.

        `session`: name of the one that computed it, by default the one that `note` told of last.
        """
        number = rows.start // self.block_size
        with writing(self.directory):
            for name, array in self.arrays_by_name.items():
                array[bucket, rows] = values[name]
            chunks = {name: self.access.written.pop(self.key(name, bucket, number)) for name in self.arrays_by_name}
            session = self._session if session is None else session
            self.lists.add(BlockList(bucket, number, self.identity, self.metadata, session, chunks))

    def key(self, name: str, bucket: int, number: int) -> str:
        """Where an array's chunk of a block stands in the group."""
        return "/".join([name, "c", str(bucket), str(number), *"0" * (self.arrays_by_name[name].ndim - 2)])

    def _fault_of(self, key: str, content: bytes | None) -> str:
        name, _, bucket, number = key.split("/")[:4] if key.count("/") > 2 else ("", "", "", "")
        found = self.lists.get(int(bucket), int(number)) if name in self.header.variables else None
        wanted = found and found.chunks.get(name)
        return self.lists.fault_of(wanted, content) if wanted else ""

    def session_of(self, bucket: int, rows: slice) -> str:
        """Name of the session that computed a finished block."""
        found = self.lists.get(bucket, rows.start // self.block_size)
        return found.session if found else ""

    def session(self, bucket: int, rows: slice) -> Mapping[str, Any]:
        """Origin of a finished block, as far as it is known."""
        last = self.header.provenance[-1] if self.header.provenance else {}
        return self.sessions.get(self.session_of(bucket, rows), last)

    def note(self, provenance: Mapping[str, Any], name: str | None = None) -> None:
        """Add this session, or one that has a name already, in a file of its own, for other processes may do so too."""
        # in the order of time, and nobody else's
        self._session = name or f"{time.time_ns()}-{uuid.uuid4().hex[:8]}"
        self.sessions[self._session] = provenance
        self.header = self.header._replace(provenance=[*self.header.provenance, provenance])
        folder = self._beside("sessions")
        if folder is not None:
            with writing(self.directory):
                folder.mkdir(parents=True, exist_ok=True)
                put(folder / f"{self._session}.json", json.dumps(provenance, indent=1, ensure_ascii=False) + "\n")

    def _sessions(self) -> dict[str, Mapping[str, Any]]:
        """Origin of each session by its name, in the order of time."""
        if self.format == OLD:
            return {name: group.attrs["provenance"] for name, group in sorted(self._group.groups())}  # type: ignore[misc]
        folder = self._beside("sessions")
        if folder is None or not folder.is_dir():
            return {}
        files = sorted((path for path in folder.iterdir() if path.name.endswith(".json")), key=lambda path: path.name)
        return {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in files}

    @property
    def is_whole(self) -> bool:
        """Whether all blocks were finished once: `finish` said so."""
        return bool(json.loads(self.access.documents["zarr.json"]).get("consolidated_metadata"))

    def finish(self) -> None:
        """Once all blocks are finished, write the arrays' metadata together, for other programs to open it at once.

        From then on a block without a list is known to be damaged.
        """
        if self.directory is None or self.is_whole or self.unfinished():
            return
        with writing(self.directory), warnings.catch_warnings():
            # zarr says that it is not part of the specification; xarray asks for it
            warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
            zarr.consolidate_metadata(self.access)

    def set_back(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Make damaged blocks [bucket, number] unfinished, so that they are computed again."""
        with writing(self.directory):
            self._group.attrs.put(dict(self._group.attrs))  # as it was before `finish`
            for block in blocks:
                self.lists.remove(*block)

    def dataset(self, lazy: bool | None = None) -> xr.Dataset:
        """All results of this store; see `storage.dataset.assembled`."""
        return assembled([self], lazy=lazy)


def beside(directory: Path, name: str, what: str) -> Path:
    """A directory for what belongs to a store and is no array: of `store-1a2b.zarr`, `blocks-1a2b`."""
    return directory / f"{what}{name.removeprefix('store').removesuffix('.zarr')}"


def create(
    directory: Path | None,
    header: Header,
    arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    block_size: int,
    name: str = STORE,
    origin: Mapping[str, Any] | None = None,
) -> Store:
    """A new store in an empty or new `directory` (None: in memory), for arrays of the given inner shape and dtype.

    Several processes may do so at once: the first one's counts and the others open it. `origin`: what it is written
    by, for people and other programs.
    """

    def filled(where: Any) -> Access:
        access = Access(where, directory and directory / name)
        fill(access, header, arrays, block_size, origin or {})
        return access

    if directory is None:
        return Store(filled(MemoryStore()), None, writable=True)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        if is_remote(directory):  # everybody writes the same; the group's attributes, in one piece, come last
            return Store(filled(_zarr_store(directory, name)), directory, name, writable=True)
        draft = directory / f"{name}.partial-{uuid.uuid4().hex[:8]}"
        try:
            filled(LocalStore(draft))
            draft.rename(directory / name)
        except OSError:
            if not (directory / name).is_dir():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        for left in directory.glob(f"{name}.partial*"):  # by killed processes, or by one that finds the store made
            shutil.rmtree(left, ignore_errors=True)
    return load(directory, True, name)


def fill(
    access: Access, header: Header, arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]], block_size: int,
    origin: Mapping[str, Any],
) -> None:  # fmt: skip
    """Make the arrays, without values, and the group's attributes; what another process has made is left alone."""
    buckets, replicas = header.bucket_shape
    block_size = min(block_size, replicas)
    group = zarr.open_group(access, mode="a")
    own = coordinates(header)

    def make(name: str, **layout: Any) -> Any:
        with contextlib.suppress(ContainsArrayError):  # another process has made it, or one that was killed
            return group.create_array(name, **layout)
        return group[name]

    for name, (inner, dtype) in arrays.items():
        per_snapshot = () if name == "diverged_step" else ("snapshot",)
        behind, description, unit = header.variables[name]
        make(
            name, shape=(buckets, replicas, *inner), chunks=(1, block_size, *inner), dtype=dtype,
            fill_value=nothing(dtype), dimension_names=("bucket", "replica", *per_snapshot, *behind),
            compressors=compressors(dtype),
            attributes={"long_name": description, "units": unit, "coordinates": " ".join(own)},
        )  # fmt: skip
    for name, (dims, values) in own.items():
        array = make(
            name, shape=values.shape, chunks=values.shape, dtype=values.dtype, dimension_names=dims,
            fill_value=nothing(values.dtype), compressors=compressors(values.dtype, packed=True),
            attributes={"long_name": "update" if name == "step" else name.replace("_", " "), "units": "1"},
        )  # fmt: skip
        array[...] = values
    attributes = {"format": FORMAT, **origin, "header": packed(header._asdict())}
    attributes = json.loads(json.dumps(attributes))
    group.attrs.put({**attributes, "checksum": digest(attributes)})


def coordinates(header: Header) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Dimensions and values of the hyper-parameters of every replica, and of the updates of the snapshots."""
    shape = header.bucket_shape
    found: dict[str, tuple[tuple[str, ...], np.ndarray]] = {"step": (("snapshot",), np.asarray(header.snapshots))}
    if header.rows:
        flat = {name: column.reshape(shape) for name, column in table.columns(header).items()}
        flat["present"] = table.present(header).reshape(shape)
        return found | {name: (("bucket", "replica"), column) for name, column in flat.items()}
    for dim, axes in (("bucket", header.static), ("replica", header.traced)):
        for name, column in table.of_axes(axes, points=False).items():
            whole = all(type(value) is int for value in axes[name])
            found[name] = ((dim,), column.astype(int) if whole else column)
    return found


def compressors(dtype: np.dtype, packed: bool = False) -> list[Any]:
    """A checksum, after compression except of floating-point numbers: a codec makes noise a tenth shorter and writing
    five times slower. `packed`: no noise."""
    plain = np.issubdtype(dtype, np.inexact) and not packed
    return [Crc32cCodec()] if plain else [ZstdCodec(level=0), Crc32cCodec()]


def _zarr_store(directory: Path, name: str = STORE) -> Any:
    where: Any = directory / name
    if is_remote(where):
        return FsspecStore.from_url(str(where), storage_options=dict(where.storage_options))
    return LocalStore(where)


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
    return Store(Access(_zarr_store(path, name), path / name), path, name, writable)


def is_there(directory: Path) -> bool:
    """Does the directory hold a store? Raises `StoreError` where it cannot be read, or holds other things."""
    with reading(directory):
        found = exists(directory)
    if not found:
        expect_free(directory)
    return found
