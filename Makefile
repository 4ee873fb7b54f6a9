# Everything a contributor needs. Needs Python >= 3.11 (with venv) and a package index; `make run` and `make test` do the rest.

SHELL := /bin/sh
BIN := .venv/bin
PYTEST ?= $(BIN)/pytest
MYPY := $(BIN)/mypy
SOURCES := protos/wire services/raft-node/src services/raft-node-testing/src services/facade/src clients/python/src
# Each folder of tests is checked by itself: their modules are not packages and may share names.
TESTS := $(wildcard clients/python/tests protos/tests services/facade/tests services/raft-node/tests services/raft-node-testing/tests tests)
CLUSTER_TESTS := tests/integration/kubernetes/cluster
# Those that start real clusters run one after the other: they would take time, ports and disk from one another.
# In the order of the folders: files with few tests would come last otherwise, and some of those take minutes.
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# These do have clusters, one for each file, but wait for a browser more than they compute.
BROWSER_TESTS := tests/integration/browser
SLOWEST := --durations 15 --durations-min 0.5
NOT_HERE := --ignore=$(CLUSTER_TESTS)/scenarios
MEMBER_TESTS := $(wildcard clients/python/tests protos/tests services/facade/tests services/raft-node/tests services/raft-node-testing/tests)

.DEFAULT_GOAL := help
.PHONY: help setup run compiled test-compiled check lint bandit audit types imports tidy test test-slow test-fast sim simulate protos protos-check bench-smoke bench-model clean
.PHONY: test-containers test-cluster test-kind test-kube test-kube-v2 kube-up kube-down
.PHONY: coverage soak crash-images mutants mutants-check
.PHONY: chart chart-check chart-tools chart-package version release images base-image kind-up kind-down minikube-up
.PHONY: bench bench-console bench-scan bench-storage bench-stall bench-replay bench-tools fuzz-storage fuzz-tools fuzz-api generator-tools browser-tools stream-tools
.PHONY: client client-check vendor pictures console-types observe dashboards dashboards-check certs

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

setup: ## Make .venv; instant when it is up to date
	@for python in "$(PYTHON)" python3 python3.14 python3.13 python3.12 python3.11 python; do \
		if [ -n "$$python" ] && "$$python" -c "" 2>/dev/null; then \
			PYTHON="$(PYTHON)" exec "$$python" tools/bootstrap.py; \
		fi; \
	done; \
	echo "DougDB needs Python 3.11 or newer, with its venv module; no Python was found." >&2; exit 1

run: setup $(if $(NATIVE),compiled) ## Start a local cluster; options as ARGS="--shards 3 --data /tmp/doug"; NATIVE=1: on native modules
	@exec $(if $(NATIVE),env PYTHONPATH=$(COMPILED)) $(BIN)/python tools/foreground.py $(BIN)/dougctl dev $(ARGS)

# The folder of the packages with native modules, as a shell's word; nothing is built.
COMPILED = "$$($(BIN)/python -m tools.compiled --where)"
compiled: setup ## Make native modules of the hot sources, by mypyc; needs a C compiler and Python's headers; see docs/performance.md
	@$(BIN)/python -m tools.compiled

observe: setup ## Start a local cluster and a Prometheus that scrapes it; the options of `make run` as ARGS="..."
	@exec $(BIN)/python tools/foreground.py $(BIN)/python tools/observe.py $(ARGS)

# Everything but the tests: lint, types, layers, house rules, and that what is generated is what its sources give. None of
# them writes what another one reads, so two go on side by side; the longest begins first.
CHECKS := types lint bandit imports protos-check client-check chart-check dashboards-check mutants-check tidy
IN_ONE_PIECE := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
check: setup ## Everything but the tests
	@$(MAKE) --no-print-directory --jobs 2 $(IN_ONE_PIECE) $(CHECKS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# What it leaves out, and why, stands in pyproject.toml; an exception at one place has its reason there.
bandit: setup
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive $(SOURCES) tools

# Needs the index of known vulnerabilities, which not every package index has; exit code 3 where it is not reached.
audit: setup ## Known vulnerabilities of what uv.lock names, by pip-audit
	$(BIN)/python tools/audit.py

types: setup
	$(MYPY) $(SOURCES)
	$(MYPY) --explicit-package-bases tools bench
	@for folder in $(TESTS); do \
		echo "$(MYPY) $$folder"; \
		MYPYPATH=$$folder $(MYPY) --explicit-package-bases $$folder || exit 1; \
	done

imports: setup
	$(BIN)/lint-imports

client: setup ## Make the blocking client of the one for asyncio
	$(BIN)/python tools/blocking.py

client-check: setup ## Check that the blocking client is what dougdb.aio gives
	$(BIN)/python tools/blocking.py --check

protos-check: setup ## Check that the committed gRPC stubs are what protos/ gives
	$(BIN)/python tools/protos.py --check

tidy: setup
	$(PYTEST) -q tests/test_tidy.py

# The scenarios need containers or a cluster; `make test-containers` and `make test-kind` run them. What is slow by nature
# is in `make test-slow`, which CI runs in the same run.
test: check ## What every change must pass, in under 15 minutes on 2 cores
	$(PYTEST) $(SLOWEST) $(SIDE_BY_SIDE) -m "not slow and (not integration or light)" $(MEMBER_TESTS) tests $(NOT_HERE)
	$(PYTEST) $(SLOWEST) -m "not slow and integration and not light" $(MEMBER_TESTS) tests $(NOT_HERE)

test-slow: setup ## What is slow by nature: storms, long simulations, planted bugs; CI runs it after `make test`
	$(PYTEST) $(SLOWEST) --numprocesses 2 -m "slow and not integration" $(MEMBER_TESTS) tests $(NOT_HERE)
	$(PYTEST) $(SLOWEST) $(SIDE_BY_SIDE) -m "slow and integration" $(BROWSER_TESTS)
	$(PYTEST) $(SLOWEST) -m "slow and integration" $(MEMBER_TESTS) tests $(NOT_HERE) --ignore=$(BROWSER_TESTS)

test-containers: setup ## The chart's pods as containers: faults, rolling restarts, Prometheus; skipped without podman
	-@$(BIN)/python tools/helm_tools.py
	env -u KUBECONFIG $(PYTEST) $(CLUSTER_TESTS)

test-cluster: setup ## The same scenarios in the cluster that KUBECONFIG names, in namespaces of their own
	@if [ -z "$$KUBECONFIG" ]; then echo 'usage: make test-cluster KUBECONFIG=file' >&2; exit 2; fi
	-@$(BIN)/python tools/helm_tools.py
	KUBECONFIG="$$KUBECONFIG" $(PYTEST) $(CLUSTER_TESTS)

test-kind: chart-tools ## The same in a kind cluster, which is made and deleted; needs kind and docker
	sh tools/kubernetes.sh test-kind

# The first part needs none of the extras, which take as long to build as Kubernetes itself.
test-kube: setup ## The same in a real Kubernetes of one node, without Docker; skipped without Go and root; ARGS="-k name"
	-@$(BIN)/python tools/helm_tools.py
	$(if $(findstring first_day,$(ARGS)),,-@$(BIN)/python -m tools.kubernetes extras)
	exec $(BIN)/python -m tools.kubernetes test $(ARGS)

test-kube-v2: setup ## Install, put, get and remove on cgroup v2, in a virtual machine; ARGS="-m first_day" adds scenarios
	-@$(BIN)/python tools/helm_tools.py
	exec $(BIN)/python -m tools.kubernetes.vm $(ARGS)

test-fast: setup ## Unit and property tests only
	$(PYTEST) $(SIDE_BY_SIDE) -m "not simulation and not integration and not slow and not seconds" $(MEMBER_TESTS) tests

# What is marked `pure` replaces methods, derives classes or counts calls, which native classes refuse.
NATIVE_TESTS := $(wildcard protos/tests services/facade/tests services/raft-node/tests services/raft-node-testing/tests)
test-compiled: compiled ## The tests of nodes, facades, wire and simulator on native modules; then some with real clusters
	PYTHONPATH=$(COMPILED) $(PYTEST) $(SIDE_BY_SIDE) -m "not slow and not pure and (not integration or light)" $(NATIVE_TESTS)
	REQUIRE_NATIVE=1 PYTHONPATH=$(COMPILED) $(PYTEST) -m "not slow and not pure" \
		tests/integration/test_native.py tests/integration/test_operations.py tests/integration/test_sessions.py

coverage: setup ## Branch coverage of the Raft core; fails below 95 %
	$(BIN)/python tools/raft_coverage.py

sim: setup ## The simulations only: at least 500 seeds, and the directed scenarios
	$(PYTEST) -s -m simulation services/raft-node/tests services/raft-node-testing/tests

simulate: setup ## Replay one simulation: make simulate SEED=n
	@if [ -z "$(SEED)" ]; then echo 'usage: make simulate SEED=n' >&2; exit 2; fi
	$(BIN)/python -m raft_testing --seed $(SEED)

soak: setup ## Many fresh seeds: make soak FROM=n SEEDS=m
	@if [ -z "$(FROM)" ] || [ -z "$(SEEDS)" ]; then echo 'usage: make soak FROM=n SEEDS=m' >&2; exit 2; fi
	$(BIN)/python -m raft_testing.soak --from $(FROM) --seeds $(SEEDS)

crash-images: setup ## All crash images of all workloads of four operations on log and SSTables
	$(BIN)/python -m raft_testing.crash_images_main $(ARGS)

mutants: setup ## Planted bugs against their tests and 200 seeds each; or some: make mutants ONLY=M07
	@exec $(BIN)/python -m raft_testing.mutants --only "$(ONLY)" $(ARGS)

mutants-check: setup
	$(BIN)/python -m raft_testing.mutants --check

protos: setup ## Generate the gRPC stubs
	$(BIN)/python tools/protos.py

dashboards: setup ## Generate the dashboards and alert rules in deploy/helm/dougdb, which deploy/observability links to
	$(BIN)/python -m tools.dashboards

dashboards-check: setup ## Check that they are what tools/observability gives
	$(BIN)/python -m tools.dashboards --check

vendor: setup ## Fetch what others wrote for the console and its tests, as tools/vendor.py names it; needs npm
	$(BIN)/python -m tools.vendor

pictures: browser-tools ## Make the pictures of the console in docs/images, from a real cluster; needs chromium
	$(BIN)/python -m tools.pictures $(ARGS)

console-types: setup ## Check the types of the console's modules by TypeScript; needs npm
	$(BIN)/python -m tools.console_types

certs: setup ## Make an authority and certificates in certs/, for trying TLS; options as ARGS="--name db.local"
	$(BIN)/python tools/certs.py $(ARGS)

bench-smoke: setup ## Puts/s and gets/s through the facade, with CPU per operation
	$(BIN)/python bench/smoke.py $(ARGS)

bench: setup ## DougDB beside etcd, NATS and Redis (where Go is), in turn; options as ARGS="--turns 3 --kinds put --connections 64"
	$(BIN)/python bench/compare.py $(ARGS)

bench-model: setup ## What an operation costs by shards, nodes, connections and value size; options as ARGS="--tables nodes"
	$(BIN)/python bench/model.py $(ARGS)

bench-scan: setup ## A million keys as a stream: entries/s, memory, other clients' p99; options as ARGS="--keys 100000"
	$(BIN)/python bench/scan.py $(ARGS)

bench-expiry: setup ## A million keys expire: what is left of them on disk after merges; options as ARGS="--keys 100000"
	$(BIN)/python bench/expiry.py $(ARGS)

bench-overload: setup ## Ten times what a cluster can do: what is answered, elections, memory, and the time after; ARGS="--seconds 10"
	$(BIN)/python bench/overload.py $(ARGS)

bench-batch: setup ## Batches of 10,000 puts, 8 in flight: puts/s and CPU per put; options as ARGS="--batches 100"
	$(BIN)/python bench/batch.py $(ARGS)

bench-conditions: setup ## What a condition costs a put, against plain ones in turn; ARGS="--rounds 3 --check" fails above 1.3
	$(BIN)/python bench/conditions.py $(ARGS)

bench-watch: setup ## Thousands of watchers of one facade: memory, and how soon all have an event; ARGS="--idle 10000 --check"
	$(BIN)/python bench/watch.py $(ARGS)

bench-console: setup ## None, one and a hundred open consoles: what they cost the facade and the nodes; ARGS="--seconds 20 --check"
	$(BIN)/python bench/console.py $(ARGS)

bench-ab: setup ## This version beside another one, in turn: make bench-ab REF=commit; options as ARGS="--pairs 5"
	@if [ -z "$(REF)$(findstring --other-setting,$(ARGS))$(findstring --auth,$(ARGS))$(findstring --compiled,$(ARGS))" ]; then \
		echo 'usage: make bench-ab REF=commit [ARGS="--only put --connections 64"], or ARGS=--auth, or ARGS=--compiled' >&2; \
		exit 2; fi
	$(BIN)/python bench/ab.py $(if $(REF),--ref "$(REF)") $(ARGS)

bench-guard: setup ## Fail if CPU or messages per operation grew by over 10 % since bench/baseline, or another commit: REF=commit
	$(BIN)/python bench/ab.py --ref "$(or $(REF),$(shell cat bench/baseline))" --limit 1.10 --attempts 4 \
		--connections 1 64 --seconds 3 $(ARGS)

bench-storage: bench-tools ## Our storage engine beside RocksDB and LevelDB; options as ARGS="--keys 4000000"
	$(BIN)/python bench/storage.py $(ARGS)

fuzz-storage: fuzz-tools ## Fuzz every decoder; options as ARGS="--target wal,sstable --minutes 10"
	@exec $(BIN)/python -m tools.fuzz $(ARGS)

# Schemathesis over the served OpenAPI, in front of fake nodes.
fuzz-api: setup ## Send what the OpenAPI allows and forbids, for long; options as ARGS="--seconds 1200 --seed 7 --role reader"
	@exec $(BIN)/python -m tools.api $(ARGS)

generator-tools: setup ## Install what makes a client of the OpenAPI in a test; without it that test is skipped
	@$(BIN)/python tools/generator_tools.py

H2SPEC := github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible
stream-tools: setup ## Build h2spec, which tests the own streams' HTTP/2; needs Go, and without it that test is skipped
	GOBIN="$(CURDIR)/.venv/.h2spec" GOFLAGS=-mod=mod go install $(H2SPEC)

browser-tools: setup ## Install what drives a browser in the tests; nothing else needs it
	@$(BIN)/python tools/bench_tools.py browser

fuzz-tools: setup ## Install atheris, where it has a wheel; nothing else needs it
	@$(BIN)/python tools/bench_tools.py fuzz

bench-stall: bench-tools ## Flushes and compactions under full write load, against none; a plot in out/stall.png
	$(BIN)/python bench/stall.py $(ARGS)

bench-replay: setup ## How long a node takes to open with 64 MiB of log to replay; options as ARGS="--nodes 5"
	$(BIN)/python bench/replay.py $(ARGS)

bench-tools: setup ## Install what the benchmarks compare with; nothing else needs it
	@$(BIN)/python tools/bench_tools.py

chart: chart-tools ## Generate what is made from the Helm chart: its README, deploy/k8s
	$(BIN)/python -m tools.helm_chart

chart-check: setup ## Check that these are what the chart gives
	$(BIN)/python -m tools.helm_chart --check

chart-tools: setup ## Install helm and the linters that the chart's tests use; without them those are skipped
	$(BIN)/python tools/helm_tools.py

chart-package: chart-tools ## The chart as a package in dist/, with its checksum
	$(BIN)/python -m tools.release --chart-only

version: setup ## The one version of all parts, or another one for all of them: make version TO=0.2.0
	$(BIN)/python -m tools.version $(TO)
	$(if $(TO),$(MAKE) setup chart)

release: chart-tools ## Wheels, images, chart, SBOM, notes and checksums in dist/; nothing is published
	$(BIN)/python -m tools.release $(ARGS)

images: ## Build the images of both services, with podman or docker
	sh tools/images.sh

base-image: ## A stand-in for the official Python image, where no registry of images is reached
	sh tools/containers/base.sh

kube-up: chart-tools ## DougDB in a real Kubernetes of one node, without Docker: build (18 minutes, once), install, put and get
	$(BIN)/python -m tools.kubernetes install
	@echo 'Use it with:  $(BIN)/python -m tools.kubernetes exec kubectl -n dougdb get pods'

kube-down: setup ## End that cluster and remove all of it, its claims too; what was built stays
	$(BIN)/python -m tools.kubernetes down

kind-up: ## DougDB in a kind cluster on this machine: build, load, install, put and get
	sh tools/kubernetes.sh kind-up

kind-down: ## Delete that cluster, its claims too
	sh tools/kubernetes.sh kind-down

minikube-up: ## The same in minikube
	sh tools/kubernetes.sh minikube-up

clean: ## Remove caches and build results; .venv and data stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build out
	find . -name __pycache__ -type d -not -path './.venv/*' -not -path './data/*' -prune -exec rm -rf {} +
