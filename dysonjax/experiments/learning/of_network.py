"""What experiments on a user's own network share: where the network comes from, and what is printed at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from dysonjax.core.errors import StoreError, require, whole
from dysonjax.experiments.base import Experiment, Report
from dysonjax.experiments.learning.networks import axes_of, fingerprint, network_of, optimizer_of, schedule_of
from dysonjax.experiments.learning.phases import Thresholds

if TYPE_CHECKING:
    from dysonjax.core.model import Network

DRAWN = ("default", "epochs", "replacement")
"""Ways to draw batches, as `train` calls them."""
OWN_AXES = {"learning_rate", "batch_size", "init_width", "seed"}
"""Axes that have an option of their own."""
Made = TypeVar("Made", bound="OfNetwork")


@dataclass(frozen=True)
class OfNetwork(Experiment):
    """Settings that these experiments share: what is trained, how, and what counts as learnt.

    The network is named by `model`, or it is an object that a program has in hand: then `run.json` cannot hold it, and
    only the call that began the run continues it.
    """

    call: ClassVar[str]
    """The function of Python that makes such runs, for messages."""
    apart: ClassVar[tuple[str, ...]] = ("model", "fingerprint")
    """Fields that a stored run gives without checks."""

    model: str = ""
    """FILE.py:FUNCTION or package.module:FUNCTION, which returns a model; the file is run"""
    optimizer: str | None = None
    """a name in optax (adam, adamw, sgd, contrib.muon) or FILE.py:FUNCTION; None: plain gradient descent"""
    schedule: str | None = None
    """FILE.py:FUNCTION of update and number of updates, which returns a factor of the learning rate"""
    axis: tuple[str, ...] = ()
    """more numbers of the optimiser, NAME=VALUES: weight_decay=0,1e-4,b1=0.9,0.95"""
    batches: str = "default"
    """epochs, replacement, fresh, or a number of fixed batches; default means epochs, of a data function fresh ones"""
    metric: str | None = None
    """what must reach the target (default test_loss, else train_loss); larger is better of an accuracy"""
    target: float | None = None
    """value of the metric that counts as learnt (default: share of the way)"""
    share: float = 0.8
    """share of the way from the metric at the start to the best one (an advice: the best of its first round)"""
    blown_up: float = 10.0
    """factor by which levels of a blown-up network exceed those of networks that learn"""
    tests: int = 512
    """test examples used, at most"""
    key: int = 0
    """base of all random numbers"""
    fingerprint: str = field(init=False, default="")
    """SHA-256 of the file of `model`, so that a run is not continued with another one"""

    def check(self) -> None:
        """Refuse what is out of range, and take the fingerprint of the file."""
        whole("tests", self.tests)
        whole("key", self.key, 0, 2**32 - 1)
        known = self.batches in (*DRAWN, "fresh") or (self.batches.isdecimal() and int(self.batches) > 0)
        require(known, "batches", self.batches, "epochs, replacement, fresh, or a number of fixed batches")
        taken = OWN_AXES & {*self.axes}
        require(not taken, "axis", self.axis, f"{', '.join(taken)} by an option or argument of its own")
        _ = self.thresholds  # refuses what is out of range
        if self.model:
            object.__setattr__(self, "fingerprint", fingerprint(self.model))

    @classmethod
    def of(cls: type[Made], settings: Mapping[str, Any]) -> Made:
        """As it was stored, without looking at the user's file, which may be elsewhere by now."""
        made = cls(**{name: value for name, value in settings.items() if name not in cls.apart})
        for name in {*cls.apart} & {*settings}:
            object.__setattr__(made, name, settings[name])
        return made

    @classmethod
    def with_network(
        cls: type[Made], model: Network | str, optimizer: Any, settings: Mapping[str, Any], schedule: Any = None
    ) -> Made:
        """With a network, an optimiser and a schedule that are names, or objects; raises `InputError`.

        `batches` may be among the settings as `train` takes it.
        """
        from dysonjax.core.model import Network

        given = dict(settings)
        if "batches" in given:
            given["batches"] = "fresh" if given["batches"] is None else str(given["batches"])
        if isinstance(model, str):
            for name, value in (("optimizer", optimizer), ("schedule", schedule)):
                named = value is None or isinstance(value, str)
                require(named, name, value, "a name, or FILE.py:FUNCTION, as the model is given by one")
            return cls(model=model, optimizer=optimizer, schedule=schedule, **given)
        require(isinstance(model, Network), "model", model, "a model; models.FlaxModel makes one of a flax module")
        functions = (
            optimizer_of(optimizer) if isinstance(optimizer, str) else optimizer,
            schedule_of(schedule) if isinstance(schedule, str) else schedule,
        )
        names = [None if f is None else getattr(f, "__name__", type(f).__name__) for f in functions]
        made = cls(optimizer=names[0], schedule=names[1], **given)
        object.__setattr__(made, "_held", (model, *functions))
        return made

    @property
    def drawn(self) -> Any:
        """`batches` as `train` takes it."""
        return None if self.batches == "fresh" else self.batches if self.batches in DRAWN else int(self.batches)

    def objects(self) -> tuple[Network, Callable[..., Any] | None, Callable[..., Any] | None]:
        """Network, optimiser and schedule; the user's files are run.

        Raises `InputError` for a bad file, and `StoreError` where it is not the one that the run was begun with, or
        where only the program that began the run has the network.
        """
        if (held := getattr(self, "_held", None)) is not None:
            return held
        if not self.model:
            raise StoreError(f"the network is not stored; expected {self._same_call}, which has it")
        if fingerprint(self.model) != self.fingerprint:
            raise StoreError(f"{self.model}: the file is another one than when the run was begun; expected that one")
        return network_of(self.model), optimizer_of(self.optimizer), schedule_of(self.schedule)

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What is made once of these settings, and is none of them."""
        if name not in self.__dict__:
            self.__dict__[name] = make()
        return self.__dict__[name]

    def again(self, place: str | os.PathLike[str]) -> str:
        """How a run is continued: one from Python by the call that began it."""
        return Experiment.again(self, place) if self.model else self._same_call

    @property
    def axes(self) -> dict[str, tuple[float, ...]]:
        """The optimiser's further numbers by name."""
        return axes_of(self.axis)

    @property
    def thresholds(self) -> Thresholds:
        """What divides the phases."""
        return Thresholds(target=self.target, share=self.share, blown_up=self.blown_up)

    @property
    def _same_call(self) -> str:
        return f"the same call of {self.call}"


def axis_texts(axes: Mapping[str, Any]) -> tuple[str, ...]:
    """Values by name as the setting `axis` has them."""
    return tuple(f"{name}={','.join(repr(v) for v in numbers(name, values))}" for name, values in axes.items())


def numbers(name: str, values: Any) -> tuple[float, ...]:
    """One number or several as a tuple; raises `InputError`."""
    try:
        found = tuple(float(v) for v in (values if isinstance(values, Iterable) else [values]))
    except (TypeError, ValueError):
        found = ()
    require(found and not isinstance(values, str), name, values, "a number or several, or no argument of this name")
    return found


class Shown:
    """What an experiment found, to be printed, also in a notebook, and drawn."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def __str__(self) -> str:
        return "\n\n".join(str(part) for part in self.report.said)

    def _repr_mimebundle_(self, *args: Any, **options: Any) -> dict[str, str]:
        from dysonjax.core.tables import Table

        said = self.report.said
        parts = [p._repr_mimebundle_()["text/html"] if isinstance(p, Table) else f"<p>{escape(p)}</p>" for p in said]
        return {"text/plain": str(self), "text/html": "".join(parts)}

    def draw(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write the figures as PNG into a directory; returns their paths."""
        return [*self.report.draw(Path(directory))]
