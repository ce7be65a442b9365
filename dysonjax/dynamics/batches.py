"""The examples of a user's own network: which are in a batch, which are tests; shared by all replicas where finite."""

import functools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from dysonjax.core.dynamics import Hyper
from dysonjax.core.errors import InputError, require, whole
from dysonjax.core.model import Network
from dysonjax.core.values import ByValue
from dysonjax.kernels.example_order import reshuffled, with_replacement

Batches = int | Literal["epochs", "replacement", "default"] | None


class Drawn(NamedTuple):
    """Of one replica: the key of its order of examples [2], and what was drawn for it alone where data have no end."""

    order: Array
    batches: PyTree
    test: PyTree


@dataclass(frozen=True, eq=False)
class Examples(ByValue):
    """How a network's examples are drawn; see `dynamics.training.train` for `batches` and `tests`."""

    model: Network
    batches: int | str | None
    tests: int

    @property
    def endless(self) -> bool:
        """Whether examples come from a function."""
        return callable(self.model.data)

    @property
    def tested(self) -> bool:
        """Whether there are test examples."""
        return self.model.test_data is not None or self.endless or isinstance(self.batches, int)

    @property
    def shared_bytes(self) -> int:
        """Of the examples that all replicas share."""
        held = (None if self.endless else self.model.data, self.model.test_data)
        return sum(x.size * jax.dtypes.canonicalize_dtype(x.dtype).itemsize for x in jax.tree.leaves(held))

    def draw(self, key: PRNGKeyArray, batch_size: int) -> Drawn:
        """What stays with a replica; raises `InputError` when examples are too few."""
        order_key, train_key, test_key = jax.random.split(key, 3)
        order, batches, total = _words(order_key), self.batches, self.model.examples
        if total is None:
            drawn = None
            if isinstance(batches, int):
                several = self.model.data(train_key, batches * batch_size)
                drawn = jax.tree.map(lambda x: x.reshape(batches, batch_size, *x.shape[1:]), several)
            tests = self.model.data(test_key, self.tests) if self.model.test_data is None else None
            return Drawn(order, drawn, tests)
        require(batch_size <= total, "batch_size", batch_size, f"at most {total}, the number of examples")
        if isinstance(batches, int) and batches * batch_size > total:
            fit = total // batch_size
            raise InputError(
                f"batches = {batches}: expected at most {fit} of {batch_size} from {total} examples, or None"
            )
        return Drawn(order, None, None)

    def batch(self, key: PRNGKeyArray, hyper: Hyper) -> PyTree:
        """The batch of an update, whose own key is `key`."""
        given: Drawn = hyper["data"]
        batches, size, total = self.batches, hyper["batch_size"], self.model.examples
        update = jnp.asarray(hyper["step"], jnp.int32)
        if total is None:
            if not isinstance(batches, int):
                return self.model.data(key, size)
            return jax.tree.map(lambda x: x[update % batches], given.batches)
        if batches == "replacement":
            return _rows(self.data, with_replacement(key, size, total))
        if batches is None:
            return _rows(self.data, reshuffled(_words(key), jnp.int32(0), size, total))
        number = update % batches if isinstance(batches, int) else update
        return _rows(self.data, reshuffled(given.order, number, size, total))

    def test(self, hyper: Hyper) -> PyTree:
        """The test examples, where there are any."""
        given: Drawn = hyper["data"]
        if self.model.test_data is not None:
            count = len(jax.tree.leaves(self.model.test_data)[0])
            if self.tests >= count:
                return self.test_data
            return _rows(self.test_data, reshuffled(jnp.zeros(2, jnp.uint32), jnp.int32(0), self.tests, count))
        total = self.model.examples
        if total is None:
            return given.test
        assert isinstance(self.batches, int)
        trained = self.batches * hyper["batch_size"]
        order = reshuffled(given.order, jnp.int32(0), total, total)
        return _rows(self.data, order[trained : trained + self.tests] if trained < total else order[: self.tests])

    @functools.cached_property
    def data(self) -> PyTree:
        """All training examples, on a device once, however often they are traced."""
        with jax.ensure_compile_time_eval():
            return jax.tree.map(jnp.asarray, self.model.data)

    @functools.cached_property
    def test_data(self) -> PyTree:
        """All test examples."""
        with jax.ensure_compile_time_eval():
            return jax.tree.map(jnp.asarray, self.model.test_data)


def batches_for(model: Network, batches: Any) -> int | str | None:
    """What is asked for, or what is right for such data; raises `InputError` for what is not possible."""
    endless = callable(model.data)
    if batches == "default":
        return None if endless else "epochs"
    if batches is None or (not endless and batches in ("epochs", "replacement")):
        return batches
    expected = "a number or None for a data function" if endless else '"epochs", "replacement", a number, or None'
    require(not isinstance(batches, str), "batches", batches, expected)
    return whole("batches", batches)


def _rows(data: PyTree, index: Array) -> PyTree:
    return jax.tree.map(lambda x: x.at[index].get(mode="promise_in_bounds"), data)


def _words(key: PRNGKeyArray) -> Array:
    return jax.random.key_data(key).astype(jnp.uint32)[:2]
