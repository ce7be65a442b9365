"""Small matrix products for a block of replicas, R on the last axis of every array, and sums over a few examples each.

Each product is a sum over one short axis. XLA's CPU code for the two ways of writing that sum differs by up to a factor
100, and which is the faster changed between JAX 0.10 and 0.12 (`benchmarks/sgd_engine.py` measures both), so the way is
chosen by version: unrolled sums with four partial sums in flight, or a product followed by a reduction.
"""

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PyTree

Form = Literal["unrolled", "reduce"]

FORM: Form = "unrolled" if jax.__version_info__ >= (0, 11) else "reduce"
LONGEST_UNROLLED = 64
"""Longer sums are cut into pieces of this length, so that compile time stays bounded."""
LARGEST_FACTORED = 32
"""Larger matrices are factored by the library."""
IN_FLIGHT = 4
"""Independent partial sums: a chain of additions would wait for each one's latency."""
CHUNK = 8
"""Examples at a time, at most: what becomes of them stays in the first-level cache."""


def matvec(w: Inexact[Array, "m n #R"], x: Inexact[Array, "B n #R"]) -> Inexact[Array, "B m R"]:
    """W x for each replica and each of B vectors.

    Computed with the batch inside, so that a row of W is read once for all B, and only then turned around.
    """
    product = _sum_of_products(w[:, None], x[None], axis=2)
    return jnp.swapaxes(jax.lax.optimization_barrier(product), 0, 1)


def matvec_transposed(w: Inexact[Array, "m n #R"], x: Inexact[Array, "B m #R"]) -> Inexact[Array, "B n R"]:
    """Wᵀ x for each replica and each of B vectors."""
    return _sum_of_products(w[None], x[:, :, None], axis=1)


def sum_of_outer(x: Inexact[Array, "B m #R"], y: Inexact[Array, "B n #R"]) -> Inexact[Array, "m n R"]:
    """Σ_b x_b y_bᵀ for each replica."""
    return _sum_of_products(x[:, :, None], y[:, None], axis=0)


def matmul(a: Inexact[Array, "m k #R"], b: Inexact[Array, "k n #R"]) -> Inexact[Array, "m n R"]:
    """A B for each replica."""
    return _sum_of_products(a[:, :, None], b[None], axis=1)


def cholesky(a: Float[Array, "n n R"]) -> Float[Array, "n n R"]:
    """The upper triangular U with UᵀU = A for each replica; NaN where A is not positive definite."""
    if a.shape[0] > LARGEST_FACTORED:
        return jnp.moveaxis(jnp.linalg.cholesky(jnp.moveaxis(a, -1, 0), upper=True), 0, -1)
    rows = []
    for i in range(a.shape[0]):
        row = jax.lax.optimization_barrier(a[0] * jax.lax.rsqrt(a[0, 0]))  # NaN for a negative pivot
        rows.append(jnp.pad(row, ((i, 0), (0, 0))))
        a = a[1:, 1:] - row[1:, None] * row[None, 1:]
    return jnp.stack(rows)


def solve_upper(u: Float[Array, "n n R"], b: Float[Array, "n m R"]) -> Float[Array, "n m R"]:
    """U⁻¹ B for upper triangular U, for each replica, by back substitution."""
    if u.shape[0] > LARGEST_FACTORED:
        first = [jnp.moveaxis(x, -1, 0) for x in (u, b)]
        return jnp.moveaxis(jax.scipy.linalg.solve_triangular(first[0], first[1]), 0, -1)
    solved: list[Array] = []
    for i in reversed(range(u.shape[0])):
        x = jax.lax.optimization_barrier(b[i] / u[i, i])
        solved.append(x)
        b = b[:i] - u[:i, i, None] * x[None]
    return jnp.stack(solved[::-1])


def dot(x: Inexact[Array, "n ..."], y: Inexact[Array, "n ..."]) -> Inexact[Array, "..."]:
    """Σ_i x_i y_i over the first axis; the other axes broadcast."""
    return _sum_of_products(x, y, axis=0)


def chunks(examples: PyTree, size: int = CHUNK) -> PyTree:
    """Arrays [n, …] as [n / c, c, …], with the largest c that divides both n and `size`."""
    return jax.tree.map(lambda x: x.reshape(-1, math.gcd(len(x), size), *x.shape[1:]), examples)


def map_examples(function: Callable[..., PyTree], *examples: PyTree) -> PyTree:
    """`function` of arrays [n, …, R] that treats their n examples one by one, a chunk of them at a time."""
    made = jax.lax.map(lambda chunk: function(*chunk), chunks(examples))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), made)


def sum_of_chunks(function: Callable[..., PyTree], *parts: PyTree) -> PyTree:
    """Σ_i `function`(parts [i]) over the first axis of arrays [n, c, …, R], such as `chunks` makes."""
    add = lambda total, part: (jax.tree.map(operator.add, total, function(*part)), None)  # noqa: E731
    first = jax.eval_shape(function, *jax.tree.map(lambda x: x[0], parts))
    return jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first), parts)[0]


def _sum_of_products(a: Array, b: Array, axis: int) -> Array:
    """Σ a·b over `axis`, which both have in full; the other axes broadcast."""
    length = a.shape[axis]
    if FORM == "reduce":
        return jnp.sum(a * b, axis)
    if length > LONGEST_UNROLLED:
        pieces = [slice(i, min(i + LONGEST_UNROLLED, length)) for i in range(0, length, LONGEST_UNROLLED)]
        head = (slice(None),) * axis
        return reduce(jax.lax.add, [_sum_of_products(a[*head, p], b[*head, p], axis) for p in pieces])
    # JAX takes several times as long to trace the operators * and + as these
    times = jax.lax.mul if (a.shape, a.dtype) == (b.shape, b.dtype) else operator.mul

    def term(i: int) -> Array:
        return times(*(jax.lax.index_in_dim(x, i, axis, keepdims=False) for x in (a, b)))

    partial = [
        reduce(jax.lax.add, [term(i) for i in range(k, length, IN_FLIGHT)]) for k in range(min(IN_FLIGHT, length))
    ]
    while len(partial) > 1:
        partial = [reduce(jax.lax.add, partial[i : i + 2]) for i in range(0, len(partial), 2)]
    return partial[0]
