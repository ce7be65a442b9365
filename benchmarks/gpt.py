"""Training a small GPT: tokens per second against the public PyTorch recipe, and what watching its spectra costs.

    python -m benchmarks.gpt              # everything; appends to benchmarks/results/gpt.jsonl
    python -m benchmarks.gpt --tiny       # the same at a size of seconds, nothing recorded
    python -m benchmarks.gpt --table      # the README's table from the recorded results

The recipe for a CPU of nanoGPT's README: 4 layers, 4 heads, 128 channels, context 64, batch 12, AdamW, no dropout, no
biases, float32. PyTorch's program is written here from the same equations with the calls that nanoGPT makes (one
matrix for query, key and value, `scaled_dot_product_attention`, embeddings tied). Both use every core, both see text of
65 random characters in pairs that repeat, and both must first learn as much in as many updates. Timings alternate; a
timing is of updates alone, compiled before. The overhead is that of the key matrices' spectra, whole and by head, every
50 updates, against the same training without.
"""

import importlib.util
import math
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import record
from dysonjax import use_all_cores
from dysonjax.experiments import GPTRun
from dysonjax.experiments.gpt import training  # inside: only the compiled updates are timed, as for the peer

TORCH = importlib.util.find_spec("torch") is not None
CADENCE = 50


def text(characters: int = 65, length: int = 200_000) -> str:
    """A text to learn: a walk over a ring of characters, each followed by one of its three successors."""
    steps = np.random.default_rng(0).choice([1, 2, 5], length, p=[0.6, 0.3, 0.1])
    return "".join(chr(48 + int(c)) for c in np.cumsum(steps) % characters)


class Ours:
    """Training in chunks, the state carried on."""

    def __init__(self, run: GPTRun):
        self.run = run
        place = training.shared_out(run, training.fastest())
        self.state, self.tokens = jax.device_put((training.start(run), jnp.asarray(run.source.train)), place.everywhere)
        self.advance = jax.jit(partial(training.advanced, run, place), donate_argnums=0)
        self.more(1)

    def more(self, steps: int) -> float:
        """Seconds for so many more updates."""
        until = jnp.int32(int(self.state.step) + steps)
        began = time.perf_counter()
        self.state = jax.block_until_ready(self.advance(self.state, self.tokens, until))
        return time.perf_counter() - began

    @property
    def losses(self) -> np.ndarray:
        """Of all updates so far."""
        return np.asarray(self.state.losses)[: int(self.state.step)]


class Torch:
    """The same network, optimiser and text in PyTorch."""

    def __init__(self, run: GPTRun):
        import torch  # type: ignore[import-not-found]  # of the extra "bench"
        from torch import nn  # type: ignore[import-not-found]  # of the extra "bench"
        from torch.nn import functional  # type: ignore[import-not-found]  # of the extra "bench"

        torch.manual_seed(0)
        torch.set_num_threads(os.cpu_count() or 1)
        c, h = run.channels, run.heads

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.norms = nn.ModuleList(nn.LayerNorm(c, bias=False) for _ in range(2))
                self.qkv, self.out = nn.Linear(c, 3 * c, bias=False), nn.Linear(c, c, bias=False)
                self.up, self.down = nn.Linear(c, 4 * c, bias=False), nn.Linear(4 * c, c, bias=False)

            def forward(self, x):
                b, t, _ = x.shape
                parts = self.qkv(self.norms[0](x)).split(c, dim=2)
                q, k, v = (p.view(b, t, h, c // h).transpose(1, 2) for p in parts)
                y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + self.out(y.transpose(1, 2).contiguous().view(b, t, c))
                return x + self.down(functional.gelu(self.up(self.norms[1](x))))

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.tokens = nn.Embedding(run.network.vocabulary, c)
                self.positions = nn.Embedding(run.context, c)
                self.blocks = nn.ModuleList(Block() for _ in range(run.layers))
                self.norm = nn.LayerNorm(c, bias=False)
                for name, w in self.named_parameters():
                    if w.dim() > 1:
                        last = name.endswith(("out.weight", "down.weight"))
                        nn.init.normal_(w, std=0.02 / math.sqrt(2 * run.layers) if last else 0.02)

            def forward(self, x, y):
                h = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
                for block in self.blocks:
                    h = block(h)
                logits = functional.linear(self.norm(h), self.tokens.weight)
                return functional.cross_entropy(logits.view(-1, logits.shape[-1]), y.reshape(-1))

        self.run, self.torch, self.net, self.losses = run, torch, Net(), []
        split = [[w for w in self.net.parameters() if (w.dim() > 1) == d] for d in (True, False)]
        groups = [{"params": p, "weight_decay": d} for p, d in zip(split, (run.weight_decay, 0.0), strict=True)]
        self.optimizer = torch.optim.AdamW(groups, lr=run.learning_rate, betas=(run.beta1, run.beta2))
        self.data = torch.from_numpy(run.source.train.astype(np.int64))
        self.more(1)

    def more(self, steps: int) -> float:
        """Seconds for so many more updates."""
        torch, run = self.torch, self.run
        rates = np.asarray(run.rate(np.arange(len(self.losses), len(self.losses) + steps)))
        began = time.perf_counter()
        for rate in rates:
            for group in self.optimizer.param_groups:
                group["lr"] = float(rate)
            at = torch.randint(len(self.data) - run.context, (run.batch_size,))
            rows = torch.stack([self.data[i : i + run.context + 1] for i in at])
            value = self.net(rows[:, :-1], rows[:, 1:])
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), run.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.losses.append(value.item())
        return time.perf_counter() - began


def measure(run: GPTRun, steps: int, repeats: int) -> dict[str, Any]:
    """Seconds an update of both programs and of ours unwatched, alternating."""
    quiet = GPTRun(**{**vars_of(run), "every": run.steps})
    programs: dict[str, Any] = {"dysonjax": Ours(run), "unwatched": Ours(quiet)}
    if TORCH:
        programs["torch"] = Torch(run)
    for program in programs.values():
        program.more(steps)
    learnt = {name: float(np.mean(p.losses[-steps // 4 :])) for name, p in programs.items()}
    assert max(learnt.values()) - min(learnt.values()) < 0.3, learnt
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            times[name].append(program.more(steps) / steps)
    tokens = run.batch_size * run.context
    found = {
        "sizes": {k: getattr(run, k) for k in ("layers", "heads", "channels", "context", "batch_size")},
        "milliseconds": {name: record.spread((1e3 * np.array(t)).tolist()) for name, t in times.items()},
        "tokens": {name: record.spread((tokens / np.array(t)).tolist()) for name, t in times.items()},
        "overhead": record.spread((np.divide(times["dysonjax"], times["unwatched"]) - 1).tolist()),
        "record": record.spread(one_record(programs["dysonjax"])),
        "learnt": learnt,
    }
    if TORCH:
        found["ratio"] = record.spread(np.divide(times["torch"], times["dysonjax"]).tolist())
    return found


def one_record(ours: Ours, repeats: int = 5) -> list[float]:
    """Milliseconds of one record of the spectra, on its own."""
    monitor, params = ours.state.record, ours.state.params
    found = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(monitor.update(params, ours.run.steps).levels)
        found.append(1e3 * (time.perf_counter() - began))
    return found[1:]


def vars_of(run: GPTRun) -> dict[str, Any]:
    """The fields of a run."""
    return {name: getattr(run, name) for name in run.__dataclass_fields__}


def main(tiny: bool = False, table: bool = False) -> None:
    """Measure and record; see the module."""
    if table:
        print(readme_table())
        return
    use_all_cores()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "ring.txt"
        place.write_text(text())
        small: dict[str, Any] = (
            {"layers": 1, "heads": 2, "channels": 16, "context": 16, "batch_size": 4} if tiny else {}
        )
        steps, repeats = (20, 1) if tiny else (100, 7)
        run = GPTRun(str(place), every=CADENCE, steps=(repeats + 2) * steps, **small)
        result = measure(run, steps, repeats)
    if not tiny:
        record.append("gpt", result)
    form = "{median:.3g} ({min:.3g} – {max:.3g})".format
    for name, ms in result["milliseconds"].items():
        print(f"{name}: {form(**ms)} ms an update, {form(**result['tokens'][name])} tokens/s")
    difference = {k: 100 * v for k, v in result["overhead"].items()}
    print(f"spectra every {CADENCE} updates: {form(**result['record'])} ms each; watched over unwatched training: "
          f"{form(**difference)} %")  # fmt: skip
    if "ratio" in result:
        print(f"{form(**result['ratio'])} × PyTorch")


def readme_table() -> str:
    """Tokens a second, the ratio to PyTorch, and what a record of the spectra takes, for each machine."""
    form = "{median:.3g} ({min:.3g} – {max:.3g})".format
    rows = []
    for line in sorted(record.last("gpt"), key=lambda x: x["versions"]["jax"]):
        one, update = line["record"]["median"], line["milliseconds"]["unwatched"]["median"]
        rows.append([
            f"{line['device']}, JAX {line['versions']['jax']}", form(**line["milliseconds"]["dysonjax"]),
            f"{line['tokens']['dysonjax']['median'] / 1e3:.1f}", form(**line["ratio"]) if "ratio" in line else "–",
            f"{one:.1f}", f"{100 * one / (CADENCE * update):.2f} %",
        ])  # fmt: skip
    head = ["machine", "ms an update", "thousand tokens/s", "× PyTorch", "ms a record", f"of {CADENCE} updates"]
    return record.markdown(head, rows)


if __name__ == "__main__":
    tyro.cli(main)
