"""`train`: a network of a user's own under any optax optimiser, whose settings are hyper-parameters of the grid."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from dysonjax import spectra
from dysonjax.core.dynamics import Dynamics, Hyper, Parameter, Spectra
from dysonjax.core.errors import InputError, require, shown, whole
from dysonjax.core.model import Network
from dysonjax.core.observables import Observable, Variable, mean, snapshots
from dysonjax.dynamics.batches import Batches, Examples, batches_for

Schedule = Callable[[Array, Array], Array]
OWN_PARAMETERS = ("batch_size", "init_width", "seed", "steps")
NUMERICS = 3
"""1: batches were K fixed ones, drawn by `Model.sample`. 2: examples come in reshuffled epochs. 3: large networks lie
in tiles of eight, whose products are summed in another order."""


class TrainingState(NamedTuple):
    """Parameters, the network's own state, the optimiser's; loss and metrics of the last batch before its update."""

    params: PyTree
    state: PyTree
    optimizer: PyTree
    loss: Array
    metrics: dict[str, Array]


def train(
    model: Network,
    optimizer: Callable[..., Any] | None = None,
    *,
    batches: Batches = "default",
    tests: int = 128,
    schedule: Schedule | None = None,
    **fixed: Any,
) -> Dynamics:
    """Training of a user's own network, as a `Dynamics`.

    Hyper-parameters: `learning_rate` (the optimiser's first argument), every other argument of `optimizer` whose value
    is a float, `batch_size`, and `init_width`, which multiplies the watched matrices at the start. An argument that may
    be a number and is None (optax.sgd's `momentum`) is one where the grid names it. Records the levels of every watched
    matrix, `train_loss` and train metrics (means over the updates since the last snapshot, each before its update), and
    `test_loss` and test metrics where there are test data.

        dj.train(model, optax.adamw)                                # axes: learning_rate, b1, b2, eps, weight_decay, …
        dj.train(model, optax.sgd, momentum=0.9, nesterov=True)     # momentum is 0.9 where the grid does not name it
        dj.train(model, lambda rate, clip=1.0: optax.chain(optax.clip_by_global_norm(clip), optax.adam(rate)))

    Args:
        model: `models.FlaxModel` or `models.FunctionModel`.
        optimizer: an optax optimiser, or any function that returns one from the learning rate and numbers; it must take
            traced numbers, as optax's optimisers do. None is plain gradient descent. Gradients are accumulated by a
            function that returns `optax.MultiSteps(…, every_k)`.
        batches: "epochs", the default: batches follow one another in epochs, each in an order of its own, where every
            example comes once. "replacement": examples are drawn independently. A number K: K fixed batches in fixed
            order (arXiv:2509.01349). None: every batch is fresh, its examples distinct. Of a data function: K or None.
        tests: how many test examples are used, at most, the same for all replicas; of a data function so many fresh
            ones for each replica. If K fixed batches leave examples over, they are test examples where none are given.
        schedule: `(update, steps)` → a factor of the learning rate, for example
            `lambda t, n: jnp.minimum(t / 100, 1) * (1 - t / n)`. t counts from 0, n is the number of updates in all.
        fixed: arguments of `optimizer`: a float is the default of a hyper-parameter, all else is fixed.

    Returns:
        The dynamics, for `scan` or `simulate`.

    Raises:
        InputError: a bad argument.
    """
    require(isinstance(model, Network), "model", model, "a network; models.FlaxModel makes one of a flax module")
    examples = Examples(model, batches_for(model, batches), whole("tests", tests))
    require(schedule is None or callable(schedule), "schedule", schedule, "a function of update and steps, or None")
    arguments, settings = _arguments(optimizer, fixed)

    def transform(hyper: Hyper) -> Any:
        assert optimizer is not None
        return optimizer(_rate(schedule, hyper), **{n: hyper[n] for n in arguments if n in hyper}, **settings)

    def init(key: PRNGKeyArray, hyper: Hyper) -> TrainingState:
        param_key, batch_key = jax.random.split(key)
        params, state = model.start(param_key, hyper["init_width"])
        first = {**hyper, "step": jnp.int32(0)}
        loss, metrics, _ = model.batch_loss(params, state, examples.batch(batch_key, first), batch_key, True)
        moments = transform({**first, "steps": jnp.int32(1)}).init(params) if optimizer else ()
        return TrainingState(params, state, moments, loss, metrics)

    def step(key: PRNGKeyArray, now: TrainingState, hyper: Hyper) -> TrainingState:
        draw_key, loss_key = jax.random.split(key)
        drawn = examples.batch(draw_key, hyper)

        def of_params(params: PyTree) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
            loss, metrics, state = model.batch_loss(params, now.state, drawn, loss_key, True)
            return loss, (metrics, state)

        (loss, (metrics, state)), gradient = jax.value_and_grad(of_params, has_aux=True)(now.params)
        if optimizer is None:
            rate = _rate(schedule, hyper)
            params, moments = jax.tree.map(lambda w, g: w - rate * g, now.params, gradient), ()
        else:
            import optax

            updates, moments = transform(hyper).update(gradient, now.optimizer, now.params)
            params = optax.apply_updates(now.params, updates)
        # a traced number of more digits must not change the kind of what is carried
        after = TrainingState(params, state, moments, loss, metrics)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), after, now)

    return Dynamics(
        init=init,
        step=step,
        spectra=lambda now: {name: spectra.levels(w) for name, w in model.matrices(now.params).items()},
        data=lambda key, hyper: examples.draw(key, hyper["batch_size"]),
        healthy=lambda now: jnp.isfinite(now.loss),
        parameters={
            "learning_rate": Parameter(),
            "batch_size": Parameter(integer=True),
            "init_width": Parameter(1.0),
            **arguments,
        },
        static=("batch_size",),
        observables=_observables(model, examples),
        shared_bytes=examples.shared_bytes,
        config={
            "dynamics": "sgd",
            "numerics": NUMERICS,
            "batches": examples.batches,
            "tests": examples.tests,
            "optimizer": None if optimizer is None else _name(optimizer),
            **({"schedule": _name(schedule)} if schedule else {}),
            **({"fixed": {name: repr(value) for name, value in sorted(settings.items())}} if settings else {}),
            **model.config,
        },
    )


def _rate(schedule: Schedule | None, hyper: Hyper) -> Array:
    if schedule is None:
        return hyper["learning_rate"]
    factor = schedule(hyper["step"], hyper["steps"])
    require(jnp.shape(factor) == (), "schedule", shown(schedule), f"one number, not an array {jnp.shape(factor)}")
    return hyper["learning_rate"] * factor


def _arguments(optimizer: Any, fixed: Mapping[str, Any]) -> tuple[dict[str, Parameter], dict[str, Any]]:
    """Numbers of an optimiser that are hyper-parameters, and its other arguments with the values given."""
    if optimizer is None:
        require(not fixed, "optimizer", optimizer, f"an optimiser, which takes {', '.join(fixed)}")
        return {}, {}
    expected = "a function of the learning rate, such as optax.adam, that returns an optax optimiser"
    require(callable(optimizer) and not isinstance(optimizer, tuple), "optimizer", optimizer, expected)
    try:
        function: Any = optimizer
        _, *others = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise InputError(f"optimizer = {shown(optimizer)}: expected {expected}") from None
    known = {p.name: p for p in others if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    for name, value in fixed.items():
        require(name in known, name, value, f"arguments of {_name(optimizer)} among {', '.join(known) or 'none'}")
    found, settings = {}, {}
    for name, parameter in known.items():
        value = fixed.get(name, parameter.default)
        if isinstance(value, float) or (value is None and _may_be_number(parameter.annotation)):
            require(name not in OWN_PARAMETERS, "optimizer", name, f"arguments not named {', '.join(OWN_PARAMETERS)}")
            found[name] = Parameter(value, minimum=float("-inf"), optional=value is None)
        elif name in fixed:
            settings[name] = value
    return found, settings


def _may_be_number(annotation: Any) -> bool:
    """Whether an annotation such as `float | None` allows a number; one may stand there as a string."""
    return "float" in annotation if isinstance(annotation, str) else float in typing.get_args(annotation)


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _observables(model: Network, examples: Examples) -> tuple[Observable, ...]:
    """Train loss and metrics, and those of the test examples if there are any."""

    def of_training(name: str) -> Observable:
        measure = lambda spectra, now, hyper: now.metrics[name]  # noqa: E731
        return mean(f"train_{name}", measure, Variable((), f"batch {name}, mean over the updates"))

    def on_tests(spectra: Spectra, now: TrainingState, hyper: Hyper) -> dict[str, Array]:
        loss, metrics, _ = model.batch_loss(now.params, now.state, examples.test(hyper), jax.random.key(0), False)
        return {"test_loss": loss, **{f"test_{name}": value for name, value in metrics.items()}}

    loss = mean("train_loss", lambda spectra, now, hyper: now.loss, Variable((), "batch loss, mean over the updates"))
    training = (loss, *map(of_training, model.metrics))
    if not examples.tested:
        return training
    labels = {f"test_{name}": Variable((), f"{name} on the test examples") for name in ("loss", *model.metrics)}
    return (*training, snapshots(on_tests, labels))
