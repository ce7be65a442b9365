"""Eigenvalues of stacked tridiagonal matrices and singular values of stacked bidiagonal ones, by counting.

The pivots q_i of the triangular factorisation of T − x,

    q_1 = d_1 − x,   q_i = d_i − x − e²_{i−1} / q_{i−1},

are negative as often as T has eigenvalues below x (Sturm; Sylvester's law of inertia), to within a rounding of the
entries of T (Kahan 1966), whatever the matrix: bisection cannot fail and needs no care for clusters, zeros or grading.
One count serves one pair (level, replica), so that all pairs of a tile of replicas advance in one vector operation, on
a CPU as on an accelerator. What a bisection in float32 leaves is closed in float64 by Newton's method for det(T − x),
kept inside its bracket by the same counts.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from dysonjax.core.errors import require

LANES_CPU, LANES_ACCELERATOR = 2**13, 2**23
"""Pairs (level, replica) of a tile: as many as stay in the first caches; as many as fill a device."""
MARGIN = 16 * float(jnp.finfo(jnp.float32).eps)
"""Error of the bisection in float32 relative to |T|, with room: rounding of T, of the counts and of x."""
NEWTON_STEPS = 8
"""Newton steps before bisection takes over; three or four are typical."""
MOST_STEPS = 128
"""More than any bisection needs: 52 bits, and a quarter of the exponents down to ε² for singular values."""


@jax.custom_jvp
def tridiagonal_eigenvalues(diagonal: Float[Array, "... n"], off: Float[Array, "... n-1"]) -> Float[Array, "... n"]:
    """Eigenvalues of symmetric tridiagonal matrices, smallest first, to within rounding of the largest one.

    By bisection on Sturm's counts (module docstring): ≈ log₂(1/ε) n² divisions a matrix, all replicas side by side.
    A matrix with an entry that is not finite has levels NaN. Derivatives are those of perturbation theory, and cost n³.
    Raises `InputError` when `off` is not one shorter than `diagonal` on the last axis and like it on the others.

        tridiagonal_eigenvalues(jnp.zeros(2), jnp.ones(1))  # [−1, 1]
    """
    fits = diagonal.ndim >= 1 and off.shape == (*diagonal.shape[:-1], diagonal.shape[-1] - 1)
    require(fits, "off", off.shape, f"one entry less than diagonal {diagonal.shape} on the last axis")
    diagonal, off = jnp.asarray(diagonal, dtype := jnp.result_type(diagonal, off, 0.0)), jnp.asarray(off, dtype)
    return diagonal if diagonal.shape[-1] == 1 else _in_tiles(_eigenvalues_of_block, diagonal, off)


@tridiagonal_eigenvalues.defjvp
def _derivative(primals, tangents):
    """dλ_k = Σ_i v_ki² dd_i + 2 Σ_i v_ki v_k,i+1 de_i."""
    (diagonal, off), (d_diagonal, d_off) = primals, tangents
    n = diagonal.shape[-1]
    i = jnp.arange(n)
    dense = jnp.zeros((*diagonal.shape, n), jnp.result_type(diagonal, off)).at[..., i, i].set(diagonal)
    values, v = jnp.linalg.eigh(dense.at[..., i[1:], i[:-1]].set(off), symmetrize_input=False)
    change = jnp.sum(v**2 * d_diagonal[..., None], axis=-2)
    return values, change + 2 * jnp.sum(v[..., 1:, :] * v[..., :-1, :] * d_off[..., None], axis=-2)


def bidiagonal_singular_values(diagonal: Float[Array, "... n"], off: Float[Array, "... n-1"]) -> Float[Array, "... n"]:
    """Singular values of upper (or lower) bidiagonal matrices, small ones as precise as large ones.

    The tridiagonal matrix of zero diagonal and off-diagonal d_1, e_1, d_2, … d_n has eigenvalues ± them (Golub and
    Kahan 1965), and its counts determine even the smallest to full relative precision (Demmel and Kahan 1990): here
    those above ε times the largest, and the others to within ε² of it. Not differentiable.

    Args:
        diagonal: d, [..., n].
        off: e, [..., n − 1].

    Returns:
        Singular values [..., n], smallest first.

    Raises:
        InputError: shapes that do not fit.
    """
    fits = diagonal.ndim >= 1 and off.shape == (*diagonal.shape[:-1], diagonal.shape[-1] - 1)
    require(fits, "off", off.shape, f"one entry less than diagonal {diagonal.shape} on the last axis")
    diagonal, off = jnp.asarray(diagonal, dtype := jnp.result_type(diagonal, off, 0.0)), jnp.asarray(off, dtype)
    return jnp.abs(diagonal) if diagonal.shape[-1] == 1 else _in_tiles(_singular_values_of_block, diagonal, off)


@partial(jax.jit, static_argnums=0)
def _in_tiles(solve, diagonal: Array, off: Array) -> Array:
    """`solve` for tiles of replicas on the last axis, of a size that suits the device."""
    n = diagonal.shape[-1]
    rows = [a.reshape(-1, a.shape[-1]) for a in (diagonal, off)]
    count = rows[0].shape[0]
    if count == 0:
        return diagonal

    def tiled(lanes, *rows):
        size = min(count, max(lanes // n, 1))
        tiles = -(-count // size)
        # the last matrices are solved twice rather than some that nobody asked for
        index = jnp.minimum(jnp.arange(tiles * size), count - 1).reshape(tiles, size)
        solved = lax.map(lambda i: solve(*(a[i].T for a in rows)).T, index)
        return solved.reshape(-1, n)[:count]

    solved = lax.platform_dependent(
        *rows, cpu=lambda *r: tiled(LANES_CPU, *r), default=lambda *r: tiled(LANES_ACCELERATOR, *r)
    )
    return solved.reshape(diagonal.shape)


def _eigenvalues_of_block(diagonal: Float[Array, "n R"], off: Float[Array, "n-1 R"]) -> Float[Array, "n R"]:
    scale, diagonal, off = _scaled(diagonal, off)
    beside = _row_sums(off)
    low, high = jnp.min(diagonal - beside, axis=0), jnp.max(diagonal + beside, axis=0)
    matrix, rank = _matrix(diagonal, off), jnp.arange(diagonal.shape[0])[:, None]
    x = _bisect(matrix, rank, low, high)
    if low.dtype != jnp.float32:
        largest = jnp.maximum(jnp.abs(low), jnp.abs(high))
        near = MARGIN * largest
        x = _refine(matrix, rank, x - near, x + near, lambda x: jnp.finfo(x.dtype).eps * largest)
    return scale * x


def _singular_values_of_block(diagonal: Float[Array, "n R"], off: Float[Array, "n-1 R"]) -> Float[Array, "n R"]:
    scale, diagonal, off = _scaled(diagonal, off)
    n = diagonal.shape[0]
    chain = jnp.stack([diagonal, jnp.pad(off, ((0, 1), (0, 0)))], axis=1).reshape(2 * n, -1)[:-1]
    matrix, rank = _matrix(jnp.zeros((2 * n, 1), chain.dtype), chain), n + jnp.arange(n)[:, None]
    largest = jnp.max(_row_sums(chain), axis=0)
    x = _bisect(matrix, rank, 0 * largest, largest)
    eps, near = jnp.finfo(chain.dtype).eps, MARGIN * largest
    smallest = eps**2 * largest
    x = _refine(matrix, rank, jnp.maximum(x - near, 0), x + near, lambda x: jnp.maximum(eps * x, smallest))
    return scale * jnp.where(x > 2 * smallest, x, 0)


class _Matrix(NamedTuple):
    diagonal: Float[Array, "n R"]
    squares: Float[Array, "n R"]
    """Squared off-diagonal, entry i between rows i − 1 and i."""


def _matrix(diagonal: Array, off: Array) -> _Matrix:
    """No square is 0, so that a pivot of 0 is followed by one of −∞ and counted once; the first one is no entry."""
    return _Matrix(diagonal, jnp.pad(jnp.maximum(off * off, jnp.finfo(off.dtype).tiny), ((1, 0), (0, 0))))


def _row_sums(off: Array) -> Array:
    """|e_{i−1}| + |e_i|: how far Gershgorin's discs reach."""
    return jnp.abs(jnp.pad(off, ((0, 1), (0, 0)))) + jnp.abs(jnp.pad(off, ((1, 0), (0, 0))))


def _scaled(diagonal: Array, off: Array) -> tuple[Array, Array, Array]:
    """A power of two, so that nothing is rounded, and the matrix in its units: entries below 2, the largest above 1."""
    # a maximum need not hand NaN on
    sound = jnp.all(jnp.isfinite(diagonal), axis=0) & jnp.all(jnp.isfinite(off), axis=0)
    diagonal, off = jnp.where(sound, diagonal, 1), jnp.where(sound, off, 1)
    largest = jnp.maximum(jnp.max(jnp.abs(diagonal), axis=0), jnp.max(jnp.abs(off), axis=0))
    scale = jnp.where(largest > 0, jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1), 1)
    return jnp.where(sound, scale, jnp.nan), diagonal / scale, off / scale


def _below(matrix: _Matrix, x: Float[Array, "k R"]) -> Int[Array, "k R"]:
    """Number of eigenvalues below each x."""

    def step(state, row):
        pivot, count = state
        diagonal, square = row
        pivot = (diagonal - x) - square / pivot
        return (pivot, count - (lax.bitcast_convert_type(pivot, jnp.int32) >> 31)), None

    return lax.scan(step, (jnp.ones_like(x), jnp.zeros(x.shape, jnp.int32)), matrix)[0][1]


def _below_and_slope(matrix: _Matrix, x: Float[Array, "k R"]) -> tuple[Int[Array, "k R"], Float[Array, "k R"]]:
    """Number of eigenvalues below each x, and d/dx ln |det(T − x)| = Σ_i q_i'/q_i there."""

    def step(state, row):
        inverse, term, count, slope = state
        diagonal, square = row
        coupling = square * inverse
        pivot = (diagonal - x) - coupling
        inverse = 1 / pivot
        term = inverse * (coupling * term - 1)
        return (inverse, term, count + (pivot < 0), slope + term), None

    zero = jnp.zeros_like(x)
    start = (jnp.ones_like(x), zero, jnp.zeros(x.shape, jnp.int32), zero)
    _, _, count, slope = lax.scan(step, start, matrix)[0]
    return count, slope


def _bisect(matrix: _Matrix, rank: Int[Array, "k 1"], low: Float[Array, " R"], high: Float[Array, " R"]) -> Array:
    """Eigenvalues number `rank`, all in low … high, to within ε (high − low)/2 of float32, in which it works.

    The first count is of k points between low and high, the same for all levels: it brings each level log₂(k + 1) bits.
    """
    single = jnp.float32
    k, rows = rank.size, _Matrix(matrix.diagonal.astype(single), matrix.squares.astype(single))
    rows = rows._replace(squares=jnp.maximum(rows.squares, jnp.finfo(single).tiny))
    low, width = low.astype(single), (high - low).astype(single) / (k + 1)
    grid = low + width * jnp.arange(1, k + 1, dtype=single)[:, None]
    passed = _below(rows, grid)
    cell = lax.scan(lambda cell, row: (cell + (row <= rank), None), jnp.zeros(grid.shape, jnp.int32), passed)[0]

    def halve(j, x):
        middle = x + width * jnp.exp2(-1 - j.astype(single))
        return jnp.where(_below(rows, middle) <= rank, middle, x)

    steps = max(math.ceil(jnp.finfo(single).nmant - math.log2(k + 1)), 0)
    x = lax.fori_loop(0, steps, halve, low + width * cell.astype(single)) + width * 2.0 ** (-1 - steps)
    return x.astype(matrix.squares.dtype)


def _refine(matrix: _Matrix, rank: Int[Array, "k 1"], low: Array, high: Array, tolerance) -> Float[Array, "k R"]:
    """Eigenvalues number `rank` between low and high [k, R], to within `tolerance(x)`.

    Newton's x − 1/slope, half a tolerance further so that the ends of the bracket meet; a point inside the bracket when
    that would leave it, and from step `NEWTON_STEPS` on. A level that has converged is frozen, so that its digits never
    depend on its neighbours.
    """

    def open_still(low, high):
        return high - low > 2 * tolerance(high)

    def unfinished(state):
        k, low, high, _ = state
        return (k < MOST_STEPS) & jnp.any(open_still(low, high))

    def step(state):
        k, low, high, x = state
        count, slope = _below_and_slope(matrix, x)
        active = open_still(low, high)
        low = jnp.where(active & (count <= rank), x, low)
        high = jnp.where(active & (count > rank), x, high)
        newton = x - 1 / slope - jnp.copysign(tolerance(x) / 2, slope)
        inside = (newton > low) & (newton < high) & (k < NEWTON_STEPS)
        # a bracket that begins at zero holds many orders of magnitude: its end comes down by four bits at a time
        return k + 1, low, high, jnp.where(inside, newton, jnp.where(low == 0, high / 16, (low + high) / 2))

    _, low, high, _ = lax.while_loop(unfinished, step, (0, low, high, (low + high) / 2))
    return (low + high) / 2
