"""Levels and left singular vectors of weight matrices: small ones side by side, by Jacobi rotations.

A W = L Q with triangular L, by Gram and Schmidt, leaves the columns of L to be turned into orthogonal ones, two by two
(Hestenes 1958; Drmač and Veselić 2008): L J = U Σ. Nothing is squared, so that levels keep their digits, and vectors
come with them. The pairs of a round have no column in common and go in one vector operation, for all replicas of a
tile. A matrix that has converged is not rotated any more, so that its numbers never depend on its neighbours.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float

from dysonjax.kernels.eigenvalues import scale_of, sort_levels
from dysonjax.kernels.products import dot, matvec

LARGEST = 16
"""Up to this many levels, matrices are solved side by side on a CPU, others by the library."""
TILE = 8
"""Matrices side by side on a CPU: what the compiler keeps in registers and in the first-level cache."""
WORTHWHILE = 2**10
"""Where matrices × levels² are fewer, the library takes microseconds and compiling the sweeps would cost more."""
STACKED = 32
"""Up to so many rows and columns cuSOLVER (gesvdjBatched) solves a stack at once, larger ones one after the other."""
FEWEST, LARGEST_ELSEWHERE = 8, 128
"""Larger matrices that are solved side by side on an accelerator: at least so many, of at most so many levels."""
ENTRIES = 2**24
"""Of all matrices side by side on an accelerator, so that their copies take little of its memory."""
SWEEPS = 30
"""Sweeps over all pairs at most; eight are typical for 16 levels."""


def _by_library(w: Array, vectors: bool) -> tuple[Array, ...]:
    if not vectors:
        return (jnp.square(jnp.linalg.svd(w, compute_uv=False)),)
    left, values, _ = jnp.linalg.svd(w, full_matrices=False)
    return jnp.square(values), left


def _solver(vectors: bool) -> Callable[[Array], tuple[Array, ...]]:
    """A function of stacked matrices, to whose stack `vmap` adds: their levels, and vectors if asked for."""
    library = partial(_by_library, vectors=vectors)

    @custom_vmap
    def solve(w: Array) -> tuple[Array, ...]:
        stack, shape = w.shape[:-2], w.shape[-2:]
        count, k = math.prod(stack), min(shape)
        if k < 2 or jnp.iscomplexobj(w):
            return library(w)

        def in_tiles(w: Array, tile: int) -> tuple[Array, ...]:
            flat = jnp.pad(w.reshape(count, *shape), ((0, -count % tile), (0, 0), (0, 0)), "edge")
            tiles = jnp.moveaxis(flat.reshape(-1, tile, *shape), 1, -1)
            solved = lax.map(_side_by_side, tiles)
            flat = [jnp.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:-1])[:count] for x in solved[: 1 + vectors]]
            return tuple(x.reshape(*stack, *x.shape[1:]) for x in flat)

        on_cpu = k <= LARGEST and count * k**2 >= WORTHWHILE
        elsewhere = k <= LARGEST_ELSEWHERE and count >= FEWEST and max(shape) > STACKED
        if not on_cpu and not elsewhere:
            return library(w)
        many = max(1, min(count, ENTRIES // math.prod(shape)))
        return lax.platform_dependent(
            w,
            cpu=partial(in_tiles, tile=TILE) if on_cpu else library,
            default=partial(in_tiles, tile=many) if elsewhere else library,
        )

    solve.def_vmap(lambda size, batched, w: (solve(w), (True,) * (1 + vectors)))
    differentiable = jax.custom_jvp(solve)
    differentiable.defjvp(lambda primals, tangents: jax.jvp(library, primals, tangents))
    return differentiable


_levels, _levels_and_vectors = _solver(vectors=False), _solver(vectors=True)


def levels(w: Float[Array, "... m n"]) -> Float[Array, "... k"]:
    """Eigenvalues of W Wᵀ: the k = min(m, n) squared singular values, without the |m − n| exact zeros.

    Taken from the singular values, because forming W Wᵀ in float32 would lose the small levels.

    Args:
        w: matrices W [..., m, n].

    Returns:
        Levels [..., k], largest first, in units of the weights squared.
    """
    return _levels(w if w.shape[-2] <= w.shape[-1] else w.mT)[0]


def levels_and_vectors(w: Float[Array, "... m n"]) -> tuple[Float[Array, "... k"], Float[Array, "... m k"]]:
    """The `levels` and the eigenvectors of W Wᵀ that belong to them.

    Args:
        w: matrices W [..., m, n].

    Returns:
        Levels [..., k], largest first, and eigenvectors [..., m, k] in columns, of either sign.
    """
    values, vectors = _levels_and_vectors(w)
    return values, vectors


@jax.jit  # traced once, whoever asks: XLA recognises what is asked for twice, as levels and with vectors
def _side_by_side(w: Float[Array, "m n R"]) -> tuple[Float[Array, "k R"], Float[Array, "m k R"]]:
    """`levels_and_vectors` of R matrices; those of which nothing is left in some direction by the library."""
    m, n, _ = w.shape
    k, scale = min(m, n), scale_of(w)
    columns = jnp.swapaxes(w / scale, 0, 1) if m > n else _triangular(w / scale)
    columns = jnp.pad(columns, ((0, k % 2), (0, 0), (0, 0)))  # a column of zeros ends as the last one
    columns, converged = _orthogonal(columns)
    norms = jnp.sqrt(_dots(columns, columns))[:k]
    found = converged & ~jnp.any(norms == 0, axis=0)
    values = sort_levels(jnp.square(scale * norms))[::-1]
    vectors = jnp.swapaxes(columns[:k] / jnp.where(norms == 0, 1, norms)[:, None], 0, 1)

    def with_library(*own: Array) -> tuple[Array, ...]:
        number = jnp.argsort(found)  # those not found come first; LAPACK never sees what is not finite

        def solve(i: Array, held: tuple[Array, ...]) -> tuple[Array, ...]:
            one = lax.dynamic_index_in_dim(w, number[i], -1, keepdims=False)
            solved = _by_library(one, vectors=True)
            return tuple(x.at[..., number[i]].set(y) for x, y in zip(held, solved, strict=True))

        return lax.fori_loop(0, jnp.sum(~found), solve, own)

    return lax.cond(jnp.all(found), lambda *own: own, with_library, values, vectors)


def _triangular(w: Float[Array, "m n R"]) -> Float[Array, "m m R"]:
    """The columns, one after the other, of the lower triangular L in W = L Q, m ≤ n."""

    def take(i, held):
        w, columns = held
        norm = jnp.sqrt(dot(w[i], w[i]))
        unit = lax.optimization_barrier(w[i] / jnp.where(norm == 0, 1, norm))
        along = lax.optimization_barrier(matvec(w, unit[None])[0])
        column = jnp.where(jnp.arange(len(w))[:, None] >= i, along, 0)
        return w - along[:, None] * unit[None], columns.at[i].set(column)

    return lax.fori_loop(0, len(w), take, (w, jnp.zeros((len(w), len(w), w.shape[-1]), w.dtype)))[1]


def _orthogonal(columns: Float[Array, "k m R"]) -> tuple[Float[Array, "k m R"], Bool[Array, " R"]]:
    """Columns turned into orthogonal ones by rotations of pairs, the longest first; True where done. k is even.

    In every round of a sweep the first half of the columns meets the second; then all but one move on a place, and
    after k − 1 rounds each has met each and stands where it stood.
    """
    half, eps = len(columns) // 2, jnp.finfo(columns.dtype).eps
    tolerance, tie = eps * columns.shape[1] ** 0.5, 1 + 8 * eps
    ahead = jnp.asarray(_ahead(half))

    def meet(number, held):
        a, b, busy = held
        a2, b2, ab = lax.optimization_barrier((_dots(a, a), _dots(b, b), _dots(a, b)))
        slanted = jnp.abs(ab) > tolerance * jnp.sqrt(a2) * jnp.sqrt(b2)
        swapped = jnp.where(ahead[number], a2 * tie < b2, b2 * tie < a2)
        difference = b2 - a2
        tangent = 2 * ab / (jnp.abs(difference) + jnp.sqrt(difference * difference + 4 * ab * ab))
        tangent = jnp.where(slanted, jnp.copysign(tangent, ab * difference), 0)
        cosine = lax.rsqrt(1 + tangent * tangent)
        sine = cosine * tangent
        c, s = jnp.where(swapped, sine, cosine), jnp.where(swapped, -cosine, sine)
        c, s = (x[:, None] for x in lax.optimization_barrier((c, s)))
        a, b = c * a - s * b, s * a + c * b
        if half > 1:
            a, b = jnp.concatenate([a[:1], b[:1], a[1:-1]]), jnp.concatenate([b[1:], a[-1:]])
        return a, b, busy | jnp.any(slanted | swapped, axis=0)

    def sweep(held):
        number, a, b, busy = held
        return number + 1, *lax.fori_loop(0, 2 * half - 1, meet, (a, b, jnp.zeros_like(busy)))

    start = (0, columns[:half], columns[half:], jnp.ones(columns.shape[-1], bool))
    _, a, b, busy = lax.while_loop(lambda held: (held[0] < SWEEPS) & jnp.any(held[-1]), sweep, start)
    return jnp.concatenate([a, b]), ~busy


def _ahead(half: int) -> np.ndarray:
    """In which rounds and pairs the column of the first half is the one to be the longer, [round, pair, 1]."""
    a, b, found = list(range(half)), list(range(half, 2 * half)), []
    for _ in range(2 * half - 1):
        found.append([[x < y] for x, y in zip(a, b, strict=True)])
        if half > 1:
            a, b = [a[0], b[0], *a[1:-1]], [*b[1:], a[-1]]
    return np.array(found)


def _dots(a: Float[Array, "k m R"], b: Float[Array, "k m R"]) -> Float[Array, "k R"]:
    """a_i · b_i for each pair of columns."""
    return dot(jnp.swapaxes(a, 0, 1), jnp.swapaxes(b, 0, 1))
