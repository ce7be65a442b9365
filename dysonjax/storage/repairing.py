"""A store's damaged metadata made anew, where it is known what they were made of."""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dysonjax.core.errors import StoreError
from dysonjax.storage.blocks import CRC_BYTES, Lists, digest
from dysonjax.storage.locations import writing
from dysonjax.storage.metadata import Header, packed
from dysonjax.storage.store import beside, create, load


def rebuild(
    directory: Path,
    name: str,
    header: Header,
    arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    origin: Mapping[str, Any],
) -> None:
    """Write the metadata and hyper-parameters of a store anew; numbers and lists of blocks stay as they are.

    Arguments are those of `create`. Raises `StoreError`, before anything is written, where the lists of finished blocks
    have the digests of other metadata, or there is none.
    """
    lists = Lists(beside(directory, name, "blocks"))
    known, _ = lists.get_all(lists.finished())
    if not known:
        raise StoreError(f"{directory / name}: no list of a finished block tells what its metadata were")
    differ = StoreError(f"{directory / name}: the settings or the dynamics give other metadata than its blocks have")
    if {*arrays} != {*header.variables} or any(one.job != digest(packed(header._asdict())) for one in known):
        raise differ
    plain, (inner, dtype) = next((n, a) for n, a in arrays.items() if np.issubdtype(a[1], np.inexact))
    block_size = max(1, (known[0].chunks[plain].length - CRC_BYTES) // (math.prod(inner) * dtype.itemsize))
    with writing(directory), tempfile.TemporaryDirectory() as draft:
        made = create(Path(draft), header, arrays, block_size, name, origin)
        if any(one.metadata != made.metadata for one in known):
            raise differ
        for path in (Path(draft) / name).rglob("*"):
            if path.is_file():
                target = directory / path.relative_to(draft).as_posix()
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        load(directory, True, name).finish()
