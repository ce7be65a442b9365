"""The settings of one GPT's training; by default the public nanoGPT recipe for a CPU.

The rate grows over the warm-up and falls as a cosine to a tenth; AdamW with weight decay on matrices only and gradients
clipped to a norm of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dysonjax.core.errors import require, whole

if TYPE_CHECKING:
    import optax
    from jaxtyping import PyTree

    from dysonjax.models import text as texts
    from dysonjax.models.gpt import GPTConfig
    from dysonjax.weights.monitor import SpectralMonitor


@dataclass(frozen=True)
class GPTSettings:
    """Network, text, optimiser, and which spectra are followed; the experiment `GPTRun` has these fields."""

    text: str = "shakespeare"
    """a UTF-8 file, or shakespeare (Tiny Shakespeare)"""
    layers: int = 4
    """blocks of attention and feed-forward network"""
    heads: int = 4
    """attention heads, a divisor of the channels"""
    channels: int = 128
    """width of the network"""
    context: int = 64
    """characters that are looked back on"""
    dropout: float = 0.0
    """share of activations set to zero in training"""
    bias: bool = False
    """whether linear maps and norms have biases"""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw or sgd"""
    learning_rate: float = 1e-3
    """the highest learning rate"""
    final_rate: float = 0.1
    """the last learning rate, as a share of the highest"""
    warmup: int | None = None
    """updates until the highest rate (default a twentieth of all)"""
    batch_size: int = 12
    """windows of text in an update"""
    steps: int = 2000
    """updates"""
    weight_decay: float = 0.1
    """decay of matrices"""
    beta1: float = 0.9
    """of Adam's first moment, or momentum of SGD"""
    beta2: float = 0.99
    """of Adam's second moment"""
    clip: float = 1.0
    """largest norm of a gradient"""
    validation_every: int = 250
    """updates between validation losses"""
    watch: str = "*/key/kernel"
    """names of the matrices whose spectra are followed, with wildcards, such as '*kernel'"""
    every: int | Literal["log"] = "log"
    """updates between two spectra, or log: 21 times, log-spaced"""
    key: int = 0
    """base of all random numbers"""

    def __post_init__(self):
        from dysonjax.models.gpt import GPTConfig

        require(self.optimizer in ("adamw", "sgd"), "optimizer", self.optimizer, "adamw or sgd")
        for name in ("batch_size", "steps", "validation_every"):
            whole(name, getattr(self, name))
        if self.every != "log":
            whole("every", self.every)  # the monitor would refuse it only after the text was downloaded
        whole("key", self.key, 0, 2**32 - 1)
        if self.warmup is not None:
            whole("warmup", self.warmup, 0)
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            require(np.isfinite(value) and value > 0, name, value, "a positive number")
        require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "a number of at least 0")
        require(0 <= self.final_rate <= 1, "final_rate", self.final_rate, "a share of the learning rate, 0 … 1")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a number of at least 0 and below 1")
        GPTConfig(2, self.context, self.layers, self.heads, self.channels, self.dropout, self.bias)

    @cached_property
    def source(self) -> texts.Text:
        """The text; raises `InputError` when it cannot be had or is shorter than the context."""
        from dysonjax.models import text as texts

        found = texts.load(self.text)
        found.check(self.context)
        return found

    @cached_property
    def network(self) -> GPTConfig:
        """The network's sizes."""
        from dysonjax.models.gpt import GPTConfig

        vocabulary = max(2, len(self.source.characters))
        return GPTConfig(vocabulary, self.context, self.layers, self.heads, self.channels, self.dropout, self.bias)

    def rate(self, step: Any) -> Any:
        """Learning rate of update `step`, counted from 0."""
        import jax.numpy as jnp

        warmup = min(self.steps // 20 if self.warmup is None else self.warmup, self.steps)
        progress = jnp.clip((step - warmup) / max(self.steps - warmup, 1), 0, 1)
        share = self.final_rate + (1 - self.final_rate) * (1 + jnp.cos(jnp.pi * progress)) / 2
        return self.learning_rate * jnp.where(step < warmup, (step + 1) / (warmup + 1), share)

    @cached_property
    def transform(self) -> optax.GradientTransformation:
        """The optimiser."""
        import jax
        import optax

        matrices = lambda params: jax.tree.map(lambda w: w.ndim > 1, params)  # noqa: E731
        decay = {"weight_decay": self.weight_decay, "mask": matrices}
        if self.optimizer == "adamw":
            step = [optax.adamw(self.rate, b1=self.beta1, b2=self.beta2, **decay)]
        else:
            step = [optax.add_decayed_weights(**decay), optax.sgd(self.rate, momentum=self.beta1 or None)]
        return optax.chain(optax.clip_by_global_norm(self.clip), *step)

    def initial(self) -> PyTree:
        """The parameters before the first update."""
        import jax

        return self.network.init(jax.random.fold_in(jax.random.key(self.key), 0))

    def monitor(self, params: PyTree) -> SpectralMonitor:
        """What records the spectra of the watched matrices, those of query, key and value also by head."""
        import jax

        from dysonjax.core.leaves import named_leaves
        from dysonjax.weights.monitor import SpectralMonitor

        kinds = ("query", "key", "value") if self.heads > 1 else ()
        names = named_leaves(jax.eval_shape(lambda: params))
        by_head = {f"*/{kind}/kernel": self.heads for kind in kinds if any(self._watches(n, kind) for n in names)}
        return SpectralMonitor(params, self.steps, self.watch, every=self.every, heads=by_head)

    def _watches(self, name: str, kind: str) -> bool:
        return name.endswith(f"/{kind}/kernel") and fnmatchcase(name, self.watch)
