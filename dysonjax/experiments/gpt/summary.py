"""What arXiv:2411.13512 follows in a nano-GPT: spectra of key matrices from Marchenko–Pastur's law to a heavy tail.

Matrices of one shape are pooled: those of all layers, [C, C], and those of all heads, [C, C/h]. p-values are those of
random matrices of the same shapes, pooled and treated alike, because levels repel each other and are not independent.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.special import ndtri

from dysonjax import ensembles, laws, spectra
from dysonjax.core.tables import Table
from dysonjax.experiments.tables import plain_table
from dysonjax.spectra import Estimate
from dysonjax.spectra.estimates import ks_of_rows
from dysonjax.spectra.spacings import mean_ratio
from dysonjax.weights.bulk import fit_bulk, surmise_distance, unfolded_spacings
from dysonjax.weights.tail import TailFit, fit_tail

REFERENCES = 400
"""Sets of random matrices behind every p-value, whose smallest is 1/401."""
MIDDLE = 0.1
"""Share of the updates at the middle one of the three times that are shown."""
RANK_P = 0.01
"""Probability that any level of a random matrix is called too large or too small."""
PUBLISHED_LOSS = 1.88
"""Validation loss that the README of nanoGPT reports for its recipe for a CPU."""


class Pool(NamedTuple):
    """Spectra of all matrices of one shape at one time."""

    name: str
    step: int
    levels: Float[np.ndarray, "m k"]
    """Largest first."""
    shape: tuple[int, int]

    @property
    def ratio(self) -> float:
        """q = K/L ≤ 1."""
        return min(self.shape) / max(self.shape)

    @property
    def scaled(self) -> Float[np.ndarray, "m k"]:
        """Levels over the σ² of their own matrix, its mean level."""
        return self.levels / self.levels.mean(axis=1, keepdims=True)

    @property
    def spacings(self) -> Float[np.ndarray, " s"]:
        """Unfolded spacings of the bulks, each of unit mean in its matrix."""
        return np.concatenate([unfolded_spacings(x[fit_bulk(x, self.shape).outliers :]) for x in self.levels])


class Findings(NamedTuple):
    """What one pool says."""

    pool: Pool
    variance: Estimate
    """σ², the mean level, over matrices."""
    law_distance: float
    """Kolmogorov and Smirnov's of all scaled levels from Marchenko and Pastur's law."""
    law_p: float
    """Share of pools of random matrices that are as far from it."""
    initial_p: float
    """The same with σ² that of the initialiser, not of each matrix; NaN where that is not given."""
    outliers: int
    """Levels beyond their matrix' Tracy–Widom threshold (1 %)."""
    ranks: str
    """Which levels, counted from the largest, stand too high or too low, on average over the matrices."""
    spacing_distance: float
    """Of the pooled spacings from Wigner's surmise."""
    spacing_reference: tuple[float, float]
    """Mean of it, and what 5 % exceed, over pools of random matrices with as many levels."""
    spacing_p: float
    spacings: int
    ratio: Estimate
    """⟨r⟩ of the bulks over matrices."""
    tail: TailFit
    """Of all scaled levels together."""


def pools(ds: xr.Dataset, step: int) -> list[Pool]:
    """The pools of a monitor's dataset at a recorded step, those of whole matrices before those of heads."""
    at, found = ds.sel(step=step), {}
    for name in ds.matrix.values:
        one = at.sel(matrix=name)
        shape = (int(one.rows), int(one["columns"]))
        kind = "heads" if "/head" in str(name) else "whole"
        found.setdefault((kind, shape), []).append(one.levels.values[: min(shape)])
    order = sorted(found, key=lambda group: (group[0] == "heads", group[1]))
    return [Pool(f"{kind} {shape[0]}×{shape[1]}", step, np.stack(found[kind, shape]), shape) for kind, shape in order]


def times(ds: xr.Dataset) -> list[int]:
    """The start, the recorded step nearest to a tenth of all, and the last one of finite levels."""
    finite = np.isfinite(ds.levels.values[:, :, 0]).all(axis=1)
    steps = ds.step.values[ds.reached.values & finite]
    middle = steps[np.argmin(np.abs(steps - MIDDLE * steps[-1]))]
    return sorted({int(steps[0]), int(middle), int(steps[-1])})


def findings(pool: Pool, initial: float | None = None, key: int = 0) -> Findings:
    """What a pool says; `initial`: standard deviation of an entry at initialisation."""
    scaled, reference = pool.scaled, _references(pool.shape, len(pool.levels))
    law = laws.MarchenkoPastur(ratio=pool.ratio, variance=1.0)
    distance = spectra.ks_distance(scaled, law.cdf)
    initial_p = np.nan
    if initial is not None:
        found = spectra.ks_distance(pool.levels / (initial**2 * max(pool.shape)), law.cdf)
        initial_p = _share(reference.initial, found)
    spacings = pool.spacings
    spacing = surmise_distance(spacings) if len(spacings) else np.nan
    expected = reference.spacing * np.sqrt(reference.count / max(len(spacings), 1))
    ratios = [float(mean_ratio(np.sqrt(x[fit_bulk(x, pool.shape).outliers :]))) for x in pool.levels]
    several = len(pool.levels) > 1
    return Findings(
        pool=pool,
        variance=spectra.estimate(pool.levels) if several else Estimate(float(pool.levels.mean()), np.nan, 1),
        law_distance=distance,
        law_p=_share(reference.own, distance),
        initial_p=initial_p,
        outliers=sum(fit_bulk(x, pool.shape).outliers for x in pool.levels),
        ranks=_odd_ranks(scaled, reference),
        spacing_distance=spacing,
        spacing_reference=(float(expected.mean()), float(np.quantile(expected, 0.95))),
        spacing_p=_share(expected, spacing),
        spacings=len(spacings),
        ratio=spectra.estimate(np.array(ratios)) if several else Estimate(ratios[0], np.nan, 1),
        tail=fit_tail(jax.random.key(key), scaled.ravel()),
    )


class _References(NamedTuple):
    own: np.ndarray
    """Distances of pools from the law, each matrix over its own mean level."""
    initial: np.ndarray
    """The same, all over the true σ²."""
    spacing: np.ndarray
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    """Spacings of a pool."""
    mean: np.ndarray
    """Of every scaled level, [k]."""
    spread: np.ndarray


@lru_cache(maxsize=16)
def _references(shape: tuple[int, int], matrices: int) -> _References:
    """Pools of random matrices with independent normal entries, treated as those of a network."""
    k, l = min(shape), max(shape)
    x = np.asarray(ensembles.laguerre_levels(jax.random.key(k * l), k, l, 1, (REFERENCES, matrices)), float)
    law = laws.MarchenkoPastur(ratio=k / l, variance=1.0)
    scaled = x / x.mean(axis=-1, keepdims=True)
    cdf = [np.asarray(law.cdf(v.astype(np.float32)), float).reshape(REFERENCES, -1) for v in (scaled, x)]
    some = [np.concatenate([unfolded_spacings(one) for one in pool]) for pool in x[: REFERENCES // 4]]
    return _References(
        own=_distances(cdf[0]),
        initial=_distances(cdf[1]),
        spacing=np.array([surmise_distance(s) for s in some]),
        count=len(some[0]),
        mean=scaled.mean(axis=(0, 1)),
        spread=scaled.std(axis=(0, 1)),
    )


def _distances(u: Float[np.ndarray, "n m"]) -> Float[np.ndarray, " n"]:
    """Kolmogorov and Smirnov's distance of each row from the uniform law."""
    return ks_of_rows(np.sort(u, axis=1))


def _share(reference: np.ndarray, found: float) -> float:
    """p-value: the share of the reference that is as large, itself counted."""
    return float((1 + np.sum(reference >= found)) / (1 + len(reference))) if np.isfinite(found) else np.nan


def _odd_ranks(scaled: Float[np.ndarray, "m k"], reference: _References) -> str:
    """Runs of ranks whose mean over matrices differs from that of random matrices."""
    z = (scaled.mean(axis=0) - reference.mean) / (reference.spread / np.sqrt(len(scaled)))
    limit = -ndtri(RANK_P / 2 / scaled.shape[1])
    words = []
    for sign, word in ((1, "high"), (-1, "low")):
        odd = np.flatnonzero(sign * z > limit) + 1
        runs = np.split(odd, np.flatnonzero(np.diff(odd) > 1) + 1) if len(odd) else []
        told = [f"{run[0]}–{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
        if told:
            words.append(f"{', '.join(told[:3])}{', …' * (len(told) > 3)} {word}")
    return "; ".join(words) or "none"


def spectra_table(found: list[Findings]) -> Table:
    """One row for each pool and time: against Marchenko and Pastur's law, its outliers, spacings and tail."""
    table = plain_table(
        "Watched spectra, matrices of one shape together. p: share of pools of random matrices as far off",
        "matrices", "update", "σ²", "KS law (p)", "p, σ of initialiser", "outliers", "odd levels",
        "KS surmise (random, 95 %)", "p", "⟨r⟩", "tail α", "from",
    )  # fmt: skip
    for one in found:
        mean, high = one.spacing_reference
        alpha = one.tail.exponent
        table.add_row(
            f"{len(one.pool.levels)} {one.pool.name}", str(one.pool.step), str(one.variance),
            f"{one.law_distance:.3f} ({_p(one.law_p)})", _p(one.initial_p),
            f"{one.outliers} of {one.pool.levels.size}", one.ranks,
            f"{one.spacing_distance:.3f} ({mean:.3f}, {high:.3f})", _p(one.spacing_p), str(one.ratio),
            str(alpha) if np.isfinite(alpha.value) else "–", f"{one.tail.x_min:.2g} ({alpha.count})",
        )  # fmt: skip
    return table


def loss_table(ds: xr.Dataset) -> Table:
    """Losses at the times of validation."""
    table = plain_table("Loss in nats a character", "updates", "training", "validation")
    steps, train = ds.validation_step.values, ds.train_loss.values
    for i, step in enumerate(steps):
        since = train[steps[i - 1] if i else 0 : step] if step else train[:1]
        table.add_row(str(step), f"{np.nanmean(since):.4f}", f"{float(ds.validation_loss[i]):.4f}")
    final = Estimate(float(ds.final_loss), float(ds.final_loss_error), 0)
    table.add_row("all validation text", "", str(final))
    return table


def _p(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:.2g}" if value >= 0.01 else f"{value:.1g}"


def analysis(ds: xr.Dataset, initial: float | None = None) -> list[Findings]:
    """The findings of every pool at the three `times`."""
    return [findings(pool, initial if step == 0 else None) for step in times(ds) for pool in pools(ds, step)]


__all__: list[Any] = [
    "PUBLISHED_LOSS", "Findings", "Pool", "analysis", "findings", "loss_table", "pools", "spectra_table", "times",
]  # fmt: skip
