# Targets for a fresh clone; `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types benchmark

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is newer than pyproject.toml once everything it names is installed.
$(VENV)/installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing gan-lab and what it needs into $(VENV) (PyTorch is large: a few minutes)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

setup: $(VENV)/installed  ## create .venv and install the project into it

demo: setup  ## train BSSN on handwritten digits and judge the generator (4 minutes on two cores)
	$(BIN)/python train.py norm=bssn

test: setup lint types  ## ruff, the type checker and every test
	$(BIN)/python -m pytest -n 2

lint: setup  ## ruff: style and common mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## mypy: the type checker
	$(BIN)/mypy

benchmark: setup  ## measure this machine; writes outputs/benchmark.json
	$(BIN)/python scripts/benchmark.py
