# vsrpc's tasks. `make demo` and `make test` set up what they need themselves, on a fresh Debian or Ubuntu machine.
SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest
# Two processes, each with a VM of its own (tests/conftest.py).
PARALLEL := -n 2 --dist loadgroup
VM := 0
SECONDS := 60
N := 1000
PLACE := sim
BENCH_OPTIONS = $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
        $(if $(JSON),--json $(JSON))

.DEFAULT_GOAL := help
.PHONY: help setup setup-run setup-peers setup-fuzz docs proto lint format types layers generated unit check test e2e \
        matrix peers conformance fuzz soak bench bench-local demo vm vm-stop vm-test dist clean

help: ## Describe every target
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup-run ## Show the main job on an embedded local guest; VM=1: on a real VM
	@VM=$(VM) PYTHON=$(PY) sh scripts/demo.sh

test: setup setup-peers lint types layers generated ## Set everything up and pass the whole test suite, real VM included
	VSRPC_REQUIRE_VM=1 VSRPC_REQUIRE_PEERS=1 $(PYTEST) $(PARALLEL) --no-skips tests

check: setup lint types layers unit ## The quick loop: lint, types, layers, unit tests

setup-run: ## Make .venv with what running vsrpc needs
	@sh scripts/setup.sh run

setup: ## Make .venv with the development tools too
	@sh scripts/setup.sh dev

setup-peers: setup ## Get the programs of other projects that tests use: curl, Go, Node.js, zsh …
	@sh scripts/setup.sh peers

setup-fuzz: setup ## Get what fuzzing needs: atheris
	@sh scripts/setup.sh fuzz

docs: setup ## Write docs/cli.md, in all languages, from the parsers
	@$(PY) scripts/cli_docs.py --pages

proto: setup ## Generate the code of the schema into vsrpc/v1
	$(PY) scripts/generate.py

lint: setup ## Lint and check the format of all code
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/shellcheck scripts/*.sh scripts/check-generated .ci/run

format: setup ## Format all code and mend what lint can mend
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: setup ## Check types (mypy strict)
	$(VENV)/bin/mypy

layers: setup ## Check that each layer imports only those below it
	$(VENV)/bin/lint-imports --no-cache

generated: setup ## Check that generated code is fresh, and the schema linted, formatted and unbroken
	PYTHON=$(PY) sh scripts/check-generated

unit: setup ## Unit tests: no guest, no other projects' programs, nothing slow
	$(PYTEST) $(PARALLEL) -m "not vm and not peers and not slow" --ignore tests/e2e tests

e2e: setup ## End-to-end tests on an embedded local guest
	$(PYTEST) -m "not vm" tests/e2e

matrix: setup ## Load and use the generated code on every Python and protobuf that can be had
	$(PYTEST) $(PARALLEL) tests/matrix

peers: setup-peers ## Official Connect clients, the conformance suite, curl: on a local guest
	$(PYTEST) -m "peers and not vm" tests

fuzz: setup-fuzz ## Fuzz the HTTP parser for a minute, or SECONDS=N; REPLAY=FILE: show a finding again
	@$(PY) tests/fuzz/fuzz_wire.py $(if $(REPLAY),--replay $(REPLAY),--seconds $(SECONDS))

soak: setup ## Break the link N times at a simulated port (PLACE=vm: at a VM's) and report what came of it; SEED=… KINDS=…
	@$(PY) tests/faults/soak.py --place $(PLACE) --cycles $(N) $(if $(SEED),--seed $(SEED)) $(if $(KINDS),--kinds $(KINDS))

bench: setup ## Compare with a raw port, qemu-ga and ssh on a VM; QUICK=1: small files; ONLY=latency,…; ROUNDS=N
	@$(PY) scripts/bench $(BENCH_OPTIONS)

bench-local: setup ## The same over local:, where only the runtime costs; QUICK=1, ONLY=…, ROUNDS=N
	@$(PY) scripts/bench --local $(BENCH_OPTIONS)

vm: setup-run ## Build (once) and boot a real Debian guest under QEMU; print the port's socket
	$(PY) scripts/vm start --wait-daemon

vm-stop: ## Stop the VM that `make vm` started
	$(PY) scripts/vm stop

vm-test: setup setup-peers ## End-to-end tests on the real VM
	VSRPC_REQUIRE_VM=1 $(PYTEST) -m vm tests

dist: setup ## Build what is given to users into dist/; ONLY=bundle: the guest bundle, which needs no network in the guest
	$(PY) scripts/dist $(ONLY)

clean: ## Remove what was built here (not the cached VM image)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
