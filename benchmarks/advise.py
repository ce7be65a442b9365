"""Is the advice right, and better than what one would do by hand?

    python -m benchmarks.advise --repetitions 20   # against a dense grid; appends to benchmarks/results/advise.jsonl
    python -m benchmarks.advise --peers-repeated 5 --target 0.7 --model cnn   # against peers at as many updates
    python -m benchmarks.advise --tiny             # both at a size of seconds, nothing recorded

Dense grid: many learning rates with 200 networks each, as nobody would train them, more where learning ends. Its fit
says what the largest safe rate is, its best mean what loss can be had. Of every repetition, which has a key of its own:
does the interval of the safe rate contain the dense grid's; what share of fresh networks learns at the recommended
rate; their mean loss.

Peers, each with as many updates as the advice: Optuna (TPE and its median pruner, eight trials at a time), random
search (one network a rate, the best one is taken), and the learning-rate range test of fastai and Lightning (one
network while the rate rises from 1e-6 to 10 in 100 updates; where the smoothed loss falls fastest). All are scored by
fresh networks of their own keys. And Optuna in as much time as the first advice took, compiling included: one network
after another on every core, by a loop of flax and optax that is compiled for each batch size.
"""

import functools
import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

import dysonjax as dj
from benchmarks import own_models, record
from dysonjax.experiments.advice.rounds import boundary  # inside: the same fit on the dense grid
from dysonjax.experiments.advice.tried import Tried

OPTUNA = importlib.util.find_spec("optuna") is not None  # comes with the extra `bench`
SIZES = (8, 32, 128)
DENSE = np.geomspace(1e-3, 10, 25)
FINER = 16
"""Rates between those of the dense grid where nearly all and nearly none learn: it is too coarse to tell where."""
TRIALS = 8
"""Trials of Optuna side by side."""
RANGE = (1e-6, 10.0, 100)
"""First and last rate of the range test, and its updates."""
TESTS = 512
"""Test examples at most, as an advice uses: another part of them would be another metric, and another boundary."""
FRESH_KEY = 1_000_000
"""Base key of the networks that judge."""


class Trainer:
    """Networks of one model and batch size; their metric at the end."""

    def __init__(self, model: Any, optimizer: Any, steps: int) -> None:
        self.steps = steps
        self.dynamics = dj.train(model, optimizer, tests=TESTS)
        self.rising = dj.train(model, optimizer, schedule=_rising)

    def ends(self, size: int, rates: Sequence[float], seeds: Sequence[int], key: int, marks: Any = None) -> np.ndarray:
        """Test losses [network, mark], infinite where a network diverged; by default at the end alone."""
        points = dj.Points(learning_rate=rates, batch_size=size, seed=seeds)
        ds = dj.scan(self.dynamics, points, self.steps, key=key, snapshots=marks, paired=True, progress=False)
        chosen = ds.test_loss.values if marks else ds.test_loss.isel(snapshot=-1).values
        lost = np.isnan(chosen) | (ds.diverged_step.values >= 0).reshape(-1, *[1] * (chosen.ndim - 1))
        return np.where(lost, np.inf, chosen)

    def range_test(self, size: int, key: int) -> float:
        """The rate that Lightning suggests: where the smoothed loss falls fastest over log-spaced rates."""
        first, last, steps = RANGE
        ds = dj.scan(
            self.rising, dj.Grid(learning_rate=[1.0], batch_size=[size]), steps, key=key,
            snapshots=range(steps + 1), progress=False,
        )  # fmt: skip
        loss = ds.train_loss.values.ravel()[1:]
        rates, smooth, mean = np.geomspace(first, last, steps), [], 0.0
        for i, value in enumerate(loss):
            mean = 0.98 * mean + 0.02 * value
            smooth.append(mean / (1 - 0.98 ** (i + 1)))
        kept = np.array(smooth)[10:-1]
        kept = kept[np.isfinite(kept)]
        return float(rates[10:][int(np.argmin(np.gradient(kept)))])


def _rising(update: Any, steps: Any) -> Any:
    first, last, count = RANGE
    return first * jnp.exp(jnp.log(last / first) * update / (count - 1))


def dense_grid(trainer: Trainer, seeds: int, rates: np.ndarray, key: int, share: float = 0.8) -> dict[str, Any]:
    """Of each batch size the fitted safe rate and the best mean loss; the target, from the best median of all."""
    found = {size: _ends(trainer, size, rates, seeds, key) for size in SIZES}
    initial = float(np.median(trainer.ends(SIZES[0], [1e-12] * 16, range(16), key)))
    best = min(float(np.median(ends, axis=1).min()) for ends in found.values())
    target = initial - share * (initial - best)
    answer: dict[str, Any] = {"target": target, "initial": initial, "networks": 0}
    for size, ends in found.items():
        means = ends.mean(axis=1)
        finer = _where_learning_ends(rates, (ends <= target).mean(axis=1))
        at, ends = np.r_[rates, finer], np.r_[ends, _ends(trainer, size, finer, seeds, key)]
        learned = ends <= target
        tried = _tried(np.repeat(at, seeds), np.tile(np.arange(seeds), len(at)), learned.ravel(), ends.ravel())
        edge = boundary(tried, 0)
        answer["networks"] += ends.size
        answer[str(size)] = {
            "safe": edge.rate, "interval": [edge.low, edge.high], "best_loss": float(means.min()),
            "best_rate": float(rates[int(means.argmin())]), "method": edge.method,
            "curve": sorted(zip(at.tolist(), learned.mean(axis=1).tolist(), strict=True)),
        }  # fmt: skip
    return answer


def _where_learning_ends(rates: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Rates between the last at which nearly as many learn as at the best, and the first at which hardly any do."""
    top = int(share.argmax())
    last = min(top + int(np.flatnonzero(share[top:] >= 0.98 * share[top])[-1]), len(rates) - 2)
    none = np.flatnonzero(share[last + 1 :] <= 0.02)
    return np.geomspace(rates[last], rates[last + 1 + none[0] if len(none) else -1], FINER + 2)[1:-1]


def _ends(trainer: Trainer, size: int, rates: np.ndarray, seeds: int, key: int) -> np.ndarray:
    """Test losses [rate, seed] of the dense grid."""
    pairs = [(rate, seed) for rate in rates for seed in range(seeds)]
    return trainer.ends(size, *zip(*pairs, strict=True), key=key).reshape(len(rates), seeds)


def _tried(rate: np.ndarray, seed: np.ndarray, learned: np.ndarray, end: np.ndarray) -> Tried:
    nothing: Any = np.zeros(len(rate))
    return Tried(
        np.zeros(len(rate), np.int64), rate.astype(float), seed.astype(np.int64), learned, end,
        np.zeros(len(rate), np.int64), nothing, nothing, nothing, 0.0, 0.0, 0.0, "test_loss",
    )  # fmt: skip


def advised(model: Any, optimizer: Any, steps: int, budget: int, target: float, key: int) -> tuple[dict, float]:
    """Of each batch size recommended and safe rates, and the seconds that it took."""
    began = time.perf_counter()
    found = dj.advise(
        model, optimizer=optimizer, steps=steps, batch_size=SIZES, budget=f"{budget} updates", target=target, key=key,
        progress=False,
    )  # fmt: skip
    lines = {
        one.line.batch_size: {
            "recommended": one.recommended, "safe": one.safe.rate, "interval": [one.safe.low, one.safe.high],
        }
        for one in found.answer.lines
    }  # fmt: skip
    updates = sum(ds.sizes["point"] for ds in found.results.values()) * steps
    return {"lines": lines, "updates": updates}, time.perf_counter() - began


def scored(trainer: Trainer, size: int, rate: float | None, target: float, fresh: int, key: int) -> dict[str, Any]:
    """Mean loss and share that learns of fresh networks at a rate."""
    if rate is None:
        return {"rate": None, "learned": 0, "networks": fresh, "loss": None, "error": None}
    ends = trainer.ends(size, [rate] * fresh, range(fresh), key=FRESH_KEY + key)
    good = ends[np.isfinite(ends)]
    loss = float(ends.mean()) if len(good) == len(ends) else None
    error = float(ends.std(ddof=1) / np.sqrt(fresh)) if loss is not None else None
    return {"rate": rate, "learned": int((ends <= target).sum()), "networks": fresh, "loss": loss, "error": error}


def repeated(
    model: Any, optimizer: Any, steps: int, budget: int, keys: range, fresh: int, seeds: int, rates: Any,
) -> dict[str, Any]:  # fmt: skip
    """The advice with each of the keys, against one dense grid."""
    trainer = Trainer(model, optimizer, steps)
    began = time.perf_counter()
    dense = dense_grid(trainer, seeds, rates, FRESH_KEY - 1 - keys[0])
    print(f"dense grid: {dense} in {time.perf_counter() - began:.0f} s", flush=True)
    runs = []
    for key in keys:
        found, seconds = advised(model, optimizer, steps, budget, dense["target"], key)
        run = {"updates": found["updates"], "seconds": seconds, "sizes": {}}
        for size, line in found["lines"].items():
            truth, (low, high) = dense[str(size)], line["interval"]
            run["sizes"][str(size)] = {
                **line, "contains": bool(low <= truth["safe"] <= high),
                "fresh": scored(trainer, size, line["recommended"], dense["target"], fresh, key),
            }  # fmt: skip
        runs.append(run)
        print(f"key {key}: {run}", flush=True)
    result = {"steps": steps, "budget": budget, "keys": list(keys), "dense": dense, "runs": runs}
    print(told(result), flush=True)
    return result


def told(result: dict[str, Any]) -> str:
    """The repetitions as a table."""
    runs, rows = result["runs"], []
    for size in result["runs"][0]["sizes"]:
        own = [run["sizes"][size] for run in runs]
        dense = result["dense"][size]
        losses = [one["fresh"]["loss"] for one in own if one["fresh"]["loss"] is not None]
        rows.append([
            size, f"{dense['safe']:.3g} ({dense['interval'][0]:.3g} – {dense['interval'][1]:.3g})",
            f"{sum(one['contains'] for one in own)} of {len(own)}",
            f"{sum(one['fresh']['learned'] for one in own)} of {sum(one['fresh']['networks'] for one in own)}",
            f"{np.mean(losses) / dense['best_loss']:.3f}" if losses else "–",
        ])  # fmt: skip
    seconds, updates = (np.median([run[key] for run in runs]) for key in ("seconds", "updates"))
    share = updates / result["steps"] / result["dense"]["networks"]
    head = ["|B|", "dense grid's safe rate", "in the interval", "fresh networks that learn", "mean loss / dense best"]
    return f"{record.markdown(head, rows)}\n\nmedian {seconds:.0f} s, {share:.1%} of the dense grid's updates"


def peers(
    model: Any, optimizer: Any, steps: int, budget: int, keys: range, fresh: int, target: float
) -> dict[str, Any]:
    """Advice and peers at as many updates, scored by fresh networks."""
    trainer, lines, given = Trainer(model, optimizer, steps), [], 0.0
    trials = budget // steps // len(SIZES)
    for key in keys:
        found, seconds = advised(model, optimizer, steps, budget, target, key)
        given = given or seconds / len(SIZES)
        for size in SIZES:
            chosen: dict[str, Callable[[], float | None]] = {
                "advise": lambda size=size, found=found: found["lines"][size]["recommended"],
                "random search": lambda size=size, key=key: _random_search(trainer, size, trials, key),
                "range test": lambda size=size, key=key: trainer.range_test(size, key),
            }
            if OPTUNA:
                chosen["Optuna"] = lambda size=size, key=key: _optuna(trainer, size, budget // len(SIZES), key)
                if isinstance(model, dj.models.FlaxModel):
                    alone = "Optuna, one network at a time, equal time"
                    chosen[alone] = functools.partial(_optuna_alone, model, optimizer, size, steps, given, key)
            for name, choose in chosen.items():
                began = time.perf_counter()
                rate = choose()
                took = seconds / len(SIZES) if name == "advise" else time.perf_counter() - began
                score = scored(trainer, size, rate, target, fresh, key)
                lines.append({"key": key, "size": size, "method": name, "seconds": took, **score})
                print(lines[-1], flush=True)
    print(compared(lines), flush=True)
    return {"steps": steps, "budget": budget, "target": target, "lines": lines}


def compared(lines: Sequence[dict[str, Any]]) -> str:
    """The peers as a table: means over keys, ± standard error."""
    rows = []
    for size in SIZES:
        for name in dict.fromkeys(line["method"] for line in lines):
            own = [line for line in lines if line["size"] == size and line["method"] == name]
            losses = np.array([line["loss"] for line in own if line["loss"] is not None])
            error = losses.std(ddof=1) / np.sqrt(len(losses)) if len(losses) > 1 else np.nan
            lost = len(own) - len(losses)
            learned, many = (sum(line[key] for line in own) for key in ("learned", "networks"))
            rows.append([
                f"{size}", name, f"{losses.mean():.4f} ± {error:.4f}" if len(losses) else "–",
                f"{lost} of {len(own)}", f"{learned / many:.3f}", f"{np.median([line['seconds'] for line in own]):.1f}",
            ])  # fmt: skip
    head = ["|B|", "method", "mean loss of fresh networks", "with networks that diverged", "share that learns", "s"]
    return record.markdown(head, rows)


def _random_search(trainer: Trainer, size: int, trials: int, key: int) -> float:
    rates = np.exp(np.random.default_rng(key).uniform(np.log(1e-4), np.log(10), trials))
    ends = trainer.ends(size, rates.tolist(), range(trials), key=key)
    return float(rates[int(ends.argmin())])


def _optuna(trainer: Trainer, size: int, updates: int, key: int) -> float:
    """TPE with the median pruner; a pruned trial is paid for up to where it was pruned."""
    optuna, study, marks, spent = *_study(key), _marks(trainer.steps), 0
    while spent < updates:
        trials = [study.ask() for _ in range(TRIALS)]
        rates = [trial.suggest_float("rate", 1e-4, 10, log=True) for trial in trials]
        ends = trainer.ends(size, rates, [trial.number for trial in trials], key, marks)[:, -len(marks) :]
        for trial, values in zip(trials, np.minimum(ends, 1e6), strict=True):
            for mark, value in zip(marks, values, strict=True):
                trial.report(float(value), mark)
                spent += mark - (marks[marks.index(mark) - 1] if mark > marks[0] else 0)
                if mark < marks[-1] and trial.should_prune():
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    break
            else:
                study.tell(trial, float(values[-1]))
    return float(study.best_params["rate"])


def _study(key: int) -> tuple[Any, Any]:
    optuna = importlib.import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=key, constant_liar=True)
    return optuna, optuna.create_study(sampler=sampler, pruner=optuna.pruners.MedianPruner())


def _marks(steps: int) -> list[int]:
    """Updates after which a trial may be pruned, and the last one."""
    return [steps // 8, steps // 4, steps // 2, steps]


def _optuna_alone(model: Any, optimizer: Any, size: int, steps: int, seconds: float, key: int) -> float:
    """What a user would write: trials one after another on every core, each a loop that is compiled once."""
    optuna, study = _study(key)
    began, train, marks = time.perf_counter(), _by_hand(model, optimizer, size), _marks(steps)

    def objective(trial: Any) -> float:
        rate = trial.suggest_float("rate", 1e-4, 10, log=True)
        run, value = train(rate, jax.random.fold_in(jax.random.key(key), trial.number)), np.inf
        for begin, mark in zip([0, *marks], marks, strict=False):
            value = min(float(np.nan_to_num(run(mark - begin), nan=1e6)), 1e6)
            trial.report(value, mark)
            if mark < steps and trial.should_prune():
                raise optuna.TrialPruned
        return value

    train(0.1, jax.random.key(0))(1)  # compiles
    study.optimize(
        objective, timeout=max(1.0, seconds - (time.perf_counter() - began)), n_jobs=jax.local_device_count()
    )
    return float(study.best_params["rate"])


def _by_hand(model: Any, optimizer: Any, size: int) -> Callable[..., Callable[[int], float]]:
    """`train(rate, key)` → `run(updates)` → test loss, of one network, by flax and optax."""
    import optax

    make = optimizer or optax.sgd
    data, test = (jax.tree.map(jnp.asarray, x) for x in (model.data, model.test_data))

    def start(rate: Any, key: Any) -> Any:
        params = nnx.state(model.module(nnx.Rngs(key)))
        return params, make(rate).init(params)

    graph = nnx.graphdef(nnx.eval_shape(lambda: model.module(nnx.Rngs(0))))
    loss = lambda params, examples: model.loss_function(nnx.merge(graph, params), examples)  # noqa: E731

    def updates(rate: Any, key: Any, state: Any, count: Any) -> Any:
        def update(i: Any, state: Any) -> Any:
            params, own = state
            chosen = jax.random.randint(jax.random.fold_in(key, i), (size,), 0, len(data[0]))
            gradient = jax.grad(loss)(params, jax.tree.map(lambda x: x[chosen], data))
            change, own = make(rate).update(gradient, own, params)
            return optax.apply_updates(params, change), own

        state = jax.lax.fori_loop(0, count, update, state)
        return state, loss(state[0], test)

    start, updates = jax.jit(start), jax.jit(updates)

    def train(rate: float, key: Any) -> Callable[[int], float]:
        held = [start(rate, key)]

        def run(count: int) -> float:
            held[0], value = updates(rate, key, held[0], count)
            return float(value)

        return run

    return train


def main(
    repetitions: int = 0,
    peers_repeated: int = 0,
    model: str = "mlp",
    optimizer: str = "",
    steps: int = 500,
    budget: int = 600_000,
    target: float = 0.0,
    fresh: int = 200,
    dense_seeds: int = 200,
    first_key: int = 0,
    tiny: bool = False,
) -> None:
    """Run the benchmark.

    Args:
        repetitions: of the advice against the dense grid.
        peers_repeated: of the advice against peers; without repetitions `target` must be given.
        model: a function of `benchmarks.own_models`.
        optimizer: a function of `benchmarks.own_models` or a name in optax; by default plain gradient descent.
        steps: updates of a network.
        budget: updates of all networks of an advice.
        target: test loss that counts as learnt, for peers; by default the dense grid's.
        fresh: networks that judge a rate.
        dense_seeds: networks at each rate of the dense grid.
        first_key: of the advices, which have a key each; the dense grid and the networks that judge follow it.
        tiny: a size of seconds, nothing recorded.
    """
    dj.use_all_cores()
    import optax

    made = getattr(own_models, model)()
    chosen = (getattr(own_models, optimizer, None) or getattr(optax, optimizer)) if optimizer else None
    if tiny:
        repeated(made, chosen, 20, 4000, range(1), 4, 2, DENSE[::4])
        peers(made, chosen, 20, 4000, range(1), 4, 2.0)
        return
    if repetitions:
        keys = range(first_key, first_key + repetitions)
        found = repeated(made, chosen, steps, budget, keys, fresh, dense_seeds, DENSE)
        target = target or found["dense"]["target"]
        record.append("advise", {"model": model, "optimizer": optimizer, "repeated": found})
    if peers_repeated:
        if not target:
            sys.exit("target = 0: expected the test loss that counts as learnt")
        keys = range(first_key, first_key + peers_repeated)
        found = peers(made, chosen, steps, budget, keys, fresh, target)
        record.append("advise", {"model": model, "optimizer": optimizer, "peers": found})


if __name__ == "__main__":
    tyro.cli(main)
