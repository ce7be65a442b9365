"""`merge`: the parts of a run that were computed without a connection between them, as one run."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dysonjax.core.errors import StoreError
from dysonjax.storage import extensions, store
from dysonjax.storage.locations import place, put
from dysonjax.storage.metadata import difference
from dysonjax.storage.records import records_in
from dysonjax.storage.store import Store


def merge(out: str | os.PathLike[str], parts: Sequence[str | os.PathLike[str]]) -> int:
    """Bring the finished blocks of all parts of a run together in one directory.

    Args:
        out: a new directory, or that of an interrupted merge.
        parts: directories or URLs of the parts.

    Returns:
        The number of blocks.

    Raises:
        StoreError: before anything is written, with the part that is no run, belongs to another run, has blocks of
            another size or blocks that an earlier part has too, or with the blocks that no part has. Also where `out`
            holds another run.
    """
    places = [place(part) for part in parts]
    found = [{str(p.relative_to(part)): p for p in stores_in(part)} for part in places]
    for part, scans in zip(places, found, strict=True):
        if not scans:
            raise StoreError(f"{part}: expected a run of dysonjax, or a part of one")
    records = _records(places)
    names = sorted({name for scans in found for name in scans})
    # a part that was killed early may lack whole scans; whether they are somewhere is seen below
    groups: dict[tuple[str, str], list[Store]] = {}
    for name in names:
        for scans in found:
            for one in extensions.load_all(scans[name]) if name in scans else ():
                one.expect_format()
                groups.setdefault((name, one.name), []).append(one)
    for group in groups.values():
        _check(group)
    target = place(out)
    for (name, _), group in groups.items():
        _bring(group, target / name if name != "." else target)
    for name, text in records.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        put(target / name, text)
    return sum(len(group[0].blocks()) for group in groups.values())


def stores_in(directory: Path) -> list[Path]:
    """Directories of all scans of a run: itself, or some below it."""
    if store.exists(directory):
        return [directory]
    if not directory.is_dir():
        return []
    return [found for p in sorted(directory.iterdir(), key=str) if p.is_dir() for found in stores_in(p)]


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first few of many names."""
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


def _records(parts: Sequence[Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in parts:
        for folder in {p.parent for p in stores_in(part)} | {part}:
            for record in records_in(folder):
                name, text = str(record.relative_to(part)), record.read_text()
                if _asked(found.setdefault(name, text)) != _asked(text):
                    raise StoreError(f"{part}: another run than {parts[0]} ({name} differs)")
    return found


def _asked(text: str) -> Any:
    """A record without the versions that its part began with."""
    with contextlib.suppress(ValueError, TypeError):
        return {name: value for name, value in json.loads(text).items() if name != "versions"}
    return text


def _check(group: Sequence[Store]) -> None:
    """All parts of one scan against each other."""
    first = group[0]
    owner = np.full(len(first.blocks()), -1)
    for i, part in enumerate(group):
        found = difference(first.header.experiment, part.header.experiment)
        if found:
            raise StoreError(
                f"{part.directory}: another run than {first.directory} ({found.replace('asked for', 'here')})"
            )
        if part.block_size != first.block_size:
            raise StoreError(_sizes_differ(part, first))
        done = np.setdiff1d(np.arange(len(owner)), part.unfinished())
        twice = done[owner[done] >= 0]
        if len(twice):
            other = group[int(owner[twice[0]])].directory
            raise StoreError(f"{part.directory}: overlaps {other}, which has blocks {listed([*map(str, twice)])} too")
        owner[done] = i
    missing = np.flatnonzero(owner < 0)
    if len(missing):
        shares = ", ".join(dict.fromkeys(_shares(part.header.provenance) for part in group))
        names = listed([*map(str, missing)])
        raise StoreError(f"{first.directory}: of {len(owner)} blocks, {names} are in none of the parts ({shares})")


def _sizes_differ(part: Store, first: Store) -> str:
    return (
        f"{part.directory}: blocks of {part.block_size} replicas, but {first.directory} has {first.block_size}; "
        "compute it with that --block-size"
    )


def _shares(sessions: Sequence[Mapping]) -> str:
    found = dict.fromkeys(f"shard {s['share']}" for s in sessions if "share" in s)
    return ", ".join(found) or "whole runs"


def _bring(group: Sequence[Store], directory: Path) -> None:
    first = group[0]
    header = first.header._replace(provenance=[])
    if store.is_there(directory) and store.exists(directory, first.name):
        target = store.load(directory, True, first.name)
        if found := difference(target.header.experiment, first.header.experiment):
            raise StoreError(f"{directory}: holds another run ({found}); give a new directory to keep both")
    else:
        target = store.create(directory, header, first.arrays(), first.block_size, first.name, first.origin)
    if target.block_size != first.block_size:
        raise StoreError(
            f"{directory}: blocks of {target.block_size} replicas, but {first.directory} has {first.block_size}"
        )
    blocks, left = target.blocks(), set(target.unfinished())
    for part in group:
        fresh = sorted(left - set(part.unfinished()))
        for name, session in part.sessions.items() if fresh else ():
            target.note(session, name)
        for number in fresh:
            bucket, rows = blocks[number]
            target.write(bucket, rows, part.read(bucket, rows), part.session_of(bucket, rows))
        left -= set(fresh)
    target.finish()
