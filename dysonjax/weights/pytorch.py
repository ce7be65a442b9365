"""PyTorch's tensors as NumPy arrays: those of a file that `torch.save` wrote, and those of a state dict in memory."""

import pickle
import warnings
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dysonjax.core.errors import InputError, require

SUFFIXES = (".pt", ".pth", ".bin")
"""Of the files that `torch.save` writes."""
MODEL = ("state_dict", "model_state_dict", "model", "module")
"""Where a checkpoint keeps the state dict of its model, beside that of an optimizer."""


def saved(torch: ModuleType, path: Path, pattern: str, argument: str) -> Iterator[tuple[str, np.ndarray | None]]:
    """Names and tensors of a state dict, as arrays; None in place of one that `pattern` does not match.

    Nothing in the file is run (`weights_only=True`). Names of nested dicts are joined by "/".
    """
    expected = "a PyTorch state dict, as torch.save(model.state_dict(), path) writes it"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the refusal says, or of old formats that are read all the same
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its own message is long, and advises to run what is in the file
        raise InputError(f"{argument} = {str(path)!r}: expected {expected}, tensors and nothing to run") from None
    while isinstance(found, Mapping):
        inner = next((found[key] for key in MODEL if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    tensors = dict(_named(found, "")) if isinstance(found, Mapping) else {}
    require(tensors, argument, str(path), f"{expected}, not {type(found).__name__} without tensors")
    for name, tensor in tensors.items():
        yield name, array_of(tensor) if fnmatchcase(name, pattern) else None


def is_tensor(leaf: Any) -> bool:
    """Whether it is a tensor or parameter of PyTorch, which need not be imported for that."""
    return any(kind.__module__ == "torch" and kind.__name__ == "Tensor" for kind in type(leaf).__mro__)


def array_of(tensor: Any) -> np.ndarray:
    """A tensor as an array; floating-point numbers of 16 and 8 bits, which NumPy may not know, in float32."""
    plain = tensor.detach().cpu()
    short = plain.is_floating_point() and plain.element_size() < 4
    return (plain.float() if short else plain).numpy()


def _named(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Tensors of nested dicts; what else a checkpoint holds, such as a step, is passed over."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _named(value, f"{name}/{key}" if name else str(key))
    elif is_tensor(tree):
        yield name, tree
