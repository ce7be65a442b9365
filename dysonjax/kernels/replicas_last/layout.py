"""What every rule shares: an operation to carry out for a tile, and how its operands get the axis of replicas."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


class Operation(NamedTuple):
    """One operation of a jaxpr: some operands have replicas on a last axis of their own, the others are shared."""

    equation: Any
    values: Sequence[Any]
    batched: Sequence[bool]
    replicas: int
    platform: str
    """Kind of device that it will run on."""

    @property
    def params(self) -> dict[str, Any]:
        """The primitive's parameters."""
        return self.equation.params

    @property
    def ranks(self) -> list[int]:
        """The number of axes of each operand, without that of replicas."""
        return [len(v.aval.shape) for v in self.equation.invars]

    def all(self) -> list[Array]:
        """All operands with replicas on the last axis."""
        return [last(v, b, self.replicas) for v, b in zip(self.values, self.batched, strict=True)]

    def bind(self, *values: Any, **params: Any) -> Any:
        """The same primitive of other operands and, where given, other parameters."""
        return self.equation.primitive.bind(*values, **{**self.params, **params})


def last(value: Any, batched: bool, replicas: int) -> Array:
    """An array with replicas on its last axis: a shared one is repeated, which XLA does without a copy."""
    if batched:
        return value
    value = jnp.asarray(value)
    return lax.broadcast_in_dim(value, (*value.shape, replicas), range(value.ndim))


def vmapped(op: Operation) -> Any:
    """The operation by JAX's own rule for a batch: right for every primitive, slower where it moves axes."""
    axes = tuple(-1 if b else None for b in op.batched)
    return jax.vmap(lambda *xs: bind(op.equation, xs), in_axes=axes, out_axes=-1)(*op.values)


def bind(equation: Any, values: Sequence[Any]) -> Any:
    """An equation's primitive of other operands of the same shapes; a custom derivative stays with it."""
    return equation.primitive.bind(*values, **equation.primitive.get_bind_params(equation.params))
