"""Phases and boundaries of a phase diagram: what its order parameters say at every point of the grid.

Three phases, each told by its own order parameter at the end of the run: paramagnetic where the levels of W Wᵀ have
left the scale of start and teacher, jammed where the soft spins remember their start, ordered otherwise.
"""

import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from dysonjax.spectra.resampling import jackknife_error, left_out

PHASES = ("ordered", "jammed", "paramagnetic", "diverged")

JAMMED_MEMORY = 0.2737
"""⟨tanh² z⟩ at σ_z² = 1/2: the spins' self-overlap where their density turns bimodal, the jamming transition."""
JAMMING_WIDTH = 1 / math.sqrt(2)
"""The initial width at which the jamming line is drawn: 1/σ_W = √2."""
BLOWN_UP = 10.0
"""Levels have blown up when their mean gap is this many times the larger of the initial and the teacher's."""
CONTOURS = (0.68, 0.95, 0.997)
"""Fractions of learnable networks at which the Langevin boundary is drawn."""

VALUES = ("train_loss", "test_loss", "test_error", "gradient_norm", "memory", "alignment")


def experiment(ds: xr.Dataset) -> dict[str, Any]:
    """What was run, as stored in the dataset's attributes."""
    return json.loads(ds.attrs["experiment"])


def mean_gap(ds: xr.Dataset) -> xr.DataArray:
    """Mean distance of neighbouring levels of W Wᵀ, at every snapshot."""
    return (ds.levels.isel(level=0) - ds.levels.isel(level=-1)) / (ds.sizes["level"] - 1)


def initial_gap(ds: xr.Dataset, width: xr.DataArray | float) -> Any:
    """Marchenko–Pastur mean gap 4σ_W²/(√r (K − 1)) of a fresh W Wᵀ, W [K, L] with entries N(0, σ_W²/L), r = L/K."""
    fan_in, fan_out = experiment(ds)["widths"][-3:-1]
    return 4 * width**2 / (math.sqrt(fan_in / fan_out) * (ds.sizes["level"] - 1))


def learnable(ds: xr.Dataset, repulsion: str = "repulsion_published", snapshot: int = -1) -> xr.DataArray:
    """Which networks the Langevin criterion K_t/(√r (K−1)) ≥ T V_t/(4σ_W²) calls learnable, with W of a snapshot."""
    at = ds.isel(snapshot=snapshot)
    return at.drift * initial_gap(ds, ds.init_width) >= ds.learning_rate / ds.batch_size * at[repulsion]


def summary(ds: xr.Dataset) -> xr.Dataset:
    """Per grid point, at the end and over seeds: medians with 16/84 percentiles (axis `quantile`), phase, boundaries.

    `separation` Λ = (1/epochs) ⟨ln(mean gap(t_f)/mean gap(0))⟩; `blow_up`, the mean gap over the larger of the
    initial and the teacher's; `initial_loss` and `largest_level`, medians; `phase`, an index into `PHASES`;
    `learnable`, the fraction of networks that the Langevin criterion calls so. For each initial width and batch size,
    with jackknife standard errors over seeds: `critical_temperature`, where that fraction falls below 0.68, and
    `level_temperature`, where the levels blow up. NaN below the grid, infinite above it. `_exact` marks the criterion
    with the repulsion of Dyson's equation instead of the published one.
    """
    ds = ds.drop_vars("step")
    lost = ds.diverged_step >= 0
    end = ds.isel(snapshot=-1)
    gap = mean_gap(ds)
    grown = (gap.isel(snapshot=-1) / initial_gap(ds, np.maximum(ds.init_width, 1.0))).where(~lost, np.inf)
    epochs = experiment(ds)["steps"] / experiment(ds)["batches"]

    with warnings.catch_warnings():  # where no seed has a number, as the alignment of dead units, there is none
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        out = end[list(VALUES)].where(~lost, np.inf).quantile([0.16, 0.5, 0.84], dim="seed", method="nearest")
    growth = xr.DataArray(np.log(gap.isel(snapshot=-1) / gap.isel(snapshot=0)))
    out["separation"] = growth.mean("seed") / epochs
    out["blow_up"] = grown.median("seed")
    out["initial_loss"] = ds.train_loss.isel(snapshot=0).median("seed")
    out["largest_level"] = end.levels.isel(level=0).median("seed")
    out["diverged"] = lost.sum("seed")
    memory = out.memory.sel(quantile=0.5, drop=True)
    out["phase"] = xr.where(
        out.diverged * 2 > ds.sizes["seed"], 3, xr.where(out.blow_up > BLOWN_UP, 2, 1 * (memory > JAMMED_MEMORY))
    )

    decades = np.log10(grown.clip(1e-30, 1e30))
    out["level_temperature"], out["level_temperature_error"] = _with_jackknife(
        decades, lambda d: _falls_below(-d.median("seed"), -math.log10(BLOWN_UP))
    )
    for suffix in ("", "_exact"):
        fraction = learnable(ds, "repulsion" if suffix else "repulsion_published").astype(float)
        out[f"learnable{suffix}"] = fraction.mean("seed")
        out[f"critical_temperature{suffix}"], out[f"critical_temperature{suffix}_error"] = _with_jackknife(
            fraction, lambda f: _falls_below(f.mean("seed"), CONTOURS[0])
        )
    return out


def _falls_below(value: xr.DataArray, level: float) -> xr.DataArray:
    """The temperature at which `value` falls below `level`, log-interpolated, for each initial width and batch size.

    The crossing that misplaces least: noise may cross several times. NaN when it is below everywhere, infinite when
    nowhere.
    """
    ordered = value.sortby("learning_rate")
    rate = ordered.learning_rate.values

    def one(v: np.ndarray) -> float:
        cut = int(np.argmax(np.concatenate([[0.0], np.cumsum(v - level)])))
        if cut in (0, len(v)):
            return math.nan if cut == 0 else math.inf
        share = (v[cut - 1] - level) / (v[cut - 1] - v[cut])
        return float(rate[cut - 1] * (rate[cut] / rate[cut - 1]) ** share)

    return xr.apply_ufunc(one, ordered, input_core_dims=[["learning_rate"]], vectorize=True) / value.batch_size


def _with_jackknife(
    samples: xr.DataArray, estimate: Callable[[xr.DataArray], xr.DataArray]
) -> tuple[xr.DataArray, xr.DataArray]:
    """An estimate over seeds and its delete-one jackknife standard error (NaN for a single seed)."""
    found = estimate(samples)
    seeds = np.arange(samples.sizes["seed"])
    if len(seeds) == 1:
        return found, found * math.nan
    without = left_out(lambda kept: estimate(samples.isel(seed=kept)).transpose(*found.dims), seeds)
    return found, found.copy(data=jackknife_error(np.where(np.isfinite(without), without, math.nan)))
