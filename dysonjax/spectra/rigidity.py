"""Long-range correlations of unfolded levels: number variance Σ²(L), rigidity Δ₃(L), spectral form factor, their laws.

Kernels take levels at unit mean spacing, [..., n], sorted either way, and lengths [m]; they return [..., m].
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from dysonjax.core.errors import require

WINDOWS = 256
"""Positions of the window over which Δ₃ is averaged, evenly spaced over the spectrum."""


def number_variance(
    unfolded: Float[Array, "... n"],
    lengths: Float[ArrayLike, " m"] | Sequence[float],
    span: tuple[float, float] | None = None,
) -> Float[Array, "... m"]:
    """Σ²(L) = ⟨(N(s, s + L) − L)²⟩ over all positions s of the window inside `span`, integrated exactly.

    N is constant between the points where the window's ends meet levels, so the integral is a sum over those 2n points.
    Mehta, Random Matrices, ch. 16.

    Args:
        unfolded: levels of mean spacing 1, [..., n].
        lengths: windows L [m] in mean spacings.
        span: where windows lie, by default from the first to the last level of each spectrum; give one, such as the
            bulk, when levels beyond it are known.

    Returns:
        Σ² [..., m].

    Raises:
        InputError: lengths beyond the spectrum.
    """
    u = jnp.sort(unfolded, axis=-1)
    lengths = _lengths(u, lengths, span)
    flat = u.reshape(-1, u.shape[-1])
    found = _number_variances(flat, jnp.asarray(lengths, u.dtype), *_ends(flat, span))
    return found.reshape(*u.shape[:-1], len(lengths))


@jax.jit
def _number_variances(u: Array, lengths: Array, low: Array, high: Array) -> Array:
    """[R, m] from sorted levels [R, n], lengths [m], windows between low and high [R]."""
    over_lengths = jax.vmap(_number_variance, in_axes=(None, 0, None, None))
    return jax.lax.map(lambda s: over_lengths(s[0], lengths, s[1], s[2]), (u, low, high), batch_size=8)


def _number_variance(u: Array, length: Array, low: Array, high: Array) -> Array:
    index = jnp.arange(u.shape[-1])
    padded = jnp.concatenate([u, jnp.full(1, jnp.inf, u.dtype)])
    # the window's lower end meets level i: i + 1 levels are below it, `above` up to its upper end
    above = jnp.searchsorted(u, u + length, side="right")
    count_low, next_low = above - (index + 1), jnp.minimum(padded[index + 1], padded[above] - length)
    # its upper end meets level j
    below = jnp.searchsorted(u, u - length, side="right")
    count_high, next_high = index + 1 - below, jnp.minimum(padded[below], padded[index + 1] - length)
    # and the lowest position of all, which need not be such a point
    first, last = jnp.searchsorted(u, jnp.stack([low, low + length]), side="right")
    starts = jnp.concatenate(
        [jnp.where(u > low, u, jnp.inf), jnp.where(u - length > low, u - length, jnp.inf), low[None]]
    )
    ends = jnp.concatenate([next_low, next_high, jnp.minimum(padded[first], padded[last] - length)[None]])
    counts = jnp.concatenate([count_low, count_high, (last - first)[None]])
    held = jnp.maximum(jnp.minimum(ends, high - length) - starts, 0)
    return jnp.sum(held * (counts - length) ** 2) / jnp.sum(held)


def rigidity(
    unfolded: Float[Array, "... n"],
    lengths: Float[ArrayLike, " m"] | Sequence[float],
    span: tuple[float, float] | None = None,
) -> Float[Array, "... m"]:
    """Δ₃(L): mean square distance of the staircase from its best line in a window, mean over `WINDOWS` windows.

    Exact for each window: with the N levels x_i at positions relative to its centre,

        Δ₃ = N²/16 − (Σx)²/L² + 3N Σx²/2L² − 3 (Σx²)²/L⁴ + Σ (N − 2i + 1) x_i/L

    (Bohigas and Giannoni, Ann. Phys. 89, 393 (1975)).

    Args:
        unfolded: levels of mean spacing 1, [..., n].
        lengths: windows L [m] in mean spacings.
        span: where windows lie, as for `number_variance`.

    Returns:
        Δ₃ [..., m]. Under `jit`, a window with more than 2L + 32 levels, L the longest, makes its value NaN.

    Raises:
        InputError: lengths beyond the spectrum.
    """
    u = jnp.sort(unfolded, axis=-1)
    lengths = _lengths(u, lengths, span)
    flat = u.reshape(-1, u.shape[-1])
    ends = _ends(flat, span)
    most = 2 * int(lengths.max()) + 32
    if not isinstance(u, Tracer):  # concrete levels tell how many a window holds; in sixteens, to compile once
        most = -(-int(_most_in_a_window(flat, float(lengths.max()))) // 16) * 16
    most = min(most, u.shape[-1])
    return _rigidity(flat, *ends, jnp.asarray(lengths, u.dtype), most).reshape(*u.shape[:-1], len(lengths))


@jax.jit
def _most_in_a_window(u: Array, length: float) -> Array:
    above = jax.vmap(lambda levels: jnp.searchsorted(levels, levels + length, side="right"))(u)
    return jnp.max(above - jnp.arange(u.shape[-1]), initial=1)


@functools.partial(jax.jit, static_argnums=4)
def _rigidity(u: Array, low: Array, high: Array, lengths: Array, most: int) -> Array:
    """[R, m] from sorted levels [R, n], windows between low and high [R], lengths [m], at most `most` levels each."""
    n = u.shape[-1]

    def of_window(levels: Array, low: Array, high: Array, length: Array) -> Array:
        start = low + (high - length - low) * jnp.linspace(0, 1, WINDOWS, dtype=u.dtype)
        first = jnp.searchsorted(levels, start, side="left")
        count = jnp.searchsorted(levels, start + length, side="right") - first
        i = jnp.arange(most)
        inside = i < count[:, None]
        x = jnp.where(inside, levels[jnp.minimum(first[:, None] + i, n - 1)] - start[:, None] - length / 2, 0)
        s1, s2 = jnp.sum(x, -1), jnp.sum(x * x, -1)
        s3 = jnp.sum((count[:, None] - 2 * i - 1) * x, -1)
        value = count**2 / 16 - (s1 / length) ** 2 + s3 / length
        value += 1.5 * count * s2 / length**2 - 3 * (s2 / length**2) ** 2
        return jnp.mean(jnp.where(count <= most, value, jnp.nan))

    over_lengths = jax.vmap(of_window, in_axes=(None, None, None, 0))
    return jax.lax.map(lambda s: over_lengths(s[0], s[1], s[2], lengths), (u, low, high), batch_size=8)


def spectral_form_factor(
    unfolded: Float[Array, "R n"], times: Float[ArrayLike, " m"] | Sequence[float]
) -> tuple[Array, Array]:
    """K(τ) = ⟨|Σ e^{2πiτu}|²⟩/n and its connected part, without |⟨Σ e^{2πiτu}⟩|²/n.

    Args:
        unfolded: levels u of mean spacing 1, [R, n].
        times: τ [m]; 1 is the Heisenberg time.

    Returns:
        K and its connected part, [m] each, means over replicas.
    """
    phase = 2 * jnp.pi * jnp.asarray(times, unfolded.dtype)[:, None, None] * unfolded
    wave = jnp.sum(jnp.exp(1j * phase), axis=-1)
    n, replicas = unfolded.shape[-1], unfolded.shape[0]
    whole = jnp.mean(jnp.abs(wave) ** 2, axis=-1) / n
    # an unbiased estimate: |mean|² of R replicas contains 1/R of the fluctuations
    connected = (whole - jnp.abs(jnp.mean(wave, axis=-1)) ** 2 / n) * replicas / max(replicas - 1, 1)
    return whole, connected


def number_variance_law(lengths: Float[ArrayLike, " m"] | Sequence[float], beta: int) -> Float[np.ndarray, " m"]:
    """Σ²(L) of large random matrices and of Poisson levels (Mehta, ch. 16), exact.

    β = 2: [ln 2πL + γ + 1 − cos 2πL − Ci 2πL]/π² + L [1 − 2 Si(2πL)/π]; β = 1: twice that + Si(πL)²/π² − Si(πL)/π;
    β = 4: half of it at 2L, + Si(2πL)²/4π²; Poisson: L.

    Args:
        lengths: windows L [m] in mean spacings.
        beta: 1, 2 or 4; 0 for Poisson levels.

    Returns:
        Σ² [m].

    Raises:
        InputError: another β.
    """
    from scipy.special import sici

    require(beta in (0, 1, 2, 4), "beta", beta, "0, 1, 2 or 4")
    x = np.asarray(lengths, float)
    if beta == 0:
        return x
    if beta == 4:
        return number_variance_law(2 * x, 2) / 2 + (sici(2 * np.pi * x)[0] / (2 * np.pi)) ** 2
    si, ci = sici(2 * np.pi * np.maximum(x, 1e-300))
    z = 2 * np.pi * np.maximum(x, 1e-300)
    unitary = (np.log(z) + np.euler_gamma + 1 - np.cos(z) - ci) / np.pi**2 + x * (1 - 2 * si / np.pi)
    if beta == 2:
        return unitary
    si = sici(np.pi * x)[0]
    return 2 * unitary + (si / np.pi) ** 2 - si / np.pi


def rigidity_law(lengths: Float[ArrayLike, " m"] | Sequence[float], beta: int) -> Float[np.ndarray, " m"]:
    """Δ₃(L) = (2/L⁴) ∫₀^L (L³ − 2L²r + r³) Σ²(r) dr of large random matrices and of Poisson levels, for these L/15.

    Args:
        lengths: windows L [m] in mean spacings.
        beta: 1, 2 or 4; 0 for Poisson levels.

    Returns:
        Δ₃ [m].

    Raises:
        InputError: another β.
    """
    x = np.atleast_1d(np.asarray(lengths, float))
    nodes, weights = np.polynomial.legendre.leggauss(400)
    t = (nodes + 1) / 2
    values = number_variance_law((x[:, None] * t).ravel(), beta).reshape(len(x), -1)
    return (values * (1 - 2 * t + t**3)) @ weights


def form_factor_law(times: Float[ArrayLike, " m"] | Sequence[float], beta: int) -> Float[np.ndarray, " m"]:
    """Connected K(τ) of large random matrices and of Poisson levels (Mehta, chs. 6, 7 and 11).

    β = 2: min(|τ|, 1); β = 1: 2τ − τ ln(1 + 2τ), beyond 1: 2 − τ ln((2τ + 1)/(2τ − 1)); β = 4: τ/2 − (τ/4) ln|1 − τ|,
    beyond 2: 1; Poisson: 1.

    Args:
        times: τ [m]; 1 is the Heisenberg time.
        beta: 1, 2 or 4; 0 for Poisson levels.

    Returns:
        K [m].

    Raises:
        InputError: another β.
    """
    require(beta in (0, 1, 2, 4), "beta", beta, "0, 1, 2 or 4")
    t = np.abs(np.asarray(times, float))
    if beta == 0:
        return np.ones_like(t)
    if beta == 2:
        return np.minimum(t, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        if beta == 1:
            return np.where(t <= 1, 2 * t - t * np.log(1 + 2 * t), 2 - t * np.log((2 * t + 1) / np.abs(2 * t - 1)))
        return np.where(t <= 2, t / 2 - t / 4 * np.log(np.abs(1 - t)), 1)


def _ends(u: Array, span: tuple[float, float] | None) -> tuple[Array, Array]:
    """Ends of the region in which windows lie, for each sorted spectrum."""
    if span is None:
        return u[:, 0], u[:, -1]
    return jnp.full(len(u), span[0], u.dtype), jnp.full(len(u), span[1], u.dtype)


def _lengths(u: Array, lengths: ArrayLike | Sequence[float], span: tuple[float, float] | None) -> np.ndarray:
    found = np.atleast_1d(np.asarray(lengths, float))
    require(np.all(np.isfinite(found)) and np.all(found > 0), "lengths", found, "positive lengths")
    shortest = np.inf if span is None else span[1] - span[0]
    if span is None and not isinstance(u, Tracer) and u.size:
        shortest = float(jnp.min(u[..., -1] - u[..., 0]))
    require(found.max() < shortest, "lengths", found.max(), f"less than {shortest:.4g}, what the levels span")
    return found
