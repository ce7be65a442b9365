"""What a model provides to be trained by `sgd`, and `FlaxModel`, which makes one of anybody's flax module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Number
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import KeyPath
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from dysonjax.core.errors import InputError, require, shown
from dysonjax.core.leaves import steps_of
from dysonjax.core.values import ByValue

if TYPE_CHECKING:  # pyright holds a cached property for something else than the property that `Model` asks for
    cached_property = property
else:
    from functools import cached_property


@dataclass(frozen=True, eq=False)
class FlaxModel(ByValue):
    """Any flax (nnx) module with a loss and a data source, ready for `sgd`.

        model = dj.models.FlaxModel(
            module=lambda rngs: MyNet(rngs=rngs),
            loss_function=lambda net, example: jnp.sum((net(example[0]) - example[1]) ** 2),
            data=(inputs, targets),                      # or: lambda key, num: (inputs, targets), fresh ones
        )
        ds = dj.scan(dj.sgd(model, batches=100), dj.Grid(learning_rate=[0.01, 0.1], batch_size=[8]), steps=1000)

    `module(rngs)` builds the network from an `nnx.Rngs`; every `nnx.Param` in it is trained, other variables stay as
    built. `loss_function(net, example)` is a scalar for one example. `data` is a pytree of arrays with a common leading
    axis, of which every replica draws its own without replacement, or a function `(key, num) -> examples`; lists of
    numbers are arrays, too. All parameters with two axes that `watch(name)` accepts are watched, and multiplied by
    `init_width` at the start (1, the default, keeps the module's own initialisation).

    Raises `InputError`, from the exception of the function at fault where there is one: module, data and loss are tried
    with shapes alone, and nothing is computed.
    """

    module: Callable[[nnx.Rngs], nnx.Module]
    loss_function: Callable[[Any, PyTree], Array]
    data: PyTree | Callable[[PRNGKeyArray, int], PyTree]
    watch: Callable[[str], bool] = lambda name: True

    def __post_init__(self):
        for name in ("module", "loss_function", "watch"):
            require(callable(getattr(self, name)), name, getattr(self, name), "a function")
        if not callable(self.data):
            object.__setattr__(self, "data", _arrays(self.data))
            sizes = sorted({x.shape[0] if x.ndim else 0 for x in jax.tree.leaves(self.data)})
            require(len(sizes) == 1 and sizes[0] > 0, "data", sizes, "arrays with one common leading axis")
        abstract = self._abstract()
        names = self.matrices(nnx.state(abstract, nnx.Param))
        require(bool(names), "module", type(abstract).__name__, "at least one watched parameter with two axes")
        self._check_loss(abstract)

    def _abstract(self) -> Any:
        """The module with shapes in place of numbers."""

        expected, others = "a function of nnx.Rngs that builds an nnx module", []

        def build() -> nnx.Module:
            made = self.module(nnx.Rngs(0))
            if not isinstance(made, nnx.Module):
                others.append(made)
                raise TypeError("no module")
            return made

        try:
            return nnx.eval_shape(build)
        except Exception as error:
            if others:
                raise InputError(
                    f"module = {shown(self.module)}: expected {expected}, not {shown(others[0], 40)}"
                ) from None
            raise _fault("module", self.module, expected, error) from error

    def _check_loss(self, abstract: Any) -> None:
        """Follow the shapes of one example through module and loss."""
        examples = self.data
        if callable(self.data):
            expected = "a function (key, num) that returns num examples"
            try:
                examples = jax.eval_shape(lambda key: self.data(key, 2), jax.random.key(0))
            except Exception as error:
                raise _fault("data", self.data, expected, error) from error
            shapes = [x.shape for x in jax.tree.leaves(examples)]
            right = shapes and all(shape[:1] == (2,) for shape in shapes)
            require(right, "data", self.data, f"{expected}, for num = 2 not arrays of shapes {shown(shapes)}")
        example = jax.eval_shape(lambda several: jax.tree.map(lambda x: x[0], several), examples)
        shapes = ", ".join(str(x.shape) for x in jax.tree.leaves(example))
        _, params, rest = nnx.split(abstract, nnx.Param, ...)
        expected = "a function (net, example) that returns a real scalar"
        try:
            loss = jax.eval_shape(self.loss, params, example, rest)
        except Exception as error:
            raise _fault(
                "loss_function", self.loss_function, f"{expected} for an example of {shapes}", error
            ) from error
        kinds = [(x.shape, jnp.issubdtype(x.dtype, jnp.floating)) for x in jax.tree.leaves(loss)]
        found = " and ".join(f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(loss)) or "None"
        require(kinds == [((), True)], "loss_function", self.loss_function, f"{expected}, not {found}")

    @property
    def examples(self) -> int | None:
        return None if callable(self.data) else len(jax.tree.leaves(self.data)[0])

    @cached_property
    def config(self) -> Mapping[str, Any]:
        abstract = self._abstract()
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
        graph = nnx.split(self._abstract(), nnx.Param, ...)[0]
        return self.loss_function(nnx.merge(graph, params, task), example)

    def matrices(self, params: PyTree) -> Mapping[str, Array]:
        return {name: x for name, x in _named(params) if x.ndim == 2 and self.watch(name)}


def _arrays(data: PyTree) -> PyTree:
    """Data whose leaves are arrays: a list of numbers is one, and so is a tuple of them but for the outermost pair."""

    def of_numbers(x: Any) -> bool:
        return isinstance(x, list | tuple) and all(isinstance(y, Number) or of_numbers(y) for y in x)

    outermost = isinstance(data, tuple) and not all(isinstance(x, Number) for x in data)
    try:
        leaves = jax.tree.map(
            lambda x: x if isinstance(x, np.ndarray | jax.Array) else np.asarray(x),
            data,
            is_leaf=lambda x: of_numbers(x) and not (outermost and x is data),
        )
    except Exception as error:  # what NumPy says of lists of different lengths
        raise _fault("data", data, "arrays, or lists of numbers of one length", error) from error
    for x in jax.tree.leaves(leaves):
        require(getattr(x.dtype, "kind", "V") not in "OSUMm", "data", x, "arrays of numbers")
    return leaves


def _fault(name: str, value: Any, expected: str, error: Exception) -> InputError:
    """One line about an exception of the user's own function, to be raised from it."""
    if isinstance(error, InputError):
        return error
    said = " ".join(str(error).split())
    why = type(error).__name__ + (f": {said}" if said else "")
    return InputError(f"{name} = {shown(value)}: expected {expected} ({why if len(why) < 160 else why[:159] + '…'})")


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


def _name(path: KeyPath) -> str:
    """`layer.kernel`: not joined by "/", and without a layer called "value", because stored runs have these names."""
    return ".".join(step for step in steps_of(path) if step != "value")
