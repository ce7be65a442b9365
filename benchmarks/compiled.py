"""What an accelerator would run: every main program compiled for an H100 and a TPU v5e on a machine that has neither.

    python -m benchmarks.compiled                           # the table; replaces benchmarks/results/compiled.json
    python -m benchmarks.compiled --compare OTHER.json      # and which figures differ from another commit's
    python -m benchmarks.compiled --targets cpu --programs "eigenvalues, n = 16" --out found.json   # a part

Needs the packages `libtpu` and `jax-cuda13-plugin` beside JAX, in an environment of their own: where they are
installed, JAX looks for their devices at every start and complains that there are none. Each target has a process of
its own, because the libraries disturb each other, and because of what is patched: JAX resolves the platform "gpu" to
"cuda" only where a GPU is (JAX issue 23971), hence `jax._src.xla_bridge.canonicalize_platform` is replaced. The rest
is `jax.experimental.topologies`.

Kernels are counted in the compiled text (`benchmarks.hlo`), in the body of the update loop: loops inside it as often
as they go round, branches (a spectrum that is recorded now and then) apart, copies apart. A custom call is one kernel
here, whatever the library launches, and with the device at hand XLA may time several forms of a product and take
another one. A TPU launches nothing: there the figure is the number of operations outside fusions, scalar ones
included. Copies of the data are results as large as an array of the data, and the number of loops around them: in no
loop once a call, in one once a tile, in two at every snapshot, in three once in some updates, in four at every update.

The number of kernels depends a little on the number of replicas: 16,384 for the H100, the engine's tile on such a
device, and 2,048 for the TPU, which has a fifth of the memory: with 16,384 it was refused the two flax networks. For
the TPU XLA compiles at level O1: 12 s instead of 130 of a core for singular values alone. An update's operations were
the same as at full optimisation in both programs that were compared, temporaries 2 and 4 times as large.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from benchmarks import record

H100 = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
 shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000
 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
 cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 28 } runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3" """
"""What XLA must know of the device, as XLA prints it where there is one."""


class Target(NamedTuple):
    """A device to compile for, and the packages without which that cannot be done."""

    device: str
    packages: tuple[str, ...]
    replicas: int
    """Side by side at most: a tile of the engine's, less where memory is small."""
    options: dict[str, str] | None = None


TARGETS = {
    "h100": Target("NVIDIA H100 80GB HBM3", ("jax-cuda13-plugin", "jax-cuda13-pjrt"), 1 << 14),
    "v5e": Target("TPU v5e", ("libtpu",), 1 << 11, {"optimization_level": "O1"}),
    "cpu": Target("this machine's CPU", (), 8),
}
WITHOUT_DEVICES = {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a lock that was left behind, or another user's, is no obstacle
}


def device_of(target: str) -> Any:
    """The device, which need not be there."""
    import jax
    from jax._src import xla_bridge
    from jax.experimental import topologies

    if target == "cpu":
        return jax.devices("cpu")[0]
    if target == "v5e":
        return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    resolve = xla_bridge.canonicalize_platform
    xla_bridge.canonicalize_platform = lambda name: "cuda" if name in ("gpu", "cuda") else resolve(name)
    return topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1").devices[0]


def figures(program: Any, target: str, device: Any, replicas: int) -> dict[str, Any]:
    """All figures of one program; see the module."""
    from benchmarks import hlo

    lowered, data, around = program.lower(device, replicas)
    found: dict[str, Any] = {"replicas": replicas, "callbacks": hlo.callbacks(lowered.as_text())}
    if found["callbacks"] and target != "cpu":
        return found | {"error": "a callback cannot be compiled without the device"}
    clock, cpu = time.perf_counter(), time.process_time()
    compiled = lowered.compile(compiler_options=TARGETS[target].options)
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    module, memory = hlo.parse(compiled.as_text()), compiled.memory_analysis()
    loops = hlo.nest(module, around)
    update = hlo.work(module, loops[-1].called["body"][0] if loops else module.entry)
    return found | {
        "kernels": update.all_kernels,
        "kinds": dict(sorted(update.kernels.items())),
        "copies": update.all_copies,
        "loops_inside": [{"trips": trips, "launched": inside.launched} for trips, inside in update.loops],
        "branches": [branch.launched for branch in update.branches],
        "condition": hlo.work(module, loops[-1].called["condition"][0]).launched if loops else 0,
        "bytes": {
            "arguments": memory.argument_size_in_bytes,
            "outputs": memory.output_size_in_bytes,
            "temporary": memory.temp_size_in_bytes,
        },
        "data_copies": [copy._asdict() for copy in hlo.copies_of_data(module, data)],
        "unknown_loops": hlo.unknown_trips(module),
        "seconds": {"clock": round(clock, 1), "cpu": round(cpu, 1)},
    }


def child(target: str, names: Sequence[str], replicas: int | None) -> None:
    """Compile for one target, a line of JSON for each program as soon as it is there."""
    from benchmarks.compiled_programs import programs

    device, most = device_of(target), TARGETS[target].replicas
    for name, program in programs().items():
        if not names or name in names:
            try:
                found = figures(program, target, device, replicas or min(program.replicas, most))
            except Exception as error:  # a program that a compiler refuses is a result, too
                found = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
            print(json.dumps({"program": name, **found}), flush=True)


def compiled_for(target: str, names: Sequence[str], replicas: int | None) -> dict[str, dict[str, Any]]:
    """The figures of each program, from a process of its own; raises `RuntimeError` when that fails."""
    call = "import json, sys; from benchmarks.compiled import child; child(*json.loads(sys.argv[1]))"
    command = [sys.executable, "-c", call, json.dumps([target, names, replicas])]
    root, found = Path(__file__).parents[1], {}
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            command, cwd=root, env={**os.environ, **WITHOUT_DEVICES, "PYTHONPATH": path}, text=True,
            stdout=subprocess.PIPE, stderr=complaints,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            row = json.loads(line)
            found[row.pop("program")] = row
            took = f"{row['seconds']['clock']} s" if "seconds" in row else row["error"]
            print(f"{target}: {list(found)[-1]}: {took}", file=sys.stderr, flush=True)
        if process.wait():
            complaints.seek(0)
            raise RuntimeError(f"compiling for {target} failed:\n{complaints.read()[-4000:]}")
    return found


def missing(targets: Sequence[str]) -> list[str]:
    """Packages that are not installed."""
    absent = []
    for package in (package for target in targets for package in TARGETS[target].packages):
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            absent.append(package)
    return absent


def table(target: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of one target as a Markdown table."""
    head = ["program", "replicas", "kernels an update", "copies", "of what kinds", "MB arguments", "outputs",
            "temporary", "data copied, MB", "loops of unknown length", "callbacks", "CPU-s to compile"]  # fmt: skip
    rows = [_row(name, one) for name, one in found.items()]
    return f"{target} ({TARGETS[target].device})\n\n" + record.markdown(head, rows)


def _row(name: str, one: Mapping[str, Any]) -> list[str]:
    if "error" in one:
        return [name, "–", one["error"][:100], *["–"] * 9]  # its callbacks, if any, are what the error says
    inside = [f"{loop['launched']} × {loop['trips'] or '?'}" for loop in one["loops_inside"]]
    more = f" (loops inside: {', '.join(inside)})" if inside else ""
    more += f" (+ {sum(one['branches'])} in branches)" if one["branches"] else ""
    sums: Counter[int] = Counter()
    for copy in one["data_copies"]:
        sums[copy["loops_around"]] += copy["bytes"]
    copied = ", ".join(f"{total / 1e6:.1f} in {loops or 'no'} loops" for loops, total in sorted(sums.items()))
    kinds = ", ".join(f"{count} {kind}" for kind, count in one["kinds"].items())
    megabytes = [f"{one['bytes'][key] / 1e6:.1f}" for key in ("arguments", "outputs", "temporary")]
    return [
        name, str(one["replicas"]), f"{one['kernels']}{more}", str(one["copies"]), kinds, *megabytes, copied or "0",
        str(len(one["unknown_loops"])), ", ".join(one["callbacks"]) or "0", f"{one['seconds']['cpu']:.0f}",
    ]  # fmt: skip


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """One line for every figure that is not the same in two files, compile times apart."""
    before, after = dict(_leaves("", old)), dict(_leaves("", new))
    for name in sorted(before.keys() | after.keys()):
        if "/seconds/" not in name and before.get(name) != after.get(name):
            yield f"{name}: {before.get(name, 'not there')} → {after.get(name, 'not there')}"


def _leaves(name: str, tree: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(f"{name}/{key}" if name else key, value)
    else:
        yield name, tree


def main(
    targets: tuple[str, ...] = ("h100", "v5e"),
    programs: tuple[str, ...] = (),
    replicas: int | None = None,
    out: Path = record.RESULTS / "compiled.json",
    compare: Path | None = None,
) -> int:
    """Compile, print and write; see the module.

    Args:
        targets: any of h100, v5e, cpu.
        programs: names of programs; default all.
        replicas: side by side in one tile; default: what each program says.
        out: the file of the figures, which is replaced.
        compare: a file of another commit.
    """
    from benchmarks.compiled_programs import programs as known

    for kind, given, expected in (("targets", targets, TARGETS), ("programs", programs, known())):
        if unknown := [name for name in given if name not in expected]:
            print(f"{kind} = {unknown}: expected any of {', '.join(map(repr, expected))}", file=sys.stderr)
            return 2
    if absent := missing(targets):
        print(f"missing packages: pip install {' '.join(absent)} (see benchmarks/compiled.py)", file=sys.stderr)
        return 2
    old = json.loads(compare.read_text()) if compare else None
    with ThreadPoolExecutor() as pool:
        rows = pool.map(lambda target: compiled_for(target, programs, replicas), targets)
        found = dict(zip(targets, rows, strict=True))
    packages = ("jax", "jaxlib", *(package for target in targets for package in TARGETS[target].packages))
    versions = {package: importlib.metadata.version(package) for package in packages}
    result = {"versions": versions, "targets": found}
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print("\n\n".join(table(target, found[target]) for target in targets))
    if old is not None:
        print("\n" + ("\n".join(differences(old, result)) or f"no figure differs from {compare}"))
    return int(any("error" in one for programs in found.values() for one in programs.values()))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
