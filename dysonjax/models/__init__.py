"""Models to train: what a model is (`Model`, `MomentModel`), anybody's flax module (`FlaxModel`), the papers' ones."""

from dysonjax.core.model import Model, MomentModel
from dysonjax.models.flax_model import FlaxModel
from dysonjax.models.linear import LinearNetwork
from dysonjax.models.rbm import RBM, GaussianRBM, scalar_field_kernel
from dysonjax.models.tanh_network import FeedForward, TanhNetwork

__all__ = [
    "RBM",
    "FeedForward",
    "FlaxModel",
    "GaussianRBM",
    "LinearNetwork",
    "Model",
    "MomentModel",
    "TanhNetwork",
    "scalar_field_kernel",
]
