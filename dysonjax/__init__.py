"""dysonjax: how the spectra of weight matrices move while a network learns, thousands of runs at once."""

from dysonjax import models, observables, spectra
from dysonjax.dynamics import Dynamics, Parameter
from dysonjax.errors import InputError, StoreError
from dysonjax.grid import Grid
from dysonjax.observables import Observable
from dysonjax.scan import scan
from dysonjax.sgd import sgd
from dysonjax.simulate import simulate, use_all_cores

__all__ = [
    "Dynamics",
    "Grid",
    "InputError",
    "Observable",
    "Parameter",
    "StoreError",
    "models",
    "observables",
    "scan",
    "sgd",
    "simulate",
    "spectra",
    "use_all_cores",
]
