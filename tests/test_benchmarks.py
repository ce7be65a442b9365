"""Every benchmark runs at a tiny size, and the README shows what was recorded."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_sgd_engine_agrees_with_its_peers_and_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sgd_engine", "--tiny"], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert "engine / numpy, sample by sample" in done.stdout


def test_readme_shows_the_recorded_table() -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks import sgd_engine

    assert sgd_engine.readme_table() in (ROOT / "README.md").read_text()
