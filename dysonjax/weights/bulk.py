"""The bulk of one weight matrix: Marchenko and Pastur's law beside outliers, and the spacings of the levels under it.

W is K × L, K ≤ L (transposed where it must be), its levels x are the K eigenvalues of W Wᵀ. A matrix of k strong
signals and independent entries of variance s² = σ²/L has k outliers, and the others are, to leading order, the levels
of a (K − k) × (L − k) matrix of such entries: the noise beside the signals' k left and k right singular vectors.

p-values are calibrated by simulation of such matrices with normal entries (`python -m benchmarks.analyze --calibrate`),
because levels repel each other: Kolmogorov's test, made for independent numbers, would let almost anything pass.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float
from scipy.special import gammaincc, ndtr

from dysonjax import laws, spectra
from dysonjax.core.errors import require
from dysonjax.spectra import Estimate
from dysonjax.spectra.estimates import ks_of_rows
from dysonjax.spectra.spacings import mean_ratio

LEAST = 8
"""Levels that a bulk needs to be fitted or tested."""
ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Singular values below this share of the largest are rounding of the weights, and count as zero."""
DROP = 0.1
"""Share of the unfolded levels left out at each end, where a fitted staircase is worst."""
DEGREE = 7
"""Degree of the staircase's polynomial in √x; less where there are fewer than eight levels for each."""
ANGLES = np.linspace(0, np.pi, 4097)

OCTAVES = np.arange(3, 13)
"""log₂ of the numbers K of levels, 8 … 4096, for which the nulls below were simulated, at ratios K/L from 0.01 to 1."""
DISTANCE_MEAN = np.array([1.241, 1.502, 1.774, 2.040, 2.319, 2.594, 2.877, 3.164, 3.441, 3.769])
"""Mean of K times the distance of K levels from their fitted law; it grows by 0.4 ln K, whatever the ratio."""
DISTANCE_SPREAD = np.array([0.244, 0.266, 0.287, 0.301, 0.308, 0.317, 0.328, 0.332, 0.335, 0.340])
DISTANCE_SKEWNESS = 0.68
SURMISE_MEAN = np.array([-0.522, -0.488, -0.460, -0.440, -0.427, -0.405, -0.393, -0.358, -0.314, -0.222])
"""Mean of ln(√m × distance of m unfolded spacings from the surmise): large spectra see that it is not quite exact."""
SURMISE_SPREAD = 0.245
RATIO_SPREAD = 1.22 * 0.2537
"""Spread of ⟨r⟩ over random matrices times √number: neighbours are correlated, and it is 1.22 times that of one r."""


class Bulk(NamedTuple):
    """What `fit_bulk` finds; NaN where there is no bulk to speak of."""

    variance: Estimate
    """σ² = L s² of the entries of W beside the signals; its error takes them for independent."""
    edges: tuple[float, float]
    """x∓ of the fitted law."""
    threshold: float
    """The level that the largest one of pure noise exceeds with the probability asked for."""
    p_values: Float[np.ndarray, " k"]
    """Of the k outliers, largest first: the chance that the largest level of pure noise is above."""
    p_largest: float
    """That of the largest level, outlier or not."""
    ks: float
    """Kolmogorov and Smirnov's distance of the other levels from the law, σ² that of their own mean."""
    ks_p: float
    """Chance that a random matrix with normal entries, fitted in the same way, is as far from its law."""

    @property
    def outliers(self) -> int:
        """How many levels stand above the bulk."""
        return len(self.p_values)


class Spacings(NamedTuple):
    """What `bulk_spacings` finds."""

    mean_ratio: Estimate
    """⟨r⟩ of neighbouring gaps of √x, ± its spread from one random matrix to another."""
    ks: float
    """Distance of the unfolded spacings from Wigner's surmise (β = 1)."""
    ks_reference: float
    """Mean of that distance for random matrices with as many levels: no real spectrum is closer."""
    ks_p: float
    """Chance that a random matrix of as many levels is as far from the surmise."""


def fit_bulk(levels: Float[ArrayLike, " K"], shape: tuple[int, int], level: float = 0.01) -> Bulk:
    """Marchenko and Pastur's law of the levels that are not outliers, and the outliers with their p-values.

    σ²/L = s² = Σ x/((K − k)(L − k)) over the K − k levels that are no outliers, ± s² √(2/((K − k)(L − k))), with what a
    signal B takes out of the bulk, q σ⁴/B (Kritchman and Nadler, Chemom. Intell. Lab. Syst. 94, 19 (2008)). An outlier
    is a level that the largest one of (K − k) × (L − k) noise exceeds with a probability below `level` (Tracy and
    Widom's law, β = 1; Johnstone, Ann. Stat. 29, 295 (2001)). The two are solved together, from the σ² of the median
    level on, which spikes do not move. Where half of the levels become outliers there is no bulk of noise, σ² is that
    of the whole trace, and the law will not be followed. NaN and no outliers for fewer than `LEAST` levels, or where
    half of them are zero. `levels` in any order, `shape` of W. Raises `InputError`.

        fit_bulk(spectra.levels(w), w.shape).variance.value
    """
    x = np.sort(np.asarray(levels, float))[::-1]
    short, long = min(shape), max(shape)
    require(x.ndim == 1 and len(x) == short, "levels", x.shape, f"{short} levels of a matrix {shape}")
    require(np.all(np.isfinite(x)) and np.all(x >= 0), "levels", x, "finite numbers that are not negative")
    require(0 < level < 1, "level", level, "a probability in (0, 1)")
    nothing = Bulk(Estimate(np.nan, np.nan, 0), (np.nan, np.nan), np.nan, np.zeros(0), np.nan, np.nan, np.nan)
    if short < LEAST or rank(x) <= short // 2:
        return nothing
    entry, count, seen = float(np.median(x)) / long / _median(short / long), 0, set()
    quantile = _tracy_widom_quantile(level)
    while count not in seen:  # ends: fewer outliers leave a wider bulk and so never add one
        seen.add(count)
        count = int(np.sum(x > _threshold((short - count, long - count), entry, quantile)))
        if count > short // 2 or short - count < LEAST:
            # no bulk of noise: the law of the whole trace, from which everything differs
            entry = float(np.sum(x)) / (short * long)
            count = int(np.sum(x > _threshold(shape, entry, quantile)))
            break
        entry = _entry_variance(x, count, long)
    inner = (short - count, long - count)
    p = _p_values(x[: max(count, 1)], inner, entry)
    law = laws.MarchenkoPastur(inner[0] / inner[1], entry * inner[1])
    # what signals take out of the bulk it lacks as a whole: its shape is that of the law of its own mean
    ks = bulk_distance(x[count:], inner, float(np.sum(x[count:])) / (inner[0] * inner[1]))
    return Bulk(
        variance=Estimate(entry * long, entry * long * np.sqrt(2 / (inner[0] * inner[1])), inner[0]),
        edges=(float(law.support[0]), float(law.support[1])),
        threshold=_threshold(inner, entry, quantile),
        p_values=p[:count],
        p_largest=float(p[0]),
        ks=ks,
        ks_p=_distance_p(ks, inner[0]),
    )


def bulk_spacings(levels: Float[ArrayLike, " n"]) -> Spacings:
    """Do neighbouring levels of a bulk [n] repel each other as those of a random matrix, β = 1?

    Of √x, the singular values, whose density has no pole where K = L: ⟨r⟩ (no unfolding), and the distance of
    spacings, unfolded by a polynomial staircase, `DROP` left out at each end, scaled to unit mean, from Wigner's
    surmise, beside what random matrices of the same n give, treated alike. NaN for fewer than `LEAST` levels, and for
    equal ones. `levels` in any order, without outliers. Raises `InputError`.
    """
    x = np.sort(np.asarray(levels, float))
    require(x.ndim == 1 and np.all(np.isfinite(x)) and np.all(x >= 0), "levels", x, "finite numbers, none negative")
    n, spacing = len(x), unfolded_spacings(x)
    if not len(spacing):
        return Spacings(Estimate(np.nan, np.nan, n), np.nan, np.nan, np.nan)
    ks = surmise_distance(spacing)
    centre, root = _of_size(SURMISE_MEAN, n), np.sqrt(len(spacing))
    return Spacings(
        mean_ratio=Estimate(float(mean_ratio(np.sqrt(x))), RATIO_SPREAD * (1 + 1 / n) / np.sqrt(n - 2), n),
        ks=ks,
        ks_reference=float(np.exp(centre + SURMISE_SPREAD**2 / 2) / root),
        ks_p=float(ndtr((centre - np.log(ks * root)) / SURMISE_SPREAD)),
    )


def unfolded_spacings(levels: Float[ArrayLike, " n"]) -> Float[np.ndarray, " m"]:
    """Spacings, of unit mean, of √x unfolded by a polynomial staircase, `DROP` of the levels left out at each end.

    None for fewer than `LEAST` levels, and for equal ones.
    """
    values = np.sqrt(np.sort(np.asarray(levels, float)))
    n = len(values)
    if n < LEAST or not np.all(np.diff(values) > 0):
        return np.zeros(0)
    edge = int(np.ceil(DROP * n))
    unfolded = np.asarray(spectra.by_polynomial(values, int(np.clip(n // 8, 1, DEGREE))), float)
    spacing = np.diff(unfolded[edge : n - edge])
    return spacing / spacing.mean()


def surmise_distance(spacings: Float[np.ndarray, " m"]) -> float:
    """Kolmogorov and Smirnov's distance of spacings of unit mean from Wigner's surmise, β = 1."""
    return _ks(spacings, lambda s: -np.expm1(-np.pi / 4 * s * np.abs(s)))


def rank(levels: Float[np.ndarray, " K"]) -> int:
    """Number of levels that are not zero to within the rounding of float32 weights."""
    return int(np.sum(levels > ROUNDING**2 * np.max(levels, initial=0)))


def bulk_distance(levels: Float[ArrayLike, " K"], shape: tuple[int, int], entry: float) -> float:
    """sup |F_K − F| between all the levels and Marchenko and Pastur's law for W of `shape`, entries of variance s²."""
    q = min(shape) / max(shape)
    cosine = ((1 + q) - np.asarray(levels, float) / (entry * max(shape))) / (2 * np.sqrt(q))
    return _ks(np.arccos(np.clip(cosine, -1, 1)), lambda angle: np.interp(angle, ANGLES, _law(q)))


@lru_cache(maxsize=256)
def _law(q: float) -> np.ndarray:
    """Distribution function of Marchenko and Pastur's law on the grid of φ, x = σ²(1 + q − 2√q cos φ)."""
    law = laws.MarchenkoPastur(np.float32(q), np.float32(1))
    x = 1 + q - 2 * np.sqrt(q) * np.cos(ANGLES)
    return np.asarray(_cdf(law, jnp.asarray(x)), float)


_cdf = jax.jit(lambda law, x: law.cdf(x))


def _median(q: float) -> float:
    """Of Marchenko and Pastur's law for σ² = 1."""
    return 1 + q - 2 * np.sqrt(q) * np.cos(np.interp(0.5, _law(q), ANGLES))


def _ks(samples: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray]) -> float:
    return float(ks_of_rows(cdf(np.sort(samples))))


def _of_size(table: np.ndarray, n: int) -> float:
    """A number of the simulated nulls for n levels, linear in ln n, beyond the last octave too."""
    at = np.clip(np.log2(n) - OCTAVES[0], 0, None)
    first = min(int(at), len(table) - 2)
    return float(table[first] + (at - first) * (table[first + 1] - table[first]))


def _distance_p(ks: float, n: int) -> float:
    """Chance of such a distance: n times it is a shifted gamma number of the simulated mean, spread and skewness."""
    z = (n * ks - _of_size(DISTANCE_MEAN, n)) / _of_size(DISTANCE_SPREAD, n)
    shape = 4 / DISTANCE_SKEWNESS**2
    return float(gammaincc(shape, max(shape + np.sqrt(shape) * z, 0)))


def _entry_variance(x: np.ndarray, count: int, long: int) -> float:
    """s² of the entries when the first `count` levels are outliers."""
    short, inner = len(x), (len(x) - count) * (long - count)
    entry, q = float(np.sum(x[count:])) / inner, short / long
    for _ in range(3 if count else 0):
        # an outlier x = (B + q σ²)(B + σ²)/B: B and q σ⁴/B are the roots of b² − (x − σ² − q σ²) b + q σ⁴
        variance = entry * long
        sums = np.maximum(x[:count] - (1 + q) * variance, 2 * np.sqrt(q) * variance)
        taken = 2 * q * variance**2 / (sums + np.sqrt(sums**2 - 4 * q * variance**2))
        entry = float(np.sum(x[count:]) + np.sum(taken)) / inner
    return entry


@lru_cache(maxsize=16)
def _tracy_widom_quantile(level: float) -> float:
    return float(laws.TracyWidom(beta=1).ppf(1 - level))


def _scaling(shape: tuple[int, int]) -> tuple[float, float]:
    """Centre and scale of the largest level of noise of unit variance; as `spectra.tracy_widom_p_values` has them."""
    a, b = np.sqrt(shape[0] - 0.5), np.sqrt(shape[1] - 0.5)
    return (a + b) ** 2, (a + b) * (1 / a + 1 / b) ** (1 / 3)


def _threshold(shape: tuple[int, int], entry: float, quantile: float) -> float:
    centre, scale = _scaling(shape)
    return entry * (centre + scale * quantile)


def _p_values(x: Float[np.ndarray, " k"], shape: tuple[int, int], entry: float) -> Float[np.ndarray, " k"]:
    """As `spectra.tracy_widom_p_values`, in arrays of few lengths: each is a program."""
    centre, scale = _scaling(shape)
    standard = np.pad((x / entry - centre) / scale, (0, -len(x) % 64))
    return np.asarray(_above(jnp.asarray(standard)), float)[: len(x)]


_above = jax.jit(lambda x: laws.TracyWidom(beta=1).sf(x))
