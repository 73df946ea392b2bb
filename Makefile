SHELL := /bin/bash
.DEFAULT_GOAL := help

# Everything runs in .venv, made by the first target that needs it and refreshed when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made
# Only folders that hold Python, so that an empty one does not stop the type checker.
TYPED := $(foreach name,tests benchmarks examples,$(if $(shell find $(name) -name '*.py' 2>/dev/null),-p $(name)))

# Test processes: one more than CI has cores, since most of the acceptance tests wait; raise it where there are more.
TEST_PROCESSES ?= 3
# Hundreds of programs are started here, and without compiled files each of them compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test check lint types imports contract format bench proto

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[all,dev]'
	@touch $@

setup: $(STAMP) ## Make .venv with everything in it

demo: $(STAMP) ## Twenty orders through an engine and two workers, one of them killed
	$(BIN)/python examples/orders/demo.py

test: $(STAMP) ## Run every test, TEST_PROCESSES at a time; ARGS='-k name' narrows it down, one at a time
	$(BIN)/pytest $(if $(ARGS),$(ARGS),-n $(TEST_PROCESSES))

check: lint types imports contract ## Everything short of the tests; `make -k check` does not stop at the first failure

lint: $(STAMP) ## Lint and format only, at an editor's pace
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .

types: $(STAMP)
	$(BIN)/mypy -p windlass $(TYPED)
	$(BIN)/mypy proto/contract.py .ci/prove_package.py docker/engine_health.py

imports: $(STAMP)
	$(BIN)/lint-imports --no-logo

contract: $(STAMP)
	$(BIN)/python proto/contract.py check

format: $(STAMP) ## Put every file into the project's format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(STAMP) ## Measure this machine (docs/performance.md); ARGS='--runtime python' and so on
	$(BIN)/python -m benchmarks $(ARGS)

proto: $(STAMP) ## Generate the Python of the wire contract, then lint it
	$(BIN)/python proto/contract.py generate
	$(BIN)/python proto/contract.py check
