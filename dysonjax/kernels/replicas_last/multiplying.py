"""Products and convolutions of a tile, in the form that was the fastest for their shapes.

- written out: a sum over the contracted axis, term by term, vectorised over replicas; for small products;
- batched: the library's product with replicas in front, and moved back; for large ones;
- joined: one plain product where one operand is shared, with replicas as columns of the other.

Which one is decided by the shapes and the kind of device alone, by the constants here. `python -m
benchmarks.replicas_last --forms-only` measures the first; the others were set by trials of whole updates. A form is
fixed for a program, so that a replica's bits depend neither on the time of day nor on its company.
"""

import functools
import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from dysonjax.kernels.replicas_last.layout import Operation, last, vmapped

WRITTEN_OUT = 1 << 14
"""Multiplications of a replica up to which a product is written out on a CPU, if both operands have replicas."""
SHARED_WRITTEN_OUT = 1 << 9
"""The same where one operand is shared."""
TERMS = 8, 64
"""Terms of a sum that are added in one pass over the result: registers hold eight, …"""
PASS = 1 << 14
"""… but a pass has its own cost, so that it should do so many multiplications, all replicas together."""
MOST_PASSES = 8
"""More of them are a loop: it compiles faster, but needs its operands in memory as they are."""
IN_FLIGHT = 4
"""Independent partial sums of a pass: a chain of additions would wait for each one's latency."""
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
    a, b = (Factor.of(*each) for each in zip(values, batched, (left_batch, right_batch), (left, right), strict=True))
    work = math.prod([*a.batch, *a.own, *b.own, a.length])
    most = WRITTEN_OUT if all(batched) else SHARED_WRITTEN_OUT
    if op.platform == "cpu" and 0 < work <= most and jnp.issubdtype(wanted, jnp.inexact) and wanted.itemsize >= 4:
        return written_out(a, b, wanted)
    keep: dict[str, Any] = {"precision": precision, "preferred_element_type": wanted}
    if all(batched):
        moved = [jnp.moveaxis(x, -1, 0) for x in values]
        left, right, left_batch, right_batch = (
            tuple(i + 1 for i in axes) for axes in (left, right, left_batch, right_batch)
        )
        made = lax.dot_general(moved[0], moved[1], ((left, right), ((0, *left_batch), (0, *right_batch))), **keep)
        return jnp.moveaxis(made, 0, -1)
    if batched[1]:
        return lax.dot_general(values[0], values[1], numbers, **keep)
    made = lax.dot_general(values[1], values[0], ((right, left), (right_batch, left_batch)), **keep)
    first, second, third = len(a.batch), len(a.batch) + len(b.own), made.ndim - 1
    return lax.transpose(made, (*range(first), *range(second, third), *range(first, second), third))


class Factor(NamedTuple):
    """An operand of a product: lengths of its axes, and what it contributes to each term of the sum."""

    value: Array
    axis: int
    """The contracted one."""
    order: tuple[int, ...]
    """Batch axes, its own, replicas, in the array without the contracted axis."""
    batch: tuple[int, ...]
    own: tuple[int, ...]
    length: int

    @staticmethod
    def of(value: Array, batched: bool, batch: Sequence[int], contracted: Sequence[int]) -> "Factor":
        """Several contracted axes become one: without a copy if they are neighbours."""
        value = jnp.asarray(value) if batched else jnp.asarray(value)[..., None]
        own = [i for i in range(value.ndim - 1) if i not in batch and i not in contracted]
        sizes = tuple(value.shape[i] for i in batch), tuple(value.shape[i] for i in own)
        length = math.prod(value.shape[i] for i in contracted)
        first = min(contracted, default=0)
        if tuple(contracted) != tuple(range(first, first + len(contracted))):
            value = lax.transpose(value, (*contracted, *batch, *own, value.ndim - 1))
            first, batch = 0, range(len(contracted), len(contracted) + len(batch))
            own = range(len(contracted) + len(batch), value.ndim - 1)
        shape, past = value.shape, first + len(contracted)
        value = value.reshape(*shape[:first], length, *shape[past:])
        order = tuple(i if i < first else i - len(contracted) for i in (*batch, *own, len(shape) - 1))
        return Factor(value, first, order, *sizes, length)

    def part(self, number: int | Array, own: int) -> Array:
        """What multiplies in one term: [batch, rows, 1, R] if `own` = 0, else [batch, 1, columns, R]."""
        piece = lax.dynamic_index_in_dim(self.value, number, self.axis, keepdims=False)
        rows = (math.prod(self.own), 1) if own == 0 else (1, math.prod(self.own))
        return lax.transpose(piece, self.order).reshape(*self.batch, *rows, self.value.shape[-1])


def written_out(a: Factor, b: Factor, wanted: Any) -> Array:
    """Σ_k a[batch, rows, k, R] b[batch, columns, k, R] → [batch, rows, columns, R]."""
    # the operand with more rows is read once for all rows of the other, which stay in the first-level cache
    turned = math.prod(b.own) > math.prod(a.own)
    x, y = (b, a) if turned else (a, b)

    def add(total: Array | None, first: int | Array, count: int) -> Array:
        terms = [(x.part(first + i, 0) * y.part(first + i, 1)).astype(wanted) for i in range(count)]
        sums = [functools.reduce(operator.add, terms[k::IN_FLIGHT]) for k in range(min(IN_FLIGHT, count))]
        return functools.reduce(operator.add, sums if total is None else [total, *sums])

    replicas = max(x.value.shape[-1], y.value.shape[-1])
    shape = (*a.batch, math.prod(x.own), math.prod(y.own), replicas)
    terms = min(max(PASS // math.prod(shape), TERMS[0]), TERMS[1])
    passes, left = divmod(a.length, terms)
    total: Any
    if a.length <= terms:
        total = add(None, 0, a.length)
    elif passes <= MOST_PASSES:
        total = None
        for first in range(0, a.length, terms):
            total = lax.optimization_barrier(add(total, first, min(terms, a.length - first)))
    else:
        total = add(None, passes * terms, left) if left else jnp.zeros(shape, wanted)
        total = lax.fori_loop(0, passes, lambda i, total: add(total, i * terms, terms), total)
    if turned:
        total = jnp.swapaxes(total, len(a.batch), len(a.batch) + 1)
    return total.reshape(*a.batch, *a.own, *b.own, total.shape[-1])


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
        return lax.slice(images, (0, 0, *first, 0), (*images.shape[:2], *past, images.shape[-1]), (1, 1, *strides, 1))

    windows = jnp.stack([seen(place) for place in itertools.product(*map(range, kernel))], 2)
    n, channels = windows.shape[:2]
    windows = windows.reshape(n, groups, channels // groups, taps, *outputs, op.replicas)
    weights = lax.transpose(op.values[1], (*numbers.rhs_spec, len(numbers.rhs_spec)))  # [O, C / groups, *kernel, R]
    weights = weights.reshape(groups, -1, channels // groups, taps, op.replicas)
    contracted = ((2, 3), (2, 3)), ((1,), (0,))
    made = multiply(op, (windows, weights), (True, True), contracted, wanted, params["precision"])
    # [groups, N, *outputs, O / groups, R] as [N, O, *outputs, R]
    space = len(outputs)
    made = jnp.moveaxis(made, (0, 2 + space), (1, 2))
    made = made.reshape(n, -1, *outputs, op.replicas)
    back = [numbers.out_spec.index(i) for i in range(2 + space)]
    return lax.transpose(made, (*back, 2 + space))
