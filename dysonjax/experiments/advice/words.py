"""An advice in words: one sentence, a table, the reasons, what holds across batch sizes, what the budget left open."""

import math
from collections.abc import Sequence
from typing import Any

from dysonjax.core.tables import Table
from dysonjax.experiments.advice.answer import Across, Answer, Beside, OfLine, undecided
from dysonjax.experiments.advice.rounds import HIGHEST
from dysonjax.experiments.learning.boundaries import SAFE


def said(answer: Answer) -> list[Any]:
    """Everything that a person reads, the most important first."""
    found: list[Any] = [sentence(answer), table(answer), definitions(answer)]
    found += [why(one) for one in answer.lines]
    found += [*map(across, answer.across), noise(answer)]
    return [part for part in [*found, left_open(answer)] if part]


def sentence(answer: Answer) -> str:
    """The advice."""
    if not answer.tried.learned.any():
        return _none_learns(answer)
    good = [one for one in answer.lines if one.recommended is not None]
    if not good:
        return _none_safe(answer)
    uses = "; ".join(f"{number(one.recommended)} at {one.line}" for one in good)
    safe = [one for one in good if math.isfinite(one.safe.rate)]
    ends = ", ".join(f"{_rate(one)} at {one.line}" for one in safe)
    tail = f" Up to {ends} at least {SAFE:.0%} of the networks learn." if safe else ""
    if all(math.isinf(one.safe.high) for one in good):
        tail += f" All learning rates up to {number(max(answer.tried.rate))} learn: the safe ones end above."
    lost = [one for one in answer.lines if one.recommended is None]
    none = f" At {'; '.join(str(one.line) for one in lost)} no learning rate is safe." if lost else ""
    return f"Use learning rate {uses}.{tail}{none}"


def _none_learns(answer: Answer) -> str:
    tried = answer.tried
    where = f"learning rates {number(tried.rate.min())} … {number(tried.rate.max())}"
    if not math.isfinite(tried.target):
        return (
            f"Nothing learns: at no learning rate tried ({where}) does the median {_metric(answer)} get 5 % of the way "
            f"from its {number(tried.initial)} at the start. Give more --steps."
        )
    return f"Nothing learns: none of {len(tried.rate)} networks reaches {_target(answer)} ({where})."


def _none_safe(answer: Answer) -> str:
    tried = answer.tried
    good = [rate for rate in tried.rates() if tried.learned[tried.rate == rate].all()]
    if not good:
        return f"Some networks learn, but no learning rate is safe: at each that was tried some miss {_target(answer)}."
    return (
        f"All networks reach {_target(answer)} at learning rates {number(min(good))} … {number(max(good))}, but they "
        f"are too few to call any of these safe, which is that {SAFE:.0%} learn: give a larger --budget."
    )


def table(answer: Answer) -> Table:
    """One row a line."""
    fresh = max((one.fresh.networks for one in answer.lines if one.fresh), default=0)
    shown = Table(
        title=f"After {answer.settings.steps} updates; the last three columns are of {fresh} networks with fresh seeds"
        if fresh
        else f"After {answer.settings.steps} updates"
    )
    metric = answer.tried.metric.replace("_", " ")
    heads = (
        "",
        "largest safe rate",
        "95 %",
        "half learn at",
        "recommended",
        "best within",
        "learn",
        metric,
        "16 – 84 %",
    )
    for head in heads:
        shown.add_column(head, justify="right" if head else "left")
    for one in answer.lines:
        rate = "–" if one.recommended is None else number(one.recommended)
        best = "–" if one.recommended is None else f"{number(one.best[0])} – {number(one.best[1])}"
        shown.add_row(
            str(one.line), _safe(one), _interval(one.safe.low, one.safe.high), _half(one), rate, best,
            *_fresh(answer, one),
        )  # fmt: skip
    return shown


def definitions(answer: Answer) -> str:
    """What the words of the table mean in this run."""
    tried, settings = answer.tried, answer.settings
    optimizer = settings.optimizer or "plain gradient descent"
    schedule = f" with the schedule {settings.schedule}" if settings.schedule else ""
    target = (
        f"A network learns when its {_metric(answer)} ends at {number(tried.target)} or "
        f"{'above' if answer.larger_is_better else 'below'}"
    )
    way = (
        ""
        if settings.target is not None
        else f" ({settings.share:.0%} of the way from {number(tried.initial)} at the start to {number(tried.best)}, "
        "the best median of the first round)"
    )
    return (
        f"{target}{way}; optimiser: {optimizer}{schedule}. Safe: at least {SAFE:.0%} of networks learn by a fit over "
        "learning rates, from all seeds but the fresh ones. Best within: rates whose mean cannot be told from the best "
        "one."
    )


def why(one: OfLine) -> str:
    """What happens above and below the rates that learn, from the spectra."""
    parts = []
    if one.above:
        parts.append(f"above, at {_beside(one.above)}")
    if one.below:
        parts.append(f"below, at {_beside(one.below)}")
    if not parts:
        return ""
    return f"{one.line}: {'; '.join(parts)}.{' ' + one.safe.said if one.safe.said else ''}"


def _beside(beside: Beside) -> str:
    does = {
        "slow": "still improve when they end",
        "frozen": "are frozen: loss and levels hardly move",
        "blown up": "blow up",
        "diverged": "diverge",
        "stuck": "are stuck short of the target",
        "learns": "learn",
    }[beside.phase]
    grown = ""
    if beside.matrix and beside.growth > 2 and beside.phase in ("blown up", "diverged", "stuck"):
        name = "" if beside.matrix == "levels" else f" of {beside.matrix}"
        grown = f"; the largest level{name} grew {beside.growth:.2g} times"
    return f"{number(beside.rate)}, {beside.share:.0%} {does}{grown}"


def across(one: Across) -> str:
    """How rates grow with the batch size."""
    parts = []
    for what, power in (("largest safe", one.safe), ("recommended", one.best)):
        if power is not None:
            parts.append(
                f"the {what} rate grows as |B|^p with p = {power.exponent:.2f} ({power.low:.2f} – {power.high:.2f})"
            )
    if one.safe is not None:
        equal = one.safe.low <= 1 <= one.safe.high
        parts.append(
            "p = 1, one temperature α/|B| for all, is "
            + ("compatible with the boundary" if equal else "excluded: the boundary is not at one temperature α/|B|")
        )
    if momentum := dict(one.more).get("momentum"):
        parts.append(f"with momentum the temperature is α/(|B|(1 − μ)), {1 / (1 - momentum):.3g} times α/|B|")
    if one.critical is not None:
        size, low, high = one.critical
        closed = low > 0 and high < math.inf
        known = f"{number(size)} ({_interval(low, high)})" if closed else _interval(low, high)
        parts.append(f"critical batch size {known} from the recommended rates")
    if not parts:
        return ""
    more = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in one.more)
    return f"Across batch sizes{f' at {more}' if more else ''}: {'; '.join(parts)}."


def noise(answer: Answer) -> str:
    """The gradient-noise scale at the end of the fresh networks."""
    known = [(one.line, one.fresh.noise_scale) for one in answer.lines if one.fresh]
    told = "; ".join(f"{number(scale)} at {line}" for line, scale in known if math.isfinite(scale))
    if not told:
        return ""
    return f"Gradient-noise scale at the end, the batch size with as much noise as gradient: {told}."


def left_open(answer: Answer) -> str:
    """What the budget could not decide, and how much more would."""
    settings = answer.settings
    parts = [
        f"{len(answer.tried.rate)} networks were trained, {answer.spent / settings.networks:.0%} of the budget "
        f"of {settings.budget}."
    ]
    for one, times in undecided(answer):
        factor = one.safe.high / one.safe.low
        parts.append(
            f"At {one.line} the safe rate is known within a factor {factor:.2g}; {settings.precision:g} would take "
            f"about {max(times, 1.1):.2g} times as many networks there."
        )
    for one in answer.lines:
        if math.isinf(one.safe.high) and one.recommended is not None:
            top = answer.tried.rate[answer.tried.line == answer.lines.index(one)].max()
            more = "" if top >= HIGHEST / 2 else "; larger --learning-rate would find it"
            parts.append(f"At {one.line} the boundary is above {number(top)}, the largest rate that was tried{more}.")
        if one.recommended is not None and one.fresh is None:
            parts.append(f"At {one.line} nothing was left for networks with fresh seeds.")
    return " ".join(parts)


def number(value: float | None) -> str:
    """Three digits."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3g}"


def _metric(answer: Answer) -> str:
    return answer.tried.metric.replace("_", " ")


def _target(answer: Answer) -> str:
    return f"{_metric(answer)} {number(answer.tried.target)}"


def _rate(one: OfLine) -> str:
    return f"{number(one.safe.rate)} ({_interval(one.safe.low, one.safe.high)})"


def _interval(low: float, high: float) -> str:
    if math.isinf(high):
        return f"> {number(low)}" if low > 0 else "unknown"
    return f"< {number(high)}" if low <= 0 else f"{number(low)} – {number(high)}"


def _safe(one: OfLine) -> str:
    if math.isfinite(one.safe.rate):
        return number(one.safe.rate)
    return "above" if math.isinf(one.safe.high) else "none"


def _half(one: OfLine) -> str:
    if math.isfinite(one.half.rate):
        return f"{number(one.half.rate)} ({_interval(one.half.low, one.half.high)})"
    return _interval(one.half.low, one.half.high)


def _fresh(answer: Answer, one: OfLine) -> Sequence[str]:
    if one.fresh is None:
        return ("–", "–", "–")
    sign, fresh = (-1 if answer.larger_is_better else 1), one.fresh
    spread = sorted(sign * x for x in fresh.spread)
    learn = f"{fresh.learned}/{fresh.networks} ({fresh.low:.2f} – {fresh.high:.2f})"
    return learn, f"{sign * fresh.mean:.3g} ± {fresh.error:.1g}", f"{spread[0]:.3g} – {spread[1]:.3g}"
