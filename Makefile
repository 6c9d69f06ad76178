# The one door: what a person types, CI runs and a commit hook calls. `make` alone prints it.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STATE := $(or $(DEMO_STATE_DIR),.demo)

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
# The first that starts and really is one: a name alone proves nothing (pyenv's shims).
PYTHON ?= $(shell for name in python3.12 python3.11 python3; do \
	$$name -c "$(SUPPORTED)" 2>/dev/null && echo $$name && break; done)

# The one line of a tool's version and the hashes under it, out of the lock.
UV_PIN := awk '/^uv==/ { pin = 1 } pin { print } pin && !/\\$$/ { exit }' requirements/dev.txt
COMPILE := $(BIN)/uv pip compile -q --universal --python-version 3.11 --only-binary :all: \
	--generate-hashes --no-emit-index-url --no-header --no-annotate
WITH_WAREHOUSE := $(BIN)/python -m tests.support.with_warehouse
# A file's tests stay together: they share servers. What measures time or memory runs alone.
WORKERS ?= 2
BESIDE = -n $(WORKERS) --dist loadfile
# pytest's status where ARGS leave none of a part.
NO_TESTS := 5
# Each check's output in one piece, where make can (4.0; macOS has 3.81).
TOGETHER := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(STAMP) ## Make .venv from the hashed lock (again only when the lock changed)

$(STAMP): requirements/dev.txt pyproject.toml
	@"$(PYTHON)" -c "$(SUPPORTED)" 2>/dev/null || { \
		echo 'error: no Python 3.11 or 3.12 was found' >&2; \
		echo 'detail: Tried: $(or $(PYTHON),python3.12 python3.11 python3).' >&2; \
		echo 'hint: Install one, or name it: make setup PYTHON=/path/to/python3.12' >&2; exit 2; }
	@$(BIN)/python -c "$(SUPPORTED)" 2>/dev/null || "$(PYTHON)" -m venv --clear $(VENV)
	@$(UV_PIN) > $(VENV)/uv.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps \
		--only-binary :all: -r $(VENV)/uv.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --only-binary :all: --require-hashes \
		--compile-bytecode -r requirements/dev.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $(STAMP)

.PHONY: demo
demo: $(STAMP) ## Two PostgreSQL servers, a sample shop, extract-load, dbt build, dbt docs
	@$(BIN)/python -m demo up

.PHONY: demo-day
demo-day: $(STAMP) ## Let a day pass in the demo's source and land what changed
	@$(BIN)/python -m demo day

.PHONY: airflow
airflow: $(STAMP) ## Local Airflow on http://localhost:8080, wired to the demo's servers
	@$(BIN)/python -m demo.airflow up

.PHONY: logs
logs: $(STAMP) ## Print an Airflow task's log: make logs DAG=... TASK=... [RUN=...]
	@$(BIN)/python -m demo.airflow logs "$(DAG)" "$(TASK)" "$(RUN)"

.PHONY: docs
docs: $(STAMP) ## Write the dbt docs site of the demo's warehouse again
	@$(BIN)/python -m demo docs

.PHONY: docs-reference
docs-reference: $(STAMP) ## Write docs/reference/*.schema.json again; make fmt does it too
	@PYTHONPATH=dags $(BIN)/python -m common.reference

.PHONY: down
down: ## Stop what the demo started; its data stays
	@if [ -d "$(STATE)/airflow" ]; then $(BIN)/python -m demo.airflow down; fi
	@if [ -d "$(STATE)" ]; then $(BIN)/python -m demo down; fi

.PHONY: clean
clean: down ## Stop the demo and remove its data, and what the tools left behind
	@if [ -d "$(STATE)" ]; then $(BIN)/python -m demo clean; fi
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis dbt_project/target dbt_project/logs logs

.PHONY: test
test: $(STAMP) ## Everything that needs only Python: make test [ARGS="-k name"] [WORKERS=2]
	@$(BIN)/python -m pytest $(BESIDE) $(ARGS)

.PHONY: test-unit
test-unit: $(STAMP) ## The quick part: unit and property tests, examples in docstrings
	@$(BIN)/python -m pytest $(wildcard tests/unit tests/property extract_load) $(ARGS)

# Without them a test says what is missing.
.PHONY: packages
packages: ## Debian's packages that the slow tests need, where root may install them
	@if ! PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null && \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -qq --no-install-recommends pgbouncer >/dev/null; fi

.PHONY: test-slow
test-slow: $(STAMP) packages ## What takes minutes, or PostgreSQL builds from npm: make test-slow [ARGS="-k name"]
	@$(BIN)/python -m pytest -m 'slow and not alone' $(BESIDE) $(ARGS) || [ $$? = $(NO_TESTS) ]
	@$(BIN)/python -m pytest -m 'slow and alone' $(ARGS) || [ $$? = $(NO_TESTS) ]

.PHONY: test-matrix
test-matrix: $(STAMP) ## Every pair of PostgreSQL 13 to 18, on builds from npm
	@$(BIN)/python -m pytest -m 'slow or matrix' tests/versions $(ARGS)

.PHONY: test-regression
test-regression: $(STAMP) ## PostgreSQL's own regression database as a source (Debian, postgresql-15)
	@$(BIN)/python -m pytest -m regression tests/regression $(ARGS)

.PHONY: soak
soak: $(STAMP) ## Random histories for hours: make soak [SECONDS=3600] [COUNT=0] [SEED=...]
	@$(BIN)/python -m tests.histories.soak --seconds $(or $(SECONDS),3600) \
		--count $(or $(COUNT),0) $(if $(SEED),--seed $(SEED))

.PHONY: bench
bench: $(STAMP) ## Speed against psql, written into docs/performance.md: make bench [BENCH_SCALE=0.1]
	@$(BIN)/python -m benchmarks --write --peers $(ARGS)

.PHONY: bench-quick
bench-quick: $(STAMP) ## ... the ratios that matter most, on small tables, in under 3 minutes
	@$(BIN)/python -m benchmarks --quick --scale 0.04 --pairs 3 $(ARGS)

.PHONY: chaos
chaos: $(STAMP) ## Harm runs in every way, 200 times each: make chaos [ROUNDS=200] [SEED=...]
	@$(BIN)/python -m tests.chaos --write --rounds $(or $(ROUNDS),200) $(if $(SEED),--seed $(SEED))

.PHONY: test-all
test-all: test test-slow ## ... and what is slower; for root, `make test` again in a copy as nobody
	@if [ "$$(id -u)" = 0 ]; then $(BIN)/python -m tests.support.as_nobody make test; fi

.PHONY: check
check: $(STAMP) ## Formatting, lint, types, SQL, YAML, compose file; all of them at once
	@$(MAKE) -j 3 -k $(TOGETHER) check-types check-sql check-python check-yaml check-compose

.PHONY: check-python
check-python:
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .

.PHONY: check-types
check-types:
	@$(BIN)/mypy

.PHONY: check-sql
check-sql:
	@$(WITH_WAREHOUSE) sqlfluff lint -q --disable-progress-bar dbt_project

.PHONY: check-yaml
check-yaml:
	@$(BIN)/yamllint --strict .

# Compose wants values for the secrets that .env.example leaves open.
.PHONY: check-compose
check-compose:
	@secrets=$$(sed -n 's/^\([A-Z_]*\)=$$/\1=check/p' .env.example); \
	if docker-compose version >/dev/null 2>&1; then compose=docker-compose; \
	elif docker compose version >/dev/null 2>&1; then compose="docker compose"; \
	else echo "no docker compose here: docker-compose.yaml was not checked by it"; exit 0; fi; \
	env $$secrets $$compose --env-file .env.example --profile demo --profile celery config -q

.PHONY: fmt
fmt: docs-reference ## Format Python and SQL, mend what can be mended, write docs/reference
	@$(BIN)/ruff check -q --fix . || true
	@$(BIN)/ruff format .
	@$(WITH_WAREHOUSE) sqlfluff fix -q --disable-progress-bar dbt_project

.PHONY: lock
lock: $(STAMP) ## Resolve requirements/*.in again, into the hashed locks
	@$(COMPILE) requirements/dev.in -o requirements/dev.txt
	@$(COMPILE) requirements/runtime.in -c requirements/dev.txt -o requirements/runtime.txt
