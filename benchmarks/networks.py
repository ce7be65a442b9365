"""The networks of `benchmarks.own_network`: modules of flax, losses, digits as data, and the same by hand in PyTorch.

PyTorch's versions take flax's own parameters, so that all programs can be compared number by number: `torch_forward` is
written with the calls that a module of PyTorch makes, without the module's own overhead.
"""

import importlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dysonjax.core.leaves import named_leaves  # inside: names of flax's parameters, for PyTorch
from dysonjax.models import digits

CHANNELS, HEADS = 32, 4


class Transformer(nnx.Module):
    """Two layers of 32 channels over the eight rows of an image."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Linear(8, CHANNELS, rngs=rngs)
        self.place = nnx.Param(0.02 * jax.random.normal(rngs.params(), (8, CHANNELS)))
        self.block0, self.block1 = Block(rngs), Block(rngs)
        self.norm, self.out = nnx.LayerNorm(CHANNELS, rngs=rngs), nnx.Linear(CHANNELS, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.block1(self.block0(self.embed(x) + self.place[...]))
        return self.out(jnp.mean(self.norm(x), axis=-2))


class Block(nnx.Module):
    """Attention and a layer of neurons, each beside a shortcut."""

    def __init__(self, rngs: nnx.Rngs):
        self.norm0, self.norm1 = nnx.LayerNorm(CHANNELS, rngs=rngs), nnx.LayerNorm(CHANNELS, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, CHANNELS, decode=False, rngs=rngs)
        self.up = nnx.Linear(CHANNELS, 4 * CHANNELS, rngs=rngs)
        self.down = nnx.Linear(4 * CHANNELS, CHANNELS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm0(x))
        return x + self.down(nnx.relu(self.up(self.norm1(x))))


class Recurrent(nnx.Module):
    """Eight rows of an image, one after another."""

    def __init__(self, rngs: nnx.Rngs):
        self.input, self.out = nnx.Linear(8, CHANNELS, rngs=rngs), nnx.Linear(CHANNELS, 10, rngs=rngs)
        self.hidden = nnx.Linear(CHANNELS, CHANNELS, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        rows = jnp.moveaxis(self.input(x), -2, 0)
        start = jnp.zeros_like(rows[0])
        return self.out(jax.lax.scan(lambda h, row: (jnp.tanh(row + self.hidden(h)), None), start, rows)[0])


class Convolutional(nnx.Module):
    """Two convolutions, the second at every other pixel; with BatchNorm or without."""

    def __init__(self, rngs: nnx.Rngs, normed: bool = False):
        self.first = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.second = nnx.Conv(8, 16, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)), rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=False, rngs=rngs) if normed else None
        self.out = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.first(x[..., None])
        x = nnx.relu(self.second(nnx.relu(x if self.norm is None else self.norm(x))))
        return self.out(x.reshape(*x.shape[:-3], 256))


def perceptron(*sizes: int) -> Callable[[nnx.Rngs], nnx.Module]:
    """Layers of these sizes with tanh between."""

    def build(rngs: nnx.Rngs) -> nnx.Module:
        layers: list[Any] = []
        for a, b in itertools.pairwise(sizes):
            layers += [nnx.Linear(a, b, rngs=rngs), jnp.tanh]
        return nnx.Sequential(*layers[:-1])

    return build


def cross_entropy(net: Any, example: Any) -> jax.Array:
    """Of one example or the mean of several: the networks take any leading axes."""
    x, label = example
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(net(x), label))


def squared(net: Any, example: Any) -> jax.Array:
    """Half the squared error, of one example or the mean of several."""
    x, y = example
    return 0.5 * jnp.mean((net(x)[..., 0] - y) ** 2)


@dataclass(frozen=True)
class Row:
    """One network of the comparison."""

    name: str
    module: Callable[[nnx.Rngs], nnx.Module]
    loss: Callable[[Any, Any], jax.Array]
    batch: int
    products: int
    """Multiplications of one example's way forward; an update takes up to 6 × as many operations for each example."""
    prepare: Callable[[np.ndarray], np.ndarray] = field(default=lambda x: x)
    """Images [n, 8, 8] as the network takes them."""
    of_batch: bool = False

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets [1797, …]."""
        images, labels = digits()
        x = self.prepare(images / np.float32(16))
        return x, (labels % 2 * np.float32(2) - 1) if self.loss is squared else labels


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, 64)


def _columns(x: np.ndarray) -> np.ndarray:
    return x.mean(axis=1)


SMALL, BLOCKS = 8 * 16 + 16, 2 * 8 * (4 * CHANNELS**2 + 2 * 8 * CHANNELS + 8 * CHANNELS**2)
CNN = 64 * 9 * 8 + 16 * 9 * 8 * 16 + 2560
ROWS = (
    Row("8-16-1, |B| = 4", perceptron(8, 16, 1), squared, 4, SMALL, _columns),
    Row("8-16-1, |B| = 16", perceptron(8, 16, 1), squared, 16, SMALL, _columns),
    Row("64-32-10, |B| = 16", perceptron(64, 32, 10), cross_entropy, 16, 74 * 32, _flat),
    Row("64-128-10, |B| = 16", perceptron(64, 128, 10), cross_entropy, 16, 74 * 128, _flat),
    Row("CNN, |B| = 16", Convolutional, cross_entropy, 16, CNN),
    Row("transformer, |B| = 16", Transformer, cross_entropy, 16, 64 * CHANNELS + BLOCKS + 320),
    Row("RNN, |B| = 16", Recurrent, cross_entropy, 16, 64 * CHANNELS + 8 * CHANNELS**2 + 320),
    Row("BatchNorm CNN, |B| = 16", lambda rngs: Convolutional(rngs, True), cross_entropy, 16, CNN, of_batch=True),
)


def torch_parameters(params: Any) -> dict[str, Any]:
    """Parameters of flax, [...] or [replicas, …], as tensors by name; convolutions in PyTorch's layout."""
    torch, found = importlib.import_module("torch"), {}
    for name, leaf in named_leaves(params).items():
        array = np.array(leaf)
        if name in ("first/kernel", "second/kernel"):
            array = np.moveaxis(array, (-1, -2), (-4, -3))
        found[name] = torch.from_numpy(np.ascontiguousarray(array))
    return found


def torch_loss(row: Row) -> Callable[[dict[str, Any], Any, Any], Any]:
    """Loss of a batch by parameters, inputs [B, …] and targets [B]."""
    torch = importlib.import_module("torch")

    def loss(p: dict[str, Any], x: Any, y: Any) -> Any:
        out = torch_forward(row, p, x)
        if row.loss is squared:
            return 0.5 * torch.mean((out[:, 0] - y) ** 2)
        return torch.nn.functional.cross_entropy(out, y)

    return loss


def torch_forward(row: Row, p: dict[str, Any], x: Any) -> Any:
    """What the network of `row` gives for inputs [B, …]."""
    torch = importlib.import_module("torch")
    f = torch.nn.functional

    def linear(name: str, x: Any) -> Any:
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    def norm(name: str, x: Any) -> Any:
        return f.layer_norm(x, (CHANNELS,), p[f"{name}/scale"], p[f"{name}/bias"], 1e-6)

    def attention(name: str, x: Any) -> Any:
        projected = []
        for part in ("query", "key", "value"):
            kernel, bias = p[f"{name}/{part}/kernel"], p[f"{name}/{part}/bias"]
            one = x @ kernel.reshape(CHANNELS, CHANNELS) + bias.reshape(CHANNELS)
            projected.append(one.reshape(*x.shape[:-1], HEADS, -1).transpose(-2, -3))
        found = f.scaled_dot_product_attention(*projected).transpose(-2, -3).reshape(x.shape)
        return found @ p[f"{name}/out/kernel"].reshape(CHANNELS, CHANNELS) + p[f"{name}/out/bias"]

    if "place" in p:
        x = linear("embed", x) + p["place"]
        for block in ("block0", "block1"):
            x = x + attention(f"{block}/attention", norm(f"{block}/norm0", x))
            x = x + linear(f"{block}/down", torch.relu(linear(f"{block}/up", norm(f"{block}/norm1", x))))
        return linear("out", norm("norm", x).mean(dim=-2))
    if "hidden/kernel" in p:
        rows = linear("input", x)
        h = torch.zeros_like(rows[:, 0])
        for i in range(8):
            h = torch.tanh(rows[:, i] + h @ p["hidden/kernel"])
        return linear("out", h)
    if "first/kernel" in p:
        x = f.conv2d(x[:, None], p["first/kernel"], p["first/bias"], padding=1)
        if row.of_batch:
            x = f.batch_norm(x, None, None, p["norm/scale"], p["norm/bias"], training=True, eps=1e-5)
        x = torch.relu(f.conv2d(torch.relu(x), p["second/kernel"], p["second/bias"], stride=2, padding=1))
        return linear("out", x.movedim(1, -1).reshape(len(x), 256))
    depth = sum(name.endswith("kernel") for name in p)
    for i in range(depth):
        x = linear(f"layers/{2 * i}", torch.tanh(x) if i else x)
    return x
