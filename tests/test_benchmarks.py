"""Every benchmark runs at a tiny size, and the README shows what was recorded."""

import importlib
import subprocess
import sys
from pathlib import Path

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
}


@pytest.mark.parametrize("name", WORDS)
def test_benchmark_agrees_with_its_peers_and_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--tiny"], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert WORDS[name] in done.stdout


@pytest.mark.parametrize("name", WORDS)
def test_readme_shows_the_recorded_tables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    table = importlib.import_module(f"benchmarks.{name}").readme_table()
    readme = (ROOT / "README.md").read_text()
    for part in table.split("\n\n"):
        assert part in readme
