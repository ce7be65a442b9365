"""What a model provides to be trained by `sgd`, and `FlaxModel`, which makes one of anybody's flax module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from dysonjax.core.errors import require

if TYPE_CHECKING:  # pyright holds a cached property for something else than the property that `Model` asks for
    cached_property = property
else:
    from functools import cached_property


@dataclass(frozen=True, eq=False)
class FlaxModel:
    """Any flax (nnx) module with a loss and a data source, ready for `sgd`.

        model = dj.models.FlaxModel(
            module=lambda rngs: MyNet(rngs=rngs),
            loss_function=lambda net, example: jnp.sum((net(example[0]) - example[1]) ** 2),
            data=(inputs, targets),                      # or: lambda key, num: (inputs, targets), fresh ones
        )
        ds = dj.scan(dj.sgd(model, batches=100), dj.Grid(learning_rate=[0.01, 0.1], batch_size=[8]), steps=1000)

    `module(rngs)` builds the network from an `nnx.Rngs`; every `nnx.Param` in it is trained, other variables stay as
    built. `loss_function(net, example)` is a scalar for one example. `data` is a pytree of arrays with a common leading
    axis, of which every replica draws its own without replacement, or a function `(key, num) -> examples`. All
    parameters with two axes that `watch(name)` accepts are watched, and multiplied by `init_width` at the start (1,
    the default, keeps the module's own initialisation).
    """

    module: Callable[[nnx.Rngs], nnx.Module]
    loss_function: Callable[[Any, PyTree], Array]
    data: PyTree | Callable[[PRNGKeyArray, int], PyTree]
    watch: Callable[[str], bool] = lambda name: True

    def __post_init__(self):
        if not callable(self.data):
            sizes = sorted({len(x) for x in jax.tree.leaves(self.data)})
            require(len(sizes) == 1 and sizes[0] > 0, "data", sizes, "arrays with one common leading axis")
        params = nnx.eval_shape(lambda: self.module(nnx.Rngs(0)))
        names = self.matrices(nnx.state(params, nnx.Param))
        require(bool(names), "module", type(params).__name__, "at least one watched parameter with two axes")

    @property
    def examples(self) -> int | None:
        return None if callable(self.data) else len(jax.tree.leaves(self.data)[0])

    @cached_property
    def config(self) -> Mapping[str, Any]:
        abstract = nnx.eval_shape(lambda: self.module(nnx.Rngs(0)))
        shapes = {name: list(x.shape) for name, x in _named(nnx.state(abstract, nnx.Param))}
        return {"model": type(abstract).__name__, "parameters": shapes, "examples": self.examples}

    def task(self, key: PRNGKeyArray) -> PyTree:
        return nnx.split(self.module(nnx.Rngs(key)), nnx.Param, ...)[2]

    def init(self, key: PRNGKeyArray, task: PyTree, init_width: Float[Array, ""]) -> PyTree:
        params = nnx.state(self.module(nnx.Rngs(key)), nnx.Param)
        watched = self.matrices(params)
        return jax.tree.map_with_path(lambda path, x: x * init_width if _name(path) in watched else x, params)

    def sample(self, key: PRNGKeyArray, num: int, task: PyTree) -> PyTree:
        if callable(self.data):
            return self.data(key, num)
        rows = _distinct(key, num, len(jax.tree.leaves(self.data)[0]))
        return jax.tree.map(lambda x: jnp.asarray(x)[rows], self.data)

    def loss(self, params: PyTree, example: PyTree, task: PyTree) -> Float[Array, ""]:
        graph = nnx.split(nnx.eval_shape(lambda: self.module(nnx.Rngs(0))), nnx.Param, ...)[0]
        return self.loss_function(nnx.merge(graph, params, task), example)

    def matrices(self, params: PyTree) -> Mapping[str, Array]:
        return {name: x for name, x in _named(params) if x.ndim == 2 and self.watch(name)}


def _distinct(key: PRNGKeyArray, num: int, total: int) -> Array:
    """`num` different numbers below `total`, every set of them equally likely."""
    if num * num > 8 * total:
        return jax.random.permutation(key, total)[:num]
    # Floyd's algorithm: a batch of few needs no sorting of all
    picks = jax.random.randint(key, (num,), 0, jnp.arange(total - num, total) + 1)

    def choose(i: Array, chosen: Array) -> Array:
        return chosen.at[i].set(jnp.where(jnp.any(chosen == picks[i]), total - num + i, picks[i]))

    return jax.lax.fori_loop(0, num, choose, jnp.full(num, -1))


def _named(params: PyTree) -> list[tuple[str, Array]]:
    return [(_name(path), x) for path, x in jax.tree.leaves_with_path(params)]


def _name(path: tuple[Any, ...]) -> str:
    """`layer.kernel` for a leaf of an nnx state."""
    words = [str(getattr(entry, "key", getattr(entry, "idx", getattr(entry, "name", entry)))) for entry in path]
    return ".".join(word for word in words if word != "value")
