"""Which blocks of a store are finished, and what was stored of each: one small file per block, written last."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from dysonjax.core.errors import StoreError
from dysonjax.storage.locations import is_remote, put

CRC_BYTES = 4
"""Bytes of the CRC-32C that a chunk ends with, of all bytes before it."""

TWICE = "was written twice: on platforms whose last bits differ, by another program, or as a copy from another run"
"""What is wrong with a chunk that is intact, but not the one that its list describes."""
HOW = "; dysonjax verify RUN tells all that is damaged, --repair computes it again"


class Chunk(NamedTuple):
    """What was stored of one array in one block."""

    key: str
    length: int
    crc32c: str


class BlockList(NamedTuple):
    """A finished block: its chunks, and whose they are."""

    bucket: int
    block: int
    job: str
    """Digest of the store's header."""
    metadata: Mapping[str, str]
    """Digests of the arrays' metadata."""
    session: str
    """Name of the session that computed it."""
    chunks: Mapping[str, Chunk]


class Lists:
    """The lists of a store's finished blocks in a directory beside it; in memory where `directory` is None."""

    def __init__(self, directory: Path | None):
        self.directory = directory
        self._known: dict[tuple[int, int], BlockList] = {}

    def finished(self) -> list[tuple[int, int]]:
        """Bucket and number of every finished block."""
        if self.directory is None:
            return sorted(self._known)
        if not self.directory.is_dir():
            return []
        stems = (path.name.removesuffix(".json").split(".") for path in self.directory.iterdir())
        return sorted((int(s[0]), int(s[1])) for s in stems if len(s) == 2 and s[0].isdigit() and s[1].isdigit())

    def get(self, bucket: int, block: int) -> BlockList | None:
        """The list of a block, None where it is not finished; raises `StoreError` for one that was damaged."""
        if (bucket, block) not in self._known:
            path = self.path(bucket, block)
            if path is None or not path.is_file():
                return None
            self._known[bucket, block] = self._read(bucket, block, path.read_bytes())
        return self._known[bucket, block]

    def get_all(self, blocks: Iterable[tuple[int, int]]) -> tuple[list[BlockList], dict[tuple[int, int], StoreError]]:
        """The lists of finished blocks, and what is wrong with those that were damaged."""
        unread = {self.path(*block): block for block in blocks if block not in self._known}
        if is_remote(self.directory) and unread:  # one request after another would take minutes
            texts = self.directory.fs.cat([path.path for path in unread])  # type: ignore[union-attr]
            contents = {path: texts[path.path] for path in unread}  # type: ignore[union-attr]
        else:
            contents = {path: path.read_bytes() for path in unread if path is not None}
        damaged = {}
        for path, content in contents.items():
            block = unread[path]
            try:
                self._known[block] = self._read(*block, content)
            except StoreError as error:
                damaged[block] = error
        return [self._known[block] for block in blocks if block in self._known], damaged

    def add(self, made: BlockList) -> None:
        """Write the list of a block whose arrays are stored; with it, the block is finished."""
        self._known[made.bucket, made.block] = made
        path = self.path(made.bucket, made.block)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            document = {**made._asdict(), "chunks": {name: c._asdict() for name, c in made.chunks.items()}}
            put(path, json.dumps({**document, "checksum": digest(document)}) + "\n")

    def remove(self, bucket: int, block: int) -> None:
        """Make a block unfinished."""
        self._known.pop((bucket, block), None)
        path = self.path(bucket, block)
        if path is not None:
            path.unlink(missing_ok=True)

    def fault_of(self, wanted: Chunk, content: bytes | None) -> str:
        """What is wrong with the bytes of a chunk, None where there are none; empty where nothing is."""
        if content is None:
            return "is missing"
        crc32c = google_crc32c.value(content[:-CRC_BYTES]).to_bytes(CRC_BYTES, "little")
        if crc32c != content[-CRC_BYTES:]:
            cut = f"has {len(content)} bytes instead of {wanted.length}"
            return cut if len(content) != wanted.length else "was changed after it was written"
        found = (len(content), crc32c.hex())
        if found == wanted[1:]:
            return ""
        alike = [chunk.key for one in self._known.values() for chunk in one.chunks.values() if chunk[1:] == found]
        return f"is that of another block or array, {alike[0]}" if len(alike) == 1 else TWICE

    def path(self, bucket: int, block: int) -> Path | None:
        """The file of a block's list."""
        return None if self.directory is None else self.directory / f"{bucket}.{block}.json"

    def _read(self, bucket: int, block: int, content: bytes) -> BlockList:
        path = self.path(bucket, block)
        try:
            document = json.loads(content)
            checksum = document.pop("checksum")
            document["chunks"] = {name: Chunk(**chunk) for name, chunk in document["chunks"].items()}
            found = BlockList(**document)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"{path}: cannot be read{HOW}") from error
        plain = {**found._asdict(), "chunks": {name: c._asdict() for name, c in found.chunks.items()}}
        if checksum != digest(plain):
            raise StoreError(f"{path}: was changed after it was written{HOW}")
        if (found.bucket, found.block) != (bucket, block):
            raise StoreError(f"{path}: is that of block {found.bucket}.{found.block}{HOW}")
        return found


def digest(value: Any) -> str:
    """Of a document as JSON, or of bytes."""
    told = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.blake2b(told, digest_size=16).hexdigest()


def chunk_of(key: str, content: Buffer) -> Chunk:
    """What a list says of stored bytes."""
    return Chunk(key, len(content), content[max(0, len(content) - CRC_BYTES) :].to_bytes().hex())


class Access(WrapperStore[Store]):
    """A zarr store that remembers what was written into it, and reads no chunk that differs from its list."""

    place: Path | None
    """Where it is, for what is said of damage."""
    fault_of: Callable[[str, bytes | None], str]
    """What is wrong with the bytes of a chunk; empty where nothing is, or its block is not finished."""
    written: dict[str, Chunk]
    documents: dict[str, bytes]
    """Metadata, as they were read or written, by key."""

    def __init__(self, store: Store, place: Path | None = None):
        super().__init__(store)
        self.place, self.fault_of, self.written, self.documents = place, lambda key, content: "", {}, {}

    def _with_store(self, store: Store) -> "Access":
        made = Access(store)
        vars(made).update({**vars(self), "_store": store})
        return made

    def damaged(self, what: str, fault: str) -> str:
        """What to say of damage in this store."""
        return f"{self.place}: {what} {fault}{HOW}"

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes under a key."""
        return self._checked(key, await super().get(key, prototype, byte_range))

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The same, where the store has files."""
        return self._checked(key, super().get_sync(key, prototype=prototype, byte_range=byte_range))

    async def set(self, key: str, value: Buffer) -> None:
        """Store bytes."""
        await super().set(key, value)
        self._remember(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """The same, where the store has files."""
        super().set_sync(key, value)
        self._remember(key, value)

    def _remember(self, key: str, value: Buffer) -> None:
        if "/c/" in key:
            self.written[key] = chunk_of(key, value)
        else:
            self.documents[key] = value.to_bytes()

    def _checked(self, key: str, found: Buffer | None) -> Buffer | None:
        if "/c/" not in key:
            if found is not None:
                self.documents[key] = found.to_bytes()
            return found
        if fault := self.fault_of(key, None if found is None else found.to_bytes()):
            raise StoreError(self.damaged(key, fault))
        return found
