"""Contrastive divergence: the gradient of a likelihood whose second moment chains of the model estimate.

W ← W − α ∂(−ln L)/∂W, in which the model's own second moment is Ĉ = (1/|B|) Σ_b φ_b φ_bᵀ of |B| chains: persistent ones
(Tieleman, ICML 2008), new ones from the data, CD-k (Hinton, Neural Computation 14, 1771 (2002)), or exact draws.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from dysonjax import spectra
from dysonjax.core.dynamics import Dynamics, Hyper, Parameter, one_replica
from dysonjax.core.model import HasChains
from dysonjax.core.observables import Variable, snapshot
from dysonjax.kernels.products import sum_of_outer

TILE = 64
"""Replicas side by side on a CPU, by `benchmarks/rbm.py`."""
ESCAPED = 1e6
"""Entries of a watched matrix beyond this have run away."""


class ChainState(NamedTuple):
    """Parameters, persistent chains φ [B, N_v], and how many updates began outside the positive-definite region.

    Without persistent chains there is no array: one of no size, shared out over devices, crashes JAX 0.11.2 on a CPU.
    """

    params: PyTree
    chains: Any
    outside: Int[Array, ""]


def contrastive_divergence(model: HasChains) -> Dynamics:
    """Contrastive divergence of a machine with chains, as a `Dynamics`; `sgd` calls it.

    Records `outside`: updates so far that began where K is not positive definite, so that the model has no law.
    Persistent chains may come back from there; a replica whose numbers are no longer finite has diverged.
    """
    persistent = model.chains == "persistent"

    def init(key: PRNGKeyArray, hyper: Hyper) -> ChainState:
        chains = jnp.ones((hyper["batch_size"], model.visible)) if persistent else ()
        return ChainState(model.init(key, (), hyper["init_width"]), chains, jnp.int32(0))

    def block_step(keys: Key[Array, " R"], state: ChainState, hyper: Hyper) -> ChainState:
        u = model.factor(state.params)
        phi = chains_after(model, keys, state, u, hyper["batch_size"])
        slope = model.second_moment_gradient(state.params, sum_of_outer(phi, phi) / hyper["batch_size"])
        params = jax.tree.map(lambda w, g: w - hyper["learning_rate"] * g, state.params, slope)
        outside = state.outside + jnp.isnan(u[-1, -1])  # a failed pivot spoils all that follow
        return ChainState(params, phi if persistent else state.chains, outside)

    outside = Variable((), "updates that began outside the positive-definite region")
    parameters = {
        "learning_rate": Parameter(), "batch_size": Parameter(integer=True),
        "init_width": Parameter(model.init_width),
    }  # fmt: skip
    return Dynamics(
        init=init,
        step=one_replica(block_step),
        block_step=block_step,
        spectra=lambda state: {name: spectra.levels(w) for name, w in model.matrices(state.params).items()},
        healthy=lambda state: jnp.all(
            jnp.array([jnp.all(jnp.abs(w) < ESCAPED) for w in model.matrices(state.params).values()])
        ),
        parameters=parameters,
        static=("batch_size",),
        observables=(snapshot("outside", lambda s, state, h: state.outside, outside),),
        config={"dynamics": "sgd", "chains": model.chains, "sweeps": model.sweeps, **model.config},
        tile=TILE,
    )


def chains_after(
    model: HasChains, keys: Key[Array, " R"], state: ChainState, factor: Float[Array, "Nv Nv R"], batch: int
) -> Float[Array, "B Nv R"]:
    """φ of every chain after the sweeps of one update."""
    if model.chains == "exact":
        return model.exact_draws(keys, factor, batch)
    start = model.data_draws(keys, batch) if model.chains == "data" else state.chains
    return model.gibbs(keys, state.params, start, model.sweeps)
