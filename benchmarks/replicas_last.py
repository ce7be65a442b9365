"""How fast are updates of anybody's network with replicas last, and which form of a product is the fastest?

    python -m benchmarks.replicas_last            # a row for each network; appends to results/replicas_last.jsonl
    python -m benchmarks.replicas_last --forms-only  # products by shape and form: the constants of `multiplying`
    python -m benchmarks.replicas_last --tiny     # a size of seconds, nothing recorded

Each network's SGD update on the same data: the engine's way (`kernels.replicas_last`, in tiles of 32, where the engine
would choose it), and `jax.vmap` written by hand, replicas in front, all of them at once. The papers' tanh network has
its kernel by hand in place of that. On one core each, alternating; all agree before anything is timed.
"""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

if hasattr(os, "sched_setaffinity"):  # one core each: JAX counts them when it starts
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import record
from dysonjax.engine.arranging import LARGE_SHARE, way_of_update
from dysonjax.kernels.replicas_last import lift, multiplying
from dysonjax.models import TanhNetwork

TILE, BATCHES, RATE = 32, 8, 0.01
SHAPES = (
    (4, 8, 16), (8, 16, 4), (16, 4, 32), (8, 32, 32), (32, 8, 32), (16, 64, 32), (64, 16, 32), (16, 64, 128)
)  # fmt: skip
"""Rows, terms, columns."""


class Network(NamedTuple):
    """One replica's parameters and batch from a key, and its loss."""

    init: Callable[[Any], Any]
    data: Callable[[Any], Any]
    loss: Callable[[Any, Any], Any]

    def update(self, params: Any, batch: Any) -> Any:
        """One step of SGD."""
        return jax.tree.map(lambda w, g: w - RATE * g, params, jax.grad(self.loss)(params, batch))


def matrix(key: Any, *shape: int) -> Any:
    return jax.random.normal(key, shape) / np.sqrt(np.prod(shape[:-1]))


def cross_entropy(logits: Any, labels: Any) -> Any:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1))


def mlp(*widths: int, batch: int) -> Network:
    def init(key: Any) -> Any:
        keys = jax.random.split(key, len(widths) - 1)
        return [(matrix(k, a, b), jnp.zeros(b)) for k, a, b in zip(keys, widths, widths[1:], strict=False)]

    def loss(params: Any, batch: Any) -> Any:
        x, y = batch
        for w, b in params[:-1]:
            x = jax.nn.relu(x @ w + b)
        x = x @ params[-1][0] + params[-1][1]
        return jnp.mean((x[:, 0] - y) ** 2) if widths[-1] == 1 else cross_entropy(x, y)

    labels = lambda key: jax.random.randint(key, (batch,), 0, max(widths[-1], 2))  # noqa: E731
    return Network(init, lambda key: (jax.random.normal(key, (batch, widths[0])), labels(key)), loss)


def cnn(norm: bool, batch: int = 8, channels: tuple[int, int] = (8, 16)) -> Network:
    """Two convolutions of 8 × 8 images with pooling, and a dense layer; `norm`: BatchNorm in place of biases."""
    first, second = channels

    def init(key: Any) -> Any:
        a, b, c = jax.random.split(key, 3)
        layers = [(matrix(a, 3, 3, 1, first), jnp.ones(first)), (matrix(b, 3, 3, first, second), jnp.ones(second))]
        return layers, matrix(c, 4 * second, 10)

    def loss(params: Any, batch: Any) -> Any:
        x, y = batch
        for w, s in params[0]:
            x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5) * s if norm else x + s
            x = jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return cross_entropy(x.reshape(len(y), -1) @ params[1], y)

    images = lambda key: jax.random.normal(key, (batch, 8, 8, 1))  # noqa: E731
    return Network(init, lambda key: (images(key), jax.random.randint(key, (batch,), 0, 10)), loss)


def transformer(batch: int = 4, length: int = 16, width: int = 32, heads: int = 4, layers: int = 2) -> Network:
    def init(key: Any) -> Any:
        def layer(key: Any) -> Any:
            k = jax.random.split(key, 4)
            shapes = ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
            return [matrix(one, *shape) for one, shape in zip(k, shapes, strict=True)]

        keys = jax.random.split(key, layers + 1)
        return 0.1 * jax.random.normal(keys[0], (16, width)), [layer(k) for k in keys[1:]]

    def normed(x: Any) -> Any:
        return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)

    def loss(params: Any, tokens: Any) -> Any:
        embedding, blocks = params
        x = embedding[tokens[:, :-1]]
        for mix, out, up, down in blocks:
            q, k, v = jnp.split((normed(x) @ mix).reshape(batch, length, heads, -1), 3, -1)
            a = jnp.einsum("bthc,bshc->bhts", q, k) / np.sqrt(width // heads)
            a = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((length, length), bool)), a, -1e9))
            x = x + jnp.einsum("bhts,bshc->bthc", a, v).reshape(batch, length, width) @ out
            x = x + jax.nn.gelu(normed(x) @ up) @ down
        return cross_entropy(x @ embedding.T, tokens[:, 1:])

    return Network(init, lambda key: jax.random.randint(key, (batch, length + 1), 0, 16), loss)


def rnn(batch: int = 4, length: int = 12, inputs: int = 4, width: int = 16) -> Network:
    def init(key: Any) -> Any:
        a, b, c = jax.random.split(key, 3)
        return matrix(a, inputs, width), matrix(b, width, width), matrix(c, width, 1)

    def loss(params: Any, batch_: Any) -> Any:
        x, y = batch_
        first = jnp.zeros((batch, width))
        h = jax.lax.scan(lambda h, x: (jnp.tanh(x @ params[0] + h @ params[1]), None), first, x)[0]
        return jnp.mean(((h @ params[2])[:, 0] - y) ** 2)

    normal = jax.random.normal
    return Network(init, lambda key: (normal(key, (length, batch, inputs)), normal(key, (batch,))), loss)


def tanh_network(batch: int = 4) -> Network:
    def loss(w: Any, data: Any) -> Any:
        h, y, z = data
        return 0.5 * jnp.mean(jnp.sum((y - jnp.tanh(h @ w.T) @ z.T) ** 2, -1))

    normal = jax.random.normal
    data = lambda key: (normal(key, (batch, 32)), normal(key, (batch, 1)), normal(key, (1, 16)) / 4)  # noqa: E731
    return Network(lambda key: matrix(key, 32, 16).T, data, loss)


def tanh_by_hand(w: Any, data: Any) -> Any:
    """The same update by the kernel in `models/tanh_network.py`."""
    slope = TanhNetwork().block_loss_and_gradient({"W": w}, data[:2], {"Z": data[2]})[1]["W"]
    return w - RATE * slope


NETWORKS = {
    "tanh 32-16-1": tanh_network(),
    "MLP 8-16-1": mlp(8, 16, 1, batch=4),
    "MLP 64-32-10": mlp(64, 32, 10, batch=16),
    "MLP 64-128-10": mlp(64, 128, 10, batch=16),
    "CNN": cnn(norm=False),
    "CNN, BatchNorm": cnn(norm=True),
    "transformer": transformer(),
    "RNN": rnn(),
}


def program(network: Network, update: Callable[..., Any], axis: int, tile: int, replicas: int) -> tuple[Any, Any, Any]:
    """`run(params, batches, steps)` of all tiles one after the other, and what it starts from."""
    keys = jax.random.split(jax.random.key(0), replicas).reshape(-1, tile)
    params = jax.vmap(jax.vmap(network.init, out_axes=axis))(keys)
    many = lambda key: jax.vmap(network.data)(jax.random.split(key, BATCHES))  # noqa: E731
    batches = jax.vmap(jax.vmap(many, out_axes=axis if axis < 0 else 1))(keys)

    def run(params: Any, batches: Any, steps: Any) -> Any:
        def of_tile(held: Any) -> Any:
            params, batches = held
            pick = lambda i: jax.tree.map(lambda x: x[i % BATCHES], batches)  # noqa: E731
            return jax.lax.fori_loop(0, steps, lambda i, p: update(p, pick(i)), params)

        return jax.lax.map(of_tile, (params, batches))

    return jax.jit(run), params, batches


def chosen(network: Network) -> str:
    """The engine's choice for this update."""
    one = jax.eval_shape(lambda key: (network.init(key), network.data(key)), jax.random.key(0))
    return way_of_update(jax.make_jaxpr(network.update)(*one).jaxpr, "cpu")


def timed(run: Callable[[int], Any], steps: int) -> float:
    """Seconds of so many updates."""
    began = time.perf_counter()
    run(steps)
    return time.perf_counter() - began


def compare(name: str, replicas: int, seconds: float, repeats: int) -> dict[str, Any]:
    """Updates a second of each way, alternating, the ratio of the engine's to that by hand, and compilation."""
    network = NETWORKS[name]
    way = chosen(network)
    ours = (lift(network.update), -1, TILE) if way == "last" else (jax.vmap(network.update), 0, TILE)
    theirs = (tanh_by_hand, -1, 8) if name.startswith("tanh") else (jax.vmap(network.update), 0, replicas)
    runs, compiling, ends = {}, {}, {}
    for who, (update, axis, tile) in {"engine": ours, "by hand": theirs}.items():
        run, params, batches = program(network, update, axis, tile, replicas)
        began = time.perf_counter()
        compiled = run.lower(params, batches, 1).compile()
        compiling[who] = time.perf_counter() - began
        runs[who] = lambda steps, c=compiled, p=params, b=batches: jax.block_until_ready(c(p, b, steps))
        last = lambda x, axis=axis: np.moveaxis(np.asarray(x), 1 + axis if axis == 0 else axis, 1)  # noqa: E731
        ends[who] = [last(x).reshape(replicas, -1) for x in jax.tree.leaves(runs[who](3))]
    for a, b in zip(*ends.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    rates: dict[str, list[float]] = {who: [] for who in runs}
    steps = dict.fromkeys(runs, 1)
    for who, run in runs.items():
        while timed(run, steps[who]) < seconds / 2:
            steps[who] *= 2
    for _ in range(repeats):
        for who, run in runs.items():
            rates[who].append(replicas * steps[who] / timed(run, steps[who]))
    ratio = record.spread(np.divide(rates["engine"], rates["by hand"]))
    return {"way": way, "rates": {w: record.spread(r) for w, r in rates.items()}, "ratio": ratio, "compile": compiling}


def forms(shapes: Any, seconds: float) -> None:
    """10⁹ operations a second of a product in tiles, written out and by the library, with replicas last and first."""
    for rows, length, columns in shapes:
        a, b = (matrix(jax.random.key(i), n, length, TILE) for i, n in enumerate((rows, columns)))
        found = {}
        multiply = lambda a, b: a @ b.T  # noqa: E731
        usual = multiplying.WRITTEN_OUT
        for form, most in (("written out", 1 << 40), ("library", 0), ("replicas first", -1)):
            multiplying.WRITTEN_OUT = most
            first = [jnp.moveaxis(x, -1, 0) for x in (a, b)] if most < 0 else [a, b]
            across = jax.vmap(multiply) if most < 0 else lift(multiply)

            def run(x: Any, y: Any, steps: Any, across: Any = across) -> Any:
                again = lambda i, held: jax.lax.optimization_barrier((held[0], across(held[0], y)))  # noqa: E731
                return jax.lax.fori_loop(0, steps, again, (x, across(x, y)))[1]

            compiled = jax.jit(run).lower(*first, 1).compile()
            took = np.inf
            for _ in range(5):
                began = time.perf_counter()
                jax.block_until_ready(compiled(*first, 1))
                single = time.perf_counter() - began
                steps = max(10, int(seconds / 10 / single))
                began = time.perf_counter()
                jax.block_until_ready(compiled(*first, steps))
                took = min(took, (time.perf_counter() - began) / steps)
            found[form] = 2 * rows * length * columns * TILE / took / 1e9
        multiplying.WRITTEN_OUT = usual
        shown = "   ".join(f"{form} {rate:5.1f}" for form, rate in found.items())
        print(f"{rows:3d} x {length:3d} x {columns:3d} = {rows * length * columns:7,d}   {shown}", flush=True)


def main(tiny: bool = False, forms_only: bool = False, table: bool = False) -> None:
    """Run the comparison, measure the forms of a product, or print the table of recorded results."""
    if table:
        print(readme_table())
    elif forms_only:
        forms(SHAPES[:2] if tiny else SHAPES, 0.02 if tiny else 0.3)
    else:
        names = ("tanh 32-16-1", "MLP 8-16-1", "RNN") if tiny else tuple(NETWORKS)
        results = {}
        for name in names:
            results[name] = one = compare(name, TILE if tiny else 256, 0.01 if tiny else 0.5, 1 if tiny else 5)
            rates, ratio = one["rates"], one["ratio"]
            print(
                f"{name:16s} replicas {one['way']:5s} {rates['engine']['median']:10.4g} updates/s, × by hand: "
                f"{ratio['median']:.2f} ({ratio['min']:.2f} – {ratio['max']:.2f}); compiled in "
                f"{one['compile']['engine']:.1f} s, {one['compile']['by hand']:.1f} s",
                flush=True,
            )
        if not tiny:
            record.append("replicas_last", {"replicas": 256, "large_share": LARGE_SHARE, "networks": results})


def readme_table() -> str:
    """A row for each network, of the newest record of each machine."""
    rows = []
    for line in record.last("replicas_last"):
        for name, one in line["networks"].items():
            ratio = "{median:.2f} ({min:.2f} – {max:.2f})".format(**one["ratio"])
            rate = f"{one['rates']['engine']['median'] / 1e3:,.0f}"
            rows.append([f"{line['device']}, JAX {line['versions']['jax']}", name, one["way"], rate, ratio])
    return record.markdown(["machine", "network", "replicas", "thousand updates/s", "× by hand"], rows)


if __name__ == "__main__":
    tyro.cli(main)
