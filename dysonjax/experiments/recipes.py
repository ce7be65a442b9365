"""The experiments of each paper, by name: what `dysonjax reproduce` runs."""

from typing import Any

from dysonjax.core.errors import require
from dysonjax.experiments.bbp.experiment import BBPRun
from dysonjax.experiments.gpt.experiment import GPTRun
from dysonjax.experiments.gpt.grid import GPTScalingRun
from dysonjax.experiments.linear_scaling.experiment import LinearScaling, RBMScaling, ScalingRun, TeacherStudentScaling
from dysonjax.experiments.phase_diagram.experiment import PhaseDiagram

RBM_FULL: dict[str, Any] = {"seeds": 7500, "steps": 100_000}
"""The RBM at its published size."""
COLD_RBM = ((0.003, 16), (0.01, 64), (0.02, 128))
"""Settings with √(Tκ²Ω) < 0.03 for every pair."""
COLD_STUDENT = ((0.01, 4), (0.01, 16), (0.02, 4), (0.02, 16))
"""Small learning rates, where the slope is √π."""
GPT_GRIDS: dict[str, dict[str, Any]] = {
    "gpt-sgd-same-text": {"optimizer": "sgd", "learning_rates": (0.05, 0.1, 0.2, 0.4)},
    "gpt-sgd-same-time": {"optimizer": "sgd", "learning_rates": (0.05, 0.1, 0.2, 0.4), "time": 25.6},
    "gpt-adamw-same-text": {
        "optimizer": "adamw", "learning_rates": (0.0005, 0.001, 0.002, 0.004), "init_width": 1.0
    },
}  # fmt: skip
"""Grids of small GPTs; SGD from four times the initial width, without which it moves no level in so few updates."""
PAPERS = {
    "p1": "arXiv:2407.16427: Gaussian RBM and teacher–student",
    "p2": "arXiv:2411.13512: nano-GPT, and the Gaussian RBM",
    "p3": "arXiv:2412.20496: linear network with one hidden layer",
    "p4": "arXiv:2509.01349: phase diagram of the tanh network",
    "p5": "arXiv:2606.28486: BBP transition of a rank-one teacher",
}


def recipes(paper: str, full: bool = False) -> dict[str, Any]:
    """Runs of a paper, each with the name of its folder; `full`: at the published sizes. Raises `InputError`."""
    known: dict[str, Any] = {"p1": _first, "p2": _second, "p3": _third, "p4": _fourth, "p5": _fifth}
    require(paper in known, "paper", paper, f"one of {', '.join(known)}")
    return known[paper](full)


def _first(full: bool) -> dict[str, ScalingRun]:
    return {
        "rbm": RBMScaling(**(RBM_FULL if full else {})),
        "rbm-small-noise": RBMScaling(
            points=COLD_RBM, seeds=2048 if full else 512, level=("sgd",), sampling="wishart"
        ),
        "teacher-student": TeacherStudentScaling(),
        "teacher-student-small-rates": TeacherStudentScaling(points=COLD_STUDENT, level=("sgd",), sampling="wishart"),
        # 500 fixed batches for 10 epochs, as published
        "teacher-student-frozen-data": TeacherStudentScaling(
            level=("sgd",), batches=500, steps=5000, seeds=3000 if full else 1000
        ),
    }  # fmt: skip


def _second(full: bool) -> dict[str, Any]:
    """The nanoGPT recipe for a CPU, or, full, that for a GPU."""
    gpu = {"layers": 6, "heads": 6, "channels": 384, "context": 256, "batch_size": 64, "steps": 5000, "dropout": 0.2}
    grids = {name: GPTScalingRun(**given, seeds=32 if full else 6) for name, given in GPT_GRIDS.items()}
    rbm = RBMScaling(**(RBM_FULL if full else {}), level=("sgd",), sampling="wishart")
    return {"gpt": GPTRun(**(gpu if full else {})), "rbm": rbm, **grids}


def _fourth(full: bool) -> dict[str, PhaseDiagram]:
    """The published grid; full: 100 networks a point and 300 epochs."""
    return {"phase-diagram": PhaseDiagram(seeds=100, epochs=300) if full else PhaseDiagram()}


def _fifth(full: bool) -> dict[str, BBPRun]:
    return {"bbp": BBPRun.full() if full else BBPRun()}


def _third(full: bool) -> dict[str, ScalingRun]:
    seeds = 16000 if full else 4000
    return {
        "linear-first": LinearScaling(seeds=seeds),
        "linear-both": LinearScaling(seeds=seeds, train="both", level=("sgd", "matrix", "dyson")),
    }
