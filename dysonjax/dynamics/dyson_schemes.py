"""Kicks: one time step of the drift-free levels, noise and repulsion together. Five schemes; `dyson` adds the drift.

A kick moves levels `x` [n, R], largest first, of R replicas side by side. Its strength is the `variance`
v_ij = T g_ij² dt of one real component of the kicked matrix' entry, [n, n, R], or [1, 1, R] when all entries share it:

- symmetric matrices (`rows` None): off-diagonal entries have β components of variance v_ij, diagonal ones one, 2 v_ii;
- rectangular matrices of `rows` M ≥ n: every entry has β components of variance v_ij; x are the n singular values.

So a level's own noise has variance 2 v_ii (v_ii), and two levels repel with β/2 times that: β v_ij/(x_i − x_j)
(β v_ij/2 [1/(x_i − x_j) + 1/(x_i + x_j)], and (β(M − n + 1) − 1) v_ii/2x_i from the rows).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key

from dysonjax.kernels.eigenvalues import eigenvalues_of_block, singular_values_of_block, sort_levels
from dysonjax.kernels.linear_systems import ends, solve_dense, solve_tridiagonal
from dysonjax.kernels.random_numbers import chi_squared, normals

UNROLLED = 32
"""Up to this many levels the loop over pairs is written out; beyond it runs, in memory proportional to n."""
NEWTON_STEPS = 6
NEWTON_TOLERANCE = 0.02
"""A last Newton step that changes no gap by more than this fraction leaves an error of its square."""

Levels = Float[Array, "n R"]


class Kicked(NamedTuple):
    """What a kick returns.

    Attributes:
        x: levels after the kick.
        unconverged: 1 for each replica whose solver did not converge, else 0.
    """

    x: Levels
    unconverged: Int[Array, " R"]


class Scheme(NamedTuple):
    """A kick and what it promises.

    Attributes:
        kick: a function such as `matrix_kick`.
        drift: "strang": half a drift flow before and after the kick; "euler": one Euler step of drift beside it.
        ordered: levels stay largest first.
        rectangular: it knows rectangular matrices, too.
        betas: the Dyson indices it is for; None: any of at least 1.
    """

    kick: Callable[..., Kicked]
    drift: Literal["strang", "euler"] = "strang"
    ordered: bool = True
    rectangular: bool = True
    betas: tuple[float, ...] | None = None


def matrix_kick(keys: Key[Array, " R"], x: Levels, variance: Array, beta: int | float, rows: int | None) -> Kicked:
    """Levels of diag(x) + Gaussian matrix: exact in law, for any step.

    For one variance, the kick is Dyson's Brownian motion itself, so the only error is that of the split between drift
    and kick: weak order 2, none for one quadratic potential. With a variance profile g_ij(x), held over the step:
    weak order 1. Always ordered. Cost: n³ (eigenvalues side by side for small n, LAPACK beyond). β = 1, 2, 4: real,
    complex and quaternion entries.

    Args:
        keys: random keys [R].
        x: levels [n, R], largest first.
        variance: v_ij, [n, n, R] or [1, 1, R], in units of the levels squared.
        beta: Dyson index β.
        rows: M of rectangular matrices; None: symmetric ones.

    Returns:
        The levels [n, R] after the kick.
    """
    n = x.shape[0]
    width = jnp.sqrt(variance)
    diagonal = jnp.eye(n)[..., None] * x
    first, second = _gaussian(keys, (n, n), beta)
    if rows is None:
        first = diagonal + width * (first + first.swapaxes(0, 1).conj()) / np.sqrt(2)
        second = width * (second - second.swapaxes(0, 1)) / np.sqrt(2) if beta == 4 else None
        values = eigenvalues_of_block(_matrix(first, second))
    else:
        below, below_second = _rows_below(keys, rows - n, n, beta)
        widths = jnp.sqrt(own(variance))
        first = jnp.concatenate([diagonal + width * first, widths * below])
        second = jnp.concatenate([width * second, widths * below_second]) if beta == 4 else None
        values = singular_values_of_block(_matrix(first, second))
    return _converged(values[:: 2 if beta == 4 else 1][::-1])  # quaternions: every level comes twice


def pairwise_kick(keys: Key[Array, " R"], x: Levels, variance: Array, beta: int | float, rows: int | None) -> Kicked:
    """Own noise, sort, then every pair's exact 2×2 flow with a random coupling h² = v χ²_β, summed over the pairs.

    Two levels a distance d apart move by ± (√(d² + 4h²) − d)/2 each: exact for n = 2, any β. Weak order 1 (measured:
    1.06 ± 0.04); ordered by a final sort. Cost: n² random numbers and roots, memory n.

    Args:
        keys, x, variance, beta, rows: as for `matrix_kick`.

    Returns:
        The levels [n, R] after the kick.
    """
    n = x.shape[0]
    noise = normals(keys, (n,))
    if rows is None:
        y = x + jnp.sqrt(2 * own(variance)) * noise
    else:
        y = x + jnp.sqrt(own(variance)) * noise
        freedom = beta * (rows - n + 1) - 1
        y = jnp.sqrt(y * y + own(variance) * chi_squared(keys, freedom, (n,), stream=1))
    y = sort_levels(y)[::-1]
    factor = 4 if rows is None else 2

    def push(distance, v, stream):
        """(√(d² + q) − d)/2 without its cancellation."""
        q = factor * v * chi_squared(keys, beta, (n,), stream)
        return q / (2 * (jnp.sqrt(distance * distance + q) + distance) + jnp.finfo(q.dtype).tiny)

    def both_ends(k, gap, total, v):
        apart = push(gap, v, 2 * k)
        together = 0 if rows is None else push(total, v, 2 * k + 1)
        return together + apart, together - apart

    return _converged(_strictly_ordered(sort_levels(y + _pair_sums(y, variance, both_ends))[::-1]))


def neighbour_implicit(
    keys: Key[Array, " R"], x: Levels, variance: Array, beta: int | float, rows: int | None
) -> Kicked:
    """y_i = x_i + noise + far repulsion at x + Σ_{j = i ± 1} c_ij/(y_i − y_j), c = β v: implicit in the two neighbours.

    The solution is the minimum of ½|y − y*|² − Σ c ln(gap), convex on ordered levels, found by a few damped Newton
    steps with a tridiagonal Hessian, which keep the order: ordered for any step. Its bias (6 levels, dt = 0.03:
    −0.9 % of ⟨Σx²⟩, −0.006 of ⟨r⟩) falls more slowly than dt, and gaps below √v are too rare. Cost: an explicit step
    and about n operations a Newton step. Symmetric matrices only.

    Args:
        keys, x, variance, beta, rows: as for `matrix_kick`; `rows` is not used.

    Returns:
        The levels [n, R] after the kick.
    """
    n = x.shape[0]
    strength = beta * _pairs_of(variance, n, 1)[: n - 1]
    far = _repulsion(x, beta * variance, neighbours=False)
    target = x + far + jnp.sqrt(2 * own(variance)) * normals(keys, (n,))

    def newton(y):
        gap = y[:-1] - y[1:]
        pull, stiff = strength / gap, strength / (gap * gap)
        gradient = y - target - ends(pull, 0) + ends(0, pull)
        return solve_tridiagonal(1 + ends(stiff, 0) + ends(0, stiff), -stiff, -gradient)

    return _minimise(newton, _opened(target, strength))


def backward_euler(keys: Key[Array, " R"], x: Levels, variance: Array, beta: int | float, rows: int | None) -> Kicked:
    """y_i = x_i + noise + Σ_j c_ij/(y_i − y_j), c = β v: implicit in all pairs.

    The minimum of ½|y − y*|² − Σ c ln|y_i − y_j| on ordered levels, by damped Newton steps with the full Hessian:
    ordered for any step. Weak order 0.8 as measured (1 without the singular force); gaps below √v are too rare.
    Cost: n³ a Newton step. Symmetric matrices only.

    Args:
        keys, x, variance, beta, rows: as for `matrix_kick`; `rows` is not used.

    Returns:
        The levels [n, R] after the kick.
    """
    n = x.shape[0]
    eye = jnp.eye(n)[..., None]
    strength = beta * jnp.broadcast_to(variance, (n, n, x.shape[-1])) * (1 - eye)
    target = x + jnp.sqrt(2 * own(variance)) * normals(keys, (n,))

    def newton(y):
        gap = y[:, None] - y[None] + eye
        stiff = strength / (gap * gap)
        gradient = y - target - jnp.sum(strength / gap, 1)
        return solve_dense(eye * (1 + jnp.sum(stiff, 1)) - stiff, -gradient)

    return _minimise(newton, _opened(target, beta * _pairs_of(variance, n, 1)[: n - 1]))


def euler_maruyama(keys: Key[Array, " R"], x: Levels, variance: Array, beta: int | float, rows: int | None) -> Kicked:
    """x_i + noise + Σ_j c_ij/(x_i − x_j), c = β v, all at the old positions: for comparison only.

    The force is unbounded where levels meet, so second moments diverge at any step (measured: a factor 800 at
    dt = 0.01), and levels cross. Cost: n² divisions.

    Args:
        keys, x, variance, beta, rows: as for `matrix_kick`.

    Returns:
        The levels [n, R] after the kick.
    """
    n = x.shape[0]
    if rows is None:
        return _converged(x + _repulsion(x, beta * variance) + jnp.sqrt(2 * own(variance)) * normals(keys, (n,)))
    push = _repulsion(x, beta / 2 * variance) + _repulsion(x, beta / 2 * variance, sign=1)
    wall = (beta * (rows - n + 1) - 1) / 2 * own(variance) / x
    return _converged(x + push + wall + jnp.sqrt(own(variance)) * normals(keys, (n,)))


ALL = {
    "matrix_kick": Scheme(matrix_kick, betas=(1, 2, 4)),
    "pairwise_kick": Scheme(pairwise_kick),
    "neighbour_implicit": Scheme(neighbour_implicit, rectangular=False),
    "backward_euler": Scheme(backward_euler, rectangular=False),
    "euler_maruyama": Scheme(euler_maruyama, drift="euler", ordered=False),
}


def _repulsion(x: Levels, variance: Array, sign: int = -1, neighbours: bool = True) -> Levels:
    """Σ_{j≠i} v_ij/(x_i + sign x_j), levels in any order; `neighbours` False: without j = i ± 1."""
    n = x.shape[0]
    place = jnp.arange(n)[:, None]
    twice = jnp.concatenate([x, x])  # a ring of levels, on which round k pairs level i with level i + k

    def pushed(k, other):
        push = _pairs_of(variance, n, k) / (x + sign * other)
        if neighbours:
            return push
        adjacent = jnp.abs(place - (place + k) % n) == 1
        return jnp.where(adjacent, 0, push)

    if n <= UNROLLED:
        return sum((pushed(k, twice[k : k + n]) for k in range(1, n)), jnp.zeros_like(x))
    add = lambda k, total: total + pushed(k, lax.dynamic_slice_in_dim(twice, k, n))  # noqa: E731
    return lax.fori_loop(1, n, add, jnp.zeros_like(x))


def _pair_sums(x: Levels, variance: Array, both_ends: Callable[..., tuple[Array, Array]]) -> Levels:
    """What all pairs of sorted levels do to each level, each pair evaluated once.

    `both_ends(k, x_i − x_j, x_i + x_j, v_ij)` returns the moves of the larger and of the smaller level of n pairs, one
    for each level: the pairs (i, i + k) on a ring of levels, so that every operation has shape [n, R].
    """
    n = x.shape[0]
    variance = (variance + variance.swapaxes(0, 1)) / 2
    place = jnp.arange(n)[:, None]

    def round_of(k, ahead, back):
        other = ahead(x)
        inside = place + k < n  # else the pair closes the ring, and level i + k is the larger one
        once = (2 * k != n) | (place < n // 2)
        larger, smaller = both_ends(k, jnp.abs(x - other), x + other, _pairs_of(variance, n, k))
        ours = jnp.where(once, jnp.where(inside, larger, smaller), 0)
        theirs = jnp.where(once, jnp.where(inside, smaller, larger), 0)
        ours, theirs = lax.optimization_barrier((ours, theirs))  # costly to draw twice
        return ours + back(theirs)

    if n <= UNROLLED:
        rounds = (
            round_of(k, lambda a, k=k: jnp.roll(a, -k, 0), lambda a, k=k: jnp.roll(a, k, 0))
            for k in range(1, n // 2 + 1)
        )
        return sum(rounds, jnp.zeros_like(x))

    def add(k, sums):
        slide = lambda a, k: lax.dynamic_slice_in_dim(jnp.concatenate([a, a]), k, n)  # noqa: E731
        return sums + round_of(k, lambda a: slide(a, k), lambda a: slide(a, n - k))

    return lax.fori_loop(1, n // 2 + 1, add, jnp.zeros_like(x))


def _pairs_of(variance: Array, n: int, k: int | Array) -> Array:
    """v_{i, i+k} on the ring, [n, R] or [1, R]."""
    if variance.shape[0] == 1:
        return variance[0]
    place = jnp.arange(n)
    return variance[place, (place + k) % n]


def own(variance: Array) -> Array:
    """v_ii.

    Args:
        variance: v, [n, n, R] or [1, 1, R].

    Returns:
        [n, R] or [1, R].
    """
    return _pairs_of(variance, variance.shape[0], 0)


def _gaussian(
    keys: Key[Array, " R"], shape: tuple[int, int], beta: int | float, stream: int = 0
) -> tuple[Array, Array]:
    """Entries with β independent N(0, 1) components, as two complex numbers for a quaternion; unused ones are 0."""
    z = normals(keys, (round(beta), *shape), stream)
    if beta == 1:
        return z[0], jnp.float32(0)
    return z[0] + 1j * z[1], z[2] + 1j * z[3] if beta == 4 else jnp.float32(0)


def _rows_below(keys: Key[Array, " R"], count: int, n: int, beta: int | float) -> tuple[Array, Array]:
    """Rows under the square: Gaussian, or for many of them the triangle with the same WᴴW (Bartlett 1933)."""
    if count <= n:
        return _gaussian(keys, (count, n), beta, stream=1)
    upper = jnp.triu(jnp.ones((n, n)), 1)[..., None]
    first, second = _gaussian(keys, (n, n), beta, stream=1)
    diagonal = jnp.sqrt(chi_squared(keys, beta * (count - np.arange(n)[:, None]), (n,), stream=2))
    return upper * first + jnp.eye(n)[..., None] * diagonal, upper * second


def _matrix(first: Array, second: Array | None) -> Array:
    """Quaternions first + second j as 2×2 blocks of complex numbers; other entries are themselves."""
    if second is None:
        return first
    above = jnp.concatenate([first, second], axis=1)
    return jnp.concatenate([above, jnp.concatenate([-second.conj(), first.conj()], axis=1)])


def _converged(x: Levels) -> Kicked:
    return Kicked(x, jnp.zeros(x.shape[-1:], jnp.int32))


def _strictly_ordered(x: Levels) -> Levels:
    """Sorted levels with the lower of two equal ones moved by a rounding: some in 10⁸ kicks meet in float32."""
    below = jnp.nextafter(x[:-1], jnp.full_like(x[:-1], -jnp.inf))
    return jnp.concatenate([x[:1], jnp.minimum(x[1:], below)])


def _opened(target: Levels, strength: Array) -> Levels:
    """A first guess: each pair of neighbours as if alone, gap = (δ + √(δ² + 8c))/2, around the target's mean."""
    wanted = target[:-1] - target[1:]
    gap = (wanted + jnp.sqrt(wanted * wanted + 8 * strength)) / 2
    place = -jnp.concatenate([jnp.zeros_like(target[:1]), jnp.cumsum(gap, axis=0)])
    return place - jnp.mean(place, axis=0) + jnp.mean(target, axis=0)


def _minimise(newton: Callable[[Levels], Levels], y: Levels) -> Kicked:
    """Newton steps from ordered levels, each shortened so that no gap loses more than nine tenths."""
    if y.shape[0] == 1:  # alone, and where it wants to be
        return _converged(y)

    def step(_, state):
        y, _ = state
        move = newton(y)
        change = jnp.diff(move, axis=0) / jnp.diff(y, axis=0)
        length = jnp.minimum(1, 0.9 / jnp.maximum(jnp.max(-change, axis=0), 0.9))
        return y + length * move, jnp.max(jnp.abs(change), axis=0)

    y, change = lax.fori_loop(0, NEWTON_STEPS, step, (y, jnp.zeros_like(y[0])))
    return Kicked(y, (change > NEWTON_TOLERANCE).astype(jnp.int32))
