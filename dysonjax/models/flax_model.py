"""`FlaxModel`: anybody's flax module, nnx or linen, with a loss and data, ready for `train` and `sgd`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PRNGKeyArray, PyTree

from dysonjax.core.errors import InputError, require, shown
from dysonjax.models.given import fault, named_arguments
from dysonjax.models.own_network import OwnNetwork, Watch

EXPECTED = "a function of nnx.Rngs that builds an nnx module, or a linen module"


@dataclass(frozen=True, eq=False)
class FlaxModel(OwnNetwork):
    """A flax module with a loss and data.

        model = dj.models.FlaxModel(
            module=lambda rngs: MyNet(rngs=rngs),
            loss_function=lambda net, example: jnp.sum((net(example[0]) - example[1]) ** 2),
            data=(inputs, targets),                      # or: lambda key, num: (inputs, targets), fresh ones
        )
        ds = dj.scan(dj.sgd(model), dj.Grid(learning_rate=[0.01, 0.1], batch_size=[8]), steps=1000)

    Every `nnx.Param` is trained (linen: the collection "params"). Other variables, such as BatchNorm's averages, are
    state: each replica has its own, and every update may change it. The network is in training mode in updates and in
    evaluation mode on test data (nnx: `net.train()`, `net.eval()`; linen: `net.training`, for your loss to pass on).
    Random streams (dropout) are seeded anew in each update, from the replica's key and the update's number.

    Args:
        module: a function that builds the network from an `nnx.Rngs`, or a linen module.
        loss_function: `(net, example)` → a real scalar, or that and metrics {name: scalar}, which are recorded like
            losses; with `of_batch` `(net, examples)`. One that names `key` among its parameters gets a random key;
            `train`: whether the network is trained.
        data: a pytree of arrays with a common leading axis, which all replicas share; lists of numbers are arrays, too;
            or a function `(key, num) -> examples`.
        test_data: the same of examples that are not trained on: they give `test_loss` and test metrics.
        of_batch: the loss is that of a whole batch. It must be if the network has BatchNorm.
        watch: which matrices are watched and multiplied by `init_width` at the start: patterns of names ("*" stands for
            anything), a function of a name, or None for no levels. Arrays of more than two axes are folded: kernels of
            convolutions to [H·W·C_in, C_out], of attention to [in, heads·features].
        by_head: every head of attention is a matrix by itself, `name[0]`, `name[1]`, …

    Raises:
        InputError: from the exception of the function at fault where there is one. Module, data and loss are tried with
            shapes alone, and nothing is computed.
    """

    module: Any
    loss_function: Callable[..., Any]
    data: PyTree | Callable[[PRNGKeyArray, int], PyTree]
    test_data: PyTree = None
    of_batch: bool = False
    watch: Watch = "*"
    by_head: bool = False

    def __post_init__(self):
        if not _is_linen(self.module):
            require(callable(self.module), "module", self.module, "a function")
        self._check()

    @property
    def _name(self) -> str:
        return type(self.module if _is_linen(self.module) else self._built).__name__

    def network(self, params: PyTree, state: PyTree = None) -> Any:
        """The user's own module with these parameters and state, for predictions: in evaluation mode."""
        return self._net(params, state, jax.random.key(0), train=False)

    def _start(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        if _is_linen(self.module):
            net = _LinenNet(self.module, None, key, training=False)
            self._call(net, self._zeros(), key, train=False)
            assert net.variables is not None
            return net.variables.pop("params", {}), net.variables
        params, *_, state = _parts(self._build(key))
        return params, state

    def _run(
        self, params: PyTree, state: PyTree, examples: PyTree, key: PRNGKeyArray, train: bool
    ) -> tuple[Any, PyTree]:
        of_net, of_loss = jax.random.split(key)
        net = self._net(params, state, of_net, train)
        result = self._call(net, examples, of_loss, train)
        if isinstance(net, _LinenNet):
            assert net.variables is not None
            return result, {name: x for name, x in net.variables.items() if name != "params"}
        return result, _parts(net)[-1]

    def _call(self, net: Any, examples: PyTree, key: PRNGKeyArray, train: bool) -> Any:
        return self.loss_function(net, examples, **named_arguments(self.loss_function, key=key, train=train))

    def _net(self, params: PyTree, state: PyTree, key: PRNGKeyArray, train: bool) -> Any:
        if _is_linen(self.module):
            return _LinenNet(self.module, {"params": params, **(state or {})}, key, train)
        _, keys, counts, _ = _parts(self._built)
        streams = len(jax.tree.leaves(keys))
        keys = jax.tree.unflatten(jax.tree.structure(keys), [*jax.random.split(key, streams)] if streams else [])
        counts = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), counts)
        # flax lets a variable change only where it was made: under the same transformations of JAX
        params, state = jax.tree.map(lambda x: x, (params, state))
        net = nnx.merge(nnx.graphdef(self._built), params, keys, counts, *(() if state is None else (state,)))
        net.train() if train else net.eval()
        return net

    def _build(self, key: Any) -> nnx.Module:
        try:
            made = self.module(nnx.Rngs(key))
        except Exception as error:
            raise fault("module", self.module, EXPECTED, error) from error
        if not isinstance(made, nnx.Module):
            raise InputError(f"module = {shown(self.module)}: expected {EXPECTED}, not {shown(made, 40)}")
        return made

    @cached_property
    def _built(self) -> nnx.Module:
        """The nnx module with shapes in place of numbers."""
        return nnx.eval_shape(lambda: self._build(0))

    def _zeros(self) -> PyTree:
        """Examples that tell a linen module its shapes."""
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self._some(2))
        return zeros if self.of_batch else jax.tree.map(lambda x: x[0], zeros)


class _LinenNet:
    """A linen module as the loss function calls it: with its variables, of which it keeps what a call has changed."""

    def __init__(self, module: Any, variables: dict[str, Any] | None, key: PRNGKeyArray, training: bool):
        self.module, self.variables, self.training = module, variables, training
        self._key, self._calls = key, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        # linen takes the stream "params" for every stream that is not given
        streams = {"params": jax.random.fold_in(self._key, self._calls)}
        self._calls += 1
        if self.variables is None:
            out, self.variables = self.module.init_with_output(streams, *args, **kwargs)
            return out
        changing = [name for name in self.variables if name != "params"] if self.training else []
        out = self.module.apply(self.variables, *args, rngs=streams, mutable=changing or False, **kwargs)
        if not changing:
            return out
        self.variables = {**self.variables, **out[1]}
        return out[0]


def _parts(net: nnx.Module) -> tuple[PyTree, PyTree, PyTree, PyTree]:
    """Parameters, keys and counts of random streams, and all else."""
    params, keys, counts, rest = nnx.state(net, nnx.Param, nnx.RngKey, nnx.RngCount, ...)
    return params, keys, counts, rest


def _is_linen(module: Any) -> bool:
    from flax import linen

    return isinstance(module, linen.Module)
