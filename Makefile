# Everything runs in .venv, which each target brings up to date first; `make help` lists them.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
BENCH_FLAGS ?= --peers litserve,ray

BIN := .venv/bin
SERVE := .venv/.installed
DEV := .venv/.installed-dev
BENCH := .venv/.installed-bench
AUDIT := .venv/audit
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help serve test abuse audit check bench format docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(SERVE)  ## install, migrate and serve on http://127.0.0.1:8000 (HOST=, PORT=)
	@$(BIN)/shopcast migrate
	@exec $(BIN)/shopcast serve --host $(HOST) --port $(PORT)

test: $(DEV)  ## run the tests
	$(BIN)/python -m pytest

abuse: $(DEV)  ## hurt the service in the long form, for most of an hour
	SHOPCAST_ABUSE=long $(BIN)/python -m pytest tests/abuse

audit: $(AUDIT)  ## known flaws of what is installed, and a list of it (build/sbom.json)
	$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off
	@mkdir -p build
	$(AUDIT)/bin/cyclonedx-py environment $(BIN)/python --output-format JSON --output-file build/sbom.json

check: $(DEV)  ## formatting, lint, types, import directions, generated docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/configuration.py --check

bench: $(BENCH)  ## measure serving beside its peers (BENCH_FLAGS=)
	$(BIN)/python benchmarks/serving.py $(BENCH_FLAGS)

format: $(DEV)  ## format, and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DEV)  ## write the generated pages of docs/
	$(BIN)/python docs/configuration.py

clean:  ## remove the environment and what tools left behind; data in var/ stays
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; name one with PYTHON=, as in make PYTHON=python3.12" >&2; \
		exit 1; }
	$(PYTHON) -m venv .venv

$(SERVE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing (PyTorch is large; this takes some minutes once)" >&2
	$(PIP) --editable '.[plot]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing (PyTorch is large; this takes some minutes once)" >&2
	$(PIP) --editable '.[dev]'
	@touch $(SERVE) $@

# the auditors are kept apart from what they look at
$(AUDIT): | $(SERVE)
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet pip-audit cyclonedx-bom

# BentoML and MLServer have pins that clash with these: BENCH_FLAGS="--peer-python bentoml=PYTHON …".
$(BENCH): $(DEV)
	$(PIP) aiohttp litserve 'ray[serve]'
	@touch $@
