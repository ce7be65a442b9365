"""Laws of one level: Marchenko–Pastur, the semicircle, the pair density and the generalised semicircle."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jaxtyping import Array, ArrayLike, Float

from dysonjax.core.errors import require
from dysonjax.laws.base import Fit, Law, check_finite, check_positive, invert, real, record, static
from dysonjax.laws.likelihood import maximum_likelihood, moments_fit, observations
from dysonjax.laws.multiplet import multiplet


@record
class MarchenkoPastur(Law):
    """Eigenvalues of X = W Wᵀ for large W [K, L] with entries N(0, σ²/L), q = K/L (Marchenko and Pastur 1967).

    ρ(x) = √((x₊ − x)(x − x₋))/(2π q σ² x) between x± = σ²(1 ± √q)², and for q > 1 an atom of weight 1 − 1/q at 0: the
    exact zeros of X. The property `variance` is that of the law, q σ⁴, so σ² is kept as `entry_variance`.

    Args:
        ratio: q > 0.
        variance: σ² > 0.

    Raises:
        InputError: a bad argument.

        MarchenkoPastur(ratio=0.5, variance=1.0).support  # (0.0858, 2.914)
    """

    ratio: Any
    entry_variance: Any

    def __init__(self, ratio: ArrayLike, variance: ArrayLike = 1.0):
        check_positive(ratio=ratio, variance=variance)
        object.__setattr__(self, "ratio", ratio)
        object.__setattr__(self, "entry_variance", variance)

    @property
    def atom(self) -> Float[Array, "..."]:
        """Probability of an exact zero, max(0, 1 − 1/q)."""
        return jnp.maximum(0, 1 - 1 / (real(self.ratio) + jnp.zeros_like(real(self.entry_variance))))

    def pdf(self, x):
        x = real(x)
        low, high = self.support
        product = (high - x) * (x - low)
        inside = (product > 0) & (x > 0)
        root = jnp.sqrt(jnp.where(inside, product, 1))
        value = root / (2 * jnp.pi * self.ratio * self.entry_variance * jnp.where(inside, x, 1))
        return jnp.where(inside, value, 0)

    def cdf(self, x):
        x = real(x)
        low, high = self.support
        inside = (x > low) & (x < high)
        middle = jnp.where(inside, x, (low + high) / 2)
        # x = σ²(1 + q − 2√q cos φ): the antiderivative in φ is free of the cancellations at the edges
        phi = 2 * jnp.arctan2(jnp.sqrt(middle - low), jnp.sqrt(high - middle))
        q = jnp.minimum(self.ratio, 1 / real(self.ratio))
        s = jnp.sqrt(q)
        around = jnp.arctan2(s * jnp.sin(phi), (1 - s) + 2 * s * jnp.sin(phi / 2) ** 2)
        value = (s * jnp.sin(phi) + q * phi - (1 - q) * around) / (jnp.pi * q) * (1 - self.atom)
        continuous = jnp.where(inside, value, jnp.where(x >= high, 1 - self.atom, 0))
        return jnp.clip(continuous + jnp.where(x >= 0, self.atom, 0), 0, 1)

    def ppf(self, p):
        p = real(p)
        zero = (p >= 0) & (p <= self.atom) & (self.atom > 0)
        return jnp.where(zero, 0, invert(self, p))

    @property
    def mean(self):
        return real(self.entry_variance) + jnp.zeros_like(real(self.ratio))

    @property
    def variance(self):
        return self.ratio * real(self.entry_variance) ** 2

    @property
    def support(self):
        root = jnp.sqrt(real(self.ratio))
        return self.entry_variance * (1 - root) ** 2, self.entry_variance * (1 + root) ** 2

    @classmethod
    def fit(cls, levels: Float[ArrayLike, "*R K"], ratio: float | None = None) -> Fit:
        """σ², and q unless `ratio` is given, from the moments of whole spectra, the zeros of q > 1 among the K levels.

        σ² = ⟨x⟩, q = (⟨x²⟩/⟨x⟩² − 1) K/(K + 1), free of the leading finite-size bias. Replicas [R, K] are taken for
        independent and the errors are those of the jackknife; of a single spectrum [K] the *entries of W* are taken
        for independent real normal numbers: σ²√(2q)/K and 2q/K (Ledoit and Wolf, Ann. Stat. 30, 1081 (2002)).
        """
        rows, count = _spectra(levels)
        if ratio is not None:
            check_positive(ratio=ratio)

        def estimates(first, second):
            if ratio is not None:
                return (first,)
            return first, (second / first**2 - 1) * count / (count + 1)

        names = ("entry_variance", "ratio")[: 2 if ratio is None else 1]
        variance, *fitted = estimates(rows.mean(), jnp.mean(rows**2))
        q = jnp.asarray([*fitted, ratio][0], variance.dtype)
        law = cls(q, variance)
        if len(rows) > 1:
            return moments_fit(law, estimates, rows, names)
        return Fit(law, dict(zip(names, (variance * jnp.sqrt(2 * q) / count, 2 * q / count), strict=False)))


@record
class Semicircle(Law):
    """Wigner's semicircle ρ(x) = (2/πR²)√(R² − (x − κ)²), the levels of a large symmetric matrix.

    A block of n levels that are σ wide each has R = σ√(2n) (arXiv:2412.20496).

    Args:
        centre: κ.
        radius: R > 0.

    Raises:
        InputError: a bad argument.
    """

    centre: Any
    radius: Any

    def __post_init__(self):
        check_finite(centre=self.centre)
        check_positive(radius=self.radius)

    def pdf(self, x):
        u = (real(x) - self.centre) / self.radius
        inside = jnp.abs(u) < 1
        return jnp.where(inside, jnp.sqrt(jnp.where(inside, (1 - u) * (1 + u), 1)) * 2 / (jnp.pi * self.radius), 0)

    def cdf(self, x):
        u = (real(x) - self.centre) / self.radius
        inside = jnp.abs(u) < 1
        v = jnp.where(inside, u, 0)
        phi = 2 * jnp.arctan2(jnp.sqrt(1 + v), jnp.sqrt(1 - v))
        return jnp.where(inside, (phi - jnp.sin(2 * phi) / 2) / jnp.pi, jnp.where(u < 0, 0.0, 1.0))

    def sample(self, key, shape=()):
        # the abscissa of a point spread evenly over the disc
        radius, angle = jax.random.uniform(key, (2, *shape))
        return self.centre + self.radius * jnp.sqrt(radius) * jnp.cos(2 * jnp.pi * angle)

    @property
    def mean(self):
        return real(self.centre) + jnp.zeros_like(real(self.radius))

    @property
    def variance(self):
        return real(self.radius) ** 2 / 4 + jnp.zeros_like(real(self.centre))

    @property
    def support(self):
        return real(self.centre) - self.radius, real(self.centre) + self.radius

    @classmethod
    def fit(cls, levels: Float[ArrayLike, "*R n"]) -> Fit:
        """Centre and radius from the moments of whole spectra.

        κ = ⟨x⟩, R² = 4 (⟨x²⟩ − ⟨x⟩²) n²/((n − 1)(n + 2)), exact in the mean for a GOE block of any size n whose trace
        is subtracted. Replicas [R, n] are taken for independent and the errors are those of the jackknife; of a single
        spectrum [n] the *entries of the matrix* are taken for independent: R/(√2 n) and R/√((n − 1)(n + 2)).
        """
        rows, n = _spectra(levels)
        require(n >= 2, "levels", rows.shape, "spectra of at least two levels")
        single = len(rows) == 1
        within = (n - 1) * (n + 2)
        # with many replicas the mean is that of all of them, and of its fluctuation only a part must be added back
        factor = n**2 / (within if single else within + 2 * (1 - 1 / len(rows)))

        def estimates(first, second):
            return first, 2 * jnp.sqrt((second - first**2) * factor)

        shift = rows.mean()
        centre, radius = estimates(jnp.zeros((), rows.dtype), jnp.mean((rows - shift) ** 2))
        law = cls(shift + centre, radius)
        if single:
            return Fit(law, {"centre": radius / (2**0.5 * n), "radius": radius / within**0.5})
        return moments_fit(law, estimates, rows - shift, ("centre", "radius"))


@record
class PairDensity(Law):
    """One level of a degenerate pair, what arXiv:2407.16427 fits as "the semicircle" at n = 2; u = (x − κ)/σ.

    ρ(x) = e^{−u²/2}/(4√π σ) [2 e^{−u²/2} + √(2π) u erf(u/√2)].

    Args:
        centre: κ.
        sigma: σ > 0.

    Raises:
        InputError: a bad argument.
    """

    centre: Any
    sigma: Any

    def __post_init__(self):
        check_finite(centre=self.centre)
        check_positive(sigma=self.sigma)

    def log_pdf(self, x):
        u = (real(x) - self.centre) / self.sigma
        bracket = 2 * jnp.exp(-(u**2) / 2) + (2 * jnp.pi) ** 0.5 * u * erf(u / 2**0.5)
        return jnp.log(bracket / (4 * jnp.pi**0.5 * self.sigma)) - u**2 / 2

    def cdf(self, x):
        u = (real(x) - self.centre) / self.sigma
        return jnp.clip((1 + erf(u)) / 2 - jnp.exp(-(u**2) / 2) * erf(u / 2**0.5) / 8**0.5, 0, 1)

    def sample(self, key, shape=()):
        # the middle of the pair is σ/√2 wide, its half-distance σ√E with E exponential, and either level may be asked
        middle, distance, side = jax.random.split(key, 3)
        half = jnp.sqrt(jax.random.exponential(distance, shape)) * jax.random.rademacher(side, shape)
        return self.centre + self.sigma * (jax.random.normal(middle, shape) / 2**0.5 + half)

    @property
    def mean(self):
        return real(self.centre) + jnp.zeros_like(real(self.sigma))

    @property
    def variance(self):
        return 1.5 * real(self.sigma) ** 2 + jnp.zeros_like(real(self.centre))

    @property
    def support(self):
        return self.mean - jnp.inf, self.mean + jnp.inf

    def bracket(self):
        return self.mean - 40 * self.sigma, self.mean + 40 * self.sigma

    @classmethod
    def fit(cls, levels: Float[ArrayLike, "R ..."]) -> Fit:
        """Maximum-likelihood centre and σ, the fit of arXiv:2407.16427, of all levels pooled.

        The error takes the entries of the first axis for independent: pairs as [R, 2], because the two levels of one
        pair are not; levels as [R] only when each comes from a run of its own.
        """
        rows = observations("levels", levels)
        scale = jnp.stack([rows.mean(), rows.std() / 1.5**0.5])
        return maximum_likelihood(_pair_density, jnp.zeros(2, rows.dtype), rows, ("centre", "sigma"), (scale,))


@record
class GeneralisedSemicircle(Law):
    """One level of several well separated multiplets, ρ = Σ_a n_a ρ_{n_a}/N (arXiv:2412.20496).

    ρ_n is the exact density of n levels of a Gaussian orthogonal block (variance v = σ²/2 off the diagonal, 2v = σ² on
    it): a Gaussian of width σ for n = 1, the pair density for n = 2, towards the semicircle of R = σ√(2n) as n grows.

    Args:
        centres: centres of the multiplets, [a].
        sizes: n_a, [a]; whole numbers, known when compiled.
        sigma: σ > 0, for all or for each [a].

    Raises:
        InputError: a bad argument.

        GeneralisedSemicircle(centres=[1.0, 4.0], sizes=(1, 3), sigma=0.2).pdf(x)
    """

    centres: Any
    sizes: tuple[int, ...] = static()
    sigma: Any

    def __post_init__(self):
        sizes = tuple(int(n) for n in np.ravel(self.sizes))
        require(sizes and min(sizes) >= 1 and np.all(np.ravel(self.sizes) == sizes), "sizes", self.sizes, "whole n ≥ 1")
        object.__setattr__(self, "sizes", sizes)
        for name, checked in (("centres", check_finite), ("sigma", check_positive)):
            value = real(getattr(self, name))
            checked(**{name: value})
            require(value.shape in [(len(sizes),), () if name == "sigma" else None], name, value, "one for each size")
            object.__setattr__(self, name, value)

    def pdf(self, x):  # pyright: ignore[reportIncompatibleMethodOverride]
        return sum(w * multiplet(n).pdf((real(x) - c) / s) / s for n, w, c, s in self._parts())

    def cdf(self, x):  # pyright: ignore[reportIncompatibleMethodOverride]
        return sum(w * multiplet(n).cdf((real(x) - c) / s) for n, w, c, s in self._parts())

    @property
    def mean(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return sum(w * c for _, w, c, _ in self._parts())

    @property
    def variance(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        mean = self.mean
        return sum(w * ((c - mean) ** 2 + s**2 * (n + 1) / 2) for n, w, c, s in self._parts())

    @property
    def support(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.mean - jnp.inf, self.mean + jnp.inf

    def bracket(self):
        ends = [(c - s * multiplet(n).end, c + s * multiplet(n).end) for n, _, c, s in self._parts()]
        low, high = (jnp.stack(side) for side in zip(*ends, strict=True))
        return low.min(), high.max()

    def _parts(self):
        """(size, weight, centre, width) of every multiplet."""
        widths = jnp.broadcast_to(self.sigma, (len(self.sizes),))
        for i, n in enumerate(self.sizes):
            yield n, n / sum(self.sizes), self.centres[i], widths[i]


def _spectra(levels):
    """Rows of whole spectra and the number of levels in each."""
    rows = real(levels)
    require(rows.ndim >= 1 and rows.size, "levels", rows.shape, "at least one spectrum")
    check_finite(levels=rows)
    rows = rows.reshape(-1, rows.shape[-1])
    return rows, rows.shape[-1]


def _pair_density(theta, scale):
    return PairDensity(scale[0] + scale[1] * theta[0], scale[1] * jnp.exp(theta[1]))
