# make train, make test: each sets itself up first. Python 3.11 or newer; another one with PYTHON=python3.12.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
CORE := tests/diffusion tests/test_denoiser.py tests/sampling/test_stock_loops.py \
	tests/test_train.py::test_two_of_four_are_one_of_eight tests/test_train.py::test_what_a_run_leaves_behind

.DEFAULT_GOAL := help
.PHONY: help setup train test quick torture bench gpu prove lint format

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */  make \1|/' | column -t -s '|' 2>/dev/null \
		|| grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST)

setup: $(READY)  ## install into .venv, once

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make setup PYTHON=/path/to/python3.12"; exit 2; }
	@echo "installing into .venv (torch alone is about 2.5 GB to fetch; once)"
	@$(PYTHON) -m venv .venv \
		|| { echo "python's venv module is missing: on Debian and Ubuntu, apt install python3-venv"; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]" -c requirements.lock
	@touch $(READY)

train: setup  ## fine-tune the bundled insect model on synthetic butterflies (minutes on two cores)
	@$(BIN)/python train.py

test: setup  ## run the tests
	$(BIN)/python -m pytest

quick: setup  ## run the core tests: noise, denoiser, sampling compared with stock diffusers, a tiny training
	$(BIN)/python -m pytest -n 0 $(CORE)

prove: setup  ## train whole experiments and check their samples; compile (an hour on two cores)
	$(BIN)/python -m pytest -n 0 -m proof

torture: setup  ## interrupt and kill runs and give bad inputs, a few thousand times (a quarter of an hour on two cores)
	$(BIN)/python -m pytest -n 0 -s -o norecursedirs=.git tests/torture

bench: setup  ## measure speed on this CPU against a plain loop and diffusers' script, into benchmarks/results (seven to ten minutes)
	$(BIN)/python -m benchmarks.speed

gpu: setup  ## test and measure on an NVIDIA GPU, into benchmarks/results (nine minutes)
	$(BIN)/python -m benchmarks.gpu

lint: setup  ## check style, formatting, spelling, imports between packages, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	PYTHONPATH=src $(BIN)/lint-imports --no-logo
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python --output-format=min-text

format: setup  ## fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
