"""Fits to spacings and ratios with standard errors, and p-values of outlying levels."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from dysonjax import laws
from dysonjax.core.errors import require
from dysonjax.spectra.estimates import Estimate


def fit_beta(spacings: Float[ArrayLike, "R ..."]) -> Estimate:
    """β of the Wigner surmise a s^β e^{−b s²} that makes the spacings most likely.

    The error is that of the sandwich formula over replicas (the first axis), so spacings of one spectrum may be
    correlated.

    Args:
        spacings: [R] or [R, n], at unit mean.

    Returns:
        β and its error.

    Raises:
        InputError: fewer than three replicas, or numbers that are negative or not finite.
    """

    from scipy.special import gammaln

    def log_density(beta, s):
        root = np.exp(gammaln((beta + 2) / 2) - gammaln((beta + 1) / 2))
        return np.log(2) + (beta + 1) * np.log(root) - gammaln((beta + 1) / 2) + beta * np.log(s) - (root * s) ** 2

    return _fit(log_density, spacings, (-0.9, 60.0), "spacings")


def fit_brody(spacings: Float[ArrayLike, "R ..."]) -> Estimate:
    """Brody's parameter ω of (ω + 1) b s^ω e^{−b s^{ω+1}}: 0 for Poisson levels, 1 near the surmise; as `fit_beta`.

    Args:
        spacings: [R] or [R, n], at unit mean.

    Returns:
        ω and its error.

    Raises:
        InputError: fewer than three replicas, or numbers that are negative or not finite.
    """

    from scipy.special import gammaln

    def log_density(w, s):
        b = np.exp((w + 1) * gammaln((w + 2) / (w + 1)))
        return np.log((w + 1) * b) + w * np.log(s) - b * s ** (w + 1)

    return _fit(log_density, spacings, (-0.9, 20.0), "spacings")


def fit_beta_from_ratios(ratios: Float[ArrayLike, "R ..."]) -> Estimate:
    """β of the ratio law (r + r²)^β/(1 + r + r²)^{1+3β/2} (Atas et al. 2013); as `fit_beta`.

    Args:
        ratios: [R] or [R, n], from `spacing_ratios`.

    Returns:
        β and its error.

    Raises:
        InputError: fewer than three replicas, or numbers that are negative or not finite.
    """
    nodes, weights = np.polynomial.legendre.leggauss(200)
    r0 = ((nodes + 1) / 2) ** 2  # squared: integrands r^β with β < 1 stay smooth

    def shape(beta, r):
        return beta * np.log(r + r * r) - (1 + 1.5 * beta) * np.log(1 + r + r * r)

    def log_density(beta, r):
        norm = np.sum(weights * np.sqrt(r0) * np.exp(shape(beta, r0)))
        return shape(beta, r) - np.log(norm)

    return _fit(log_density, ratios, (-0.9, 60.0), "ratios")


def tracy_widom_p_values(
    levels: Float[ArrayLike, "... k"] | Sequence[float], shape: tuple[int, int], variance: float
) -> Float[np.ndarray, "... k"]:
    """Probability that the largest level of X = W Wᵀ, W of K × L entries N(0, variance/L), exceeds each level.

    (L x/σ² − μ)/s follows Tracy and Widom's law for β = 1 with Johnstone's (2001) centring and scaling, here in the
    form μ = (√(L − ½) + √(K − ½))², s = √μ (1/√(L − ½) + 1/√(K − ½))^{1/3} (Ma 2012), of second order.

    Args:
        levels: eigenvalues of W Wᵀ, [..., k].
        shape: K and L, the sides of W.
        variance: σ².

    Returns:
        Probabilities, of the shape of `levels`.

    Raises:
        InputError: a bad argument.
    """
    k, l = shape
    require(min(k, l) >= 2, "shape", shape, "at least two rows and columns")
    require(variance > 0, "variance", variance, "a positive number")
    a, b = np.sqrt(l - 0.5), np.sqrt(k - 0.5)
    centre, scale = (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)
    standard = (np.asarray(levels, float) * l / variance - centre) / scale
    return np.asarray(laws.TracyWidom(beta=1).sf(jnp.asarray(standard)))


def outliers(
    levels: Float[ArrayLike, "... k"] | Sequence[float], shape: tuple[int, int], variance: float, level: float = 0.01
) -> np.ndarray:
    """True for each level that the largest of a random matrix would exceed with a probability below `level`.

    Args:
        levels: eigenvalues of W Wᵀ, [..., k].
        shape: K and L, the sides of W.
        variance: σ², where the entries of W are N(0, σ²/L).
        level: the probability.

    Returns:
        True or false, of the shape of `levels`.
    """
    require(0 < level < 1, "level", level, "a probability in (0, 1)")
    return tracy_widom_p_values(levels, shape, variance) < level


def _fit(log_density, values: ArrayLike, bounds: tuple[float, float], name: str) -> Estimate:
    """The parameter that maximises Σ log_density, with the sandwich error from finite differences of replica scores."""
    from scipy.optimize import minimize_scalar

    x = np.asarray(values, float)
    require(x.ndim >= 1 and len(x) >= 3, name, x.shape, "at least three replicas on the first axis")
    rows = np.maximum(x.reshape(len(x), -1), np.finfo(np.float32).tiny)
    require(np.all(np.isfinite(rows)) and np.all(np.asarray(values) >= 0), name, x.shape, "finite positive numbers")
    total = lambda p: -np.mean(log_density(p, rows))  # noqa: E731
    best = minimize_scalar(total, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x  # type: ignore[attr-defined]
    h = 1e-4
    score = (log_density(best + h, rows) - log_density(best - h, rows)).sum(1) / (2 * h)
    curvature = rows.size * (total(best + h) - 2 * total(best) + total(best - h)) / h**2
    return Estimate(float(best), float(np.sqrt(np.sum(score**2)) / curvature), len(x))
