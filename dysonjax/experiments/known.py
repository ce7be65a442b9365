"""The experiments that there are: those of this package, and those that other packages declare.

A package adds its own by an entry point of the group `dysonjax.experiments`, in its `pyproject.toml`:

    [project.entry-points."dysonjax.experiments"]
    my-experiment = "my_package.my_module:MyExperiment"
"""

from importlib.metadata import EntryPoint, entry_points

GROUP = "dysonjax.experiments"


def _own(kind: str, place: str) -> EntryPoint:
    return EntryPoint(kind, f"dysonjax.experiments.{place}", GROUP)


ALL: tuple[EntryPoint, ...] = (
    _own("phase-diagram", "phase_diagram.experiment:PhaseDiagram"),
    _own("advise", "advice.experiment:Advice"),
    _own("gas", "gas.experiment:GasRun"),
    _own("scaling", "linear_scaling.experiment:ScalingRun"),
    _own("bbp", "bbp.experiment:BBPRun"),
    _own("gpt", "gpt.experiment:GPTRun"),
    _own("gpt-grid", "gpt.grid:GPTScalingRun"),
    _own("scan", "own_scan.experiment:OwnScan"),
)
"""Kind and class of each, not yet loaded."""


def kinds() -> dict[str, EntryPoint]:
    """Every experiment by its kind; only the one that is used is loaded. Those of this package come first."""
    found = {entry.name: entry for entry in ALL}
    return found | {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in found}


COMMANDS: tuple[EntryPoint, ...] = (
    _own("validity", "langevin_validity.command:validity"),
    _own("check", "checking:check_schemes"),
)
"""Commands that leave no run: functions whose arguments are the command's options and which return a `Report`."""
