# Every command of the house; `make` alone lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test faults lint proto bench load clean

VENV := .venv
VENV_DEMO := .venv-demo
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	echo $$python; break; fi; done)

TORCH := torch==2.13.0
PIP_INSTALL := -m pip install -qq --disable-pip-version-check --constraint constraints.txt
SOURCES := $(shell find src server clients training export evaluation loadtest -name '*.py' -o -name '*.proto')
BENCHMARKS := simulation engine physics

define new_venv
@$(if $(PYTHON),,echo "Python 3.11 or newer is needed: put it on PATH or say make PYTHON=..."; exit 1)
@echo "Installing into $(1) ..."
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
endef

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# torch goes first, by itself, so that the CPU build of a local index is taken where there is one.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(call new_venv,$(VENV))
	@$(VENV)/bin/python $(PIP_INSTALL) $(TORCH)
	@$(VENV)/bin/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@

# Not editable: the demonstration runs what a user installs.
$(VENV_DEMO)/.installed: pyproject.toml constraints.txt $(SOURCES)
	$(call new_venv,$(VENV_DEMO))
	@$(VENV_DEMO)/bin/python $(PIP_INSTALL) '.[server,client]'
	@touch $@

demo: $(VENV_DEMO)/.installed ## Reconstruct the sample events through a server and draw one
	@demo/run.sh $(VENV_DEMO)

test: lint ## Check style, types and imports, then run all tests
	$(VENV)/bin/python -m pytest

faults: $(VENV)/.installed ## Run the long fault injections, which `make test` leaves out
	$(VENV)/bin/python -m pytest -m faults

lint: $(VENV)/.installed ## Check style, types and imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

proto: $(VENV)/.installed ## Generate the wire code anew from the .proto files
	$(VENV)/bin/python -m grpc_tools.protoc --proto_path=src --python_out=src --pyi_out=src \
		--grpc_python_out=src src/xec/wire/v1/*.proto

bench: $(VENV)/.installed ## Measure what README's figures say
	@set -e; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(VENV)/bin/python benchmarks/$$name.py; done

load: $(VENV)/.installed ## Measure latency against offered load (embedded engine and Triton)
	@mkdir -p load-output
	$(VENV)/bin/python loadtest/openloop.py --out load-output/load.png --json load-output/load.json

clean: ## Remove environments, caches and outputs
	rm -rf $(VENV) $(VENV_DEMO) demo-output load-output dist build
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src server clients training export evaluation loadtest tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
