"""A small version of every kind of run, and every number that it records, so that two versions can be compared.

    python -m tests.small_runs --out DIR                    # all of them, on one device and on two: two minutes
    python -m tests.small_runs --out DIR --only 'rbm*'      # those whose names match

`DIR/1/<run>.npz` holds what a run recorded on one device, `DIR/2/<run>.npz` on two. `tools/compare-versions` runs this
script for two commits, each with its own copy: here a run keeps its name and its arrays keep theirs, whatever the
package calls them. A run is made through public names, or, where an experiment has only a command, by that command.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, Any]
DEVICES = (1, 2)
SEED = 7
TEXT = "The eigenvalues of a weight matrix repel each other, drift with the loss and fluctuate.\n" * 40


def dataset(ds: Any) -> dict[str, np.ndarray]:
    """All variables of a dataset, its steps included."""
    named = {str(name): ds[name].values for name in ds.data_vars}
    return named | ({"step": ds.step.values} if "step" in ds.coords else {})


def scan(dynamics: Any, steps: int = 12, seeds: int = 9, **axes: Any) -> dict[str, np.ndarray]:
    """A scan at one or a few points; by default at those that every model of SGD understands."""
    import dysonjax as dj

    options = {name: axes.pop(name) for name in ("dt", "observables", "out", "snapshots") if name in axes}
    usual = {"learning_rate": [0.05, 0.1], "batch_size": [4]}
    axes = axes or {name: values for name, values in usual.items() if name in dynamics.parameters}
    return dataset(dj.scan(dynamics, dj.Grid(**axes, seed=range(seeds)), steps, key=SEED, progress=False, **options))


def command(*words: str, out: Path) -> dict[str, np.ndarray]:
    """What a command stores in `out`, array by array, and the numbers that it prints, in their order."""
    import re

    import zarr

    from dysonjax.cli.app import main

    with (out.parent / "said.txt").open("w") as said, redirect_stdout(said), without_drawing():
        if code := main([*words, "--out", str(out)]):
            raise SystemExit(f"{' '.join(words)}: exit code {code}")
    found: dict[str, np.ndarray] = {}
    for store in sorted(out.rglob("*.zarr")):
        job = store.relative_to(out).parent.as_posix()
        group = zarr.open_group(store, mode="r")
        arrays = dict(group.arrays())
        # marks of finished blocks in format 1, hyper-parameters in format 2: no numbers that were computed
        around = {"finished", *" ".join(str(array.attrs.get("coordinates", "")) for array in arrays.values()).split()}
        kept = {name: array for name, array in arrays.items() if name not in around}
        found |= {f"{job}/{name}".removeprefix("./"): np.asarray(array[...]) for name, array in kept.items()}
    for weights in sorted(out.glob("*.npz")):
        found |= {f"{weights.stem}/{name}": value for name, value in np.load(weights).items()}
    numbers = re.findall(r"[-−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", (out / "report.txt").read_text())
    return found | {"printed": np.array([float(n.replace("−", "-")) for n in numbers])}


@contextmanager
def without_drawing() -> Iterator[None]:
    """Figures are made and not rendered, which would take longer than the runs."""
    from unittest import mock

    from matplotlib.figure import Figure

    with mock.patch.object(Figure, "savefig", lambda self, *place, **options: None):
        yield


def phase_diagram(out: Path) -> Arrays:
    return command(
        "phase-diagram", "--learning-rate", "0.125,8", "--init-width", "0.125,16", "--batch-size", "4",
        "--seeds", "5", "--epochs", "3", "--batches", "20", "--snapshots", "5", out=out,
    )  # fmt: skip


def gas(out: Path) -> Arrays:
    return command("gas", "--levels", "6", "--temperature", "0.1,1", "--seeds", "33", "--steps", "60", out=out)


def gas_of_scheme(scheme: str, **given: Any) -> Callable[[Path], Arrays]:
    """Dyson's equation of singular values and of eigenvalues under one scheme."""

    def run(out: Path) -> Arrays:
        import warnings

        import dysonjax as dj

        found = {}
        for geometry in ("symmetric", "singular"):
            if geometry == "singular" and not dj.schemes.ALL[scheme].rectangular:
                continue
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*euler_maruyama.*")
                gas = dj.dyson(levels=5, potential=dj.Quadratic(1.0, 2.0), scheme=scheme, geometry=geometry, **given)  # type: ignore[arg-type]
            made = scan(gas, seeds=33, dt=0.01, temperature=[0.1, 1.0])
            found |= {f"{geometry}/{name}": value for name, value in made.items()}
        return found

    return run


def gas_in_other_potentials(out: Path) -> Arrays:
    """A Gram matrix in the RBM's potential with a coupling of its own, and a drift that a user wrote."""
    import jax.numpy as jnp

    import dysonjax as dj

    kappa = (4.0, 4.382, 5.382)
    gram = dj.dyson(
        levels=3, potential=dj.RBMPotential(kappa=kappa), geometry="gram", rows=4, start=(3.0, 2.0, 1.0),
        coupling=lambda x: jnp.sqrt(x[:, None] + x[None, :] + 1.0),
    )  # fmt: skip
    own = dj.dyson(levels=4, potential=lambda x: -(x**3), beta=2.5)
    return {f"gram/{n}": v for n, v in scan(gram, dt=0.01, temperature=[0.01]).items()} | {
        f"own/{n}": v for n, v in scan(own, dt=0.01, temperature=[0.5]).items()
    }


def rbm(level: str) -> Callable[[Path], Arrays]:
    def run(out: Path) -> Arrays:
        import dysonjax as dj

        return scan(levels_of_description(dj.models.GaussianRBM(5))[level]())

    return run


def linear(level: str, hidden: bool) -> Callable[[Path], Arrays]:
    """A teacher and its student, and the network with one hidden layer, of which both matrices are trained."""

    def run(out: Path) -> Arrays:
        import dysonjax as dj

        teacher = (1.0, 2.0, 2.0) if hidden else (2.0, 2.0)
        options: Any = {"hidden": 3, "trained": "both"} if hidden else {}
        return scan(levels_of_description(dj.models.LinearNetwork(teacher, noise=0.1, **options))[level]())

    return run


def levels_of_description(model: Any) -> dict[str, Callable[[], Any]]:
    """The dynamics of a model at every level of description and with every way to draw its batches."""
    import dysonjax as dj

    return {
        "sgd": lambda: dj.sgd(model, batches=6),
        "wishart": lambda: dj.sgd(model, sampling="wishart"),
        "population": lambda: dj.sgd(model, sampling="population"),
        "matrix": lambda: dj.matrix_langevin(model),
        "dyson": lambda: dj.dyson_of(model),
        "log-gas": lambda: dj.dyson_of(model, eigenvectors=False),
        "svag": lambda: dj.svag(model, 2),
    }


def scaling(out: Path) -> Arrays:
    return command(
        "scaling", "rbm", "--learning-rate", "0.05", "--batch-size", "4,8", "--level", "sgd,matrix,dyson",
        "--visible", "5", "--seeds", "40", "--time", "2", out=out,
    )  # fmt: skip


def bbp(out: Path) -> Arrays:
    from dysonjax.experiments import BBPRun, run

    small = BBPRun(rows=8, columns=16, learning_rate=(0.2, 0.5, 0.8), steps=(1, 2), seeds=9)
    return dataset(run(small, progress=False).only)


def gpt(out: Path) -> Arrays:
    return command(
        "gpt", "--text", str(text_beside(out)), "--layers", "1", "--heads", "2", "--channels", "16", "--context", "16",
        "--batch-size", "4", "--steps", "20", "--validation-every", "10", out=out,
    )  # fmt: skip


def gpt_grid(out: Path) -> Arrays:
    from dysonjax.experiments import GPTScalingRun, run

    text = str(text_beside(out))
    grid = GPTScalingRun(
        "adamw", (1e-3, 2e-3, 4e-3), (2, 4, 8), windows=40, seeds=2, text=text, layers=1, channels=8, context=8
    )
    return dataset(grid.joined(run(grid, progress=False)))


def text_beside(out: Path) -> Path:
    place = out.parent / "text.txt"
    place.write_text(TEXT)
    return place


def own_network(optimizer: str = "sgd", batches: int | None = 10) -> Callable[[Path], Arrays]:
    """A flax network as a user writes it."""

    def run(out: Path) -> Arrays:
        import jax.numpy as jnp
        import optax
        from flax import nnx

        import dysonjax as dj

        class Net(nnx.Module):
            def __init__(self, rngs: nnx.Rngs):
                self.first, self.second = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 1, rngs=rngs)

            def __call__(self, x: Any) -> Any:
                return self.second(nnx.relu(self.first(x)))

        x = np.random.default_rng(0).normal(size=(200, 8)).astype("float32")
        model = dj.models.FlaxModel(
            lambda rngs: Net(rngs), lambda net, one: jnp.mean((net(one[0]) - one[1]) ** 2), (x, np.sin(x[:, :1]))
        )
        made = dj.sgd(model, batches=batches, optimizer=None if optimizer == "sgd" else getattr(optax, optimizer))
        return scan(made, out=out, snapshots=[0, 5, 12])

    return run


def validity(out: Path) -> Arrays:
    import dysonjax as dj

    report = dj.validity(SEED, dj.models.LinearNetwork(noise=0.1), 0.1, 8, steps=60, replicas=32, samples=16)
    lines = {line.quantity: np.array(getattr(line.measured, "value", line.measured)) for line in report.lines}
    return lines | {"noise_spectrum": report.noise_spectrum}


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    planted = rng.normal(size=(30, 50)) / 7 + 3 * np.outer(np.eye(30)[0], np.eye(50)[1])
    return {"plain/kernel": rng.normal(size=(20, 40)), "planted/kernel": planted}


def analyze(out: Path) -> Arrays:
    import dysonjax as dj

    return dataset(dj.analyze(weights(), weights(1), vectors=True, curves=True, key=SEED))


def monitor(out: Path) -> Arrays:
    import jax

    import dysonjax as dj

    params = jax.tree.map(lambda w: w.astype("float32"), weights())
    watch = dj.SpectralMonitor(params, steps=20, every=5, heads={"plain*": 2})
    update = jax.jit(lambda watch, params, step: watch.update(params, step))
    for step in range(1, 21):
        params = jax.tree.map(lambda w: 1.01 * w, params)
        watch = update(watch, params, step)
    return dataset(watch.dataset())


def ensembles(out: Path) -> Arrays:
    import jax

    import dysonjax as dj

    key, of = jax.random.key(SEED), dj.ensembles
    gas = of.log_gas(key, 4, lambda x: 0.5 * x**2, beta=2.0, shape=(8,), warm_up=20, trajectories=10)
    return {
        "gaussian": of.gaussian(key, 4, 2, shape=(8,)),
        "wishart": of.wishart(key, 4, 6, 1, shape=(8,)),
        "circular": of.circular(key, 4, 2, shape=(8,)),
        "hermite_levels": of.hermite_levels(key, 4, 2.5, shape=(8,)),
        "laguerre_levels": of.laguerre_levels(key, 4, 6, 1.5, shape=(8,)),
        "log_gas": gas.levels,
    }


def statistics(out: Path) -> Arrays:
    """What is computed from levels: unfolding, spacings, rigidity, fits, errors."""
    import jax
    import jax.numpy as jnp

    import dysonjax as dj

    of, rng = dj.spectra, np.random.default_rng(0)
    stack = rng.normal(size=(24, 40, 40)).astype("float32")
    x = np.asarray(of.eigenvalues(stack + stack.swapaxes(1, 2)))
    u = np.asarray(of.by_polynomial(x))
    spacings, ratios = np.diff(np.sort(u, axis=1)), of.spacing_ratios(x)
    law = dj.laws.WignerSurmise(1)
    fits = {"beta": of.fit_beta(spacings), "brody": of.fit_brody(spacings), "ratios": of.fit_beta_from_ratios(ratios)}
    errors = {
        "jackknife": of.jackknife(jnp.mean, u, 8), "bootstrap": of.bootstrap(jax.random.key(SEED), jnp.mean, u, 50),
        "estimate": of.estimate(u), "ratio": of.estimate(np.asarray(ratios).mean(1)),
    }  # fmt: skip
    found = [(name, part, getattr(e, part)) for name, e in (fits | errors).items() for part in ("value", "error")]
    return {f"{name}/{part}": value for name, part, value in found} | {
        "levels": x, "unfolded": u, "spline": of.by_spline(x), "local_mean": of.by_local_mean(x),
        "number_variance": of.number_variance(u, [0.5, 2.0]), "rigidity": of.rigidity(u, [2.0, 5.0]),
        "ks_distance": of.ks_distance(spacings, law.cdf), "ks_two_sample": of.ks_two_sample(u[:8], u[8:]),
        "small": of.eigenvalues(stack[:, :6, :6] + stack[:, :6, :6].swapaxes(1, 2)),
        "weights": of.levels(stack[:, :8, :16]),
        "tracy_widom": dj.laws.TracyWidom(1).cdf(np.linspace(-4, 2, 7)),
        "surmise": law.pdf(np.linspace(0.1, 3, 5)),
    }  # fmt: skip


RUNS: dict[str, Callable[[Path], Arrays]] = {
    "phase-diagram": phase_diagram,
    "gas": gas,
    **{
        f"gas-{scheme}": gas_of_scheme(scheme)
        for scheme in ("matrix_kick", "pairwise_kick", "neighbour_implicit", "backward_euler", "euler_maruyama")
    },
    "gas-matrix_kick-beta-4": gas_of_scheme("matrix_kick", beta=4),
    "gas-other-potentials": gas_in_other_potentials,
    **{f"rbm-{level}": rbm(level) for level in ("sgd", "wishart", "population", "matrix", "dyson", "log-gas", "svag")},
    **{
        f"teacher-student-{level}": linear(level, False)
        for level in ("sgd", "wishart", "population", "matrix", "dyson", "svag")
    },
    **{f"linear-{level}": linear(level, True) for level in ("sgd", "wishart", "matrix")},
    "scaling": scaling,
    "bbp": bbp,
    "gpt": gpt,
    "gpt-grid": gpt_grid,
    "own-network": own_network(),
    "own-network-fresh-batches": own_network(batches=None),
    "own-network-adam": own_network("adam"),
    "validity": validity,
    "analyze": analyze,
    "monitor": monitor,
    "ensembles": ensembles,
    "statistics": statistics,
}
"""A run's name → what it records, given a directory of its own."""


def run_here(out: Path, names: Iterable[str]) -> None:
    """Run and write them, on the devices that this process has."""
    from tempfile import TemporaryDirectory
    from time import perf_counter

    from dysonjax import use_all_cores

    use_all_cores()  # the devices are those that XLA_FLAGS names; LAPACK keeps to one thread
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        began = perf_counter()
        with TemporaryDirectory() as place:
            arrays = {key: np.asarray(value) for key, value in RUNS[name](Path(place) / "run").items()}
        if not arrays:
            raise SystemExit(f"{name}: nothing was recorded")
        np.savez(out / name, **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle
        print(f"{out.name} {name}: {len(arrays)} arrays, {perf_counter() - began:.1f} s", flush=True)


def main() -> int:
    """Run them in one process for each number of devices, side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the arrays go")
    parser.add_argument("--only", default="*", help="names of runs, with wildcards")
    parser.add_argument("--devices", type=int, help="only on this number of devices, in this process")
    given = parser.parse_args()
    names = [name for name in RUNS if fnmatch(name, given.only)]
    if not names:
        parser.error(f"--only {given.only}: expected some of {', '.join(RUNS)}")
    if given.devices:
        run_here(given.out / str(given.devices), names)
        return 0
    words = [sys.executable, "-m", "tests.small_runs", "--out", str(given.out), "--only", given.only]
    started = []
    for count in DEVICES:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
        started.append(subprocess.Popen([*words, "--devices", str(count)], env={**os.environ, "XLA_FLAGS": flags}))
    return max(process.wait() for process in started)


if __name__ == "__main__":
    sys.exit(main())
