"""`dysonjax validity`: the Langevin picture of one of the papers' models at one learning rate and batch size."""

from dataclasses import fields
from typing import Annotated, Any, Literal

import tyro

from dysonjax.core.errors import InputError
from dysonjax.experiments.base import Report


def validity(
    model: Annotated[Literal["rbm", "teacher-student", "linear"], tyro.conf.Positional],
    learning_rate: float = 0.05,
    batch_size: int = 16,
    steps: int = 2000,
    seeds: int = 256,
    visible: int | None = None,
    hidden: int | None = None,
    teacher: tuple[float, ...] | None = None,
    train: Literal["first", "both"] | None = None,
    noise: float | None = None,
    key: int = 0,
) -> Report:
    """Does the Langevin picture hold for a model at one learning rate and batch size? A verdict for each assumption.

    Args:
        model: rbm, teacher-student or linear; `dysonjax.validity` in Python takes any model.
        learning_rate: learning rate α.
        batch_size: batch size |B|.
        steps: updates.
        seeds: independent replicas.
        visible: visible units of the RBM.
        hidden: hidden units of the RBM, or of the linear network.
        teacher: singular values of the teacher.
        train: first or both matrices of the linear network.
        noise: standard deviation of the noise that each example adds to the gradient.
        key: base of all random numbers.
    """
    from dysonjax.experiments.langevin_validity.assessment import table
    from dysonjax.experiments.langevin_validity.assessment import validity as assess
    from dysonjax.experiments.linear_scaling.experiment import model_of

    asked = {"visible": visible, "hidden": hidden, "teacher": teacher, "train": train, "noise": noise}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    made = model_of(model)
    for name in given.keys() - {f.name for f in fields(made)}:
        raise InputError(f"{name} = {given[name]}: expected none, {model} has no such setting")
    network = made(**given).network
    told = assess(key, network, learning_rate, batch_size, steps=steps, replicas=seeds)
    return Report([table(told)], width=170)
