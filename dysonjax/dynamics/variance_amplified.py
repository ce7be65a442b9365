"""SVAG: stochastic variance-amplified gradient, which leads from SGD to its stochastic differential equation.

Li, Malladi and Arora, "On the validity of modeling SGD with stochastic differential equations (SDEs)", NeurIPS 2021
(arXiv:2102.12470): with two independent batches B₁, B₂ and r = √(2ℓ − 1),

    W ← W − (α/ℓ) [½(1 + r) ∇L_{B₁} + ½(1 − r) ∇L_{B₂}].

The bracket has the mean ∇L and the covariance ½(1 + r²) Σ/|B| = ℓ Σ/|B|, so that ℓ updates have the drift and the noise
of one SGD update, in smaller and smaller pieces: ℓ = 1 is SGD, ℓ → ∞ is dW = −∇L dt + √T Σ^{1/2} dB, T = α/|B|.
Where level statistics do not depend on ℓ, the equation describes SGD.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from dysonjax import spectra
from dysonjax.core.dynamics import Dynamics, Hyper, Parameter, all_finite, lift
from dysonjax.core.errors import require, whole
from dysonjax.core.model import HasExampleGradients, HasLoss, block_gradient_of, default_init_width
from dysonjax.dynamics.gradients import batch_gradient, by_examples, example_gradients, loss_and_gradient
from dysonjax.dynamics.stochastic_gradient import SGDData, SGDState, of_examples


def svag(model: Any, order: int, *, tests: int = 128) -> Dynamics:
    """SVAG of order ℓ on fresh batches of `model`, as a `Dynamics`; ℓ updates take the time of one SGD update.

    Hyper-parameters as in `sgd`: `learning_rate` α (that of SGD, not α/ℓ), `batch_size` |B| of each of the two batches,
    `init_width`. Records what `sgd` does, the batch loss being that of B₁; of a model without a loss the levels only.

    Args:
        model: one with a loss, or with `example_gradients(key, params, num, task) -> [num, …]` (`state.loss` is then
            NaN).
        order: ℓ ≥ 1.
        tests: how many other examples give the test loss.

    Returns:
        The dynamics, for `scan` or `simulate`.

    Raises:
        InputError: a bad argument.

    >>> dynamics = svag(TanhNetwork(), 4)  # doctest: +SKIP
    """
    order = whole("order", order)
    has_gradients = isinstance(model, HasLoss | HasExampleGradients)
    require(has_gradients, "model", type(model).__name__, "a model with a loss or with `example_gradients`")
    amplified = (2 * order - 1) ** 0.5
    first, second = (1 + amplified) / 2, (1 - amplified) / 2

    def descend(params: PyTree, one: PyTree, two: PyTree, rate: Array) -> PyTree:
        return jax.tree.map(lambda w, g, h: w - rate / order * (first * g + second * h), params, one, two)

    def step(key: PRNGKeyArray, state: SGDState, hyper: Hyper) -> SGDState:
        keys, size, task = jax.random.split(key), hyper["batch_size"], hyper["data"].task
        loss, one = loss_and_gradient(model, keys[0], state.params, size, task)
        two = batch_gradient(model, keys[1], state.params, size, task)
        return SGDState(descend(state.params, one, two, hyper["learning_rate"]), (), loss)

    by_hand = block_gradient_of(model)

    def block_step(keys: PRNGKeyArray, state: SGDState, hyper: Hyper) -> SGDState:
        assert by_hand is not None
        task = hyper["data"].task
        draw = lift(lambda key, task: model.sample(key, hyper["batch_size"], task))
        keys = lift(jax.random.split)(keys)
        loss, one = by_hand(state.params, draw(keys[0], task), task)
        two = by_hand(state.params, draw(keys[1], task), task)[1]
        return SGDState(descend(state.params, one, two, hyper["learning_rate"]), (), loss)

    config = {"dynamics": "svag", "order": order, **model.config}
    if not by_examples(model):
        base = of_examples(model, None, tests, None)
        fast = block_step if by_hand else None
        return dataclasses.replace(base, step=step, block_step=fast, config={**config, "tests": tests})

    def init(key: PRNGKeyArray, hyper: Hyper) -> SGDState:
        return SGDState(model.init(key, hyper["data"].task, hyper["init_width"]), (), jnp.asarray(jnp.nan))

    return Dynamics(
        init=init,
        step=step,
        lifted=False,
        spectra=lambda state: {name: spectra.levels(w) for name, w in model.matrices(state.params).items()},
        data=lambda key, hyper: SGDData(model.task(key), None, None),
        healthy=lambda state: all_finite(state.params),
        parameters={
            "learning_rate": Parameter(),
            "batch_size": Parameter(integer=True),
            "init_width": Parameter(default_init_width(model)),
        },
        static=("batch_size",),
        config=config,
    )


__all__ = ["batch_gradient", "example_gradients", "svag"]
