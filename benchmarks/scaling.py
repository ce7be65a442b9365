"""What it costs to spread a scan: devices, processes, grid sizes, the store, and the engine around the bare kernel.

    python -m benchmarks.scaling              # everything, half an hour; appends to benchmarks/results/scaling.jsonl
    python -m benchmarks.scaling --tiny       # the same at a size of seconds, nothing recorded
    python -m benchmarks.scaling --table      # the README's tables from the recorded results
    python -m benchmarks.scaling --block      # nothing but one block of a phase diagram, through the engine and bare

The engine: replicas with 21 snapshots through `scan`, with a store on disk, against the compiled kernel of the same
blocks alone, which records nothing and is called once: 12 × 12 × 100 gases of 10,000 updates; as many tanh networks of
100,000, with all that a phase diagram records; a tenth of them with their levels alone. The phase diagram runs three
times, the others nine; it takes minutes, in which a shared machine drifts by more than the difference, so one of its
blocks is timed in turn, too.
Devices and processes: a Dyson gas, the same size on all (strong) or the same size on each (weak), a process with one
device each, over the loopback interface. Compile time is apart everywhere.
"""

import functools
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import record
from dysonjax import simulate, use_all_cores
from dysonjax.engine.loop import program_of  # inside: the compiled kernel alone, to say what all around it costs
from dysonjax.engine.planning import Plan, prepare  # inside: the blocks and tiles that `scan` would choose
from dysonjax.experiments import GasRun, PhaseDiagram, Results, ScanJob
from dysonjax.runtime.team import joined  # inside: what the command line does for several processes
from dysonjax.storage import store  # inside: the store without an engine
from dysonjax.storage.metadata import provenance  # inside: what the store notes


def gas(replicas: int, steps: int) -> GasRun:
    """A small gas that takes no work but its own."""
    return GasRun(levels=6, temperature=(1.0,), seeds=replicas, steps=steps, snapshots=5, scheme="pairwise_kick")


def bare(planned: Plan, count: int | None = None) -> float:
    """Seconds of all blocks' compiled kernels, or of the first `count`: no chunks, snapshots, copies, store."""
    devices = tuple(planned.devices)
    sharding = NamedSharding(Mesh(np.array(devices), ("tiles",)), PartitionSpec("tiles"))
    blocks: list[tuple[Any, Any, Any]] = []
    for bucket in range(len(planned.replicas.buckets)):
        hyper = planned.replicas.hyper(bucket, slice(0, 1))
        static = {name: hyper[name] for name in planned.scan.dynamics.static}
        program = program_of(planned.scan.dynamics, (), static, devices)
        for first in range(0, planned.replicas.count, planned.block_size):
            rows = slice(first, min(first + planned.block_size, planned.replicas.count))
            n = rows.stop - rows.start
            unit = planned.tile * len(devices)
            pick = np.minimum(np.arange(-(-n // unit) * unit), n - 1).reshape(-1, planned.tile)
            given = planned.replicas.hyper(bucket, rows)
            traced = {k: jnp.broadcast_to(jnp.asarray(v), (n,))[pick] for k, v in given.items() if k not in static}
            blocks.append((program, *jax.device_put((planned.replicas.keys(bucket, rows)[pick], traced), sharding)))
    blocks = blocks[:count]
    jax.block_until_ready([b[1:] for b in blocks])

    def run(program: Any, keys: Any, traced: Any, steps: int = planned.scan.steps) -> Any:
        given, carry = program.start(keys, traced)
        share = keys.shape[0] // len(devices)
        marks, span = np.array([0, steps], np.int32), np.array([0, share, 0, steps, 2, steps], np.int32)
        return jax.block_until_ready(program.advance(carry, keys, given, marks, span))

    for block in blocks:
        run(*block, 1)  # compiles
    began = time.perf_counter()
    for block in blocks:
        run(*block)
    return time.perf_counter() - began


def engine(job: ScanJob, repeats: int) -> dict[str, Any]:
    """Seconds through `scan` with a store, less those of the bare kernels before and after, by the latter."""
    planned = prepare(job)
    replace(job, steps=2, snapshots=None).run(progress=False, block_size=planned.block_size)  # compiles
    ratios, alone = [], [bare(planned)]
    for _ in range(repeats):
        whole = timed(lambda out: job.run(out, progress=False))
        alone.append(bare(planned))
        ratios.append(2 * whole / sum(alone[-2:]) - 1)
    return {**record.spread(ratios), "seconds": float(np.median(alone))}


def block(job: ScanJob, repeats: int) -> dict[str, Any]:
    """Seconds of one block, from its keys to the store, less the bare kernel's, by the latter; in turn."""
    planned = prepare(job)
    rows = slice(0, planned.block_size)
    run = functools.partial(simulate, observables=planned.observables, devices=planned.devices, tile=planned.tile)
    ratios = []
    with tempfile.TemporaryDirectory() as out:
        made = store.create(Path(out), planned.header, planned.arrays, planned.block_size)
        made.note(provenance(planned.devices))
        for warm in (True, True, *[False] * repeats):  # compiles, then tells the engine its pace
            alone, began = bare(planned, 1), time.perf_counter()
            keys, hyper = planned.replicas.keys(0, rows), planned.replicas.hyper(0, rows)
            made.write(0, rows, run(job.dynamics, keys, hyper, job.steps, snapshots=planned.marks))
            if not warm:
                ratios.append((time.perf_counter() - began) / alone - 1)
    return record.spread(ratios)


def crowds(tiny: bool) -> dict[str, ScanJob]:
    """12 × 12 × 100 gases, a tenth of as many tanh networks with their levels alone, and a whole phase diagram."""
    points, seeds, steps = (2, 10, 40) if tiny else (12, 100, 10_000)
    axis = tuple(float(x) for x in np.geomspace(0.1, 1, points))
    temperature = tuple(float(x) for x in np.geomspace(0.1, 1, points**2))
    gases = GasRun(6, temperature, seeds=seeds, steps=steps, snapshots=21, scheme="pairwise_kick")
    batches = steps // 10
    diagram = PhaseDiagram(axis, axis, seeds=seeds, epochs=10 * steps // batches, batches=batches)
    networks = replace(only(replace(diagram, seeds=seeds // 10)), observables=())
    return {"gases": only(gases), "networks": networks, "diagram": only(diagram)}


def only(experiment: GasRun | PhaseDiagram) -> ScanJob:
    """The one scan of an experiment."""
    (job,) = experiment.jobs(Results())
    return job


def timed(call: Any) -> float:
    """Seconds of `call` with a new directory."""
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        call(Path(directory) / "run")
        return time.perf_counter() - began


def devices(replicas: int, steps: int, repeats: int) -> dict[str, Any]:
    """Updates a second on one device and on all, the same work on all (strong) or on each (weak)."""
    every = jax.local_devices()
    kinds = {"1": 1, f"{len(every)}": 1, "weak": len(every)}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    jobs = {name: only(gas(replicas * times, steps)) for name, times in kinds.items()}
    for name, job in jobs.items():  # each job has a dynamics, and so a program, of its own
        job.run(devices=every[: 1 if name == "1" else len(every)], progress=False)
    for _ in range(repeats):
        for name, job in jobs.items():
            used = every[: 1 if name == "1" else len(every)]
            seconds = timed(lambda out, j=job, u=used: j.run(out, devices=u, progress=False))
            rates[name].append(job.grid.size * steps / seconds)
    ratio = {name: record.spread(np.divide(r, rates["1"])) for name, r in rates.items()}
    return {"count": len(every), "rates": {k: record.spread(r) for k, r in rates.items()}, "ratios": ratio}


def processes(count: int, replicas: int, steps: int) -> float:
    """Updates a second of `count` processes with one device each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = f"127.0.0.1:{port}"
    env = {
        **os.environ, "JAX_COORDINATOR_BIND_ADDRESS": here, "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        child = [sys.executable, "-m", "benchmarks.scaling", "--member", f"{here} {count}", out, f"{replicas} {steps}"]
        running = [subprocess.Popen([*child, str(i)], env=env, stdout=subprocess.PIPE, text=True) for i in range(count)]
        said = [process.communicate()[0] for process in running]
    assert all(process.returncode == 0 for process in running), said
    return float(said[0].split()[-1])


def member(where: str, out: str, size: str, index: str) -> None:
    """One of several processes: compiles, waits for the others, runs; the first one says the rate."""
    coordinator, count = where.split()
    replicas, steps = map(int, size.split())
    with joined(coordinator, int(count), int(index)) as team:
        job = only(gas(replicas, steps))
        job.run(Path(out) / "warm", progress=False, block_size=512)
        team.meet()
        began = time.perf_counter()
        job.run(Path(out) / "run", progress=False, block_size=512)
        if team.first:
            print(replicas * steps / (time.perf_counter() - began))


def sizes(counts: list[int], steps: int) -> list[dict[str, float]]:
    """Microseconds a replica, megabytes of the store and of the host's memory at most, by the size of the grid."""
    found = []
    job = only(gas(counts[0], steps))
    for count in counts:
        grid = only(gas(count, steps)).grid
        sized = replace(job, grid=grid)
        sized.run(progress=False)  # compiles for this size
        bytes_ = 0

        def run(out: Path, sized: Any = sized) -> None:
            nonlocal bytes_
            sized.run(out, progress=False)
            bytes_ = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())

        seconds = timed(run)
        found.append({
            "replicas": count, "us": seconds / count * 1e6, "store_mb": bytes_ / 1e6,
            "host_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        })  # fmt: skip
    return found


def throughput(blocks: int, size: int) -> dict[str, float]:
    """Megabytes a second of noise into a store and out of it, in blocks of `size` replicas."""
    planned = prepare(only(gas(blocks * size, 10)), block_size=size)
    rng = np.random.default_rng(0)
    values = {
        name: rng.standard_normal((size, *inner)).astype(dtype) for name, (inner, dtype) in planned.arrays.items()
    }
    total = blocks * sum(v.nbytes for v in values.values()) / 1e6
    with tempfile.TemporaryDirectory() as out:
        made = store.create(Path(out), planned.header, planned.arrays, size)
        made.note(provenance(planned.devices))
        began = time.perf_counter()
        for block in made.blocks():
            made.write(*block, values)
        written = time.perf_counter()
        store.load(out).dataset(lazy=False)
        return {"write": total / (written - began), "read": total / (time.perf_counter() - written)}


def readme_table() -> str:
    """The README's tables, from the newest result of each JAX version and device."""
    lines, sized = [], []
    for line in record.last("scaling"):
        machine = f"{line['device']}, JAX {line['versions']['jax']}"
        d, p = line["devices"], line["processes"]
        ratio = lambda r: "{median:.2f} ({min:.2f}–{max:.2f})".format(**r)  # noqa: E731
        lines.append([
            machine, *["{median:.1%} ({min:.1%} – {max:.1%})".format(**cost) for cost in line["engine"].values()],
            ratio(d["ratios"][str(d["count"])]), ratio(d["ratios"]["weak"]), ratio(p["strong"]), ratio(p["weak"]),
            f"{line['store']['write']:.0f}, {line['store']['read']:.0f}",
        ])  # fmt: skip
        sized += [
            [machine, f"{s['replicas']:,}", f"{s['us']:.3g}", f"{s['store_mb']:.3g}", f"{s['host_mb']:.0f}"]
            for s in line["sizes"]
        ]
    names = [
        "machine",
        "engine over kernel: gases",
        "networks, levels",
        "networks, diagram",
        "one block of it",
        "devices: × one",
        "weak",
        "processes: × one",
        "weak",
        "store, MB/s in, out",
    ]
    costs = ["machine", "replicas", "µs a replica", "store, MB", "host memory at most, MB"]
    return f"{record.markdown(names, lines)}\n\n{record.markdown(costs, sized)}"


def main(
    tiny: bool = False, table: bool = False, block: bool = False, member: tuple[str, str, str, str] | None = None
) -> None:
    """Measure and record; see the module."""
    if member:
        globals()["member"](*member)
        return
    if table:
        print(readme_table())
        return
    use_all_cores()
    repeats = 1 if tiny else 3
    jobs = crowds(tiny)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    times = {name: repeats if tiny or name == "diagram" else 3 * repeats for name in jobs}
    costs = {} if block else {name: engine(job, times[name]) for name, job in jobs.items()}
    costs["block"] = globals()["block"](jobs["diagram"], 2 if tiny else 25)
    for name, cost in costs.items():
        print(f"engine over bare kernel, {name}: " + "{median:.1%} ({min:.1%} – {max:.1%})".format(**cost))
    if block:
        return
    found: dict[str, Any] = {"engine": costs}
    size = (512, 20) if tiny else (8192, 5000)
    found["devices"] = devices(*size, repeats)
    strong: list[float] = []
    weak: list[float] = []
    for _ in range(repeats):
        one, two = processes(1, *size), processes(2, 2 * size[0], size[1])
        weak.append(two / one)
        strong.append((two if tiny else processes(2, *size)) / one)  # starting processes is most of a tiny run
    found["processes"] = {"strong": record.spread(strong), "weak": record.spread(weak)}
    for name, ratios in (("devices", found["devices"]["ratios"]), ("processes", found["processes"])):
        for kind, r in ratios.items():
            print(f"{name}, {kind}: × " + "{median:.2f} ({min:.2f}–{max:.2f})".format(**r))
    found["store"] = throughput(*((4, 64) if tiny else (64, 4096)))
    print("store: {write:.0f} MB/s in, {read:.0f} MB/s out".format(**found["store"]))
    found["sizes"] = sizes([100, 1000] if tiny else [10**3, 10**4, 10**5, 10**6], 20)
    for s in found["sizes"]:
        print("{replicas:,} replicas: {us:.3g} µs each, {store_mb:.3g} MB stored, {host_mb:.0f} MB of host".format(**s))
    if not tiny:
        record.append("scaling", found)


if __name__ == "__main__":
    tyro.cli(main)
