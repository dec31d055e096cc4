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

test: setup ## Run all tests (ARGS: pytest's arguments)
	$(BIN)/python -m pytest $(ARGS)

test-fast: setup ## Run the tests that neither start Ray nor take long
	$(BIN)/python -m pytest -m "not cluster and not slow" $(ARGS)

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
