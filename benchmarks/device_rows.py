"""The rows of `benchmarks.on_device`, most important first: what computes each, and its share of the time.

This module starts nothing and imports no JAX, so that the process that keeps the clock can read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """A measurement: `function` of `module` is called with a `Context` and `arguments`.

    `weight`: its share of the time, relative to the other rows that are still to come.
    """

    name: str
    module: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0


CHECKS, RATES = "benchmarks.device_checks", "benchmarks.device_rates"
ROWS = (
    Row("ceilings", "benchmarks.device_timing", "ceilings"),
    Row("check: engine = flax + optax", CHECKS, "engine_against_optax", weight=2),
    Row("check: phase diagram = CPU's", CHECKS, "phase_diagram_against_cpu", weight=2),
    Row("check: exact laws of Dyson's equation", CHECKS, "exact_laws", weight=2),
    Row("tanh network, 10,000 replicas", RATES, "tanh_network", {"replicas": 10_000}, 2),
    Row("Dyson, default scheme", RATES, "gas", {"scheme": None}),
    Row("Dyson, Euler–Maruyama", RATES, "gas", {"scheme": "euler_maruyama"}),
    Row("RBM, Gibbs chains", RATES, "boltzmann_machine", {"kind": "chains"}),
    Row("a user's network and its own vmap", RATES, "own_network", weight=2),
    Row("levels, 64 × 32", RATES, "weight_levels", {"m": 64, "n": 32}, 0.5),
    Row("tanh network, 100,000 replicas", RATES, "tanh_network", {"replicas": 100_000}, 2),
    Row("phase diagram, 12 × 12 × 100", RATES, "phase_diagram", weight=5),
    Row("tanh network, 1,000 replicas", RATES, "tanh_network", {"replicas": 1_000}),
    Row("GPT, nanoGPT's recipe for a CPU", RATES, "transformer", weight=2),
    Row("tanh network, 1,000,000 replicas", RATES, "tanh_network", {"replicas": 1_000_000}, 3),
    *(Row(f"eigenvalues, n = {n}", RATES, "eigenvalues", {"n": n}, 0.5) for n in (16, 32, 64, 8, 4, 128)),
    Row("RBM, exact draws", RATES, "boltzmann_machine", {"kind": "exact"}),
    Row("RBM, Wishart", RATES, "boltzmann_machine", {"kind": "wishart"}),
)
