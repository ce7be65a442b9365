"""Training one GPT on one text, its spectra recorded on the way: the experiment of arXiv:2411.13512."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dysonjax.engine.jobs import Results
from dysonjax.experiments.base import Experiment, Report
from dysonjax.experiments.gpt.settings import GPTSettings

if TYPE_CHECKING:
    import xarray as xr

    from dysonjax.experiments.gpt.job import TrainingJob

SAMPLE = 400
"""Characters of the sample."""


@dataclass(frozen=True)
class GPTRun(GPTSettings, Experiment):
    """Train a small GPT on the characters of a text and follow the spectra of its weights.

    The defaults are the public nanoGPT recipe for a CPU: 4 layers, 128 channels, 2000 updates.
    """

    kind = "gpt"

    def jobs(self, results: Results) -> list[TrainingJob]:
        """The training of the one network."""
        from dysonjax.experiments.gpt.job import TrainingJob

        return [TrainingJob(self)]

    def analyse(self, results: Results) -> tuple[xr.Dataset, Any, str | None]:
        """The results, what the spectra say (`summary.analysis`), and some text of the network where it is stored."""
        from dysonjax.experiments.gpt.summary import analysis
        from dysonjax.models.gpt import INIT_STD

        said = None if results.place is None else _sample(self, results.place)
        return results.only, analysis(results.only, INIT_STD), said

    def report(self, analysis: tuple[xr.Dataset, Any, str | None]) -> Report:
        """Tables of losses and spectra, a sample of text, and figures."""
        from dysonjax.experiments.gpt import figures
        from dysonjax.experiments.gpt.summary import loss_table, spectra_table

        ds, found, text = analysis
        recipe = self == GPTRun(key=self.key)
        said = [loss_table(ds), spectra_table(found), *([] if text is None else [text])]
        return Report(said, lambda directory: figures.draw(ds, found, directory, recipe), 190)


def _sample(run: GPTRun, directory: Path) -> str:
    """Some text of the trained network."""
    import jax

    from dysonjax.experiments.gpt.evaluation import generate
    from dysonjax.storage.checkpoints import load_weights

    params = load_weights(directory / "final.npz")
    start = "\n" if "\n" in run.source.characters else run.source.characters[0]
    tokens = generate(run.network, params, jax.random.key(run.key), run.source.encode(start), SAMPLE, 0.8)
    return f"A sample at temperature 0.8:\n{run.source.decode(tokens).strip()}"
