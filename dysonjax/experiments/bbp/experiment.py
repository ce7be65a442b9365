"""The transition of Baik, Ben Arous and Péché in a linear student of a rank-one teacher: arXiv:2606.28486.

Full-batch gradient descent at learning rate ε from W₀ [N, M], entries N(0, σ_W²/M), towards W* = u vᵀ is after t steps

    W_t = (1 − ε)^t W₀ + (1 − (1 − ε)^t) W*,

signal B = (1 − (1 − ε)^t)² in noise s² = (1 − ε)^{2t} σ_W². The largest level of W Wᵀ stands outside the bulk, and its
singular vectors know the teacher's, where c = B/s² > √r, r = N/M: for ε > ε_c(t) = 1 − (1 + σ_W r^{1/4})^{−1/t}.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dysonjax.core.errors import require, whole
from dysonjax.engine.jobs import Results
from dysonjax.experiments.base import Experiment, Report

if TYPE_CHECKING:
    import xarray as xr
    from jaxtyping import PRNGKeyArray
    from numpy.typing import NDArray

    from dysonjax import laws
    from dysonjax.core.dynamics import Dynamics, Hyper
    from dysonjax.dynamics.wishart_sgd import MomentState
    from dysonjax.engine.scanning import ScanJob

RATES: tuple[float, ...] = tuple(round(float(v), 4) for v in -np.expm1(-np.geomspace(0.04, 2.5, 41)))
"""Default ε: equal steps of ln(−ln(1 − ε)), so that the transition is resolved equally well at every t."""
TILE = 8
"""Students side by side: the library decomposes one matrix at a time."""
SMALLEST = 1e-15
"""Least (1 − ε)^t: float32 still holds the noise's levels."""


@dataclass(frozen=True)
class BBPRun(Experiment):
    """The transition of Baik, Ben Arous and Péché: when does a student's largest level know its rank-one teacher?"""

    kind = "bbp"

    rows: int = 100
    """outputs N"""
    columns: int = 200
    """inputs M"""
    learning_rate: tuple[float, ...] = RATES
    """learning rates ε"""
    init_width: tuple[float, ...] = (1.0,)
    """initial widths σ_W"""
    steps: tuple[int, ...] = (1, 2, 4, 8)
    """numbers t of full-batch steps after which levels and overlaps are recorded, all in one run"""
    seeds: int = 64
    """independent students at every point"""
    key: int = 0
    """base of all random numbers"""

    def __post_init__(self):
        for name in ("rows", "columns", "seeds"):
            whole(name, getattr(self, name), 2)
        whole("key", self.key, 0, 2**32 - 1)
        for name in ("learning_rate", "init_width", "steps"):
            require(len(getattr(self, name)) > 0, name, getattr(self, name), "at least one value")
        for t in self.steps:
            whole("steps", t)
        require(list(self.steps) == sorted(set(self.steps)), "steps", self.steps, "increasing numbers")
        inside = all(0 < rate < 1 for rate in self.learning_rate)
        require(inside, "learning_rate", self.learning_rate, "numbers between 0 and 1")
        require(all(w > 0 for w in self.init_width), "init_width", self.init_width, "positive numbers")
        least = (1 - max(self.learning_rate)) ** self.steps[-1]
        require(least > SMALLEST, "steps", self.steps, f"(1 − ε)^t above {SMALLEST:g}, so that some noise is left")

    @classmethod
    def full(cls, **given: Any) -> BBPRun:
        """A run of larger matrices and more seeds, for an accelerator or an evening, with some fields `given`."""
        widths = tuple(float(w) for w in 2.0 ** np.arange(-2, 3))
        return cls(**{"rows": 200, "columns": 400, "seeds": 200, "init_width": widths, **given})

    @property
    def ratio(self) -> float:
        """r = N/M."""
        return self.rows / self.columns

    @property
    def dynamics(self) -> Dynamics:
        """Full-batch descent; its configuration remembers this record, so that a stored run can be continued.

        `sgd` on the population, with its step W ← W − ε (W − W*) S written for S = 1: the product with the unit matrix
        would be nearly all of the run's time.
        """
        import jax.numpy as jnp

        from dysonjax.core.dynamics import Dynamics
        from dysonjax.dynamics.stochastic_gradient import sgd
        from dysonjax.dynamics.wishart_sgd import MomentState
        from dysonjax.models import LinearNetwork

        net = LinearNetwork((1.0,), inputs=self.columns, outputs=self.rows, fan_in=True, init_width=1.0)
        made = sgd(net, sampling="population")

        def step(key: PRNGKeyArray, state: MomentState, hyper: Hyper) -> MomentState:
            w = state.params["W"]
            return MomentState({"W": w - hyper["learning_rate"] * (w - jnp.asarray(net.teacher_matrix, w.dtype))})

        own = {"step": step, "block_step": None, "tile": TILE, "config": {**made.config, "bbp": asdict(self)}}
        return Dynamics(**{**vars(made), **own})

    def jobs(self, results: Results) -> list[ScanJob]:
        """One scan, recorded at t = 0 and `steps`."""
        from dysonjax.engine.grid import Grid
        from dysonjax.engine.scanning import ScanJob
        from dysonjax.experiments.bbp.analysis import OVERLAPS

        grid = Grid(learning_rate=self.learning_rate, init_width=self.init_width, seed=range(self.seeds))
        marks = (0, *self.steps)
        return [ScanJob(self.dynamics, grid, self.steps[-1], self.key, snapshots=marks, observables=(OVERLAPS,))]

    def analyse(self, results: Results) -> xr.Dataset:
        """The results; what the table and the figures show follows from them by `curves` and `critical`."""
        return results.only

    def report(self, analysis: xr.Dataset) -> Report:
        """A table of critical learning rates beside the law, and figures."""
        from dysonjax.experiments.bbp import figures

        said = [figures.bbp_table(self, analysis)]
        return Report(said, lambda directory: figures.draw(self, analysis, directory))

    def noise(self, init_width: float, steps: int, learning_rate: Any = None) -> NDArray[np.float64]:
        """s = (1 − ε)^t σ_W at the run's learning rates, or at others."""
        rate = np.asarray(self.learning_rate if learning_rate is None else learning_rate, float)
        return (1 - rate) ** steps * init_width

    def law(self, init_width: float, steps: int, learning_rate: Any = None) -> laws.OutlierBBP:
        """Outlier and left overlap at the run's learning rates, or at others."""
        from dysonjax import laws

        noise = self.noise(init_width, steps, learning_rate)
        return laws.OutlierBBP(signal=(1 - noise / init_width) ** 2, noise=noise, ratio=self.ratio)

    def right_overlap(self, init_width: float, steps: int, learning_rate: Any = None) -> NDArray[np.float64]:
        """(v·v̂)² = (1 − r/c²)/(1 + 1/c): the left overlap of Wᵀ, whose noise is r s² and whose ratio is 1/r."""
        from dysonjax import laws

        law = self.law(init_width, steps, learning_rate)
        turned = laws.OutlierBBP(law.signal, law.noise * self.ratio**0.5, 1 / self.ratio)
        return np.asarray(turned.overlap, float)

    def critical_learning_rate(self, init_width: float, steps: Any) -> NDArray[np.float64]:
        """ε_c(t) = 1 − (1 + σ_W r^{1/4})^{−1/t}."""
        from dysonjax import laws

        return np.asarray(laws.critical_learning_rate(init_width, self.ratio, np.asarray(steps, float)), float)
