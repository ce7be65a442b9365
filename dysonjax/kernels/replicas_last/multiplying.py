"""Products and convolutions of a tile, in the form that was the fastest for their shapes.

- written out: a sum over the contracted axis, term by term, vectorised over replicas; for small products;
- batched: the library's product with replicas in front, and moved back; for large ones;
- joined: one plain product where one operand is shared, with replicas as columns of the other.

Which one is decided by the shapes and the kind of device alone, by the constants here. `python -m
benchmarks.replicas_last --forms` measures them. A form is fixed for a program, so that a replica's bits depend neither
on the time of day nor on its company.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from dysonjax.kernels.products import LONGEST_UNROLLED, sum_of_products
from dysonjax.kernels.replicas_last.layout import Operation, last, vmapped

WRITTEN_OUT = 1 << 14
"""Multiplications of a replica up to which a product is written out on a CPU, if both operands have replicas."""
SHARED_WRITTEN_OUT = 1 << 9
"""The same where one operand is shared."""
LONGEST_WRITTEN_OUT = 1 << 10
"""Longer sums are the library's."""
MOST_TAPS = 128
"""A convolution whose kernel and whose output both have more places is left to `vmap`."""


def product(op: Operation) -> Array:
    """`dot_general`."""
    wanted = op.params["preferred_element_type"] or op.equation.outvars[0].aval.dtype
    return multiply(
        op, op.values, op.batched, op.params["dimension_numbers"], jnp.dtype(wanted), op.params["precision"]
    )


def multiply(
    op: Operation, values: Sequence[Array], batched: Sequence[bool], numbers: Any, wanted: Any, precision: Any
) -> Array:
    """Σ over the contracted axes, replicas last: batch axes, the first operand's own, the second's own, R."""
    (left, right), (left_batch, right_batch) = numbers
    shapes = [jnp.shape(x)[:-1] if b else jnp.shape(x) for x, b in zip(values, batched, strict=True)]
    length = math.prod(shapes[0][i] for i in left)
    rows = [i for i in range(len(shapes[0])) if i not in left and i not in left_batch]
    columns = [i for i in range(len(shapes[1])) if i not in right and i not in right_batch]
    work = math.prod(shapes[0]) * math.prod(shapes[1][i] for i in columns)
    most = WRITTEN_OUT if all(batched) else SHARED_WRITTEN_OUT
    small = op.platform == "cpu" and 0 < work <= most and 0 < length <= LONGEST_WRITTEN_OUT
    if small and jnp.issubdtype(wanted, jnp.inexact) and jnp.finfo(wanted).bits >= 32:
        a = _arranged(values[0], batched[0], (*left_batch, *rows, *left))
        b = _arranged(values[1], batched[1], (*right_batch, *columns, *right))
        inner = (
            [shapes[0][i] for i in left_batch], [shapes[0][i] for i in rows], [shapes[1][i] for i in columns]
        )  # fmt: skip
        return written_out(a.astype(wanted), b.astype(wanted), inner, length)
    keep: dict[str, Any] = {"precision": precision, "preferred_element_type": wanted}
    if all(batched):
        axes = [len(shape) for shape in shapes]
        moved = [jnp.moveaxis(x, -1, 0) for x in values]
        up = [tuple(i + 1 for i in each) for each in (left, right, left_batch, right_batch)]
        made = lax.dot_general(*moved, (tuple(up[:2]), ((0, *up[2]), (0, *up[3]))), **keep)  # type: ignore[arg-type]
        del axes
        return jnp.moveaxis(made, 0, -1)
    if batched[1]:
        return lax.dot_general(values[0], values[1], numbers, **keep)
    made = lax.dot_general(values[1], values[0], ((right, left), (right_batch, left_batch)), **keep)
    count, own, other = len(left_batch), len(columns), len(rows)
    order = [*range(count), *range(count + own, count + own + other), *range(count, count + own), made.ndim - 1]
    return lax.transpose(made, order)


def _arranged(value: Array, batched: bool, axes: Sequence[int]) -> Array:
    """Axes in this order, replicas last, or one place for all of them."""
    value = value if batched else value[..., None]
    return lax.transpose(value, (*axes, value.ndim - 1))


def written_out(a: Array, b: Array, shape: Sequence[Sequence[int]], length: int) -> Array:
    """Σ_k a[batch, rows, k, R] b[batch, columns, k, R] → [batch, rows, columns, R], each given in several axes."""
    batch, rows, columns = shape
    # the operand with more rows is read once for all rows of the other, which stay in the first-level cache
    turned = math.prod(columns) > math.prod(rows)
    if turned:
        a, b, rows, columns = b, a, columns, rows
    a = a.reshape(*batch, math.prod(rows), 1, length, a.shape[-1])
    b = b.reshape(*batch, 1, math.prod(columns), length, b.shape[-1])
    axis = len(batch) + 2
    if length <= LONGEST_UNROLLED:
        total = sum_of_products(a, b, axis)
    else:
        pieces, left = divmod(length, LONGEST_UNROLLED)
        total = sum_of_products(*(lax.slice_in_dim(x, length - left, length, axis=axis) for x in (a, b)), axis) if left else None

        def piece(i: Array, total: Array) -> Array:
            cut = [lax.dynamic_slice_in_dim(x, i * LONGEST_UNROLLED, LONGEST_UNROLLED, axis) for x in (a, b)]
            return total + sum_of_products(*cut, axis)

        start = total if total is not None else jnp.zeros((*batch, math.prod(rows), math.prod(columns), max(a.shape[-1], b.shape[-1])), a.dtype)
        total = lax.fori_loop(0, pieces, piece, start)
    if turned:
        total, rows, columns = jnp.swapaxes(total, len(batch), len(batch) + 1), columns, rows
    return total.reshape(*batch, *rows, *columns, total.shape[-1])


def convolution(op: Operation) -> Array:
    """`conv_general_dilated` as a product with the windows that each place of the kernel, or of the output, sees."""
    params, numbers = op.params, op.params["dimension_numbers"]
    groups = params["feature_group_count"]
    out_shape = op.equation.outvars[0].aval.shape
    outputs = [out_shape[i] for i in numbers.out_spec[2:]]
    kernel = [op.equation.invars[1].aval.shape[i] for i in numbers.rhs_spec[2:]]
    taps = math.prod(kernel)
    empty = math.prod(out_shape) == 0 or taps == 0
    if not op.batched[1] or params["batch_group_count"] != 1 or taps > MOST_TAPS or empty:
        return vmapped(op)
    wanted = jnp.dtype(params["preferred_element_type"] or op.equation.outvars[0].aval.dtype)
    images = last(op.values[0], op.batched[0], op.replicas)
    images = lax.transpose(images, (*numbers.lhs_spec, images.ndim - 1))  # [N, C, *space, R]
    spread = [(low, high, d - 1) for (low, high), d in zip(params["padding"], params["lhs_dilation"], strict=True)]
    none = (0, 0, 0)
    images = lax.pad(images, jnp.zeros((), images.dtype), (none, none, *spread, none))
    strides, dilation = params["window_strides"], params["rhs_dilation"]

    def seen(place: Sequence[int]) -> Array:
        first = [p * d for p, d in zip(place, dilation, strict=True)]
        past = [f + (o - 1) * s + 1 for f, o, s in zip(first, outputs, strides, strict=True)]
        return lax.slice(
            images, (0, 0, *first, 0), (*images.shape[:2], *past, images.shape[-1]), (1, 1, *strides, 1)
        )

    windows = jnp.stack([seen(place) for place in itertools.product(*map(range, kernel))], 2)
    n, channels = windows.shape[:2]
    windows = windows.reshape(n, groups, channels // groups, taps, *outputs, op.replicas)
    weights = lax.transpose(op.values[1], (*numbers.rhs_spec, len(numbers.rhs_spec)))  # [O, C / groups, *kernel, R]
    weights = weights.reshape(groups, -1, channels // groups, taps, op.replicas)
    contracted = ((2, 3), (2, 3)), ((1,), (0,))
    made = multiply(op, (windows, weights), (True, True), contracted, wanted, _one(params["precision"]))
    # [groups, N, *outputs, O / groups, R] as [N, O, *outputs, R]
    space = len(outputs)
    made = jnp.moveaxis(made, (0, 2 + space), (1, 2))
    made = made.reshape(n, -1, *outputs, op.replicas)
    back = [numbers.out_spec.index(i) for i in range(2 + space)]
    return lax.transpose(made, (*back, 2 + space))


def _one(precision: Any) -> Any:
    return precision
