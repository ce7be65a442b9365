"""Weight matrices from where they are kept: .npz, .safetensors, an orbax directory, or a pytree of arrays in memory."""

import re
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float

from dysonjax.core.errors import InputError, require, shown
from dysonjax.core.leaves import named_leaves

Fold = Literal["last", "first", "stack"]
KINDS = "an .npz or .safetensors file, an orbax directory, or a mapping of names to arrays"
MATRIX = 2
"""Rows and columns that an array needs at least to be a matrix and no vector."""


def read_weights(
    source: Any, pattern: str = "*", fold: Fold = "last", argument: str = "weights"
) -> dict[str, Float[np.ndarray, "m n"]]:
    """Matrices of a model by name, those whose name matches `pattern` ("*", "?", "[…]"; upper and lower case differ).

    `source` is the path of a NumPy archive (.npz), of a .safetensors file (a PyTorch state dict saved so too), of a
    directory that orbax wrote (of a manager's, the last step), or a pytree of arrays in memory: a dict, the parameters
    of a flax module, nested at will. Parts of a name are joined by "/", and by "." where the file joins them so.

    An array of more than two axes is one matrix whose columns are its last axis (fold="last": flax convolutions and
    attention), or whose rows are its first ("first": PyTorch convolutions), or a stack of matrices, "name[0]", … in its
    last two ("stack": scanned layers, heads). Whole numbers are read as float64; vectors, and arrays of true and false,
    are passed over. The order is that of the names, "layer2" before "layer10"; `argument` is what messages call the
    source.

    Raises `InputError` for a path that does not exist or whose content is not what its name says, when the pattern
    matches no matrix, and for a matrix that is empty or holds NaN or ∞, by name.

        read_weights("model.safetensors", "*attn*weight")
    """
    require(fold in ("last", "first", "stack"), "fold", fold, '"last", "first" or "stack"')
    require(isinstance(pattern, str), "pattern", pattern, "a string such as '*attn*key*'")
    path = isinstance(source, str | PathLike)
    arrays = _on_disk(Path(fspath(source)), pattern, argument) if path else _in_memory(source, argument)
    found, seen = {}, []
    for name, array in arrays:
        seen.append(name)
        if array is not None and fnmatchcase(name, pattern) and _is_real(name, array):
            for own, matrix in matrices_of(name, array, fold):
                found[own] = _sound(own, matrix)
    some = ", ".join(repr(name) for name in seen[:5]) + (", …" if len(seen) > 5 else "")
    there = f"{shown(fspath(source))} has" if path else f"{argument} has"
    require(found, "pattern", pattern, f"to match the name of a matrix; {there} {some or 'no arrays'}")
    return dict(sorted(found.items(), key=lambda item: natural_order(item[0])))


def matrices_of(name: str, array: Any, fold: Fold) -> Iterator[tuple[str, Any]]:
    """The matrices of an array, none of a vector; also of one with a single row or column."""
    if array.ndim > 2 and fold == "stack":
        for index in np.ndindex(array.shape[:-2]):
            yield from matrices_of(f"{name}[{','.join(map(str, index))}]", array[index], fold)
    elif array.ndim >= 2 and array.size == 0:
        yield name, array
    elif array.ndim >= 2:
        size = array.shape[-1] if fold != "first" else array.shape[0]
        matrix = array.reshape(-1, size) if fold != "first" else array.reshape(size, -1)
        if min(matrix.shape) >= MATRIX:
            yield name, matrix


def _sound(name: str, matrix: np.ndarray) -> np.ndarray:
    """As float32, or float64 for that and what is longer, and for whole numbers."""
    double = matrix.dtype.kind != "V" and (matrix.dtype.kind in "iu" or matrix.dtype.itemsize > 4)
    plain = np.asarray(matrix, np.float64 if double else np.float32)
    bad = plain.size - int(np.isfinite(plain).sum())
    if plain.size == 0:
        raise InputError(f"{name} has shape {matrix.shape}: expected a matrix with entries")
    if bad:
        raise InputError(f"{name} has {bad} entries that are NaN or infinite: expected finite numbers")
    return plain


def _is_real(name: str, array: np.ndarray) -> bool:
    """Floating-point and whole numbers, those of 16, 8 and 4 bits that NumPy does not know by itself too."""
    real = array.dtype.kind in "fiu" or "float" in array.dtype.name or "int" in array.dtype.name
    if array.ndim > 1 and not real and array.dtype.kind in "Vc":
        raise InputError(f"{name} has entries of type {array.dtype}: expected real numbers (.npz keeps no bfloat16)")
    return real


def natural_order(name: str) -> list[tuple[int, str]]:
    """Key of a sort in which numbers count as such."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _in_memory(tree: Any, argument: str) -> Iterator[tuple[str, np.ndarray]]:
    require(tree is not None and not jax.tree_util.all_leaves([tree]), argument, tree, KINDS)
    for name, leaf in named_leaves(tree).items():
        array = np.asarray(leaf)
        require(array.dtype != object, name, leaf, "an array of numbers")
        yield name, array


def _on_disk(path: Path, pattern: str, argument: str) -> Iterator[tuple[str, np.ndarray | None]]:
    """Names and arrays; None in place of an array that the pattern does not match."""
    require(path.exists(), argument, str(path), "a file or directory that exists")
    readers = {".npz": _npz, ".safetensors": _safetensors}
    hint = "; safetensors.torch.save_file writes a state dict" if path.suffix in (".pt", ".pth", ".bin") else ""
    require(path.is_dir() or path.suffix in readers, argument, str(path), KINDS + hint)
    read = _orbax if path.is_dir() else readers[path.suffix]
    try:
        yield from read(path, pattern)
    except (InputError, GeneratorExit):
        raise
    except Exception as error:  # a damaged file fails in many ways, deep in zipfile, zlib, NumPy, tensorstore
        kind = "an orbax checkpoint" if path.is_dir() else f"a sound {path.suffix} file"
        why = (" ".join(str(error).split()) or type(error).__name__)[:120]
        raise InputError(f"{argument} = {shown(str(path))}: expected {kind}, as its name says ({why})") from None


def _npz(path: Path, pattern: str) -> Iterator[tuple[str, np.ndarray | None]]:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no zip archive, or not all of one")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        for name in archive.files:
            array = archive[name] if fnmatchcase(name, pattern) else None
            if isinstance(array, bytes):
                raise ValueError(f"its {name!r} is no array")
            yield name, array


def _safetensors(path: Path, pattern: str) -> Iterator[tuple[str, np.ndarray | None]]:
    with _optional("safetensors").safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_tensor(name) if fnmatchcase(name, pattern) else None


def _orbax(path: Path, pattern: str) -> Iterator[tuple[str, np.ndarray | None]]:
    item = _item(path)
    if item is None:
        raise ValueError("it has no _METADATA")
    checkpoint = _optional("orbax.checkpoint")
    handler = checkpoint.PyTreeCheckpointHandler()
    # to the host, whatever devices the arrays were on
    asked = jax.tree.map(lambda _: checkpoint.RestoreArgs(restore_type=np.ndarray), handler.metadata(item).tree)
    tree = handler.restore(item, args=checkpoint.args.PyTreeRestore(restore_args=asked))
    for name, array in _in_memory(tree, str(path)):
        yield name, array if fnmatchcase(name, pattern) else None


def _item(path: Path) -> Path | None:
    """The directory with orbax's arrays: the path itself, an item of a step in it, or of the last step."""
    path = path.absolute()
    if (path / "_METADATA").is_file():
        return path
    inside = [p for p in sorted(path.iterdir()) if p.is_dir()]
    items = [p for p in inside if (p / "_METADATA").is_file()]
    if items:
        return next((p for p in items if p.name in ("params", "model", "default", "state")), items[0])
    steps = [p for p in inside if p.name.split("_")[-1].isdigit()]
    return _item(max(steps, key=lambda p: int(p.name.split("_")[-1]))) if steps else None


def _optional(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError:
        raise InputError(f"{name.split('.')[0]} is not installed: pip install 'dysonjax[weights]'") from None
