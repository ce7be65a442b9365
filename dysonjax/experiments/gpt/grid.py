"""What arXiv:2411.13512 leaves open: does T = α/|B| order the spectra of a transformer, too, under SGD and AdamW?

Small GPTs are trained at every pair (α, |B|), either on the same amount of text or for the same time α × updates. A
statistic y of the spectra at the end is fitted as a quadratic surface in a = ln α and b = ln |B|; along a line of
constant y, α ∝ |B|^p with the exchange exponent

    p = −(∂y/∂b)/(∂y/∂a)        at the centre of the grid.

On the same text the time is ∝ α/|B| as well: p = 1 is the linear rule, of which drift and temperature are two parts
that cannot be told apart there, p = ½ the square-root rule that the stochastic differential equation of Adam has
(Malladi, Lyu, Panigrahi and Arora 2022), p = 0 says that the batch size does not matter. For the same time the drift
alone would leave y the same everywhere, and p = 1 says that what differs is ordered by T. A jackknife over seeds gives
the error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
import xarray as xr
from jaxtyping import Float
from scipy.special import chdtrc

from dysonjax.core.dynamics import Dynamics
from dysonjax.core.errors import require, whole
from dysonjax.core.tables import Table
from dysonjax.dynamics.stochastic_gradient import sgd
from dysonjax.engine.grid import Grid
from dysonjax.engine.jobs import Results
from dysonjax.engine.scanning import ScanJob
from dysonjax.experiments.base import Experiment, Report
from dysonjax.experiments.tables import plain_table
from dysonjax.models import text as texts
from dysonjax.models.gpt import KINDS, GPTConfig, GPTModel
from dysonjax.spectra import Estimate
from dysonjax.spectra.resampling import jackknife_error, left_out

EXPONENTS = {"p = 1": 1.0, "p = ½": 0.5, "p = 0": 0.0}
"""The rules α ∝ |B|^p that are tested: linear, square root, and no exchange."""
TILE = 4
"""Networks side by side: 15 times as fast as the engine's usual 32, which leave the cache."""
LEAST = 3
"""Learning rates, and batch sizes, that a quadratic surface needs."""
STATISTICS = ("norm", "largest")
"""ln ‖W‖²/‖W₀‖² and ln of the largest level over that at the start, means over layers."""


@dataclass(frozen=True)
class GPTScalingRun(Experiment):
    """Small GPTs over learning rates × batch sizes: which exchange of the two leaves their spectra as they are?

    Rates are constant. At a width of 32 channels σ √C of the attention matrices, whose spectra are watched, is that of
    the full network only for a larger σ than GPT-2's, hence `init_width`. Raises `InputError`.
    """

    kind = "gpt-grid"

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd without momentum, or adamw (β = 0.9, 0.99; weight decay 0.1)"""
    learning_rates: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)
    """learning rates α, at least three"""
    batch_sizes: tuple[int, ...] = (4, 8, 16, 32)
    """batch sizes |B|, at least three, divisors of the windows"""
    windows: int = 4096
    """windows of text that each network sees"""
    time: float = 0.0
    """train for this long, α × updates, instead; 0: by windows"""
    seeds: int = 6
    """networks at every setting"""
    text: str = "shakespeare"
    """a UTF-8 file, or shakespeare (Tiny Shakespeare)"""
    layers: int = 2
    """blocks of attention and feed-forward network"""
    heads: int = 2
    """attention heads, a divisor of the channels"""
    channels: int = 32
    """width of the network"""
    context: int = 32
    """characters that are looked back on"""
    init_width: float = 4.0
    """multiplies GPT-2's initial σ = 0.02 of the attention matrices"""
    key: int = 0
    """base of all random numbers"""

    def __post_init__(self):
        require(self.optimizer in ("sgd", "adamw"), "optimizer", self.optimizer, "adamw or sgd")
        whole("seeds", self.seeds, 2)
        whole("windows", self.windows)
        for name in ("learning_rates", "batch_sizes"):
            few = f"at least {LEAST} values, for a surface"
            require(len(getattr(self, name)) >= LEAST, name, getattr(self, name), few)
        require(np.isfinite(self.time) and self.time >= 0, "time", self.time, "a number of at least 0")
        for size in self.batch_sizes:
            require(self.windows % whole("batch_sizes", size) == 0, "batch_sizes", size, f"divisors of {self.windows}")

    @cached_property
    def model(self) -> GPTModel:
        """The network on its text, all attention matrices watched."""
        source = texts.load(self.text)
        config = GPTConfig(len(source.characters), self.context, self.layers, self.heads, self.channels)
        return GPTModel(config, source, watched=KINDS)

    @cached_property
    def dynamics(self) -> Dynamics:
        """Training with fresh batches."""
        made = sgd(self.model, batches=None, tests=64, optimizer=adamw if self.optimizer == "adamw" else None)
        return replace(made, tile=TILE)

    def jobs(self, results: Results) -> list[ScanJob]:
        """A scan for each batch size, or for each pair where the time is given, as `parts` lists them."""
        last = self.dynamics.observables[1:2]  # the test loss alone
        found = []
        for (rates, size, steps), name in zip(self.parts(), self._names(), strict=True):
            axes = {"learning_rate": rates, "batch_size": [size], "init_width": [self.init_width]}
            found.append(ScanJob(
                self.dynamics, Grid(**axes, seed=range(self.seeds)), steps, key=self.key, snapshots=[0, steps],
                observables=last, name=name,
            ))  # fmt: skip
        return found

    def _names(self) -> list[str]:
        """The folder of each part; the rate is in it where two parts would have the same."""
        short = [f"b{size}-{steps}" for _, size, steps in self.parts()]
        return [
            name if short.count(name) == 1 else f"{name}-{rates[0]:g}"
            for name, (rates, _, _) in zip(short, self.parts(), strict=True)
        ]

    def joined(self, results: Mapping[str, xr.Dataset]) -> xr.Dataset:
        """Levels at the start and the end, [learning_rate, batch_size, seed, …]."""
        by_size: dict[int, list[xr.Dataset]] = {}
        for (_, size, _), name in zip(self.parts(), self._names(), strict=True):
            by_size.setdefault(size, []).append(results[name].isel(init_width=0).drop_vars("step"))
        return _concat([_concat(some, "learning_rate") for some in by_size.values()], "batch_size")

    def analyse(self, results: Results) -> "tuple[list[Exchange], list[Exchange]]":
        """How batch size trades against learning rate, and the same without the largest learning rate."""
        ds = self.joined(results)
        rest = without_largest(ds)
        return exchanges(ds), [] if rest is None else exchanges(rest)

    def report(self, analysis: "tuple[list[Exchange], list[Exchange]]") -> Report:
        """A table of exponents, and a map for each statistic."""
        from dysonjax.experiments import plotting
        from dysonjax.experiments.gpt import figures

        found, smaller = analysis

        def draw(directory: Path) -> list[Path]:
            maps = {name: figures.exchange_maps(self, found, smaller, name) for name in STATISTICS}
            return [plotting.save(figure, directory / f"exchange_{name}.png") for name, figure in maps.items()]

        return Report([exchange_table(self, found, smaller)], draw, 150)

    def parts(self) -> list[tuple[tuple[float, ...], int, int]]:
        """Learning rates, batch size and number of updates of every scan that the run is made of."""
        if not self.time:
            return [(self.learning_rates, size, self.windows // size) for size in self.batch_sizes]
        return [((a,), size, max(1, round(self.time / a))) for size in self.batch_sizes for a in self.learning_rates]

    @property
    def budget(self) -> str:
        """What all settings have in common, in words."""
        return f"α × updates = {self.time:g}" if self.time else f"{self.windows} windows"


def _concat(parts: list[xr.Dataset], axis: str) -> xr.Dataset:
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
