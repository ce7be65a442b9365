"""Eigenvalues and singular values of stacked matrices.

For many small matrices a loop over LAPACK calls spends its time in calls. Here the matrices lie side by side on the
last axis, [n, n, R], and every operation of one algorithm serves all R of them: Householder's reduction to tridiagonal
form, then the root-free QR iteration of Pal, Walker and Kahan (Parlett, The Symmetric Eigenvalue Problem, ch. 8; the
method of LAPACK's `sterf`). A matrix that has converged is frozen, so that its numbers never depend on its neighbours.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact

from dysonjax.core.errors import require
from dysonjax.kernels.products import dot, matvec, matvec_transposed

LARGEST = 32
"""Up to this size matrices are solved side by side on a CPU; larger ones, and all on other devices, by the library."""
TILE = 64
"""Matrices side by side: enough for the vector units, few enough for the second-level cache."""
SWEEPS = 30
"""QR sweeps for an eigenvalue at most; three are typical."""


@jax.custom_jvp
def eigenvalues(a: Inexact[Array, "... n n"]) -> Float[Array, "... n"]:
    """Eigenvalues of symmetric or Hermitian matrices, smallest first, to within rounding of the largest one.

    Stacks of small matrices are solved side by side on a CPU (n ≤ `LARGEST`), all others by the library's `eigvalsh`.
    Only the lower triangle counts. Raises `InputError` when the last two axes differ.
    """
    require(a.ndim >= 2 and a.shape[-1] == a.shape[-2], "a", a.shape, "square matrices [..., n, n]")
    n, count = a.shape[-1], a.size // max(a.shape[-1] ** 2, 1)
    library = lambda a: jnp.linalg.eigvalsh(a, symmetrize_input=False)  # noqa: E731
    if count < TILE // 8:
        return library(a)

    def in_tiles(a: Array) -> Array:
        tiles = -(-count // TILE)
        flat = a.reshape(count, n, n)
        padded = jnp.concatenate([flat, jnp.zeros((tiles * TILE - count, n, n), a.dtype)])
        last = jnp.moveaxis(padded.reshape(tiles, TILE, n, n), 1, 3)
        solved = lax.map(_eigenvalues, last)
        return jnp.moveaxis(solved, 1, 2).reshape(-1, n)[:count].reshape(a.shape[:-1])

    return _small_on_cpu(in_tiles, library, a, n)


@eigenvalues.defjvp
def _derivative(primals, tangents):
    """dλ_i = v_iᴴ dA v_i, first-order perturbation theory."""
    (a,), (da,) = primals, tangents
    values, vectors = jnp.linalg.eigh(a, symmetrize_input=False)
    da = (da + da.mT.conj()) / 2
    return values, jnp.real(jnp.sum(vectors.conj() * (da @ vectors), axis=-2))


def eigenvalues_of_block(a: Inexact[Array, "n n R"]) -> Float[Array, "n R"]:
    """Eigenvalues of R symmetric or Hermitian matrices side by side.

    Like `eigenvalues`: large matrices, and all on other devices than a CPU, are left to the library.

    Args:
        a: matrices [n, n, R].

    Returns:
        Eigenvalues [n, R], smallest first.
    """
    library = lambda a: jnp.linalg.eigvalsh(jnp.moveaxis(a, -1, 0), symmetrize_input=False).T  # noqa: E731
    return _small_on_cpu(_eigenvalues, library, a, a.shape[0])


def _eigenvalues(a: Array) -> Array:
    scale = scale_of(a)
    return scale * sort_levels(tridiagonal_eigenvalues_of_block(*tridiagonal(a / scale))[0])


def singular_values_of_block(w: Inexact[Array, "m n R"]) -> Float[Array, "n R"]:
    """Singular values of R matrices side by side, to within rounding of the largest one.

    Args:
        w: matrices [m, n, R], m ≥ n.

    Returns:
        Singular values [n, R], smallest first.
    """
    library = lambda w: jnp.linalg.svd(jnp.moveaxis(w, -1, 0), compute_uv=False).T[::-1]  # noqa: E731
    return _small_on_cpu(_singular_values, library, w, w.shape[1])


def _singular_values(w: Array) -> Array:
    """Of R matrices side by side.

    The eigenvalues of [[0, B], [Bᵀ, 0]] for the bidiagonal B of W are ± its singular values, and this matrix is
    tridiagonal with a zero diagonal (Golub and Kahan 1965): nothing is squared, so small values keep their digits.
    """
    scale = scale_of(w)
    squares = bidiagonal(w / scale)
    values = tridiagonal_eigenvalues_of_block(jnp.zeros((2 * w.shape[1], w.shape[2]), squares.dtype), squares)[0]
    return scale * jnp.maximum(sort_levels(values)[w.shape[1] :], 0)


def tridiagonal(a: Inexact[Array, "n n R"]) -> tuple[Float[Array, "n R"], Float[Array, "n-1 R"]]:
    """Diagonal and squared off-diagonal of a tridiagonal matrix with the same eigenvalues, by Householder reflections.

    A reflection H = 1 − τ v vᴴ that turns the first column into a multiple of e₁ leaves B − v wᴴ − w vᴴ of the rest,
    w = p − ½ τ (pᴴv) v, p = τ B v.
    """
    diagonal, off = [], []
    while a.shape[0] > 2:
        v, tau, norm2 = _reflection(a[1:, 0])
        diagonal.append(a[0, 0].real)
        off.append(norm2)
        rest = a[1:, 1:]
        p = lax.optimization_barrier(tau * matvec(rest, v[None])[0])
        w = lax.optimization_barrier(p - (0.5 * tau * dot(p.conj(), v)) * v)
        a = lax.optimization_barrier(rest - v[:, None] * w[None].conj() - w[:, None] * v[None].conj())
    diagonal += [a[i, i].real for i in range(a.shape[0])]
    off += [_abs2(a[i + 1, i]) for i in range(a.shape[0] - 1)]
    empty = jnp.zeros((0, *a.shape[2:]), diagonal[0].dtype)
    return jnp.stack(diagonal), jnp.stack(off) if off else empty


def bidiagonal(w: Inexact[Array, "m n R"]) -> Float[Array, "2*n-1 R"]:
    """Squares d₁², e₁², d₂², … of an upper bidiagonal matrix with the same singular values, m ≥ n, by reflections."""
    squares = []
    while True:
        v, tau, norm2 = _reflection(w[:, 0])
        squares.append(norm2)
        if w.shape[1] == 1:
            return jnp.stack(squares)
        rest = w[:, 1:]
        p = lax.optimization_barrier(tau * matvec_transposed(rest, v[None].conj())[0])
        w = lax.optimization_barrier(rest - v[:, None] * p[None])
        v, tau, norm2 = _reflection(w[0].conj())
        squares.append(norm2)
        p = lax.optimization_barrier(tau * matvec(w[1:], v[None])[0])
        w = lax.optimization_barrier(w[1:] - p[:, None] * v[None].conj())


def _reflection(x: Inexact[Array, "n R"]) -> tuple[Array, Array, Array]:
    """v [n, R] and τ [R] of the reflection 1 − τ v vᴴ that turns x into a multiple of e₁, and |x|²."""
    size2 = _abs2(x[0])
    norm2 = size2 + dot(x[1:], x[1:].conj()).real if x.shape[0] > 1 else size2
    norm, size = jnp.sqrt(norm2), jnp.sqrt(size2)
    phase = jnp.where(size > 0, x[0] / jnp.where(size > 0, size, 1), 1)
    twist = norm2 + size * norm
    v = jnp.concatenate([(x[0] + phase * norm)[None], x[1:]])
    return lax.optimization_barrier((v, jnp.where(twist > 0, 1 / jnp.where(twist > 0, twist, 1), 0), norm2))


def _small_on_cpu(own: Callable[[Array], Array], library: Callable[[Array], Array], a: Array, n: int) -> Array:
    """By this module's algorithm for small matrices on a CPU, by the library otherwise.

    JAX 0.10 compiles it to wrong numbers for some complex matrices (2 × 2 quaternion blocks), 0.12 does not.
    """
    trusted = jax.__version_info__ >= (0, 11) or not jnp.iscomplexobj(a)
    return lax.platform_dependent(a, cpu=own, default=library) if trusted and 1 <= n <= LARGEST else library(a)


def scale_of(a: Array) -> Array:
    """The largest entry of each matrix, so that squares neither overflow nor vanish."""
    largest = jnp.max(jnp.abs(a), axis=(0, 1))
    return jnp.where(largest > 0, largest, 1)


def _abs2(x: Array) -> Array:
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x * x


class _Sweep(NamedTuple):
    """A QR sweep on its way down: arrays of the matrix, then the rotation c², s², and γ, p of Pal, Walker and Kahan."""

    diagonal: Array
    off: Array
    c: Array
    s: Array
    gamma: Array
    p: Array


def tridiagonal_eigenvalues_of_block(
    diagonal: Float[Array, "n R"], off: Float[Array, "n-1 R"]
) -> tuple[Float[Array, "n R"], Bool[Array, " R"]]:
    """Eigenvalues, in no order, of R tridiagonal matrices given by diagonal and squared off-diagonal; True where found.

    The last level is split off the rest again and again, each time by QR sweeps with Wilkinson's shift until the
    squared off-diagonal next to it is below rounding.
    """
    n = diagonal.shape[0]
    if n == 1:
        return diagonal, jnp.isfinite(diagonal[0])
    scale = jnp.max(jnp.abs(diagonal), 0) ** 2 + jnp.max(off, 0)
    small = (4 * jnp.finfo(diagonal.dtype).eps) ** 2 * scale  # what rounding leaves of a zero, as between equal levels
    at = lambda a, i: lax.dynamic_index_in_dim(a, i, 0, keepdims=False)  # noqa: E731
    put = lambda a, value, i: lax.dynamic_update_index_in_dim(a, value, i, 0)  # noqa: E731

    def split(k, matrix):
        last = n - 1 - k

        def unfinished(state):
            count, _, off = state
            return (count < SWEEPS) & jnp.any(at(off, last - 1) > small)

        def sweep(state):
            count, diagonal, off = state
            corner, beside = at(diagonal, last), at(off, last - 1)
            active = beside > small
            shift = jnp.where(active, _wilkinson(at(diagonal, last - 1), corner, beside), 0)
            gamma = diagonal[0] - shift

            def rotate(i, q):
                b, own, below = at(off, i), at(q.diagonal, i), at(q.diagonal, i + 1)
                b = jnp.where(b > small, b, 0)  # rounding must not mix decoupled blocks
                r = q.p + b
                inverse = 1 / jnp.where(r > 0, r, 1)
                c, s = jnp.where(r > 0, q.p * inverse, 1), b * inverse
                gamma = c * (below - shift) - s * q.gamma
                p = jnp.where(c > 0, gamma * gamma / jnp.where(c > 0, c, 1), q.c * b)
                above = jnp.maximum(i - 1, 0)
                return _Sweep(
                    put(q.diagonal, jnp.where(active, q.gamma + (below - gamma), own), i),
                    put(q.off, jnp.where(active & (i > 0), q.s * r, at(q.off, above)), above),
                    c, s, gamma, p,
                )  # fmt: skip

            one = jnp.ones_like(shift)
            q = lax.fori_loop(0, last, rotate, _Sweep(diagonal, off, one, 0 * one, gamma, gamma * gamma))
            return (
                count + 1,
                put(q.diagonal, jnp.where(active, shift + q.gamma, corner), last),
                put(q.off, jnp.where(active, q.s * q.p, beside), last - 1),
            )

        return lax.while_loop(unfinished, sweep, (0, *matrix))[1:]

    diagonal, off = lax.fori_loop(0, n - 1, split, (diagonal, off))
    return diagonal, jnp.all(off <= small, axis=0)


def _wilkinson(above: Array, corner: Array, off: Array) -> Array:
    """The eigenvalue of the last 2×2 block that is nearer to its corner; `off` is squared."""
    b = jnp.sqrt(off)
    g = (above - corner) / (2 * jnp.where(b > 0, b, 1))
    return corner - b / (g + jnp.copysign(jnp.sqrt(g * g + 1), g))


def sort_levels(x: Float[Array, "n R"]) -> Float[Array, "n R"]:
    """Each column in increasing order, by n rounds of comparing neighbours: all columns at once, no branches.

    Args:
        x: levels [n, R].

    Returns:
        The same, smallest first.
    """
    n = x.shape[0]
    if n > 2 * LARGEST:
        return jnp.sort(x, axis=0)
    index = jnp.arange(n)[:, None]

    def compare(k, x):
        first = (index % 2 == k % 2) & (index < n - 1)
        second = (index % 2 != k % 2) & (index > 0)
        below, above = jnp.roll(x, -1, axis=0), jnp.roll(x, 1, axis=0)
        return jnp.where(first, jnp.minimum(x, below), jnp.where(second, jnp.maximum(x, above), x))

    return lax.fori_loop(0, n, compare, x)
