"""The command that trains a GPT on a text and reports on its spectra: `dysonjax gpt`."""

from pathlib import Path

import jax

from dysonjax.cli.console import clear_record, show, whole_number
from dysonjax.core.errors import InputError
from dysonjax.experiments import plotting as plots
from dysonjax.experiments.gpt import figures as gpt_figures
from dysonjax.experiments.gpt import grid as gpt_scaling
from dysonjax.experiments.gpt.grid import exchange_table, exchanges, gpt_scaling_run_of, without_largest
from dysonjax.experiments.gpt.summary import analysis, loss_table, spectra_table
from dysonjax.experiments.gpt.training import RECORD, GPTRun, generate, gpt_run_of
from dysonjax.models.gpt import INIT_STD
from dysonjax.storage.checkpoints import load_results, load_weights

WIDTH = 190
"""Columns of the tables where there is no terminal to ask."""
SAMPLE = 400
"""Characters of the sample."""
_RUN = GPTRun()


def gpt(
    text: str = _RUN.text,
    layers: int = _RUN.layers,
    heads: int = _RUN.heads,
    channels: int = _RUN.channels,
    context: int = _RUN.context,
    dropout: float = _RUN.dropout,
    bias: bool = _RUN.bias,
    optimizer: str = _RUN.optimizer,
    learning_rate: float = _RUN.learning_rate,
    final_rate: float = _RUN.final_rate,
    warmup: int | None = _RUN.warmup,
    batch_size: int = _RUN.batch_size,
    steps: int = _RUN.steps,
    weight_decay: float = _RUN.weight_decay,
    beta1: float = _RUN.beta1,
    beta2: float = _RUN.beta2,
    clip: float = _RUN.clip,
    validation_every: int = _RUN.validation_every,
    watch: str = _RUN.watch,
    every: str = str(_RUN.every),
    key: int = _RUN.key,
    out: Path = Path("runs/gpt"),
    overwrite: bool = False,
) -> None:
    """Train a small GPT on the characters of a text and follow the spectra of its weights.

    The defaults are the public nanoGPT recipe for a CPU. An interrupted run is continued by the same command again.

    Args:
        text: a UTF-8 file, or shakespeare (Tiny Shakespeare).
        layers: blocks of attention and feed-forward network.
        heads: attention heads, a divisor of the channels.
        channels: width of the network.
        context: characters that are looked back on.
        dropout: share of activations set to zero in training.
        bias: whether linear maps and norms have biases.
        optimizer: adamw or sgd.
        learning_rate: the highest learning rate.
        final_rate: the last learning rate, as a share of the highest.
        warmup: updates until the highest rate (default a twentieth of all).
        batch_size: windows of text in an update.
        steps: updates.
        weight_decay: decay of matrices.
        beta1: of Adam's first moment, or momentum of SGD.
        beta2: of Adam's second moment.
        clip: largest norm of a gradient.
        validation_every: updates between validation losses.
        watch: names of the matrices whose spectra are followed, with wildcards, such as '*kernel'.
        every: updates between two spectra, or log.
        key: base of all random numbers.
        out: the run's directory: weights at both ends, results, checkpoint, figures.
        overwrite: replace an earlier run in that directory.
    """
    if every != "log" and not every.isdigit():
        raise InputError(f"every = {every!r}: expected a whole number of at least 1, or log")
    cadence = "log" if every == "log" else whole_number("every", float(every))
    run = GPTRun(
        text, layers, heads, channels, context, dropout, bias, optimizer, learning_rate,  # type: ignore[arg-type]
        final_rate, warmup, batch_size, steps, weight_decay, beta1, beta2, clip, validation_every, watch, cadence, key,  # type: ignore[arg-type]
    )  # fmt: skip
    train(run, out, overwrite)


def train(run: GPTRun, out: Path, overwrite: bool) -> None:
    """Train or continue in `out`, then report on it."""
    if overwrite:
        clear_record(out, RECORD)
    run.run(out, progress=True)
    report_gpt(out)


def report_gpt(directory: Path) -> None:
    """Tables, a sample of text and figures of a finished run from its directory."""
    run, ds = gpt_run_of(directory), load_results(directory)
    found = analysis(ds, INIT_STD)
    recipe = run == GPTRun(key=run.key)
    show(
        directory, [loss_table(ds), spectra_table(found), *_sample(run, directory)],
        lambda place: gpt_figures.draw(ds, found, place, recipe), WIDTH,
    )  # fmt: skip


def _sample(run: GPTRun, directory: Path) -> list[str]:
    """Some text of the trained network."""
    params = load_weights(directory / "final.npz")
    start = "\n" if "\n" in run.source.characters else run.source.characters[0]
    tokens = generate(run.network, params, jax.random.key(run.key), run.source.encode(start), SAMPLE, 0.8)
    return [f"A sample at temperature 0.8:\n{run.source.decode(tokens).strip()}"]


def report_gpt_scaling(directory: Path) -> None:
    """Table and figures of a finished grid of small GPTs from its directory."""
    run = gpt_scaling_run_of(directory)
    ds = run.load(directory)
    found, rest = exchanges(ds), without_largest(ds)
    smaller = [] if rest is None else exchanges(rest)

    def draw(place: Path) -> list[Path]:
        return [
            plots.save(gpt_figures.exchange_maps(run, found, smaller, name), place / f"exchange_{name}.png")
            for name in gpt_scaling.STATISTICS
        ]

    show(directory, [exchange_table(run, found, smaller)], draw, WIDTH)


def is_gpt_scaling_run(directory: Path) -> bool:
    """Does the directory hold a grid of small GPTs?"""
    return (directory / gpt_scaling.RECORD).is_file()


def is_gpt_run(directory: Path) -> bool:
    """Does the directory hold a run of a GPT?"""
    return (directory / RECORD).is_file()
