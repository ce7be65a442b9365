"""Full-matrix stochastic gradient descent for any model: W ← W − (α/|B|) Σ_{b∈B} ∂L_b/∂W, α learning rate, B batch."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from dysonjax import spectra
from dysonjax.core.dynamics import Dynamics, Hyper, Parameter, Spectra, lift
from dysonjax.core.errors import InputError, require, whole
from dysonjax.core.model import (
    HasChains,
    Model,
    MomentModel,
    Network,
    block_gradient_of,
    default_init_width,
    mean_loss,
)
from dysonjax.core.observables import Observable, Variable, mean, snapshot
from dysonjax.dynamics.batches import Batches
from dysonjax.dynamics.contrastive_divergence import contrastive_divergence
from dysonjax.dynamics.training import train
from dysonjax.dynamics.wishart_sgd import sgd_of_moments
from dysonjax.kernels.products import chunks, sum_of_chunks

Optimizer = Callable[[Array], Any]


class SGDState(NamedTuple):
    """Trained parameters, the optimiser's state, and the loss on the last batch before its update."""

    params: PyTree
    optimizer: PyTree
    loss: Array


class SGDData(NamedTuple):
    """Drawn once per replica: the model's task, the fixed batches [batches, B, …] (None: fresh ones), test examples."""

    task: PyTree
    batches: PyTree
    test: PyTree


def sgd(
    model: Model | MomentModel | Network,
    *,
    batches: Batches = "default",
    tests: int = 128,
    optimizer: Optimizer | None = None,
    sampling: Literal["examples", "wishart", "population"] = "examples",
) -> Dynamics:
    """SGD on `model` with real mini-batches, as a `Dynamics`.

    Hyper-parameters: `learning_rate` α, `batch_size` |B|, `init_width` σ_W (default 1). Records the levels of every
    matrix the model watches, `train_loss` (mean over the updates since the last snapshot, each before its update),
    `test_loss`, and `gradient_norm` (on as many training examples as there are tests). A model with chains of its own
    (`models.GaussianRBM`) is trained by contrastive divergence.

    Args:
        model: what is trained: a network of the papers, one with the functions of `models.Model`, or your own by
            `models.FlaxModel` and `models.FunctionModel`.
        batches: a number K: an epoch is K fixed batches, drawn once per replica and used in fixed order (the setting of
            arXiv:2509.01349); 1000 of them by default. None: a fresh batch for every update. Your own network's batches
            are reshuffled epochs by default; see `train`.
        tests: how many other examples give the test loss; of finite data, those that the fixed batches leave over, or
            training examples if none are left. Your own network has test data of its own; see `train`.
        optimizer: function of the learning rate that returns an optax transform, for example `optax.adam`; None is
            plain SGD. Your own network's optimiser may have more hyper-parameters; see `train`.
        sampling: "examples" computes a batch's gradient from its examples. "wishart", for a model with
            `moment_gradient` (`models.MomentModel`), draws the second moment of a fresh batch from its Wishart law,
            which is the same SGD at a cost that does not depend on |B|. "population" descends the loss of an infinite
            batch, without |B|. The latter two record the levels alone.

    Returns:
        The dynamics, for `scan` or `simulate`.

    Raises:
        InputError: a bad argument, or one that the model cannot do.

    >>> dynamics = sgd(TanhNetwork())  # doctest: +SKIP
    """
    kinds = ("examples", "wishart", "population")
    require(sampling in kinds, "sampling", sampling, f"one of {', '.join(kinds)}")
    chains = isinstance(model, HasChains)
    plain = optimizer is None or (sampling == "examples" and not chains)
    require(plain, "optimizer", optimizer, "None: plain SGD for this model and sampling")
    if sampling != "examples":
        return sgd_of_moments(model, sampling)  # type: ignore[arg-type]
    if isinstance(model, HasChains):
        return contrastive_divergence(model)
    if isinstance(model, Network):
        return train(model, optimizer, batches=batches, tests=tests)
    return of_examples(model, 1000 if batches == "default" else batches, tests, optimizer)  # type: ignore[arg-type]


def of_examples(model: Model, batches: Any, tests: int, optimizer: Optimizer | None) -> Dynamics:
    """SGD on a `Model`, whose loss is that of one example."""
    expected = "a model; models.FlaxModel makes one of a flax module, a loss and data"
    require(isinstance(model, Model), "model", model, expected)
    tests = whole("tests", tests)
    batches = None if batches is None else whole("batches", batches)

    def data(key: PRNGKeyArray, hyper: Hyper) -> SGDData:
        size = hyper["batch_size"]
        check_data(model, batches, size)
        task_key, train_key, test_key = jax.random.split(key, 3)
        task = model.task(task_key)
        if batches is None:
            return SGDData(task, None, model.sample(test_key, min(tests, model.examples or tests), task))
        trained = batches * size
        if model.examples is None:
            drawn, test = model.sample(train_key, trained, task), model.sample(test_key, tests, task)
        else:
            drawn = model.sample(train_key, min(trained + tests, model.examples), task)
            left = slice(trained, None) if model.examples > trained else slice(tests)
            test = jax.tree.map(lambda x: x[left], drawn)
        fixed = jax.tree.map(lambda x: x[:trained].reshape(batches, size, *x.shape[1:]), drawn)
        return SGDData(task, fixed, test)

    def batch(key: PRNGKeyArray, hyper: Hyper) -> PyTree:
        given: SGDData = hyper["data"]
        if batches is None:
            return model.sample(key, hyper["batch_size"], given.task)
        return jax.tree.map(lambda x: x[hyper["step"] % batches], given.batches)

    def init(key: PRNGKeyArray, hyper: Hyper) -> SGDState:
        task = hyper["data"].task
        param_key, batch_key = jax.random.split(key)
        params = model.init(param_key, task, hyper["init_width"])
        loss = mean_loss(model, params, batch(batch_key, {**hyper, "step": 0}), task)
        return SGDState(params, optimizer(hyper["learning_rate"]).init(params) if optimizer else (), loss)

    def step(key: PRNGKeyArray, state: SGDState, hyper: Hyper) -> SGDState:
        loss, gradient = jax.value_and_grad(lambda p: mean_loss(model, p, batch(key, hyper), hyper["data"].task))(
            state.params
        )
        params, moved = descend(state.params, gradient, state.optimizer, hyper["learning_rate"])
        return SGDState(params, moved, loss)

    def descend(params: PyTree, gradient: PyTree, state: PyTree, rate: Array) -> tuple[PyTree, PyTree]:
        if optimizer is None:
            return jax.tree.map(lambda w, g: w - rate * g, params, gradient), ()
        import optax

        updates, state = optimizer(rate).update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    by_hand = block_gradient_of(model)
    width = Parameter(default_init_width(model))

    def block_step(keys: PRNGKeyArray, state: SGDState, hyper: Hyper) -> SGDState:
        if batches is None:
            draw = lambda key, task: model.sample(key, hyper["batch_size"], task)  # noqa: E731
            examples = lift(draw)(keys, hyper["data"].task)
        else:
            examples = batch(keys, hyper)
        assert by_hand is not None
        loss, gradient = by_hand(state.params, examples, hyper["data"].task)
        move = lift(descend) if optimizer else descend  # plain SGD is the same code for one replica and for a block
        params, moved = move(state.params, gradient, state.optimizer, hyper["learning_rate"])
        return SGDState(params, moved, loss)

    return Dynamics(
        init=init,
        step=step,
        block_step=block_step if by_hand else None,
        lifted=False,  # a grid of GPTs has been recorded so
        spectra=lambda state: {name: spectra.levels(w) for name, w in model.matrices(state.params).items()},
        data=data,
        healthy=lambda state: jnp.isfinite(state.loss),
        parameters={"learning_rate": Parameter(), "batch_size": Parameter(integer=True), "init_width": width},
        static=("batch_size",),
        observables=loss_observables(model),
        config={
            "dynamics": "sgd",
            "batches": batches,
            "tests": tests,
            "optimizer": getattr(optimizer, "__name__", None),
            **model.config,
        },
    )


def loss_observables(model: Model) -> tuple[Observable, ...]:
    """Train loss, test loss and gradient norm of a model under `sgd`."""
    by_hand = block_gradient_of(model)
    if by_hand:
        parts, norm, loss_and_gradient = chunks, lift(_norm), by_hand
    else:
        parts = functools.partial(jax.tree.map, lambda x: x[None])  # the compiler's choice how many at a time
        norm, loss_and_gradient = _norm, jax.value_and_grad(functools.partial(mean_loss, model))

    def on_tests(spectra: Spectra, state: SGDState, hyper: Hyper) -> Array:
        given: SGDData = hyper["data"]
        losses = jax.lax.map(lambda part: loss_and_gradient(state.params, part, given.task)[0], parts(given.test))
        return jnp.mean(losses, axis=0)

    def gradient_norm(spectra: Spectra, state: SGDState, hyper: Hyper) -> Array:
        given: SGDData = hyper["data"]
        examples = parts(_some_training_examples(given))
        gradient = sum_of_chunks(lambda part: loss_and_gradient(state.params, part, given.task)[1], examples)
        return norm(gradient) / len(jax.tree.leaves(examples)[0])

    return (
        mean("train_loss", lambda spectra, state, hyper: state.loss, Variable((), "batch loss, mean over the updates")),
        snapshot("test_loss", on_tests, Variable((), "loss on the test examples"), of_block=bool(by_hand)),
        snapshot(
            "gradient_norm",
            gradient_norm,
            Variable((), "Frobenius norm of the gradient of the loss, on as many training examples as there are tests"),
            of_block=bool(by_hand),
        ),
    )


def _some_training_examples(data: SGDData) -> PyTree:
    """The first fixed batches, about as many examples as there are tests; fresh batches are like the tests."""
    if data.batches is None:
        return data.test
    tests = len(jax.tree.leaves(data.test)[0])
    batches, size, *_ = jax.tree.leaves(data.batches)[0].shape
    some = min(batches, -(-tests // size))
    return jax.tree.map(lambda x: x[:some].reshape(some * size, *x.shape[2:]), data.batches)


def check_data(model: Model, batches: int | None, batch_size: int) -> None:
    """Raise `InputError` when the model's data are too few for the batches asked for."""
    if model.examples is None:
        return
    require(batch_size <= model.examples, "batch_size", batch_size, f"at most {model.examples}, the number of examples")
    if (batches or 0) * batch_size > model.examples:
        fit = model.examples // batch_size
        raise InputError(
            f"batches = {batches}: expected at most {fit} of {batch_size} from {model.examples} examples, or None"
        )


__all__: list[Any] = ["SGDData", "SGDState", "check_data", "loss_observables", "sgd"]


def _norm(gradient: PyTree) -> Array:
    import optax

    return optax.tree.norm(gradient)
