"""dysonjax: how the spectra of weight matrices move while a network learns, thousands of runs at once."""

from dysonjax import ensembles, laws, models, spectra
from dysonjax.core import observables
from dysonjax.core.dynamics import Dynamics, Parameter
from dysonjax.core.errors import ClusterError, InputError, StoreError
from dysonjax.core.observables import Observable
from dysonjax.core.potentials import Force, Quadratic, RBMPotential
from dysonjax.dynamics import dyson_schemes as schemes
from dysonjax.dynamics.dyson_equation import dyson
from dysonjax.dynamics.langevin import dyson_of, matrix_langevin
from dysonjax.dynamics.stochastic_gradient import sgd
from dysonjax.dynamics.variance_amplified import svag
from dysonjax.engine.grid import Grid
from dysonjax.engine.loop import simulate
from dysonjax.engine.scanning import scan
from dysonjax.experiments.langevin_validity.assessment import validity
from dysonjax.runtime.devices import use_all_cores
from dysonjax.runtime.team import Share
from dysonjax.spectra import multiplets as scaling
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
    "Quadratic",
    "RBMPotential",
    "Share",
    "SpectralMonitor",
    "StoreError",
    "analyze",
    "dyson",
    "dyson_of",
    "ensembles",
    "laws",
    "matrix_langevin",
    "merge",
    "models",
    "observables",
    "scaling",
    "scan",
    "schemes",
    "sgd",
    "simulate",
    "spectra",
    "svag",
    "use_all_cores",
    "validity",
]


def __dir__() -> list[str]:
    return __all__
