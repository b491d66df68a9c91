# Targets for a fresh clone; `make help` lists them.
PYTHON ?= python3
EXTRAS ?= dev
# Each Python but the default one has an environment of its own: `make check PYTHON=python3.13`.
VENV   := .venv
ifneq ($(PYTHON),python3)
VENV   := .venv-$(or $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'),$(error \
            PYTHON=$(PYTHON) does not start: name another one))
endif
BIN    := $(VENV)/bin
# The stamp is newer than pyproject.toml once everything that the extras name is installed.
STAMP   = $(VENV)/installed-$(EXTRAS)
# The quick tests are these folders and files, which compute and compare, less the files that train, differentiate
# numerically or wait for servers for long: with the checks of style and types about 2.5 minutes of CPU (`time make check`).
QUICK  := $(addprefix tests/,archs norms runs tracking packaging/test_commands.py \
            test_config.py test_layers.py test_losses.py test_penalties.py test_rng.py)
LONG   := $(addprefix tests/norms/,test_bounds.py test_ddp.py test_families.py test_in_training.py \
            test_library.py test_parametrization.py test_plain.py) \
          $(addprefix tests/tracking/,test_outages.py test_wandb.py test_wandb_agrees.py)

# For a machine that brings PyTorch itself: without an environment the Python at hand.
OWN_PYTHON = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

.DEFAULT_GOAL := help
.PHONY: help setup demo check test gpu lint types benchmark

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing gan-lab and what it needs into $(VENV) (PyTorch is large: a few minutes)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

setup: $(STAMP)  ## create .venv and install the project into it; EXTRAS=sweeps,report: not all of dev

demo: setup  ## train BSSN on handwritten digits and judge the generator (4 minutes on two cores)
	$(BIN)/python train.py norm=bssn

check: lint types  ## ruff, the type checker and the quick tests (under two minutes on two cores)
	$(BIN)/python -m pytest -q -n 2 $(QUICK) $(addprefix --ignore=,$(LONG))

test: lint types  ## ruff, the type checker and every test
	$(BIN)/python -m pytest -n 2

# The benchmark adds its rows to the file that the tests have written, whether all passed or not.
gpu: export PYTHONPATH := .:$(PYTHONPATH)
gpu:  ## what a GPU must show, and what only one can be timed by; writes outputs/gpu.json with the card's name
	@mkdir -p outputs
	$(OWN_PYTHON) -m pytest -q -m gpu tests/gpu --gpu-report outputs/gpu.json; tests=$$?; \
	  $(OWN_PYTHON) scripts/benchmark.py --gpu --out outputs/gpu.json && exit $$tests

lint: setup  ## ruff: style and common mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## mypy: the type checker
	$(BIN)/mypy

benchmark: setup  ## measure this machine; writes outputs/benchmark.json
	$(BIN)/python scripts/benchmark.py
