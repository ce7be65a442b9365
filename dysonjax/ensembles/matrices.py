"""Random matrices of the classical ensembles, β = 1, 2, 4, and the exact jump of the matrix Ornstein–Uhlenbeck process.

Entries have β real components: real numbers, complex numbers, quaternions. A quaternion matrix a + b i + c j + d k is
returned as the complex matrix [[A, B], [−B̄, Ā]], A = a + i b, B = c + i d, of twice the size, whose levels are those of
the quaternion matrix, each twice: every second of the sorted ones, `[..., ::2]`, is one of each.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Complex, Float, Inexact, PRNGKeyArray

from dysonjax.core.errors import require, whole


def gaussian(
    key: PRNGKeyArray, n: int, beta: int, shape: tuple[int, ...] = (), variance: ArrayLike = 1.0
) -> Inexact[Array, "*shape n n"]:
    """Symmetric (β = 1), Hermitian (2) or quaternion self-dual (4, as 2n × 2n) matrices: GOE, GUE, GSE.

    Density ∝ exp(−tr H²/2σ²): variance σ² on the diagonal, σ²/2 for each component off it (see `dysonjax.ensembles`).

    Args:
        key: random key.
        n: rows, of numbers or of quaternions.
        beta: components of an entry, 1, 2 or 4.
        shape: shape of the independent samples.
        variance: σ² ≥ 0, a number, or an array that broadcasts against `shape`.

    Returns:
        Matrices [*shape, n, n], for β = 4 [*shape, 2n, 2n].

    Raises:
        InputError: a bad argument.

        gaussian(jax.random.key(0), 8, beta=2, shape=(100,))  # [100, 8, 8], complex
    """
    _check(variance=variance)
    return _scaled(jnp.sqrt(variance), _hermitian(_ginibre(key, whole("n", n), n, _index(beta), tuple(shape))))


def wishart(
    key: PRNGKeyArray, k: int, l: int, beta: int = 1, shape: tuple[int, ...] = (), variance: ArrayLike = 1.0
) -> Inexact[Array, "*shape k l"]:
    """Matrices W of independent entries, each of whose β components is N(0, σ²/l).

    The levels of X = W Wᴴ, `spectra.levels(W)`, fill β σ² (1 ± √(k/l))² for large k and l (Marchenko and Pastur).

    Args:
        key: random key.
        k: rows, of numbers or of quaternions.
        l: columns.
        beta: components of an entry, 1, 2 or 4.
        shape: shape of the independent samples.
        variance: σ² ≥ 0, a number, or an array that broadcasts against `shape`.

    Returns:
        Matrices [*shape, k, l], for β = 4 [*shape, 2k, 2l].

    Raises:
        InputError: a bad argument.
    """
    _check(variance=variance)
    entries = _ginibre(key, whole("k", k), whole("l", l), _index(beta), tuple(shape))
    return _scaled(jnp.sqrt(jnp.asarray(variance) / l), entries)


def circular(key: PRNGKeyArray, n: int, beta: int, shape: tuple[int, ...] = ()) -> Complex[Array, "*shape n n"]:
    """Unitary matrices of Dyson's circular ensembles: symmetric (β = 1), any (2), self-dual quaternion (4, as 2n × 2n).

    U of the Haar measure is the Q of a complex Gaussian matrix' QR factorisation with a positive diagonal of R
    (Mezzadri, Notices AMS 54, 592 (2007)); Uᵀ U and U^D U, U^D = Z Uᵀ Zᵀ, Z = [[0, 1], [−1, 0]], are the other two
    (Mehta, Random Matrices, ch. 10).

    Args:
        key: random key.
        n: rows, of numbers or of quaternions.
        beta: 1, 2 or 4.
        shape: shape of the independent samples.

    Returns:
        Matrices [*shape, n, n], for β = 4 [*shape, 2n, 2n].

    Raises:
        InputError: a bad argument.
    """
    return _circular(key, whole("n", n), _index(beta), tuple(shape))


def eigenphases(u: Complex[Array, "... m m"], beta: int = 2) -> Float[Array, "... n"]:
    """Eigenphases of unitary matrices, largest first.

    Args:
        u: unitary matrices, [..., m, m].
        beta: 1, 2 or 4; for 4 the phases come in pairs, of which one is returned.

    Returns:
        Phases in [−π, π], [..., n], with n = m, for β = 4 n = m/2.

    Raises:
        InputError: the last two axes differ, or are odd for β = 4, or β is another number.
    """
    square = u.ndim >= 2 and u.shape[-1] == u.shape[-2]
    require(square, "u", u.shape, "square matrices [..., m, m]")
    phases = jnp.sort(jnp.angle(jnp.linalg.eigvals(u)), axis=-1, descending=True)
    if _index(beta) != 4:
        return phases
    require(u.shape[-1] % 2 == 0, "u", u.shape, "an even size for beta = 4")
    # rounding may part the pair at ±π: then the pairs are the 2nd and 3rd, the 4th and 5th, …
    gaps = -jnp.diff(phases, axis=-1)
    parted = jnp.sum(gaps[..., ::2], axis=-1) > jnp.sum(gaps[..., 1::2], axis=-1)
    return jnp.where(parted[..., None] & (phases.shape[-1] > 2), phases[..., 1::2], phases[..., ::2])


def matrix_ou_jump(
    key: PRNGKeyArray,
    m: Inexact[Array, "... n n"],
    time: ArrayLike,
    drift_rate: ArrayLike,
    temperature: ArrayLike,
    coupling: ArrayLike = 1.0,
    centre: ArrayLike = 0.0,
    beta: int | None = None,
) -> Inexact[Array, "... n n"]:
    """The Ornstein–Uhlenbeck process of symmetric (Hermitian, self-dual) matrices after any `time`, exact in law.

    M' = C + e^{−κt} (M − C) + √(T g² (1 − e^{−2κt})/κ) G, with G of `gaussian` with variance 1 and C the `centre`. The
    eigenvalues follow Dyson's equation: noise of rate 2 T g² for each level, repulsion β T g². For κ > 0 the stationary
    law is C + `gaussian` with variance T g²/κ; κ = 0 is Brownian motion.

    Args:
        key: random key.
        m: matrices M at the start, [..., n, n]; those of quaternions are [..., 2n, 2n].
        time: t ≥ 0; it and the next three broadcast against the leading axes of `m`.
        drift_rate: κ ≥ 0.
        temperature: T ≥ 0.
        coupling: g ≥ 0.
        centre: C, which broadcasts against `m`.
        beta: 4 for matrices of quaternions; by default 1 for real `m` and 2 for complex `m`.

    Returns:
        Matrices M' of the shape of `m`.

    Raises:
        InputError: a bad argument.
    """
    _check(time=time, drift_rate=drift_rate, temperature=temperature)
    require(m.ndim >= 2 and m.shape[-1] == m.shape[-2], "m", m.shape, "square matrices [..., n, n]")
    noise = _hermitian(_noise_like(key, m, beta))
    return _jump(m, centre, time, drift_rate, 2 * _accumulated(time, drift_rate, temperature, coupling), noise)


def rectangular_ou_jump(
    key: PRNGKeyArray,
    w: Inexact[Array, "... k l"],
    time: ArrayLike,
    drift_rate: ArrayLike,
    temperature: ArrayLike,
    coupling: ArrayLike = 1.0,
    centre: ArrayLike = 0.0,
    beta: int | None = None,
) -> Inexact[Array, "... k l"]:
    """The Ornstein–Uhlenbeck process of rectangular matrices after any `time`, exact in law.

    W' = C + e^{−κt} (W − C) + √(T g² (1 − e^{−2κt})/2κ) G, with G of independent components N(0, 1) and C the
    `centre`: the variance rate of an entry's component is s² = T g², and its singular values and levels follow the
    Wishart process. For κ > 0 the stationary variance of a component is T g²/2κ; κ = 0 is Brownian motion.

    Args:
        key: random key.
        w: matrices W at the start, [..., k, l]; those of quaternions are [..., 2k, 2l].
        time: t ≥ 0; it and the next three broadcast against the leading axes of `w`.
        drift_rate: κ ≥ 0.
        temperature: T ≥ 0.
        coupling: g ≥ 0.
        centre: C, which broadcasts against `w`.
        beta: 4 for matrices of quaternions; by default 1 for real `w` and 2 for complex `w`.

    Returns:
        Matrices W' of the shape of `w`.

    Raises:
        InputError: a bad argument.
    """
    _check(time=time, drift_rate=drift_rate, temperature=temperature)
    require(w.ndim >= 2, "w", w.shape, "matrices [..., k, l]")
    noise = _noise_like(key, w, beta)
    return _jump(w, centre, time, drift_rate, _accumulated(time, drift_rate, temperature, coupling), noise)


@partial(jax.jit, static_argnums=(1, 2, 3))
def _circular(key, n, beta, shape):
    size = 2 * n if beta == 4 else n
    q, r = jnp.linalg.qr(_ginibre(key, size, size, 2, shape))
    diagonal = jnp.diagonal(r, axis1=-2, axis2=-1)
    u = q * (diagonal / jnp.abs(diagonal))[..., None, :]
    if beta == 2:
        return u
    if beta == 1:
        return u.mT @ u
    z = jnp.asarray(np.kron([[0, 1], [-1, 0]], np.eye(n)), u.real.dtype)
    return z @ u.mT @ z.T @ u


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _ginibre(key: PRNGKeyArray, k: int, l: int, beta: int, shape: tuple[int, ...]) -> Inexact[Array, "*shape k l"]:
    """Matrices of independent entries whose β components are N(0, 1); quaternions as 2k × 2l."""
    parts = jax.random.normal(key, (beta, *shape, k, l))
    if beta == 1:
        return parts[0]
    a = jax.lax.complex(parts[0], parts[1])
    if beta == 2:
        return a
    b = jax.lax.complex(parts[2], parts[3])
    return jnp.concatenate([jnp.concatenate([a, b], -1), jnp.concatenate([-b.conj(), a.conj()], -1)], -2)


@jax.jit
def _hermitian(m: Array) -> Array:
    """(M + Mᴴ)/2: components of variance 1 keep it on the diagonal and have 1/2 off it."""
    return (m + m.mT.conj()) / 2


def _noise_like(key: PRNGKeyArray, m: Array, beta: int | None) -> Array:
    complex_entries = jnp.iscomplexobj(m)
    beta = (2 if complex_entries else 1) if beta is None else _index(beta)
    require((beta > 1) == complex_entries, "beta", beta, "1 for real matrices, 2 or 4 for complex ones")
    k, l = (s // 2 for s in m.shape[-2:]) if beta == 4 else m.shape[-2:]
    require(beta < 4 or m.shape[-2:] == (2 * k, 2 * l), "m", m.shape, "even sizes for quaternion matrices")
    return _ginibre(key, k, l, beta, m.shape[:-2])


@jax.jit
def _accumulated(time: ArrayLike, drift_rate: ArrayLike, temperature: ArrayLike, coupling: ArrayLike) -> Array:
    """T g² (1 − e^{−2κt})/2κ, which is T g² t for κ = 0."""
    time, decay = jnp.asarray(time, float), 2 * jnp.asarray(drift_rate, float) * jnp.asarray(time, float)
    safe = jnp.where(decay > 0, decay, 1)
    return (
        jnp.asarray(temperature) * jnp.asarray(coupling) ** 2 * time * jnp.where(decay > 0, -jnp.expm1(-safe) / safe, 1)
    )


@jax.jit
def _jump(m: Array, centre: ArrayLike, time: ArrayLike, drift_rate: ArrayLike, variance: Array, noise: Array) -> Array:
    kept = jnp.exp(-jnp.asarray(drift_rate, float) * jnp.asarray(time, float))
    moved = jnp.asarray(centre) + _scaled(kept, m - jnp.asarray(centre)) + _scaled(jnp.sqrt(variance), noise)
    return moved.astype(m.dtype)


@jax.jit
def _scaled(factor: ArrayLike, m: ArrayLike) -> Array:
    """Each matrix times its factor."""
    return jnp.asarray(factor)[..., None, None] * jnp.asarray(m)


def _index(beta: int) -> int:
    require(beta in (1, 2, 4), "beta", beta, "1, 2 or 4 for matrices (any β: hermite_levels, laguerre_levels)")
    return int(beta)


def _check(**rates: ArrayLike) -> None:
    """Finite numbers of at least 0, as far as their values are known."""
    for name, value in rates.items():
        if not isinstance(value, Tracer):
            sound = np.all(np.isfinite(value)) and np.all(np.asarray(value) >= 0)
            require(sound, name, value, "a finite number of at least 0")
