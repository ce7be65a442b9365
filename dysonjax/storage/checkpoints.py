"""What training leaves on disk, each in one piece: weights as .npz, a checkpoint to continue from, the results."""

import contextlib
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

from dysonjax.core.errors import StoreError
from dysonjax.core.leaves import named_leaves

CHECKPOINTS, RESULTS = "checkpoints", "results.zarr"
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
    """Write the results of a finished run."""
    try:
        draft = out / f"{RESULTS}.partial"
        shutil.rmtree(draft, ignore_errors=True)
        with _text_allowed():
            ds.to_zarr(draft, consolidated=False)
        draft.rename(out / RESULTS)
    except OSError as error:
        raise StoreError(f"{out}: cannot be written ({error.strerror or error})") from error


def load_results(out: Path) -> xr.Dataset:
    """The dataset of a finished run; raises `StoreError`."""
    if not (out / RESULTS).is_dir():
        raise StoreError(f"{out}: the run is not finished; continue it with the same command")
    try:
        with _text_allowed():
            return xr.open_zarr(out / RESULTS, consolidated=False, chunks=None).load()
    except Exception as error:  # whatever a damaged store makes zarr say
        raise StoreError(f"{out}: cannot be read ({type(error).__name__}: {str(error)[:120]})") from error


@contextlib.contextmanager
def _text_allowed() -> Iterator[None]:
    """The newest zarr for Python 3.11 warns that names as text may be stored in another way one day."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s)The data type .* Zarr V3 specification")
        yield
