"""The main programs of the engine, lowered for a device that need not be there: what `benchmarks.compiled` compiles.

Of the engine's private parts it needs `loop.program_of` and `SNAPSHOTS_PER_CHUNK`, in `_update_loop`: nothing public
lowers its loop without running it.
"""

import importlib
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import dysonjax as dj
from benchmarks.gpt import text
from dysonjax import models
from dysonjax.experiments import GPTRun
from dysonjax.experiments.gpt import training  # inside: the one program that a training compiles

LEVELS = 10


class Lowered(NamedTuple):
    """A program before compilation.

    `data`: how many numbers each array of its data has, which no update changes. `loops`: how many stand around an
    update.
    """

    lowered: Any
    data: list[int]
    loops: int


@dataclass(frozen=True)
class Program:
    """One main program: `lower(device, replicas)` for so many replicas by default."""

    lower: Callable[[Any, int], Lowered]
    replicas: int


def programs() -> dict[str, Program]:
    """All of them by name; replicas lie side by side as on an accelerator."""
    tanh, rbm, mlp = models.TanhNetwork(), models.GaussianRBM(), _mlp()
    found = {
        "tanh network": _of_engine(lambda: dj.sgd(tanh)),
        "flax MLP 8-16-1": _of_engine(lambda: dj.sgd(mlp)),
        "flax MLP 8-16-1, adam": _of_engine(lambda: dj.sgd(mlp, optimizer=optax.adam)),
        "teacher-student": _of_engine(lambda: dj.sgd(models.LinearNetwork())),
        "linear network, both trained": _of_engine(lambda: dj.sgd(models.LinearNetwork(hidden=2, trained="both"))),
        "Dyson, matrix kick": _of_engine(lambda: dj.dyson(LEVELS)),
        "Dyson, pairwise kick": _of_engine(lambda: dj.dyson(LEVELS, scheme="pairwise_kick")),
        "Dyson, Euler-Maruyama": _of_engine(lambda: dj.dyson(LEVELS, scheme="euler_maruyama")),
        "RBM, Gibbs": _of_engine(lambda: dj.sgd(rbm), batch_size=16),
        "RBM, Wishart": _of_engine(lambda: dj.sgd(rbm, sampling="wishart"), batch_size=16),
        "RBM, matrix Langevin": _of_engine(lambda: dj.matrix_langevin(rbm), batch_size=16),
        "RBM, Dyson": _of_engine(lambda: dj.dyson_of(rbm), batch_size=16),
        "GPT training": Program(_gpt, 1),
        "spectral monitor": Program(_monitor, 1),
    }
    return found | {f"eigenvalues, n = {n}": Program(_eigenvalues(n), 1024) for n in (16, 64)}


def _of_engine(make: Callable[[], dj.Dynamics], batch_size: int = 4) -> Program:
    def lower(device: Any, replicas: int) -> Lowered:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Euler–Maruyama is meant
            dynamics = make()
        return _update_loop(dynamics, device, replicas, batch_size)

    return Program(lower, replicas=1 << 14)


def _update_loop(dynamics: dj.Dynamics, device: Any, replicas: int, batch_size: int) -> Lowered:
    """The engine's loop over updates, snapshots and one tile, as `simulate` calls it."""
    engine = importlib.import_module("dysonjax.engine.loop")  # the package's attribute of that name is the function
    static = {name: batch_size for name in dynamics.static}
    program = engine.program_of(dynamics, dynamics.observables, static, (device,))
    mesh = Mesh(np.array([device]), ("tiles",))
    of_tiles, common = (NamedSharding(mesh, PartitionSpec(*names)) for names in (("tiles",), ()))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), replicas).reshape(1, replicas))
    traced = {name: jnp.zeros((1, replicas)) for name in dynamics.parameters if name not in static}
    keys, traced = _placed((keys, traced), of_tiles)
    given, carry = _placed(jax.eval_shape(program.start.function, keys, traced), of_tiles)
    marks, span = _placed(tuple(jnp.zeros(n, jnp.int32) for n in (engine.SNAPSHOTS_PER_CHUNK, 6)), common)
    loops = 3 + (engine.updates_together(device) > 1)  # tiles, snapshots, updates and, elsewhere, some of them together
    return Lowered(program.advance.lower(carry, keys, given, marks, span), _sizes(given["data"]), loops)


def _gpt(device: Any, replicas: int) -> Lowered:
    """Training by the recipe of the defaults, the key matrices' spectra recorded on the way."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "ring.txt"
        place.write_text(text())
        run = GPTRun(str(place))
        tokens = jnp.asarray(run.source.train)

    def start() -> training.State:
        params = run.initial()
        losses, validation = jnp.zeros(run.steps), jnp.zeros(len(training.validation_steps(run)))
        return training.State(params, run.transform.init(params), losses, run.monitor(params), validation, jnp.int32(0))

    sharing = training.shared_out(run, (device,))
    arguments = _placed((jax.eval_shape(start), tokens, jnp.int32(0)), sharing.everywhere)
    advance = jax.jit(lambda *args: training.advanced(run, sharing, *args), donate_argnums=0)
    return Lowered(advance.lower(*arguments), _sizes(tokens), 1)


def _monitor(device: Any, replicas: int) -> Lowered:
    """One record of the key matrices of a GPT of 4 layers, 128 channels and 4 heads."""
    params = {f"layer{i}/key/kernel": jnp.ones((128, 128)) for i in range(4)}
    monitor = dj.SpectralMonitor(params, 1000, heads={"*": 4})
    arguments = _placed((monitor, params, jnp.int32(50)), SingleDeviceSharding(device))
    return Lowered(jax.jit(lambda monitor, *args: monitor.update(*args)).lower(*arguments), [], 0)


def _eigenvalues(n: int) -> Callable[[Any, int], Lowered]:
    def lower(device: Any, replicas: int) -> Lowered:
        matrices = _placed(jnp.zeros((replicas, n, n)), SingleDeviceSharding(device))
        return Lowered(jax.jit(dj.spectra.eigenvalues).lower(matrices), [], 0)

    return lower


class _Net(nnx.Module):
    """A network as a user would write it."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden, self.out = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(jnp.tanh(self.hidden(x)))


def _mlp() -> models.FlaxModel:
    def examples(key: Any, num: int) -> tuple[jax.Array, jax.Array]:
        x = jax.random.normal(key, (num, 8))
        return x, jnp.sin(x[:, :1])

    return models.FlaxModel(_Net, lambda net, pair: jnp.sum((net(pair[0]) - pair[1]) ** 2), examples)


def _placed(tree: Any, sharding: Any) -> Any:
    """Shapes and types of a tree's arrays, on devices that need not be there."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def _sizes(data: Any) -> list[int]:
    return [leaf.size for leaf in jax.tree.leaves(data)]
