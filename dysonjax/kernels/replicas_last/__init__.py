"""Any function of one replica as a function of a tile, with replicas on the last axis of every array inside it."""

from dysonjax.kernels.replicas_last.interpreter import lift

__all__ = ["lift"]
