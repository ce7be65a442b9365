"""The one shape of an experiment: settings that name jobs, analyse their results and report what was found."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from dysonjax.engine.jobs import Job, Results


class Report(NamedTuple):
    """What a person reads: sentences, tables and figures.

    Attributes:
        said: sentences and tables (`core.tables`), in order.
        draw: `draw(directory)` writes the figures and returns their paths.
        width: columns after which a file breaks the sentences.
        failed: why the command must end with an error all the same, else empty.
    """

    said: Sequence[Any]
    draw: Callable[[Path], Sequence[Path]] = lambda directory: []
    width: int = 120
    failed: str = ""


class Experiment(Protocol):
    """A frozen dataclass of settings, whose fields are numbers, strings and tuples of them.

    `kind` names it in `run.json` and on the command line. `experiments.run`, `load` and `report` do the rest.
    """

    kind: ClassVar[str]
    first: ClassVar[str] = ""
    """The option whose name may be left out where its value is the first word after the command; "" where none may."""
    extendable: ClassVar[bool] = True
    """Whether a run may be given more points or seeds."""

    @classmethod
    def options(cls) -> "Callable[..., Experiment] | Mapping[str, type[Experiment]]":
        """What makes one of a command's options, which tyro reads from its signature: by default the class itself.

        Where an experiment has several classes of settings: these by the word that follows the command; or by an
        option, such as `--model`, that chooses one, with "" for the class where none of them is given.
        """
        return cls

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Experiment":
        """The experiment whose settings a run has, or had in an earlier version: by default `cls(**settings)`."""
        return cls(**settings)

    def settled(self, there: Mapping[str, Any] | None) -> Self:
        """With what must be measured once before the run begins; `there` are the settings of a run that has it.

        By default nothing is.
        """
        return self

    def again(self, place: str | os.PathLike[str]) -> str:
        """How an unfinished run in `place` is continued, for a message."""
        return f"dysonjax {self.kind} --resume {place}"

    def jobs(self, results: Results) -> Sequence[Job]:
        """All jobs known so far, given the results of those that are finished; a run is finished when all are.

        Jobs that were named before stay as they were. A function of the settings and of `results` alone, so that a
        resumed run decides as an uninterrupted one. Most experiments ignore `results`.
        """
        ...

    def analyse(self, results: Results) -> Any:
        """Numbers with errors; nothing is drawn."""
        ...

    def report(self, analysis: Any) -> Report:
        """What a person reads of them."""
        ...
