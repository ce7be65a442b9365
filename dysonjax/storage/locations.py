"""Where runs are kept: a local directory, or the URL of one on object storage or another file system of fsspec."""

import contextlib
import importlib.util
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dysonjax.core.errors import InputError, StoreError, shown

LOCAL = ("file://", "local://")


def place(out: str | os.PathLike[str]) -> Path:
    """A path for a directory's name or a URL (s3://bucket/run); both are used like `pathlib.Path`.

    Raises `InputError` for a URL whose file system is not installed or not known.
    """
    if not isinstance(out, str) or "://" not in out:
        return out if is_remote(out) else Path(out)  # type: ignore[return-value]
    for local in LOCAL:  # written as plain files: in one piece each, which fsspec does not promise for them
        if out.startswith(local):
            return Path(out.removeprefix(local))
    if importlib.util.find_spec("upath") is None:
        raise InputError(f"out = {shown(out)}: expected a local directory, or pip install 'dysonjax[s3]' or [gcs]")
    from upath import UPath

    try:
        found = UPath(out)
        found.fs  # noqa: B018 - fsspec looks for the file system only now
    except (ImportError, ValueError) as error:
        raise InputError(f"out = {shown(out)}: expected a URL that fsspec can open ({error})") from None
    return found  # type: ignore[return-value]


def is_remote(path: Any) -> bool:
    """Is it a URL's path rather than a local one?"""
    return hasattr(path, "fs") and not isinstance(path, Path)


def put(path: Path, text: str) -> None:
    """Write a small file that other processes may read or write at the same time: it appears in one piece."""
    if is_remote(path):  # object storage knows no half-written object
        path.write_text(text)
        return
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        draft.write_text(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def sizes_below(directory: Path) -> dict[str, int]:
    """Lengths in bytes of all files below a directory, by their paths from it."""
    if is_remote(directory):
        fs, root = directory.fs, directory.path.rstrip("/")  # type: ignore[attr-defined]
        found = fs.find(root, detail=True)
        return {path.removeprefix("/")[len(root.removeprefix("/")) + 1 :]: info["size"] for path, info in found.items()}
    sizes = {}
    for folder, _, names in os.walk(directory):
        inside = os.path.relpath(folder, directory).replace(os.sep, "/")
        for name in names:
            sizes[name if inside == "." else f"{inside}/{name}"] = os.stat(os.path.join(folder, name)).st_size
    return sizes


@contextlib.contextmanager
def reading(directory: object) -> Iterator[None]:
    """Whatever goes wrong while files of a directory are read becomes one `StoreError`."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # whatever a damaged file makes zarr, its codecs or json say
        raise StoreError(f"{directory}: cannot be read ({type(error).__name__}: {shown(str(error))})") from error


@contextlib.contextmanager
def writing(directory: Path | None) -> Iterator[None]:
    """A write that the operating system refuses becomes one `StoreError`."""
    try:
        yield
    except (StoreError, InputError):
        raise
    except OSError as error:
        raise StoreError(
            f"{directory}: cannot be written ({error.strerror or error}); finished blocks are kept"
        ) from error
