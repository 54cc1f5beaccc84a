# Two commands for a newcomer: `make demo` and `make test`. All else is in `make help`.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo up test-fast test test-deep chaos breakages mutants mutants-payments lint lock clean

ACCOUNTS ?= 500
FAULTS ?= 2000
SEED ?= 1
BIN := .venv/bin
# What says most in a minute: pure rules, the outcome table, everything about payments, and the documents.
FAST := tests/domain tests/gateway tests/payments tests/docs
# The first Python that is new enough; `make PYTHON=/path/to/python3.12 …` names another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

setup: .venv/.installed ## Make .venv with everything in it, from hash-locked requirements

.venv/.installed: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Duecourse needs Python 3.11 or newer: install it, or say make PYTHON=/path/to/it"; exit 1; }
	@echo "Installing into .venv (once; a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## Two virtual months of billing on real parts (ACCOUNTS=500)
	@$(BIN)/duecourse demo --accounts $(ACCOUNTS)

up: setup ## Everything of the Procfile, until Ctrl-C
	@$(BIN)/duecourse up

test-fast: setup ## Rules, payments and documents: below a minute on two quiet cores
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(FAST)

test: setup ## All tests, on real servers that start by themselves
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

test-deep: setup ## The model 2,000 times, thousands of races, every crash at every arrival (hours)
	@MODEL_PROFILE=deep $(BIN)/python -m pytest tests/model
	@RACE_ROUNDS=5000 $(BIN)/python -m pytest tests/races
	@$(BIN)/python -m tests.failpoints --every

breakages: setup ## Remove one guard after another: do the tests named for it go red?
	@$(BIN)/python -m tests.breakages

mutants: setup ## Mutation testing of shared/domain
	@rm -rf mutants && $(BIN)/mutmut run --max-children 2; $(BIN)/mutmut results

mutants-payments: setup ## Mutation testing of payments and the daily run, on a database (hours; MODULE=shared/payments/claim.py)
	@$(BIN)/python -m tests.mutation $(MODULE)

chaos: setup ## All processes while faults are injected, then check every charge (FAULTS=2000 SEED=1)
	@$(BIN)/duecourse chaos --faults $(FAULTS) --seed $(SEED)

lint: setup ## ruff, mypy strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

lock: setup ## Renew requirements.txt from pyproject.toml
	@$(BIN)/pip-compile --quiet --no-config --generate-hashes --allow-unsafe --strip-extras --all-extras --upgrade \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options --no-header \
		--output-file requirements.txt pyproject.toml

clean: ## Remove .venv and caches; data in .duecourse/ stays
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
