"""dysonjax: how the spectra of weight matrices move while a network learns, thousands of runs at once."""

from dysonjax import ensembles, laws, models, observables, scaling, schemes, spectra
from dysonjax.analyze import analyze
from dysonjax.cluster import Share
from dysonjax.dynamics import Dynamics, Parameter
from dysonjax.dyson import dyson
from dysonjax.errors import ClusterError, InputError, StoreError
from dysonjax.grid import Grid
from dysonjax.langevin import dyson_of, matrix_langevin
from dysonjax.merge import merge
from dysonjax.monitor import SpectralMonitor
from dysonjax.observables import Observable
from dysonjax.potentials import Force, Quadratic, RBMPotential
from dysonjax.scan import scan
from dysonjax.sgd import sgd
from dysonjax.simulate import simulate, use_all_cores
from dysonjax.svag import svag
from dysonjax.validity import validity

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
