"""Laws of the distance S between two levels of a pair; Gaussian noise of strength σ² = T g²/V″ on each level."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e, i1e, ndtr
from jaxtyping import Array, ArrayLike, Float

from dysonjax.laws.base import Fit, Law, check, check_positive, real, record
from dysonjax.laws.likelihood import maximum_likelihood, observations

NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
"""Gauss–Legendre on (−1, 1): rounding is all that is left of the error for a Gaussian's ±11 deviations."""
REACH = 11.0
"""Deviations on either side of a distance beyond which Rice's law has nothing: e^{−60}."""


@record
class PairSpacing(Law):
    """Distance of the two levels of a degenerate pair, P(S) = S/(2σ²) e^{−S²/4σ²} (arXiv:2407.16427).

    Args:
        sigma: σ > 0, the width that one free level would have.

    Raises:
        InputError: a bad argument.

        PairSpacing(sigma=1.0).mean  # √π
    """

    sigma: Any

    def __post_init__(self):
        check_positive(sigma=self.sigma)

    def log_pdf(self, x):
        x = real(x)
        inside = x > 0
        x = jnp.where(inside, x, 1)
        value = jnp.log(x / (2 * self.sigma**2)) - (x / self.sigma) ** 2 / 4
        return jnp.where(inside, value, -jnp.inf)

    def cdf(self, x):
        return -jnp.expm1(-((jnp.maximum(real(x), 0) / self.sigma) ** 2) / 4)

    def sf(self, x):
        return jnp.exp(-((jnp.maximum(real(x), 0) / self.sigma) ** 2) / 4)

    def ppf(self, p):
        p = real(p)
        return 2 * self.sigma * jnp.sqrt(-jnp.log1p(-p) * jnp.where(p >= 0, 1, jnp.nan))

    @property
    def mean(self):
        return jnp.sqrt(jnp.pi) * real(self.sigma)

    @property
    def variance(self):
        return (4 - jnp.pi) * real(self.sigma) ** 2

    @property
    def support(self):
        return half_line(self.sigma)

    def bracket(self):
        zero = jnp.zeros_like(real(self.sigma))
        return zero, zero + 60 * self.sigma

    @classmethod
    def fit(cls, spacings: Float[ArrayLike, "R ..."]) -> Fit:
        """Maximum-likelihood σ, σ̂² = ⟨S²⟩/4; the error takes the entries of the first axis for independent."""
        rows = observations("spacings", spacings, positive=True)
        return maximum_likelihood(_pair, jnp.log(jnp.mean(rows**2) / 4)[None] / 2, rows, ("sigma",))


@record
class LogGasPairSpacing(Law):
    """Distance of two levels of a log-gas with centres a distance d apart (arXiv:2407.16427; two levels of eq. 3).

    P(S) ∝ S [e^{−(S−d)²/4σ²} + e^{−(S+d)²/4σ²}], the stationary law of the eigenvalue Langevin equation whose levels
    may be in either order. For the matrix process itself see `RiceSpacing`.

    Args:
        distance: d ≥ 0.
        sigma: σ > 0.

    Raises:
        InputError: a bad argument.
    """

    distance: Any
    sigma: Any

    def __post_init__(self):
        _check_pair(self)

    def pdf(self, x):
        y, delta, width = _reduced(self, x)
        value = y * (_normal(y - delta) + _normal(y + delta)) / (width * _absolute(delta))
        return jnp.where(y > 0, value, 0)

    def cdf(self, x):
        y, delta, _ = _reduced(self, x)
        y = jnp.maximum(y, 0)
        gauss = 2 * _normal(delta) - _normal(y - delta) - _normal(y + delta)
        # each difference is of tails of the same side, so that a small one keeps its digits
        steps = (ndtr(y - delta) - ndtr(-delta)) - (ndtr(-delta) - ndtr(-y - delta))
        return jnp.clip((gauss + delta * steps) / _absolute(delta), 0, 1)

    @property
    def mean(self):
        _, delta, width = _reduced(self, 0.0)
        return width * (1 + delta**2) / _absolute(delta)

    @property
    def variance(self):
        _, delta, width = _reduced(self, 0.0)
        cube = 2 * _normal(delta) * (delta**2 + 2) + (delta**3 + 3 * delta) * jax.scipy.special.erf(delta / 2**0.5)
        return width**2 * cube / _absolute(delta) - self.mean**2

    @property
    def support(self):
        return half_line(self.sigma)

    def bracket(self):
        return _pair_bracket(self)


@record
class RiceSpacing(Law):
    """Distance of two levels of a 2×2 symmetric matrix whose mean has levels a distance d apart, Rice's law.

    P(S) = S/(2σ²) e^{−(S²+d²)/4σ²} I₀(S d/2σ²): exact for the matrix Ornstein–Uhlenbeck process, whose eigenvectors
    turn; for levels that keep their centres see `LogGasPairSpacing`.

    Args:
        distance: d ≥ 0.
        sigma: σ > 0.

    Raises:
        InputError: a bad argument.

        RiceSpacing(distance=2.0, sigma=0.5).cdf(1.0)
    """

    distance: Any
    sigma: Any

    def __post_init__(self):
        _check_pair(self)

    def log_pdf(self, x):
        y, delta, width = _reduced(self, x)
        inside = y > 0
        y = jnp.where(inside, y, 1)
        # i0e(z) = e^{−z} I₀(z) leaves the square of the difference in the exponent: nothing overflows
        value = jnp.log(y * i0e(y * delta) / width) - (y - delta) ** 2 / 2
        return jnp.where(inside, value, -jnp.inf)

    def cdf(self, x):
        y, delta, _ = _reduced(self, x)
        low = jnp.maximum(delta - REACH, 0)
        half = (jnp.clip(y, low, delta + REACH) - low) / 2
        at = low + half * (1 + jnp.expand_dims(jnp.asarray(NODES, y.dtype), tuple(range(1, y.ndim + 1))))
        weights = jnp.asarray(WEIGHTS, y.dtype)
        density = at * i0e(at * delta) * jnp.exp(-((at - delta) ** 2) / 2)
        return jnp.clip(half * jnp.tensordot(weights, density, 1), 0, 1)

    def sample(self, key, shape=()):
        along, across = jax.random.normal(key, (2, *shape))
        width = 2**0.5 * self.sigma
        return jnp.hypot(self.distance + width * along, width * across)

    @property
    def mean(self):
        _, delta, width = _reduced(self, 0.0)
        z = delta**2 / 4
        return width * jnp.sqrt(jnp.pi / 2) * ((1 + 2 * z) * i0e(z) + 2 * z * i1e(z))

    @property
    def variance(self):
        return real(self.distance) ** 2 + 4 * real(self.sigma) ** 2 - self.mean**2

    @property
    def support(self):
        return half_line(self.sigma)

    def bracket(self):
        return _pair_bracket(self)

    @classmethod
    def fit(cls, spacings: Float[ArrayLike, "R ..."]) -> Fit:
        """Maximum-likelihood d and σ; the error takes the entries of the first axis for independent.

        Below d ≈ σ the data hold little more than d², the estimate of d is not normal and its error a rough guide.
        """
        rows = observations("spacings", spacings, positive=True)
        unit = jnp.sqrt(jnp.mean(rows**2))
        # ⟨S²⟩ = d² + 4σ² = 1, ⟨S⁴⟩ = 2⟨S²⟩² − d⁴
        square = jnp.sqrt(jnp.clip(2 - jnp.mean((rows / unit) ** 4), 0.01, 0.98))
        start = jnp.stack([jnp.sqrt(square), jnp.log((1 - square) / 4) / 2])
        return maximum_likelihood(_rice, start, rows, ("distance", "sigma"), (unit,))


def half_line(like: ArrayLike) -> tuple[Array, Array]:
    """The support (0, ∞) in the shape of a parameter."""
    zero = jnp.zeros_like(real(like))
    return zero, zero + jnp.inf


def _pair(theta):
    return PairSpacing(jnp.exp(theta[0]))


def _rice(theta, unit):
    # the law is even in d, so there is no boundary at zero
    return RiceSpacing(jnp.abs(theta[0]) * unit, jnp.exp(theta[1]) * unit)


def _check_pair(law):
    check("distance", law.distance, lambda v: v >= 0, "finite numbers that are not negative")
    check_positive(sigma=law.sigma)


def _reduced(law, x):
    """S and d in units of √2 σ, and that unit, all of one shape."""
    width = 2**0.5 * real(law.sigma)
    y, delta, _ = jnp.broadcast_arrays(real(x) / width, law.distance / width, width)
    return y, delta, width


def _pair_bracket(law):
    width = 2**0.5 * real(law.sigma)
    zero = jnp.zeros_like(width * law.distance)
    return zero, zero + law.distance + 40 * width


def _normal(u):
    return jnp.exp(-(u**2) / 2) / (2 * np.pi) ** 0.5


def _absolute(delta):
    """Mean of |δ + normal number|, the normalisation of the log-gas pair."""
    return 2 * _normal(delta) + delta * jax.scipy.special.erf(delta / 2**0.5)
