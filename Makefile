# Every target builds what it needs: .venv, with the Python that tools/newest-python picks, and the packages.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:  # two pips must not write to one .venv
# Where Python may not keep what it compiled, each of the dozens of processes that the tests start compiles JAX, SciPy
# and xarray anew: 14 s in place of 5.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
# A file stays whole, so that its fixtures and compiled programs are made once; the longest come first.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-slow test-versions lint types bench compiled device clean FORCE

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile
	@echo 'Variables: DYSONJAX_PYTHON (the Python to use), PYTEST_ARGS (now: $(PYTEST_ARGS))'

demo: .venv/installed-core  ## the main job: the phase diagram, written to runs/demo
	$(BIN)/dysonjax phase-diagram --out runs/demo --overwrite

test: lint types  ## lint, types, then the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: .venv/installed-test  ## statistics at full size, long runs of benchmarks and notebooks: tests/SLOW.md
	DYSONJAX_OPTIMISED=1 $(BIN)/python -m pytest $(PYTEST_ARGS) -m slow

test-versions:  ## the tests on every supported pair of Python and JAX, an environment for each
	tools/test-versions

lint: .venv/installed-test  ## ruff's rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-test  ## pyright on dysonjax/, tests/ and benchmarks/
	$(BIN)/basedpyright

bench: .venv/installed-bench  ## all benchmarks, an hour
	$(BIN)/python -m benchmarks.sgd_engine
	$(BIN)/python -m benchmarks.dyson_core
	$(BIN)/python -m benchmarks.spectra
	$(BIN)/python -m benchmarks.rbm
	$(BIN)/python -m benchmarks.gpt
	$(BIN)/python -m benchmarks.analyze
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.coverage

compiled: .venv-compiled/installed  ## what an H100 and a TPU v5e would run, compiled without them, 10 minutes
	.venv-compiled/bin/python -m benchmarks.compiled $(COMPILED_ARGS)

device: .venv/installed-core  ## what the device here computes right, and how fast, six minutes
	$(BIN)/python -m benchmarks.on_device --minutes 6

clean:  ## remove .venv, caches and build products; runs/ stays
	rm -rf .venv .venv-versions .venv-compiled .compare build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# One stamp for each extra ("core": none), so that only a changed pyproject.toml or a new .venv installs again.
.venv/installed-%: pyproject.toml .venv/built-from
	@echo 'Installing dysonjax ($*) into .venv: minutes the first time'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.$(patsubst %,[%],$(filter-out core,$*))'
	@touch $@

# An environment of its own: where these packages are, JAX looks for their devices at every start and complains.
.venv-compiled/installed: pyproject.toml .venv/built-from
	@echo 'Installing dysonjax (compiled) into .venv-compiled: minutes the first time'
	@rm -rf .venv-compiled && "$$(tools/newest-python)" -m venv .venv-compiled
	.venv-compiled/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[compiled]'
	@touch $@

# Runs every time, but touches its file only on a rebuild. A .venv knows its own folder, so a copied one is rebuilt too.
.venv/built-from: FORCE
	@python=$$(tools/newest-python) || exit 1; \
	if [ "$$(cat $@ 2>/dev/null)" != "$$python for $(CURDIR)" ]; then \
		echo "Building .venv from $$python"; \
		rm -rf .venv && "$$python" -m venv .venv && echo "$$python for $(CURDIR)" > $@; \
	fi
