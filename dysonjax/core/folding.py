"""Arrays of more than two axes as matrices: kernels of convolutions and attention, layers in one array."""

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args

from dysonjax.core.errors import require

Layout = Literal["torch", "flax"]
"""Whose kernels they are."""

MATRIX = 2
"""Rows and columns that an array needs at least to be a matrix and no vector."""

ATTENTION = re.compile(r"(?:^|.*[/.])(?:query|key|value)[/.]kernel")
"""Names of flax's kernels [in, heads, head_dim], of which the last two axes are columns."""


def fold(array: Any, layout: Layout, columns: int = 1) -> Any:
    """One matrix of an array [...] of two or more axes, of NumPy or JAX; one of two axes stays as it is.

    "flax": rows are all axes but the last, a convolution's [height, width, in, out] being (height·width·in × out).
    "torch": rows are the first axis alone, a convolution's [out, in, height, width] being (out × in·height·width). Of
    the same layer, one is the other's transpose but for the order of the longer side, so its levels are the same. Of a
    transposed convolution, PyTorch's [in, out, height, width] is (in × out·height·width), and flax's
    [height, width, in, out] is (height·width·in × out), which have different levels.

    Args:
        array: what is folded.
        layout: "torch" or "flax".
        columns: for "flax", how many of the last axes are columns: 2 for the kernel [in, heads, head_dim] of attention,
            whose columns are then those of head 0, of head 1, …

    Returns:
        The matrix; nothing is copied that can be a view.

        fold(np.zeros((3, 3, 16, 32)), "flax").shape == (144, 32)
        fold(np.zeros((32, 16, 3, 3)), "torch").shape == (32, 144)
    """
    if array.ndim == 2:
        return array
    axes = 1 if layout == "torch" else array.ndim - columns
    return array.reshape(math.prod(array.shape[:axes]), math.prod(array.shape[axes:]))


def matrices_of(name: str, array: Any, layout: Layout, stack: int = 0) -> Iterator[tuple[str, Any]]:
    """The matrices of an array by name, none of a vector; also of one with a single row or column.

    With `stack`, an array of enough axes is that many axes of matrices, `name[0]`, `name[0,1]`, …, each folded by
    itself. Kernels named as flax names those of a query, key or value are (in × heads·head_dim).
    """
    stack = max(min(stack, array.ndim - 2), 0)
    if stack:
        for index in itertools.product(*map(range, array.shape[:stack])):
            for _, matrix in matrices_of(name, array[index], layout):
                yield f"{name}[{','.join(map(str, index))}]", matrix
    elif array.ndim >= 2:
        attends = layout == "flax" and array.ndim > 2 and ATTENTION.fullmatch(name)
        matrix = fold(array, layout, 2 if attends else 1)
        if array.size == 0 or min(matrix.shape) >= MATRIX:
            yield name, matrix


def checked(layout: Any) -> Layout:
    """`layout`; raises `InputError` where it is none."""
    require(layout in get_args(Layout), "kernels", layout, '"torch" or "flax"')
    return layout
