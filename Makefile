# The two commands: `make book` and `make test`. Each makes .venv first, if need be.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin

.PHONY: book test soak bench gpu lint clean system

book: .venv/installed system
	$(BIN)/python -m pi_lib assets
	$(BIN)/python -m pi_lib run --profile quick --jobs 2
	$(BIN)/python -m pi_lib build

test: .venv/installed system
	$(BIN)/python -m pi_lib assets
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The long forms: hundreds of interruptions, every byte flipped, 1,000 examples a property.
soak: .venv/installed system
	$(BIN)/python -m pi_lib assets
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -m soak -n 2 --dist loadfile

bench: .venv/installed
	$(BIN)/python -m benchmarks

# On a machine with a GPU: whether its values are right, and what they cost. Under four minutes.
gpu: .venv/installed
	$(BIN)/python -m benchmarks gpu

lint: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	$(BIN)/python -m pi_lib clean

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 13), "pi_lib needs Python 3.11 or 3.12, this is " + sys.version.split()[0] + ": make PYTHON=..."'
	@echo "Installing the pinned packages into .venv: a few minutes, some 6 GB"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# Debian's packages: a browser for the tests, and Fashion-MNIST (elsewhere torchvision fetches it).
system:
	@for package in chromium dataset-fashion-mnist; do \
	  dpkg -s $$package >/dev/null 2>&1 && continue; \
	  [ $$package = chromium ] && command -v chromium >/dev/null && continue; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing $$package"; \
	    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes $$package; } \
	      >/dev/null 2>&1 || echo "$$package could not be installed: apt-get install $$package"; \
	  else echo "Not installed here: apt-get install $$package (as root)"; fi; \
	done
