"""What the spectra of a gas say at each temperature, beside exact levels of as many."""

from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr

from dysonjax import spectra
from dysonjax.experiments.gas.experiment import GasRun
from dysonjax.spectra import Estimate

BULK = 0.7
"""Share of the levels, around the middle, whose spacings are compared with the laws of the bulk."""
ENOUGH = 2**14
"""Replicas for the fit of β and for the curves Σ² and Δ₃, which cost most, for errors far below 1 %."""
FEWEST = 8
"""Replicas that the fit of β needs at least: an unfolded spacing is no smaller than one over their number."""
LIKE_ALL = 64
"""Levels, and from `MANY` replicas on, beyond which the fit's bias stays the same to within 1 %."""
MANY = 256
RATIOS = {1.0: 0.5307, 2.0: 0.5996, 4.0: 0.6744}
"""⟨r⟩ of large random matrices (Atas, Bogomolny, Giraud and Roux 2013)."""


class Statistics(NamedTuple):
    """Of one temperature in its last snapshot, mean ± standard error over replicas."""

    temperature: float
    levels: np.ndarray
    """[R, n], largest first; replicas that diverged are left out."""
    diverged: int
    ratio: Estimate
    beta: Estimate | None
    """Of the unfolded spacings of the bulk, see `calibrated_beta`; None with fewer than 100 of them."""
    spacings: np.ndarray
    """Unfolded, of the bulk, [R, m]."""
    lengths: np.ndarray
    number_variance: Estimate
    rigidity: Estimate
    balance: Estimate
    violations: int
    unconverged: int
    smallest_gap: float


def statistics(run: GasRun, ds: xr.Dataset) -> list[Statistics]:
    """The last snapshot of each temperature of a finished run."""
    return [_of_temperature(run, ds.sel(temperature=t).isel(dt=0), float(t)) for t in ds.temperature.values]


def _of_temperature(run: GasRun, ds: xr.Dataset, temperature: float) -> Statistics:
    alive = ds.diverged_step.values < 0
    x = ds.levels.isel(snapshot=-1).values[alive].astype(float)
    unfolded = unfold(x)
    n = x.shape[1]
    edge = _edge(n)
    spacings = bulk_spacings(unfolded)
    some = jnp.asarray(unfolded[:ENOUGH])
    span = (edge, n - edge) if n > 1 else (0.0, 1.0)
    lengths = np.linspace(0.25, min(8.0, (span[1] - span[0]) / 2), 24)
    last, nothing = ds.isel(snapshot=-1), Estimate(np.nan, np.nan, len(x))
    return Statistics(
        temperature, x, int((~alive).sum()),
        spectra.estimate(spectra.spacing_ratios(jnp.asarray(x[:, edge : n - edge]))) if n - 2 * edge > 2 else nothing,
        calibrated_beta(run, spacings[:ENOUGH]) if spacings.size >= 100 and len(x) >= FEWEST else None,
        spacings, lengths,
        spectra.curve(spectra.number_variance(some, lengths, span)),
        spectra.curve(spectra.rigidity(some, lengths, span)),
        spectra.estimate(jnp.asarray(last.balance.values[alive])),
        int(last.order_violations.values.sum()), int(last.unconverged.values.sum()), float(ds.smallest_gap.min()),
    )  # fmt: skip


def unfold(x: np.ndarray) -> np.ndarray:
    """Levels [R, n] at unit mean spacing: n times the distribution function of all replicas' levels together.

    An ensemble knows its own mean density, so that no smooth curve has to be fitted.
    """
    pooled = np.sort(x.ravel())
    rank = np.arange(1, pooled.size + 1) - 0.5
    return np.interp(x, pooled, rank / len(x))


def bulk_spacings(unfolded: np.ndarray) -> np.ndarray:
    """Spacings [R, m] of the bulk of unfolded levels [R, n]."""
    n = unfolded.shape[1]
    return -np.diff(unfolded[:, _edge(n) : n - _edge(n)], axis=1)


def _edge(n: int) -> int:
    """Levels left out at each end."""
    return int(np.ceil((1 - BULK) / 2 * n)) if n > 4 else 0


def calibrated_beta(run: GasRun, spacings: np.ndarray) -> Estimate:
    """β of a gas from its unfolded spacings [R, m]: β times what is fitted over what exact levels of this β give.

    The surmise is exact for two levels alone, and the unfolding by an ensemble follows its replicas: an exact gas with
    β = 1 gives 1.33 with 2 levels and 0.94 with 32. The exact levels are those of a quadratic potential, as many levels
    and replicas as the gas has, up to `LIKE_ALL` and `MANY`. The error holds that of the reference.
    """
    n, rows = min(run.levels, LIKE_ALL), run.rows or run.levels
    long = None if run.geometry == "symmetric" else round(rows * n / run.levels)
    fitted = spectra.fit_beta(spacings)
    reference = _reference(n, long, run.beta, 2 ** int(np.log2(min(len(spacings), MANY))))
    scale = run.beta / reference.value
    error = np.hypot(fitted.error, fitted.value / reference.value * reference.error)
    return Estimate(scale * fitted.value, scale * float(error), fitted.count)


@lru_cache(maxsize=64)
def _reference(n: int, rows: int | None, beta: float, replicas: int) -> Estimate:
    """The fit to exact levels, mean over some sets of replicas."""
    sets = int(np.clip(2**17 // (n * replicas), 8, 64))
    x = _exact_levels(n, rows, beta, sets * replicas).reshape(sets, replicas, n)
    fits = [spectra.fit_beta(bulk_spacings(unfold(one))) for one in x]
    values, errors = np.array([[fit.value, fit.error] for fit in fits]).T
    return Estimate(float(values.mean()), float(np.linalg.norm(errors)) / sets, sets)


def _exact_levels(n: int, rows: int | None, beta: float, count: int) -> np.ndarray:
    """Exact levels [count, n], largest first; of matrices with `rows` singular values.

    The matrices of `ensembles.beta`, here with NumPy and LAPACK: compiling those takes longer than all of a report.
    """
    from scipy.linalg import eigvalsh_tridiagonal

    random = np.random.default_rng(0)
    if rows is None:
        diagonal = random.normal(size=(count, n))
        off = np.sqrt(random.chisquare(beta * np.arange(n - 1, 0, -1), (count, n - 1)) / 2)
    else:  # ± singular values of a bidiagonal matrix (Golub and Kahan 1965)
        freedom = np.zeros(2 * n - 1)
        freedom[::2], freedom[1::2] = rows - np.arange(n), np.arange(n - 1, 0, -1)
        diagonal, off = np.zeros((count, 2 * n)), np.sqrt(random.chisquare(beta * freedom, (count, 2 * n - 1)))
    pairs = zip(diagonal, off, strict=True)
    return np.stack([eigvalsh_tridiagonal(d, e, lapack_driver="sterf")[: -n - 1 : -1] for d, e in pairs])
