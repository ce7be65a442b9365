"""At which updates a run is recorded."""

import itertools
from collections.abc import Sequence

from dysonjax.core.errors import InputError, require, whole


def log_steps(steps: int, count: int = 21, unit: int = 1) -> tuple[int, ...]:
    """Snapshot times: 0 and `count` − 1 log-spaced multiples of `unit` (all if they are fewer), the last `steps`."""
    units, marks = steps // unit, [0]
    for left in range(count - 2, 0, -1):
        last = max(marks[-1], 1)
        marks.append(max(marks[-1] + 1, round(last * (units / last) ** (1 / (left + 1)) if marks[-1] else 1)))
    return (*(m * unit for m in marks if m < units), steps)


def check_snapshots(steps: int, snapshots: Sequence[int] | None) -> tuple[int, ...]:
    """The update numbers of the snapshots, 0 first and `steps` last; raises `InputError`."""
    steps = whole("steps", steps, 1, 2**31 - 1)
    if snapshots is None:
        return log_steps(steps)
    try:
        marks = [whole("snapshots", s, 0, steps) for s in snapshots]
    except (TypeError, InputError):
        marks = []
    increasing = bool(marks) and all(a < b for a, b in itertools.pairwise(marks))
    require(increasing, "snapshots", snapshots, f"increasing update numbers within 0 … {steps}")
    return tuple(sorted({0, *marks, steps}))
