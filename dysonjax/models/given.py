"""What a user gives: data, functions and what they return, and one line about what is wrong with them."""

import inspect
from collections.abc import Callable, Mapping
from numbers import Number
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from dysonjax.core.errors import InputError, require, shown


def arrays(data: PyTree, argument: str) -> PyTree:
    """Data whose leaves are arrays with one leading axis.

    A list of numbers is an array, and so is a tuple of them but for the outermost pair.
    """

    def of_numbers(x: Any) -> bool:
        return isinstance(x, list | tuple) and all(isinstance(y, Number) or of_numbers(y) for y in x)

    outermost = isinstance(data, tuple) and not all(isinstance(x, Number) for x in data)
    try:
        leaves = jax.tree.map(
            lambda x: x if isinstance(x, np.ndarray | jax.Array) else np.asarray(x),
            data,
            is_leaf=lambda x: of_numbers(x) and not (outermost and x is data),
        )
    except Exception as error:  # what NumPy says of lists of different lengths
        raise fault(argument, data, "arrays, or lists of numbers of one length", error) from error
    for x in jax.tree.leaves(leaves):
        require(getattr(x.dtype, "kind", "V") not in "OSUMm", argument, x, "arrays of numbers")
    sizes = sorted({x.shape[0] if x.ndim else 0 for x in jax.tree.leaves(leaves)})
    require(len(sizes) == 1 and sizes[0] > 0, argument, sizes, "arrays with one common leading axis")
    return leaves


def named_arguments(function: Callable[..., Any], **offered: Any) -> dict[str, Any]:
    """Those of what is offered that the function names among its parameters."""
    try:
        names = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin
        return {}
    return {name: value for name, value in offered.items() if name in names}


def fault(name: str, value: Any, expected: str, error: Exception) -> InputError:
    """One line about an exception of the user's own function, to be raised from it."""
    if isinstance(error, InputError):
        return error
    said = " ".join(str(error).split())
    why = type(error).__name__ + (f": {said}" if said else "")
    return InputError(f"{name} = {shown(value)}: expected {expected} ({why if len(why) < 160 else why[:159] + '…'})")


def one_line(error: InputError) -> InputError:
    """Without what JAX adds to the words of an exception that passes through it."""
    return InputError(str(error).split("\n")[0])


def split_loss(
    result: Any, function: Any, expected: str = "a loss, or a loss and its metrics"
) -> tuple[Any, dict[str, Any]]:
    """Loss and metrics of what a loss function returned."""
    if not isinstance(result, tuple):
        return result, {}
    right = len(result) == 2 and isinstance(result[1], Mapping)
    require(right, "loss_function", function, f"{expected}, not a tuple of {len(result)}")
    return result[0], dict(result[1])
