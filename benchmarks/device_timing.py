"""How `benchmarks.on_device` times a program on a device: compilation apart, against ceilings, kernels counted."""

import functools
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.sgd_engine import peak_gflops, timed

FEW = 2
"""Updates of the calls that tell what compilation and the start take."""
REPEATS = 3
LONGEST = 3.0
"""Seconds of a timed call that are enough, whatever the budget."""
MOST_UPDATES = 10**6
PROFILED = (4, 12)
"""Updates of the two profiled calls; kernels of the start and of records are in both."""

Run = Callable[[int], Any]
"""`run(updates)` returns when they are done."""


class Context(NamedTuple):
    """What a row is told.

    Seconds it may take, the device's measured ceilings, whether that is a CPU, whether kernels are to be counted, and
    how figures are sent before the row is complete.
    """

    budget: float
    ceilings: Mapping[str, float]
    on_cpu: bool
    profile: bool = True
    tell: Callable[[Mapping[str, Any]], None] = lambda result: None


class Cost(NamedTuple):
    """Floating-point operations and bytes of memory that one unit of work takes at least, counted by hand."""

    flops: float
    bytes: float


def ceilings(context: Context) -> dict[str, Any]:
    """The rates of a large matrix product, of a memory copy and of an empty loop, all as this JAX makes them."""
    n = 1024 if context.on_cpu else 16384
    product, default = peak_gflops(n), peak_gflops(n, "default")
    copied = copy_rate(2**27 if context.on_cpu else 2**31)
    found = {"flops_per_second": 1e9 * product, "bytes_per_second": copied}
    loop = empty_loop(1000)
    return {
        "value": product, "unit": "Gflop/s, float32 product", "ceilings": found, "sizes": {"n": n},
        "default_precision_gflops": default, "copy_gb_per_second": copied / 1e9, "loop_us_per_update": 1e6 * loop,
    }  # fmt: skip


def copy_rate(size: int) -> float:
    """Bytes a second, read and written in place, of adding a number to `size` bytes on one device, the best of five."""
    shift = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = shift(jnp.ones(size // 4, jnp.float32)).block_until_ready()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        x = shift(x).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size / min(seconds)


def empty_loop(updates: int) -> float:
    """Seconds an update of a loop of unknown length that does next to nothing: the floor under every program."""
    loop = jax.jit(lambda x, n: jax.lax.fori_loop(0, n, lambda i, x: 0.5 * x + 1, x))
    seconds = lambda n: min(timed(lambda: loop(jnp.zeros(1024), n).block_until_ready()) for _ in range(3))  # noqa: E731
    seconds(1)
    return (seconds(3 * updates) - seconds(updates)) / (2 * updates)


def measured(
    context: Context, run: Run, work: float, unit: str, sizes: Mapping[str, Any], cost: Cost, tiles: int = 1
) -> dict[str, Any]:
    """Rate of `run`, which does `work` units an update, within the budget.

    Calls of few updates come first: the difference of two is what compilation takes, the second one what a call takes
    besides its updates (drawing data, records). Longer calls follow; the rate is that of the updates alone
    (`start_apart`), or, where there was no time for calls that are long enough to tell, of whole calls. `tiles`: how
    many a device works through one after the other; kernels are those of one.
    """
    end = time.perf_counter() + context.budget
    first = timed(lambda: run(FEW))
    start = timed(lambda: run(FEW))
    if start < context.budget / 20:  # the first call after compilation is a little slow
        start = min(start, timed(lambda: run(FEW)))
    end = max(end, time.perf_counter() + context.budget / 2)  # compilation may have taken all of it
    steps, seconds = long_enough(run, start, end)
    times = [seconds]
    while len(times) < REPEATS and time.perf_counter() + seconds < end:
        times.append(timed(lambda: run(steps)))
    apart = min(times) > 1.5 * start
    spent = start * (1 - FEW / steps) if apart else 0.0  # a long call starts, too
    rates = sorted(work * steps / (t - spent) for t in times)
    value = float(np.median(rates))
    found = {
        "value": value, "unit": unit, "spread": {"min": rates[0], "max": rates[-1]}, "repeats": len(times),
        "start_apart": apart, "compile_s": max(first - start, 0.0), "start_s": start, "updates": steps,
        "seconds": float(np.median(times)), "sizes": dict(sizes), "flops": cost.flops, "bytes": cost.bytes,
        **shares(context, value, cost),
    }  # fmt: skip
    context.tell(found)  # a profiler may take the process with it
    kernels, note = kernels_per_update(run, tiles) if context.profile else (None, "not profiled: it ended a process")
    return {**found, "kernels_per_update": kernels, "kernels_note": note}


def long_enough(run: Run, start: float, end: float) -> tuple[int, float]:
    """Updates, and seconds of a call of so many, that take several times the start, or what is left of the time."""
    steps, seconds, wanted = FEW, start, min(LONGEST, (end - time.perf_counter()) / (REPEATS + 1))
    while (seconds < 3 * start or seconds < wanted / 2) and steps < MOST_UPDATES:
        alone = max(seconds - start, 0.02 * start, 1e-5)  # time of the updates, as far as it can be told
        steps = int(np.clip(max(4 * start, wanted) / alone * steps, 4 * steps, 32 * steps))
        seconds = timed(functools.partial(run, steps))
        if time.perf_counter() > end:
            break
    return steps, seconds


def shares(context: Context, rate: float, cost: Cost) -> dict[str, float | None]:
    """What part of the device's measured ceilings a rate is."""
    found = {}
    for name, each, ceiling in (
        ("flops", cost.flops, "flops_per_second"),
        ("bandwidth", cost.bytes, "bytes_per_second"),
    ):
        top = context.ceilings.get(ceiling)
        found[f"share_of_{name}"] = rate * each / top if top else None
    return found


def kernels_per_update(run: Run, tiles: int = 1) -> tuple[float | None, str]:
    """Kernels that one device launches in an update, by the profiler; copies between host and device do not count.

    None where nothing can be counted, and why.
    """
    if jax.default_backend() == "cpu":
        return None, "a CPU has no kernels"
    if tiles > 1:
        return None, f"not profiled: {tiles} tiles a device, one after the other, each as in the row of one"
    try:
        few, many = (profiled(lambda n=n: run(n)) for n in PROFILED)
    except Exception as error:  # a profiler that is missing or not allowed must not cost the row
        return None, f"no profile: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return (many - few) / (PROFILED[1] - PROFILED[0]), f"{few} and {many} in calls of {PROFILED} updates"


def profiled(call: Callable[[], Any]) -> int:
    """Kernels that the first device ran during `call`."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            call()
        found = list(Path(folder).rglob("*.xplane.pb"))
        return sum(count_kernels(jax.profiler.ProfileData.from_file(str(path))) for path in found)


def count_kernels(profile: Any) -> int:
    """Kernels on the streams of the first GPU in a profile; raises `LookupError` if it saw none of its streams."""
    lines = [
        line for plane in profile.planes if plane.name.startswith("/device:GPU:0")
        for line in plane.lines if line.name.startswith("Stream #")
    ]  # fmt: skip
    if not lines:
        raise LookupError(f"no stream of a GPU among {[plane.name for plane in profile.planes]}")
    return sum(not event.name.lower().startswith(("memcpy", "memset")) for line in lines for event in line.events)
