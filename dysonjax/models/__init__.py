"""Models to train: what a model is (`Model`, `MomentModel`), anybody's network (`FlaxModel`, `FunctionModel`),
the papers' ones."""

from typing import TYPE_CHECKING

from dysonjax.core.lazy import public
from dysonjax.core.model import Model, MomentModel
from dysonjax.models.handwriting import digits
from dysonjax.models.linear import LinearNetwork
from dysonjax.models.rbm import GaussianRBM, scalar_field_kernel
from dysonjax.models.tanh_network import TanhNetwork

if TYPE_CHECKING:
    from dysonjax.models.feed_forward import FeedForward
    from dysonjax.models.flax_model import FlaxModel
    from dysonjax.models.function_model import FunctionModel
    from dysonjax.models.rbm_module import RBM

__all__ = [
    "RBM",
    "FeedForward",
    "FlaxModel",
    "FunctionModel",
    "GaussianRBM",
    "LinearNetwork",
    "Model",
    "MomentModel",
    "TanhNetwork",
    "digits",
    "scalar_field_kernel",
]

_FLAX = {
    "RBM": "dysonjax.models.rbm_module:RBM",
    "FeedForward": "dysonjax.models.feed_forward:FeedForward",
    "FlaxModel": "dysonjax.models.flax_model:FlaxModel",
    "FunctionModel": "dysonjax.models.function_model:FunctionModel",
}
"""Importing flax takes longer than all the rest."""

if not TYPE_CHECKING:
    __getattr__, _ = public(__name__, _FLAX)
