"""What was asked for, kept as JSON in a run's directory, so that a run is continued only by the same request."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dysonjax.core.errors import StoreError, shown
from dysonjax.storage.locations import put

R = TypeVar("R")


def recall(directory: Path, name: str, record: Callable[..., R], what: str) -> R:
    """The `record`, made of what a directory holds as `name`; raises `StoreError` "not `what`" where it cannot be."""
    try:
        found = _read(directory / name)
        return record(**found)
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{directory}: not {what} ({shown(str(error), 160)})") from error


def remember(directory: Path, name: str, record: Mapping[str, Any]) -> None:
    """Write the record into a directory, in one piece, unless it is there; raises `StoreError` for another one."""
    place = directory / name
    wanted = json.loads(json.dumps(record))
    if place.exists():
        try:
            found = _read(place)
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(f"{place}: cannot be read ({error})") from error
        for key in {**found, **wanted}:
            if found.get(key) != _tuples(wanted.get(key)):
                raise StoreError(
                    f"{directory}: holds another run ({key} = {shown(found.get(key))} there, {shown(wanted.get(key))} "
                    "asked for); choose another directory, or overwrite it"
                )
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        put(place, json.dumps(wanted, indent=1) + "\n")
    except OSError as error:
        raise StoreError(f"{directory}: cannot be written ({error.strerror or error})") from error


def _read(place: Path) -> dict[str, Any]:
    """Lists come back as tuples."""
    return {key: _tuples(value) for key, value in dict(json.loads(place.read_text())).items()}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
