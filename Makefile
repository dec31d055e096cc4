# raycondense: `make help` lists what there is. Every target first runs tools/setup.sh, which ends at once when nothing has changed.

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint format setup doctor clean distclean

VENV ?= .venv
BIN := $(VENV)/bin
export VENV

# In continuous integration a missing FFCV is a failure, not a reason to test less.
ifeq ($(CI),true)
export REQUIRE_FFCV ?= 1
endif

help: ## List the targets
	@echo "make TARGET [PYTHON=python3.12] [ARGS='...']"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

demo: setup ## Condense a small dataset, evaluate it and write a report to demo/ (ARGS: more flags)
	$(BIN)/raycondense demo --out demo $(ARGS)

# Tests without Ray run on all cores, one thread each; a Ray has the machine for itself.
SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8

test: setup ## Run all tests, or those that ARGS (pytest's arguments) choose
ifeq ($(ARGS),)
	@status=0; \
	$(SIDE_BY_SIDE) -m "not cluster" || status=1; \
	$(BIN)/python -m pytest -m cluster || status=1; \
	exit $$status
else
	$(BIN)/python -m pytest $(ARGS)
endif

test-fast: setup ## Run the tests that neither start Ray nor take long
	$(SIDE_BY_SIDE) -m "not cluster and not slow" $(ARGS)

lint: setup ## Check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup ## Put the code into the project's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

setup: ## Make .venv with everything; system packages through apt-get where that is allowed
	@bash tools/setup.sh

doctor: setup ## Say what works on this machine and how to mend what does not
	$(BIN)/raycondense doctor $(ARGS)

clean: ## Remove the demo's output, caches and build leftovers
	rm -rf demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## The same and the virtual environment
	rm -rf $(VENV)
