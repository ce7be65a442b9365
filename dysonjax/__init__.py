"""dysonjax: how the spectra of weight matrices move while a network learns, thousands of runs at once."""

from typing import TYPE_CHECKING

from dysonjax.core.lazy import public

if TYPE_CHECKING:
    from dysonjax import ensembles, experiments, laws, models, spectra
    from dysonjax.core import observables
    from dysonjax.core.dynamics import Dynamics, Parameter
    from dysonjax.core.errors import ClusterError, InputError, StoreError
    from dysonjax.core.observables import Observable
    from dysonjax.core.potentials import Force, Quadratic, RBMPotential
    from dysonjax.dynamics import dyson_schemes as schemes
    from dysonjax.dynamics.dyson_equation import dyson
    from dysonjax.dynamics.langevin import dyson_of, matrix_langevin
    from dysonjax.dynamics.stochastic_gradient import sgd
    from dysonjax.dynamics.training import train
    from dysonjax.dynamics.variance_amplified import svag
    from dysonjax.engine.grid import Grid, Points
    from dysonjax.engine.loop import simulate
    from dysonjax.engine.scanning import scan
    from dysonjax.experiments.advice.own_advice import advise
    from dysonjax.experiments.langevin_validity.assessment import validity
    from dysonjax.experiments.learning.own_diagram import phase_diagram
    from dysonjax.experiments.reading import open_run as open
    from dysonjax.experiments.reading import verify
    from dysonjax.runtime.compile_cache import use_compile_cache
    from dysonjax.runtime.devices import use_all_cores
    from dysonjax.runtime.team import Share
    from dysonjax.spectra import scaling
    from dysonjax.storage.merging import merge
    from dysonjax.weights.monitor import SpectralMonitor
    from dysonjax.weights.spectral_report import analyze

__all__ = [
    "ClusterError",
    "Dynamics",
    "Force",
    "Grid",
    "InputError",
    "Observable",
    "Parameter",
    "Points",
    "Quadratic",
    "RBMPotential",
    "Share",
    "SpectralMonitor",
    "StoreError",
    "advise",
    "analyze",
    "dyson",
    "dyson_of",
    "ensembles",
    "experiments",
    "laws",
    "matrix_langevin",
    "merge",
    "models",
    "observables",
    "open",
    "phase_diagram",
    "scaling",
    "scan",
    "schemes",
    "sgd",
    "simulate",
    "spectra",
    "svag",
    "train",
    "use_all_cores",
    "use_compile_cache",
    "validity",
    "verify",
]

_HOMES = {
    "ClusterError": "dysonjax.core.errors:ClusterError",
    "Dynamics": "dysonjax.core.dynamics:Dynamics",
    "Force": "dysonjax.core.potentials:Force",
    "Grid": "dysonjax.engine.grid:Grid",
    "InputError": "dysonjax.core.errors:InputError",
    "Observable": "dysonjax.core.observables:Observable",
    "Parameter": "dysonjax.core.dynamics:Parameter",
    "Points": "dysonjax.engine.grid:Points",
    "Quadratic": "dysonjax.core.potentials:Quadratic",
    "RBMPotential": "dysonjax.core.potentials:RBMPotential",
    "Share": "dysonjax.runtime.team:Share",
    "SpectralMonitor": "dysonjax.weights.monitor:SpectralMonitor",
    "StoreError": "dysonjax.core.errors:StoreError",
    "advise": "dysonjax.experiments.advice.own_advice:advise",
    "analyze": "dysonjax.weights.spectral_report:analyze",
    "dyson": "dysonjax.dynamics.dyson_equation:dyson",
    "dyson_of": "dysonjax.dynamics.langevin:dyson_of",
    "ensembles": "dysonjax.ensembles",
    "experiments": "dysonjax.experiments",
    "laws": "dysonjax.laws",
    "matrix_langevin": "dysonjax.dynamics.langevin:matrix_langevin",
    "merge": "dysonjax.storage.merging:merge",
    "models": "dysonjax.models",
    "observables": "dysonjax.core.observables",
    "open": "dysonjax.experiments.reading:open_run",
    "phase_diagram": "dysonjax.experiments.learning.own_diagram:phase_diagram",
    "scaling": "dysonjax.spectra.scaling",
    "scan": "dysonjax.engine.scanning:scan",
    "schemes": "dysonjax.dynamics.dyson_schemes",
    "sgd": "dysonjax.dynamics.stochastic_gradient:sgd",
    "simulate": "dysonjax.engine.loop:simulate",
    "spectra": "dysonjax.spectra",
    "svag": "dysonjax.dynamics.variance_amplified:svag",
    "train": "dysonjax.dynamics.training:train",
    "use_all_cores": "dysonjax.runtime.devices:use_all_cores",
    "verify": "dysonjax.experiments.reading:verify",
    "use_compile_cache": "dysonjax.runtime.compile_cache:use_compile_cache",
    "validity": "dysonjax.experiments.langevin_validity.assessment:validity",
}

__version__ = "0.2.0"

if not TYPE_CHECKING:  # or a type checker would accept any name
    __getattr__, __dir__ = public(__name__, _HOMES)
