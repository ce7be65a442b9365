"""What is measured of each watched matrix of a user's network: its memory, and the terms of the Langevin criterion."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dysonjax import spectra
from dysonjax.core.dynamics import Hyper, Spectra
from dysonjax.core.model import Network
from dysonjax.core.observables import Observable, Variable, snapshots
from dysonjax.experiments.repulsion import edge_repulsion
from dysonjax.models.own_network import OwnNetwork

FIRST = 8
"""Examples around whose mean squares are summed."""
LEAST_LEVELS, MOST_LEVELS = 3, 128
"""Matrices with fewer levels have no terms of the criterion; those with more would be most of a run's time."""
TERMS = {
    "drift": "K_t = |K̃_11| − |K̃_KK|",
    "repulsion": "V_t from the variances of D in the eigenbasis of W Wᵀ, the g_ij² of Dyson's equation",
    "repulsion_published": "V_t from the matrix of variances of D, itself rotated, as published",
}


def memory(model: Network) -> Observable | None:
    """Overlap ⟨W, W₀⟩/(|W| |W₀|) of every watched matrix with its initial value; None where nothing is watched.

    Recorded as `memory`, of several matrices as `memory_NAME`.
    """
    shapes = watched(model)
    if not shapes:
        return None
    names = recorded("memory", shapes)

    def init(spectra: Spectra, now: Any, hyper: Hyper) -> dict[str, Array]:
        return dict(model.matrices(now.params))

    def result(start: dict[str, Array], spectra: Spectra, now: Any, hyper: Hyper) -> tuple[dict[str, Array], PyTree]:
        here = model.matrices(now.params)
        return {names[matrix]: _overlap(w, start[matrix]) for matrix, w in here.items()}, start

    labels = {name: Variable((), f"overlap of {matrix} with its initial value") for matrix, name in names.items()}
    return Observable(init, result, labels, config={"snapshots": sorted(labels)})


def langevin_terms(model: Network, examples: int) -> Observable | None:
    """K_t and both V_t of the Langevin criterion (arXiv:2509.01349) for every watched matrix, on training examples.

    D = W gᵀ + g Wᵀ for the gradient g of each example's loss; see `LangevinCriterion`, which needs a layer of neurons
    and this one any matrix W [K, L], K ≤ L (else Wᵀ). The examples are the same for all replicas. Recorded as `drift`,
    `repulsion` and `repulsion_published`, of several matrices with their names behind.

    Args:
        model: whose loss must be that of one example.
        examples: how many, at most.

    Returns:
        None where the loss is that of a batch, or no watched matrix has 3 … 128 levels.
    """
    if not isinstance(model, OwnNetwork) or model.of_batch:
        return None
    shapes = {n: s for n, s in watched(model).items() if LEAST_LEVELS <= min(s) <= MOST_LEVELS}
    if not shapes:
        return None
    names = {term: recorded(term, watched(model)) for term in TERMS}
    count = examples if model.examples is None else min(examples, model.examples)
    with jax.ensure_compile_time_eval():
        drawn = model.sample(jax.random.key(0), count, None)
    slope = jax.grad(model.loss)

    def measure(spectra: Spectra, now: Any, hyper: Hyper) -> dict[str, Array]:
        w = {name: _wide(x) for name, x in model.matrices(now.params).items() if name in shapes}

        def pulls(example: PyTree) -> dict[str, Float[Array, "K K"]]:
            gradient = model.matrices(slope(now.params, example, now.state))
            products = {name: _times(w[name], _wide(gradient[name]).mT) for name in shapes}
            return {name: product + product.mT for name, product in products.items()}

        found = _criterion(w, pulls, drawn, count)
        return {names[term][matrix]: value for matrix, own in found.items() for term, value in own.items()}

    labels = {
        names[term][matrix]: Variable((), f"{what}, W = {matrix}") for term, what in TERMS.items() for matrix in shapes
    }
    return snapshots(measure, labels)


def watched(model: Network) -> dict[str, tuple[int, int]]:
    """Shapes of the watched matrices by name; nothing is computed."""
    found = jax.eval_shape(lambda key: dict(model.matrices(model.start(key, jnp.float32(1))[0])), jax.random.key(0))
    return {name: x.shape for name, x in found.items()}


def recorded(what: str, matrices: Mapping[str, Any]) -> dict[str, str]:
    """The recorded name for each matrix, as levels have it."""
    return {name: what if len(matrices) == 1 else f"{what}_{name}" for name in matrices}


def _criterion(
    w: dict[str, Array], pulls: Callable[[PyTree], dict[str, Array]], examples: PyTree, count: int
) -> dict[str, dict[str, Array]]:
    """The terms for each matrix of one replica, from sums over examples, one after the other.

    One by one, because JAX has no rule for convolutions whose gradients are mapped over examples and replicas at once.
    """
    bases = {name: spectra.levels_and_vectors(x)[1] for name, x in w.items()}
    first = jax.tree.map(lambda x: x[: min(count, FIRST)], examples)
    centre = {name: jnp.mean(d, axis=0) for name, d in jax.lax.map(pulls, first).items()}

    def edges(name: str, d: Array) -> Array:
        """First and last row of D in the eigenbasis [2, K]."""
        basis = bases[name]
        return _times(_times(basis[:, jnp.array([0, -1])].T, d), basis)

    def add(sums: PyTree, example: PyTree) -> tuple[PyTree, None]:
        new = {}
        for name, d in pulls(example).items():
            away = d - centre[name]  # squares are taken around a mean, so that nothing cancels
            turned = edges(name, away)
            new[name] = [away, away**2, turned, turned**2]
        return jax.tree.map(jnp.add, sums, new), None

    zeros = jax.tree.map(jnp.zeros_like, {n: [d, d, edges(n, d), edges(n, d)] for n, d in centre.items()})
    sums, _ = jax.lax.scan(add, zeros, examples)
    found = {}
    for name, own in sums.items():
        mean, square, turned, turned_square = (x / count for x in own)
        middle = edges(name, centre[name] + mean)
        exact, published = turned_square - turned**2, edges(name, square - mean**2)
        found[name] = {
            "drift": jnp.abs(middle[0, 0]) - jnp.abs(middle[1, -1]),
            "repulsion": edge_repulsion(exact[..., None])[0],
            "repulsion_published": edge_repulsion(published[..., None])[0],
        }
    return found


def _overlap(w: Array, start: Array) -> Array:
    return jnp.sum(w * start) / (jnp.sqrt(jnp.sum(w**2)) * jnp.sqrt(jnp.sum(start**2)))


def _wide(w: Array) -> Array:
    """W, or its transpose where it has more rows than columns."""
    return w if w.shape[-2] <= w.shape[-1] else w.mT


def _times(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")
