"""Phase diagram of the tanh network (arXiv:2509.01349): which learning rates and widths learn, freeze or blow up.

The experiment and what it measures: temperature T = α/|B| against disorder σ_W (`init_width`), with W the matrix of the
last hidden layer [K, L], Z the one behind it, φ = a(W s₀) the soft spins. `phase_summary` turns it into phases and
boundaries, `phase_figures` and `phase_report` show them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import xarray as xr
from jaxtyping import Array, Float, PyTree

from dysonjax.blocks import chunks, dot, map_examples, matmul, matvec, matvec_transposed, sum_of_chunks, sum_of_outer
from dysonjax.cluster import WHOLE, Share
from dysonjax.dynamics import Hyper, Spectra, lift
from dysonjax.errors import require, whole
from dysonjax.grid import Grid
from dysonjax.models.tanh_network import TanhNetwork, Weights
from dysonjax.observables import Observable, Variable
from dysonjax.planning import Job
from dysonjax.scan import run_job
from dysonjax.sgd import SGDState, loss_observables, sgd
from dysonjax.simulate import log_steps

_ORDER_PARAMETERS = {
    "test_error": Variable((), "test loss ⟨(y_t − y)²⟩ on the test inputs"),
    "memory": Variable((), "q_time = (1/nK) Σ φ(0)·φ(t)"),
    "alignment": Variable((), "hs = (1/n) ⟨h, φ⟩/(|h| |φ|), h = Zᵀ y_t"),
    "drift": Variable((), "K_t = |K̃_11| − |K̃_KK|"),
    "repulsion": Variable((), "V_t from the variances of D in the eigenbasis of W Wᵀ, the g_ij² of Dyson's equation"),
    "repulsion_published": Variable((), "V_t from the matrix of variances of D, itself rotated, as published"),
}


@dataclass(frozen=True)
class PhaseDiagram:
    """The experiment: a grid of learning rates, initial widths and batch sizes for one network."""

    learning_rate: tuple[float, ...] = tuple(2.0**k for k in range(-3, 9))
    init_width: tuple[float, ...] = tuple(2.0**k for k in range(-3, 9))
    batch_size: tuple[int, ...] = (4,)
    seeds: int = 4
    epochs: int = 100
    batches: int = 1000
    snapshots: int = 21
    hidden: tuple[int, ...] = (32, 16)
    activation: str = "tanh"
    key: int = 0

    def __post_init__(self):
        for name in ("seeds", "epochs", "batches"):
            whole(name, getattr(self, name))
        whole("snapshots", self.snapshots, 2)
        whole("key", self.key, 0, 2**32 - 1)

    @property
    def network(self) -> TanhNetwork:
        """Student and teacher; the matrix of the last hidden layer is trained."""
        return TanhNetwork(hidden=self.hidden, activation=self.activation, trained=(len(self.hidden) - 1,))  # type: ignore[arg-type]

    @property
    def grid(self) -> Grid:
        """Every learning rate with every width, batch size and seed."""
        return Grid(
            learning_rate=self.learning_rate,
            init_width=self.init_width,
            batch_size=self.batch_size,
            seed=range(self.seeds),
        )

    def jobs(self, out: Any = None, block_size: int | None = None) -> list[Job]:
        """The scan that it is made of."""
        return [
            Job(
                sgd(self.network, batches=self.batches),
                self.grid,
                self.epochs * self.batches,
                key=self.key,
                snapshots=log_steps(self.epochs * self.batches, self.snapshots, self.batches),
                observables=(*loss_observables(self.network), order_parameters(self.network)),
                out=out,
                block_size=block_size,
            )
        ]

    def run(
        self, out: str | PathLike[str] | None = None, progress: bool | None = None, share: Share = WHOLE,
        block_size: int | None = None,
    ) -> xr.Dataset:  # fmt: skip
        """Compute it, or continue the run in `out`; see `dysonjax.scan`."""
        return run_job(self.jobs(out, block_size)[0], progress=progress, share=share)


def experiment_of(stored: Mapping) -> PhaseDiagram:
    """The `PhaseDiagram` that a stored run's experiment describes, so that it can be continued; raises `InputError`."""
    widths, batches = stored.get("widths", ()), stored.get("batches", 0)
    observed = [name for o in stored.get("observables", ()) for name in o.get("snapshots", ())]
    require("memory" in observed, "run", stored.get("dynamics"), "a phase diagram, made by `dysonjax phase-diagram`")
    grid = stored["grid"]
    return PhaseDiagram(
        tuple(grid["learning_rate"]), tuple(grid["init_width"]), tuple(grid["batch_size"]), len(grid["seed"]),
        stored["steps"] // batches, batches, len(stored["snapshots"]), tuple(widths[1:-1]), stored["activation"],
        stored["key"][-1],
    )  # fmt: skip


def order_parameters(network: TanhNetwork) -> Observable:
    """Test error, memory, alignment and the terms of the Langevin criterion, at every snapshot, on the test inputs."""
    w = list(network.shapes)[-2]
    rows, columns = network.shapes[w]
    require(
        2 <= rows <= columns, "hidden", network.hidden, "a last layer of at least 2 and at most the width before it"
    )
    require(
        w in network.trained_names, "trained", network.trained, f"{w}, the matrix of the last hidden layer, among them"
    )

    def on_tests(state: SGDState, hyper: Hyper) -> _Forward:
        return forward(network, hyper["data"].task | state.params, hyper["data"].test)

    def init(spectra: Spectra, state: SGDState, hyper: Hyper) -> Float[Array, "n K R"]:
        return on_tests(state, hyper).spins

    def result(start: Array, spectra: Spectra, state: SGDState, hyper: Hyper) -> tuple[dict[str, Array], PyTree]:
        seen = on_tests(state, hyper)
        drift, repulsion, published = langevin_terms(state.params[w], seen.z, seen.pull)
        total = lambda x: jnp.sum(x, axis=(0, 1))  # noqa: E731
        field2, spins2 = total(jnp.square(seen.field)), total(jnp.square(seen.spins))
        values = {
            "test_error": total(jnp.square(seen.error)) / len(start),
            "memory": jnp.mean(start * seen.spins, axis=(0, 1)),
            "alignment": total(seen.field * seen.spins) / (jnp.sqrt(field2) * jnp.sqrt(spins2) * len(start)),
            "drift": drift,
            "repulsion": repulsion,
            "repulsion_published": published,
        }
        return values, start

    config = {"snapshots": sorted(_ORDER_PARAMETERS)}
    return Observable(init, result, _ORDER_PARAMETERS, of_block=True, config=config)


class _Forward(NamedTuple):
    """Of n examples for each replica: z = W s₀, φ, y − y_t, the aligning field h = Zᵀ y_t, and ∂L/∂z."""

    z: Float[Array, "n K R"]
    spins: Float[Array, "n K R"]
    error: Float[Array, "n outputs R"]
    field: Float[Array, "n K R"]
    pull: Float[Array, "n K R"]


def forward(network: TanhNetwork, weights: Weights, examples: tuple[Array, Array]) -> _Forward:
    """What a block's last hidden layer makes of examples (inputs [n, …, R], targets [n, outputs, R])."""
    barrier, readout = jax.lax.optimization_barrier, weights[list(network.shapes)[-1]]

    def some(inputs: Array, target: Array) -> _Forward:
        z = barrier(network.last_hidden(weights, inputs))
        spins = barrier(network.activate(z))
        error = barrier(matvec(readout, spins) - target)
        pull = matvec_transposed(readout, error) * network.slope(spins)
        return _Forward(z, spins, error, matvec_transposed(readout, target), pull)

    return map_examples(some, *examples)


def langevin_terms(
    w: Float[Array, "K L R"], z: Float[Array, "n K R"], pull: Float[Array, "n K R"]
) -> tuple[Float[Array, " R"], Float[Array, " R"], Float[Array, " R"]]:
    """Drift K_t, and Coulomb repulsion V_t in two readings, for R networks of K ≥ 3 levels, z and ∂L/∂z of n samples.

    For each sample D = W gᵀ + g Wᵀ with its gradient g = [Zᵀ(y − y_t)] a'(z) s₀ᵀ; in the eigenbasis of W Wᵀ, levels in
    descending order, K̃ is the mean of D and Ṽ its variance element by element. With K_t = |K̃_11| − |K̃_KK| and
    V_t = 2Ṽ_1K/(K−1) + Σ_{k=1}^{K−2} (Ṽ_{1,1+k} + Ṽ_{K,K−k})/k, the network is learnable when
    K_t/(√r (K−1)) ≥ T V_t/(4σ_W²). The published V_t takes the variance first and then rotates that matrix as if it
    were a tensor; the other takes the variance of the rotated D, which is what repels levels.
    """
    basis = lift(lambda w: jnp.linalg.eigh(w @ w.T)[1][:, ::-1])(w)
    edges = jnp.array([0, -1])
    edge_rows = jnp.swapaxes(basis[:, edges], 0, 1)
    n, everything = len(z), jnp.arange(len(w))

    # D = z pᵀ + p zᵀ, p = ∂L/∂z: turning the two vectors is cheaper than turning D
    turned = map_examples(lambda *vectors: tuple(matvec_transposed(basis, v) for v in vectors), z, pull)
    half = sum_of_chunks(sum_of_outer, *chunks((z, pull))) / n
    mean = half + jnp.swapaxes(half, 0, 1)
    mean_turned = matmul(edge_rows, matmul(mean, basis))

    def squares(z: Array, p: Array, of: Array, mean: Array) -> Float[Array, "r K R"]:
        deviation = z[:, of, None] * p[:, None] + p[:, of, None] * z[:, None] - mean
        return dot(deviation, deviation)

    def both(z: Array, p: Array, z_turned: Array, p_turned: Array) -> tuple[Array, Array]:
        return squares(z_turned, p_turned, edges, mean_turned), squares(z, p, everything, mean)

    exact, own = jax.tree.map(lambda x: x / n, sum_of_chunks(both, *chunks((z, pull, *turned))))
    return (
        jnp.abs(mean_turned[0, 0]) - jnp.abs(mean_turned[1, -1]),
        _edge_repulsion(exact),
        _edge_repulsion(matmul(edge_rows, matmul(own, basis))),
    )


def _edge_repulsion(v: Float[Array, "2 K R"]) -> Float[Array, " R"]:
    """V_t from the first and the last row of Ṽ."""
    count = v.shape[1]
    k = jnp.arange(1, count - 1)
    return 2 * v[0, -1] / (count - 1) + jnp.sum((v[0, k] + v[1, count - 1 - k]) / k[:, None], axis=0)
