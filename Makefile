# The whole interface for developers; CI runs the same targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ENGINE ?= docker
BASE ?=
REGISTRY ?=
CLUSTER ?= crannog
NODES ?= 2

.PHONY: dev demo images test lint format bench clean help \
	charts cluster cluster-down test-cluster bench-cluster
help:  ## what there is
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml uv.lock tools/setup.sh
	@PYTHON="$(PYTHON)" sh tools/setup.sh "$(VENV)"
	@touch $(STAMP)

dev: $(STAMP)  ## set up everything in .venv, from the lock file

demo: $(STAMP)  ## the tutorial as local processes, with three refusals; checks every reply
	@$(BIN)/python -m examples.demo

images: $(STAMP)  ## the container images, with ENGINE=docker or podman, from BASE=IMAGE
	@$(BIN)/python -m images.build --engine $(ENGINE) $(if $(BASE),--base $(BASE))

charts: $(STAMP)  ## a Helm repository in build/charts, for images in REGISTRY=registry/prefix
	@$(BIN)/python -m tools.charts $(if $(REGISTRY),--registry "$(REGISTRY)")

test: $(STAMP)  ## every test this machine can run; ends with what was skipped and why
	@$(BIN)/python -m pytest

lint: $(STAMP)  ## ruff, mypy strict, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## rewrite the sources in the house's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(STAMP)  ## measure; a table, and JSON in bench/out
	@$(BIN)/python -m bench

cluster: $(STAMP)  ## a Kubernetes cluster on this machine, as root: CLUSTER=name NODES=2
	@$(BIN)/python -m tests.cluster.local --name "$(CLUSTER)" up --nodes "$(NODES)"

cluster-down: $(STAMP)  ## remove every trace of it
	@$(BIN)/python -m tests.cluster.local --name "$(CLUSTER)" down

test-cluster: $(STAMP)  ## the cluster tests: on KUBECONFIG's cluster, or one made for them
	@$(BIN)/python -m pytest tests/cluster

bench-cluster: $(STAMP)  ## from kubectl create to the first reply, with the images of `make images`
	@$(BIN)/python -m bench cluster

clean:  ## remove what was set up
	rm -rf $(VENV) bench/out build
