"""Two CPU devices for every test, and small dynamics whose laws are known exactly."""

import gc
import os
import re
import sys
from pathlib import Path

from tests.programs import place_of_programs

# read when JAX first makes a device, so it must be set before any test does; a program is not split for the compiler's
# threads, for the workers fill the cores already
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    " --xla_cpu_parallel_codegen_split_count=1"
)

# read when the library is loaded: two devices call LAPACK at once, and its threads would wait for each other
os.environ["OPENBLAS_NUM_THREADS"] = "1"

# most of the suite's time is compilation; without most of XLA's optimisations an engine's program compiles in half the
# time, but runs for longer. Tests that are about bits, or that run for long, are marked `optimised`, and
# DYSONJAX_OPTIMISED=1 compiles all as a user's runs are
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "0" if os.environ.get("DYSONJAX_OPTIMISED") else "1")

# every worker, every process that a test starts and the next run of the tests share what has been compiled
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = place_of_programs()
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    if sys.version_info < (3, 12):  # JAX 0.10 writes pages to stderr about each program that it finds there
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import install_import_hook

# traces are made of very many small objects, which the collector would look at again and again
gc.set_threshold(100_000, 20, 20)

CHECKED = {
    "kernels": ("example_order", "linear_systems", "products", "random_numbers", "singular_values"),
    "dynamics": ("dyson_schemes", "gradients"),
}
"""Modules whose annotations, shapes among them, are checked at every call in tests. Elsewhere annotations say what is
meant, and functions at the border refuse in one line what is not, or take lists and NumPy's arrays, which tests try on
purpose."""
install_import_hook([f"dysonjax.{room}.{module}" for room in CHECKED for module in CHECKED[room]], "beartype.beartype")

from dysonjax.core.dynamics import Dynamics, Parameter, lift  # noqa: E402 - after the hook
from dysonjax.core.observables import Variable, snapshot  # noqa: E402

FIRST = {
    f"test_{name}.py"
    for name in ("team", "laws", "store", "on_device", "dyson_schemes", "dyson", "old_runs", "scanning", "training")
}
"""Files that take the longest: the workers begin with them, so that both end at the same time."""


def slow_tests(table):
    """The first column of `tests/SLOW.md`: each name as it stands there, and as a regular expression."""
    names = re.findall(r"^\| `(.+?)` \|", table, re.M)
    written = str.maketrans({"*": ".*", "{": "(", ";": "|", "}": ")"})
    return {
        name: re.compile("".join(c if c in "*{;}" else re.escape(c) for c in name).translate(written)) for name in names
    }


def name_of(item):
    """`test_grid.py::test_x[1]`, as the table has it: no two files have the same name."""
    return item.nodeid[item.nodeid.index(item.path.name) :]


def pytest_collection_modifyitems(config, items):
    """Mark what the table of slow tests lists; a slow test that it lacks, or a row without a test, is an error."""
    listed = slow_tests((Path(__file__).parent / "SLOW.md").read_text())
    unused = set(listed)
    for item in items:
        place = name_of(item)
        rows = {name for name, pattern in listed.items() if pattern.fullmatch(place)}
        unused -= rows
        if rows:
            item.add_marker(pytest.mark.slow)
        elif item.get_closest_marker("slow"):
            raise pytest.UsageError(f"{place} is slow: expected a row in tests/SLOW.md that says what it proves")
    items.sort(key=lambda item: item.path.name not in FIRST)  # stable
    whole = {item.path.name for item in items}
    stale = sorted(name for name in unused if name.split("::")[0] in whole)
    if stale and not any("::" in word for word in config.args):
        raise pytest.UsageError(f"tests/SLOW.md lists no test: {', '.join(stale)}")


@pytest.hookimpl(tryfirst=True)  # before the fixtures
def pytest_runtest_setup(item):
    """Programs are compiled as the test asks for, and never taken over from a test that asks for something else."""
    quick = not os.environ.get("DYSONJAX_OPTIMISED") and item.get_closest_marker("optimised") is None
    if jax.config.values["jax_disable_most_optimizations"] != quick:
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", quick)
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(quick))  # for the processes that it starts


@pytest.fixture(autouse=True)
def same_numbers(request):
    """A test module's generator `RNG` starts every test anew, so that no number depends on which tests ran before."""
    if rng := getattr(request.module, "RNG", None):
        rng.bit_generator.state = type(rng.bit_generator)(rng.bit_generator.seed_seq).state


START = (3.0, -1.0)
"""Where the Ornstein–Uhlenbeck toy starts, times `init_width`."""


def ornstein_uhlenbeck(block: bool = False, on_trace=lambda: None) -> Dynamics:
    """x ← a x + √(T (1 − a²)) ξ, a = e^{−learning_rate}: two levels, mean and variance exact at every step.

    ξ is the scaled sum of `batch_size` normal numbers, so the batch size decides a shape and nothing else. `on_trace`
    is called whenever Python runs `step`: only when it is traced, if the engine compiles as it should.
    """

    def init(key, hyper):
        return jnp.array(START) * hyper["init_width"]

    def move(x, noise, hyper):
        a = jnp.exp(-hyper["learning_rate"])
        kick = jnp.sqrt(hyper["temperature"] * (1 - a * a) / hyper["batch_size"])
        return a * x + kick * noise.sum(0)

    def step(key, x, hyper):
        on_trace()
        return move(x, jax.random.normal(key, (hyper["batch_size"], 2)), hyper)

    def block_step(keys, x, hyper):
        on_trace()
        return move(x, lift(lambda key: jax.random.normal(key, (hyper["batch_size"], 2)))(keys), hyper)

    return Dynamics(
        init=init,
        step=step,
        block_step=block_step if block else None,
        spectra=lambda x: {"W": jnp.sort(x)[::-1]},
        parameters={
            "learning_rate": Parameter(),
            "batch_size": Parameter(1, integer=True),
            "init_width": Parameter(1.0),
            "temperature": Parameter(1.0),
        },
        static=("batch_size",),
        observables=(POSITION,),
        config={"dynamics": "Ornstein–Uhlenbeck toy"},
    )


POSITION = snapshot("x", lambda spectra, x, hyper: x, Variable(("coordinate",), "coordinates", "m"))


def moments_of(steps, learning_rate, init_width=1.0, temperature=1.0):
    """Mean [2] and variance of the toy's x after `steps` updates."""
    a = np.exp(-learning_rate * np.asarray(steps, float))
    return init_width * a[..., None] * np.array(START), temperature * (1 - a * a)


def geometric(spectra=lambda x: {"W": x}) -> Dynamics:
    """x ← (rate + noise/1000) x from x = (2, 1): a rate of 2¹⁵ leaves float32 (2¹²⁸) at update 9, or 5 in a square."""

    def step(key, x, hyper):
        return x * (hyper["learning_rate"] + 1e-3 * jax.random.normal(key, (2,)))

    return Dynamics(
        init=lambda key, hyper: jnp.array([2.0, 1.0]),
        step=step,
        spectra=spectra,
        parameters={"learning_rate": Parameter()},
        observables=(POSITION,),
        config={"dynamics": "geometric toy"},
    )


def assert_same(one, other, variables=None):
    """The same numbers in two datasets, bit for bit; dimensions may be in another order."""
    names = list(one.data_vars) if variables is None else variables
    assert names and set(names) <= set(other.data_vars)
    for name in names:
        a, b = one[name], other[name].transpose(*one[name].dims)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        # bytes, because NaN must equal NaN and −0 must not equal 0
        assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes(), name
