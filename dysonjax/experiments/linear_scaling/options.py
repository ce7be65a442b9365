"""A scaling run as the command line asks for it: every pair of learning rates and batch sizes, defaults by model."""

from typing import Annotated, Any, Literal

import tyro

from dysonjax.core.errors import InputError
from dysonjax.experiments.linear_scaling.experiment import ScalingRun, scaling_run


def options(
    model: Annotated[Literal["rbm", "teacher-student", "linear"], tyro.conf.Positional],
    learning_rate: tuple[float, ...] | None = None,
    batch_size: tuple[int, ...] | None = None,
    level: tuple[str, ...] | None = None,
    seeds: int | None = None,
    time: float | None = None,
    steps: int | None = None,
    sampling: Literal["examples", "wishart"] | None = None,
    batches: int | None = None,
    visible: int | None = None,
    hidden: int | None = None,
    teacher: tuple[float, ...] | None = None,
    train: Literal["first", "both"] | None = None,
    noise: float | None = None,
    key: int = 0,
) -> ScalingRun:
    """The linear scaling rule: does a model's spectrum depend on learning rate and batch size through α/|B| alone?

    Without options, the scans of the paper at a size for two cores.

    Args:
        model: rbm, teacher-student or linear.
        learning_rate: learning rates α; with every batch size.
        batch_size: batch sizes |B|.
        level: levels of description among sgd, matrix, dyson, log-gas.
        seeds: independent replicas at every setting.
        time: α × updates.
        steps: updates, in place of a time.
        sampling: how SGD gets its batches, examples (chains for the RBM) or wishart.
        batches: fixed batches, 0 for fresh ones (teacher-student and linear).
        visible: visible units of the RBM.
        hidden: hidden units of the RBM, or of the linear network.
        teacher: singular values of the teacher.
        train: first or both matrices of the linear network.
        noise: standard deviation of the noise that each example adds to the gradient.
        key: base of all random numbers.
    """
    if (learning_rate is None) != (batch_size is None):
        raise InputError(f"learning-rate = {learning_rate}, batch-size = {batch_size}: expected both or neither")
    pairs = None
    if learning_rate is not None and batch_size is not None:
        pairs = tuple((rate, size) for rate in learning_rate for size in batch_size)
    given: dict[str, Any] = {
        "settings": pairs, "descriptions": level, "seeds": seeds, "time": time, "steps": steps, "sampling": sampling,
        "batches": batches, "visible": visible, "hidden": hidden, "teacher": teacher, "trained": train, "noise": noise,
        "key": key,
    }  # fmt: skip
    return scaling_run(model, **{name: value for name, value in given.items() if value is not None})
