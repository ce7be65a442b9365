"""Weight matrices from where they are kept: .npz, .safetensors, PyTorch's .pt, an orbax directory, arrays in memory."""

import re
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from dysonjax.core.errors import InputError, require, shown, whole
from dysonjax.core.folding import Layout, checked, matrices_of
from dysonjax.core.leaves import named_leaves
from dysonjax.weights import pytorch

KINDS = "an .npz, .safetensors, .pt or .pth file, an orbax directory, or a mapping of names to arrays"


def read_weights(
    source: Any, pattern: str = "*", kernels: Layout | None = None, stack: int = 0, argument: str = "weights"
) -> dict[str, Float[np.ndarray, "m n"]]:
    """Matrices of a model by name, those whose name matches `pattern`.

    An array of two axes is a matrix as it is, PyTorch's `in_proj_weight` too; one of more axes is folded into one by
    `core.folding.fold`. Whole numbers are read as float64; vectors, and arrays of true and false, are passed over.

    Args:
        source: the path of a NumPy archive (.npz), of a .safetensors file, of a PyTorch state dict (.pt, .pth, .bin;
            also one inside a checkpoint, as "state_dict" or "model"), of a directory that orbax wrote (of a manager's,
            the last step), or a pytree of arrays in memory: a dict, the parameters of a flax module, nested at will.
        pattern: of names, with "*", "?", "[…]"; upper and lower case differ. Parts of a name are joined by "/", and by
            "." where the file joins them so.
        kernels: of an array of more than two axes, "torch" makes the first axis the rows; "flax" makes the last axis
            the columns (the last two of attention's query, key and value). None takes `layout_of(source)`.
        stack: how many leading axes of such an array number matrices that are folded one by one, "name[0]",
            "name[1]", …, as those of scanned layers and of experts do.
        argument: what messages call the source.

    Returns:
        Matrices of float32 or float64 in the order of their names, "layer2" before "layer10".

    Raises:
        InputError: a path that does not exist or whose content is not what its name says; a pattern that matches no
            matrix; a matrix that is empty or holds NaN or ∞, by name.

        read_weights("model.safetensors", "*attn*weight")
    """
    layout, stack = layout_of(source) if kernels is None else checked(kernels), whole("stack", stack, 0)
    require(isinstance(pattern, str), "pattern", pattern, "a string such as '*attn*key*'")
    path = isinstance(source, str | PathLike)
    arrays = _on_disk(Path(fspath(source)), pattern, argument) if path else _in_memory(source, argument)
    found, seen = {}, []
    for name, array in arrays:
        seen.append(name)
        if array is not None and fnmatchcase(name, pattern) and _is_real(name, array):
            for own, matrix in matrices_of(name, array, layout, stack):
                found[own] = _sound(own, matrix)
    some = ", ".join(repr(name) for name in seen[:5]) + (", …" if len(seen) > 5 else "")
    there = f"{shown(fspath(source))} has" if path else f"{argument} has"
    require(found, "pattern", pattern, f"to match the name of a matrix; {there} {some or 'no arrays'}")
    return dict(sorted(found.items(), key=lambda item: natural_order(item[0])))


def layout_of(source: Any) -> Layout:
    """Whose kernels a source holds as a rule: "torch" for .safetensors and PyTorch's files and tensors, else "flax".

    .npz files and orbax directories count as flax's. Nothing is read, so a state dict that was saved as .npz, or
    parameters of flax as .safetensors, have to be told by `kernels`.
    """
    if isinstance(source, str | PathLike):
        return "torch" if Path(fspath(source)).suffix in (".safetensors", *pytorch.SUFFIXES) else "flax"
    return "torch" if any(map(pytorch.is_tensor, jax.tree.leaves(source))) else "flax"


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
        array = pytorch.array_of(leaf) if pytorch.is_tensor(leaf) else np.asarray(leaf)
        require(array.dtype != object, name, leaf, "an array of numbers")
        yield name, array


def _on_disk(path: Path, pattern: str, argument: str) -> Iterator[tuple[str, np.ndarray | None]]:
    """Names and arrays; None in place of an array that the pattern does not match."""
    require(path.exists(), argument, str(path), "a file or directory that exists")
    readers = {".npz": _npz, ".safetensors": _safetensors, **dict.fromkeys(pytorch.SUFFIXES, _torch)}
    require(path.is_dir() or path.suffix in readers, argument, str(path), KINDS)
    read = _orbax if path.is_dir() else readers[path.suffix]
    try:
        yield from read(path, pattern, argument)
    except (InputError, GeneratorExit):
        raise
    except Exception as error:  # a damaged file fails in many ways, deep in zipfile, zlib, NumPy, tensorstore
        kind = "an orbax checkpoint" if path.is_dir() else f"a sound {path.suffix} file"
        why = (" ".join(str(error).split()) or type(error).__name__)[:120]
        raise InputError(f"{argument} = {shown(str(path))}: expected {kind}, as its name says ({why})") from None


def _npz(path: Path, pattern: str, argument: str) -> Iterator[tuple[str, np.ndarray | None]]:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no zip archive, or not all of one")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        for name in archive.files:
            array = archive[name] if fnmatchcase(name, pattern) else None
            if isinstance(array, bytes):
                raise ValueError(f"its {name!r} is no array")
            yield name, array


def _safetensors(path: Path, pattern: str, argument: str) -> Iterator[tuple[str, np.ndarray | None]]:
    with _optional("safetensors").safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_tensor(name) if fnmatchcase(name, pattern) else None


def _torch(path: Path, pattern: str, argument: str) -> Iterator[tuple[str, np.ndarray | None]]:
    yield from pytorch.saved(_optional("torch"), path, pattern, argument)


def _orbax(path: Path, pattern: str, argument: str) -> Iterator[tuple[str, np.ndarray | None]]:
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
        package = name.split(".")[0]
        how = "torch" if package == "torch" else "'dysonjax[weights]'"  # too large for an extra that many need
        raise InputError(f"{package} is not installed: pip install {how}") from None
