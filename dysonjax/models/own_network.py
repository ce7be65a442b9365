"""What `FlaxModel` and `FunctionModel` share: data, loss of an example or of a batch, names of watched matrices."""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from dysonjax.core.errors import InputError, require, shown
from dysonjax.core.folding import ATTENTION, fold
from dysonjax.core.leaves import steps_of
from dysonjax.core.observables import Observable, Variable, snapshots
from dysonjax.core.values import ByValue
from dysonjax.models.given import arrays, fault, one_line, split_loss

Watch = str | Sequence[str] | Callable[[str], bool] | None
KEPT = "weights", "state"
"""What stands before the names of recorded parameters, and before those of the state."""
NO_MATRIX = ("bias", "scale")
"""Last parts of the names of parameters that a pattern passes over, whatever their shape."""


class OwnNetwork(ByValue):
    """A user's network: a `Network` (see `core.model`) made of `_start` and `_run`, which a subclass has.

    It is a `Model`, too, where its loss is that of one example and nothing but its parameters changes: what is not
    trained is the task then. A subclass lists the fields below among its own, because another one comes first.
    """

    loss_function: Callable[..., Any]
    data: PyTree | Callable[[PRNGKeyArray, int], PyTree]
    test_data: PyTree
    of_batch: bool
    watch: Watch
    by_head: bool
    metrics: tuple[str, ...]
    """Names of what the loss returns besides itself; found when the loss is checked."""

    def _start(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Parameters and state of a new network."""
        raise NotImplementedError

    @property
    def _name(self) -> str:
        """What the network is called in `config`."""
        raise NotImplementedError

    def _run(
        self, params: PyTree, state: PyTree, examples: PyTree, key: PRNGKeyArray, train: bool
    ) -> tuple[Any, PyTree]:
        """What the loss function returns, and the state after it."""
        raise NotImplementedError

    def _check(self) -> None:
        """Follow the shapes through network and loss; raises `InputError`, and computes nothing."""
        require(callable(self.loss_function), "loss_function", self.loss_function, "a function")
        for name in ("of_batch", "by_head"):
            require(isinstance(getattr(self, name), bool), name, getattr(self, name), "True or False")
        listed = isinstance(self.watch, list | tuple) and all(isinstance(p, str) for p in self.watch)
        right = self.watch is None or listed or isinstance(self.watch, str) or callable(self.watch)
        require(right, "watch", self.watch, "patterns of names such as '*kernel', a function of a name, or None")
        _set(self, data=self.data if callable(self.data) else arrays(self.data, "data"))
        if self.test_data is not None:
            _set(self, test_data=arrays(self.test_data, "test_data"))
            kinds = [
                [(x.shape[1:], jax.dtypes.canonicalize_dtype(x.dtype)) for x in jax.tree.leaves(examples)]
                for examples in (self.test_data, self._some(2))
            ]
            alike = jax.tree.structure(self.test_data) == jax.tree.structure(self._some(2)) and kinds[0] == kinds[1]
            require(alike, "test_data", kinds[0], f"examples like those of data, {kinds[1]}")
        params, state = self._abstract
        self._check_watch(params)
        self._check_loss(params, state)

    def _check_watch(self, params: PyTree) -> None:
        names = [name_of(path) for path, _ in jax.tree.leaves_with_path(params)]
        found = self._watched(params)
        if callable(self.watch):
            require(bool(found), "watch", self.watch, f"to accept the name of a matrix among {', '.join(names[:8])}")
        for pattern in () if self.watch is None or callable(self.watch) else _listed(self.watch):
            require(
                any(fnmatchcase(name, pattern) for name in found), "watch", pattern,
                f"a pattern of the names of matrices; the network has {', '.join(names[:8])}"
                + (", …" if len(names) > 8 else ""),
            )  # fmt: skip

    def _check_loss(self, params: PyTree, state: PyTree) -> None:
        examples = self._some(2)
        if not self.of_batch:
            examples = jax.eval_shape(lambda several: jax.tree.map(lambda x: x[0], several), examples)
        shapes = ", ".join(str(x.shape) for x in jax.tree.leaves(examples))
        arguments = "examples" if self.of_batch else "example"
        expected = f"a function (net, {arguments}) that returns a real scalar"
        key = jax.eval_shape(lambda: jax.random.key(0))
        try:
            for train in (True, False):

                def run(params: PyTree, state: PyTree, examples: PyTree, key: PRNGKeyArray, train: bool = train):
                    return self._run(params, state, examples, key, train)

                traced, out = jax.make_jaxpr(run, return_shape=True)(params, state, examples, key)
                _set(self, metrics=self._check_result(out[0], expected))
                self._check_state(traced, params, state, out[1])
        except InputError as error:
            raise one_line(error) from error.__cause__
        except Exception as error:
            wanted = f"{expected} for {'' if self.of_batch else 'an '}{arguments} of {shapes}"
            raise fault("loss_function", self.loss_function, wanted, error) from error

    def _check_result(self, result: Any, expected: str) -> tuple[str, ...]:
        """Names of the metrics; raises `InputError` for a wrong loss or metric."""
        wrong = f"{expected}, or that and its metrics"
        loss, metrics = split_loss(result, self.loss_function, wrong)
        kinds = [(x.shape, jnp.issubdtype(x.dtype, jnp.floating)) for x in jax.tree.leaves(loss)]
        found = " and ".join(f"{x.dtype}{list(x.shape)}" for x in jax.tree.leaves(loss)) or "None"
        require(kinds == [((), True)], "loss_function", self.loss_function, f"{expected}, not {found}")
        for name, x in metrics.items():
            scalar = isinstance(name, str) and getattr(x, "shape", None) == ()
            require(scalar and name != "loss", "loss_function", name, "metrics by name, each a scalar, not named loss")
        return tuple(metrics)

    def _check_state(self, traced: Any, params: PyTree, state: PyTree, after: PyTree) -> None:
        shape = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
        same = jax.tree.structure(state) == jax.tree.structure(after) and shape(state) == shape(after)
        told = {name_of(path): x.shape for path, x in jax.tree.leaves_with_path(after)}
        require(same, "state", shown(told), "what is not trained to keep its names, shapes and kinds in every update")
        first, count = len(jax.tree.leaves(params)), len(jax.tree.leaves(state))
        before, left = (
            traced.jaxpr.invars[first : first + count],
            traced.jaxpr.outvars[len(traced.out_avals) - count :],
        )
        if not self.of_batch and any(a is not b for a, b in zip(before, left, strict=True)):
            names = [name_of(path) for path, _ in jax.tree.leaves_with_path(state)]
            changed = [name for name, a, b in zip(names, before, left, strict=True) if a is not b]
            raise InputError(
                f"of_batch = False: expected True, a loss of a batch, because {changed[0]} changes in an update"
            )

    @cached_property
    def _abstract(self) -> tuple[PyTree, PyTree]:
        try:
            return jax.eval_shape(lambda: self._start(jax.random.key(0)))
        except InputError as error:
            raise one_line(error) from error.__cause__

    def _some(self, num: int) -> PyTree:
        """Shapes of `num` examples."""
        if not callable(self.data):
            kind = lambda x: jax.ShapeDtypeStruct((num, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype))  # noqa: E731
            return jax.tree.map(kind, self.data)
        expected, data = "a function (key, num) that returns num examples", self.data
        try:
            examples = jax.eval_shape(lambda key: data(key, num), jax.random.key(0))
        except Exception as error:
            raise fault("data", self.data, expected, error) from error
        shapes = [x.shape for x in jax.tree.leaves(examples)]
        right = shapes and all(shape[:1] == (num,) for shape in shapes)
        require(right, "data", self.data, f"{expected}, for num = {num} not arrays of shapes {shown(shapes)}")
        return examples

    @property
    def config(self) -> dict[str, Any]:
        shapes = {name_of(path): list(x.shape) for path, x in jax.tree.leaves_with_path(self._abstract[0])}
        return {"model": self._name, "parameters": shapes, "examples": self.examples}

    @property
    def examples(self) -> int | None:
        return None if callable(self.data) else len(jax.tree.leaves(self.data)[0])

    def start(self, key: PRNGKeyArray, init_width: Float[Array, ""]) -> tuple[PyTree, PyTree]:
        params, state = self._start(key)
        watched = set(self._watched(params))
        return jax.tree.map_with_path(lambda path, x: x * init_width if name_of(path) in watched else x, params), state

    def batch_loss(
        self, params: PyTree, state: PyTree, examples: PyTree, key: PRNGKeyArray, train: bool
    ) -> tuple[Float[Array, ""], dict[str, Array], PyTree]:
        if self.of_batch:
            result, state = self._run(params, state, examples, key, train)
            return *split_loss(result, self.loss_function), state
        keys = jax.random.split(key, len(jax.tree.leaves(examples)[0]))
        one = lambda example, key: split_loss(self._run(params, state, example, key, train)[0], self.loss_function)  # noqa: E731
        losses, metrics = jax.vmap(one)(examples, keys)
        return jnp.mean(losses), jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics), state

    def weights(self) -> Observable:
        """Records all parameters, and the state, at each snapshot; `restored` makes a network of them.

        Few snapshots keep it small: `dj.scan(…, observables=[model.weights()], snapshots=[steps])`.
        """
        labels = {
            name: Variable(tuple(f"{name}[{axis}]" for axis in range(x.ndim)), description)
            for tree, head, description in zip(self._abstract, KEPT, ("trained", "state, not trained"), strict=True)
            for name, x in _kept(tree, head).items()
        }

        def measure(spectra: Any, now: Any, hyper: Any) -> dict[str, Array]:
            return {**_kept(now.params, KEPT[0]), **_kept(now.state, KEPT[1])}

        return snapshots(measure, labels)

    def restored(self, replica: Any) -> Any:
        """The user's own network with the weights of one replica, ready for predictions (`network`).

        Args:
            replica: a dataset that holds `weights()`, of one replica, `ds.sel(learning_rate=…, batch_size=…, seed=…)`,
                at one snapshot or, without a choice, at the last.

        Raises:
            InputError: it holds no weights, or several replicas.
        """
        last = replica.isel(snapshot=-1) if "snapshot" in replica.dims else replica
        found = []
        for tree, head in zip(self._abstract, KEPT, strict=True):
            leaves = []
            for name, x in _kept(tree, head).items():
                require(name in last, "replica", list(map(str, last))[:6], f"weights, recorded by weights(); no {name}")
                alone = last[name].squeeze() if last[name].ndim > x.ndim else last[name]
                require(
                    alone.size == x.size, "replica", dict(last[name].sizes), f"one replica, {name} of shape {x.shape}"
                )
                leaves.append(jnp.asarray(alone.values.reshape(x.shape), x.dtype))
            found.append(jax.tree.unflatten(jax.tree.structure(tree), leaves))
        return self.network(*found)

    def network(self, params: PyTree, state: PyTree = None) -> Any:
        """What the user calls with these parameters and state."""
        raise NotImplementedError

    def matrices(self, params: PyTree) -> dict[str, Array]:
        found = {}
        for name, x in self._watched(params).items():
            columns = 2 if x.ndim > 2 and ATTENTION.fullmatch(name) else 1
            if self.by_head and x.ndim == 3 and (columns == 2 or name.endswith("out.kernel")):
                axis = 1 if columns == 2 else 0
                heads = {f"{name}[{i}]": jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])}
                found.update(heads)
            else:
                found[name] = fold(x, "flax", columns)
        return found

    def _watched(self, params: PyTree) -> dict[str, Array]:
        named = {name_of(path): x for path, x in jax.tree.leaves_with_path(params)}
        return {name: x for name, x in named.items() if x.ndim >= 2 and _accepts(self.watch, name)}

    def task(self, key: PRNGKeyArray) -> PyTree:
        return self._start(key)[1]

    def init(self, key: PRNGKeyArray, task: PyTree, init_width: Float[Array, ""]) -> PyTree:
        return self.start(key, init_width)[0]

    def sample(self, key: PRNGKeyArray, num: int, task: PyTree) -> PyTree:
        if callable(self.data):
            return self.data(key, num)
        rows = _distinct(key, num, len(jax.tree.leaves(self.data)[0]))
        return jax.tree.map(lambda x: jnp.asarray(x)[rows], self.data)

    def loss(self, params: PyTree, example: PyTree, task: PyTree) -> Float[Array, ""]:
        if self.of_batch:
            raise InputError("of_batch = True: expected False, the loss of one example, which this dynamics is made of")
        examples = jax.tree.map(lambda x: x[None], example)
        return self.batch_loss(params, task, examples, jax.random.key(0), True)[0]


def _kept(tree: PyTree, head: str) -> dict[str, Any]:
    """Leaves by the names that they are recorded under."""
    return {f"{head}.{name_of(path)}": x for path, x in jax.tree.leaves_with_path(tree)}


def name_of(path: KeyPath) -> str:
    """`layer.kernel`: not joined by "/", and without a layer called "value", because stored runs have these names."""
    return ".".join(step for step in steps_of(path) if step != "value")


def _accepts(watch: Watch, name: str) -> bool:
    if watch is None:
        return False
    if callable(watch):
        return watch(name)
    return name.split(".")[-1] not in NO_MATRIX and any(fnmatchcase(name, pattern) for pattern in _listed(watch))


def _listed(watch: str | Iterable[str]) -> list[str]:
    return [watch] if isinstance(watch, str) else list(watch)


def _set(model: Any, **values: Any) -> None:
    """Fields of a frozen dataclass, while it is made."""
    for name, value in values.items():
        object.__setattr__(model, name, value)


def _distinct(key: PRNGKeyArray, num: int, total: int) -> Array:
    """`num` different numbers below `total`, every set of them equally likely."""
    if num * num > 8 * total:
        return jax.random.permutation(key, total)[:num]
    # Floyd's algorithm: a batch of few needs no sorting of all
    picks = jax.random.randint(key, (num,), 0, jnp.arange(total - num, total) + 1)

    def choose(i: Array, chosen: Array) -> Array:
        return chosen.at[i].set(jnp.where(jnp.any(chosen == picks[i]), total - num + i, picks[i]))

    return jax.lax.fori_loop(0, num, choose, jnp.full(num, -1))
