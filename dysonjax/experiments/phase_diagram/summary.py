"""Phases and boundaries of a phase diagram: what its order parameters say at every point of the grid.

Three phases, each told by its own order parameter at the end of the run: paramagnetic where the levels of W Wᵀ have
left the scale of start and teacher, jammed where the soft spins remember their start, ordered otherwise.
"""

import json
import math
import warnings
from typing import Any

import numpy as np
import xarray as xr

from dysonjax.experiments.phase_diagram.intervals import learning_temperature, with_interval

PHASES = ("ordered", "jammed", "paramagnetic", "diverged")

JAMMED_MEMORY = 0.2737
"""⟨tanh² z⟩ at σ_z² = 1/2: the spins' self-overlap where their density turns bimodal, the jamming transition."""
JAMMING_WIDTH = 1 / math.sqrt(2)
"""The initial width at which the jamming line is drawn: 1/σ_W = √2."""
BLOWN_UP = 10.0
"""Levels have blown up when their mean gap is this many times the larger of the initial and the teacher's."""
CONTOURS = (0.68, 0.95, 0.997)
"""Fractions of learnable networks at which the Langevin boundary is drawn."""
LEARNT = 0.01
"""A network learns, and a point by its median, when the training loss ends below this fraction of its start."""

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
    `learnable`, the fraction of networks that the Langevin criterion calls so, `learnable_exact` with the repulsion of
    Dyson's equation instead of the published one. For each initial width and batch size, the `temperatures`.
    """
    ds = ds.drop_vars("step")
    lost = ds.diverged_step >= 0
    end = ds.isel(snapshot=-1)
    gap = mean_gap(ds)
    epochs = experiment(ds)["steps"] / experiment(ds)["batches"]

    with warnings.catch_warnings():  # where no seed has a number, as the alignment of dead units, there is none
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        out = end[list(VALUES)].where(~lost, np.inf).quantile([0.16, 0.5, 0.84], dim="seed", method="nearest")
    growth = xr.DataArray(np.log(gap.isel(snapshot=-1) / gap.isel(snapshot=0)))
    out["separation"] = growth.mean("seed") / epochs
    out["blow_up"] = _grown(ds).median("seed")
    out["initial_loss"] = ds.train_loss.isel(snapshot=0).median("seed")
    out["largest_level"] = end.levels.isel(level=0).median("seed")
    out["diverged"] = lost.sum("seed")
    memory = out.memory.sel(quantile=0.5, drop=True)
    out["phase"] = xr.where(
        out.diverged * 2 > ds.sizes["seed"], 3, xr.where(out.blow_up > BLOWN_UP, 2, 1 * (memory > JAMMED_MEMORY))
    )

    for suffix in ("", "_exact"):
        out[f"learnable{suffix}"] = _learnable(ds, suffix).mean("seed")
    return out.assign(temperatures(ds))


def temperatures(ds: xr.Dataset) -> xr.Dataset:
    """Critical temperatures T = α/|B| over initial width and batch size, with 95 % intervals `_low` … `_high`.

    `level_temperature`, where the levels blow up; `critical_temperature`, where the fraction of networks that the
    Langevin criterion calls learnable falls below 0.68, and `critical_temperature_exact`, the same in the eigenbasis;
    `learning_temperature`, where P(learns) falls through one half (NaN where it is below everywhere). The first three
    are NaN below the grid and infinite above it.
    """
    ds = ds.drop_vars("step", errors="ignore")
    decades = xr.DataArray(np.log10(_grown(ds).clip(1e-30, 1e30)))
    level = -math.log10(BLOWN_UP)
    found = with_interval("level_temperature", decades, lambda d: _falls_below(-d.median("seed"), level))
    for suffix in ("", "_exact"):
        found |= with_interval(
            f"critical_temperature{suffix}", _learnable(ds, suffix), lambda f: _falls_below(f.mean("seed"), CONTOURS[0])
        )
    loss = ds.train_loss
    learned = (loss.isel(snapshot=-1) < LEARNT * loss.isel(snapshot=0)) & (ds.diverged_step < 0)
    return xr.Dataset(found | learning_temperature(learned, bool(experiment(ds).get("paired", False))))


def _grown(ds: xr.Dataset) -> xr.DataArray:
    """The mean gap at the end over the larger of the initial and the teacher's; infinite where a network diverged."""
    grown = mean_gap(ds).isel(snapshot=-1) / initial_gap(ds, np.maximum(ds.init_width, 1.0))
    return grown.where(ds.diverged_step < 0, np.inf)


def _learnable(ds: xr.Dataset, suffix: str) -> xr.DataArray:
    return learnable(ds, "repulsion" if suffix else "repulsion_published").astype(float)


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
