"""`dysonjax check`: every scheme of Dyson's equation against exact laws."""

from typing import Any

from dysonjax.core.errors import require
from dysonjax.experiments.base import Report
from dysonjax.runtime.progress import progress_bar


def check_schemes(replicas: int = 4096) -> Report:
    """Every scheme of Dyson's equation against exact laws: bias, order, cost; exit code 1 if a default fails.

    Args:
        replicas: independent runs behind each number; errors fall with its root.
    """
    from dysonjax.experiments.scheme_accuracy import TASKS, check, tables

    require(replicas >= 256, "replicas", replicas, "at least 256, for errors to mean something")
    with progress_bar("check", TASKS, rate=False) as done:
        lines, costs = check(replicas, lambda what: done.advance(1))
    bad = [line for line in lines if not line.good]
    said: list[Any] = [*tables(lines, costs)]
    said += [
        f"{line.setting}, {line.scheme}, dt = {line.dt:g}: {line.quantity} is off by {line.bias:+.4f} "
        f"± {line.error:.4f}, allowed {line.tolerance:g}"
        for line in bad
    ]
    if bad:
        return Report(said, width=130, failed=f"{len(bad)} of {len(lines)} numbers are out of tolerance")
    promised = sum(line.tolerance is not None for line in lines)
    return Report([*said, f"All {promised} promised numbers hold."], width=130)
