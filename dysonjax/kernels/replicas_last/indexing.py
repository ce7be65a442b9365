"""Parts of arrays at computed places: gather, scatter and dynamic slices, with replicas on the last axis.

Where all replicas read or write at the same places, their axis is one more axis of the window. Where each has places
of its own, it is one more axis of the places, and a batching axis of the array if that has replicas, too.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from dysonjax.kernels.replicas_last.layout import Operation, last


def gather(op: Operation) -> Array:
    """Windows of an array at given places."""
    return _gather(op, op.values, op.batched, dict(op.params))


def _gather(op: Operation, values: Any, batched: Any, params: dict[str, Any]) -> Array:
    array, places = values
    numbers = params["dimension_numbers"]
    rank = array.ndim - batched[0]
    sizes = tuple(params["slice_sizes"])
    if not batched[1]:  # the same places: all replicas are in the window
        out = array.ndim - 1 - len(numbers.collapsed_slice_dims) - len(numbers.operand_batching_dims)
        out += places.ndim - 1
        numbers = numbers._replace(offset_dims=(*numbers.offset_dims, out))
        sizes = (*sizes, op.replicas)
    else:
        places = jnp.swapaxes(places, -1, -2)  # [..., places, R, coordinates]
        params["indices_are_sorted"] = False
        if batched[0]:
            numbers = numbers._replace(
                operand_batching_dims=(*numbers.operand_batching_dims, rank),
                start_indices_batching_dims=(*numbers.start_indices_batching_dims, places.ndim - 2),
            )
            sizes = (*sizes, 1)
        else:
            params["unique_indices"] = False  # two replicas may read the same number
    return lax.gather(array, places, **{**params, "dimension_numbers": numbers, "slice_sizes": sizes})


def scatter(op: Operation) -> Array:
    """Windows of an array at given places are changed."""
    return _scatter(op, op.values, op.batched, op.equation.primitive, dict(op.params))


def _scatter(op: Operation, values: Any, batched: Any, primitive: Any, params: dict[str, Any]) -> Array:
    rank = values[0].ndim - batched[0]
    array = last(values[0], batched[0], op.replicas)
    updates = last(values[2], batched[2], op.replicas)
    places = values[1]
    numbers = params["dimension_numbers"]
    if not batched[1]:
        numbers = numbers._replace(update_window_dims=(*numbers.update_window_dims, updates.ndim - 1))
    else:
        places = jnp.swapaxes(places, -1, -2)
        params["indices_are_sorted"] = False
        numbers = numbers._replace(
            operand_batching_dims=(*numbers.operand_batching_dims, rank),
            scatter_indices_batching_dims=(*numbers.scatter_indices_batching_dims, places.ndim - 2),
        )
    return primitive.bind(array, places, updates, **{**params, "dimension_numbers": numbers})


def dynamic_slice(op: Operation) -> Array:
    """A part that begins at computed places, the same for all replicas or not."""
    array, *starts = op.values
    sizes = tuple(op.params["slice_sizes"])
    if not any(op.batched[1:]):
        return lax.dynamic_slice(array, (*starts, _zero(starts)), (*sizes, op.replicas))
    axes = tuple(range(len(sizes)))
    numbers = lax.GatherDimensionNumbers(offset_dims=axes, collapsed_slice_dims=(), start_index_map=axes)
    params = {
        "dimension_numbers": numbers, "slice_sizes": sizes, "mode": lax.GatherScatterMode.CLIP,
        "unique_indices": True, "indices_are_sorted": True, "fill_value": None,
    }  # fmt: skip
    return _gather(op, (array, _places(op, 1)), (op.batched[0], True), params)


def dynamic_update_slice(op: Operation) -> Array:
    """A part that begins at computed places is replaced."""
    array, update = (last(x, b, op.replicas) for x, b in zip(op.values[:2], op.batched[:2], strict=True))
    starts = op.values[2:]
    if not any(op.batched[2:]):
        return lax.dynamic_update_slice(array, update, (*starts, _zero(starts)))
    axes = tuple(range(len(starts)))
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=axes, inserted_window_dims=(), scatter_dims_to_operand_dims=axes
    )
    rank = len(starts)
    places = jnp.swapaxes(_places(op, 2), -1, -2)
    numbers = numbers._replace(operand_batching_dims=(rank,), scatter_indices_batching_dims=(0,))
    return lax.scatter(
        array, places, update, numbers, indices_are_sorted=False, unique_indices=True, mode=lax.GatherScatterMode.CLIP
    )


def _places(op: Operation, first: int) -> Array:
    """Starts of a slice as an array [coordinates, R]."""
    starts = zip(op.values[first:], op.batched[first:], strict=True)
    return jnp.stack([last(x, b, op.replicas).astype(jnp.int32) for x, b in starts])


def _zero(starts: Any) -> Array:
    return jnp.zeros((), starts[0].dtype if starts else jnp.int32)


INDEXING = {
    "gather": gather,
    **dict.fromkeys(("scatter", "scatter-add", "scatter_add", "scatter-sub", "scatter_sub"), scatter),
    **dict.fromkeys(
        ("scatter_mul", "scatter-mul", "scatter_min", "scatter-min", "scatter_max", "scatter-max"), scatter
    ),
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
}
