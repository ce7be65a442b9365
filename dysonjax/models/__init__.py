"""Models to train: what a model is (`Model`), anybody's flax module (`FlaxModel`), and the networks of the papers."""

from dysonjax.models.base import FlaxModel, Model
from dysonjax.models.tanh_network import FeedForward, TanhNetwork

__all__ = ["FeedForward", "FlaxModel", "Model", "TanhNetwork"]
