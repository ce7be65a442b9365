"""What a model provides to be trained, and what some models can do besides, each as a protocol to ask for."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from dysonjax.core.errors import require
from dysonjax.core.potentials import LevelTheory


@runtime_checkable
class Model(Protocol):
    """What `sgd` needs to know of a model. All functions are pure and speak of one replica.

    - `task(key)`: what is fixed for a replica's whole life (a teacher, frozen layers), drawn once;
    - `init(key, task, init_width)`: the trained parameters, any pytree; `init_width` σ_W scales the initial matrices;
    - `sample(key, num, task)`: `num` independent examples, a pytree with leading axis `num`;
    - `loss(params, example, task)`: a scalar for one example;
    - `matrices(params)`: the weight matrices to watch, {name: [m, n]};
    - `examples`: how many distinct examples there are, None for an endless source;
    - `config`: JSON that says what the model is.

    A model may also have `block_loss_and_gradient(params, examples, task)` for arrays that end with an axis of
    replicas: an optimisation of the mean of `loss` over the batch, [B, …, R] examples, and of its gradient.
    """

    @property
    def examples(self) -> int | None: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    def task(self, key: PRNGKeyArray) -> PyTree: ...
    def init(self, key: PRNGKeyArray, task: PyTree, init_width: Float[Array, ""]) -> PyTree: ...
    def sample(self, key: PRNGKeyArray, num: int, task: PyTree) -> PyTree: ...
    def loss(self, params: PyTree, example: PyTree, task: PyTree) -> Float[Array, ""]: ...
    def matrices(self, params: PyTree) -> Mapping[str, Array]: ...


class MomentModel(Protocol):
    """A model whose batch gradient knows its batch only through one second moment S = (1/|B|) Σ_b z_b z_bᵀ [d, d].

    The z_b ∈ R^d are independent standard normal vectors, from which the model makes its examples. So a batch can be
    drawn as one Wishart matrix whatever its size (`sgd` with `sampling="wishart"`), the population's gradient is that
    at S = 1, and the Langevin equation with the exact noise has S = 1 + G/√|B|, where G is symmetric and Gaussian with
    variance 1 off the diagonal and 2 on it. Functions speak of a block: replicas R on the last axis of every array.

    - `gaussians`: d;
    - `moment_gradient(params, moment, task)`: the batch's gradient [..., R] for S [d, d, R];
    - `gradient_noise(keys)`: one example's injected noise for keys [R], a Gaussian pytree like the parameters, or None;
      a batch of |B| has it over √|B| in addition to `moment_gradient`;
    - `init`, `task`, `matrices`, `config` as in `Model`, of one replica.
    """

    @property
    def gaussians(self) -> int: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    def task(self, key: PRNGKeyArray) -> PyTree: ...
    def init(self, key: PRNGKeyArray, task: PyTree, init_width: Float[Array, ""]) -> PyTree: ...
    def moment_gradient(self, params: PyTree, moment: Float[Array, "d d R"], task: PyTree) -> PyTree: ...
    def gradient_noise(self, keys: PRNGKeyArray) -> PyTree | None: ...
    def matrices(self, params: PyTree) -> Mapping[str, Array]: ...


@runtime_checkable
class Network(Protocol):
    """What `train` needs to know of a network of a user's own. All functions are pure and speak of one replica.

    - `data`: all training examples, a pytree of arrays [n, …], or a function `(key, num) -> examples` without end;
    - `test_data`: the same of test examples, or None;
    - `start(key, init_width)`: the trained parameters and the state that is not trained (BatchNorm's averages);
    - `batch_loss(params, state, examples, key, train)`: the mean loss of a batch, its metrics, and the state after it.
      `key` is that of this update's random numbers (dropout); `train`: the network learns and is not tested;
    - `matrices(params)`: the weight matrices to watch, {name: [m, n]}, none at all if levels are not wanted;
    - `metrics`: names of the metrics; `examples`: n, None for an endless source; `config`: JSON that says what the
      network is.
    """

    @property
    def data(self) -> PyTree: ...
    @property
    def test_data(self) -> PyTree: ...
    @property
    def metrics(self) -> tuple[str, ...]: ...
    @property
    def examples(self) -> int | None: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    def start(self, key: PRNGKeyArray, init_width: Float[Array, ""]) -> tuple[PyTree, PyTree]: ...
    def batch_loss(
        self, params: PyTree, state: PyTree, examples: PyTree, key: PRNGKeyArray, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array], PyTree]: ...
    def matrices(self, params: PyTree) -> Mapping[str, Array]: ...


@runtime_checkable
class HasLoss(Protocol):
    """A loss of one example, as `Model` has it."""

    def loss(self, params: PyTree, example: PyTree, task: PyTree) -> Float[Array, ""]: ...


@runtime_checkable
class HasBlockGradient(Protocol):
    """Mean loss and gradient of a batch for replicas on the last axis, written by hand; see `Model`."""

    def block_loss_and_gradient(
        self, params: PyTree, examples: PyTree, task: PyTree
    ) -> tuple[Float[Array, " R"], PyTree]: ...


@runtime_checkable
class HasMoments(Protocol):
    """The batch's gradient from one second moment; see `MomentModel`."""

    @property
    def gaussians(self) -> int: ...
    def moment_gradient(self, params: PyTree, moment: Float[Array, "d d R"], task: PyTree) -> PyTree: ...


@runtime_checkable
class HasExampleGradients(Protocol):
    """Gradients [num, …] of `num` independent examples, of one replica."""

    def example_gradients(self, key: PRNGKeyArray, params: PyTree, num: int, task: PyTree) -> PyTree: ...


@runtime_checkable
class HasChains(Protocol):
    """Trained by contrastive divergence, on chains φ [num, N_v, R] of the model's own units, replicas on the last axis.

    `chains`: "persistent", new ones from the "data", or "exact" draws; `sweeps` of Gibbs an update. `factor` is the
    upper triangular U with UᵀU = K, the inverse second moment, NaN where the model has no law.
    `second_moment_gradient`: the gradient for a measured second moment of φ.
    """

    @property
    def chains(self) -> str: ...
    @property
    def sweeps(self) -> int: ...
    @property
    def visible(self) -> int: ...
    @property
    def init_width(self) -> float: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    def init(self, key: PRNGKeyArray, task: PyTree, init_width: Float[Array, ""]) -> PyTree: ...
    def matrices(self, params: PyTree) -> Mapping[str, Array]: ...
    def factor(self, params: PyTree) -> Array: ...
    def exact_draws(self, keys: PRNGKeyArray, factor: Array, num: int) -> Array: ...
    def data_draws(self, keys: PRNGKeyArray, num: int) -> Array: ...
    def gibbs(self, keys: PRNGKeyArray, params: PyTree, phi: Array, sweeps: int) -> Array: ...
    def second_moment_gradient(self, params: PyTree, c: Array) -> PyTree: ...


@runtime_checkable
class HasLevelTheory(Protocol):
    """Drift, coupling and fixed points of the levels in closed form; raises `InputError` where there are none."""

    @property
    def config(self) -> Mapping[str, Any]: ...
    def level_theory(self) -> LevelTheory: ...


@runtime_checkable
class HasInitWidth(Protocol):
    """A default of the width σ_W of initial weights; it is 1 for other models."""

    @property
    def init_width(self) -> float: ...


def block_gradient_of(model: Any) -> Callable[..., tuple[Array, PyTree]] | None:
    """The model's `block_loss_and_gradient`, None where it has none."""
    return model.block_loss_and_gradient if isinstance(model, HasBlockGradient) else None


def default_init_width(model: Any) -> float:
    """σ_W where the grid gives none."""
    return model.init_width if isinstance(model, HasInitWidth) else 1.0


def mean_loss(model: Model, params: PyTree, examples: PyTree, task: PyTree) -> Float[Array, ""]:
    """Mean of the model's loss over examples with a leading axis; raises `InputError` where a loss is no scalar."""
    losses = jax.vmap(lambda example: model.loss(params, example, task))(examples)
    require(losses.ndim == 1, "loss", f"an array of shape {losses.shape[1:]}", "a scalar for one example")
    return jnp.mean(losses)
