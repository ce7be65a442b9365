"""One rule for each kind of operation: how it is done with replicas on the last axis of its operands and results.

`RULES` has them by the primitive's name. A rule is asked only where at least one operand has replicas.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from dysonjax.kernels.replicas_last.indexing import INDEXING
from dysonjax.kernels.replicas_last.keeping import COSTLY
from dysonjax.kernels.replicas_last.layout import Operation, last, vmapped
from dysonjax.kernels.replicas_last.multiplying import convolution, product
from dysonjax.kernels.replicas_last.randomness import RANDOM

ELEMENTWISE = COSTLY | frozenset((
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atanh", "bessel_i0e", "bessel_i1e",
    "ceil", "clamp", "clz", "complex", "conj", "convert_element_type", "copy", "copy_p", "cosh", "div", "eq",
    "eq_to", "floor", "ge", "gt", "igamma", "igamma_grad_a", "igammac", "imag", "integer_pow", "is_finite", "le",
    "le_to", "log2", "lt", "lt_to", "max", "min", "mul", "mulhi", "ne", "neg", "nextafter", "not",
    "one_minus_square", "or", "polygamma", "population_count", "random_gamma_grad", "real", "reduce_precision",
    "regularized_incomplete_beta", "rem", "round", "rsqrt", "select_n", "shift_left", "shift_right_arithmetic",
    "shift_right_logical", "sign", "sinh", "sqrt", "square", "sub", "xor", "zeta",
))  # fmt: skip
REDUCING = frozenset((
    "argmax", "argmin", "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "reduce_and", "reduce_max",
    "reduce_min", "reduce_or", "reduce_prod", "reduce_sum", "reduce_xor", "rev", "split", "squeeze",
))  # fmt: skip
"""They name the axes on which they act, counted from the first, and leave all others alone."""
WINDOWED = frozenset(["reduce_window_max", "reduce_window_min", "reduce_window_sum", "cumred_reduce_window"])


def elementwise(op: Operation) -> Array:
    """Operands of equal shapes, or scalars, or, since JAX 0.12, with axes of length one."""
    shape = (*op.equation.outvars[0].aval.shape, op.replicas)
    if op.equation.primitive.name == "bitcast_convert_type" and op.ranks[0] != len(shape) - 1:
        return vmapped(op)
    return op.bind(*(_spread(x, b, shape) for x, b in zip(op.values, op.batched, strict=True)))


def _spread(value: Any, batched: bool, shape: tuple[int, ...]) -> Array:
    value = jnp.asarray(value)
    if value.shape == shape and batched:
        return value
    axes = (len(shape) - 1,) if batched and value.ndim == 1 else range(value.ndim)  # a scalar of each replica
    return lax.broadcast_in_dim(value, shape, axes)


def same(op: Operation) -> Any:
    """The same axes, counted from the first; operands that are shared are repeated."""
    return op.bind(*op.all())


def broadcast_in_dim(op: Operation) -> Array:
    """New axes; the last stays the last."""
    shape, axes = (*op.params["shape"], op.replicas), (*op.params["broadcast_dimensions"], len(op.params["shape"]))
    return vmapped(op) if len(op.values) > 1 else lax.broadcast_in_dim(op.values[0], shape, axes)


def reshape(op: Operation) -> Array:
    """Another shape of the same numbers."""
    if op.params.get("dimensions") is not None:
        return vmapped(op)
    return lax.reshape(op.values[0], (*op.params["new_sizes"], op.replicas))


def transpose(op: Operation) -> Array:
    """Another order of axes."""
    return lax.transpose(op.values[0], (*op.params["permutation"], op.ranks[0]))


def slice_(op: Operation) -> Array:
    """A part of each axis, all of the last."""
    strides = op.params["strides"]
    return lax.slice(
        op.values[0],
        (*op.params["start_indices"], 0),
        (*op.params["limit_indices"], op.replicas),
        None if strides is None else (*strides, 1),
    )


def pad(op: Operation) -> Array:
    """More of each axis, of one number for all replicas."""
    if op.batched[1]:
        return vmapped(op)
    value = last(op.values[0], op.batched[0], op.replicas)
    return lax.pad(value, op.values[1], (*op.params["padding_config"], (0, 0, 0)))


def reduce_window(op: Operation) -> Any:
    """Windows of length one along the last axis."""
    one = {name: (*op.params[name], 1) for name in WINDOW_SIZES if name in op.params}
    return op.bind(*op.all(), **one, padding=(*op.params["padding"], (0, 0)))


WINDOW_SIZES = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")


def optimization_barrier(op: Operation) -> Any:
    """A barrier for all at once."""
    return lax.optimization_barrier(tuple(op.all()))


RULES: dict[str, Callable[[Operation], Any]] = {
    **dict.fromkeys((*ELEMENTWISE, "bitcast_convert_type"), elementwise),
    **dict.fromkeys((*REDUCING, "concatenate", "sort"), same),
    **dict.fromkeys((*WINDOWED, "select_and_scatter_add", "select_and_gather_add"), reduce_window),
    **INDEXING,
    **RANDOM,
    "broadcast_in_dim": broadcast_in_dim,
    "conv_general_dilated": convolution,
    "dot_general": product,
    "optimization_barrier": optimization_barrier,
    "pad": pad,
    "reshape": reshape,
    "slice": slice_,
    "transpose": transpose,
}
