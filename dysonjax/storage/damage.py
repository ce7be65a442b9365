"""Damage of a run's stores: what names and sizes of files show whenever one is opened, and what reading all shows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dysonjax.core.errors import StoreError
from dysonjax.storage.blocks import HOW, BlockList
from dysonjax.storage.locations import reading, sizes_below
from dysonjax.storage.store import FORMAT, Store, coordinates


class Damage(NamedTuple):
    """One fault. `block`: the bucket and number of the block that must be computed again; None: all of the store."""

    message: str
    block: tuple[int, int] | None = None


def check(store: Store) -> None:
    """Raises `StoreError` for damage that the lists of blocks and the files' names and sizes show."""
    if store.format == FORMAT and store.directory is not None:
        refuse(list(visible(store)))


def refuse(found: Sequence[Damage]) -> None:
    """Raises `StoreError` for the first of some faults, if there is one."""
    if found:
        raise StoreError(found[0].message + (f" ({len(found)} faults in all)" if len(found) > 1 else ""))


def visible(store: Store) -> Iterator[Damage]:
    """Faults of metadata, missing and cut chunks, lists that are missing or not the block's own."""
    lists, damaged = store.lists.get_all(store.lists.finished())
    yield from (Damage(str(error), block) for block, error in damaged.items())
    yield from _of_metadata(store, lists)
    if store.is_whole:
        for block in np.argwhere(~store.finished()).tolist():
            path = store.lists.path(*block)
            yield Damage(f"{path}: the list of this finished block is missing{HOW}", (block[0], block[1]))
    assert store.access.place is not None
    with reading(store.directory):
        sizes = sizes_below(store.access.place)
    for one in lists:
        yield from (Damage(fault, (one.bucket, one.block)) for fault in _of_block(store, one, sizes)[:1])


def everything(store: Store) -> Iterator[Damage]:
    """All faults: what is visible, and what reading shows."""
    try:
        known = list(visible(store)) if store.format == FORMAT else []
    except StoreError as error:  # metadata without which nothing can be read
        known = [Damage(str(error))]
    yield from known
    bad = {one.block for one in known}
    if None in bad:
        return
    finished = store.finished()
    for number, (bucket, rows) in enumerate(store.blocks()):
        block = (bucket, number % finished.shape[1])
        if finished[block] and block not in bad:
            try:
                store.read(bucket, rows)
            except StoreError as error:
                yield Damage(str(error), block)


def _of_block(store: Store, one: BlockList, sizes: Mapping[str, int]) -> list[str]:
    path = store.lists.path(one.bucket, one.block)
    own = {name: store.key(name, one.bucket, one.block) for name in store.arrays_by_name}
    if one.job != store.identity or {name: chunk.key for name, chunk in one.chunks.items()} != own:
        return [f"{path}: is the list of a block of another run{HOW}"]
    assert store.access.place is not None
    faults = []
    for chunk in one.chunks.values():
        if sizes.get(chunk.key) != chunk.length:
            with reading(store.directory):
                content = (store.access.place / chunk.key).read_bytes() if chunk.key in sizes else None
            faults.append(store.access.damaged(chunk.key, store.lists.fault_of(chunk, content)))
    return faults


def _of_metadata(store: Store, lists: Sequence[BlockList]) -> Iterator[Damage]:
    documents = {}
    for name, (_, wanted) in coordinates(store.header).items():
        try:
            found = store.coordinates(name)
        except StoreError as error:
            yield Damage(str(error))
            continue
        if found.dtype != wanted.dtype or not np.array_equal(found, wanted):
            yield Damage(store.access.damaged(name, "is not what the run was made with"))
    own = [one.metadata for one in lists if one.job == store.identity]
    for name in [*store.arrays_by_name, *coordinates(store.header)]:
        documents[name] = json.loads(store.access.documents[f"{name}/zarr.json"])
    for name, told in store.metadata.items():
        if any(metadata.get(name) != told for metadata in own):
            yield Damage(store.access.damaged(f"{name}/zarr.json", "was changed after it was written"))
    group = json.loads(store.access.documents["zarr.json"])
    together = (group.get("consolidated_metadata") or {}).get("metadata")
    if together is not None and _plain(together) != _plain(documents):
        yield Damage(store.access.damaged("zarr.json", "does not tell what the arrays' own zarr.json tell"))


def _plain(documents: Mapping[str, Mapping]) -> dict[str, dict]:
    """Metadata without what only one of their two forms has."""
    return {
        name: {key: value for key, value in document.items() if value is not None and key != "consolidated_metadata"}
        for name, document in documents.items()
    }
