"""Every benchmark runs at a tiny size, and the README shows what was recorded."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
WORDS = {
    "sgd_engine": "engine / numpy, sample by sample",
    "dyson_core": "schemes, M level-updates/s:",
    "rbm": "dysonjax, Wishart:",
    "gpt": "spectra every 50 updates:",
    "analyze": "report of a 128 × 128 matrix:",
    "scaling": "engine over bare kernel, gases:",
    "spectra": "rigidity, 200 levels, 48 lengths:",
    "coverage": "wilson: 95.4 % on average",
    "own_network": "BatchNorm CNN, |B| = 16, 4 replicas, jax.vmap:",
}
SHOWN = [name for name in WORDS if name not in ("own_network", "coverage")]
"""What the README has a table of."""


@pytest.mark.parametrize("name", WORDS)
def test_benchmark_agrees_with_its_peers_and_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--tiny"], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert WORDS[name] in done.stdout


@pytest.mark.parametrize("name", SHOWN)
def test_readme_shows_the_recorded_tables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    table = importlib.import_module(f"benchmarks.{name}").readme_table()
    readme = (ROOT / "README.md").read_text()
    for part in table.split("\n\n"):
        assert part in readme


def test_a_ratio_of_timings_has_the_interval_of_their_logarithms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    record = importlib.import_module("benchmarks.record")
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        drift = rng.lognormal(0, 1, 5)  # of the machine, the same for neighbours
        found = record.ratio(2 * drift * rng.lognormal(0, 0.1, 5), drift * rng.lognormal(0, 0.1, 5))
        assert found["low"] < found["mean"] < found["high"]
        inside += found["low"] < 2 < found["high"]
    assert 920 < inside < 980
