"""How batch size trades against learning rate in the spectra of a grid of GPTs; see `grid`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import xarray as xr
from jaxtyping import Float
from scipy.special import chdtrc

from dysonjax.core.errors import require
from dysonjax.core.tables import Table
from dysonjax.experiments.gpt.grid import GPTScalingRun
from dysonjax.experiments.tables import plain_table
from dysonjax.models.gpt import KINDS
from dysonjax.spectra import Estimate
from dysonjax.spectra.resampling import jackknife_error, left_out

EXPONENTS = {"p = 1": 1.0, "p = ½": 0.5, "p = 0": 0.0}
"""The rules α ∝ |B|^p that are tested: linear, square root, and no exchange."""
STATISTICS = ("norm", "largest")
"""ln ‖W‖²/‖W₀‖² and ln of the largest level over that at the start, means over layers."""


def joined_along(parts: list[xr.Dataset], axis: str) -> xr.Dataset:
    """Scans side by side along an axis."""
    return xr.concat(parts, axis, coords="minimal", compat="override", join="exact")  # type: ignore[return-value]


def adamw(rate: Any) -> optax.GradientTransformation:
    """AdamW of the public nanoGPT recipe, weight decay on matrices only."""
    matrices = lambda params: jax.tree.map(lambda w: w.ndim > 1, params)  # noqa: E731
    return optax.adamw(rate, b1=0.9, b2=0.99, weight_decay=0.1, mask=matrices)


class Exchange(NamedTuple):
    """How the batch size trades against the learning rate in one statistic of one kind of matrix."""

    kind: str
    statistic: str
    values: Estimate
    """[learning_rate, batch_size], mean over layers and seeds."""
    exponent: Estimate
    """p at the centre of the grid, with its jackknife error over seeds."""
    collapse: Mapping[str, tuple[float, float]]
    """χ²/dof of a cubic in ln α − p ln |B| through all settings, and its p-value, for each of `EXPONENTS`."""


def statistic(ds: xr.Dataset, kind: str, name: str) -> Float[np.ndarray, "a b s"]:
    """One of `STATISTICS` of the matrices of one kind, [learning_rate, batch_size, seed]."""
    found = []
    for variable in ds.data_vars:
        if str(variable).startswith("levels_layer") and str(variable).endswith(f".{kind}"):
            x = ds[variable].transpose("learning_rate", "batch_size", "seed", "snapshot", ...).values.astype(float)
            size = x.sum(axis=-1) if name == "norm" else x.max(axis=-1)
            found.append(np.log(size[..., -1] / size[..., 0]))
    return np.mean(found, axis=0)


def exchange(ds: xr.Dataset, kind: str, name: str) -> Exchange:
    """The exchange exponent and the collapses of one statistic."""
    y = statistic(ds, kind, name)
    require(np.isfinite(y).all(), "learning_rates", ds.learning_rate.values, "rates at which no network diverges")
    a, b = np.log(ds.learning_rate.values), np.log(ds.batch_size.values)
    seeds = y.shape[-1]
    mean, error = y.mean(axis=-1), y.std(axis=-1, ddof=1) / np.sqrt(seeds)
    weights = 1 / np.maximum(error, 1e-12)
    spread = jackknife_error(left_out(lambda y: _exponent(a, b, y.mean(axis=-1), weights), y, axis=-1))
    return Exchange(
        kind, name, Estimate(mean, error, seeds), Estimate(_exponent(a, b, mean, weights), float(spread), seeds),
        {label: _collapse(a, b, mean, error, p, seeds) for label, p in EXPONENTS.items()},
    )  # fmt: skip


def _exponent(a: np.ndarray, b: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """p of the quadratic surface through y [a, b], at the centre."""
    u, v = (g.ravel() for g in np.meshgrid(a - a.mean(), b - b.mean(), indexing="ij"))
    basis = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)
    w = weights.ravel()
    found = np.linalg.lstsq(basis * w[:, None], y.ravel() * w, rcond=None)[0]
    return float(-found[2] / found[1])


def _collapse(
    a: np.ndarray, b: np.ndarray, y: np.ndarray, error: np.ndarray, p: float, seeds: int
) -> tuple[float, float]:
    """χ²/dof and p-value of one curve through all settings.

    Errors measured on few seeds make 1/error² too large, by (seeds − 1)/(seeds − 3) on average, which is taken out.
    """
    u = (a[:, None] - p * b).ravel()
    u = u - u.mean()
    degree = min(3, len(np.unique(np.round(u, 9))) - 1)
    w = 1 / np.maximum(error.ravel(), 1e-12)
    fit = np.polynomial.Polynomial.fit(u, y.ravel(), degree, w=w)
    total, dof = float(np.sum(((y.ravel() - fit(u)) * w) ** 2)), u.size - degree - 1
    total *= max(seeds - 3, 1) / (seeds - 1)
    return total / dof, float(chdtrc(dof, total))


def exchanges(ds: xr.Dataset) -> list[Exchange]:
    """Of every kind of attention matrix and statistic."""
    return [exchange(ds, kind, name) for kind in KINDS for name in STATISTICS]


def without_largest(ds: xr.Dataset) -> xr.Dataset | None:
    """The grid without its largest learning rate, where a rule for small ones fails first; None if too few are left."""
    return ds.sortby("learning_rate").isel(learning_rate=slice(-1)) if ds.sizes["learning_rate"] > 3 else None


def exchange_table(run: GPTScalingRun, found: list[Exchange], smaller: list[Exchange]) -> Table:
    """One row for each kind of matrix and statistic; `smaller`: those `without_largest`, if any."""
    rest = smaller or found
    largest = sorted(run.learning_rates)[-2 if smaller else -1]
    table = plain_table(
        f"{run.optimizer}: α ∝ |B|^p at a constant statistic; {len(run.learning_rates)} α × {len(run.batch_sizes)} "
        f"|B|, {run.seeds} seeds, {run.budget}; χ²/dof of one curve through the settings with α ≤ {largest:g}",
        "matrices", "statistic", "range", "p, all α", f"p, α ≤ {largest:g}", *EXPONENTS,
    )  # fmt: skip
    for one, small in zip(found, rest, strict=True):
        name = "ln ‖W‖²/‖W₀‖²" if one.statistic == "norm" else "ln largest/initial"
        low, high = float(one.values.value.min()), float(one.values.value.max())
        told = [f"{value:.1f} (p {chance:.1g})" for value, chance in small.collapse.values()]
        table.add_row(one.kind, name, f"{low:.3f} … {high:.3f}", str(one.exponent), str(small.exponent), *told)
    return table
