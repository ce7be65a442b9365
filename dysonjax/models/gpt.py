"""A small GPT on characters, after the public nanoGPT: pre-norm blocks, causal attention, GELU, tied embeddings.

With h [T, C] the residual stream, every layer does h ← h + attention(LN h), h ← h + W_down gelu(W_up LN h), and the
logits are LN h Eᵀ with the token embedding E. Query, key and value are matrices of their own, [C, C], in which the
columns of head i are i C/h … (i + 1) C/h; the spectrum of KᵀK of the key matrix is what arXiv:2411.13512 follows.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from dysonjax.core.dynamics import Hyper, Spectra
from dysonjax.core.errors import require, whole
from dysonjax.core.observables import Observable, Variable, snapshot
from dysonjax.core.values import ByValue
from dysonjax.models.text import Text, windows

INIT_STD = 0.02
"""σ of every initial matrix (GPT-2); those that add to the residual stream have σ/√(2 layers)."""
KINDS = ("query", "key", "value", "output")


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a network; the defaults are nanoGPT's small recipe for a CPU with Tiny Shakespeare's 65 characters.

    `vocabulary`: distinct tokens V; `context`: the longest sequence T; `layers`; `heads` h; `channels` C, a multiple of
    h; `dropout`: the share of activations set to zero in training; `bias`: whether linear maps and norms have one.
    """

    vocabulary: int = 65
    context: int = 64
    layers: int = 4
    heads: int = 4
    channels: int = 128
    dropout: float = 0.0
    bias: bool = False

    def __post_init__(self):
        for name in ("vocabulary", "context", "layers", "heads", "channels"):
            whole(name, getattr(self, name))
        require(self.channels % self.heads == 0, "channels", self.channels, f"a multiple of heads = {self.heads}")
        rate = self.dropout
        ok = isinstance(rate, int | float) and not isinstance(rate, bool) and 0 <= rate < 1
        require(ok, "dropout", rate, "a number of at least 0 and below 1")
        require(isinstance(self.bias, bool), "bias", self.bias, "True or False")

    def module(self, key: PRNGKeyArray) -> "GPT":
        """The network with its initial parameters."""
        return GPT(self, nnx.Rngs(key))

    def init(self, key: PRNGKeyArray) -> dict[str, Any]:
        """The initial parameters as a dict of dicts of arrays."""
        return nnx.to_pure_dict(nnx.state(self.module(key), nnx.Param))

    def merge(self, params: PyTree) -> "GPT":
        """The network with these parameters."""
        graph, _, rest = nnx.split(nnx.eval_shape(lambda: GPT(self, nnx.Rngs(0))), nnx.Param, ...)
        return nnx.merge(graph, params, rest)


class GPT(nnx.Module):
    """The network: token numbers [..., T] to logits [..., T, V].

    >>> GPTConfig(vocabulary=5, context=8).module(jax.random.key(0))(jnp.zeros((3, 8), int)).shape
    (3, 8, 5)
    """

    def __init__(self, config: GPTConfig, rngs: nnx.Rngs):
        self.layers, self.dropout = config.layers, config.dropout
        normal = nnx.initializers.normal(INIT_STD)
        self.tokens = nnx.Embed(config.vocabulary, config.channels, embedding_init=normal, rngs=rngs)
        self.positions = nnx.Embed(config.context, config.channels, embedding_init=normal, rngs=rngs)
        for i in range(config.layers):
            setattr(self, f"layer{i}", Layer(config, rngs))
        self.norm = _norm(config, rngs)

    def __call__(self, tokens: Int[Array, "*s t"], keys: PRNGKeyArray | None = None) -> Float[Array, "*s t v"]:
        """Logits; `keys` [...], one a sequence, drop activations in training."""
        h = self.features(tokens, keys)
        return _rows(h, lambda x: x @ self.tokens.embedding[...].T)

    def features(self, tokens: Int[Array, "*s t"], keys: PRNGKeyArray | None = None) -> Float[Array, "*s t c"]:
        """The last layer norm's output, of which the logits are linear."""
        length = tokens.shape[-1]
        drop = _dropout(self.dropout, keys)
        h = drop(self.tokens(tokens) + self.positions.embedding[...][:length], 0)
        for i in range(self.layers):
            h = getattr(self, f"layer{i}")(h, lambda x, site, i=i: drop(x, 3 * i + site))
        return self.norm(h)


class Layer(nnx.Module):
    """One block: attention and a feed-forward network, each behind a layer norm and added to its input [..., T, C]."""

    def __init__(self, config: GPTConfig, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int, std: float = INIT_STD) -> nnx.Linear:
            init = nnx.initializers.normal(std)
            return nnx.Linear(inputs, outputs, use_bias=config.bias, kernel_init=init, rngs=rngs)

        c, residual = config.channels, INIT_STD / math.sqrt(2 * config.layers)
        self.heads = config.heads
        self.first_norm, self.second_norm = _norm(config, rngs), _norm(config, rngs)
        self.query, self.key, self.value = linear(c, c), linear(c, c), linear(c, c)
        self.output = linear(c, c, residual)
        self.up, self.down = linear(c, 4 * c), linear(4 * c, c, residual)

    def __call__(self, h: Float[Array, "*s t c"], drop: "Drop") -> Float[Array, "*s t c"]:
        """`drop(x, site)` drops activations, at sites 1 to 3 of this layer."""
        h = h + drop(_rows(self.attention(self.first_norm(h), drop), self.output), 2)
        hidden = _rows(self.second_norm(h), lambda x: self.down(jax.nn.gelu(self.up(x), approximate=False)))
        return h + drop(hidden, 3)

    def attention(self, x: Float[Array, "*s t c"], drop: "Drop") -> Float[Array, "*s t c"]:
        """softmax(q kᵀ/√(C/h)) v of every head, over the past and the present."""
        length, split = x.shape[-2], (*x.shape[:-1], self.heads, x.shape[-1] // self.heads)
        q, k, v = (_rows(x, m).reshape(split).swapaxes(-2, -3) for m in (self.query, self.key, self.value))
        scores = jnp.einsum("...qd,...kd->...qk", q, k) / math.sqrt(split[-1])
        past = jnp.tril(jnp.ones((length, length), bool))
        weights = drop(jax.nn.softmax(jnp.where(past, scores, -jnp.inf)), 1)
        return jnp.einsum("...qk,...kd->...qd", weights, v).swapaxes(-2, -3).reshape(x.shape)


Drop = Callable[[Array, int], Array]


def _norm(config: GPTConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(config.channels, epsilon=1e-5, use_bias=config.bias, rngs=rngs)


def _rows(x: Float[Array, "*s c"], linear: Callable[[Array], Array]) -> Array:
    """`linear` of all rows as one matrix: XLA's products and their gradients are faster on two axes than on three."""
    return linear(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def _dropout(rate: float, keys: PRNGKeyArray | None) -> Drop:
    """Each sequence draws from its own key, so that its mask does not depend on the company in a batch."""
    if keys is None or rate == 0:
        return lambda x, site: x

    def drop(x: Array, site: int) -> Array:
        draw = lambda key: jax.random.bernoulli(jax.random.fold_in(key, site), 1 - rate, x.shape[keys.ndim :])  # noqa: E731
        for _ in range(keys.ndim):
            draw = jax.vmap(draw)
        return jnp.where(draw(keys), x / (1 - rate), 0)

    return drop


def cross_entropy(logits: Float[Array, "*s v"], targets: Int[Array, "*s"]) -> Float[Array, ""]:
    """Mean −log p of the targets, in float32."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    wanted = targets[..., None] == jnp.arange(logits.shape[-1])  # no gather: its gradient would scatter
    return -jnp.sum(jnp.where(wanted, log_p, 0)) / targets.size


def loss(
    config: GPTConfig, params: PyTree, windows: Int[Array, "*s t+1"], keys: PRNGKeyArray | None = None
) -> Float[Array, ""]:
    """Mean cross-entropy of every next token in windows [..., T + 1]; `keys` as in `GPT`."""
    return cross_entropy(config.merge(params)(windows[..., :-1], keys), windows[..., 1:])


def attention_matrices(params: PyTree, kind: str = "key", heads: int | None = None) -> dict[str, Array]:
    """The query, key, value or output matrices, `layer0.key` [C, C], of all layers.

    These are no names of leaves (`layer0/key/kernel`), because a head is only a part of one.
    With `heads` given, also their split by head, `layer0.key.head0` [C, C/h]; for `output` [C/h, C].
    """
    require(kind in KINDS, "kind", kind, f"one of {', '.join(KINDS)}")
    fused: dict[str, Array] = {}
    while (name := f"layer{len(fused)}") in params:
        fused[name] = params[name][kind]["kernel"]
    found = {f"{name}.{kind}": w for name, w in fused.items()}
    if heads is not None:
        for name, w in tuple(found.items()):
            parts = jnp.split(w, heads, axis=0 if kind == "output" else 1)
            found |= {f"{name}.head{i}": part for i, part in enumerate(parts)}
    return found


def key_matrices(params: PyTree, heads: int | None = None) -> dict[str, Array]:
    """`attention_matrices` of the keys, the spectra of arXiv:2411.13512.

    >>> sorted(key_matrices(GPTConfig(layers=1, heads=2, channels=4).init(jax.random.key(0)), heads=2))
    ['layer0.key', 'layer0.key.head0', 'layer0.key.head1']
    """
    return attention_matrices(params, "key", heads)


@dataclass(frozen=True, eq=False)
class GPTModel(ByValue):
    """A GPT on a text as a model for `sgd`, to train many small ones side by side.

        model = GPTModel(GPTConfig(layers=2, heads=2, channels=32, context=32, vocabulary=65), text.load("shakespeare"))
        dynamics = dj.sgd(model, batches=None, optimizer=optax.adam)

    An example is a window [context + 1] of the training part, every one equally likely and drawn with replacement, so
    the source is endless. `watched`: which of query, key, value and output are watched in every layer; `per_head`:
    their parts by head, too. `init_width` (default 1) multiplies the watched matrices at the start.
    """

    gpt: GPTConfig
    text: Text
    watched: tuple[str, ...] = ("key",)
    per_head: bool = False

    def __post_init__(self):
        check_text(self.gpt, self.text)
        require(self.gpt.dropout == 0, "dropout", self.gpt.dropout, "0 in `sgd`, whose losses draw nothing")
        known = not isinstance(self.watched, str) and self.watched and set(self.watched) <= set(KINDS)
        require(known, "watched", self.watched, f"some of {', '.join(KINDS)}")

    @property
    def examples(self) -> None:
        """None: windows are drawn with replacement."""
        return

    @property
    def config(self) -> Mapping[str, Any]:
        """JSON of all fields; of the text its name and length."""
        return {
            "model": "gpt", **dataclasses.asdict(self.gpt), "watched": list(self.watched), "per_head": self.per_head,
            "text": self.text.name, "characters": len(self.text.content), "validation": self.text.validation,
        }  # fmt: skip

    def task(self, key: PRNGKeyArray) -> tuple[()]:
        """Nothing is drawn."""
        return ()

    def init(self, key: PRNGKeyArray, task: Any, init_width: Float[Array, ""]) -> PyTree:
        """GPT-2's initialisation, the watched matrices times `init_width`."""
        params = self.gpt.init(key)
        for i in range(self.gpt.layers):
            layer = params[f"layer{i}"]
            for kind in self.watched:
                layer[kind]["kernel"] = layer[kind]["kernel"] * init_width
        return params

    def sample(self, key: PRNGKeyArray, num: int, task: Any) -> Int[Array, "num t+1"]:
        """Windows of the training part at independent places."""
        return random_windows(key, jnp.asarray(self.text.train), num, self.gpt.context)

    def loss(self, params: PyTree, example: Int[Array, " t+1"], task: Any) -> Float[Array, ""]:
        """Mean cross-entropy of one window's characters."""
        return loss(self.gpt, params, example)

    def matrices(self, params: PyTree) -> dict[str, Array]:
        """The watched matrices of every layer."""
        heads = self.gpt.heads if self.per_head else None
        return {n: w for kind in self.watched for n, w in attention_matrices(params, kind, heads).items()}

    def validation_loss(self, most: int = 64) -> Observable:
        """Records the loss on at most `most` windows of the validation part; add it to `dynamics.observables`."""
        fixed = windows(self.text.validation_tokens, self.gpt.context, most)

        def value(spectra: Spectra, state: Any, hyper: Hyper) -> Array:
            return loss(self.gpt, state.params, jnp.asarray(fixed))

        return snapshot("validation_loss", value, Variable((), f"loss on {len(fixed)} windows of the validation text"))


def check_text(config: GPTConfig, text: Text) -> None:
    """Raise `InputError` unless the text is longer than the context and the vocabulary holds its characters."""
    text.check(config.context)
    used = len(text.characters)
    require(config.vocabulary >= used, "vocabulary", config.vocabulary, f"at least {used}, the text's characters")


def random_windows(key: PRNGKeyArray, tokens: Int[Array, " length"], num: int, context: int) -> Int[Array, "num t+1"]:
    """`num` windows of context + 1 tokens at independent places, every place equally likely."""
    places = jax.random.randint(key, (num,), 0, len(tokens) - context)
    return tokens[places[:, None] + jnp.arange(context + 1)].astype(jnp.int32)
