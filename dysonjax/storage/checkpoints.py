"""What training leaves on disk, each in one piece: weights as .npz, a checkpoint to continue from, the results."""

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import xarray as xr
from jaxtyping import PyTree
from zarr.codecs import Crc32cCodec, ZstdCodec

from dysonjax.core.errors import StoreError
from dysonjax.core.leaves import named_leaves
from dysonjax.storage.blocks import HOW, BlockList, Chunk, Lists, digest
from dysonjax.storage.locations import reading, sizes_below
from dysonjax.storage.store import FORMAT

CHECKPOINTS, RESULTS, BLOCKS = "checkpoints", "results.zarr", "blocks"
_ONE = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)


def save_weights(path: Path, params: PyTree) -> None:
    """Write parameters as .npz, in one piece; `dysonjax analyze` reads it."""
    try:
        draft = path.with_name(f"{path.stem}.part.npz")
        np.savez(draft, **{name: np.asarray(w) for name, w in named_leaves(params).items()})  # type: ignore[arg-type]
        draft.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error


def load_weights(path: Path) -> dict[str, Any]:
    """Parameters as `save_weights` wrote them."""
    tree: dict[str, Any] = {}
    with np.load(path) as archive:
        for name in archive.files:
            *outer, last = name.split("/")
            node = tree
            for step in outer:
                node = node.setdefault(step, {})
            node[last] = jnp.asarray(archive[name])
    return tree


def save_checkpoint(out: Path, step: int, state: dict[str, PyTree]) -> None:
    """Keep the state after `step` updates; orbax removes the one before when the new one is whole."""
    try:
        with ocp.CheckpointManager((out / CHECKPOINTS).absolute(), options=_ONE) as manager:
            manager.save(step, args=ocp.args.StandardSave(jax.tree.map(np.asarray, state)))
    except OSError as error:
        raise StoreError(f"{out}: cannot be written ({error.strerror or error}); checkpoints are kept") from error


def load_checkpoint(out: Path, like: dict[str, PyTree]) -> dict[str, PyTree]:
    """The last checkpoint of a state of the structure of `like`, which comes back where there is none."""
    folder = (out / CHECKPOINTS).absolute()
    if not folder.is_dir():
        return like
    try:
        with ocp.CheckpointManager(folder, options=_ONE) as manager:
            if manager.latest_step() is None:
                return like
            shapes = jax.tree.map(np.asarray, like)
            return manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(shapes))
    except Exception as error:  # a damaged checkpoint fails in many ways, deep in orbax and tensorstore
        raise StoreError(f"{folder}: cannot be read ({type(error).__name__}: {str(error)[:120]})") from error


def save_results(out: Path, ds: xr.Dataset) -> None:
    """Write the results of a finished run, and last the list of their files, as of a block of a scan."""
    try:
        draft = out / f"{RESULTS}.partial"
        shutil.rmtree(draft, ignore_errors=True)
        with _warnings_off():
            checked = {name: {"compressors": [ZstdCodec(level=0), Crc32cCodec()]} for name in ds.variables}
            ds.assign_attrs(format=FORMAT).to_zarr(draft, consolidated=True, encoding=checked)
        remove_results(out)  # of one that was killed before its list was written
        draft.rename(out / RESULTS)
        Lists(out / BLOCKS).add(_list_of(out))
    except OSError as error:
        raise StoreError(f"{out}: cannot be written ({error.strerror or error})") from error


def has_results(out: Path) -> bool:
    """Whether a run is finished."""
    return (out / RESULTS).is_dir() and (_is_old(out) or Lists(out / BLOCKS).path(0, 0).is_file())  # type: ignore[union-attr]


def load_results(out: Path) -> xr.Dataset:
    """The dataset of a finished run; raises `StoreError` for one that is not finished, or was damaged."""
    if not (out / RESULTS).is_dir():
        raise StoreError(f"{out}: the run is not finished; continue it with the same command")
    with reading(out / RESULTS), _warnings_off():
        ds = xr.open_zarr(out / RESULTS, consolidated=False, chunks=None).load()
        if ds.attrs.pop("format", None) == FORMAT:
            _expect_undamaged(out)
        return ds


def remove_results(out: Path) -> None:
    """Make a run unfinished, as it was before its results were written."""
    Lists(out / BLOCKS).remove(0, 0)
    shutil.rmtree(out / RESULTS, ignore_errors=True)


def _is_old(out: Path) -> bool:
    try:
        return "format" not in json.loads((out / RESULTS / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, KeyError):
        return False


def _list_of(out: Path) -> BlockList:
    files = {key: (out / RESULTS / key).read_bytes() for key in sizes_below(out / RESULTS)}
    chunks = {key: Chunk(key, len(value), value[-4:].hex()) for key, value in files.items() if "/c" in key}
    return BlockList(0, 0, "", {key: digest(value) for key, value in files.items() if key not in chunks}, "", chunks)


def _expect_undamaged(out: Path) -> None:
    wanted, found = Lists(out / BLOCKS).get(0, 0), _list_of(out)
    if wanted is None:
        raise StoreError(f"{out / BLOCKS}: the list of the finished training is missing{HOW}")
    told = [{*one.metadata.items(), *one.chunks.items()} for one in (wanted, found)]
    changed = sorted(key for key, _ in told[0] ^ told[1])
    if changed:
        raise StoreError(f"{out / RESULTS}: {changed[0]} was changed after it was written{HOW}")


@contextlib.contextmanager
def _warnings_off() -> Iterator[None]:
    """Zarr warns of what may change: text (the newest version for Python 3.11), and metadata in one file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s)The data type .* Zarr V3 specification")
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")  # xarray asks for it
        yield
