# make run      install, and run the smartwatch simulation
# make test     install what the tests need, lint, type-check, test
# make study    the slow studies
# make bench    the engine against Flower's, the kernels against ONNX Runtime
# make install  what simulations need, into .venv
# make lint     style and types
# make system   the Debian packages that tests use (a broker, a database, a cross-compiler)
# make clean    remove .venv and what was built
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install run test units system lint style types study bench clean

help:
	@sed -n 's/^# make /make /p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: Python 3.11 or newer is needed; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch first and by exact version: a range would pull gigabytes of CUDA packages. The kernels are
# built by what is in .venv: an isolated build has another path each time and compiles all again.
$(VENV)/.sim: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch==2.13.0
	$(PIP) scikit-build-core cmake ninja
	$(PIP) --no-build-isolation --editable '.[sim]'
	@touch $@

$(VENV)/.dev: $(VENV)/.sim
	$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

install: $(VENV)/.sim

run: install
	$(BIN)/flwr-sim run simulations/wearables.toml

lint: style types

style: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# Debian packages that the tests use: a broker, a database, a cross-compiler and an emulator for aarch64.
SYSTEM := g++-aarch64-linux-gnu mosquitto postgresql qemu-user-static

system:
	@.ci/system-packages $(SYSTEM)

test: style system
	@$(MAKE) --no-print-directory --jobs=2 types units

# Four processes on two cores, as many tests wait for others. Where PYTHONDONTWRITEBYTECODE is set,
# each process that a test starts would compile all of our sources once more.
units: export PYTHONDONTWRITEBYTECODE =
units: $(VENV)/.dev
	$(BIN)/pytest -m 'not study' -n 4 --dist loadscope --no-loadscope-reorder

study: $(VENV)/.dev
	$(BIN)/pytest -m study

bench: $(VENV)/.dev
	$(BIN)/flwr-sim bench
	$(BIN)/flwr-edge bench kernels

clean:
	rm -rf $(VENV) build dist *.egg-info
