"""Linear systems of many replicas, which are on the last axis; written out, for libraries solve one after the other."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Levels = Float[Array, "n R"]


def ends(first: Array | int, second: Array | int) -> Array:
    """[n, R]: an array [n − 1, R] with a row of zeros behind it, or before it; 0 stands for the row of zeros."""
    if isinstance(first, jax.Array):
        return jnp.concatenate([first, jnp.zeros_like(first[:1])])
    assert isinstance(second, jax.Array)
    return jnp.concatenate([jnp.zeros_like(second[:1]), second])


def solve_tridiagonal(diagonal: Levels, off: Array, right: Levels) -> Levels:
    """Solutions [n, R] of symmetric tridiagonal systems with `off` [n − 1, R], by Thomas' elimination."""
    rows = (diagonal, ends(0, off), right)

    def down(above, row):
        own, link, value = row
        pivot, reduced = above
        factor = link / pivot
        row = (own - factor * link, value - factor * reduced)
        return row, row

    (_, _), (pivots, reduced) = lax.scan(down, (jnp.ones_like(right[0]), jnp.zeros_like(right[0])), rows)

    def up(below, row):
        pivot, value, link = row
        solved = (value - link * below) / pivot
        return solved, solved

    return lax.scan(up, jnp.zeros_like(right[0]), (pivots, reduced, ends(off, 0)), reverse=True)[1]


def solve_dense(matrix: Array, right: Levels) -> Levels:
    """Solutions [n, R] of symmetric positive definite systems [n, n, R], by elimination; no pivots are needed."""
    n = matrix.shape[0]

    def eliminate(k, system):
        row = system[k] / system[k, k]
        others = jnp.where((jnp.arange(n) == k)[:, None], 0, system[:, k])
        return system.at[k].set(row) - others[:, None] * row[None]

    system = jnp.concatenate([matrix, right[:, None]], axis=1)
    return lax.fori_loop(0, n, eliminate, system)[:, -1]
