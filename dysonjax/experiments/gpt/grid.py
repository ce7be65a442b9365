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

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from dysonjax.core.errors import require, whole
from dysonjax.engine.jobs import Results
from dysonjax.experiments.base import Experiment, Report

if TYPE_CHECKING:
    import xarray as xr

    from dysonjax.core.dynamics import Dynamics
    from dysonjax.engine.scanning import ScanJob
    from dysonjax.experiments.gpt.exchange import Exchange
    from dysonjax.models.gpt import GPTModel

TILE = 4
"""Networks side by side: 15 times as fast as the engine's usual 32, which leave the cache."""
LEAST = 3
"""Learning rates, and batch sizes, that a quadratic surface needs."""


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
        from dysonjax.models import text as texts
        from dysonjax.models.gpt import KINDS, GPTConfig, GPTModel

        source = texts.load(self.text)
        config = GPTConfig(len(source.characters), self.context, self.layers, self.heads, self.channels)
        return GPTModel(config, source, watched=KINDS)

    @cached_property
    def dynamics(self) -> Dynamics:
        """Training with fresh batches."""
        from dysonjax.dynamics.stochastic_gradient import sgd
        from dysonjax.experiments.gpt.exchange import adamw

        made = sgd(self.model, batches=None, tests=64, optimizer=adamw if self.optimizer == "adamw" else None)
        return replace(made, tile=TILE)

    def jobs(self, results: Results) -> list[ScanJob]:
        """A scan for each batch size, or for each pair where the time is given, as `parts` lists them."""
        from dysonjax.engine.grid import Grid
        from dysonjax.engine.scanning import ScanJob

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
        from dysonjax.experiments.gpt.exchange import joined_along

        by_size: dict[int, list[xr.Dataset]] = {}
        for (_, size, _), name in zip(self.parts(), self._names(), strict=True):
            by_size.setdefault(size, []).append(results[name].isel(init_width=0).drop_vars("step"))
        return joined_along([joined_along(some, "learning_rate") for some in by_size.values()], "batch_size")

    def analyse(self, results: Results) -> tuple[list[Exchange], list[Exchange]]:
        """How batch size trades against learning rate, and the same without the largest learning rate."""
        from dysonjax.experiments.gpt.exchange import exchanges, without_largest

        ds = self.joined(results)
        rest = without_largest(ds)
        return exchanges(ds), [] if rest is None else exchanges(rest)

    def report(self, analysis: tuple[list[Exchange], list[Exchange]]) -> Report:
        """A table of exponents, and a map for each statistic."""
        from dysonjax.experiments import plotting
        from dysonjax.experiments.gpt import figures
        from dysonjax.experiments.gpt.exchange import STATISTICS, exchange_table

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
