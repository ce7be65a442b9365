"""What experiments on a user's own network share: where the network comes from, and what is printed at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from dysonjax.core.errors import StoreError, require
from dysonjax.experiments.base import Experiment, Report
from dysonjax.experiments.learning.networks import axes_of, fingerprint, network_of, optimizer_of
from dysonjax.experiments.learning.phases import Thresholds

if TYPE_CHECKING:
    from dysonjax.core.model import Network

OWN_AXES = {"learning_rate", "batch_size", "init_width", "seed"}
"""Axes that have an option of their own."""
Made = TypeVar("Made", bound="OfNetwork")


class OfNetwork(Experiment):
    """Settings with the fields `model`, `optimizer`, `axis`, `fingerprint`, `metric`, and those of `Thresholds`.

    The network is named by `model`, or it is an object that a program has in hand: then `run.json` cannot hold it, and
    only the call that began the run continues it.
    """

    call: ClassVar[str]
    """The function of Python that makes such runs, for messages."""
    apart: ClassVar[tuple[str, ...]] = ("model", "fingerprint")
    """Fields that a stored run gives without checks."""

    model: str
    optimizer: str | None
    axis: tuple[str, ...]
    fingerprint: str
    metric: str | None
    target: float | None
    share: float
    blown_up: float

    def check(self) -> None:
        """Refuse bad axes and thresholds, and take the fingerprint of the file."""
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
    def with_network(cls: type[Made], model: Network | str, optimizer: Any, settings: Mapping[str, Any]) -> Made:
        """With a network and an optimiser that are names, or objects; raises `InputError`."""
        from dysonjax.core.model import Network

        if isinstance(model, str):
            named = optimizer is None or isinstance(optimizer, str)
            require(named, "optimizer", optimizer, "a name, or FILE.py:FUNCTION, as the model is given by one")
            return cls(model=model, optimizer=optimizer, **settings)  # type: ignore[call-arg]
        require(isinstance(model, Network), "model", model, "a model; models.FlaxModel makes one of a flax module")
        function = optimizer_of(optimizer) if isinstance(optimizer, str) else optimizer
        name = None if function is None else getattr(function, "__name__", type(function).__name__)
        made = cls(optimizer=name, **settings)  # type: ignore[call-arg]
        object.__setattr__(made, "_held", (model, function))
        return made

    def objects(self) -> tuple[Network, Callable[..., Any] | None]:
        """Network and optimiser; the user's file is run.

        Raises `InputError` for a bad file, and `StoreError` where it is not the one that the run was begun with, or
        where only the program that began the run has the network.
        """
        if (held := getattr(self, "_held", None)) is not None:
            return held
        if not self.model:
            raise StoreError(f"the network is not stored; expected {self._same_call}, which has it")
        if fingerprint(self.model) != self.fingerprint:
            raise StoreError(f"{self.model}: the file is another one than when the run was begun; expected that one")
        return network_of(self.model), optimizer_of(self.optimizer)

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
