# Everything a contributor needs. Needs Python >= 3.11 (with venv) and a package index; `make run` and `make test` do the rest.

SHELL := /bin/sh
BIN := .venv/bin
PYTEST := $(BIN)/pytest
MYPY := $(BIN)/mypy
SOURCES := protos/wire services/raft-node/src services/facade/src clients/python/src
# Each folder of tests is checked by itself: their modules are not packages and may share names.
TESTS := $(wildcard clients/python/tests protos/tests services/facade/tests services/raft-node/tests tests)
MEMBER_TESTS := $(wildcard clients/python/tests protos/tests services/facade/tests services/raft-node/tests)

.DEFAULT_GOAL := help
.PHONY: help setup run check lint types imports tidy test test-fast sim simulate protos protos-check certs bench-smoke clean

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: ## Make .venv; instant when it is up to date
	@for python in "$(PYTHON)" python3 python3.14 python3.13 python3.12 python3.11 python; do \
		if [ -n "$$python" ] && "$$python" -c "" 2>/dev/null; then \
			PYTHON="$(PYTHON)" exec "$$python" tools/bootstrap.py; \
		fi; \
	done; \
	echo "DougDB needs Python 3.11 or newer, with its venv module; no Python was found." >&2; exit 1

run: setup ## Start a local cluster; options as ARGS="--shards 3 --data /tmp/doug"
	@exec $(BIN)/python tools/foreground.py $(BIN)/dougctl dev $(ARGS)

check: lint types imports protos-check tidy ## Everything but the tests: lint, types, layers, stubs, house rules

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(MYPY) $(SOURCES)
	$(MYPY) tools bench
	@for folder in $(TESTS); do \
		echo "$(MYPY) $$folder"; \
		MYPYPATH=$$folder $(MYPY) --explicit-package-bases $$folder || exit 1; \
	done

imports: setup
	$(BIN)/lint-imports

protos-check: setup ## Check that the committed gRPC stubs are what protos/ gives
	$(BIN)/python tools/protos.py --check

tidy: setup
	$(PYTEST) -q tests/test_tidy.py

test: check ## What every change must pass, in under 15 minutes on 2 cores
	$(PYTEST) $(MEMBER_TESTS) tests

test-fast: setup ## Unit and property tests only
	$(PYTEST) -m "not simulation and not integration and not slow" $(MEMBER_TESTS) tests

sim: setup ## The simulations only
	$(PYTEST) -m simulation services/raft-node/tests

simulate: setup ## Replay one simulation: make simulate SEED=n
	@if [ -z "$(SEED)" ]; then echo 'usage: make simulate SEED=n' >&2; exit 2; fi
	$(BIN)/python -m raft_node.testing --seed $(SEED)

protos: setup ## Generate the gRPC stubs
	$(BIN)/python tools/protos.py

certs: setup ## Make an authority and certificates in certs/, for trying TLS; options as ARGS="--name db.local"
	$(BIN)/python tools/certs.py $(ARGS)

bench-smoke: setup ## Puts/s and gets/s through the facade, with CPU per operation
	$(BIN)/python bench/smoke.py $(ARGS)

clean: ## Remove caches and build results; .venv and data stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build out
	find . -name __pycache__ -type d -not -path './.venv/*' -not -path './data/*' -prune -exec rm -rf {} +
