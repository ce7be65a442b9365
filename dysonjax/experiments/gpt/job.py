"""The training of one GPT as a job of a run: checkpoints to continue from, weights at both ends, and the results."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Float

from dysonjax.core.errors import StoreError, require
from dysonjax.engine.jobs import Verified, same
from dysonjax.experiments.gpt.evaluation import evaluate
from dysonjax.experiments.gpt.settings import GPTSettings
from dysonjax.experiments.gpt.training import State, fastest, shared_out, start, train, validation_steps
from dysonjax.models import text as texts
from dysonjax.models.gpt import check_text
from dysonjax.runtime.devices import Devices
from dysonjax.runtime.progress import Bar, progress_bar
from dysonjax.runtime.team import WHOLE, Share, team
from dysonjax.storage.checkpoints import (
    RESULTS,
    has_results,
    load_checkpoint,
    load_results,
    remove_results,
    save_checkpoint,
    save_results,
    save_weights,
)
from dysonjax.storage.damage import Damage

log = logging.getLogger(__name__)

SECONDS_PER_CHECKPOINT = 30.0
"""What a kill costs at most."""


@dataclass(frozen=True)
class TrainingJob:
    """The training of one network as a part of a run: one block of one replica; see `engine.jobs.Job`."""

    settings: GPTSettings
    name: str = ""

    @property
    def cost(self) -> int:
        """Updates."""
        return self.settings.steps

    def run(
        self, place: Path | None, share: Share = WHOLE, progress: bool | Bar | None = None,
        block_size: int | None = None, before: Callable[[], None] = lambda: None,
        extend: bool = False,
    ) -> xr.Dataset | None:  # fmt: skip
        """Train, or continue from the last checkpoint in `place`; other shares and processes leave it alone.

        `place` receives a checkpoint (`checkpoints`), the weights at both ends (`initial.npz`, `final.npz`) and the
        results (`results.zarr`).
        """
        require(not extend, "extend", str(place), "a run of scans; a training has no points to add")
        if share.index or not team().first:
            return None
        return trained(self.settings, place, progress, before=before)

    def open(self, *places: Path, lazy: bool | None = None) -> xr.Dataset:
        """Spectra and losses, from the first part that has them."""
        return load_results(next(filter(has_results, places), places[0]))

    def missing(self, place: Path) -> tuple[list[str], int]:
        """The whole training, or nothing."""
        return [] if has_results(place) else ["the training"], 1

    def verify(self, place: Path, repair: bool = False, recompute: int = 0) -> Verified:
        """Read its results, and with `recompute` train it again from the start."""
        if not has_results(place) and not (place / RESULTS).is_dir():
            return Verified()
        try:
            stored = load_results(place)
        except StoreError as error:
            if repair:
                remove_results(place)
            return Verified([Damage(str(error), (0, 0))], 1)
        if not recompute:
            return Verified((), 1)
        again = trained(self.settings)
        different = [str(name) for name in stored.variables if not same(stored[name].values, again[name].values)]
        told = f"{place}: another training gives other values of {', '.join(different)}"
        return Verified((), 1, 1, 1, [told] if different else (), ("bit for bit",))

    def forecast(
        self, place: Path | None, known: Any, shares: int = 1, block_size: int | None = None, extend: bool = False
    ) -> None:
        """Nothing tells before it runs."""


def trained(
    run: GPTSettings, out: Path | None = None, progress: bool | Bar | None = None, devices: Devices | None = None,
    before: Callable[[], None] = lambda: None,
) -> xr.Dataset:  # fmt: skip
    """Train `run` to its end: levels of the watched matrices over time, `train_loss` [update], validation losses.

    `validation_loss` [validation_step] is the mean over `VALIDATION_WINDOWS` windows, `final_loss` that over all those
    of the validation text with its standard error `final_loss_error`, windows taken for independent.
    """
    check_text(run.network, run.source)
    if out is not None and has_results(out):
        before()
        return load_results(out)
    place, state = shared_out(run, devices or fastest()), start(run)
    before()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        state = State(**load_checkpoint(out, state._asdict()))
    state, tokens = jax.device_put((state, jnp.asarray(run.source.train)), place.everywhere)
    if out is not None and int(state.step) == 0:
        save_weights(out / "initial.npz", state.params)
    with progress_bar("gpt", run.steps, progress, rate=False) as bar:
        state = train(run, place, state, tokens, bar, _keeping(run, out))
    lost = np.flatnonzero(~np.isfinite(state.losses))
    if len(lost):
        log.warning("the loss became non-finite at update %d of %d", lost[0], run.steps)
    every = texts.windows(run.source.validation_tokens, run.context)
    ds = _dataset(run, state, evaluate(run.network, state.params, every))
    if out is not None:
        save_weights(out / "final.npz", state.params)
        save_results(out, ds)
    return ds


def _keeping(run: GPTSettings, out: Path | None) -> Callable[[State], None]:
    """What writes a checkpoint now and then, and at the end."""
    saved = time.monotonic()

    def keep(state: State) -> None:
        nonlocal saved
        step = int(state.step)
        if out is not None and (step == run.steps or time.monotonic() - saved > SECONDS_PER_CHECKPOINT):
            save_checkpoint(out, step, state._asdict())
            saved = time.monotonic()

    return keep


def _dataset(run: GPTSettings, state: State, final: Float[np.ndarray, " w"]) -> xr.Dataset:
    ds = state.record.dataset()
    label = lambda text, unit="nats": {"long_name": text, "units": unit}  # noqa: E731
    error = float(final.std(ddof=1) / np.sqrt(len(final))) if len(final) > 1 else math.nan
    return ds.assign(
        train_loss=("update", np.asarray(state.losses), label("loss on the batch before each update")),
        validation_loss=("validation_step", np.asarray(state.validation), label("loss on windows of other text")),
        final_loss=((), float(final.mean()), label("loss on all of the validation text")),
        final_loss_error=((), error, label("its standard error, windows independent")),
        learning_rate=("update", np.asarray(run.rate(np.arange(run.steps))), label("learning rate", "1")),
    ).assign_coords(
        update=("update", np.arange(run.steps), label("update", "1")),
        validation_step=("validation_step", validation_steps(run), label("updates", "1")),
    )
