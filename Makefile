# hjepa: `make help` lists what can be done. Everything lives in .venv; nothing needs root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := runs/demo
# Tests use one thread a process, and a process a core.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow test-all check format clean

help: ## list all targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

venv: $(STAMP) ## create .venv with the project and its test dependencies

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hjepa needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V); use: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## pretrain on synthetic scenes for about three minutes, evaluate, print a verdict
	$(BIN)/hjepa pretrain scenes --out $(DEMO) --recipe demo --overwrite
	$(BIN)/hjepa evaluate $(DEMO) --train scenes:train --test scenes:test --protocols knn --pooling grid4 --max-train 4000 --max-test 2000

test: $(STAMP) ## the fast tests, about 5 minutes on 2 idle cores
	$(PYTEST)

test-slow: $(STAMP) ## only the slow tests
	$(PYTEST) -m slow

test-all: $(STAMP) ## all tests, including the slow ones
	$(PYTEST) -m 'slow or not slow'

check: $(STAMP) ## formatting, lint, types, import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py

format: $(STAMP) ## format the code and fix lint errors where possible
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and caches; runs are kept
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
