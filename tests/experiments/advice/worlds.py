"""Networks whose truth is known: each seed has learning rates between which it learns, and a loss with one minimum."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dysonjax.experiments.advice.rounds import Network
from dysonjax.experiments.advice.tried import Tried


@dataclass(frozen=True)
class World:
    """Of each line the rate `half` at which half of the networks blow up; below `slow` none learns in time.

    The logarithm of a seed's threshold is logistic about ln(half) with `width`, the same seed's on all lines alike. The
    loss is 0.3 + 0.1 ln(rate/best)² + noise, with best = half/8.
    """

    half: Sequence[float]
    width: float = 0.1
    slow: float = 0.005
    noise: float = 0.01
    key: int = 0

    def safe(self, line: int, probability: float = 0.95) -> float:
        """The largest rate at which so many learn."""
        return float(self.half[line] * (1 / probability - 1) ** self.width)

    def trained(self, networks: Sequence[Network]) -> Tried:
        """What became of these networks."""
        line, rate, seed = (np.array(column) for column in zip(*networks, strict=True))
        half = np.asarray(self.half)[line]
        uniform, normal = np.array([self._of_seed(s) for s in seed]).T
        learned = (rate < half * (1 / uniform - 1) ** self.width) & (rate > self.slow)
        end = 0.3 + 0.1 * np.log(rate / (half / 8)) ** 2 + self.noise * normal
        end = np.where(learned, np.minimum(end, 1.0), np.where(rate > self.slow, np.inf, 2.0))
        phase = np.where(learned, 0, np.where(rate > self.slow, 3, 1))
        one = np.ones(len(rate))
        return Tried(line, rate, seed, learned, end, phase, one, 40 * one, one, 1.0, 2.0, 0.3, "test_loss")

    def _of_seed(self, seed: int) -> tuple[float, float]:
        generator = np.random.default_rng([self.key, int(seed)])
        return generator.uniform(), generator.normal()


def joined(one: Tried, other: Tried) -> Tried:
    """Both."""
    parts: list[Any] = [
        np.concatenate([a, b]) if isinstance(a, np.ndarray) else a for a, b in zip(one, other, strict=True)
    ]
    return Tried(*parts)
