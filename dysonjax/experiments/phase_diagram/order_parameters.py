"""What the phase diagram measures (arXiv:2509.01349): order parameters, and the terms of the Langevin criterion.

W is the matrix of the last hidden layer [K, L], Z the one behind it, φ = a(W s₀) the soft spins.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dysonjax import spectra
from dysonjax.core.dynamics import Hyper, Spectra, lift
from dysonjax.core.errors import require
from dysonjax.core.observables import Observable, Variable
from dysonjax.dynamics.stochastic_gradient import SGDState
from dysonjax.experiments.repulsion import edge_repulsion
from dysonjax.kernels.products import (
    chunks,
    dot,
    map_examples,
    matmul,
    matvec,
    matvec_transposed,
    sum_of_chunks,
    sum_of_outer,
)
from dysonjax.models.tanh_network import TanhNetwork, Weights

_ORDER_PARAMETERS = {
    "test_error": Variable((), "mean square error ⟨|y_t − y|²⟩ on the test inputs, twice test_loss (which has ½)"),
    "memory": Variable((), "q_time = (1/nK) Σ φ(0)·φ(t)"),
    "alignment": Variable((), "hs = (1/n) ⟨h, φ⟩/(|h| |φ|), h = Zᵀ y_t"),
    "drift": Variable((), "K_t = |K̃_11| − |K̃_KK|"),
    "repulsion": Variable((), "V_t from the variances of D in the eigenbasis of W Wᵀ, the g_ij² of Dyson's equation"),
    "repulsion_published": Variable((), "V_t from the matrix of variances of D, itself rotated, as published"),
}


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

    def init(spectra: Spectra, state: SGDState, hyper: Hyper) -> Float[Array, "n K R"]:
        weights = hyper["data"].task | state.params
        return map_examples(lambda *some: _seen(network, weights, *some).spins, *hyper["data"].test)

    def result(start: Array, spectra: Spectra, state: SGDState, hyper: Hyper) -> tuple[dict[str, Array], PyTree]:
        weights, n = hyper["data"].task | state.params, len(start)
        inputs, target, begun = chunks((*hyper["data"].test, start))
        criterion = LangevinCriterion(state.params[w], *_seen(network, weights, inputs[0], target[0])[:2])

        def sums(inputs: Array, target: Array, begun: Array) -> tuple[Any, ...]:
            z, pull, spins, error, field = _seen(network, weights, inputs, target)
            pairs = (error, error), (begun, spins), (field, spins), (field, field), (spins, spins)
            return *(dot(*pair) for pair in pairs), criterion.sums(z, pull)

        *scalars, of_langevin = sum_of_chunks(sums, inputs, target, begun)
        error2, memory, overlap, field2, spins2 = (jnp.sum(x, axis=0) for x in scalars)
        drift, repulsion, published = criterion.terms(of_langevin, n)
        values = {
            "test_error": error2 / n,
            "memory": memory / (n * rows),
            "alignment": overlap / (jnp.sqrt(field2) * jnp.sqrt(spins2) * n),
            "drift": drift,
            "repulsion": repulsion,
            "repulsion_published": published,
        }
        return values, start

    config = {"snapshots": sorted(_ORDER_PARAMETERS)}
    return Observable(init, result, _ORDER_PARAMETERS, of_block=True, config=config)


class _Seen(NamedTuple):
    """Of n examples for each replica: z = W s₀, ∂L/∂z, φ, y − y_t, and the field h = Zᵀ y_t that φ aligns with."""

    z: Float[Array, "n K R"]
    pull: Float[Array, "n K R"]
    spins: Float[Array, "n K R"]
    error: Float[Array, "n outputs R"]
    field: Float[Array, "n K R"]


def _seen(network: TanhNetwork, weights: Weights, inputs: Array, target: Array) -> _Seen:
    """What the last hidden layer makes of examples: inputs [n, …, R], targets [n, outputs, R]."""
    barrier, readout = jax.lax.optimization_barrier, weights[list(network.shapes)[-1]]
    z = barrier(network.last_hidden(weights, inputs))
    spins = barrier(network.activate(z))
    error = barrier(matvec(readout, spins) - target)
    pull = barrier(matvec_transposed(readout, error) * network.slope(spins))
    return _Seen(z, pull, spins, error, matvec_transposed(readout, target))


class LangevinCriterion:
    """Drift K_t, and Coulomb repulsion V_t in two readings, for R networks of K ≥ 3 levels, from sums over samples.

    For each sample D = W gᵀ + g Wᵀ with its gradient g = [Zᵀ(y − y_t)] a'(z) s₀ᵀ; in the eigenbasis of W Wᵀ, levels in
    descending order, K̃ is the mean of D and Ṽ its variance element by element. With K_t = |K̃_11| − |K̃_KK| and
    V_t = 2Ṽ_1K/(K−1) + Σ_{k=1}^{K−2} (Ṽ_{1,1+k} + Ṽ_{K,K−k})/k, the network is learnable when
    K_t/(√r (K−1)) ≥ T V_t/(4σ_W²). The published V_t takes the variance first and then rotates that matrix as if it
    were a tensor, so that it changes sign with the eigenvectors, whose signs nothing fixes; the other takes the
    variance of the rotated D, which is what repels levels.

    `w` [K, L, R]; `z` and `pull` [n, K, R], z = W s₀ and p = ∂L/∂z of some samples: squares are summed around the mean
    of D = z pᵀ + p zᵀ over these, so that nothing cancels in the variances.
    """

    def __init__(self, w: Float[Array, "K L R"], z: Float[Array, "n K R"], pull: Float[Array, "n K R"]):
        self._basis = lift(lambda w: spectra.levels_and_vectors(w)[1])(w)
        self._edges = jnp.array([0, -1])
        self._edge_rows = jnp.swapaxes(self._basis[:, self._edges], 0, 1)
        self._centre = self._mean(sum_of_outer(z, pull), len(z))
        self._turned_centre = self._turn(self._centre)

    def sums(self, z: Float[Array, "n K R"], pull: Float[Array, "n K R"]) -> tuple[Array, Array, Array]:
        """What `terms` needs of samples, added up over them."""
        turn = lambda x: jax.lax.optimization_barrier(matvec_transposed(self._basis, x))  # noqa: E731
        of_edges = _squares(turn(z), turn(pull), self._edges, self._turned_centre)  # two vectors are cheaper than D
        return sum_of_outer(z, pull), of_edges, _squares(z, pull, jnp.arange(z.shape[1]), self._centre)

    def terms(
        self, sums: tuple[Array, Array, Array], n: int
    ) -> tuple[Float[Array, " R"], Float[Array, " R"], Float[Array, " R"]]:
        """K_t, V_t and the published V_t from the sums over n samples."""
        outer, of_edges, own = sums
        mean = self._mean(outer, n)
        edges = self._turn(mean)
        exact = of_edges / n - jnp.square(edges - self._turned_centre)
        published = self._turn(own / n - jnp.square(mean - self._centre))
        return jnp.abs(edges[0, 0]) - jnp.abs(edges[1, -1]), edge_repulsion(exact), edge_repulsion(published)

    def _mean(self, outer: Float[Array, "K K R"], n: int) -> Float[Array, "K K R"]:
        return (outer + jnp.swapaxes(outer, 0, 1)) / n

    def _turn(self, d: Float[Array, "K K R"]) -> Float[Array, "2 K R"]:
        """First and last row of D in the eigenbasis."""
        return matmul(self._edge_rows, matmul(d, self._basis))


def _squares(z: Array, p: Array, rows: Array, centre: Array) -> Float[Array, "r K R"]:
    """Σ (D − centre)² over samples, element by element, for some rows of D = z pᵀ + p zᵀ."""
    deviation = z[:, rows, None] * p[:, None] + p[:, rows, None] * z[:, None] - centre
    return dot(deviation, deviation)
