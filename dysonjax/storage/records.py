"""`run.json`: what was asked for, in a run's directory, so that a run is continued only by the same request."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dysonjax.core.errors import StoreError, shown
from dysonjax.storage.locations import put
from dysonjax.storage.metadata import versions

RECORD, STORE = "run.json", "store.zarr"
EXTENSIONS = "extensions"
"""Directory with a record for each extension of the run."""
FORMAT = 2
OWN = "scan"
"""Kind of a user's own `dysonjax.scan`, whose settings are in its store."""


class Record(NamedTuple):
    """The kind of a run's experiment, and its settings, lists as tuples."""

    kind: str
    settings: Mapping[str, Any]


def remember(directory: Path, kind: str, settings: Mapping[str, Any]) -> None:
    """Write the record into a directory, in one piece, unless it is there; raises `StoreError` for another one."""
    wanted = Record(kind, tuples(json.loads(json.dumps(settings))))
    there = recall(directory)
    if there is not None:
        compare(directory, there, wanted)
        return
    expect_free(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, "kind": kind, "settings": settings, "versions": versions()}, indent=1)
        put(directory / RECORD, text + "\n")
    except OSError as error:
        raise StoreError(f"{directory}: cannot be written ({error.strerror or error})") from error


def add(directory: Path, kind: str, settings: Mapping[str, Any]) -> None:
    """Write the record of an extension beside the first, which stays, unless the last one is the same."""
    wanted = Record(kind, tuples(json.loads(json.dumps(settings))))
    if last(directory) == wanted:
        return
    after = sorted(path.name for path in _extensions(directory))
    document = {"format": FORMAT, "kind": kind, "settings": settings, "after": after}
    name = hashlib.blake2b(json.dumps(document, sort_keys=True).encode(), digest_size=8).hexdigest()
    try:
        (directory / EXTENSIONS).mkdir(parents=True, exist_ok=True)
        put(directory / EXTENSIONS / f"{name}.json", json.dumps(document, indent=1) + "\n")
    except OSError as error:
        raise StoreError(f"{directory}: cannot be written ({error.strerror or error})") from error


def last(directory: Path) -> Record | None:
    """The record of a run with all its extensions, None if it has none.

    Raises `StoreError` for one that cannot be read, and for two extensions that do not know of each other.
    """
    paths = _extensions(directory)
    if not paths:
        return recall(directory)
    try:
        found = {path.name: json.loads(path.read_text()) for path in paths}
        whole = [one for name, one in found.items() if sorted({*found} - {name}) == [*one["after"]]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{directory / EXTENSIONS}: cannot be read ({shown(str(error), 160)})") from error
    if not whole:
        raise StoreError(f"{directory / EXTENSIONS}: two of {', '.join(found)} do not know of each other; remove one")
    return Record(str(whole[0]["kind"]), dict(tuples(whole[0]["settings"])))


def records_in(directory: Path) -> list[Path]:
    """The files of the record and of those of extensions, as many as there are."""
    first = directory / RECORD
    return [*([first] if first.is_file() else []), *_extensions(directory)]


def is_extended(directory: Path) -> bool:
    """Whether a run was given more points or seeds."""
    return bool(_extensions(directory))


def _extensions(directory: Path) -> list[Path]:
    folder = directory / EXTENSIONS
    return sorted((p for p in folder.iterdir() if p.name.endswith(".json")), key=str) if folder.is_dir() else []


def recall(directory: Path) -> Record | None:
    """The record that a directory holds, None if it has none; raises `StoreError` for one that cannot be read."""
    path = directory / RECORD
    if not path.is_file():
        return None
    try:
        found = dict(json.loads(path.read_text()))
        if "kind" not in found:
            return None  # of an earlier version
        return Record(str(found["kind"]), dict(tuples(found["settings"])))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{path}: cannot be read ({shown(str(error), 160)})") from error


def compare(directory: Path, there: Record, wanted: Record) -> None:
    """Raises `StoreError`, with the first setting that differs, for two runs that are not the same."""
    one, other = ({"kind": r.kind, **r.settings} for r in (there, wanted))
    for key in {**one, **other}:
        if one.get(key) != other.get(key):
            raise StoreError(
                f"{directory}: holds another run ({key} = {shown(one.get(key))} there, {shown(other.get(key))} "
                "asked for); choose another directory, or overwrite it"
            )


def expect_free(path: Path) -> None:
    """Raises `StoreError` for a directory that holds anything but what a run has at its beginning."""
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path}: expected a directory, found a file")
    names = [p.name for p in path.iterdir()] if path.is_dir() else []
    foreign = [name for name in names if not name.startswith((STORE, RECORD))]
    if foreign and STORE not in names:  # another process may have made the store in this moment
        raise StoreError(
            f"{path}: expected a new or empty directory, but it holds {foreign[0]!r} and is no dysonjax run"
        )


def tuples(value: Any) -> Any:
    """JSON with tuples for its lists, as settings hold them."""
    if isinstance(value, Mapping):
        return {key: tuples(inner) for key, inner in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value
