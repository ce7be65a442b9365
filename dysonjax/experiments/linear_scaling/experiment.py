"""The linear scaling rule as an experiment: one model over pairs (α, |B|), by SGD and by both Langevin equations.

A model's spectrum should depend on the learning rate and the batch size through T = α/|B| alone. `ScalingRun` is what
all runs have in common, and each model has its own class of settings.
"""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from dysonjax.core.errors import InputError, require, whole
from dysonjax.engine.jobs import Results
from dysonjax.experiments.base import Experiment, Report

if TYPE_CHECKING:
    from dysonjax.core.dynamics import Dynamics
    from dysonjax.core.potentials import LevelTheory
    from dysonjax.engine.scanning import ScanJob
    from dysonjax.models import GaussianRBM, LinearNetwork

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


_STORED: dict[str, Any] = {
    "model": "", "settings": (), "descriptions": (), "seeds": 0, "time": 0.0, "steps": 0, "sampling": "", "batches": 0,
    "snapshots": 0, "key": 0, "visible": 10, "hidden": None, "sweeps": 3, "teacher": (2.0, 2.0), "trained": "first",
    "noise": 0.1, "init_width": 0.1,
}  # fmt: skip
"""What a scan's header says of its run, of whichever model: as dysonjax 0.1 wrote it, whose runs are continued."""


@dataclass(frozen=True)
class ScalingRun(Experiment):
    """The linear scaling rule: does a model's spectrum depend on learning rate and batch size through α/|B| alone?

    What the runs of all models have in common; each model has a class of its own with its scans by default.
    """

    kind = "scaling"
    paper: ClassVar[tuple[Setting, ...]]
    """Pairs (α, |B|) that are scanned where no others are given."""

    model: str = field(init=False, default="")
    learning_rate: tuple[float, ...] | None = None
    """learning rates α; with every batch size. Without these and points, the scans of the paper"""
    batch_size: tuple[int, ...] | None = None
    """batch sizes |B|"""
    points: tuple[tuple[float, int], ...] | None = None
    """pairs of a learning rate and a batch size, in place of both"""
    level: tuple[str, ...] = ("sgd", "matrix", "dyson")
    """levels of description among sgd, matrix, dyson, log-gas"""
    seeds: int = 512
    """independent replicas at every setting"""
    time: float = 1000.0
    """α × updates"""
    steps: int = 0
    """updates, in place of a time"""
    sampling: Literal["examples", "wishart"] = "examples"
    """how SGD gets its batches: examples (chains for the RBM) or wishart"""
    snapshots: int = 41
    """updates at which levels are recorded"""
    key: int = 0
    """base of all random numbers"""
    init_width: float = 0.1
    """standard deviation of the initial weights"""

    def __post_init__(self):
        whole("seeds", self.seeds, 2)
        whole("snapshots", self.snapshots, 2)
        whole("key", self.key, 0, 2**32 - 1)
        whole("steps", self.steps, 0)
        rates, sizes = self.learning_rate, self.batch_size
        if (rates is None) != (sizes is None):
            raise InputError(f"learning-rate = {rates}, batch-size = {sizes}: expected both or neither")
        require(self.points is None or rates is None, "points", self.points, "none beside learning rates")
        require(len(self.settings) > 0, "points", self.points, "at least one (α, |B|)")
        known = [d for d in self.level if d in DESCRIPTIONS]
        distinct = len(known) == len(self.level) == len(set(known)) > 0
        require(distinct, "level", ",".join(self.level), f"some of {', '.join(DESCRIPTIONS)}")
        require(self.sampling in ("examples", "wishart"), "sampling", self.sampling, "examples or wishart")
        require(np.isfinite(self.time) and self.time > 0, "time", self.time, "a positive number")

    @classmethod
    def options(cls) -> "Mapping[str, type[ScalingRun]]":
        """The settings of each model, by its name."""
        return {made.model: made for made in MODELS}

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "ScalingRun":
        """The run of the model that the settings name."""
        own = {name: value for name, value in settings.items() if name != "model"}
        made = model_of(settings.get("model"))
        return made(**_of_before(made, own) if "descriptions" in own else own)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Every (α, |B|) of the run."""
        if self.learning_rate is not None and self.batch_size is not None:
            return tuple(itertools.product(self.learning_rate, self.batch_size))
        return self.paper if self.points is None else self.points

    @cached_property
    def network(self) -> "GaussianRBM | LinearNetwork":
        """The model."""
        raise NotImplementedError

    @cached_property
    def theory(self) -> "LevelTheory":
        """What Dyson's equation knows of the model."""
        return self.network.level_theory()

    @property
    def fixed_points(self) -> np.ndarray:
        """[n], largest first."""
        return np.asarray(self.theory.fixed_points)

    @property
    def multiplets(self) -> tuple[slice, ...]:
        """Levels that share a fixed point."""
        from dysonjax.spectra.multiplets import multiplets

        return multiplets(self.fixed_points)

    @property
    def pairs(self) -> tuple[slice, ...]:
        """The two-fold multiplets."""
        return tuple(m for m in self.multiplets if m.stop - m.start == 2)

    def width(self, temperature: float) -> np.ndarray:
        """σ_i [n] of each level alone as T → 0."""
        return np.asarray(self.theory.widths) * np.sqrt(temperature)

    def dynamics(self, description: str) -> "Dynamics":
        """SGD or one of the Langevin equations; the configuration remembers this record without its settings."""
        from dysonjax.core.dynamics import Dynamics
        from dysonjax.dynamics.langevin import dyson_of, matrix_langevin
        from dysonjax.dynamics.stochastic_gradient import sgd

        if description == "matrix":
            made = matrix_langevin(self.network)
        elif description in ("dyson", "log-gas"):
            made = dyson_of(self.network, eigenvectors=description == "dyson")
        else:
            made = sgd(self.network, batches=self._fixed_batches() or None, tests=1, sampling=self.sampling)
        own = asdict(self)
        own["trained"] = own.get("train", _STORED["trained"])
        common = {name: own.get(name, value) for name, value in _STORED.items()}
        return Dynamics(**{**vars(made), "config": {**made.config, "scaling": common}})

    def parts(self) -> list[tuple[str, float, tuple[int, ...], int]]:
        """Description, learning rate, batch sizes and number of updates of every scan that the run is made of."""
        found = []
        for description, rate in itertools.product(self.level, dict.fromkeys(a for a, _ in self.settings)):
            sizes = tuple(b for a, b in self.settings if a == rate)
            found.append((description, rate, sizes, self.steps or max(1, round(self.time / rate))))
        return found

    def jobs(self, results: Results) -> "list[ScanJob]":
        """A scan for each level of description and learning rate, as `parts` lists them."""
        import jax

        from dysonjax.core.snapshots import log_steps
        from dysonjax.engine.grid import Grid
        from dysonjax.engine.scanning import ScanJob

        require(self.theory is not None, "model", self.model, "a model with a theory of its levels")
        found = []
        dynamics = {description: self.dynamics(description) for description in self.level}  # compiled once
        for description, rate, sizes, steps in self.parts():
            axes = {"learning_rate": [rate], "batch_size": sizes, "init_width": [self.init_width]}
            found.append(ScanJob(
                dynamics[description], Grid(**axes, seed=range(self.seeds)), steps,
                # a description's noise is its own, so that differences between them have honest errors
                key=jax.random.fold_in(jax.random.key(self.key), DESCRIPTIONS.index(description)),
                snapshots=log_steps(steps, self.snapshots), observables=self._observables(description),
                name=folder(description, rate),
            ))  # fmt: skip
        return found

    def analyse(self, results: Results) -> Any:
        """Spacings and widths of the multiplets against T; see `analysis.analyse`."""
        from dysonjax.experiments.linear_scaling.analysis import analyse
        from dysonjax.experiments.linear_scaling.ensembles import ensembles

        return analyse(self, ensembles(self, results))

    def report(self, analysis: Any) -> Report:
        """Tables beside the laws and the published fits, and all figures that apply."""
        from dysonjax.experiments.linear_scaling import figures
        from dysonjax.experiments.linear_scaling.analysis import tables

        return Report(tables(self, analysis), lambda directory: figures.draw(self, analysis, directory), 170)

    def _fixed_batches(self) -> int:
        return 0

    def _observables(self, description: str) -> Any:
        return ()


@dataclass(frozen=True)
class RBMScaling(ScalingRun):
    """The linear scaling rule for the Gaussian RBM, by default in both scans of arXiv:2407.16427."""

    paper = RBM_SETTINGS
    model: str = field(init=False, default="rbm")
    seeds: int = 256
    """independent replicas at every setting"""
    visible: int = 10
    """visible units"""
    hidden: int | None = None
    """hidden units, by default as many as visible ones"""
    sweeps: int = 3
    """Gibbs sweeps of the chains"""

    @cached_property
    def network(self) -> "GaussianRBM":
        """The machine."""
        from dysonjax.models import GaussianRBM

        return GaussianRBM(self.visible, self.hidden, sweeps=self.sweeps, init_width=self.init_width)

    def _observables(self, description: str) -> Any:
        """Only the RBM's own count is worth its time here."""
        return None if description == "sgd" else ()


@dataclass(frozen=True)
class TeacherStudentScaling(ScalingRun):
    """The linear scaling rule for a linear student of one matrix, by default in the scans of arXiv:2407.16427."""

    paper = STUDENT_SETTINGS
    model: str = field(init=False, default="teacher-student")
    seeds: int = 3000
    """independent replicas at every setting"""
    time: float = 40.0
    """α × updates"""
    batches: int = 0
    """fixed batches, 0 for fresh ones"""
    teacher: tuple[float, ...] = (2.0, 2.0)
    """singular values of the teacher"""
    noise: float = 0.1
    """standard deviation of the noise that each example adds to the gradient"""

    def __post_init__(self):
        whole("batches", self.batches, 0)
        super().__post_init__()

    @cached_property
    def network(self) -> "LinearNetwork":
        """The student and its teacher."""
        from dysonjax.models import LinearNetwork

        return LinearNetwork(self.teacher, noise=self.noise, init_width=self.init_width)

    def _fixed_batches(self) -> int:
        return self.batches


@dataclass(frozen=True)
class LinearScaling(ScalingRun):
    """The linear scaling rule for a linear network with one hidden layer, as in arXiv:2412.20496."""

    paper = LINEAR_SETTINGS
    model: str = field(init=False, default="linear")
    level: tuple[str, ...] = DESCRIPTIONS
    """levels of description among sgd, matrix, dyson, log-gas"""
    seeds: int = 4000
    """independent replicas at every setting"""
    time: float = 60.0
    """α × updates"""
    sampling: Literal["examples", "wishart"] = "wishart"
    """how SGD gets its batches: examples or wishart"""
    batches: int = 0
    """fixed batches, 0 for fresh ones"""
    hidden: int | None = None
    """hidden units, by default as many as the teacher has singular values"""
    teacher: tuple[float, ...] = (1.0, 2.0, 2.0, 3.0, 3.0, 3.0)
    """singular values of the teacher"""
    train: Literal["first", "both"] = "first"
    """which of the two matrices are trained"""
    noise: float = 1.0
    """standard deviation of the noise that each example adds to the gradient"""

    def __post_init__(self):
        whole("batches", self.batches, 0)
        super().__post_init__()

    @cached_property
    def network(self) -> "LinearNetwork":
        """The student and its teacher."""
        from dysonjax.models import LinearNetwork

        hidden = len(self.teacher) if self.hidden is None else self.hidden
        return LinearNetwork(
            self.teacher, hidden=hidden, trained=self.train, noise=self.noise, init_width=self.init_width
        )

    def _fixed_batches(self) -> int:
        return self.batches


MODELS: tuple[type[RBMScaling] | type[TeacherStudentScaling] | type[LinearScaling], ...] = (
    RBMScaling, TeacherStudentScaling, LinearScaling,
)  # fmt: skip


def model_of(name: Any) -> type[ScalingRun]:
    """The class of a model's runs."""
    known = ScalingRun.options()
    require(name in known, "model", name, f"one of {', '.join(known)}")
    return known[name]


def _of_before(made: type[ScalingRun], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as dysonjax 0.1 stored them, one class for all models, as those of a model's own class."""
    names = {"descriptions": "level", "trained": "train"}
    kept = {names.get(name, name): value for name, value in given.items()}
    own = {f.name: kept[f.name] for f in fields(made) if f.init and f.name in kept}
    points = given["settings"]
    rates, sizes = (tuple(dict.fromkeys(column)) for column in zip(*points, strict=True))
    if points == made.paper:
        return own
    if points == tuple(itertools.product(rates, sizes)):
        return {**own, "learning_rate": rates, "batch_size": sizes}
    return {**own, "points": points}


def folder(description: str, rate: float) -> str:
    """Name of a scan."""
    return f"{description}-{rate:g}"
