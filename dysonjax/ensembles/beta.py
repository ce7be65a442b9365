"""Levels of β-ensembles for any β > 0, from tridiagonal and bidiagonal matrices with independent entries.

Householder's reduction turns a Gaussian matrix into a tridiagonal one whose entries are normal and χ numbers, and the
formulae make sense for any β (Dumitriu and Edelman, J. Math. Phys. 43, 5830 (2002)): n² operations instead of n³.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from dysonjax.core.errors import require, whole
from dysonjax.kernels.random_numbers import chi_squared
from dysonjax.kernels.tridiagonal import bidiagonal_singular_values, tridiagonal_eigenvalues


def hermite_levels(
    key: PRNGKeyArray, n: int, beta: ArrayLike, shape: tuple[int, ...] = (), variance: ArrayLike = 1.0
) -> Float[Array, "*shape n"]:
    """Levels of the Gaussian β-ensemble, largest first.

    P(x) ∝ Π_{i<j} |x_i − x_j|^β exp(−Σ x_i²/2σ²): eigenvalues of the tridiagonal matrix with diagonal N(0, σ²) and
    off-diagonal σ χ_{β(n−1)}/√2, …, σ χ_β/√2 (Dumitriu and Edelman 2002, eq. 1). For β = 1, 2, 4 the law is that of the
    eigenvalues of `gaussian`.

    Args:
        key: random key.
        n: levels.
        beta: β > 0, a number, or an array that broadcasts against `shape`.
        shape: shape of the independent samples.
        variance: σ² ≥ 0, a number, or an array that broadcasts against `shape`.

    Returns:
        Levels [*shape, n].

    Raises:
        InputError: a bad argument.

        hermite_levels(jax.random.key(0), 100, beta=1, shape=(1000,))  # [1000, 100]
    """
    whole("n", n)
    _check(beta, variance)
    return _hermite(key, jnp.asarray(beta, float), jnp.asarray(variance, float), n, tuple(shape))


def laguerre_levels(
    key: PRNGKeyArray, k: int, l: int, beta: ArrayLike, shape: tuple[int, ...] = (), variance: ArrayLike = 1.0
) -> Float[Array, "*shape m"]:
    """Levels of the Wishart β-ensemble, the m = min(k, l) squared singular values of W [k, l], largest first.

    P(x) ∝ Π_{i<j} |x_i − x_j|^β Π_i x_i^{β(|l−k|+1)/2 − 1} exp(−l x_i/2σ²): x = (σ²/l) s², with the singular values s
    of the bidiagonal matrix with diagonal χ_{βM}, χ_{β(M−1)}, …, χ_{β(M−m+1)}, M = max(k, l), and off-diagonal
    χ_{β(m−1)}, …, χ_β (Dumitriu and Edelman 2002, eq. 2). Small levels are as precise as large ones. For β = 1, 2, 4
    the law is that of the levels of `wishart`.

    Args:
        key: random key.
        k: rows of W.
        l: columns of W.
        beta: β > 0, a number, or an array that broadcasts against `shape`.
        shape: shape of the independent samples.
        variance: σ² ≥ 0, a number, or an array that broadcasts against `shape`.

    Returns:
        Levels [*shape, m].

    Raises:
        InputError: a bad argument.
    """
    whole("k", k)
    whole("l", l)
    _check(beta, variance)
    long, levels = max(k, l), min(k, l)
    return _laguerre(key, jnp.asarray(beta, float), jnp.asarray(variance, float) / l, long, levels, tuple(shape))


@partial(jax.jit, static_argnames=("n", "shape"))
def _hermite(key, beta, variance, n, shape):
    of_diagonal, of_off = jax.random.split(key)
    diagonal = jax.random.normal(of_diagonal, (*shape, n))
    off = _chi(of_off, beta[..., None] * np.arange(n - 1, 0, -1), (*shape, n - 1)) / np.sqrt(2)
    return jnp.sqrt(variance)[..., None] * tridiagonal_eigenvalues(diagonal, off)[..., ::-1]


@partial(jax.jit, static_argnums=(3, 4, 5))
def _laguerre(key, beta, scale, long, levels, shape):
    freedom = np.concatenate([long - np.arange(levels), np.arange(levels - 1, 0, -1)])
    entries = _chi(key, beta[..., None] * freedom, (*shape, freedom.size))
    values = bidiagonal_singular_values(entries[..., :levels], entries[..., levels:])
    return scale[..., None] * values[..., ::-1] ** 2


def _chi(key: PRNGKeyArray, freedom: Array, shape: tuple[int, ...]) -> Array:
    """χ numbers with `freedom` degrees of freedom."""
    return jnp.sqrt(chi_squared(key[None], freedom[..., None], shape)[..., 0])


def _check(beta: ArrayLike, variance: ArrayLike) -> None:
    if not isinstance(beta, Tracer):
        require(np.all(np.isfinite(beta)) and np.all(np.asarray(beta) > 0), "beta", beta, "a number above 0")
    if not isinstance(variance, Tracer):
        sound = np.all(np.isfinite(variance)) and np.all(np.asarray(variance) >= 0)
        require(sound, "variance", variance, "a number of at least 0")
