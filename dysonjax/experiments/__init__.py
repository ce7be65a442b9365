"""The papers' experiments, and what runs, reads and reports any experiment."""

from typing import TYPE_CHECKING

from dysonjax.core.lazy import public
from dysonjax.experiments.known import ALL

if TYPE_CHECKING:
    from dysonjax.engine.jobs import Job, Results
    from dysonjax.engine.scanning import ScanJob
    from dysonjax.experiments.advice.experiment import Advice
    from dysonjax.experiments.base import Experiment, Report
    from dysonjax.experiments.bbp.experiment import BBPRun
    from dysonjax.experiments.gas.experiment import GasRun
    from dysonjax.experiments.gpt.experiment import GPTRun
    from dysonjax.experiments.gpt.grid import GPTScalingRun
    from dysonjax.experiments.learning.diagram import NetworkDiagram
    from dysonjax.experiments.learning.phases import PHASES, Thresholds, outcomes
    from dysonjax.experiments.linear_scaling.experiment import LinearScaling, RBMScaling, TeacherStudentScaling
    from dysonjax.experiments.phase_diagram.experiment import PhaseDiagram
    from dysonjax.experiments.running import load, report, run

__all__ = [
    "ALL",
    "PHASES",
    "Advice",
    "BBPRun",
    "Experiment",
    "GPTRun",
    "GPTScalingRun",
    "GasRun",
    "Job",
    "LinearScaling",
    "NetworkDiagram",
    "PhaseDiagram",
    "RBMScaling",
    "Report",
    "Results",
    "ScanJob",
    "TeacherStudentScaling",
    "Thresholds",
    "load",
    "outcomes",
    "report",
    "run",
]

_HOMES = {
    "Advice": "dysonjax.experiments.advice.experiment:Advice",
    "BBPRun": "dysonjax.experiments.bbp.experiment:BBPRun",
    "Experiment": "dysonjax.experiments.base:Experiment",
    "GPTRun": "dysonjax.experiments.gpt.experiment:GPTRun",
    "GPTScalingRun": "dysonjax.experiments.gpt.grid:GPTScalingRun",
    "GasRun": "dysonjax.experiments.gas.experiment:GasRun",
    "Job": "dysonjax.engine.jobs:Job",
    "LinearScaling": "dysonjax.experiments.linear_scaling.experiment:LinearScaling",
    "NetworkDiagram": "dysonjax.experiments.learning.diagram:NetworkDiagram",
    "PHASES": "dysonjax.experiments.learning.phases:PHASES",
    "PhaseDiagram": "dysonjax.experiments.phase_diagram.experiment:PhaseDiagram",
    "RBMScaling": "dysonjax.experiments.linear_scaling.experiment:RBMScaling",
    "Report": "dysonjax.experiments.base:Report",
    "Results": "dysonjax.engine.jobs:Results",
    "ScanJob": "dysonjax.engine.scanning:ScanJob",
    "TeacherStudentScaling": "dysonjax.experiments.linear_scaling.experiment:TeacherStudentScaling",
    "Thresholds": "dysonjax.experiments.learning.phases:Thresholds",
    "load": "dysonjax.experiments.running:load",
    "outcomes": "dysonjax.experiments.learning.phases:outcomes",
    "report": "dysonjax.experiments.running:report",
    "run": "dysonjax.experiments.running:run",
}

if not TYPE_CHECKING:
    __getattr__, _ = public(__name__, _HOMES)
