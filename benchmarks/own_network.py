"""How fast are users' own networks under dysonjax, against what a user would write by hand?

    python -m benchmarks.own_network          # everything, an hour; appends to benchmarks/results/own_network.jsonl
    python -m benchmarks.own_network --only CNN --replicas 64
    python -m benchmarks.own_network --tiny   # two rows at a size of seconds, nothing recorded
    python -m benchmarks.own_network --minutes 4 --replicas 1024 16384 --out found.json   # what fits, on a lent device
    python -m benchmarks.own_network --table  # the README's table from the recorded results

Flax networks on handwritten digits are trained with Adam, each replica on batches of its own. The peers: a program of
`jax.vmap` and optax around the same modules, replicas in front, in `lax.scan` over updates, split over the same
devices; `torch.func.vmap` on all cores; PyTorch one network at a time in one thread, whose rate counts once for every
core, as if as many processes ran and none disturbed another. PyTorch's networks are written by hand and start with the
same parameters. On a GPU they run there, too, products in TF32 as XLA has them by default, and one network at a time
counts once.

First every program must find the same losses over 16 updates on the same batches; on batches of its own, the loss must
be lower after the first timing than at the start. Timings alternate, compilation apart, and a ratio is the geometric
mean over the pairs with its 95 % interval of Student's t. A share of the peak counts 6 operations for each product of
the way forward; the peak is that of float32, which TF32 can exceed.
"""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

import dysonjax as dj
from benchmarks import record
from benchmarks.networks import ROWS, Row, torch_loss, torch_parameters
from benchmarks.sgd_engine import peak_gflops, timed
from dysonjax.runtime.devices import cores  # inside: how many cores there are

TORCH = importlib.util.find_spec("torch") is not None  # comes with the extra `bench`; without it its rows are left out
RATE = 0.003
CHUNK = 16
"""Updates that the program by hand makes in one `lax.scan`."""
TINY = ("8-16-1, |B| = 4", "BatchNorm CNN, |B| = 16")

Run = Callable[[int], np.ndarray]
"""Losses near the end of so many updates of every replica."""


def ours(row: Row, rates: np.ndarray, fixed: bool = False) -> Callable[[int, Sequence[int]], np.ndarray]:
    """`dysonjax.simulate` of the network, replicas at `rates`: mean losses [replicas, marks] from mark to mark.

    A function of the updates and the marks. `fixed`: all replicas start alike and see the first examples in every
    update.
    """
    data = row.data()
    model = dj.models.FlaxModel(
        module=(lambda rngs: row.module(nnx.Rngs(0))) if fixed else row.module,
        loss_function=row.loss,
        data=(lambda key, num: jax.tree.map(lambda x: jnp.asarray(x[:num]), data)) if fixed else data,
        of_batch=True,
        watch=None,
    )
    dynamics = dj.train(model, optax.adam, batches=None if fixed else "replacement")
    keys = jax.random.split(jax.random.key(0), len(rates))
    hyper = {"learning_rate": rates, "batch_size": row.batch, "init_width": np.ones_like(rates)}
    loss = [one for one in dynamics.observables if "train_loss" in one.variables]
    options: dict[str, Any] = {"observables": loss}
    return lambda steps, marks: dj.simulate(dynamics, keys, hyper, steps, snapshots=marks, **options)["train_loss"]


def by_hand(row: Row, rates: np.ndarray, fixed: bool = False) -> Callable[[int], np.ndarray]:
    """The same with `jax.vmap` and optax: losses [replicas, CHUNK] of the last chunk of so many chunks."""
    data = jax.tree.map(jnp.asarray, row.data())
    graph = nnx.split(row.module(nnx.Rngs(0)), nnx.Param, ...)[0]

    def start(key: Any, rate: Any) -> Any:
        _, params, rest = nnx.split(row.module(nnx.Rngs(0 if fixed else key)), nnx.Param, ...)
        return params, optax.adam(rate).init(params), rest

    def update(key: Any, carry: Any, rate: Any, data: Any) -> Any:
        params, state, rest = carry
        chosen = jnp.arange(row.batch) if fixed else jax.random.randint(key, (row.batch,), 0, len(data[0]))

        def loss(params: Any) -> Any:
            net = nnx.merge(graph, params, rest, copy=True)
            value = row.loss(net, jax.tree.map(lambda x: x[chosen], data))
            return value, nnx.split(net, nnx.Param, ...)[2]

        (value, rest), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        change, state = optax.adam(rate).update(gradient, state, params)
        return (optax.apply_updates(params, change), state, rest), value

    def share(keys: Any, rates: Any, data: Any, chunks: Any) -> Any:
        def one(carry: Any, number: Any) -> Any:
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            return jax.vmap(update, (0, 0, 0, None))(own, carry, rates, data)

        def chunk(i: Any, given: Any) -> Any:
            carry, losses = jax.lax.scan(one, given[0], CHUNK * i + jnp.arange(CHUNK))
            return carry, losses.T

        empty = jnp.zeros((len(rates), CHUNK))
        return jax.lax.fori_loop(0, chunks, chunk, (jax.vmap(start)(keys, rates), empty))[1]

    mesh, split, whole = Mesh(np.array(jax.devices()), ("d",)), PartitionSpec("d"), PartitionSpec()
    spread = jax.shard_map(share, mesh=mesh, in_specs=(split, split, whole, whole), out_specs=split, check_vma=False)
    program, keys = jax.jit(spread), jax.random.split(jax.random.key(0), len(rates))
    return lambda chunks: np.asarray(program(keys, jnp.asarray(rates), data, chunks))


def torch_training(row: Row, replicas: int, rate: float, fixed: bool = False, vmapped: bool = True) -> Run:
    """PyTorch, vmapped over all replicas or one network: losses [CHUNK, replicas or 1] of the last updates."""
    torch, place = importlib.import_module("torch"), "cuda" if on_gpu() else "cpu"
    x, y = (torch.from_numpy(a).to(place) for a in row.data())
    y = y if y.is_floating_point() else y.long()
    loss = torch_loss(row)
    alike = jax.tree.map(lambda a: a[None], nnx.state(row.module(nnx.Rngs(0)), nnx.Param))
    several = torch_parameters(jax.tree.map(lambda a: jnp.repeat(a, replicas, 0), alike))

    def run(updates: int) -> np.ndarray:
        torch.set_num_threads(cores() if vmapped else 1)
        p = {name: (a if vmapped else a[0]).clone().to(place) for name, a in several.items()}
        if not vmapped:
            for a in p.values():
                a.requires_grad_()
        optimizer, losses = torch.optim.Adam(list(p.values()), lr=rate), []
        gradient = torch.func.vmap(torch.func.grad_and_value(loss))
        for _ in range(updates):
            shape = (replicas, row.batch) if vmapped else (row.batch,)
            chosen = torch.arange(row.batch).expand(shape) if fixed else torch.randint(len(x), shape, device=place)
            if vmapped:
                slopes, value = gradient(p, x[chosen], y[chosen])
                for name, a in p.items():
                    a.grad = slopes[name]
            else:
                optimizer.zero_grad()
                value = loss(p, x[chosen], y[chosen])
                value.backward()
            optimizer.step()
            losses.append(value.detach().reshape(-1))
        return torch.stack(losses[-CHUNK:]).cpu().numpy()

    return run


def on_gpu() -> bool:
    """Whether JAX computes on a GPU; it starts JAX."""
    return jax.default_backend() == "gpu"


def check(row: Row) -> None:
    """The same losses on the same batches, at a rate of each replica's own; products in full float32."""
    with jax.default_matmul_precision("highest"):
        _tensor_cores(False)
        _check(row)
    _tensor_cores(True)


def _tensor_cores(used: bool) -> None:
    """Whether PyTorch's products on a GPU may be TF32."""
    if TORCH:
        torch = importlib.import_module("torch")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = used


def _check(row: Row) -> None:
    rates = np.float32(RATE) * np.arange(1, 5, dtype=np.float32)
    expected = by_hand(row, rates, fixed=True)(1)
    assert np.all(np.isfinite(expected)) and len({*expected[:, -1].tolist()}) == len(rates)
    close: dict[str, Any] = {"rtol": 2e-3, "atol": 1e-5}  # Adam makes much of rounding in small gradients
    found = ours(row, rates, fixed=True)(CHUNK, range(CHUNK + 1))[:, 1:]
    np.testing.assert_allclose(found, expected, err_msg=f"dysonjax, {row.name}", **close)
    for vmapped in (True, False) if TORCH else ():
        found = torch_training(row, 2, float(rates[0]), fixed=True, vmapped=vmapped)(CHUNK)
        np.testing.assert_allclose(found[:, 0], expected[0], err_msg=f"PyTorch, {row.name}", **close)


def compare(row: Row, replicas: int, seconds: float, repeats: int, peak: float) -> dict[str, Any]:
    """Updates per second of all replicas together, of every program in turn, and the ratios of ours to its peers."""
    rates = np.full(replicas, RATE, np.float32)
    hand, program = by_hand(row, rates), ours(row, rates)
    runs: dict[str, tuple[Run, int]] = {
        "dysonjax": (lambda n: program(n, (n // 2, n))[:, -1], replicas),
        "jax.vmap": (lambda n: hand(max(n // CHUNK, 1)), replicas),
    }
    if TORCH:
        runs["torch.func.vmap"] = torch_training(row, replicas, RATE), replicas
        runs["PyTorch, one at a time"] = torch_training(row, 1, RATE, vmapped=False), 1 if on_gpu() else cores()
    updates, compiling = {}, {}
    for name, (run, _) in runs.items():
        began = time.perf_counter()
        at_first = np.mean(run(CHUNK))
        first = time.perf_counter() - began
        updates[name], took = _updates(run, seconds)
        falls = updates[name] < 20 * CHUNK or np.mean(run(updates[name])) < at_first
        assert np.isfinite(at_first) and falls, f"{name}, {row.name}: the loss does not fall"
        compiling[name] = max(first - took * CHUNK / updates[name], 0)
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (run, many) in runs.items():
            found[name].append(many * updates[name] / timed(lambda run=run, name=name: run(updates[name])))
    operations = 6 * row.products * row.batch
    return {
        "updates_per_second": {name: record.spread(rate) for name, rate in found.items()},
        "share_of_peak": {name: float(np.median(rate)) * operations / peak / 1e9 for name, rate in found.items()},
        "ratios": {name: record.ratio(found["dysonjax"], rate) for name, rate in found.items() if name != "dysonjax"},
        "compile_seconds": compiling,
        "updates": updates,
    }


def _updates(run: Run, seconds: float) -> tuple[int, float]:
    """How many updates take so long, whole chunks, and how long they took."""
    updates, took = CHUNK, timed(lambda: run(CHUNK))
    while took < seconds / 2 and updates < 2**22:
        updates = more = CHUNK * max(round(updates / CHUNK * min(seconds / took, 16)), 1)
        took = timed(lambda: run(more))  # noqa: B023  # it is called at once
    return updates, took


def main(
    tiny: bool = False,
    table: bool = False,
    only: tuple[str, ...] = ("",),
    replicas: tuple[int, ...] = (16, 64, 256, 1024),
    seconds: float = 1.0,
    repeats: int = 7,
    minutes: float = float("inf"),
    out: Path | None = None,
) -> None:
    """Run the benchmark, or print the README's table from recorded results.

    Args:
        tiny: two rows at a size of seconds.
        table: print the table.
        only: rows whose name begins so, in this order.
        replicas: how many networks at once.
        seconds: of one timing.
        repeats: timings of each program.
        minutes: after so many no more rows are begun.
        out: a JSON file, written after every row, instead of the recorded results.
    """
    if table:
        print(readme_table())
        return
    dj.use_all_cores()
    if tiny:
        replicas, seconds, repeats = (4,), 0.02, 2
    named = [row for start in only for row in ROWS if row.name.startswith(start)]
    rows = [row for row in ROWS if row.name in TINY] if tiny else named
    result: dict[str, Any] = {"peak_gflops": peak_gflops(512 if tiny else None), "seconds": seconds, "repeats": repeats}
    result["rows"], end = [], time.monotonic() + 60 * minutes
    for line in measured(rows, replicas, seconds, repeats, result["peak_gflops"], end):
        result["rows"].append(line)
        if out:
            record.save(out, record.machine() | result)
    if failed := [line["row"] for line in result["rows"] if "failed" in line]:
        sys.exit(f"failed: {', '.join(failed)}")
    if not tiny and not out:
        record.append("own_network", result)


def measured(
    rows: Sequence[Row], replicas: Sequence[int], seconds: float, repeats: int, peak: float, end: float
) -> Iterator[Any]:
    """A line for each row and number of replicas; none is begun after `end`, of the monotonic clock."""
    checked: list[Row] = []
    for count in replicas:
        for row in rows:
            if time.monotonic() > end:
                return
            line: dict[str, Any] = {"row": row.name, "replicas": count}
            try:
                if row not in checked:
                    check(row)
                    checked.append(row)
                line |= compare(row, count, seconds, repeats, peak)
                show(line)
            except Exception as error:  # the other rows are worth having
                line["failed"] = f"{type(error).__name__}: {error}"
                print(f"{row.name}, {count} replicas: {line['failed']}", flush=True)
            yield line


def show(line: dict[str, Any]) -> None:
    for name, rate in line["updates_per_second"].items():
        share, ratio = line["share_of_peak"][name], line["ratios"].get(name)
        beside = f"; dysonjax × {_interval(ratio)}" if ratio else ""
        print(
            f"{line['row']}, {line['replicas']} replicas, {name}: {rate['median']:.4g} updates/s "
            f"({rate['min']:.4g} – {rate['max']:.4g}), {share:.1%} of peak, "
            f"compiled in {line['compile_seconds'][name]:.1f} s{beside}",
            flush=True,
        )


def _interval(ratio: dict[str, float]) -> str:
    return "{} ({} – {})".format(*(_number(ratio[key]) for key in ("mean", "low", "high")))


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def readme_table() -> str:
    """Rates, shares of the peak and ratios with their intervals, a table for each recorded device and JAX version."""
    tables = []
    for line in sorted(record.last("own_network"), key=lambda x: x["versions"]["jax"]):
        peers = list(dict.fromkeys(name for one in line["rows"] for name in one["updates_per_second"]))
        peers = [name for name in peers if name != "dysonjax"]
        rows = []
        for one in line["rows"]:
            rate = _number(one["updates_per_second"]["dysonjax"]["median"] / 1e3)
            ratios = [_interval(one["ratios"][name]) if name in one["ratios"] else "–" for name in peers]
            rows.append([one["row"].replace("|", "\\|"), f"{one['replicas']}", rate,
                         f"{one['share_of_peak']['dysonjax']:.1%}", *ratios])  # fmt: skip
        machine = f"{line['device']}, JAX {line['versions']['jax']}"
        head = [machine, "replicas", "10³ updates/s", "of peak", *(f"× {name}" for name in peers)]
        tables.append(record.markdown(head, rows))
    return "\n\n".join(tables)


if __name__ == "__main__":
    tyro.cli(main)
