"""The linear scaling rule as an experiment: one model over pairs (α, |B|), by SGD and by both Langevin equations.

A model's spectrum should depend on the learning rate and the batch size through T = α/|B| alone. `ScalingRun` is the
experiment; `Ensemble` holds the levels of one pair at one level of description, in the theory's coordinate.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import xarray as xr

from dysonjax.core.dynamics import Dynamics
from dysonjax.core.errors import require, whole
from dysonjax.core.potentials import LevelTheory
from dysonjax.core.snapshots import log_steps
from dysonjax.dynamics.langevin import dyson_of, matrix_langevin
from dysonjax.dynamics.stochastic_gradient import sgd
from dysonjax.engine.grid import Grid
from dysonjax.engine.jobs import Results
from dysonjax.engine.scanning import ScanJob
from dysonjax.experiments.base import Experiment, Report
from dysonjax.models import GaussianRBM, LinearNetwork
from dysonjax.spectra.multiplets import multiplets

Setting = tuple[float, int]
"""Learning rate α and batch size |B|."""
DESCRIPTIONS = ("sgd", "matrix", "dyson", "log-gas")
"""SGD, the matrix Langevin equation, Dyson's equation of the levels, and the latter with full repulsion everywhere."""
TITLES = {"sgd": "SGD", "matrix": "matrix Langevin", "dyson": "Dyson", "log-gas": "log-gas"}
RBM_SETTINGS: tuple[Setting, ...] = (
    *((a, 16) for a in (0.01, 0.02, 0.04, 0.06, 0.08, 0.1)),
    *((0.1, b) for b in (4, 8, 32, 64)),
)
"""Both scans of arXiv:2407.16427: six learning rates at |B| = 16, and four other batch sizes at α = 0.1."""
STUDENT_SETTINGS: tuple[Setting, ...] = (
    *((a, 16) for a in (0.1, 0.2, 0.3, 0.4, 0.5)),
    *((0.1, b) for b in (4, 8, 32, 64)),
)
"""Learning rates and batch sizes of the teacher–student scans of arXiv:2407.16427."""

LINEAR_SETTINGS: tuple[Setting, ...] = (*((0.02, b) for b in (8, 16, 32, 64)), (0.01, 8), (0.04, 32))
"""Of the linear network with one hidden layer; arXiv:2412.20496 does not give its own."""


@dataclass(frozen=True)
class ScalingRun(Experiment):
    """The linear scaling rule: does a model's spectrum depend on learning rate and batch size through α/|B| alone?

    The model runs over settings (α, |B|), `seeds` replicas each, for the time `time` = α × updates, or `steps` updates.
    `model`: "rbm" (`models.GaussianRBM`), "teacher-student" or "linear" (`models.LinearNetwork` without and with a
    hidden layer). `sampling`: how SGD gets its batches: "wishart" or "examples" (the RBM's `sweeps` of Gibbs chains, or
    real inputs; `batches` fixed ones, or fresh ones if 0). The other fields are the model's own.
    """

    kind = "scaling"

    model: Literal["rbm", "teacher-student", "linear"] = "rbm"
    settings: tuple[Setting, ...] = RBM_SETTINGS
    descriptions: tuple[str, ...] = ("sgd",)
    seeds: int = 512
    time: float = 1000.0
    steps: int = 0
    sampling: Literal["examples", "wishart"] = "examples"
    batches: int = 0
    snapshots: int = 41
    key: int = 0
    visible: int = 10
    hidden: int | None = None
    sweeps: int = 3
    teacher: tuple[float, ...] = (2.0, 2.0)
    trained: Literal["first", "both"] = "first"
    noise: float = 0.1
    init_width: float = 0.1

    def __post_init__(self):
        kinds = ("rbm", "teacher-student", "linear")
        require(self.model in kinds, "model", self.model, f"one of {', '.join(kinds)}")
        whole("seeds", self.seeds, 2)
        whole("snapshots", self.snapshots, 2)
        whole("key", self.key, 0, 2**32 - 1)
        whole("steps", self.steps, 0)
        whole("batches", self.batches, 0)
        require(len(self.settings) > 0, "settings", self.settings, "at least one (α, |B|)")
        known = [d for d in self.descriptions if d in DESCRIPTIONS]
        distinct = len(known) == len(self.descriptions) == len(set(known)) > 0
        require(distinct, "level", ",".join(self.descriptions), f"some of {', '.join(DESCRIPTIONS)}")
        require(self.sampling in ("examples", "wishart"), "sampling", self.sampling, "examples or wishart")
        require(np.isfinite(self.time) and self.time > 0, "time", self.time, "a positive number")
        require(not (self.batches and self.model == "rbm"), "batches", self.batches, "0: the RBM has chains")
        require(self.theory is not None, "model", self.model, "a model with a theory of its levels")

    @classmethod
    def options(cls) -> "Callable[..., ScalingRun]":
        """Every pair of learning rates and batch sizes, with defaults for each model."""
        from dysonjax.experiments.linear_scaling.options import options

        return options

    @cached_property
    def network(self) -> GaussianRBM | LinearNetwork:
        """The model."""
        if self.model == "rbm":
            return GaussianRBM(self.visible, self.hidden, sweeps=self.sweeps, init_width=self.init_width)
        hidden = None
        if self.model == "linear":
            hidden = len(self.teacher) if self.hidden is None else self.hidden
        return LinearNetwork(
            self.teacher, hidden=hidden, trained=self.trained, noise=self.noise, init_width=self.init_width
        )

    @cached_property
    def theory(self) -> LevelTheory:
        """What Dyson's equation knows of the model."""
        return self.network.level_theory()

    @property
    def fixed_points(self) -> np.ndarray:
        """[n], largest first."""
        return np.asarray(self.theory.fixed_points)

    @property
    def multiplets(self) -> tuple[slice, ...]:
        """Levels that share a fixed point."""
        return multiplets(self.fixed_points)

    @property
    def pairs(self) -> tuple[slice, ...]:
        """The two-fold multiplets."""
        return tuple(m for m in self.multiplets if m.stop - m.start == 2)

    def width(self, temperature: float) -> np.ndarray:
        """σ_i [n] of each level alone as T → 0."""
        return np.asarray(self.theory.widths) * np.sqrt(temperature)

    def dynamics(self, description: str) -> Dynamics:
        """SGD or one of the Langevin equations; the configuration remembers this record without its settings."""
        if description == "matrix":
            made = matrix_langevin(self.network)
        elif description in ("dyson", "log-gas"):
            made = dyson_of(self.network, eigenvectors=description == "dyson")
        else:
            made = sgd(self.network, batches=self.batches or None, tests=1, sampling=self.sampling)
        common = {**asdict(self), "settings": (), "descriptions": ()}
        return Dynamics(**{**vars(made), "config": {**made.config, "scaling": common}})

    def parts(self) -> list[tuple[str, float, tuple[int, ...], int]]:
        """Description, learning rate, batch sizes and number of updates of every scan that the run is made of."""
        found = []
        for description, rate in itertools.product(self.descriptions, dict.fromkeys(a for a, _ in self.settings)):
            sizes = tuple(b for a, b in self.settings if a == rate)
            found.append((description, rate, sizes, self.steps or max(1, round(self.time / rate))))
        return found

    def jobs(self, results: Results) -> list[ScanJob]:
        """A scan for each level of description and learning rate, as `parts` lists them."""
        found = []
        dynamics = {description: self.dynamics(description) for description in self.descriptions}  # compiled once
        for description, rate, sizes, steps in self.parts():
            axes = {"learning_rate": [rate], "batch_size": sizes, "init_width": [self.init_width]}
            found.append(ScanJob(
                dynamics[description], Grid(**axes, seed=range(self.seeds)), steps,
                # a description's noise is its own, so that differences between them have honest errors
                key=jax.random.fold_in(jax.random.key(self.key), DESCRIPTIONS.index(description)),
                snapshots=log_steps(steps, self.snapshots), observables=self._observables(description),
                name=_folder(description, rate),
            ))  # fmt: skip
        return found

    def analyse(self, results: Results) -> Any:
        """Spacings and widths of the multiplets against T; see `analysis.analyse`."""
        from dysonjax.experiments.linear_scaling.analysis import analyse

        return analyse(self, ensembles(self, results))

    def report(self, analysis: Any) -> Report:
        """Tables beside the laws and the published fits, and all figures that apply."""
        from dysonjax.experiments.linear_scaling import figures
        from dysonjax.experiments.linear_scaling.analysis import tables

        return Report(tables(self, analysis), lambda directory: figures.draw(self, analysis, directory), 170)

    def _observables(self, description: str) -> Any:
        """Only the RBM's own count is worth its time here."""
        return None if self.model == "rbm" and description == "sgd" else ()


def scaling_run(model: str, full: bool = False, **given: Any) -> ScalingRun:
    """The run of one of the papers' models at a size for two cores, or the published one, with some fields `given`."""
    rbm = {"settings": RBM_SETTINGS, "seeds": 256, "descriptions": ("sgd", "matrix", "dyson")}
    student = {"settings": STUDENT_SETTINGS, "seeds": 3000, "time": 40.0, "descriptions": ("sgd", "matrix", "dyson")}
    linear = {
        "settings": LINEAR_SETTINGS, "seeds": 4000, "time": 60.0, "descriptions": DESCRIPTIONS, "sampling": "wishart",
        "teacher": (1.0, 2.0, 2.0, 3.0, 3.0, 3.0), "noise": 1.0,
    }  # fmt: skip
    published = {"rbm": {"seeds": 7500, "steps": 100_000}}
    known = {"rbm": rbm, "teacher-student": student, "linear": linear}
    require(model in known, "model", model, f"one of {', '.join(known)}")
    return ScalingRun(**{"model": model, **known[model], **(published.get(model, {}) if full else {}), **given})


class Ensemble(NamedTuple):
    """Levels of one setting at the end, [R, n] in the theory's coordinate, of the replicas that have not diverged."""

    description: str
    learning_rate: float
    batch_size: int
    levels: np.ndarray
    diverged: int
    outside: int
    """Replicas that were outside the positive-definite region at some update, where that is counted."""
    flow: np.ndarray
    """Levels of the first replica that has not diverged at every snapshot, [S, n]."""
    steps: np.ndarray

    @property
    def temperature(self) -> float:
        """T = α/|B|."""
        return self.learning_rate / self.batch_size


def ensembles(run: ScalingRun, results: Mapping[str, xr.Dataset]) -> list[Ensemble]:
    """The ensembles of a run's results, in the order of its descriptions and settings."""
    return [
        _ensemble(run, description, rate, size, results[_folder(description, rate)].sel(batch_size=size))
        for description in run.descriptions
        for rate, size in run.settings
    ]


def _folder(description: str, rate: float) -> str:
    return f"{description}-{rate:g}"


def _ensemble(run: ScalingRun, description: str, rate: float, size: int, ds: xr.Dataset) -> Ensemble:
    ds = ds.isel(learning_rate=0, init_width=0)
    matrix = run.theory.matrix
    x = ds["levels" if "levels" in ds else f"levels_{matrix}"].values.astype(float)
    if run.theory.geometry != "gram" and description in ("sgd", "matrix"):
        x = np.sqrt(np.maximum(x, 0))
    alive = ds.diverged_step.values < 0
    outside = int((ds.outside.values[:, -1] > 0).sum()) if "outside" in ds else 0
    first = int(np.argmax(alive))
    return Ensemble(description, rate, size, x[alive, -1], int((~alive).sum()), outside, x[first], ds.step.values)
