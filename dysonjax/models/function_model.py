"""`FunctionModel`: a network as two functions, which is how equinox, haiku or plain JAX come in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from dysonjax.core.errors import InputError, require, shown
from dysonjax.models.given import fault, named_arguments
from dysonjax.models.own_network import OwnNetwork, Watch

OF_STATE = "a function that returns (loss, state) or (loss, metrics, state)"


@dataclass(frozen=True, eq=False)
class FunctionModel(OwnNetwork):
    """Two functions with data: `init_function(key)` gives parameters, `loss_function(params, example)` the loss.

        model = dj.models.FunctionModel(
            init_function=lambda key: {"w": jax.random.normal(key, (3, 8)) / 3**0.5},
            loss_function=lambda params, example: jnp.sum((jnp.tanh(example[0] @ params["w"]) - example[1]) ** 2),
            data=(inputs, targets),
        )

    An equinox module comes in as its arrays:

        arrays, rest = eqx.partition(Net(jax.random.key(0)), eqx.is_array)
        model = dj.models.FunctionModel(
            init_function=lambda key: eqx.filter(Net(key), eqx.is_array),
            loss_function=lambda arrays, example: loss(eqx.combine(arrays, rest), example),
            data=(inputs, targets),
        )

    Args:
        init_function: `key` → parameters, any pytree of arrays, all of which are trained; (parameters, state) if it is
            `stateful`.
        loss_function: `(params, example)` → a real scalar, or that and metrics {name: scalar}; with `of_batch`
            `(params, examples)`. One that names `key`, `train` or `state` among its parameters gets them. If it is
            `stateful` it returns (loss, state) or (loss, metrics, state).
        data: as in `FlaxModel`, and so are `test_data`, `of_batch`, `watch` and `by_head`.
        test_data: examples that are not trained on.
        of_batch: the loss is that of a whole batch.
        watch: which matrices are watched.
        by_head: heads of attention are watched one by one.
        stateful: there is a state that is not trained, and every update may change it.

    Raises:
        InputError: from the exception of the function at fault where there is one; nothing is computed.
    """

    init_function: Callable[[PRNGKeyArray], PyTree]
    loss_function: Callable[..., Any]
    data: PyTree | Callable[[PRNGKeyArray, int], PyTree]
    test_data: PyTree = None
    of_batch: bool = False
    watch: Watch = "*"
    by_head: bool = False
    stateful: bool = False

    def __post_init__(self):
        require(callable(self.init_function), "init_function", self.init_function, "a function of a key")
        require(isinstance(self.stateful, bool), "stateful", self.stateful, "True or False")
        self._check()

    @property
    def _name(self) -> str:
        return getattr(self.init_function, "__name__", type(self.init_function).__name__)

    def network(self, params: PyTree, state: PyTree = None) -> Any:
        """The parameters, with the state where there is one: what the user's own functions take."""
        return (params, state) if self.stateful else params

    def _start(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        expected = "a function of a key that returns " + ("(parameters, state)" if self.stateful else "parameters")
        try:
            made = self.init_function(key)
        except Exception as error:
            raise fault("init_function", self.init_function, expected, error) from error
        if not self.stateful:
            made = made, {}
        require(isinstance(made, tuple) and len(made) == 2, "init_function", self.init_function, expected)
        leaves = jax.tree.leaves(made[0])
        right = bool(leaves) and all(jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in leaves)
        require(right, "init_function", self.init_function, f"{expected}, which are arrays of real numbers")
        return made

    def _run(
        self, params: PyTree, state: PyTree, examples: PyTree, key: PRNGKeyArray, train: bool
    ) -> tuple[Any, PyTree]:
        named = named_arguments(self.loss_function, key=key, train=train, state=state)
        result = self.loss_function(params, examples, **named)
        if not self.stateful:
            return result, state
        if not (isinstance(result, tuple) and len(result) in (2, 3)):
            raise InputError(f"loss_function = {shown(self.loss_function)}: expected {OF_STATE}, as it is stateful")
        return (result[0] if len(result) == 2 else result[:2]), result[-1]
