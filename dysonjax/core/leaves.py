"""Names of the leaves of a pytree of parameters: those that files, reports and patterns of watched matrices use."""

from typing import Any

import jax
from jax.tree_util import KeyPath
from jaxtyping import PyTree


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Leaves by name, `layer0/key/kernel`: the parts of a path joined by "/"."""
    return {"/".join(steps_of(path)): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def steps_of(path: KeyPath) -> list[str]:
    """The parts of a path as words; a variable of flax is a node with one child, its value, which has no name."""
    of_variable = len(path) > 1 and getattr(path[-1], "name", "") == "value"
    return [jax.tree_util.keystr((step,), simple=True) for step in (path[:-1] if of_variable else path)]
