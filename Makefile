# `make demo` and `make test` work on a fresh clone with nothing but Python >= 3.11, git and make.
PYTHON ?= python3
BIN := .venv/bin
# Slow tests mostly wait for clusters and processes: more of them than cores.
SLOW_WORKERS ?= 4
# Without bytecode on the disk every process compiles torch anew, for seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all lint install dev clean

demo: install
	$(BIN)/normbench demo

# For every day: what is quick, in a few minutes.
test: lint
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

# Everything: clusters, kills, browsers and compilers too. What is quick covers the code; what is slow, its processes.
test-all: lint
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow" --cov --cov-report= --cov-fail-under=90
	$(BIN)/pytest -n $(SLOW_WORKERS) --dist loadgroup -m slow --timeout 600 --durations 30

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: .venv/installed
dev: .venv/installed-dev

# uv installs in seconds what takes pip minutes; where it cannot be had, pip does it.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "normbench needs Python >= 3.11; name one: make PYTHON=python3.12 demo" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv || echo "no uv here: pip will take a few minutes"

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e . || $(BIN)/python -m pip install --quiet -e .
	touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]' || $(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@ .venv/installed

clean:
	rm -rf .venv results/demo results/runs
