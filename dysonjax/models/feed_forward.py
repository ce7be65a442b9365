"""The flax module that defines the papers' feed-forward networks."""

from collections.abc import Sequence

from flax import nnx
from jaxtyping import Array, Float

from dysonjax.models.activations import ACTIVATIONS, Activation


class FeedForward(nnx.Module):
    """y = w_n a(w_{n−1} … a(w_1 x)), no biases: the definition of the network."""

    def __init__(self, weights: Sequence[Float[Array, "m n"]], activation: Activation):
        self.weights = nnx.List([nnx.Param(w) for w in weights])
        self.activation = activation

    def __call__(self, x: Float[Array, " n"]) -> Float[Array, " outputs"]:
        *hidden, last = self.weights
        for w in hidden:
            x = ACTIVATIONS[self.activation][0](w @ x)
        return last @ x
