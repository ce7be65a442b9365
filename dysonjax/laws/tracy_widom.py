"""The Tracy–Widom laws of the largest level, from Fredholm determinants."""

from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dysonjax.core.errors import require
from dysonjax.laws.base import Law, real, record, static
from dysonjax.laws.tables import Table, table

START, END, STEP = -9.0, 24.0, 1 / 8
"""Grid of s: beyond it F₁ is below 10⁻¹⁶ and 1 − F₁ below 10⁻³⁵, and both are taken for 0."""
NODES = 40
"""Gauss–Legendre points of the determinants: rounding is all that is left of their error."""
TRUSTED = 1e-9
"""The smallest F whose logarithm the determinant still gives to 10⁻⁶; below, the known asymptotic series takes over."""


@record
class TracyWidom(Law):
    """Largest level of a large Gaussian (or Wishart) matrix, centred and scaled (Tracy and Widom 1994, 1996).

    F₁(s) = det(1 − B_s), F₂(s) = det(1 − B_s²), F₄(s) = ½[F₁ + F₂/F₁](√2 s) with B_s(x, y) = Ai(x + y + s) on (0, ∞)
    (Ferrari and Spohn 2005; Bornemann, Math. Comp. 79, 871 (2010)). For P(x) ∝ Π|x_i − x_j|^β exp(−β Σx_i²/4) and
    large n: x₁ = 2√n + n^{−1/6} s for β = 1 and 2, and x₁ = 2√n + (2n)^{−1/6} s for β = 4. That last one is the
    convention of Bornemann's and other tables (mean −2.3069); in the convention of the β-ensembles, n^{−1/6}
    throughout, divide by 2^{1/6}; others leave the √2 out of F₄ (mean −3.2624). Largest eigenvalues of S Sᵀ, S [K, L]
    with N(0, 1) entries: centre (√L + √K)², scale (√L + √K)(1/√L + 1/√K)^{1/3} (Johnstone 2001; β = 1).

    cdf and sf are accurate to 10⁻¹⁰ in float64, and `sf`, the p-value of an outlier, relatively so however small.

    Args:
        beta: 1, 2 or 4, fixed when compiled.

    Raises:
        InputError: another β.
    """

    beta: int = static()

    def __post_init__(self):
        require(self.beta in (1, 2, 4) and not isinstance(self.beta, bool), "beta", self.beta, "1, 2 or 4")
        object.__setattr__(self, "beta", int(self.beta))

    def pdf(self, x):
        t = _tables(self.beta)
        x = real(x)
        left, right = self._left(x), self._right(x)
        value = jnp.where(x < t.middle, left * t.left.derivative()(x), -right * t.right.derivative()(x))
        low, high = self.bracket()
        return jnp.where((x > low) & (x < high), value, 0)

    def cdf(self, x):
        x = real(x)
        return jnp.where(x < _tables(self.beta).middle, self._left(x), 1 - self._right(x))

    def sf(self, x):
        x = real(x)
        return jnp.where(x < _tables(self.beta).middle, 1 - self._left(x), self._right(x))

    @property
    def mean(self):
        return real(_tables(self.beta).mean)

    @property
    def variance(self):
        return real(_tables(self.beta).variance)

    @property
    def support(self):
        return real(-np.inf), real(np.inf)

    def bracket(self):
        scale = _scale(self.beta)
        return real(START / scale), real(END / scale)

    def _left(self, x):
        return jnp.where(x > START / _scale(self.beta), jnp.exp(_tables(self.beta).left(x)), 0)

    def _right(self, x):
        return jnp.where(x < END / _scale(self.beta), jnp.exp(_tables(self.beta).right(x)), 0)


class Tables(NamedTuple):
    """ln F left of the `middle`, ln(1 − F) right of it, and the moments."""

    left: Table
    right: Table
    middle: float
    mean: float
    variance: float


def _scale(beta):
    """F₄ is a function of √2 s."""
    return 2**0.5 if beta == 4 else 1.0


@lru_cache(maxsize=1)
def determinants() -> tuple[np.ndarray, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """The grid of s and for every β ln F and ln(1 − F) on it; F₄ without its √2."""
    grid = START + STEP * np.arange(round((END - START) / STEP) + 1)
    values = np.array([_logarithms(s) for s in grid])
    return grid, {beta: (_extended(grid, values[:, i], beta), values[:, i + 3]) for i, beta in enumerate((1, 2, 4))}


def _logarithms(s):
    """ln F and ln(1 − F) for β = 1, 2, 4 from the eigenvalues λ of B_s."""
    from scipy.special import airy

    node, weight = np.polynomial.legendre.leggauss(NODES)
    # Ai(s + x) has fallen by e^{−40} when (2/3)(s + x)^{3/2} has grown by 40
    length = (max(s, 0) ** 1.5 + 60) ** (2 / 3) - s
    x, root = length * (1 + node) / 2, np.sqrt(length * weight / 2)
    matrix = airy(s + x[:, None] + x)[0] * root[:, None] * root
    # scaled, because LAPACK loses what is below the smallest number squared
    size = np.abs(matrix).max()
    value = np.linalg.eigvalsh(matrix / size) * size
    value = np.clip(value, -1 + 1e-16, 1 - 1e-16)
    one, two = np.sum(np.log1p(-value)), np.sum(np.log1p(-(value**2)))
    # F₄ = e^w cosh u; for large s both w and u²/2 are small and their difference must not be taken of rounded numbers
    u, w = np.sum(np.arctanh(value)), two / 2
    four = w + np.log(np.cosh(u))
    pairs = (value.sum() ** 2 - np.sum(value**2)) / 2
    above = -pairs if abs(pairs) < 1e-9 else -np.expm1(w) - 2 * np.exp(w) * np.sinh(u / 2) ** 2
    tails = [-np.expm1(one), -np.expm1(two), above]
    return [one, two, four, *np.log(tails)]


def _extended(grid, log_f, beta):
    """ln F with its left end, where the determinant is rounding, from the asymptotic series (Baik et al. 2008).

    ln F ~ −|s|³/24 − |s|^{3/2}/(3√2) − ln|s|/16 for β = 1, twice the first and last term alone for β = 2, and + in the
    second place for β = 4 (before its √2); constants are matched.
    """
    t = np.maximum(-grid, 1e-9)
    root = {1: -1, 2: 0, 4: 1}[beta] * t**1.5 / (3 * np.sqrt(2))
    series = (2 if beta == 2 else 1) * (-(t**3) / 24 - np.log(t) / 16) + root
    first = np.searchsorted(log_f, np.log(TRUSTED))
    return np.where(np.arange(len(grid)) < first, series + log_f[first] - series[first], log_f)


@lru_cache(maxsize=3)
def _tables(beta: int) -> Tables:
    grid, logarithms = determinants()
    left, right = logarithms[beta]
    x = grid / _scale(beta)
    # F and 1 − F and all their derivatives vanish at the ends: the plain sum is exact for such functions
    f, step = np.exp(left), x[1] - x[0]
    above = np.exp(right)
    negative = x < 0
    mean = step * (np.sum(above[~negative]) - np.sum(f[negative]) - 0.5)
    second = 2 * step * (np.sum((x * above)[~negative]) - np.sum((x * f)[negative]))
    second += step**2 / 6  # Euler and Maclaurin: at 0 the slopes of x (1 − F) and x F add up to one
    return Tables(table(x, left), table(x, right), -1.5, float(mean), float(second - mean**2))
