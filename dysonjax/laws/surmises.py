"""Laws of unfolded spacings, unit mean, between independent levels and rigid ones, and of their ratios."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammainc, gammaincc, gammaln
from jaxtyping import Array, ArrayLike, Float

from dysonjax.laws.base import Fit, Law, check, real, record
from dysonjax.laws.likelihood import maximum_likelihood, observations
from dysonjax.laws.spacings import half_line

ABOVE_MINUS_ONE = "finite numbers above −1"


@record
class WignerSurmise(Law):
    """Wigner's surmise for any β > −1: P(s) = a s^β e^{−b s²} of unit mean (Mehta, Random Matrices, ch. 1).

    b = [Γ((β+2)/2)/Γ((β+1)/2)]², a = 2 b^{(β+1)/2}/Γ((β+1)/2): the exact spacing of two levels, scaled.

    Args:
        beta: β > −1; 1, 2 or 4 for real, complex or quaternion matrices.

    Raises:
        InputError: a bad argument.

        WignerSurmise(beta=1.0).pdf(1.0)  # (π/2) e^{−π/4}
    """

    beta: Any

    def __post_init__(self):
        check("beta", self.beta, lambda v: v > -1, ABOVE_MINUS_ONE)

    def log_pdf(self, x):
        a, log_b, log_gamma = _surmise(self.beta)

        def value(x):
            return jnp.log(2.0) + a * log_b - log_gamma + (2 * a - 1) * jnp.log(x) - jnp.exp(log_b) * x**2

        return _positive_part(value, x)

    def cdf(self, x):
        a, log_b, _ = _surmise(self.beta)
        return gammainc(*jnp.broadcast_arrays(a, jnp.exp(log_b) * jnp.maximum(real(x), 0) ** 2))

    def sf(self, x):
        a, log_b, _ = _surmise(self.beta)
        return gammaincc(*jnp.broadcast_arrays(a, jnp.exp(log_b) * jnp.maximum(real(x), 0) ** 2))

    def sample(self, key, shape=()):
        a, log_b, _ = _surmise(self.beta)
        # the logarithm: near β = −1 the gamma number itself would underflow
        return jnp.exp((jax.random.loggamma(key, a, shape) - log_b) / 2)

    @property
    def mean(self):
        return jnp.ones_like(real(self.beta))

    @property
    def variance(self):
        a, log_b, _ = _surmise(self.beta)
        return a * jnp.exp(-log_b) - 1

    @property
    def support(self):
        return half_line(self.beta)

    def bracket(self):
        # e^{−b s²} with s² = (a + 800)/b is below the smallest number
        a, log_b, _ = _surmise(self.beta)
        return jnp.zeros_like(a), jnp.sqrt((2 * a + 800) * jnp.exp(-log_b))

    @classmethod
    def fit(cls, spacings: Float[ArrayLike, "R ..."]) -> Fit:
        """Maximum-likelihood β of spacings that are unfolded to unit mean.

        The error takes the entries of the first axis for independent: use [R, …], replicas first, because neighbouring
        spacings of one spectrum are correlated.
        """
        rows = observations("spacings", spacings, positive=True)
        return maximum_likelihood(_wigner, jnp.log(jnp.full(1, 2.0, rows.dtype)), rows, ("beta",))


@record
class SpacingRatio(Law):
    """Ratio r = min/max of two neighbouring spacings, exact for three levels (Atas et al., PRL 110, 084101 (2013)).

    P(r) = 2/Z_β (r + r²)^β/(1 + r + r²)^{1+3β/2} on 0 ≤ r ≤ 1. In the plane of the three levels the polar angle φ/3
    has the density sin^β φ, 0 ≤ φ ≤ π/2, with sin φ = (3√3/2)(r + r²)/(1 + r + r²)^{3/2}: sin²φ is a beta number and
    the distribution function the incomplete beta function.

    Args:
        beta: β > −1.

    Raises:
        InputError: a bad argument.

        SpacingRatio(beta=1.0).mean  # 4 − 2√3
    """

    beta: Any

    def __post_init__(self):
        check("beta", self.beta, lambda v: v > -1, ABOVE_MINUS_ONE)

    def log_pdf(self, x):
        beta = real(self.beta)
        log_norm = 1.5 * (1 + beta) * np.log(3) - beta * np.log(2) - _log_beta(beta)

        def value(r):
            return log_norm + beta * jnp.log(r + r * r) - (1 + 1.5 * beta) * jnp.log1p(r + r * r)

        return jnp.where(real(x) <= 1, _positive_part(value, jnp.minimum(real(x), 1)), -jnp.inf)

    def cdf(self, x):
        r = jnp.clip(real(x), 0, 1)
        a = (real(self.beta) + 1) / 2
        cube = (1 + r + r * r) ** 3
        sine = 6.75 * (r + r * r) ** 2 / cube
        cosine = (1 - r) * (2 + r) * (1 + 2 * r) / (2 * jnp.sqrt(cube))
        a, sine, cosine = jnp.broadcast_arrays(a, sine, cosine)
        norm = jnp.exp(_log_beta(self.beta)) / 2
        low, high = _sine_integral(a, jnp.minimum(sine, 0.5)), _cosine_integral(a, jnp.minimum(cosine, 0.75))
        # near r = 1 the sine is 1 to rounding and only the cosine still tells one r from another
        return jnp.clip(jnp.where(sine < 0.5, low / norm, 1 - high / norm), 0, 1)

    def sample(self, key, shape=()):
        one, two = jax.random.split(key)
        sine = jnp.exp(jax.random.loggamma(one, (real(self.beta) + 1) / 2, shape) / 2)
        theta = jnp.arctan2(sine, jnp.abs(jax.random.normal(two, shape)) / 2**0.5) / 3
        return jnp.minimum(jnp.sin(theta) / jnp.sin(np.pi / 3 - theta), 1)

    @property
    def mean(self):
        return self._moment(1)

    @property
    def variance(self):
        return self._moment(2) - self._moment(1) ** 2

    @property
    def support(self):
        zero = jnp.zeros_like(real(self.beta))
        return zero, zero + 1

    def _moment(self, power):
        """∫ r^power P(r) dr by the double-exponential rule, which a power of r at 0 does not spoil."""
        t = np.linspace(-3.2, 3.2, 129)
        r = 1 / (1 + np.exp(-np.pi * np.sinh(t)))
        weights = np.pi * np.cosh(t) * r * (1 - r) * (t[1] - t[0]) * r**power
        beta = real(self.beta)
        density = SpacingRatio(beta[..., None]).pdf(jnp.asarray(r, beta.dtype))
        return jnp.sum(density * jnp.asarray(weights, beta.dtype), axis=-1)

    @classmethod
    def fit(cls, ratios: Float[ArrayLike, "R ..."]) -> Fit:
        """Maximum-likelihood β of ratios in (0, 1].

        The error takes the entries of the first axis for independent: use [R, …], replicas first, because neighbouring
        ratios share a spacing.
        """
        rows = observations("ratios", ratios, positive=True)
        check("ratios", rows, lambda v: v <= 1, "numbers in (0, 1]")
        return maximum_likelihood(_ratio, jnp.log(jnp.full(1, 2.0, rows.dtype)), rows, ("beta",))


@record
class Brody(Law):
    """Brody's interpolation between Poisson (0) and Wigner (1) spacings (Lett. Nuovo Cimento 7, 482 (1973)).

    P(s) = (1 + q) b s^q e^{−b s^{1+q}}, b = Γ((2+q)/(1+q))^{1+q}, unit mean.

    Args:
        parameter: q > −1.

    Raises:
        InputError: a bad argument.
    """

    parameter: Any

    def __post_init__(self):
        check("parameter", self.parameter, lambda v: v > -1, ABOVE_MINUS_ONE)

    def log_pdf(self, x):
        k, log_scale = _weibull(self.parameter)

        def value(x):
            log_x = jnp.log(x) + log_scale
            return jnp.log(k) + log_scale + (k - 1) * log_x - jnp.exp(k * log_x)

        return _positive_part(value, x)

    def cdf(self, x):
        return -jnp.expm1(-self._power(x))

    def sf(self, x):
        return jnp.exp(-self._power(x))

    def ppf(self, p):
        k, log_scale = _weibull(self.parameter)
        p = real(p)
        return (-jnp.log1p(-p) * jnp.where(p >= 0, 1, jnp.nan)) ** (1 / k) * jnp.exp(-log_scale)

    @property
    def mean(self):
        return jnp.ones_like(real(self.parameter))

    @property
    def variance(self):
        k, log_scale = _weibull(self.parameter)
        return jnp.expm1(gammaln(1 + 2 / k) - 2 * log_scale)

    @property
    def support(self):
        return half_line(self.parameter)

    def bracket(self):
        k, log_scale = _weibull(self.parameter)
        return jnp.zeros_like(k), 800 ** (1 / k) * jnp.exp(-log_scale)

    def _power(self, x):
        """b s^{1+q}"""
        k, log_scale = _weibull(self.parameter)
        return (jnp.maximum(real(x), 0) * jnp.exp(log_scale)) ** k

    @classmethod
    def fit(cls, spacings: Float[ArrayLike, "R ..."]) -> Fit:
        """Maximum-likelihood q of spacings that are unfolded to unit mean.

        The error takes the entries of the first axis for independent: use [R, …], replicas first.
        """
        rows = observations("spacings", spacings, positive=True)
        return maximum_likelihood(_brody, jnp.log(jnp.full(1, 1.5, rows.dtype)), rows, ("parameter",))


@record
class PoissonSpacing(Law):
    """Spacing of independent levels, P(s) = e^{−s}, unit mean."""

    def log_pdf(self, x):
        return jnp.where(real(x) >= 0, -jnp.maximum(real(x), 0), -jnp.inf)

    def cdf(self, x):
        return -jnp.expm1(-jnp.maximum(real(x), 0))

    def sf(self, x):
        return jnp.exp(-jnp.maximum(real(x), 0))

    def ppf(self, p):
        p = real(p)
        return -jnp.log1p(-p) * jnp.where(p >= 0, 1, jnp.nan)

    @property
    def mean(self):
        return jnp.ones(())

    @property
    def variance(self):
        return jnp.ones(())

    @property
    def support(self):
        return half_line(0.0)

    def bracket(self):
        return jnp.zeros(()), jnp.full((), 800.0)


def _wigner(theta):
    return WignerSurmise(jnp.expm1(theta[0]))


def _ratio(theta):
    return SpacingRatio(jnp.expm1(theta[0]))


def _brody(theta):
    return Brody(jnp.expm1(theta[0]))


def _surmise(beta) -> tuple[Array, Array, Array]:
    """a = (β + 1)/2, ln b = 2 ln[Γ(a + ½)/Γ(a)] and ln Γ(a)."""
    a = (real(beta) + 1) / 2
    # one call on a stack: ln Γ takes long to compile
    above, at = gammaln(jnp.stack([a + 0.5, a]))
    return a, 2 * (above - at), at


def _log_beta(beta):
    """ln B((β + 1)/2, ½)."""
    return np.log(np.pi) / 2 - _surmise(beta)[1] / 2


def _sine_integral(a, square):
    """∫₀^φ sin^{2a−1} from sin²φ ≤ ½: s^{2a}/2 Σ_k (½)_k/k! s^{2k}/(a + k), all terms positive."""
    k = np.arange(-np.log2(jnp.finfo(square.dtype).eps) + 2)
    binomial = np.cumprod(np.concatenate([[1], (k[1:] - 0.5) / k[1:]]))
    column = (slice(None), *[None] * a.ndim)
    series = jnp.asarray(binomial[column], a.dtype) / (a + jnp.asarray(k[column], a.dtype))
    # 0 to a power that is traced has no derivative
    power = jnp.where(square > 0, jnp.where(square > 0, square, 1) ** a, 0)
    return power / 2 * jnp.polyval(series[::-1], square, unroll=4)


def _cosine_integral(a, cosine):
    """∫_φ^{π/2} sin^{2a−1} = ∫₀^{cos φ} (1 − y²)^{a−1} dy for cos φ ≤ ¾, by Gauss and Legendre."""
    node, weight = np.polynomial.legendre.leggauss(32)
    column = (slice(None), *[None] * a.ndim)
    y = cosine * jnp.asarray((1 + node[column]) / 2, a.dtype)
    return cosine * jnp.tensordot(jnp.asarray(weight / 2, a.dtype), (1 - y * y) ** (a - 1), 1)


def _weibull(parameter) -> tuple[Array, Array]:
    """k = 1 + q and ln Γ(1 + 1/k), the logarithm of b^{1/k}."""
    k = 1 + real(parameter)
    return k, gammaln(1 + 1 / k)


def _positive_part(value, x):
    """`value` for x > 0 and −∞ elsewhere, with derivatives that are never NaN."""
    inside = real(x) > 0
    return jnp.where(inside, value(jnp.where(inside, x, 1)), -jnp.inf)
