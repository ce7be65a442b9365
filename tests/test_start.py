"""A quick start: what is imported when, by the modules that are there afterwards and by no clock."""

import json
import os
import subprocess
import sys

import pytest

from dysonjax.cli.app import commands

HEAVY = ("optax", "xarray", "zarr", "scipy", "pandas", "matplotlib", "flax", "tyro", "rich", "orbax", "pooch")

LOOK = """
import contextlib, io, json, sys
heavy = sys.argv[1].split(",")
there = lambda *more: [name for name in (*heavy, *more) if name in sys.modules]
found = {}
import dysonjax
found["the package"] = there("jax", "numpy")
from dysonjax.cli.app import main
from dysonjax.experiments.known import kinds
for command in sys.argv[2].split(","):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([word for word in (command, "--help") if word])
    assert "usage" in said.getvalue(), said.getvalue()
    found[command] = [name for name in there("jax") if name not in ("tyro", "rich")]
import jax
before = there()
dysonjax.scan, dysonjax.sgd, dysonjax.dyson, dysonjax.Grid, dysonjax.models.TanhNetwork, dysonjax.use_compile_cache
found["the first names"] = [name for name in there() if name not in ("tyro", "rich", *before)]
sys.stdout.write(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    words = ["", *commands()]
    done = subprocess.run(
        [sys.executable, "-c", LOOK, ",".join(HEAVY), ",".join(words)],
        env=os.environ | {"COLUMNS": "120"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_package_imports_nothing(found):
    assert found.pop("the package") == []


def test_the_first_names_import_jax_alone(found):
    assert found["the first names"] == []


def test_help_needs_no_jax(found):
    told = {name: modules for name, modules in found.items() if name not in ("the package", "the first names")}
    assert set(told) == {"", *commands()}
    assert not any(told.values()), told
